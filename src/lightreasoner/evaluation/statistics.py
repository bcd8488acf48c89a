"""Intervals of one score, paired comparisons of two systems, and figures of several samples per item."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm, permutation_test
from scipy.stats import t as student

Floats = NDArray[np.float64]
ScorePair = tuple[Sequence[float], Sequence[float]]

_DECIMALS = 12  # of gains and interval ends: no rounding error puts a gain outside its own interval
_CELLS = 500_000  # numbers drawn at a time: below 40 MB, also with the copies that SciPy makes
_Z = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95 % interval. Formatted by `:.1f` it reads `55.0 (34.2 to 74.2)`.

    The figure is a share (0 … 1), a difference of shares (−1 … 1), or either of them in percent.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str) -> "Interval":
        """The interval of a row of results: keys `name`, `low` and `high`."""
        return cls(row[name], row["low"], row["high"])

    def named(self, name: str) -> dict[str, float]:
        """The keys of a row of results; `of` reads them."""
        return {name: self.value, "low": self.low, "high": self.high}

    @property
    def percent(self) -> "Interval":
        """A share in percent, a difference of shares in points."""
        return Interval(100 * self.value, 100 * self.low, 100 * self.high)

    def ends(self, spec: str) -> str:
        """The two ends, each in this format: `34.2 to 74.2`."""
        return f"{self.low:{spec}} to {self.high:{spec}}"

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} ({self.ends(spec)})"


def wilson_interval(correct: int, total: int) -> Interval:
    """The share of correct answers with its 95 % Wilson interval.

    Raises:
        ValueError: there are no answers, or more correct ones than answers.
    """
    ends = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    return Interval(correct / total, float(ends.low), float(ends.high))


def mean_interval(scores: Sequence[float], samples: int = 1) -> Interval:
    """The mean score with its 95 % interval, for several samples per item.

    Wilson's interval with the effective number of items: the number of independent answers whose mean varies as much
    (`_effective_items`). It has a width even if all scores are equal (Dean and Pagano, J. Surv. Stat. Methodol. 3,
    2015, p. 484). With one sample it is `wilson_interval`.

    Args:
        scores: a number 0 … 1 per item, such as the share of its samples that are correct.
        samples: samples of each item.

    Raises:
        ValueError: there are no items, or a score is outside 0 … 1.
    """
    values = _checked(scores)
    mean = float(values.mean())
    n = _effective_items(values, mean * (1 - mean), samples)
    scale = 1 + _Z * _Z / n
    centre = (mean + _Z * _Z / (2 * n)) / scale
    half = _Z / scale * math.sqrt(mean * (1 - mean) / n + _Z * _Z / (4 * n * n))
    return Interval(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))


@dataclass(frozen=True)
class Comparison:
    """A paired test of two systems on the same items, with the two means and their difference.

    Attributes:
        gained: items that the second system answers better; of 0/1 scores, those that it alone answers correctly.
        lost: items that the first system answers better.
        p_value: two-sided; the chance of a split at least this uneven if both are equally good. 1 if the items of
            several benchmarks together point another way than `gain`: the test then supports no direction of it.
        before: mean score of the first system, 0 … 1; over several benchmarks, the unweighted mean of their means.
        after: the same of the second.
        gain: `after` − `before`, with its 95 % interval, see `compare_overall`.
    """

    gained: int
    lost: int
    total: int
    p_value: float
    before: float
    after: float
    gain: Interval

    def as_row(self) -> dict[str, Any]:
        """The comparison as plain values; the gain as `gain`, `low` and `high`."""
        return {**vars(self), **self.gain.named("gain")}


@dataclass(frozen=True)
class BenchmarkComparison(Comparison):
    """A comparison on one benchmark.

    `minimal_detectable` is the smallest true difference that the test finds with power 0.8 at level 0.05, if the
    systems disagree as much as they did here; None if it cannot find any.
    """

    minimal_detectable: float | None


def compare_pairs(
    before: Sequence[float], after: Sequence[float], samples: int = 1, resamples: int = 10_000, seed: int = 0
) -> BenchmarkComparison:
    """Compare two systems on the items of one benchmark, with the methods and errors of `compare_overall`.

    The minimum detectable effect takes the mean square of the differences for ψ. That is ψ itself for 0/1 scores, and
    the variance of the sign-flip test for others. The largest possible difference is then the mean absolute one: every
    differing item moves the same way.
    """
    overall = compare_overall([(before, after)], samples, resamples, seed)
    sizes = np.abs(np.subtract(after, before, dtype=np.float64))
    squares = float(np.square(sizes).mean())
    detectable = minimal_detectable_difference(overall.total, squares, largest=float(sizes.mean()))
    return BenchmarkComparison(**vars(overall), minimal_detectable=detectable)


def compare_overall(pairs: Sequence[ScorePair], samples: int = 1, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two systems over several benchmarks.

    The means and the gain are macro averages: every benchmark has the same weight, regardless of its size (the
    AVG column of arXiv 2510.07962). The interval of one benchmark's gain is Tango's score interval for paired
    proportions (`paired_interval`). For k benchmarks with gains θ_i and intervals l_i … u_i it is the square-and-add
    combination, mean θ ∓ √Σ(θ_i − l_i)² / k and likewise with u_i (MOVER: Zou, Huang and Zhang, Comput. Stat. Data
    Anal. 53, 2009, p. 1080). Both have a width where no item changed: the fewer items, the wider.

    The p-value pools the items, so large benchmarks weigh more in it than in the gain. If benchmarks disagree, the
    two may point in different directions, and p is 1. The test is McNemar's exact one if all scores are 0 or 1: the
    items on which the systems differ split like fair coins if both are equally good. Otherwise it is a paired
    permutation test that flips the sign of each item's difference: all sign patterns if they are no more than
    `resamples`, otherwise random ones, and then p is at least 2/(resamples + 1).

    Args:
        pairs: per benchmark, the first and the second system's scores of the same items, in one order, 0 … 1.
        samples: answers behind a score, of the system with more of them.
        resamples: permutations if there is a score between 0 and 1.
        seed: decides them; the same seed gives the same result.

    Raises:
        ValueError: there are no benchmarks, items or permutations, the two systems have different numbers of scores,
            or one is outside 0 … 1.
    """
    if not pairs:
        raise ValueError("no benchmarks to compare")
    scores = [(_checked(before), _checked(after)) for before, after in pairs]
    if any(len(before) != len(after) for before, after in scores):
        raise ValueError("both systems need one score for each item")
    if resamples < 1:
        raise ValueError("at least one permutation is needed")
    # 15 decimals: so that 0.3 − 0.2 and 0.1 are one value, and no item is gained by a rounding error.
    differences = [np.round(after - before, 15) for before, after in scores]
    gain = _mean_of([paired_interval(difference, samples) for difference in differences])
    pooled = np.concatenate(differences)
    gained, lost = int((pooled > 0).sum()), int((pooled < 0).sum())
    if not all(np.isin(pair, (0, 1)).all() for pair in scores):
        p_value = _sign_flip_test(pooled, resamples, np.random.default_rng(seed))
    else:
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    if np.sign(pooled.sum().round(12)) != np.sign(gain.value):
        p_value = 1.0
    before, after = np.mean([(before.mean(), after.mean()) for before, after in scores], axis=0).tolist()
    return Comparison(gained, lost, len(pooled), p_value, before, after, gain)


