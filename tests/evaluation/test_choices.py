"""Likelihoods of given choices."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightreasoner.errors import ModelError
from lightreasoner.evaluation.choices import score_choices
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.runs.records import ChoiceProblem, ScoredChoices
from lightreasoner.runs.stage import read_stage

from .helpers import config_for


def write_choices(folder: Path) -> Path:
    rows = [
        {
            "question": f"Why number {number}?",
            "choices": {"label": ["A", "B", "C"], "text": [f"It is {number}.", "So.", "Nobody knows why it is so."]},
            "answerKey": "ABC"[number % 3],
        }
        for number in range(9)
    ]
    for name, split in (("arc_challenge", "test"), ("commonsense_qa", "validation")):
        (folder / name).mkdir()
        (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_choices_are_scored_one_by_one_as_together(random_expert: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "benchmarks": ("arc_challenge", "commonsense_qa"), "data_dir": write_choices(tmp_path), "max_items": None,
    }  # fmt: skip
    result = evaluate(config_for(tmp_path / "out", str(random_expert), answer_batch_size=4, **settings))
    model = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(random_expert)
    for name, metric in (("arc_challenge", "acc_norm"), ("commonsense_qa", "acc")):
        _, stage = read_stage(tmp_path / "out/likelihood" / name / "choices")
        rows = [row for table in stage.tables("choices") for row in ScoredChoices.rows(table)]
        assert len(rows) == 9
        for row in rows:
            for choice, logprob in zip(row.choices, row.logprobs, strict=True):
                start = len(tokenizer(row.context)["input_ids"])
                ids = torch.tensor([tokenizer(f"{row.context} {choice}")["input_ids"]])
                with torch.inference_mode():
                    logprobs = model(ids).logits[0].double().log_softmax(-1)
                expected = sum(float(logprobs[at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))
                assert logprob == pytest.approx(expected, abs=1e-4)
        figures = result[f"likelihood/{name}"]
        for kind in ("acc", "acc_norm"):
            assert figures[kind] == sum(row.is_right(kind) for row in rows) / 9
        assert (figures["metric"], figures["accuracy"], figures["total"]) == (metric, figures[metric], 9)


@pytest.mark.parametrize("special", ["$A <|im_end|>", "<|endoftext|> $A", "<|endoftext|> $A <|im_end|>"])
def test_a_token_that_the_tokenizer_adds_at_the_end_is_not_scored(random_expert: Path, special: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    plain, adding = (AutoTokenizer.from_pretrained(random_expert) for _ in range(2))
    names = [name for name in ("<|endoftext|>", "<|im_end|>") if name in special]
    ids = plain.convert_tokens_to_ids(names)
    adding.backend_tokenizer.post_processor = TemplateProcessing(special, None, list(zip(names, ids, strict=True)))
    assert len(adding("a b")["input_ids"]) == len(plain("a b")["input_ids"]) + len(names)
    first = [plain.convert_tokens_to_ids("<|endoftext|>")] if special.startswith("<") else []
    items = [ChoiceProblem(str(n), f"Question {n}?\nAnswer:", ["A", "42", "Nobody knows."], 0) for n in range(2)]
    for item, scored in zip(items, score_choices(model, adding, items), strict=True):
        for choice, logprob in zip(item.choices, scored.logprobs, strict=True):
            start = len(first) + len(plain(item.context)["input_ids"])
            text = torch.tensor([first + plain(f"{item.context} {choice}")["input_ids"]])
            with torch.inference_mode():
                logprobs = model(text).logits[0].double().log_softmax(-1)
            expected = sum(float(logprobs[at - 1, text[0, at]]) for at in range(start, text.shape[1]))
            assert logprob == pytest.approx(expected, abs=1e-4)


def test_a_model_whose_choices_are_all_nan_is_refused(random_expert: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    model.model.norm.weight.data[:] = 3e38  # finite, as the loader asks; the hidden states are not
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(random_expert).save_pretrained(tmp_path / "model")
    settings: dict[str, Any] = {"benchmarks": ("arc_challenge", "commonsense_qa"), "data_dir": write_choices(tmp_path)}
    with pytest.raises(ModelError, match="all choices of 9 of 9 items are NaN or infinite.*Try --dtype float32"):
        evaluate(config_for(tmp_path / "out", str(tmp_path / "model"), **settings))
    assert not (tmp_path / "out/likelihood/arc_challenge/choices/result.json").exists()


@pytest.mark.parametrize(
    "broken", [[math.nan] * 3, [math.nan, -1.0, -2.0], [-2.0, -1.0, math.nan], [-1.0, math.nan, -2.0]]
)
@pytest.mark.parametrize("gold", [0, 1, 2])
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_no_choice_is_right_beside_nan(broken: list[float], gold: int, metric: str) -> None:
    assert not ScoredChoices("q", "c", ["a", "b", "c"], gold, broken).is_right(metric)


def test_an_impossible_choice_is_only_the_least_likely() -> None:
    assert ScoredChoices("q", "c", ["a", "b"], 1, [-math.inf, -9.0]).is_right("acc")


def test_the_likeliest_choice_counts_as_it_is_or_per_character() -> None:
    row = ScoredChoices("q", "c", ["ab", "abcdefgh"], 1, [-3.0, -4.0])
    assert (row.is_right("acc"), row.is_right("acc_norm")) == (False, True)
    assert ScoredChoices("q", "c", ["a", "b"], 0, [-1.0, -1.0]).is_right("acc")
