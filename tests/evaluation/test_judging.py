"""Verdicts and figures follow from the stored answers."""

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.evaluation.statistics import pass_at_k
from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.verdicts import VERDICTS, majority
from lightreasoner.inference import engines
from lightreasoner.runs.records import JudgedAnswer

from .helpers import answers, config_for, verdicts


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
    config = config_for(tmp_path, max_items=12, samples_per_problem=6, temperature=1.0, answer_batch_size=16)
    result = evaluate(config)["chat/arithmetic"]
    judged = verdicts(tmp_path)
    assert len(judged) == 72
    items: dict[str, list[JudgedAnswer]] = {}
    for (item, _), row in sorted(judged.items()):
        items.setdefault(item, []).append(row)
    assert any(len({row.canonical for row in rows}) > 1 for rows in items.values())  # samples are drawn apart
    correct = [sum(row.verdict == "correct" for row in rows) for rows in items.values()]
    assert result["accuracy"] == pytest.approx(sum(correct) / 72)
    assert result["low"] <= result["accuracy"] <= result["high"]
    for k in (1, 2, 4, 6):
        assert result["pass_at"][str(k)] == pytest.approx(sum(pass_at_k(count, 6, k) for count in correct) / 12)
    chosen = [(rows, majority([row.canonical for row in rows])) for rows in items.values()]
    won = sum(place is not None and rows[place].verdict == "correct" for rows, place in chosen)
    assert result["majority"] == pytest.approx(won / 12)

    again = config_for(
        tmp_path / "again", **config.model_dump(include={"max_items", "samples_per_problem", "temperature"})
    )
    evaluate(again.model_copy(update={"answer_batch_size": 16}))
    assert [row.output_ids for row in answers(tmp_path / "again").values()] == [
        row.output_ids for row in answers(tmp_path).values()
    ]


def test_another_judge_needs_no_new_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(config_for(tmp_path, max_items=12))
    monkeypatch.setattr(engines, "load_model", None)
    result = evaluate(config_for(tmp_path, max_items=12, judge="toolkit"))["chat/arithmetic"]
    assert result["total"] == 12
    assert {key: row.verdict for key, row in verdicts(tmp_path, judge="toolkit").items()} == {
        key: row.verdict for key, row in verdicts(tmp_path).items()
    }
