"""`lightr rounds`, killed in every kind of stage: the same command continues, and the result is the same."""

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.evaluation.stopping import Decision
from lightreasoner.runs.stage import read_stage

from .harness import lightr, succeed

# Kills one after another, each where the command before it was killed or later.
KILLS = (
    "after-ledger:kill@1",
    "in-ledger:kill@2",
    "before-shard:kill@3",
    "in-checkpoint:kill@1",
    "before-name:kill@1",
    "after-shard:kill@2",
    "before-checkpoint-complete:kill@2",
    "in-folder:kill@1",
    "before-name:kill@3",
)


def keep_all() -> None:
    """Replace the stop rule by one that makes two rounds and keeps the last."""
    from lightreasoner import rounds

    def decide(series: Sequence[Mapping[str, Any]], settings: Any) -> Decision:
        return Decision(len(series) - 1, len(series) > settings.limit, "kept for a test")

    rounds.decide = decide  # type: ignore[assignment]


@pytest.fixture
def command(random_expert: Path, random_amateur: Path) -> tuple[object, ...]:
    return (
        "rounds", "--expert", random_expert, "--amateur", random_amateur, "--dataset", "arithmetic",
        "--dtype", "float32", "--sample.max-questions", 8, "--sample.max-new-tokens", 6, "--sample.batch-size", 4,
        "--finetune.steps", 4, "--finetune.save-steps", 2, "--evaluate.benchmarks", "arithmetic",
        "--evaluate.grading-workers", 1, "--evaluate.answer-batch-size", 8, "--evaluate.max-answer-tokens", 32,
        "--rounds.limit", 2, "--rounds.held-back", 8, "--rounds.answers", 2, "--out",
    )  # fmt: skip


def facts(out: Path) -> dict[str, Any]:
    """What the rounds made, without times."""
    found = json.loads((out / "rounds.json").read_text())
    found["merge"] = found["merge"]["adapter_sha256"]
    stages = sorted(path.parent for path in out.rglob("manifest.json"))
    for stage in stages:
        _, content = read_stage(stage)
        found[str(stage.relative_to(out))] = content.digest
        if stage.name == "finetune":
            found[f"adapter of {stage.relative_to(out)}"] = (content.result or {})["adapter_sha256"]
    return found


@pytest.mark.parametrize("kills", [KILLS[2:3], pytest.param(KILLS, marks=pytest.mark.slow)])
def test_rounds_that_were_killed_again_and_again_end_as_if_they_were_not(
    kills: Sequence[str], command: tuple[object, ...], tmp_path: Path
) -> None:
    succeed(*command, tmp_path / "whole", patch=keep_all)
    for fail in kills:
        assert lightr(*command, tmp_path / "killed", fail=fail, patch=keep_all).code == -signal.SIGKILL, fail
    succeed(*command, tmp_path / "killed", patch=keep_all)
    assert facts(tmp_path / "killed") == facts(tmp_path / "whole")
