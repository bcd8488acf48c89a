"""The time of a stage is that of all its sittings, however they ended; only lost work has no time."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from lightreasoner.report import report
from lightreasoner.report.reading import times
from lightreasoner.runs.stage import read_stage

from .harness import OBJECTIVE, at_call, commits, held, lightr, start, succeed, wait_for

PAUSE = 1000.0  # seconds that the clock of a sitting jumps ahead
PAIR = "lightreasoner.samples.sampling:LazyPair"  # before the first batch
SAMPLING = "lightreasoner.samples.sampler:Sampler.run"  # of every batch
ANSWERING = "lightreasoner.evaluation.answering:Answering.run"


def jump(go: Path | None) -> None:
    """Let the clock jump, and wait for a signal if there is a file to wait for."""
    clock = time.perf_counter
    time.perf_counter = lambda: clock() + PAUSE
    if go is not None:
        held(go)


def paused(
    arguments: tuple[object, ...], out: Path, point: str, number: signal.Signals = signal.SIGKILL, fail: str = ""
) -> None:
    """A sitting whose clock jumps in a function (at its n-th call, `@n`), and that is stopped there or at a point."""
    go, (name, _, turn) = out.with_name(f"{out.name}-go"), point.partition("@")
    for mark in (go, go.with_name(f"{go.name}.reached")):
        mark.unlink(missing_ok=True)
    patch = at_call(name, int(turn), before=partial(jump, None if fail else go))
    command = start(*arguments, out, patch=patch, fail=fail)
    if not fail:
        wait_for(go.with_name(f"{go.name}.reached").exists, command)
        command.send(number)
        go.touch()
    assert command.end().code in (128 + number, -signal.SIGKILL)


def seconds(stage: Path) -> float:
    found = read_stage(stage)[1].seconds
    assert found is not None
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sampling_keeps_the_time_before_it(
    number: signal.Signals, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    paused(sampling, out, f"{SAMPLING}@3", number)
    succeed(*sampling, out)
    assert PAUSE < seconds(out / "sample") < 1.5 * PAUSE
    assert 0 < seconds(sampled / "sample") < PAUSE


def test_sittings_that_were_stopped_before_their_first_commit_count(
    sampling: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for _ in range(2):
        paused(sampling, out, f"{PAIR}@1", signal.SIGTERM)
    assert commits(out / "sample") == []
    succeed(*sampling, out)
    assert 2 * PAUSE < seconds(out / "sample") < 2.5 * PAUSE


def test_a_killed_sampling_keeps_the_time_of_its_commits_and_loses_that_of_lost_work(
    sampling: tuple[object, ...], tmp_path: Path
) -> None:
    kept, lost = tmp_path / "kept", tmp_path / "lost"
    paused(sampling, kept, f"{SAMPLING}@3", fail="after-ledger:kill@3")
    paused(sampling, lost, f"{SAMPLING}@3")
    for out in (kept, lost):
        succeed(*sampling, out)
    assert seconds(kept / "sample") > PAUSE > seconds(lost / "sample") > 0


def test_a_stopped_or_killed_tuning_keeps_the_time_until_its_checkpoint(
    tuning: tuple[object, ...], tmp_path: Path
) -> None:
    runs = {name: tmp_path / name for name in ("stopped", "killed", "lost")}
    paused(tuning, runs["stopped"], f"{OBJECTIVE}@2", signal.SIGINT)
    paused(tuning, runs["killed"], f"{OBJECTIVE}@2", fail="in-checkpoint:kill@2")  # the one of step 4 is complete
    paused(tuning, runs["lost"], f"{OBJECTIVE}@6")  # two steps after it
    for name, out in runs.items():
        result = json.loads(succeed(*tuning, out, "--json").out)
        assert (result["seconds"] > PAUSE) == (name != "lost")
        assert result["seconds"] == pytest.approx(seconds(out / "finetune"), abs=5)
        assert report(out).cost.seconds["finetune"] == pytest.approx(result["seconds"], abs=5)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_the_summary_of_a_run_that_was_interrupted_has_the_time_of_all_sittings(
    number: signal.Signals, random_expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    out, fail = tmp_path / "run", "after-ledger:kill@{}" if number == signal.SIGKILL else ""
    arguments = (
        "run", "--expert", random_expert, "--amateur", random_amateur, "--dataset", "arithmetic", "--dtype", "float32",
        "--sample.max-questions", 8, "--sample.max-new-tokens", 4, "--sample.batch-size", 4, "--finetune.steps", 2,
        "--evaluate.benchmarks", "arithmetic", "--evaluate.max-items", 8, "--evaluate.max-answer-tokens", 4,
        "--evaluate.answer-batch-size", 4, "--evaluate.grading-workers", 1, "--out",
    )  # fmt: skip
    paused(arguments, out, f"{SAMPLING}@1", number, fail.format(1))
    paused(arguments, out, f"{ANSWERING}@1", number, fail.format(2))
    summary = json.loads(succeed(*arguments, out, "--json").out)
    spent = summary["seconds"]
    assert list(spent) == ["sample", "finetune", "merge", "evaluate_before", "evaluate_after"]
    assert [spent[name] > PAUSE for name in spent] == [True, False, False, True, False]
    assert report(out).cost.seconds == spent == times(out)
    assert report(out).cost.sampling_and_tuning == pytest.approx(spent["sample"] + spent["finetune"])
    line = next(text for text in succeed(*arguments, out).out.splitlines() if text.startswith("time: "))
    assert f"sample {spent['sample']:.0f} s" in line


def test_a_killed_evaluation_keeps_the_time_of_answering_and_judging(
    evaluating: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "run" / "evaluate"
    out.parent.mkdir()
    paused(evaluating, out, f"{ANSWERING}@2", fail="after-ledger:kill@2")
    assert lightr(*evaluating, out).code == 0
    answers, judged = (seconds(out / "chat/arithmetic" / name) for name in ("answers", "math-verify"))
    assert answers > PAUSE > judged > 0
    assert times(out.parent) == {"evaluate_after": round(answers + judged, 1)}
