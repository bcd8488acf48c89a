"""The stop rule of `lightr rounds` against the accuracies of all rounds, which it never sees."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from scipy.stats import t

from lightreasoner.config import RoundsSettings
from lightreasoner.evaluation.stopping import decide
from lightreasoner.studies.grids import Plan, Scope, changed, of_seed
from lightreasoner.studies.jobs import Rounds
from lightreasoner.studies.outcomes import Group
from lightreasoner.studies.reports import Claim, Report, Row, at_most

FIRST_SEED = 16  # the rule was developed with seeds 0 to 15, and judged with 16 to 20: see docs/choosing.md
LIMIT = 3
ROUND: Mapping[str, Mapping[str, int]] = {"sample": {"max_questions": 500}, "finetune": {"steps": 100}}
TOLERANCE = 2.0  # points
MOST_LOST = 1.0  # points that the kept round may cost an expert, at the lower end of the interval over seeds
MOST_WORSE = 0.05  # share of runs in which the kept round may be worse than the best by more than the tolerance


def rounds(scope: Scope, seeds: int) -> Plan:
    """Rounds of every recipe."""
    settings = RoundsSettings(limit=1, held_back=64) if scope.quick else RoundsSettings(limit=LIMIT)
    plan: Plan = {}
    for recipe in scope.recipes:
        smaller = recipe if scope.quick else changed(recipe, ROUND)
        seeded = (of_seed(smaller, seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds))
        plan[recipe.expert] = [Rounds.of(scope.root, one, settings) for one in seeded]
    return plan


def stopping(scope: Scope, groups: Mapping[str, Group]) -> Report:
    """Each run: the accuracies of its rounds, the round that the rule keeps, and the best one."""
    rows: list[Row] = []
    lost = []
    claims = []
    for expert, group in groups.items():
        gains = []
        for job, result in zip(group.jobs, group.result("rounds"), strict=True):
            assert isinstance(job, Rounds)
            accuracies = [100 * value for value in result["accuracies"]]
            kept = kept_round(result["series"], job.config.rounds)
            best = max(range(len(accuracies)), key=accuracies.__getitem__)
            lost.append(accuracies[best] - accuracies[kept])
            row: Row = {"expert": expert, "seed": job.config.seed, "accuracy by round": _curve(accuracies)}
            row |= {"kept": kept, "best": best, "below the best": lost[-1]}
            gains.append(accuracies[kept] - accuracies[0])
            rows.append({**row, "against round 0": gains[-1]})
        claims.append(_costs_little(expert, gains))
    worse = sum(points > TOLERANCE for points in lost) / len(lost)
    claim = f"the kept round is worse than the best one by more than {TOLERANCE:g} points in at most 1 of 20 runs"
    notes = [
        f"All rounds were made and evaluated, up to {LIMIT}; the rule reads the alarms only. The best round is that of "
        "the highest measured accuracy, so chance makes it look better than it is.",
    ]
    return Report("The stop rule of rounds", rows, [at_most(claim, worse, MOST_WORSE), *claims], notes)


def _costs_little(expert: str, gains: list[float]) -> Claim:
    """Claim that the rule keeps an expert from losing; `gains` are points of the kept round over round 0, by seed."""
    low, high = mean_over_seeds(gains)
    ends = "one seed" if math.isnan(low) else f"{low:+.1f} to {high:+.1f}; {len(gains)} seeds"
    evidence = f"{fmean(gains):+.1f} points, {ends}"
    verdict = "not decided" if math.isnan(low) else "holds" if low >= -MOST_LOST else "does not hold"
    return Claim(f"{expert}: the kept round costs at most {MOST_LOST:g} point (lower end)", verdict, evidence)


def mean_over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95 % interval of a mean by Student's t; equal values have equal ends, and one value has none."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def kept_round(series: list[Mapping[str, object]], settings: RoundsSettings) -> int:
    """The round that the rule keeps, if it is asked after each one until it ends."""
    for made in range(1, len(series) + 1):
        decision = decide(series[:made], settings)
        if decision.ends:
            break
    return decision.kept


def _curve(accuracies: list[float]) -> str:
    return " → ".join(f"{value:.1f}" for value in accuracies)
