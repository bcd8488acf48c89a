"""`--ray`: workers as actors of a real local Ray cluster, some of them killed."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from lightreasoner.config import RunConfig
from lightreasoner.errors import ConfigError
from lightreasoner.pipeline import check
from lightreasoner.recipes import resolve
from lightreasoner.runs.stage import read_stage

from .harness import lightr, refused

pytest.importorskip("ray", reason="needs the extra ray")
COMMAND = (sys.executable, "-m", "lightreasoner.cli")


def start(*arguments: object) -> "subprocess.Popen[str]":
    words = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def actors(command: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes of its Ray actors."""
    return [process for process in below(command.pid) if "ray::_Place" in " ".join(process.cmdline()[:1])]


def below(pid: int) -> list[psutil.Process]:
    alive = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if process.cmdline():
                alive.append(process)
        except psutil.Error:
            continue
    return alive


def rows(out: Path, kind: str) -> list[dict[str, object]]:
    _, stage = read_stage(out / "sample")
    return [row for table in stage.tables(kind) for row in table.to_pylist()]


def sample_and_kill(sampling: tuple[object, ...], out: Path, kills: int, seed: int) -> tuple[int, str]:
    """Run the command, and kill an actor up to `kills` times; returns how often, and what it wrote to stderr."""
    chance = random.Random(seed)
    command = start(*sampling, out, "--ray", "local", "--workers", 2)
    killed: set[int] = set()
    limit = time.monotonic() + 240
    while len(killed) < kills and command.poll() is None and time.monotonic() < limit:
        ledger = out / "sample" / "ledger.jsonl"
        commits = ledger.read_bytes().count(b"\n") if ledger.exists() else 0
        chosen = [process for process in actors(command) if process.pid not in killed]
        if chosen and commits > len(killed):
            victim = chance.choice(chosen)
            killed.add(victim.pid)
            victim.send_signal(signal.SIGKILL)
        time.sleep(0.02)
    _, errors = command.communicate(timeout=240)
    assert command.returncode == 0, errors
    return len(killed), errors


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 5])
def test_a_lost_actor_loses_and_doubles_no_row(
    kills: int, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    killed = 0
    for run in range(kills):  # the tiny models can be faster than the start of another actor
        out = tmp_path / str(run)
        more, errors = sample_and_kill(sampling, out, kills - killed, seed=run)
        assert more, errors
        assert "its Ray actor is gone" in errors
        for kind in ("rollouts", "steps"):
            assert rows(out, kind) == rows(sampled, kind)
        killed += more
        if killed == kills:
            break
    assert killed == kills


@pytest.mark.slow
def test_nothing_of_a_local_cluster_stays(sampling: tuple[object, ...], tmp_path: Path) -> None:
    command = start(*sampling, tmp_path / "out", "--ray", "local")
    started: set[int] = set()
    while command.poll() is None:
        started |= {process.pid for process in below(command.pid)}
        if actors(command) and (tmp_path / "out" / "sample" / "ledger.jsonl").exists():
            command.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    _, errors = command.communicate(timeout=120)
    assert command.returncode == 128 + signal.SIGTERM, errors
    assert errors.strip().splitlines()[-1].startswith("lightr: ")
    limit = time.monotonic() + 20
    while any(map(psutil.pid_exists, started)) and time.monotonic() < limit:
        time.sleep(0.2)
    assert not [pid for pid in started if psutil.pid_exists(pid)]


def test_no_cluster_at_the_address(sampling: tuple[object, ...], tmp_path: Path) -> None:
    last = refused(*sampling, tmp_path / "out", "--ray", "127.0.0.1:1", code=2)
    assert "--ray 127.0.0.1:1: no Ray cluster answers there" in last
    assert "ray start --head" in last
    assert not (tmp_path / "out" / "sample" / "manifest.json").exists()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_dry_run_looks_for_the_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work: `run` makes the same check."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = resolve(RunConfig, {"ray": address}, "miniature")
    with pytest.raises(ConfigError, match=f"--ray {address}: no Ray cluster answers there"):
        check(config, download=False)
    check(config.model_copy(update={"ray": "local"}), download=False)


def without(module: str) -> None:
    sys.modules[module] = None  # type: ignore[assignment]  # an import raises ImportError


def test_without_ray(sampling: tuple[object, ...], tmp_path: Path) -> None:
    ended = lightr(*sampling, tmp_path / "out", "--ray", "local", patch=partial(without, "ray"))
    assert ended.code == 2
    assert "--ray needs Ray: pip install '.[ray]' in the clone of lightreasoner" in ended.error


@pytest.mark.slow
def test_an_existing_cluster(sampling: tuple[object, ...], sampled: Path, tmp_path: Path) -> None:
    ray = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    port = 6399
    head = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    subprocess.run(head, check=True, capture_output=True, env=environment, timeout=120)
    try:
        words = [*COMMAND, *map(str, (*sampling, tmp_path / "out", "--ray", f"127.0.0.1:{port}"))]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)
        assert done.returncode == 0, done.stderr
    finally:
        subprocess.run([ray, "stop", "--force"], capture_output=True, env=environment, timeout=120)
    assert rows(tmp_path / "out", "rollouts") == rows(sampled, "rollouts")
    assert all(pq.read_metadata(file).num_rows for file in (tmp_path / "out/sample").glob("rollouts-*.parquet"))
