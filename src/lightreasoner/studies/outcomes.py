"""Outcomes of finished jobs: accuracies over seeds, paired tests, times, counts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import fmean
from typing import Any

from scipy.stats import ttest_rel

from lightreasoner.data.benchmarks import BENCHMARKS, GENERATED_SEED, title_of
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.problems import make_problem
from lightreasoner.evaluation.comparison import read_sides
from lightreasoner.evaluation.statistics import Interval, compare_overall
from lightreasoner.studies.job import Job

AVERAGE = "AVG"


@dataclass(frozen=True)
class Difference:
    """Two groups compared over `seeds` pairs of seeds."""

    gain: Interval
    """Second minus first, points, with its interval over items."""
    p_items: float
    """Paired test over items, each with its mean score over the seeds."""
    p_seeds: float | None
    """Paired t-test of the seeds' averages; None with fewer than two seeds."""
    seeds: int

    @property
    def p_value(self) -> float:
        """The larger of the two: a difference must be significant over items and over seeds."""
        return max(self.p_items, self.p_seeds or 0.0)


@dataclass
class Group:
    """One setting under several seeds: finished jobs, one a seed, and the kind of prompt whose answers count."""

    jobs: Sequence[Job]
    prompt: str = "chat"

    @cached_property
    def scores(self) -> list[dict[str, dict[str, float]]]:
        """Score of each item, by seed and column."""
        return [_columns(job, self.prompt) for job in self.jobs]

    @property
    def columns(self) -> list[str]:
        """Benchmarks; the kinds of problem stand for a generated one."""
        return list(self.scores[0])

    def accuracy(self, column: str) -> float:
        """Mean over seeds, in %; for `AVERAGE`, the unweighted mean of the columns."""
        return fmean(self.by_seed([] if column == AVERAGE else [column]))

    def by_seed(self, columns: Sequence[str] = ()) -> list[float]:
        """The accuracy of each seed, in %: the unweighted mean of these columns, or of all."""
        names = columns or self.columns
        return [fmean(100 * fmean(scores[name].values()) for name in names) for scores in self.scores]

    def mean_scores(self, column: str) -> dict[str, float]:
        """Mean score of each item over the seeds, 0 … 1."""
        return {item: fmean(columns[column][item] for columns in self.scores) for item in self.scores[0][column]}

    def result(self, stage: str) -> list[Mapping[str, Any]]:
        """The result of a stage, by seed."""
        return [job.finished["results"][stage] for job in self.jobs]

    def seconds(self, *names: str) -> float:
        """Mean time of some stages over the seeds, with the time of the samples."""
        return fmean(sum(_seconds(job, name) for name in names) for job in self.jobs)

    def count(self, stage: str, name: str) -> float:
        """Mean of a count over the seeds."""
        return fmean(result[name] for result in self.result(stage))


def difference(before: Group, after: Group, columns: Sequence[str] = ()) -> Difference:
    """Compare two groups on the same items; each column (or each of `columns` if any) has the same weight.

    A group of one seed, such as the base, is compared with every seed of the other one.

    Raises:
        ValueError: both have several seeds, and not equally many, so they are no pairs.
    """
    pairs = []
    for column in columns or before.columns:
        first, second = before.mean_scores(column), after.mean_scores(column)
        pairs.append(([first[item] for item in first], [second[item] for item in first]))
    overall = compare_overall(pairs, samples=max(len(before.scores), len(after.scores)))
    ours, theirs = after.by_seed(columns), before.by_seed(columns)
    n = max(len(ours), len(theirs))
    if not {len(ours), len(theirs)} <= {1, n}:
        raise ValueError(f"{len(theirs)} and {len(ours)} seeds are no pairs; compare equally many")
    ours, theirs = (values if len(values) == n else values * n for values in (ours, theirs))
    p_seeds = float(ttest_rel(ours, theirs).pvalue) if n > 1 else math.nan
    # It is NaN also where all differences are equal.
    return Difference(overall.gain.percent, overall.p_value, None if math.isnan(p_seeds) else p_seeds, n)


def _columns(job: Job, prompt: str) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}
    for side in read_sides(job.folder / "evaluate", None):
        if side.prompt not in (prompt, "likelihood"):
            continue
        if side.benchmark not in GENERATORS:
            columns[title_of(side.benchmark)] = dict(side.scores)
            continue
        kinds = _kind_of(side.benchmark)
        for kind in GENERATORS[side.benchmark].kinds:
            items = {item: score for item, score in side.scores.items() if kinds[item.rpartition("-")[2]] == kind}
            if items:
                columns[kind] = items
    return columns


@cache
def _kind_of(name: str) -> dict[str, str]:
    """Kind of each problem of a generated benchmark, by the problem's id."""
    problems = GENERATORS[name].distinct("test", GENERATED_SEED, BENCHMARKS[name].size)
    return {make_problem(problem.question).id: problem.kind for problem in problems}


def _seconds(job: Job, name: str) -> float:
    seconds = job.finished["seconds"]
    return float(seconds[name]) if name in seconds else sum(_seconds(need, name) for need in job.needs())
