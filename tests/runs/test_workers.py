"""Worker processes: replies in order, nothing else among them, and no process left behind."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from lightreasoner.errors import LightReasonerError
from lightreasoner.runs import workforce
from lightreasoner.runs.workers import Worker, WorkerEnded, WorkerPool

CHILD = """
import os, signal, sys, time
from lightreasoner.runs.workers import serve

def answer(request):
    if request == "pid":
        return os.getpid()
    if request == "print":
        print("noise")
        os.system("echo more noise")
    if request == "end":
        os._exit(3)
    if request == "grow":
        answer.kept = bytearray(b"x" * 100_000_000)
    if request == "sleep":
        time.sleep(600)
    if request == "stop at a safe point":
        stopped = []
        signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
        print("ready to stop", file=sys.stderr, flush=True)
        while not stopped:
            time.sleep(0.05)
    return request

if __name__ == "__main__":
    if sys.argv[1:] == ["broken"]:
        sys.exit(7)
    serve(answer, lambda: print("noise before the first request"))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "child.py").write_text(CHILD)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[Worker]:
    worker = Worker("child", environment=environment)
    worker.wait_until_ready()
    yield worker
    worker.kill()
    worker.wait()


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "child" in child.cmdline()]


@pytest.mark.parametrize("value", [None, 1.5, "\ud800 é\n\u2028", {"a": [1, {"b": None}]}, ["ready"]])
def test_a_value_reaches_the_worker_and_comes_back(worker: Worker, value: object) -> None:
    assert worker.ask(value) == value


def test_printed_text_is_no_reply(worker: Worker) -> None:
    assert [worker.ask(request) for request in ("print", 1, "print", 2)] == ["print", 1, "print", 2]


def test_a_worker_that_ends_raises_with_the_time_it_took(worker: Worker) -> None:
    with pytest.raises(WorkerEnded) as found:
        worker.ask("end")
    assert 0 <= found.value.seconds < 60
    with pytest.raises(WorkerEnded):
        worker.ask(1)


def test_memory_is_read_while_the_worker_lives(worker: Worker) -> None:
    before = worker.memory
    worker.ask("grow")
    assert worker.memory - before > 90_000_000
    worker.kill()
    worker.wait()
    assert worker.memory == 0


def test_a_worker_that_exits_at_start_is_an_error_with_its_command(environment: dict[str, str]) -> None:
    worker = Worker("child", "broken", environment=environment)
    with pytest.raises(LightReasonerError, match="exit code 7; see why with `.*-P -m child broken`"):
        worker.wait_until_ready()


def test_a_pool_reuses_its_workers_and_replaces_those_that_ended(environment: dict[str, str]) -> None:
    pool = WorkerPool(1, partial(Worker, "child", environment=environment))
    first = pool.submit("pid").result()
    assert pool.submit("pid").result() == first
    with pytest.raises(WorkerEnded):
        pool.submit("end").result()
    assert pool.living == []
    assert pool.submit("pid").result() != first
    assert len(pool.living) == 1
    pool.close(Worker.terminate)
    assert children() == []


@pytest.mark.parametrize("end", [Worker.terminate, Worker.kill])
def test_closing_ends_busy_and_idle_workers_and_cancels_what_waits(environment: dict[str, str], end) -> None:
    pool = WorkerPool(2, partial(Worker, "child", environment=environment))
    busy = [pool.submit("sleep"), pool.submit("sleep")]
    waiting: Future[object] = pool.submit(1)
    while len(children()) < 2:
        time.sleep(0.05)
    started = time.monotonic()
    pool.close(end)
    assert time.monotonic() - started < 30
    assert waiting.cancelled()
    assert all(isinstance(future.exception(), WorkerEnded) for future in busy)
    assert children() == []


def test_a_terminated_worker_may_finish_its_request(
    environment: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    pool = WorkerPool(1, partial(Worker, "child", environment=environment))
    reply = pool.submit("stop at a safe point")
    while "ready to stop" not in capfd.readouterr().err:
        time.sleep(0.05)
    pool.close(Worker.terminate)
    assert reply.result() == "stop at a safe point"
    assert children() == []


@pytest.mark.parametrize(("threads", "warned"), [("", False), ("1", False), ("2", False), ("3", True)])
def test_more_threads_than_cores_are_named(
    threads: str, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(workforce, "cores", lambda: 4)
    monkeypatch.setattr(workforce, "LocalWorker", Mock())
    with workforce.LocalLauncher("module:function", ["cpu", "cpu"]):
        pass
    shown = capsys.readouterr().err
    assert ("OMP_NUM_THREADS=3 is set for each of 2 workers on 4 cores" in shown) == warned
    assert shown.count("\n") == warned
