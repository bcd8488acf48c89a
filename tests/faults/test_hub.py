"""The Hub out of reach: said within seconds, and never asked where everything is at hand."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import lightr, start, succeed

ONLINE = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "0"}


@pytest.fixture
def silent_hub() -> Iterator[tuple[str, list[bytes]]]:
    """Takes connections, and never answers; remembers what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        kept: list[socket.socket] = []

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                kept.append(connection)
                asked.append(connection.recv(200))

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        for connection in kept:
            connection.close()


@pytest.mark.parametrize(
    "what",
    ["model", pytest.param("data set", marks=pytest.mark.slow), pytest.param("benchmark", marks=pytest.mark.slow)],
)
def test_a_hub_that_never_answers_is_given_up_within_ten_seconds(
    what: str, silent_hub: tuple[str, list[bytes]], random_expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    endpoint, _ = silent_hub
    pair = ("--expert", random_expert, "--amateur", random_amateur)
    arguments: tuple[object, ...] = {
        "model": ("sample", "--expert", "nobody/nothing", "--amateur", random_amateur, "--dataset", "arithmetic"),
        "data set": ("sample", *pair, "--dataset", "nobody/nothing"),
        "benchmark": ("evaluate", "--model", random_expert, "--benchmarks", "math500"),
    }[what]
    known = time.monotonic()
    lightr("sample", *pair, "--dataset", "absent.jsonl", "--out", tmp_path / "run", cold=True)
    known = time.monotonic() - known  # what start and imports take on this machine
    command = start(
        *arguments, "--out", tmp_path / "run", cold=True, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "home"), **ONLINE
    )
    ended = command.end()
    assert time.monotonic() - command.started < 10 + known
    assert ended.code == 1
    assert {"model": "nobody/nothing", "data set": "nobody/nothing", "benchmark": "MATH-500"}[what] in ended.last_line
    assert "does not answer" in ended.last_line


def test_a_run_on_local_models_never_asks_the_hub(silent_hub: tuple[str, list[bytes]], tmp_path: Path) -> None:
    endpoint, asked = silent_hub
    found = succeed(
        "run", "--sample.max-questions", 8, "--finetune.steps", 2, "--evaluate.max-items", 4,
        "--evaluate.max-answer-tokens", 4, "--out", tmp_path / "run",
        cold=True, HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path / "home"), **ONLINE,
    )  # fmt: skip
    assert asked == []
    assert "remote" not in found.error
