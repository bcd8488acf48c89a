"""Stage 4: the same answers whatever the batches, and figures that follow from the rows."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lightreasoner.config import EvaluateConfig
from lightreasoner.data.benchmarks import PAPER_SET, load_benchmark
from lightreasoner.errors import ConfigError, DataError, RunMismatch
from lightreasoner.evaluation import answering, judging
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.evaluation.statistics import majority, pass_at_k
from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.verdicts import VERDICTS
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.models.loading import find_model
from lightreasoner.runs.records import Answer, JudgedAnswer, ScoredChoices
from lightreasoner.runs.stage import read_stage


def config_for(out: Path, model: str = "miniature/expert", **settings: object) -> EvaluateConfig:
    common = {"benchmarks": ("arithmetic",), "max_items": 60, "max_answer_tokens": 64, "dtype": "float32"}
    return EvaluateConfig(model=model, out=out, **{**common, **settings})  # type: ignore[arg-type]


def answers(out: Path, key: str = "chat/arithmetic") -> dict[tuple[str, int], Answer]:
    _, stage = read_stage(out / key / "answers")
    rows = (row for table in stage.tables("answers") for row in Answer.rows(table))
    return {(row.question_id, row.sample): row for row in rows}


def verdicts(
    out: Path, key: str = "chat/arithmetic", judge: str = "math-verify"
) -> dict[tuple[str, int], JudgedAnswer]:
    _, stage = read_stage(out / key / judge)
    rows = (row for table in stage.tables("verdicts") for row in JudgedAnswer.rows(table))
    return {(row.question_id, row.sample): row for row in rows}


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature expert on sixty questions, under both prompts."""
    out = tmp_path_factory.mktemp("evaluation") / "expert"
    evaluate(config_for(out, prompts="both"))
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature base on the same questions, under the chat prompt."""
    out = tmp_path_factory.mktemp("evaluation") / "base"
    evaluate(config_for(out, model="miniature/base"))
    return out


# --- Answers ---


def test_batches_of_one_and_of_sixteen_give_the_same_answers(tmp_path: Path) -> None:
    for size in (1, 16):
        evaluate(config_for(tmp_path / str(size), answer_batch_size=size, max_items=30, prompts="both"))
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


def test_every_answer_is_stored_with_what_was_asked_and_why_it_ended(expert: Path) -> None:
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


def test_a_prompt_that_leaves_no_room_is_an_item_without_an_answer(random_expert: Path, tmp_path: Path) -> None:
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


# --- Figures ---


def test_figures_follow_from_the_rows(expert: Path) -> None:
    result = json.loads((expert / "chat/arithmetic/math-verify/result.json").read_text())["result"]
    rows, judged = answers(expert), verdicts(expert)
    assert rows.keys() == judged.keys()
    for key, row in rows.items():
        found = judge(row.output, row.gold, "number")
        assert (found.extracted, found.canonical, found.verdict) == (
            judged[key].extracted, judged[key].canonical, judged[key].verdict,
        )  # fmt: skip
    correct = sum(row.verdict == "correct" for row in judged.values())
    assert 0 < correct < 60
    interval = binomtest(correct, 60).proportion_ci(method="wilson")
    assert sum(result[verdict] for verdict in VERDICTS) == result["total"] == 60
    assert result["tokens"] == sum(len(row.output_ids) for row in rows.values())
    assert (result["accuracy"], result["low"], result["high"]) == (correct / 60, interval.low, interval.high)


def test_several_samples_give_pass_at_k_and_majority_votes(tmp_path: Path) -> None:
    config = config_for(tmp_path, max_items=20, samples_per_problem=6, temperature=1.0, answer_batch_size=16)
    result = evaluate(config)["chat/arithmetic"]
    judged = verdicts(tmp_path)
    assert len(judged) == 120
    items: dict[str, list[JudgedAnswer]] = {}
    for (item, _), row in sorted(judged.items()):
        items.setdefault(item, []).append(row)
    assert any(len({row.canonical for row in rows}) > 1 for rows in items.values())  # samples are drawn apart
    correct = [sum(row.verdict == "correct" for row in rows) for rows in items.values()]
    assert result["accuracy"] == pytest.approx(sum(correct) / 120)
    assert result["low"] <= result["accuracy"] <= result["high"]
    for k in (1, 2, 4, 6):
        assert result["pass_at"][str(k)] == pytest.approx(sum(pass_at_k(count, 6, k) for count in correct) / 20)
    chosen = [(rows, majority([row.canonical for row in rows])) for rows in items.values()]
    won = sum(place is not None and rows[place].verdict == "correct" for rows, place in chosen)
    assert result["majority"] == pytest.approx(won / 20)

    again = config_for(
        tmp_path / "again", **config.model_dump(include={"max_items", "samples_per_problem", "temperature"})
    )
    evaluate(again.model_copy(update={"answer_batch_size": 16}))
    assert [row.output_ids for row in answers(tmp_path / "again").values()] == [
        row.output_ids for row in answers(tmp_path).values()
    ]


def test_samples_that_would_all_be_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples_per_problem = 4 needs a temperature"):
        EvaluateConfig.checked({"model": "m", "out": tmp_path, "samples_per_problem": 4})


def test_another_judge_needs_no_new_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(config_for(tmp_path, max_items=12))
    monkeypatch.setattr(answering, "load_model", None)
    result = evaluate(config_for(tmp_path, max_items=12, judge="toolkit"))["chat/arithmetic"]
    assert result["total"] == 12
    assert {key: row.verdict for key, row in verdicts(tmp_path, judge="toolkit").items()} == {
        key: row.verdict for key, row in verdicts(tmp_path).items()
    }


def test_items_that_are_not_the_known_ones_are_said_to_be_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps({"question": "Why?", "answer": "#### 1"}) + "\n")
    settings: dict[str, Any] = {"benchmarks": ("gsm8k",), "data_dir": tmp_path, "max_items": None}
    assert evaluate(config_for(tmp_path / "out", **settings))["chat/gsm8k"]["items_known"] is False
    assert "the items of gsm8k are not those that others report figures on (1 read)" in capsys.readouterr().err


# --- Interruptions ---


def test_a_finished_evaluation_loads_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(config_for(tmp_path, max_items=8))
    monkeypatch.setattr(answering, "load_model", None)
    monkeypatch.setattr(judging, "GradingPool", None)
    assert evaluate(config_for(tmp_path, max_items=8)) == first


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_items": 9}, "items: 8 there, 9 now"),
        ({"max_answer_tokens": 32}, "max_answer_tokens: 64 there, 32 now"),
        ({"stop_strings": ("x",)}, "stop_strings: "),
        ({"temperature": 0.5}, "temperature: 0.0 there, 0.5 now"),
        ({"cue": "Think."}, "cue: "),
        ({"model": "miniature/base"}, "model: "),
        ({"grading_seconds": 3.0}, "grading_seconds: 10.0 there, 3.0 now"),
    ],
)
def test_a_folder_refuses_other_settings(changed: dict[str, Any], named: str, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(RunMismatch, match=named):
        evaluate(config_for(tiny, **{"max_items": 8, **changed}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "tiny"
    evaluate(config_for(out, max_items=8))
    return out


SEVEN = [name for name in (*PAPER_SET, "math500") if name != "math"]


def test_all_seven_files_killed_at_random_and_resumed_give_what_they_give_uninterrupted(
    data_dir: Path, tmp_path: Path
) -> None:
    settings = [
        "--model", "miniature/expert", "--data-dir", data_dir, "--max-items", 10, "--max-answer-tokens", 24,
        "--answer-batch-size", 2, "--dtype", "float32", "--grading-workers", 1, "--benchmarks", *SEVEN, "--json",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lightreasoner.cli", "evaluate", *map(str, settings), "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    whole, error = start(tmp_path / "whole").communicate(timeout=300)
    assert whole, error
    out, chance, committed = tmp_path / "parts", random.Random(7), [0]

    def done() -> int:
        return sum(len(ledger.read_bytes().splitlines()) for ledger in out.rglob("ledger.jsonl"))

    for _ in range(4):
        process = start(out)
        wanted = done() + chance.randint(3, 12)  # killed at some moment after some more commits
        while process.poll() is None and done() < wanted:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        committed.append(done())
    assert committed == sorted(set(committed))  # each round got further, and was not done yet
    assert not (out / f"chat/{SEVEN[-1]}/math-verify/result.json").exists()
    parts, error = start(out).communicate(timeout=300)
    assert parts, error
    assert json.loads(parts) == json.loads(whole)
    for name in SEVEN:
        key = f"chat/{name}"
        assert answers(out, key) == answers(tmp_path / "whole", key)
        assert verdicts(out, key) == verdicts(tmp_path / "whole", key)


# --- Choices ---


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


def test_the_likeliest_choice_counts_as_it_is_or_per_character() -> None:
    row = ScoredChoices("q", "c", ["ab", "abcdefgh"], 1, [-3.0, -4.0])
    assert (row.is_right("acc"), row.is_right("acc_norm")) == (False, True)
    assert ScoredChoices("q", "c", ["a", "b"], 0, [-1.0, -1.0]).is_right("acc")


# --- Comparison ---


def test_two_evaluations_are_compared_item_by_item(base: Path, expert: Path, tmp_path: Path) -> None:
    found = compare(base, expert)
    right = {out: {key for key, row in verdicts(out).items() if row.verdict == "correct"} for out in (base, expert)}
    (row,) = found["benchmarks"]
    assert (row["prompt"], row["benchmark"], row["total"]) == ("chat", "arithmetic", 60)
    assert row["gained"] == len(right[expert] - right[base]) > 0
    assert row["lost"] == len(right[base] - right[expert])
    assert row["gain"] == pytest.approx((len(right[expert]) - len(right[base])) / 60)
    assert row["low"] <= row["gain"] <= row["high"]
    discordant = row["gained"] + row["lost"]
    assert row["p_value"] == row["p_holm"] == pytest.approx(binomtest(row["gained"], discordant).pvalue)
    assert found["overall"] == found["warnings"] == row["warnings"] == []
    back = compare(expert, base)["benchmarks"][0]
    assert (back["gained"], back["lost"], back["p_value"]) == (row["lost"], row["gained"], row["p_value"])


def test_different_items_prompts_judges_and_decoding_are_said(base: Path, expert: Path, tmp_path: Path) -> None:
    other = {"max_items": 20, "cue": "Think.", "max_answer_tokens": 32, "judge": "toolkit"}
    evaluate(config_for(tmp_path, **other))
    found = compare(base, tmp_path)
    assert found["benchmarks"][0]["total"] == 20
    assert len(found["warnings"]) == 4
    for text in ("different items: 60 and 20, compared on the 20 common ones", "different prompt (cue",
                 "different decoding (max_answer_tokens)", "different judge (judge"):  # fmt: skip
        assert any(text in warning for warning in found["warnings"]), text


def test_other_prompts_are_compared_only_where_there_are_no_equal_ones(
    expert: Path, base: Path, tmp_path: Path
) -> None:
    assert [row["prompt"] for row in compare(base, expert)["benchmarks"]] == ["chat"]
    evaluate(config_for(tmp_path, model="miniature/base", prompts="plain"))
    (row,) = compare(tmp_path, base)["benchmarks"]
    assert (row["prompt"], row["prompts"]) == (None, ("plain", "chat"))
    assert any("different prompt" in warning for warning in row["warnings"])
    both = compare(expert, expert)
    assert [row["prompt"] for row in both["benchmarks"]] == ["chat", "plain"]
    assert [row["prompts"] for row in both["benchmarks"]] == [("chat", "chat"), ("plain", "plain")]
    assert [row["gain"] for row in both["benchmarks"]] == [0, 0]


def test_what_cannot_be_compared_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        compare(base, tmp_path)
    with pytest.raises(DataError, match="has no verdicts of toolkit"):
        compare(base, base, judge="toolkit")


def test_unknown_benchmarks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gsm9k.*'arithmetic', 'gsm8k', 'math'"):
        EvaluateConfig.checked({"model": "miniature/expert", "out": tmp_path, "benchmarks": ["gsm9k"]})


def test_the_papers_seven_have_one_name(data_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_items": 1, "max_answer_tokens": 4, "data_dir": tmp_path}
    for name in PAPER_SET:
        source = data_dir / ("math500" if name == "math" else name)
        (tmp_path / name).symlink_to(source)
    found = evaluate(config_for(tmp_path / "out", benchmarks=("paper", "arithmetic", "gsm8k"), **settings))
    assert list(found) == [f"chat/{name}" for name in (*PAPER_SET, "arithmetic")]


def test_evaluation_is_reached_from_the_package() -> None:
    import lightreasoner

    assert lightreasoner.evaluate is evaluate
    assert lightreasoner.compare is compare
