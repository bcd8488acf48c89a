"""Start a command, break it, re-run it, and compare its files with those of an uninterrupted run.

Unless a command has to start cold, it is forked from a server that has imported the libraries, which take seconds.
"""

import atexit
import faulthandler
import functools
import gc
import importlib
import json
import math
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest

from lightreasoner.runs.faults import VARIABLE

TALLY = "LIGHTREASONER_FAULT_TALLY"  # file for one line per count
HANG = 90.0  # seconds after which a command counts as hanging; the longest takes 9 s on an idle machine

_server = None
if "forkserver" in multiprocessing.get_all_start_methods():
    _server = multiprocessing.get_context("forkserver")
    _server.set_forkserver_preload(
        [
            "lightreasoner.pipeline",
            "lightreasoner.samples.jsonl",
            "lightreasoner.cli",
            # What commands import when they need it: for the first model, template and Arrow table.
            "transformers.models.qwen2.modeling_qwen2",
            "transformers.utils.chat_template_utils",
            "pandas",
        ]
    )


def count(**what: int) -> None:
    """Add to the tally of the current test's module: `count(faults=1)`."""
    if file := os.environ.get(TALLY):
        module = os.environ.get("PYTEST_CURRENT_TEST", "").partition(".py")[0].rpartition("/")[2]
        with Path(file).open("a") as lines:
            lines.write(json.dumps({"module": module, **what}) + "\n")


@dataclass(frozen=True)
class Ended:
    """The result of a command. A negative code is the signal that killed it."""

    code: int
    out: str
    error: str

    @property
    def last_line(self) -> str:
        return self.error.strip().rpartition("\n")[2]


class Command:
    """A command in a separate process."""

    def __init__(
        self,
        arguments: tuple[object, ...],
        environment: dict[str, str],
        patch: Callable[[], None] | None,
        *,
        cold: bool,
        cwd: Path | None = None,
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix="lightr-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._streams = [folder / "out", folder / "error"]
        for path in self._streams:
            path.touch()
        words = [str(argument) for argument in arguments]
        if patch is not None and (cold or _server is None):
            pytest.skip("a function can only be replaced in a forked process")
        if cold or _server is None:
            command = [sys.executable, "-m", "lightreasoner.cli", *words]
            out, error = (path.open("wb") for path in self._streams)
            with out, error:
                settings = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
                self._popen = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, env=settings, cwd=cwd
                )
            self._forked = None
            self.pid = self._popen.pid
        else:
            places = map(str, (cwd or Path.cwd(), *self._streams))
            self._forked = _server.Process(target=_run, args=(words, environment, patch, *places), daemon=True)
            with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1"):  # read when the server imports its libraries
                self._forked.start()
            assert self._forked.pid is not None
            self.pid = self._forked.pid

    @property
    def code(self) -> int | None:
        return self._popen.poll() if self._forked is None else self._forked.exitcode

    def send(self, number: signal.Signals) -> bool:
        """Send a signal, counted as a fault; returns whether the command still ran."""
        if self.code is not None:
            return False
        os.kill(self.pid, number)
        count(faults=1)
        return True

    def end(self, seconds: float = HANG) -> Ended:
        """Wait for the command to end; fail if it hangs."""
        if self._forked is None:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        else:
            self._forked.join(seconds)
        if self.code is None:
            count(hangs=1)
            os.kill(self.pid, signal.SIGKILL)
            pytest.fail(f"still running after {seconds} s: {self._streams[1].read_text()[-2000:]}")
        atexit.register(shutil.rmtree, self._streams[0].parent, ignore_errors=True)
        out, error = (path.read_text(errors="replace") for path in self._streams)
        if "Traceback" in error:
            count(crashes=1)
            pytest.fail(error)
        assert self.code is not None
        return Ended(self.code, out, error)


