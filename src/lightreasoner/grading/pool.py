"""Judge answers in processes of their own, so that no text of a model can hang, crash or fill the caller.

It needs no signals and no shared state, so it works in any thread and on every platform. A worker ends itself when an
answer takes too long (`worker`), is killed when it takes too much memory, and is replaced in either case.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Self

from lightreasoner.config.sections import JudgeName
from lightreasoner.errors import ConfigError
from lightreasoner.grading.verdicts import Case, Judgement
from lightreasoner.runs.workers import Worker, WorkerEnded, WorkerPool, cores

LONGEST_TEXT = 1_000_000  # characters; of a longer text the end is judged, because answers stand there
LEAST_MEGABYTES = 256  # the symbolic library alone takes 70
LOOK_EVERY = 0.02  # seconds between two readings of the workers' memory


class GradingPool:
    """Judges many answers at a time, each within limits. Use it as a context manager.

    Args:
        judge: which judge.
        workers: processes; None takes one for each processor core.
        seconds: time for one answer, start-up not counted; above it the verdict is `timeout`.
        megabytes: resident memory of one worker; above it the verdict is `grader_error`.
        symbolic: workers load the symbolic library before their first answer; False where answers are numbers.

    Raises:
        ConfigError: no answer can be judged within these limits.
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
        count = workers or cores()
        arguments = (judge, str(seconds), "prepare" if symbolic else "lazy")
        self._pool = WorkerPool(count, partial(Worker, "lightreasoner.grading.worker", *arguments, quiet=True))
        self._seconds = seconds
        self._bytes = megabytes * 2**20
        self._window = 4 * count  # answers in progress: enough to keep the workers busy, few enough to keep memory flat
        self._closed = threading.Event()
        self._guard = threading.Thread(target=self._watch_memory, name="grading-memory", daemon=True)
        self._guard.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._pool.close(Worker.kill)
        self._guard.join()

    def judge(self, cases: Iterable[Case]) -> Iterator[Judgement]:
        """The judgement of each case, in order. Cases are read only as they are needed."""
        in_progress: deque[Future[Any]] = deque()
        for case in cases:
            if len(in_progress) == self._window:
                yield self._judgement(in_progress.popleft())
            in_progress.append(self._pool.submit([case.text[-LONGEST_TEXT:], case.gold, case.kind, case.benchmark]))
        while in_progress:
            yield self._judgement(in_progress.popleft())

    def _judgement(self, future: Future[Any]) -> Judgement:
        try:
            return Judgement(*future.result())
        except WorkerEnded as error:
            return Judgement(None, None, "timeout" if error.seconds >= self._seconds else "grader_error")

    def _watch_memory(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            for worker in self._pool.living:
                if worker.memory > self._bytes:
                    worker.kill()