def paired_interval(differences: Floats, samples: int = 1) -> Interval:
    """The mean of paired differences with its 95 % interval.

    Differences of −1, 0 and 1 (l, the others, g of n items): Tango's score interval (Stat. Med. 17, 1998, p. 891).
    It holds every δ that the score test does not reject at level 0.05, and it has a width if no item changed: ±z²/(n +
    z²). Other differences, of several samples per item: the same, with the sum of the positive differences for g, of
    the negative ones for l, and with all three counts scaled to the effective number of items (`_effective_items`).

    Args:
        differences: second minus first score of each item, −1 … 1.
        samples: samples of each item.
    """
    gained, lost = float(differences[differences > 0].sum()), float(-differences[differences < 0].sum())
    n: float = len(differences)
    mean = (gained - lost) / n
    if not np.isin(differences, (-1, 0, 1)).all():
        scale = _effective_items(differences, (gained + lost) / n - mean * mean, samples) / n
        gained, lost, n = scale * gained, scale * lost, scale * n
    ends = -_upper_end(lost, gained, n), _upper_end(gained, lost, n)
    low, value, high = (round(end, _DECIMALS) for end in (ends[0], mean, ends[1]))
    return Interval(value, min(low, value), max(high, value))


def _upper_end(gained: float, lost: float, n: float) -> float:
    """Upper end of Tango's interval: the δ where g − l − nδ = −z·√(n·(2q + δ(1 − δ))).

    q is the most likely share of lost items if the difference is δ, the larger root of 2n·q² + ((2n − g + l)·δ − g − l)
    ·q − l·δ(1 − δ) = 0.
    """

    def excess(delta: float) -> float:
        linear = (2 * n - gained + lost) * delta - gained - lost
        root = math.sqrt(max(linear * linear + 8 * n * lost * delta * (1 - delta), 0.0))
        variance = n * ((root - linear) / (2 * n) + delta * (1 - delta))
        return gained - lost - n * delta + _Z * math.sqrt(max(variance, 0.0))

    start = (gained - lost) / n + 1e-12  # at the estimate itself the variance may be 0
    return float(brentq(excess, start, 1.0)) if start < 1 and excess(start) > 0 else 1.0