def _run(
    words: list[str], environment: dict[str, str], patch: Callable[[], None] | None, cwd: str, out: str, error: str
) -> None:
    """Run the command line in the forked process."""
    gc.freeze()  # loading a model collects garbage, which takes half a second in all that the server imported
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, path in ((1, out), (2, error)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    faulthandler.dump_traceback_later(HANG / 2)  # shows where a command hangs
    import torch

    torch.set_num_threads(1)
    if patch is not None:
        patch()
    sys.argv = ["lightr", *words]
    from lightreasoner.cli import main

    main()


LOAD = "transformers:AutoModelForCausalLM.from_pretrained"  # of every model
OBJECTIVE = "lightreasoner.training.objective:LabelObjective.__call__"  # of every micro-batch; `tuning` has one a step
LOSS = "lightreasoner.contrast:label_cross_entropy"  # within it


def at_call(
    target: str,
    turn: int,
    *,
    before: Callable[[], object] | None = None,
    after: Callable[[Any], Any] | None = None,
) -> Callable[[], None]:
    """A patch for `start`: around the `turn`-th call of a function, do something before or to its result.

    Args:
        target: `module:name`, where the name may be that of a method.
        turn: which call, from 1.
        before: called before it.
        after: gets its result, gives the one to return.
    """
    return functools.partial(_patch, target, turn, before, after)


def _patch(target: str, turn: int, before: Callable[[], object] | None, after: Callable[[Any], Any] | None) -> None:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    original, calls = getattr(owner, name), 0

    def patched(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != turn:
            return original(*arguments, **options)
        if before is not None:
            before()
        result = original(*arguments, **options)
        return result if after is None else after(result)

    is_bound = getattr(original, "__self__", None) is owner
    setattr(owner, name, staticmethod(patched) if is_bound else patched)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def held(go: Path) -> None:
    """Like the fail points' `hang`."""
    go.with_name(f"{go.name}.reached").touch()
    while not go.exists():
        time.sleep(0.01)


def out_of_memory() -> None:
    raise MemoryError("a fault that a test asked for")


def times_nan(value: Any) -> Any:
    return value * math.nan


def with_nan_gradient(loss: Any) -> Any:
    loss.register_hook(times_nan)
    return loss


def start(
    *arguments: object,
    fail: str = "",
    patch: Callable[[], None] | None = None,
    cold: bool = False,
    cwd: Path | None = None,
    **environment: str,
) -> Command:
    """Start a command, with fail points (`lightreasoner.runs.faults`) or a patch (`at_call`, `script`) if any."""
    if fail and ":hang" not in fail:  # it only pauses a command
        count(faults=1)
    return Command(arguments, {VARIABLE: fail, **environment}, patch, cold=cold, cwd=cwd)


def completed(
    *arguments: object, seconds: float = 550, cold: bool = False, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and give what `subprocess.run` would."""
    ended = start(*arguments, cold=cold, cwd=cwd, **environment).end(seconds)
    return subprocess.CompletedProcess(arguments, ended.code, ended.out, ended.error)


def script(file: Path, *arguments: object) -> Callable[[], None]:
    """A patch for `start`: run a Python script in the place of the command line."""
    return functools.partial(_run_script, [str(file), *map(str, arguments)])


def _run_script(arguments: list[str]) -> None:
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
    sys.exit()


def ranks(count: int) -> list[dict[str, str]]:
    """The environment of each process of a distributed run on this machine, as torchrun sets it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(count)]


def lightr(*arguments: object, **options: Any) -> Ended:
    """Run a command to its end."""
    return start(*arguments, **options).end()


def succeed(*arguments: object, **environment: Any) -> Ended:
    """Run a command; fail unless it succeeds."""
    ended = lightr(*arguments, **environment)
    assert ended.code == 0, ended.error
    return ended


def refused(*arguments: object, code: int = 1, **environment: Any) -> str:
    """Run a command with bad input; check its exit code, and return its last line."""
    ended = lightr(*arguments, **environment)
    assert ended.code == code, (ended.code, ended.error)
    assert ended.out == ""
    assert ended.last_line.startswith("lightr: "), ended.error
    count(bad_inputs=1)
    return ended.last_line


def wait_for(condition: Callable[[], object], command: Command) -> None:
    """Wait until the condition holds or the command ends."""
    limit = time.monotonic() + HANG
    while not condition() and command.code is None and time.monotonic() < limit:
        time.sleep(0.002)


def commits(stage: Path) -> list[str]:
    """Complete lines of a stage's ledger."""
    ledger = stage / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True) if ledger.exists() else []
    return [line for line in lines if line.endswith("\n")]


def rows(stage: Path, kind: str) -> list[dict[str, Any]]:
    """All committed rows of a kind, in order."""
    shards = [name for line in commits(stage) for name in json.loads(line)["files"] if name.startswith(kind)]
    return [row for name in shards for row in pq.read_table(stage / name).to_pylist()]


def assert_same_rows(parts: Path, whole: Path, kind: str, key: tuple[str, ...]) -> int:
    """Check that no row is lost or doubled and all values are identical; returns the number of rows."""
    found, expected = (
        sorted(rows(stage, kind), key=lambda row: [row[name] for name in key]) for stage in (parts, whole)
    )
    have, want = (Counter(tuple(row[name] for name in key) for row in part) for part in (found, expected))
    lost, doubled = len(want - have), sum(count - 1 for count in have.values())
    count(rows=len(expected), rows_lost=lost, rows_doubled=doubled)
    assert (lost, doubled) == (0, 0)
    assert found == expected
    return len(found)


def assert_same_samples(parts: Path, whole: Path) -> None:
    """Check that two sample folders hold the same rollouts and steps."""
    assert_same_rows(parts / "sample", whole / "sample", "rollouts", ("question_id",))
    assert_same_rows(parts / "sample", whole / "sample", "steps", ("question_id", "position"))
    count(survived=1)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of all files below a folder, except those of the lock."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".holder")
    }
