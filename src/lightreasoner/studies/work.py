"""Making the jobs of a study: several at a time in processes of their own, each resumed where it stopped."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, redirect_stderr
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lightreasoner.config import BaselineConfig, Config, EvaluateConfig, SampleConfig
from lightreasoner.errors import Interrupted, LightReasonerError, RunError
from lightreasoner.miniature.word_problems import THEMES, word_problems
from lightreasoner.progress import say
from lightreasoner.runs import now, write_json
from lightreasoner.studies.cells import HELD_OUT_PROBLEMS, HeldOut, Job, Losses, Mixture, Themes, Train, stages


def make(jobs: Sequence[Job], workers: int) -> None:
    """Make all jobs, and those that they need, that are not finished yet.

    Raises:
        RunError: some failed; the others are finished.
        Interrupted: asked to stop; what was committed stays.
    """
    wanted: dict[Path, Job] = {}
    waiting = list(jobs)
    while waiting:
        job = waiting.pop()
        if job.folder not in wanted:
            wanted[job.folder] = job
            waiting += job.needs()
    missing = [job for job in wanted.values() if job.done is None]
    say(f"{len(wanted)} jobs, {len(wanted) - len(missing)} of them finished before; {workers} at a time")
    failures: list[str] = []
    for wave in sorted({job.wave for job in missing}):
        batch = sorted((job for job in missing if job.wave == wave), key=lambda job: str(job.folder))
        # What needs a failed job fails as well, and is not tried.
        ready = [job for job in batch if all(need.done is not None for need in job.needs())]
        failures += [f"{job.folder}: needs a job that failed" for job in batch if job not in ready]
        failures += _make_wave(ready, workers)
    if failures:
        raise RunError(f"{len(failures)} jobs failed: {'; '.join(failures[:5])}. The same command tries them again")


def _make_wave(jobs: Sequence[Job], workers: int) -> list[str]:
    """Make jobs that need nothing of each other; what went wrong."""
    if workers == 1:
        return [problem for job in jobs if (problem := _told(job, _work(job)))]
    # One thread a process: two processes that each take all cores are slower than one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(min(workers, max(1, len(jobs))), multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_work, job): job for job in jobs}
        try:
            told = (_told(futures[future], future.result()) for future in as_completed(futures))
            return [problem for problem in told if problem]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _told(job: Job, outcome: tuple[float, str | None, int]) -> str | None:
    seconds, problem, exit_code = outcome
    if exit_code > 128:
        raise Interrupted(exit_code - 128)
    say(f"{job.kind}/{job.folder.name}: {problem or f'{seconds:.0f} s'}")
    return f"{job.folder.name}: {problem}" if problem else None


def _work(job: Job) -> tuple[float, str | None, int]:
    """Make one job, its progress in a file beside it: seconds, what went wrong, exit code."""
    started = time.perf_counter()
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        say(f"-- {now()}")
        try:
            results = MAKERS[type(job.subject)](job)
        except LightReasonerError as error:
            return time.perf_counter() - started, " ".join(str(error).split()), error.exit_code
    write_json(job.folder / "done.json", {"results": results, "seconds": _read_seconds(job.folder)})
    return time.perf_counter() - started, None, 0


@contextmanager
def _timed(folder: Path, stage: str) -> Iterator[None]:
    """Count the time of a stage, also of attempts that were stopped; a finished one costs nothing again."""
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds = _read_seconds(folder)
        spent = seconds.get(stage, 0.0) + time.perf_counter() - started
        write_json(folder / "seconds.json", {**seconds, stage: round(spent, 2)})


def _read_seconds(folder: Path) -> dict[str, float]:
    path = folder / "seconds.json"
    return cast(dict[str, float], json.loads(path.read_text())) if path.exists() else {}


# --- How each kind of job is made ---


def _sample(job: Job) -> dict[str, Any]:
    from lightreasoner.sampling import sample

    with _timed(job.folder, "sample"):
        return {"sample": sample(cast(SampleConfig, job.subject).model_copy(update={"out": job.folder}))}


def _baseline(job: Job) -> dict[str, Any]:
    from lightreasoner.baselines import baseline

    with _timed(job.folder, "sample"):
        return {"sample": baseline(cast(BaselineConfig, job.subject).model_copy(update={"out": job.folder}))}


def _evaluate(job: Job) -> dict[str, Any]:
    from lightreasoner.evaluation import evaluate

    config = cast(EvaluateConfig, job.subject).model_copy(update={"out": job.folder / "evaluate"})
    with _timed(job.folder, "evaluate"):
        return {"evaluate": evaluate(config)}


def _train(job: Job) -> dict[str, Any]:
    from lightreasoner.evaluation import evaluate
    from lightreasoner.merging import merge
    from lightreasoner.selecting import select
    from lightreasoner.training import finetune

    train = cast(Train, job.subject)
    source = job.of(job.data(train))
    assert source.done is not None
    sampled = source.done["results"]["sample"]
    # One epoch for the rival that has its own number of answers; the same number of steps else, as for the method.
    own = sampled["finetune"] if train.baseline else {}
    run: dict[str, Callable[[Any], dict[str, Any]]] = {
        "select": select,
        "finetune": finetune,
        "merge": merge,
        "evaluate": evaluate,
    }
    results = {"sample": sampled}
    for name, config in stages(job, train, own).items():
        with _timed(job.folder, name):
            results[name] = run[name](config)
    return results


def _mixture(job: Job) -> dict[str, Any]:
    from lightreasoner.models import find_model, load_model, load_tokenizer

    mixture = cast(Mixture, job.subject)
    sources = [find_model(name) for name in (mixture.start, mixture.end)]
    start, end = (load_model(source, dtype="float32", device="cpu") for source in sources)
    weights = dict(end.named_parameters())
    for name, parameter in start.named_parameters():
        parameter.data.lerp_(weights[name].data, mixture.share)
    start.save_pretrained(job.folder)
    load_tokenizer(sources[0]).save_pretrained(job.folder)
    return {}


def _held_out(job: Job) -> dict[str, Any]:
    from lightreasoner.baselines import baseline, distinct, solved_problems

    subject = cast(HeldOut, job.subject)
    config = BaselineConfig(
        kind="ground-truth",
        **subject.model_dump(exclude={"skip"}),
        dtype="float32",
        out=job.folder,
    )
    chosen = islice(distinct(solved_problems(config), None), subject.skip, subject.skip + HELD_OUT_PROBLEMS)
    rows = [{"question": item.problem.question, "solution": item.solution} for item in chosen]
    if not rows:
        raise RunError(f"{subject.dataset} has no problems after the first {subject.skip}, so none can be held out")
    file = job.folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"sample": baseline(config.model_copy(update={"dataset": str(file), "data_dir": None}))}


def _themes(job: Job) -> dict[str, Any]:
    subject = cast(Themes, job.subject)
    assert set(subject.themes) <= set(THEMES)
    told = (problem.question for problem in word_problems("train", subject.seed) if problem.theme in subject.themes)
    questions: dict[str, None] = {}
    while len(questions) < subject.count:
        questions.setdefault(next(told))
    lines = (json.dumps({"question": question}) + "\n" for question in questions)
    (job.folder / "problems.jsonl").write_text("".join(lines), encoding="utf-8")
    return {}


def _losses(job: Job) -> dict[str, Any]:
    from lightreasoner.studies.held_out import checkpoint_losses

    subject = cast(Losses, job.subject)
    training, solutions = job.needs()
    recipe = subject.train.recipe
    with _timed(job.folder, "losses"):
        curve = checkpoint_losses(recipe.for_finetune(), training.folder / "finetune", solutions.folder)
    return {"losses": curve}


MAKERS: dict[type[Config], Callable[[Job], dict[str, Any]]] = {
    SampleConfig: _sample,
    BaselineConfig: _baseline,
    EvaluateConfig: _evaluate,
    Train: _train,
    Mixture: _mixture,
    HeldOut: _held_out,
    Themes: _themes,
    Losses: _losses,
}
