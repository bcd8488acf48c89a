"""Run the jobs of a study, several at a time in worker processes; each job resumes where it stopped.

`python -m lightreasoner.studies.scheduler` is such a worker: a job a line in, an `Outcome` a line out.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from lightreasoner.errors import Interrupted, RunError
from lightreasoner.runs.progress import say
from lightreasoner.runs.signals import StopRequest, stop_signals
from lightreasoner.runs.workers import Worker, WorkerEnded, WorkerPool, serve
from lightreasoner.studies.job import Job, Outcome
from lightreasoner.studies.jobs import from_json

LOOK_EVERY = 0.5  # seconds between two checks for a stop request


def run_jobs(jobs: Iterable[Job], workers: int) -> None:
    """Run the unfinished ones of these jobs and of all jobs that they need.

    Raises:
        RunError: some failed; the others are finished.
        Interrupted: a stop was requested; finished work is saved.
    """
    wanted = with_needs(jobs)
    missing = sorted((job for job in wanted if job.done is None), key=lambda job: (job.wave, str(job.folder)))
    say(f"{len(wanted)} jobs, {len(wanted) - len(missing)} of them finished before; {workers} at a time")
    failures: dict[str, list[str]] = {}  # jobs by what stopped them
    with stop_signals() as stop, _runner(workers, stop) as run:
        for _, wave in groupby(missing, key=lambda job: job.wave):
            of_wave = list(wave)
            ready = [job for job in of_wave if all(need.done is not None for need in job.needs())]
            waiting_for_failed = [job.folder.name for job in of_wave if job not in ready]
            if waiting_for_failed:
                failures.setdefault("needs a job that failed", []).extend(waiting_for_failed)
            for job, outcome in run(ready):
                if outcome.exit_code > 128:
                    raise Interrupted(outcome.exit_code - 128)
                say(f"{job.kind}/{job.folder.name}: {outcome.problem or f'{outcome.seconds:.0f} s'}")
                if outcome.problem:
                    failures.setdefault(outcome.problem, []).append(job.folder.name)
    if failures:
        causes = "; ".join(f"{_names(jobs)}: {problem.rstrip('.')}" for problem, jobs in failures.items())
        count = sum(map(len, failures.values()))
        raise RunError(f"{count} jobs failed: {causes}. The same command tries them again")


def _names(jobs: Sequence[str]) -> str:
    return jobs[0] if len(jobs) == 1 else f"{jobs[0]} and {len(jobs) - 1} more"


def with_needs(jobs: Iterable[Job]) -> list[Job]:
    """These jobs and all that they need, each once."""
    found: dict[Path, Job] = {}
    waiting = list(jobs)
    while waiting:
        job = waiting.pop()
        if job.folder not in found:
            found[job.folder] = job
            waiting += job.needs()
    return list(found.values())


Runner = Callable[[Sequence[Job]], Iterator[tuple[Job, Outcome]]]


@contextmanager
def _runner(workers: int, stop: StopRequest) -> Iterator[Runner]:
    """A function that runs independent jobs and yields their outcomes; a single worker is this process."""
    if workers == 1:
        yield partial(_run_here, stop)
        return
    # One thread a process: two processes that each take all cores are slower than one.
    environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    pool = WorkerPool(workers, partial(Worker, "lightreasoner.studies.scheduler", environment=environment))
    try:
        yield partial(_run_in, pool, stop)
    finally:
        pool.close(Worker.terminate)  # a job in progress stops at its next safe point


def _run_here(stop: StopRequest, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    for job in jobs:
        stop.check()
        yield job, job.run()


def _run_in(pool: WorkerPool, stop: StopRequest, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    in_progress: dict[Future[Any], Job] = {pool.submit(job.to_json()): job for job in jobs}
    while in_progress:
        stop.check()
        for future in wait(in_progress, LOOK_EVERY, FIRST_COMPLETED).done:
            job = in_progress.pop(future)
            try:
                yield job, Outcome(*future.result())
            except WorkerEnded as error:
                problem = f"its process ended; see {job.folder / 'log.txt'}"
                yield job, Outcome(error.seconds, problem, 1)


def main() -> None:
    """Answer the requests of `run_jobs`."""
    try:
        serve(lambda content: from_json(content).run())
    except KeyboardInterrupt:  # between two jobs
        sys.exit(130)


if __name__ == "__main__":
    main()
