"""The first sentence of a report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.report import report
from lightreasoner.report.model import Report
from lightreasoner.report.verdict import verdict_of

ROW = {"benchmarks": 2, "total": 1319, "before": 0.4, "after": 0.5, "gain": 0.1, "low": 0.05, "high": 0.15}


@pytest.fixture
def found(small_run: Path) -> Report:
    return replace(report(small_run), expert="E", amateur="A")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"p_value": 1e-9},
            "Fine-tuning E on 192 labels from its contrast with A raised accuracy on the mean of 2 benchmarks "
            "from 40.0 % to 50.0 % (+10.0 points, 95 % interval +5.0 to +15.0, p < 0.001).",
        ),
        (
            {"p_value": 0.01, "gain": -0.1},
            "Fine-tuning E on 192 labels from its contrast with A lowered accuracy on the mean of 2 benchmarks "
            "from 40.0 % to 50.0 % (-10.0 points, 95 % interval +5.0 to +15.0, p = 0.01).",
        ),
        (
            {"p_value": 0.31},
            "Fine-tuning E on 192 labels from its contrast with A made no detectable difference on the mean of 2 "
            "benchmarks with 1,319 items: 40.0 % before, 50.0 % after (+10.0 points, 95 % interval +5.0 to +15.0, "
            "p = 0.31).",
        ),
    ],
)
def test_the_verdict_states_gain_interval_and_chance(found: Report, changes: dict[str, Any], sentence: str) -> None:
    assert verdict_of(replace(found, overall=({**ROW, **changes},))) == sentence


def test_of_entropy_minimisation_neither_labels_nor_contrast_are_named(found: Report) -> None:
    found = replace(found, objective="entropy")
    assert verdict_of(found).startswith("Fine-tuning E on the entropy of its own predictions at 192 steps ")
    assert "contrast" not in verdict_of(found)
    untested = replace(found, overall=(), accuracies=())
    assert verdict_of(untested).startswith("E was fine-tuned on the entropy of its own predictions at 192 steps; there")


def test_without_a_mean_the_first_benchmark_counts(found: Report) -> None:
    assert found.overall == ()
    assert found.main_test == found.accuracies[0].test
    assert f" on {found.accuracies[0].title} " in verdict_of(found)
