"""Answers: equal in any batch, stored with the reason of their end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from lightreasoner.data.benchmarks import load_benchmark
from lightreasoner.errors import ModelError
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference import engines
from lightreasoner.inference.generation import Decoding, Generation, until_stop
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.models.source import find_model

from .helpers import answers, config_for


def test_batches_of_one_and_of_sixteen_give_the_same_answers(tmp_path: Path) -> None:
    for size in (1, 16):
        evaluate(config_for(tmp_path / str(size), answer_batch_size=size, max_items=20, prompts="both"))
    for key in ("chat/arithmetic", "plain/arithmetic"):
        one, many = answers(tmp_path / "1", key), answers(tmp_path / "16", key)
        assert one.keys() == many.keys()
        assert [one[item].output_ids for item in one] == [many[item].output_ids for item in one]


@pytest.mark.slow
def test_a_real_small_model_answers_alone_as_in_a_batch(smollm2_gguf: Path, data_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "benchmarks": ("gsm8k",),
        "data_dir": data_dir,
        "max_items": 16,
        "max_answer_tokens": 48,
    }
    for size in (1, 16):
        evaluate(config_for(tmp_path / str(size), str(smollm2_gguf), answer_batch_size=size, **settings))
    one, many = (answers(tmp_path / size, "chat/gsm8k") for size in ("1", "16"))
    assert [one[item].output_ids for item in one] == [many[item].output_ids for item in one]


def test_every_answer_is_stored_with_its_question_and_reason_of_its_end(expert: Path) -> None:
    rows = answers(expert)
    items = {item.id: item for item in load_benchmark("arithmetic", limit=60, data_dir=None)}
    tokenizer = AutoTokenizer.from_pretrained(find_model("miniature/expert").folder)
    assert {item for item, _ in rows} == items.keys()
    for (item, sample), row in rows.items():
        assert (sample, row.benchmark) == (0, "arithmetic")
        assert (row.question, row.gold) == (items[item].question, items[item].answer)
        assert items[item].question in tokenizer.decode(row.prompt_ids)
        assert row.output == tokenizer.decode(row.output_ids, skip_special_tokens=True)
        assert row.finish == (
            "stop" if row.output_ids[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>") else "length"
        )


def test_a_plain_prompt_is_equation_37_and_has_no_cue(expert: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(find_model("miniature/expert").folder)
    for row in answers(expert, "plain/arithmetic").values():
        assert tokenizer.decode(row.prompt_ids) == f"Question: {row.question}\nAnswer:"


def test_an_answer_is_cut_at_a_stop_string_and_ends_there(expert: Path, tmp_path: Path) -> None:
    evaluate(config_for(tmp_path, stop_strings=("=",)))
    free = answers(expert)
    cut = 0
    for key, row in answers(tmp_path).items():
        assert row.output == free[key].output.partition("=")[0]
        assert row.output_ids == free[key].output_ids[: len(row.output_ids)]
        if "=" in free[key].output:
            cut += 1
            assert row.finish == "stop"
    assert cut > 5


def test_an_invented_next_question_of_a_model_without_a_chat_template_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(find_model("miniature/expert").folder, model, ignore=shutil.ignore_patterns("*.jinja"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    items = load_benchmark("arithmetic", limit=3, data_dir=None)
    gaps = ("\n\n", "\n\n\n", "\n \n")

    def invented(self: PackedEngine, prompts: list[list[int]], decoding: Decoding) -> Generation:
        texts = [
            f"So \\boxed{{{next(item for item in items if item.question in tokenizer.decode(ids)).answer}}}."
            f"{gap}Question: What is 1?\nAnswer: \\boxed{{1}}<|im_end|>"
            for ids, gap in zip(prompts, gaps, strict=True)
        ]
        return Generation([until_stop(tokenizer(text)["input_ids"], decoding, tokenizer) for text in texts])

    monkeypatch.setattr(PackedEngine, "generate", invented)
    result = evaluate(config_for(tmp_path / "out", str(model), max_items=3, prompts="both"))
    for key in ("chat/arithmetic", "plain/arithmetic"):
        assert result[key]["correct"] == 3
        assert {row.finish for row in answers(tmp_path / "out", key).values()} == {"stop"}
        assert not any("Question" in row.output for row in answers(tmp_path / "out", key).values())


@pytest.mark.parametrize("engine", [PaddedEngine, PackedEngine])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "samples_per_problem": 2}])
def test_answers_from_nan_are_an_error_and_not_an_accuracy_of_zero(
    engine: Any, settings: dict[str, Any], random_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    model.model.norm.weight.data[:] = 3e38  # finite, as the loader asks; the hidden states are not
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(random_expert).save_pretrained(tmp_path / "model")
    monkeypatch.setattr(engines, "engine_for", engine)
    with pytest.raises(ModelError, match="answers of a batch have NaN or infinite logits"):
        evaluate(config_for(tmp_path / "out", str(tmp_path / "model"), max_items=4, max_answer_tokens=8, **settings))
    assert not (tmp_path / "out/chat/arithmetic/answers/result.json").exists()


@pytest.mark.parametrize("kind", [PaddedEngine, PackedEngine])
def test_no_setting_that_comes_with_a_model_changes_its_answers(random_expert: Path, kind: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    prompts, decoding = [[5, 6, 7], [9, 10, 11, 12]], Decoding(12, ())
    before = kind(model).generate(prompts, decoding).responses
    own = {
        "repetition_penalty": 5.0,
        "eos_token_id": before[0][3],
        "do_sample": True,
        "temperature": 3.0,
        "min_length": 9,
    }
    model.generation_config = GenerationConfig(**own, suppress_tokens=[before[0][1]])
    assert kind(model).generate(prompts, decoding).responses == before
    assert {len(ids) for ids in before} == {12}
    assert model.generation_config.repetition_penalty == 5.0, "merging saves them"


@pytest.mark.parametrize("kind", [PaddedEngine, PackedEngine])
def test_the_engine_ends_a_response_with_the_token_that_completes_a_stop_string(
    tokenizer: PreTrainedTokenizerFast, random_expert: Path, kind: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    engine = kind(model, tokenizer)
    prompts = [[5, 6, 7], [9, 10, 11, 12]]
    free = engine.generate(prompts, Decoding(24, ())).responses
    word = tokenizer.decode(free[0][7:9])
    found = engine.generate(prompts, Decoding(24, (), stop_strings=(word,))).responses
    for ids, all_ids in zip(found, free, strict=True):
        assert ids == all_ids[: len(ids)]
        assert (word in tokenizer.decode(ids)) == (word in tokenizer.decode(all_ids))
        assert word not in tokenizer.decode(ids[:-1])
    assert len(found[0]) <= 9


def test_a_prompt_that_fills_the_context_gives_an_item_without_an_answer(random_expert: Path, tmp_path: Path) -> None:
    rows = [{"question": "Why? " * times, "answer": "#### 1"} for times in (1, 40, 400)]
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"benchmarks": ("gsm8k",), "data_dir": tmp_path, "max_answer_tokens": 400}
    result = evaluate(config_for(tmp_path / "out", str(random_expert), **settings))["chat/gsm8k"]
    assert (result["prompt_too_long"], result["no_answer"] >= 1, result["total"]) == (1, True, 3)
    short, middle, long = sorted(answers(tmp_path / "out", "chat/gsm8k").values(), key=lambda row: len(row.prompt_ids))
    assert (long.finish, long.output_ids, long.output) == ("prompt_too_long", [], "")
    assert len(middle.prompt_ids) + len(middle.output_ids) <= 512 < len(long.prompt_ids)
    assert len(short.output_ids) <= 400
