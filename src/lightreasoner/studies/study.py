"""`lightr study NAME`: make what is missing, then report."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightreasoner.config import RunConfig
from lightreasoner.errors import ConfigError, RunError
from lightreasoner.recipes import load_recipe
from lightreasoner.runs.locks import locked
from lightreasoner.runs.progress import say
from lightreasoner.studies.figures import REPORTS
from lightreasoner.studies.grids import GRIDS, Plan, Scope
from lightreasoner.studies.reports import lines_of, page, write
from lightreasoner.studies.scheduler import make

DEFAULT_RECIPES = ("miniature", "miniature-instruct")
ALL = "all"
QUICK_NOTE = "Quick form: far too small to decide anything, it shows that the study works."


def study(
    name: str,
    *,
    recipes: Sequence[str] = (),
    out: Path = Path("runs/studies"),
    seeds: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    page_file: Path | None = None,
) -> dict[str, Any]:
    """Make one study or all of them, and write their reports.

    Args:
        name: of `GRIDS`, or `all`.
        recipes: bundled names or files; the first is the subject, others are further rows of Table 1. By default the
            two of the miniature.
        out: folder of all studies; what is finished there is not made again.
        seeds: of every setting; None takes each study's own number.
        quick: everything smaller; reports say nothing then but that it works.
        workers: processes; None takes one for each core, and one on a GPU.
        page_file: where to write all reports as one page.

    Returns:
        By study: its Markdown lines and its files.

    Raises:
        ConfigError: there is no such study or recipe.
        LightReasonerError: see `errors`; the same call goes on where this one ended.
    """
    chosen = list(GRIDS) if name == ALL else [name]
    if unknown := [study for study in chosen if study not in GRIDS]:
        raise ConfigError(f"no study {unknown[0]}: there are {', '.join(GRIDS)} and all")
    started = time.perf_counter()
    root = out / "quick" if quick else out
    configs = [RunConfig.checked(load_recipe(recipe)) for recipe in recipes or DEFAULT_RECIPES]
    scope = Scope.of(configs, root, seeds, quick)
    plans = {study: GRIDS[study](scope) for study in chosen}
    count = workers or _workers(scope)
    with locked(root):
        failure = _made(plans, count)
        # Where some job failed, the studies that do not need it are reported nevertheless.
        whole = {
            study: plan for study, plan in plans.items() if all(job.done for jobs in plan.values() for job in jobs)
        }
        reports = {study: REPORTS[study](scope, plan) for study, plan in whole.items()}
        missing = [study for study in plans if study not in reports]
        if quick:
            reports = {study: replace(report, notes=[*report.notes, QUICK_NOTE]) for study, report in reports.items()}
        facts = {"recipes": list(recipes or DEFAULT_RECIPES), "quick": quick, "seeds": seeds, "workers": count}
        files = {study: write(study, report, root / "reports", facts) for study, report in reports.items()}
        if page_file is not None:
            words = [f"--recipe {recipe}" for recipe in recipes] + ["--quick"] * quick
            words += [f"--seeds {seeds}"] * (seeds is not None)
            page(
                page_file,
                reports,
                written=root / "reports",
                missing=missing,
                command=" ".join(["lightr study {}", *words]),
                minutes=_work(plans),
                workers=count,
            )
    minutes = (time.perf_counter() - started) / 60
    say(f"{minutes:.1f} minutes; {len(reports)} of {len(plans)} reports are in {root / 'reports'}")
    if missing:
        say(f"not reported: {', '.join(missing)}")
    if failure is not None:
        raise failure
    return {
        study: {"title": report.title, "lines": lines_of(study, report), "files": [str(path) for path in files[study]]}
        for study, report in reports.items()
    }


def _made(plans: Mapping[str, Plan], workers: int) -> RunError | None:
    """Make the jobs of all plans; the error if some failed."""
    try:
        make([job for plan in plans.values() for jobs in plan.values() for job in jobs], workers)
    except RunError as error:
        return error
    return None


def _work(plans: Mapping[str, Plan]) -> float:
    """Minutes that one worker would have needed for all that is finished, each job once."""
    jobs = {job.folder: job for plan in plans.values() for settings in plan.values() for job in settings}
    for job in list(jobs.values()):
        jobs.update({need.folder: need for need in job.needs()})
    return sum(sum(done["seconds"].values()) for job in jobs.values() if (done := job.done)) / 60


def _workers(scope: Scope) -> int:
    from lightreasoner.models.loading import pick_device

    if pick_device(scope.main.device).type == "cpu":
        return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return 1
