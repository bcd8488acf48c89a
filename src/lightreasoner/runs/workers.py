"""Child processes that answer requests, one line of JSON each way.

The parent starts `python -P -m MODULE ARGUMENTS` through `Worker` or `WorkerPool`; the child calls `serve`. A child can
crash, hang or fill its memory without harm to the parent. `multiprocessing` would need a `__main__` guard in users'
scripts and would pickle what it sends.

Protocol: the child writes "ready" once, then one reply for each request, in order. Lines are ASCII, so that every text
passes unchanged. Anything else that the child prints goes to its stderr.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import psutil

from lightreasoner.errors import LightReasonerError


def cores() -> int:
    """Processor cores that this process may use, which on a cluster are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerEnded(Exception):
    """A worker ended instead of replying.

    Attributes:
        seconds: time since it got the request.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a worker process ended {seconds:.1f} s after it got its request")
        self.seconds = seconds


class Worker(subprocess.Popen[str]):
    """One child process.

    Args:
        module: full name of a module that calls `serve` when it is run.
        environment: variables that it gets beside those of this process.
        quiet: discard what it writes to stderr.
        on_line: called in a thread with each line that it writes to stderr. Such a worker gets no signals of the
            terminal.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        quiet: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        # -P: a json.py in the current folder is not imported in the place of Python's own.
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        super().__init__(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if on_line else subprocess.DEVNULL if quiet else None,
            env={**os.environ, **({"PYTHONIOENCODING": "utf-8"} if on_line else {}), **(environment or {})},
            encoding="utf-8",
            errors="replace",
            start_new_session=on_line is not None,
        )
        self._listener = None
        if on_line is not None:
            self._listener = threading.Thread(target=self._listen, args=(on_line,), daemon=True)
            self._listener.start()
        self._facts = psutil.Process(self.pid)

    def _listen(self, on_line: Callable[[str], None]) -> None:
        assert self.stderr is not None
        with self.stderr:
            for line in self.stderr:
                on_line(line.rstrip())

    def wait_until_ready(self) -> None:
        """Wait for the imports of the child.

        Raises:
            LightReasonerError: it exited by itself, as the next one would. A child that was killed raises `WorkerEnded`
                at its first request instead.
        """
        assert self.stdout is not None
        if not self.stdout.readline() and (code := self.wait()) > 0:
            command = subprocess.list2cmdline(self._command)
            raise LightReasonerError(f"a worker process ended at start with exit code {code}; see why with `{command}`")

    def ask(self, request: Any) -> Any:
        """The reply to a request.

        Raises:
            WorkerEnded: the process ended instead.
        """
        assert self.stdin is not None
        assert self.stdout is not None
        started = time.monotonic()
        try:
            self.stdin.write(json.dumps(request) + "\n")
            self.stdin.flush()
            return json.loads(self.stdout.readline())
        except (OSError, ValueError):  # closed pipe, or no whole line
            raise WorkerEnded(time.monotonic() - started) from None

    def close(self) -> int:
        """Let an idle worker end, wait for it, and return its exit code; negative for a signal."""
        for pipe in (self.stdin, self.stdout):
            assert pipe is not None
            with suppress(OSError):  # what could not be written
                pipe.close()
        code = self.wait()
        if self._listener is not None:
            self._listener.join()
        return code

    @property
    def memory(self) -> int:
        """Resident bytes; 0 after the process has ended."""
        try:
            return int(self._facts.memory_info().rss)
        except psutil.Error:
            return 0


class WorkerPool:
    """Up to `count` workers, which are started on demand and replaced after they end."""

    def __init__(self, count: int, start: Callable[[], Worker]) -> None:
        self._start = start
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._living: set[Worker] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="workers")

    @property
    def living(self) -> list[Worker]:
        """The workers that have not ended."""
        with self._lock:
            return list(self._living)

    def submit(self, request: Any) -> Future[Any]:
        """Give a request to the next free worker; the future raises what `Worker.ask` raises."""
        return self._threads.submit(self._ask, request)

    def close(self, end: Callable[[Worker], None]) -> None:
        """Cancel waiting requests, end all workers and wait for them.

        Args:
            end: `Worker.terminate`, which lets a worker stop at its next safe point, or `Worker.kill`.
        """
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self.living:
            end(worker)
        self._threads.shutdown()
        for worker in self.living:
            worker.communicate()  # it is idle or has ended; an idle one ends when its stdin is closed

    def _ask(self, request: Any) -> Any:
        worker = self._worker()
        try:
            reply = worker.ask(request)
        except WorkerEnded:
            self._remove(worker)
            raise
        self._idle.put(worker)
        return reply

    def _worker(self) -> Worker:
        try:
            return self._idle.get_nowait()
        except Empty:
            pass
        with self._lock:
            if self._closed:  # `close` would not see a worker that starts now
                raise WorkerEnded(0.0)
            worker = self._start()
            self._living.add(worker)
        try:
            worker.wait_until_ready()
        except LightReasonerError:
            self._remove(worker)
            raise
        return worker

    def _remove(self, worker: Worker) -> None:
        worker.kill()
        worker.wait()
        with self._lock:
            self._living.discard(worker)


def serve(answer: Callable[[Any], Any], prepare: Callable[[], None] | None = None) -> None:
    """Answer requests from stdin until it closes: the child's side of `Worker`.

    Args:
        answer: takes the value of a request and gives the value of the reply.
        prepare: is called before "ready", such as for slow imports.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints must not reach the parent as a reply
    if prepare is not None:
        prepare()
    print('"ready"', file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)
