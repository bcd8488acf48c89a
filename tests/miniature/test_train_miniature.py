"""The bundled models: small, with one vocabulary, and reproducible with their training script."""

import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import pytest
import torch
from train_miniature import AMATEUR_CORPUS, EXPERT_CORPUS, SETS, batches, initial_model
from transformers import PreTrainedTokenizerFast

from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import ModelError
from lightreasoner.miniature import BUNDLED, MODELS, model_path
from lightreasoner.miniature.word_problems import word_problems
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, share_vocabulary


@pytest.mark.parametrize("name", BUNDLED)
def test_each_model_is_small_and_shares_the_tokenizer_of_the_script(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = model_path(name)
    assert (folder / "model.safetensors").stat().st_size < 3 * 2**20
    source = find_model(name)
    assert source.folder == folder
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    share_vocabulary(load_tokenizer(source), tokenizer, (logit_width(model), len(tokenizer)))
    assert load_tokenizer(source).chat_template == tokenizer.chat_template


def test_the_second_set_is_no_larger_than_the_first_and_each_set_is_what_its_plans_make() -> None:
    sizes = {
        name: sum(
            (model_path(one) / "model.safetensors").stat().st_size for one in BUNDLED if one.startswith(f"{name}/")
        )
        for name in SETS
    }
    assert 0 < sizes["miniature2"] <= sizes["miniature"]
    assert set(BUNDLED) == {f"{name}/{model}" for name, models in SETS.items() for model in models.plans}


def test_a_name_without_a_set_means_the_first_set_and_unknown_models_are_named() -> None:
    assert [model_path(name) for name in MODELS] == [model_path(f"miniature/{name}") for name in MODELS]
    assert model_path("miniature2/expert") != model_path("expert")
    for name in ("small2", "miniature2/small", "miniature3/expert"):
        with pytest.raises(KeyError):
            model_path(name)
    with pytest.raises(
        ModelError, match="no model miniature2/small: the bundled ones are miniature/base, .*miniature2/"
    ):
        find_model("miniature2/small")


def test_every_digit_is_a_separate_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("12+345=357")["input_ids"]) == list("12+345=357")


def test_the_expert_corpus_has_more_worked_solutions(tokenizer: PreTrainedTokenizerFast) -> None:
    problems = word_problems("train", seed=5)
    texts = [next(problems) for _ in range(2000)]
    shares = [
        sum("=" in corpus.solution(problem, random.Random(index)) for index, problem in enumerate(texts)) / len(texts)
        for corpus in (AMATEUR_CORPUS, EXPERT_CORPUS)
    ]
    assert shares[0] == pytest.approx(0.04, abs=0.02)
    assert shares[1] == pytest.approx(0.55, abs=0.04)


def test_the_loss_covers_only_the_solution(tokenizer: PreTrainedTokenizerFast) -> None:
    input_ids, is_response = next(batches(SETS["miniature"].plans["expert"], tokenizer))
    for ids, mask in zip(input_ids[:8], is_response[:8], strict=True):
        solution = tokenizer.decode(ids[mask])
        assert solution.endswith("}<|im_end|>")
        assert "assistant" not in solution
        prompt = tokenizer.decode(ids[: int(mask.nonzero()[0])])
        assert prompt.endswith("<|im_start|>assistant\n")


def test_sorting_by_the_prompt_mixes_worked_and_answer_only_solutions(tokenizer: PreTrainedTokenizerFast) -> None:
    def spread(sort_by: Literal["text", "prompt"]) -> float:
        """Largest minus smallest share of answer-only solutions in eight batches."""
        plan = replace(SETS["miniature"].plans["expert"], sort_by=sort_by, problems_per_step=32)
        found = [
            (is_response.sum(1) < 10).float().mean().item() for _, is_response in islice(batches(plan, tokenizer), 8)
        ]
        return max(found) - min(found)

    assert spread("text") > 0.8
    assert spread("prompt") < 0.5


@pytest.mark.parametrize("name", SETS)
def test_training_starts_at_the_logged_loss(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    log = json.loads(Path(model_path(f"{name}/base") / "training_log.json").read_text())
    plan = SETS[name].plans["base"]
    torch.manual_seed(plan.seed)
    model = initial_model(plan, tokenizer, Path())
    input_ids, is_response = next(batches(plan, tokenizer))
    with torch.inference_mode():
        logits = model(input_ids).logits[:, :-1][is_response[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, input_ids[:, 1:][is_response[:, 1:]]).item()
    assert loss == pytest.approx(log[0]["loss"], abs=1e-3)
