"""Judges in processes of their own, so that nothing a model writes can hang, crash or fill the caller.

No signals and no shared state: it works in any thread, on every platform, and needs no `__main__` guard. A worker ends
itself when a case takes too long (`worker`), is ended when it takes too much memory, and is replaced in either case.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import psutil

from lightreasoner.config import JudgeName
from lightreasoner.errors import ConfigError, LightReasonerError
from lightreasoner.grading.verdicts import Case, Judgement

LONGEST_TEXT = 1_000_000  # characters; of longer ones the end is judged, where answers stand
LEAST_MEGABYTES = 256  # the symbolic library alone takes 70
LOOK_EVERY = 0.02  # seconds between two looks at the workers' memory


class GradingPool:
    """Judges many answers at once, each with limits. Use it as a context manager.

    Args:
        judge: which judge.
        workers: processes; None takes one for each processor core.
        seconds: time for one answer, start-up not counted; after it the verdict is `timeout`.
        megabytes: resident memory of one worker; above it the verdict is `grader_error`.
        symbolic: have workers load the symbolic library before their first answer; False where answers are numbers.

    Raises:
        ConfigError: limits within which nothing can be judged.
    """

    def __init__(
        self,
        judge: JudgeName = "math-verify",
        *,
        workers: int | None = None,
        seconds: float = 10.0,
        megabytes: int = 1024,
        symbolic: bool = True,
    ) -> None:
        if not seconds > 0 or megabytes < LEAST_MEGABYTES or (workers is not None and workers < 1):
            raise ConfigError(
                f"{seconds} seconds, {megabytes} megabytes, {workers} workers: a judge needs more than 0 seconds, "
                f"{LEAST_MEGABYTES} megabytes and 1 worker"
            )
        count = workers or _cores()
        # -P: a json.py that lies in the user's folder is not imported in place of Python's own.
        self._command = [sys.executable, "-P", "-m", "lightreasoner.grading.worker", judge, str(seconds)]
        self._command.append("prepare" if symbolic else "lazy")
        self._seconds = seconds
        self._bytes = megabytes * 2**20
        self._window = 4 * count  # cases under way: enough to keep the workers busy, few enough to keep memory flat
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._living: set[_Worker] = set()
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="grading")
        self._guard = threading.Thread(target=self._watch_memory, name="grading-memory", daemon=True)
        self._guard.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._living):
            worker.end()
        self._threads.shutdown(wait=True)
        for worker in list(self._living):  # one that was started meanwhile
            worker.end()
        self._guard.join()

    def judge(self, cases: Iterable[Case]) -> Iterator[Judgement]:
        """The judgement of each case, in order. Cases are drawn as they are needed."""
        under_way: deque[Future[Judgement]] = deque()
        for case in cases:
            if len(under_way) == self._window:
                yield under_way.popleft().result()
            under_way.append(self._threads.submit(self._judge, case))
        while under_way:
            yield under_way.popleft().result()

    def _judge(self, case: Case) -> Judgement:
        worker = self._worker()
        started = time.monotonic()
        reply = worker.ask(case)
        if reply is not None:
            self._idle.put(worker)
            return reply
        self._living.discard(worker)
        worker.end()
        late = time.monotonic() - started >= self._seconds
        return Judgement(None, None, "timeout" if late else "grader_error")

    def _worker(self) -> "_Worker":
        try:
            return self._idle.get_nowait()
        except Empty:
            worker = _Worker(self._command)
            self._living.add(worker)
            worker.wait_until_ready()
            return worker

    def _watch_memory(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            for worker in list(self._living):
                if worker.memory() > self._bytes:
                    worker.end()


def _cores() -> int:
    """Processor cores that this process may use, which on a cluster are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """One process of `worker`."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
        )
        self._facts = psutil.Process(self._process.pid)

    def wait_until_ready(self) -> None:
        """Wait for the imports.

        Raises:
            LightReasonerError: the process gave up by itself, as the next one would.
        """
        assert self._process.stdout is not None
        if not self._process.stdout.readline() and (code := self._process.wait()) > 0:  # negative: somebody ended it
            command = subprocess.list2cmdline(self._command)
            raise LightReasonerError(f"no judge: its process ended with exit code {code}; see why with `{command}`")

    def ask(self, case: Case) -> Judgement | None:
        """The worker's judgement; None if it ended instead of answering."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            question = {**asdict(case), "text": case.text[-LONGEST_TEXT:]}
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            reply = self._process.stdout.readline()
            return Judgement(*json.loads(reply))
        except (OSError, ValueError):  # closed pipe, or no whole line
            return None

    def memory(self) -> int:
        """Resident bytes; 0 when it has ended."""
        try:
            return int(self._facts.memory_info().rss)
        except psutil.Error:
            return 0

    def end(self) -> None:
        """End the process at once; its pipes are closed by whoever reads them, or with this object."""
        self._process.kill()
        self._process.wait()
