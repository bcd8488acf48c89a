"""Making the jobs of a study: several at a time in processes of their own, each resumed where it stopped.

Not `multiprocessing`, which would need a `__main__` guard in users' scripts: workers are started as modules and spoken
to in lines of JSON, as those that judge answers are.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from lightreasoner.errors import Interrupted, RunError
from lightreasoner.runs.progress import say
from lightreasoner.runs.signals import StopRequest, stop_signals
from lightreasoner.studies.jobs import Job
from lightreasoner.studies.making import Outcome, make_job

LOOK_EVERY = 0.5  # seconds between two looks whether somebody asked to stop


def make(jobs: Sequence[Job], workers: int) -> None:
    """Make all jobs, and those that they need, that are not finished yet.

    Raises:
        RunError: some failed; the others are finished.
        Interrupted: asked to stop; what was committed stays.
    """
    wanted = _with_needs(jobs)
    missing = [job for job in wanted if job.done is None]
    say(f"{len(wanted)} jobs, {len(wanted) - len(missing)} of them finished before; {workers} at a time")
    failures: list[str] = []
    with stop_signals() as stop, _Crew(workers) as crew:
        for wave in sorted({job.wave for job in missing}):
            batch = sorted((job for job in missing if job.wave == wave), key=lambda job: str(job.folder))
            # What needs a failed job fails as well, and is not tried.
            ready = [job for job in batch if all(need.done is not None for need in job.needs())]
            failures += [f"{job.folder.name}: needs a job that failed" for job in batch if job not in ready]
            failures += crew.make(ready, stop)
    if failures:
        raise RunError(f"{len(failures)} jobs failed: {'; '.join(failures[:5])}. The same command tries them again")


def _with_needs(jobs: Sequence[Job]) -> list[Job]:
    """The jobs and all that they need, each once."""
    wanted: dict[Path, Job] = {}
    waiting = list(jobs)
    while waiting:
        job = waiting.pop()
        if job.folder not in wanted:
            wanted[job.folder] = job
            waiting += job.needs()
    return list(wanted.values())


class _Crew:
    """Worker processes, started when they are needed; one alone works in this process."""

    def __init__(self, workers: int) -> None:
        self._alone = workers == 1
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._all: list[_Worker] = []
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="study")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.dismiss(at_once=kind is not None)
        self._threads.shutdown()
        for worker in self._all:
            worker.wait()

    def make(self, jobs: Sequence[Job], stop: StopRequest) -> list[str]:
        """Make jobs that need nothing of each other; what went wrong.

        Raises:
            Interrupted: asked to stop.
        """
        if self._alone:
            failures = []
            for job in jobs:
                stop.check()
                failures += _told(job, make_job(job))
            return failures
        waiting: dict[Future[Outcome], Job] = {self._threads.submit(self._hand_out, job): job for job in jobs}
        failures = []
        while waiting:
            stop.check()
            for future in wait(waiting, LOOK_EVERY, FIRST_COMPLETED).done:
                failures += _told(waiting.pop(future), future.result())
        return failures

    def _hand_out(self, job: Job) -> Outcome:
        try:
            worker = self._idle.get_nowait()
        except Empty:
            worker = _Worker()
            self._all.append(worker)
        outcome = worker.make(job)
        if outcome is None:
            return Outcome(0.0, f"its process ended; see {job.folder / 'log.txt'}", 1)
        self._idle.put(worker)
        return outcome


def _told(job: Job, outcome: Outcome) -> list[str]:
    """Say what became of a job; what went wrong, if anything did."""
    if outcome.exit_code > 128:
        raise Interrupted(outcome.exit_code - 128)
    say(f"{job.kind}/{job.folder.name}: {outcome.problem or f'{outcome.seconds:.0f} s'}")
    return [f"{job.folder.name}: {outcome.problem}"] if outcome.problem else []


class _Worker:
    """One process of `worker`."""

    def __init__(self) -> None:
        # One thread a process: two processes that each take all cores are slower than one.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lightreasoner.studies.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
        )

    def make(self, job: Job) -> Outcome | None:
        """What became of the job; None if the process ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(job.to_json() + "\n")
            self._process.stdin.flush()
            return Outcome(*json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):  # closed pipe, or no whole line
            return None

    def dismiss(self, *, at_once: bool) -> None:
        """Give it no more jobs; `at_once` also makes it leave the one it has at the next safe point."""
        assert self._process.stdin is not None
        if at_once:
            self._process.terminate()
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Wait until the process has ended."""
        self._process.wait()
