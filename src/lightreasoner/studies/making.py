"""How each kind of job is made, and how long its stages took."""

import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

from lightreasoner.config import BaselineConfig, EvaluateConfig, MachineSettings, SampleConfig
from lightreasoner.config_base import Config
from lightreasoner.errors import LightReasonerError, RunError
from lightreasoner.miniature.word_problems import THEMES, word_problems
from lightreasoner.runs.environment import now
from lightreasoner.runs.files import write_json
from lightreasoner.runs.progress import say
from lightreasoner.studies.jobs import (
    HELD_OUT_PROBLEMS,
    Elsewhere,
    HeldOut,
    Job,
    Losses,
    Mixture,
    Themes,
    Train,
    evaluation_of,
    stages,
)


class Outcome(NamedTuple):
    """What became of a job: seconds, what went wrong, and the exit code that would be."""

    seconds: float
    problem: str | None = None
    exit_code: int = 0


def make_job(job: Job) -> Outcome:
    """Make one job, its progress in a file beside it; a failure is an outcome, too."""
    started = time.perf_counter()
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log):
        say(f"-- {now()}")
        try:
            results = MAKERS[type(job.subject)](job)
        except LightReasonerError as error:
            return Outcome(time.perf_counter() - started, " ".join(str(error).split()), error.exit_code)
        except Exception as error:  # one job that fails must not take the others with it
            traceback.print_exc()
            return Outcome(time.perf_counter() - started, f"{type(error).__name__}, see {job.folder / 'log.txt'}", 1)
    write_json(job.folder / "done.json", {"results": results, "seconds": _read_seconds(job.folder)})
    return Outcome(time.perf_counter() - started)


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
    from lightreasoner.samples.sampling import sample

    with _timed(job.folder, "sample"):
        return {"sample": sample(cast(SampleConfig, job.subject).model_copy(update={"out": job.folder}))}


def _baseline(job: Job) -> dict[str, Any]:
    from lightreasoner.samples.baselines import baseline

    with _timed(job.folder, "sample"):
        return {"sample": baseline(cast(BaselineConfig, job.subject).model_copy(update={"out": job.folder}))}


def _evaluate(job: Job) -> dict[str, Any]:
    from lightreasoner.evaluation.evaluate import evaluate

    config = cast(EvaluateConfig, job.subject).model_copy(update={"out": job.folder / "evaluate"})
    with _timed(job.folder, "evaluate"):
        return {"evaluate": evaluate(config)}


def _train(job: Job) -> dict[str, Any]:
    from lightreasoner.evaluation.evaluate import evaluate
    from lightreasoner.samples.selecting import select
    from lightreasoner.training.finetuning import finetune
    from lightreasoner.training.merging import merge

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
    from lightreasoner.models.loading import find_model, load_model, load_tokenizer

    mixture = cast(Mixture, job.subject)
    sources = [find_model(name) for name in (mixture.start, mixture.end)]
    start, end = (load_model(source, MachineSettings(dtype="float32", device="cpu")) for source in sources)
    weights = dict(end.named_parameters())
    for name, parameter in start.named_parameters():
        parameter.data.lerp_(weights[name].data, mixture.share)
    start.save_pretrained(job.folder)
    load_tokenizer(sources[0]).save_pretrained(job.folder)
    return {}


def _held_out(job: Job) -> dict[str, Any]:
    from lightreasoner.samples.baselines import baseline, distinct, solved_problems

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


def _elsewhere(job: Job) -> dict[str, Any]:
    from lightreasoner.evaluation.evaluate import evaluate

    subject = cast(Elsewhere, job.subject)
    config = evaluation_of(job.of(subject.train).folder / "merged", subject.train, job.folder)
    with _timed(job.folder, "evaluate"):
        return {"evaluate": evaluate(config.model_copy(update={"benchmarks": subject.benchmarks}))}


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
    Elsewhere: _elsewhere,
}