def _effective_items(values: Floats, variance: float, samples: int) -> float:
    """Number of independent single answers whose mean varies as much as the mean of these values.

    `variance` is that of single answers with the same mean. It is divided by the squared standard error of the mean
    and, since that is itself estimated, multiplied by (z / t)² (Korn and Graubard, Surv. Methodol. 24, 1998, p. 193).
    A mean over several samples of an item is worth at least one answer and at most `samples` answers.
    """
    n = len(values)
    error = float(values.var(ddof=1)) / n if n > 1 else 0.0
    if not variance > 0 or n < 2:
        return float(n)
    found = (variance / error if error else math.inf) * (_Z / float(student.ppf(0.975, n - 1))) ** 2
    return min(max(found, float(n)), float(n * samples))


def _mean_of(parts: Sequence[Interval]) -> Interval:
    """The mean of independent figures by square-and-add; one figure stays as it is."""
    k = len(parts)
    if k == 1:
        return parts[0]
    value = math.fsum(part.value for part in parts) / k
    below = math.hypot(*(part.value - part.low for part in parts)) / k
    above = math.hypot(*(part.high - part.value for part in parts)) / k
    return Interval(*(round(end, _DECIMALS) for end in (value, max(-1.0, value - below), min(1.0, value + above))))


def minimal_detectable_difference(
    total: int, discordant: float, power: float = 0.8, alpha: float = 0.05, largest: float | None = None
) -> float | None:
    """Smallest true difference δ of two paired proportions that McNemar's test finds with this power.

    Solves n = (z_{1−α/2}·√ψ + z_power·√(ψ − δ²))² / δ² for δ (Connor, Biometrics 43, 1987, p. 209). This is a normal
    approximation: the exact test needs a little more than δ, noticeably so below some tens of discordant items.

    With a = z_{1−α/2} and b = z_power, squaring √n·δ − a·√ψ = b·√(ψ − δ²) leaves (n + b²)·δ² − 2a·√(nψ)·δ
    + (a² − b²)·ψ = 0. Its larger root is the answer where the left side is not negative: from n = a² on.

    Args:
        total: n, items.
        discordant: ψ, the share of items that exactly one of the two systems answers correctly, 0 … 1.
        power: 0.5 … 1, exclusive of 1.
        alpha: level of the two-sided test, between 0 and 1.
        largest: largest possible difference; ψ by default.

    Returns:
        δ, 0 < δ ≤ `largest`. None if there is none: with few discordant items the test misses too often even the
        largest difference, where all of them favour one system.

    Raises:
        ValueError: an argument is out of range.
    """
    if total < 1 or not (0 <= discordant <= 1 and 0.5 <= power < 1 and 0 < alpha < 1):
        raise ValueError(f"impossible test: n = {total}, ψ = {discordant}, power {power}, alpha {alpha}")
    a, b = float(norm.ppf(1 - alpha / 2)), float(norm.ppf(power))
    if not discordant or total < a * a:
        return None
    root = a * math.sqrt(total) + b * math.sqrt(total + b * b - a * a)
    delta = math.sqrt(discordant) * root / (total + b * b)
    return delta if delta <= (discordant if largest is None else largest) else None


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order; none for none (Scand. J. Statist. 6, 1979).

    With p_(1) ≤ … ≤ p_(m): p̃_(i) = max_{j ≤ i} min(1, (m − j + 1)·p_(j)). Rejecting p̃ ≤ α bounds the chance of any
    false rejection by α, whatever the dependence of the tests.

    Raises:
        ValueError: a p-value is outside 0 … 1.
    """
    if not all(0 <= p_value <= 1 for p_value in p_values):
        raise ValueError("p-values must be between 0 and 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that one of k samples is correct, 1 − C(n−c, k)/C(n, k): unbiased (Chen et al. 2021, arXiv 2107.03374).

    c of the item's n samples are correct, and k of them are drawn without replacement. The binomials are exact integers
    and are subtracted before the division, so nothing overflows or cancels.

    Raises:
        ValueError: unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"no pass@{k} of {correct} correct samples of {samples}")
    draws = math.comb(samples, k)
    return (draws - math.comb(samples - correct, k)) / draws


def _checked(scores: Sequence[float]) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError("no items: one score for each is needed")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("scores must be between 0 and 1")
    return values


def _sign_flip_test(differences: Floats, resamples: int, rng: np.random.Generator) -> float:
    """Two-sided p-value of the mean difference under random signs of the items."""
    moved = differences[differences != 0]  # a flipped zero is zero, and the sums of the others rank like the means
    if len(moved) < 2:
        return 1.0  # both signs of one difference are equally extreme
    found = permutation_test(
        (moved,),
        lambda flipped, axis: np.round(flipped.sum(axis=axis), 9),  # ties of sums of thirds are ties
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _CELLS // len(moved)),
        random_state=rng,  # SciPy 1.14 does not know `rng`
    )
    return float(found.pvalue)
