"""What the tests of studies share."""

from pathlib import Path

from lightreasoner.config import RunConfig
from lightreasoner.recipes import load_recipe
from lightreasoner.studies.grids import Plan, Scope
from lightreasoner.studies.job import Job
from lightreasoner.studies.scheduler import with_needs


def scope_of(*recipes: str, root: Path = Path("root"), seeds: int | None = None, quick: bool = True) -> Scope:
    names = recipes or ("miniature", "miniature-instruct")
    return Scope.of([RunConfig.checked(load_recipe(name)) for name in names], root, seeds, quick)


def jobs_of(plan: Plan) -> dict[Path, Job]:
    return {job.folder: job for job in with_needs(job for jobs in plan.values() for job in jobs)}
