"""Stage 4: the same answers whatever the batches, and figures that follow from the rows."""

from pathlib import Path

import pytest
from scipy.stats import binomtest

from lightreasoner import evaluation
from lightreasoner.benchmarks import load_benchmark
from lightreasoner.config import EvaluateConfig
from lightreasoner.errors import ConfigError, DataError, RunMismatch
from lightreasoner.evaluation import compare, evaluate
from lightreasoner.grading import grade_number
from lightreasoner.records import Answer
from lightreasoner.runs import read_stage


def config_for(out: Path, model: str = "miniature/expert", **settings: object) -> EvaluateConfig:
    common = {"benchmarks": ("arithmetic",), "max_items": 60, "max_answer_tokens": 64, "dtype": "float32"}
    return EvaluateConfig(model=model, out=out, **{**common, **settings})  # type: ignore[arg-type]


def answers(out: Path) -> dict[str, Answer]:
    _, stage = read_stage(out / "arithmetic")
    return {row.question_id: row for table in stage.tables("answers") for row in Answer.rows(table)}


def test_batches_of_one_and_of_sixteen_give_the_same_answers(tmp_path: Path) -> None:
    evaluate(config_for(tmp_path / "one", answer_batch_size=1, max_items=30))
    evaluate(config_for(tmp_path / "many", answer_batch_size=16, max_items=30))
    one, many = answers(tmp_path / "one"), answers(tmp_path / "many")
    assert one.keys() == many.keys()
    assert [one[key].output_ids for key in one] == [many[key].output_ids for key in one]


def test_figures_follow_from_the_rows(tmp_path: Path) -> None:
    result = evaluate(config_for(tmp_path))["arithmetic"]
    rows = answers(tmp_path)
    items = {item.id: item for item in load_benchmark("arithmetic", limit=60, data_dir=None)}
    assert rows.keys() == items.keys()
    for key, row in rows.items():
        assert (row.question, row.gold) == (items[key].question, items[key].answer)
        assert (row.extracted, row.verdict) == grade_number(row.output, row.gold)
    correct = sum(row.verdict == "correct" for row in rows.values())
    assert 0 < correct < 60
    interval = binomtest(correct, 60).proportion_ci(method="wilson")
    assert result["correct"] + result["wrong"] + result["no_answer"] == result["total"] == 60
    assert (result["accuracy"], result["low"], result["high"]) == (correct / 60, interval.low, interval.high)


def test_a_finished_evaluation_loads_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(config_for(tmp_path, max_items=8))
    monkeypatch.setattr(evaluation, "load_model", None)
    assert evaluate(config_for(tmp_path, max_items=8)) == first
    with pytest.raises(RunMismatch, match="items: 8 there, 9 now"):
        evaluate(config_for(tmp_path, max_items=9))


def test_an_interrupted_evaluation_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(config_for(tmp_path / "whole", answer_batch_size=8))
    original = evaluation.grade_number
    graded = 0

    def fails_later(output: str, gold: str) -> object:
        nonlocal graded
        graded += 1
        if graded == 30:
            raise KeyboardInterrupt
        return original(output, gold)

    monkeypatch.setattr(evaluation, "grade_number", fails_later)
    with pytest.raises(KeyboardInterrupt):
        evaluate(config_for(tmp_path / "parts", answer_batch_size=8))
    monkeypatch.setattr(evaluation, "grade_number", original)
    result = evaluate(config_for(tmp_path / "parts", answer_batch_size=8))
    assert answers(tmp_path / "parts") == answers(tmp_path / "whole")
    assert result["arithmetic"]["total"] == 60


def test_two_evaluations_are_compared_item_by_item(tmp_path: Path) -> None:
    evaluate(config_for(tmp_path / "expert"))
    evaluate(config_for(tmp_path / "base", model="miniature/base"))
    found = compare(tmp_path / "base" / "arithmetic", tmp_path / "expert" / "arithmetic")
    before, after = answers(tmp_path / "base"), answers(tmp_path / "expert")
    right = {name: {key for key, row in rows.items() if row.verdict == "correct"} for name, rows in
             {"before": before, "after": after}.items()}  # fmt: skip
    assert found["gained"] == len(right["after"] - right["before"]) > 0
    assert found["lost"] == len(right["before"] - right["after"])
    evaluate(config_for(tmp_path / "fewer", max_items=10))
    with pytest.raises(DataError, match="same items"):
        compare(tmp_path / "fewer" / "arithmetic", tmp_path / "expert" / "arithmetic")


def test_unknown_benchmarks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gsm9k.*'arithmetic', 'gsm8k' or 'svamp'"):
        EvaluateConfig.checked({"model": "miniature/expert", "out": tmp_path, "benchmarks": ["gsm9k"]})
