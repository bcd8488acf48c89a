"""The figures of one run."""

import json
from pathlib import Path

import pytest

from lightreasoner.report import report, write_figures

from .helpers import rows_of


def test_figures_of_a_run_carry_its_numbers(small_run: Path, tmp_path: Path) -> None:
    files = write_figures(small_run, tmp_path / "figures")
    assert {file.suffix for file in files} == {".svg", ".png", ".csv", ".json"}
    found = report(small_run)
    shares = json.loads(next(f for f in files if f.name == "figure-2-kl-histogram.json").read_text())
    assert tuple(row["share"] for row in shares[:21]) == found.labels.histogram
    bars = json.loads(next(f for f in files if f.name == "figure-5-accuracies.json").read_text())
    assert bars[0]["after"] == found.accuracies[0].after.value
    curves = json.loads(next(f for f in files if f.name == "figure-8-9-training.json").read_text())
    assert [row["loss"] for row in curves] == [row["loss"] for row in found.training]
    rollouts, _ = rows_of(small_run)
    along = json.loads(next(f for f in files if f.name == "figure-3-kl-along-rollouts.json").read_text())
    drawn = [row["kl"] for row in along if row["segment"] == 1]
    assert any(row.kl[: len(drawn)] == pytest.approx(drawn) for row in rollouts)
