"""Only one process at a time works in a run folder."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import Command, assert_same_samples, count, refused, start, succeed, wait_for


@pytest.fixture
def holder(sampling: tuple[object, ...], tmp_path: Path) -> Iterator[Command]:
    """A command that pauses while sampling into `tmp_path/run` until `tmp_path/go` exists."""
    command = start(*sampling, tmp_path / "run", fail=f"after-shard:hang={tmp_path / 'go'}@3")
    wait_for((tmp_path / "go.reached").exists, command)
    yield command
    (tmp_path / "go").touch()
    command.end()


def test_the_second_process_is_refused_at_once_and_names_the_first(
    holder: Command, sampling: tuple[object, ...], tmp_path: Path
) -> None:
    line = refused(*sampling, tmp_path / "run", cold=True)
    count(faults=1, survived=1)
    assert f"{tmp_path / 'run'} is in use by process {holder.pid} on {os.uname().nodename}" in line
    # Refused at once means before the slow imports.
    ended = start(*sampling, tmp_path / "run", cold=True, PYTHONPROFILEIMPORTTIME="1").end()
    imported = {line.rpartition("|")[2].strip() for line in ended.error.splitlines() if line.startswith("import time:")}
    assert "lightreasoner.runs.locks" in imported
    assert not {"torch", "transformers"} & imported


def test_every_stage_is_refused(
    holder: Command,
    tuning: tuple[object, ...],
    evaluating: tuple[object, ...],
    merging: tuple[object, ...],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    for arguments in ((*tuning, run), (*evaluating, run), (*merging, run / "merged"), ("run", "--out", run)):
        assert f"in use by process {holder.pid}" in refused(*arguments)
    assert sorted(path.name for path in run.iterdir()) == [".holder", ".lock", "sample"]


def test_the_lock_ends_with_its_process(
    holder: Command, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    holder.send(signal.SIGKILL)
    holder.end()
    succeed(*sampling, tmp_path / "run")
    assert_same_samples(tmp_path / "run", sampled)


def test_two_processes_that_start_together_do_the_work_once(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    both = [start(*sampling, tmp_path / "run") for _ in range(2)]
    codes = sorted(command.end().code for command in both)
    assert codes in ([0, 0], [0, 1])  # one may start after the other has finished
    count(faults=1)
    assert_same_samples(tmp_path / "run", sampled)
