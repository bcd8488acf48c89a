"""Several workers on one run folder: kills, signals and errors, and processes that join from outside."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from lightreasoner.runs.stage import read_stage
from lightreasoner.training.batches import load_labels

from .harness import Command, assert_same_rows, commits, count, refused, rows, start, succeed, wait_for

TWO = ("--workers", 2)
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as in the reference


def holders(stage: Path) -> dict[int, int]:
    """Process ids of the workers that hold a lease, and the first item of the batch that each one runs."""
    found = {}
    for path in (stage / "leases").glob("[0-9]*.json"):
        try:
            found[int(json.loads(path.read_text())["pid"])] = int(path.stem)
        except (OSError, ValueError):
            continue  # it was released, or is being written
    return found


def workers_of(command: Command) -> list[psutil.Process]:
    return [child for child in psutil.Process(command.pid).children() if "worker_process" in " ".join(child.cmdline())]


def assert_equal_to_one_process(out: Path, whole: Path) -> None:
    """Check that samples hold the rows of one process in its order, so that fine-tuning sees the same labels."""
    for kind, key in (("rollouts", ("question_id",)), ("steps", ("question_id", "position"))):
        assert_same_rows(out / "sample", whole / "sample", kind, key)
    (_, shared), (_, alone) = (read_stage(run / "sample") for run in (out, whole))
    assert shared.digest == alone.digest
    labels, expected = (load_labels(run, 4096)[1] for run in (out, whole))
    assert labels.sha256 == expected.sha256


def kill_workers(arguments: tuple[object, ...], out: Path, whole: Path, kills: int) -> None:
    """Kill workers in a batch or between two until `kills` have hit; compare whenever the command has ended."""
    chance, hits = random.Random(kills), 0
    stage = out / "sample"
    while hits < kills:
        command = start(*arguments, out, *TWO, **ONE_THREAD)
        at: list[int] = []  # batches of the victims: the command gives up at the third of one batch
        while command.code is None and hits < kills:
            before = len(commits(stage))
            wait_for(lambda: holders(stage), command)
            time.sleep(chance.random() * 0.02)
            victims = {pid: place for pid, place in holders(stage).items() if at.count(place) < 2}
            if not victims:
                continue
            pid, place = chance.choice([*victims.items()])
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            at.append(place)
            hits += 1
            count(faults=1, survived=1)
            wait_for(lambda before=before: len(commits(stage)) > before, command)  # type: ignore[misc]
        ended = command.end()
        assert ended.code == 0, ended.error
        assert_equal_to_one_process(out, whole)
        shutil.rmtree(out)


def test_killed_workers_lose_and_double_no_row(sampling: tuple[object, ...], sampled: Path, tmp_path: Path) -> None:
    kill_workers(sampling, tmp_path / "run", sampled, kills=3)


@pytest.mark.slow
def test_twenty_killed_workers_lose_and_double_no_row(sampling: tuple[object, ...], tmp_path: Path) -> None:
    models = sampling[: sampling.index("--max-questions")]
    arguments = (*models, "--max-questions", 120, "--max-new-tokens", 24, "--batch-size", 1, "--out")
    succeed(*arguments, tmp_path / "whole", **ONE_THREAD)
    kill_workers(arguments, tmp_path / "run", tmp_path / "whole", kills=20)


@pytest.mark.slow
def test_the_workers_of_a_killed_owner_end_and_what_they_delivered_counts(
    evaluating: tuple[object, ...], evaluated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    answers = out / "chat/arithmetic/answers"
    command = start(*evaluating, out, *TWO, **ONE_THREAD)
    wait_for(lambda: len(commits(answers)) >= 2, command)
    workers = workers_of(command)
    assert len(workers) == 2
    assert command.send(signal.SIGKILL)
    command.end()
    _, left = psutil.wait_procs(workers, timeout=30)
    assert not left, "they end after their batch"
    done = len(commits(answers)) + len([*(answers / "deliveries").glob("*.json")])
    assert done >= 2
    succeed(*evaluating, out, **ONE_THREAD)
    assert_same_rows(answers, evaluated / "chat/arithmetic/answers", "answers", ("question_id",))
    verdicts = Path("chat/arithmetic/math-verify")
    assert_same_rows(out / verdicts, evaluated / verdicts, "verdicts", ("question_id", "sample"))
    assert (out / verdicts / "result.json").read_bytes() == (evaluated / verdicts / "result.json").read_bytes()
    count(survived=1)


@pytest.mark.slow
def test_a_signal_lets_the_workers_deliver_their_batches(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out, go = tmp_path / "run", tmp_path / "go"
    command = start(*sampling, out, *TWO, fail=f"in-batch:hang={go}", **ONE_THREAD)
    wait_for(lambda: len(holders(out / "sample")) == 2, command)
    wait_for(Path(f"{go}.reached").exists, command)
    assert command.send(signal.SIGTERM)
    time.sleep(0.5)
    go.touch()
    ended = command.end()
    assert ended.code == 128 + signal.SIGTERM
    assert "finished work is saved" in ended.last_line
    assert len(commits(out / "sample")) == 2
    assert not holders(out / "sample")
    succeed(*sampling, out, **ONE_THREAD)
    assert_equal_to_one_process(out, sampled)
    count(survived=1)


@pytest.mark.slow
def test_a_process_joins_with_equal_settings_only_and_does_its_share(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out, go = tmp_path / "run", tmp_path / "go"
    joining = (*sampling, out, "--join")
    owner = start(*sampling, out, *TWO, fail=f"in-batch:hang={go}", **ONE_THREAD)
    wait_for(Path(f"{go}.reached").exists, owner)
    early = start(*joining, **ONE_THREAD)
    wait_for(lambda: len(commits(out / "sample")) >= 3, early)
    assert "divergence_beta: 0.4 there, 0.1 now" in refused(*joining, "--divergence-beta", 0.1)
    go.touch()
    for command in (owner, early):
        ended = command.end()
        assert ended.code == 0, ended.error
    makers = {path.stem.rpartition("-")[2] for path in (out / "sample").glob("rollouts-*.parquet")}
    assert len(makers) >= 2
    assert_equal_to_one_process(out, sampled)
    assert len(rows(out / "sample", "rollouts")) == 48


@pytest.mark.slow
def test_an_error_of_the_workers_is_reported_once(
    sampling: tuple[object, ...], random_expert: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(random_expert, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    arguments = ("sample", "--expert", broken, *sampling[3:], tmp_path / "run", *TWO)
    line = refused(*arguments, **ONE_THREAD)
    assert "q_proj" in line
    assert not any(psutil.pid_exists(pid) for pid in holders(tmp_path / "run" / "sample")), "no worker is left"
