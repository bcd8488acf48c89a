"""Stop signals: work is committed, the exit code names the signal, and the same command resumes."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lightreasoner.runs import signals

from .harness import (
    LOAD,
    OBJECTIVE,
    assert_same_rows,
    assert_same_samples,
    at_call,
    commits,
    count,
    held,
    start,
    succeed,
    wait_for,
)
from .test_kills import assert_same_adapter

SIGNALS = [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGUSR1))]
LONGEST = 25.0  # seconds


def held_with_little_patience(go: Path) -> None:
    signals.PATIENCE = 1.0
    held(go)


def stop_at(
    point: str,
    number: signal.Signals,
    arguments: tuple[object, ...],
    out: Path,
    *,
    resume: bool = True,
    hold: Callable[[Path], None] = held,
) -> str:
    """Send a signal while the command is at a point (or function) for the n-th time (`@n`); check how it leaves.

    Returns:
        What it said.
    """
    go = out.with_name("go")
    point, _, turn = point.partition("@")
    if ":" in point:
        command = start(*arguments, out, patch=at_call(point, int(turn or 1), before=partial(hold, go)))
    else:
        command = start(*arguments, out, fail=f"{point}:hang={go}@{turn or 1}")
    wait_for(go.with_name("go.reached").exists, command)
    command.send(number)
    if resume:
        go.touch()
    ended = command.end(LONGEST)
    assert ended.code == 128 + number
    assert ended.last_line.startswith("lightr: interrupted")
    assert "Run the same command to continue" in ended.last_line
    return ended.error


@pytest.mark.parametrize("number", SIGNALS)
def test_sampling_commits_and_stops(
    number: signal.Signals, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stop_at("in-batch@3", number, sampling, out)
    assert len(commits(out / "sample")) == 3  # including the current batch
    succeed(*sampling, out)
    assert_same_samples(out, sampled)


@pytest.mark.parametrize("number", SIGNALS)
def test_evaluation_commits_and_stops(
    number: signal.Signals, evaluating: tuple[object, ...], evaluated: Path, tmp_path: Path
) -> None:
    out, answers = tmp_path / "run", "chat/arithmetic/answers"
    stop_at("in-batch@3", number, evaluating, out)
    assert len(commits(out / answers)) == 3
    succeed(*evaluating, out)
    assert_same_rows(out / answers, evaluated / answers, "answers", ("question_id",))
    count(survived=1)


@pytest.mark.parametrize("number", SIGNALS)
def test_tuning_saves_a_checkpoint_and_stops(
    number: signal.Signals, tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stop_at(f"{OBJECTIVE}@3", number, tuning, out)  # in the third step
    assert [path.name for path in (out / "finetune").glob("checkpoint-*")] == ["checkpoint-3"]
    succeed(*tuning, out)
    assert_same_adapter(out, tuned)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_before_the_first_batch_has_the_same_exit_code(
    number: signal.Signals, sampling: tuple[object, ...], tmp_path: Path
) -> None:
    assert signals.PATIENCE < LONGEST
    stop_at(LOAD, number, sampling, tmp_path / "run", resume=False, hold=held_with_little_patience)
    count(survived=1)


def test_a_stopped_merge_leaves_no_output_folder(merging: tuple[object, ...], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    stop_at("in-folder", signal.SIGTERM, merging, out, resume=False)
    assert not out.exists()
    succeed(*merging, out)
    count(survived=1)


@pytest.mark.slow
def test_a_batch_that_does_not_end_is_aborted_in_time(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    stop_at("in-batch@3", signal.SIGTERM, sampling, out, resume=False)
    assert len(commits(out / "sample")) == 2
    succeed(*sampling, out)
    assert_same_samples(out, sampled)
