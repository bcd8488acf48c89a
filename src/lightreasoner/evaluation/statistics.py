"""Intervals of one score, paired comparisons of two systems, and figures of several samples per item."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, permutation_test

Floats = NDArray[np.float64]
ScorePair = tuple[Sequence[float], Sequence[float]]

_DECIMALS = 12  # of gains and interval ends: no rounding error puts a gain outside its own interval
_CELLS = 500_000  # numbers drawn at a time: below 40 MB, also with the copies that SciPy makes


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


def mean_interval(scores: Sequence[float], resamples: int = 10_000, seed: int = 0) -> Interval:
    """The mean score and its percentile bootstrap interval over items (Efron 1979), for several samples per item.

    The bootstrap resamples items, not samples: samples of one item are no independent evidence. For one answer per
    item, `wilson_interval` is better. If all scores are equal, the interval is a point. A score is a number 0 … 1 per
    item, such as the share of its samples that are correct. The same seed gives the same interval.

    Raises:
        ValueError: there are no items or resamples, or a score is outside 0 … 1.
    """
    values = _checked(scores)
    low, high = _percentile_interval(_resampled_means(values, resamples, np.random.default_rng(seed)))
    return Interval(float(values.mean()), low, high)


@dataclass(frozen=True)
class Comparison:
    """A paired test of two systems on the same items, with the two means and their difference.

    Attributes:
        gained: items that the second system answers better; of 0/1 scores, those that it alone answers correctly.
        lost: items that the first system answers better.
        p_value: two-sided; the chance of a split at least this uneven if both are equally good.
        before: mean score of the first system, 0 … 1; over several benchmarks, the unweighted mean of their means.
        after: the same of the second.
        gain: `after` − `before`, with its 95 % paired bootstrap interval.
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
    before: Sequence[float], after: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> BenchmarkComparison:
    """Compare two systems on the items of one benchmark, with the methods and errors of `compare_overall`.

    The minimum detectable effect takes the mean square of the differences for ψ. That is ψ itself for 0/1 scores, and
    the variance of the sign-flip test for others. The largest possible difference is then the mean absolute one: every
    differing item moves the same way.
    """
    overall = compare_overall([(before, after)], resamples, seed)
    sizes = np.abs(np.subtract(after, before, dtype=np.float64))
    squares = float(np.square(sizes).mean())
    detectable = minimal_detectable_difference(overall.total, squares, largest=float(sizes.mean()))
    return BenchmarkComparison(**vars(overall), minimal_detectable=detectable)


def compare_overall(pairs: Sequence[ScorePair], resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two systems over several benchmarks.

    The means and the gain are macro averages: every benchmark has the same weight, regardless of its size (the
    AVG column of arXiv 2510.07962). The interval is a stratified paired percentile bootstrap: it resamples items
    within each benchmark, each with both its scores, and averages the benchmarks' gains.

    The p-value pools the items, so large benchmarks weigh more in it than in the gain. If benchmarks disagree, the
    two may point in different directions. The test is McNemar's exact one if all scores are 0 or 1: the items on
    which the systems differ split like fair coins if both are equally good. Otherwise it is a paired permutation
    test that flips the sign of each item's difference: all sign patterns if they are no more than `resamples`,
    otherwise random ones, and then p is at least 2/(resamples + 1).

    Args:
        pairs: per benchmark, the first and the second system's scores of the same items, in one order, 0 … 1.
        resamples: bootstrap resamples, and permutations if there is a score between 0 and 1.
        seed: decides both; the same seed gives the same result.

    Raises:
        ValueError: there are no benchmarks, items or resamples, the two systems have different numbers of scores,
            or one is outside 0 … 1.
    """
    if not pairs:
        raise ValueError("no benchmarks to compare")
    scores = [(_checked(before), _checked(after)) for before, after in pairs]
    if any(len(before) != len(after) for before, after in scores):
        raise ValueError("both systems need one score for each item")
    bootstrap, flips = np.random.default_rng(seed).spawn(2)
    # 15 decimals: so that 0.3 − 0.2 and 0.1 are one value, and no item is gained by a rounding error.
    differences = [np.round(after - before, 15) for before, after in scores]
    gains = [_resampled_means(difference, resamples, bootstrap) for difference in differences]
    low, high = _percentile_interval(np.mean(gains, axis=0))
    pooled = np.concatenate(differences)
    gained, lost = int((pooled > 0).sum()), int((pooled < 0).sum())
    if not all(np.isin(pair, (0, 1)).all() for pair in scores):
        p_value = _sign_flip_test(pooled, resamples, flips)
    else:
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    before, after = np.mean([(before.mean(), after.mean()) for before, after in scores], axis=0).tolist()
    gain = Interval(round(after - before, _DECIMALS), low, high)
    return Comparison(gained, lost, len(pooled), p_value, before, after, gain)


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


def majority(keys: Sequence[str | None]) -> int | None:
    """Index of the first sample with the most frequent key; of equally frequent keys, the first one wins.

    A key is a sample's answer in a form that equal answers share. None is no answer and no vote; with no vote at all
    there is no index.
    """
    votes = Counter(key for key in keys if key is not None)
    return keys.index(max(votes, key=votes.__getitem__)) if votes else None  # a Counter keeps the order of arrival


def _checked(scores: Sequence[float]) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError("no items: one score for each is needed")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("scores must be between 0 and 1")
    return values


def _resampled_means(values: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Means of bootstrap resamples of these values, [resamples].

    The counts of the distinct values in n draws with replacement are multinomial. So one multinomial draw over the
    few distinct values (−1, 0, 1, or m/n) has the same distribution as n drawn items.
    """
    if resamples < 1:
        raise ValueError("at least one resample is needed")
    distinct, counts = np.unique(values, return_counts=True)
    shares, chunk = counts / len(values), max(1, _CELLS // len(distinct))
    sizes = (min(chunk, resamples - start) for start in range(0, resamples, chunk))
    return np.concatenate([rng.multinomial(len(values), shares, size) @ distinct for size in sizes]) / len(values)


def _percentile_interval(means: Floats) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975)).round(_DECIMALS)
    return float(low), float(high)


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
