"""An unreachable Hub is reported within seconds, and not asked if everything is local."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import assert_same_rows, start, succeed

ONLINE = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "0"}
Asked = list[tuple[float, bytes]]


@pytest.fixture
def silent_hub() -> Iterator[tuple[str, Asked]]:
    """A server that accepts connections and never answers; records the requests and when they came."""
    asked: Asked = []
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        kept: list[socket.socket] = []

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                asked.append((time.monotonic(), connection.recv(200)))

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        for connection in kept:
            connection.close()


@pytest.mark.parametrize(
    "what",
    ["model", pytest.param("data set", marks=pytest.mark.slow), pytest.param("benchmark", marks=pytest.mark.slow)],
)
def test_a_silent_hub_times_out_within_ten_seconds(
    what: str, silent_hub: tuple[str, Asked], random_expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    endpoint, asked = silent_hub
    pair = ("--expert", random_expert, "--amateur", random_amateur)
    arguments: tuple[object, ...] = {
        "model": ("sample", "--expert", "nobody/nothing", "--amateur", random_amateur, "--dataset", "arithmetic"),
        "data set": ("sample", *pair, "--dataset", "nobody/nothing"),
        "benchmark": ("evaluate", "--model", random_expert, "--benchmarks", "math500"),
    }[what]
    command = start(
        *arguments, "--out", tmp_path / "run", cold=True, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "home"), **ONLINE
    )
    ended = command.end()
    assert time.monotonic() - asked[0][0] < 10
    assert ended.code == 1
    assert {"model": "nobody/nothing", "data set": "nobody/nothing", "benchmark": "MATH-500"}[what] in ended.last_line
    assert "does not answer" in ended.last_line


@pytest.mark.slow
def test_a_run_with_local_models_does_not_ask_the_hub(silent_hub: tuple[str, Asked], tmp_path: Path) -> None:
    endpoint, asked = silent_hub
    found = succeed(
        "run", "--sample.max-questions", 8, "--finetune.steps", 2, "--evaluate.max-items", 4,
        "--evaluate.max-answer-tokens", 4, "--out", tmp_path / "run",
        cold=True, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "home"), **ONLINE,
    )  # fmt: skip
    assert asked == []
    assert "remote" not in found.error


def cached(model: Path, home: Path, name: str, commit: str) -> None:
    """Copy a model into the download cache of the Hub's client."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("offline", [pytest.param(one, marks=pytest.mark.slow) for one in "01"])
def test_a_cached_copy_is_used_if_the_hub_does_not_answer(
    offline: str, silent_hub: tuple[str, Asked], random_expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    endpoint, asked = silent_hub
    commit, home, out = "0123456789abcdef0123456789abcdef01234567", tmp_path / "home", tmp_path / "run"
    cached(random_expert, home, "somebody/expert", commit)
    arguments = (
        "sample", "--expert", "somebody/expert", "--amateur", random_amateur, "--dataset", "arithmetic",
        "--max-questions", 4, "--max-new-tokens", 4, "--dtype", "float32", "--out",
    )  # fmt: skip
    environment = {**ONLINE, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline}
    succeed(*arguments, out, cold=True, **environment)
    assert bool(asked) == (offline == "0")
    local = (*arguments[:2], random_expert, *arguments[3:])
    succeed(*local, tmp_path / "local")
    assert_same_rows(out / "sample", tmp_path / "local/sample", "rollouts", ("question_id",))
