"""`lightr study NAME`: run the jobs that are missing, then write the reports.

A new study is one line of `STUDIES`: a grid of `grids` and a report of `tables` or `figures`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightreasoner.config import RunConfig
from lightreasoner.config.base import nearest
from lightreasoner.errors import ConfigError, RunError
from lightreasoner.models.loading import pick_device
from lightreasoner.recipes import load_recipe
from lightreasoner.runs.locks import locked
from lightreasoner.runs.progress import say
from lightreasoner.runs.workers import cores
from lightreasoner.studies import calibrating, choosing, figures, grids, stopping, tables
from lightreasoner.studies.grids import EXTRA, Plan, Scope
from lightreasoner.studies.outcomes import Group
from lightreasoner.studies.reports import Report, lines_of, page, write
from lightreasoner.studies.scheduler import run_jobs, with_needs

DEFAULT_RECIPES = ("miniature", "miniature-instruct")
ALL = "all"
QUICK_NOTE = "Quick form: far too small to decide anything; it shows that the study works."


@dataclass(frozen=True)
class Study:
    """A table or figure: the grid of jobs that it needs, and the report that is made from them when they are done."""

    grid: Callable[[Scope, int], Plan]
    report: Callable[[Scope, Mapping[str, Group]], Report]
    seeds: int = 2
    """Of every setting by default."""

    def plan(self, scope: Scope) -> Plan:
        """The jobs by setting, with the number of seeds that applies."""
        return self.grid(scope, scope.seeds or (1 if scope.quick else self.seeds))


STUDIES: Mapping[str, Study] = {
    "table1": Study(grids.table1, tables.table1, seeds=5),
    "table2": Study(grids.efficiency, tables.table2, seeds=5),
    "table3": Study(grids.table1, tables.table3, seeds=5),
    "table4": Study(grids.table4, tables.table4, seeds=5),
    "table5": Study(grids.table5, tables.table5),
    "table6": Study(grids.table6, tables.table6, seeds=5),
    "table7": Study(grids.table7, tables.table7, seeds=4),
    "table8": Study(grids.table8, tables.table8),
    "figure1": Study(grids.table1, figures.figure1, seeds=5),
    "figure2": Study(grids.divergence, figures.figure2),
    "figure3": Study(grids.divergence, figures.figure3),
    "figure4": Study(grids.pipeline, figures.figure4),
    "figure5": Study(grids.table1, figures.figure5, seeds=5),
    "figure6": Study(grids.table5, figures.figure6),
    "figure7": Study(grids.table6, figures.figure7, seeds=5),
    "figure8": Study(grids.losses, figures.figure8),
    "figure9": Study(grids.sft_losses, figures.figure9),
    "selection": Study(grids.selection, tables.selection, seeds=4),
    "sweeps": Study(grids.sweeps, tables.sweeps, seeds=1),
    "choose": Study(choosing.choose, choosing.choices, seeds=1),
    "judge": Study(choosing.judge, choosing.judgement, seeds=10),
    "baselines": Study(grids.baselines, tables.baselines, seeds=5),
    "rounds": Study(stopping.rounds, stopping.stopping, seeds=5),
    "calibration": Study(calibrating.calibration, calibrating.calibrated, seeds=2),
}


def study(
    name: str,
    *,
    recipes: Sequence[str] | str = (),
    out: Path | str = Path("runs/studies"),
    seeds: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    page_file: Path | str | None = None,
) -> dict[str, Any]:
    """Reproduce a table or figure of the paper: run what is missing, write Markdown, CSV, JSON and pictures.

    Args:
        name: table1 … table8, figure1 … figure9, selection, sweeps, choose, judge, baselines, rounds, calibration,
            or all.
        recipes: bundled name or .yaml file; further ones add rows to Table 1. Default: the two of the miniature.
        out: folder of all studies, which share their runs.
        seeds: seeds per setting; by default each study's own number.
        quick: run everything smaller, in minutes, as a check.
        workers: worker processes; by default one per core, and one on a GPU.
        page_file: file for all reports as one page, next to the paper's figures.

    Returns:
        By study: its Markdown lines and its files.

    Raises:
        ConfigError: there is no such study or recipe, or no seed.
        LightReasonerError: see `errors`; the same call continues where this one ended.
    """
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds = {seeds}: a setting needs at least one seed; omit it for each study's own number")
    recipes = [recipes] if isinstance(recipes, str) else recipes
    out, page_file = Path(out), Path(page_file) if page_file is not None else None
    chosen = list(STUDIES) if name == ALL else [name]
    if unknown := [study for study in chosen if study not in STUDIES]:
        raise ConfigError(f"no study {unknown[0]}: {nearest(unknown[0], [*STUDIES, ALL], 'studies')}")
    started = time.perf_counter()
    root = out / "quick" if quick else out
    configs = [RunConfig.checked(load_recipe(recipe)) for recipe in recipes or DEFAULT_RECIPES]
    scope = Scope.of(configs, root, seeds, quick)
    plans = {study: STUDIES[study].plan(scope) for study in chosen}
    jobs = [job for plan in plans.values() for settings in plan.values() for job in settings]
    count = workers or (cores() if pick_device(scope.main.device).type == "cpu" else 1)
    with locked(root):
        failure = None
        try:
            run_jobs(jobs, count)
        except RunError as error:
            failure = error
        reports = {study: report for study, plan in plans.items() if (report := _report(study, scope, plan))}
        missing = [study for study in plans if study not in reports]
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
                minutes=sum(sum(done["seconds"].values()) for job in with_needs(jobs) if (done := job.done)) / 60,
                workers=count,
            )
    minutes = (time.perf_counter() - started) / 60
    say(f"{minutes:.1f} minutes; {len(reports)} of {len(plans)} reports are in {root / 'reports'}")
    if missing:
        say(f"not reported because some of their jobs failed: {', '.join(missing)}")
    if failure is not None:
        raise failure
    return {
        study: {"title": report.title, "lines": lines_of(study, report), "files": [str(path) for path in files[study]]}
        for study, report in reports.items()
    }


def _report(name: str, scope: Scope, plan: Plan) -> Report | None:
    """The report of a study; None if some of its jobs failed."""
    if not all(job.done for jobs in plan.values() for job in jobs):
        return None
    groups = {setting: Group(jobs) for setting, jobs in plan.items() if setting != EXTRA}
    report = STUDIES[name].report(scope, groups)
    return replace(report, notes=[*report.notes, QUICK_NOTE]) if scope.quick else report
