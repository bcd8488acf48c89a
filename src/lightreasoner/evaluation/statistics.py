"""How sure a figure is: intervals of one score, paired comparisons of two systems, several samples per item."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, permutation_test

Floats = NDArray[np.float64]
ScorePair = tuple[Sequence[float], Sequence[float]]

_DECIMALS = 12  # of gains and interval ends: no rounding error puts a gain outside its own interval
_CELLS = 500_000  # numbers drawn at a time: below 40 MB, also with the copies that SciPy makes


@dataclass(frozen=True)
class Estimate:
    """A mean score with its 95 % interval.

    Attributes:
        value: the mean, 0 … 1.
        low: lower end of the interval, 0 … 1.
        high: upper end.
        total: number of items.
    """

    value: float
    low: float
    high: float
    total: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} – {100 * self.high:.1f}, n = {self.total})"


@dataclass(frozen=True)
class Accuracy(Estimate):
    """A share of correct answers with its 95 % Wilson interval.

    Attributes:
        correct: number of correct answers, of `total`.
    """

    correct: int

    @classmethod
    def of(cls, correct: int, total: int) -> "Accuracy":
        """The accuracy of these counts.

        Raises:
            ValueError: there are no answers, or more correct ones than answers.
        """
        interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
        return cls(correct / total, float(interval.low), float(interval.high), total, correct)


def mean_interval(scores: Sequence[float], resamples: int = 10_000, seed: int = 0) -> Estimate:
    """The mean score and its percentile bootstrap interval over items (Efron 1979), for several samples per item.

    The items are resampled, not the samples: samples of one item are no independent evidence. Where each item
    has one answer, `Accuracy.of` is the better interval. Equal scores on all items leave nothing to resample,
    and the interval shrinks to a point.

    Args:
        scores: one number per item, 0 … 1, e.g. the share of its samples that are correct.
        resamples: bootstrap resamples.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: there are no items or resamples, or a score is outside 0 … 1.
    """
    values = _checked(scores)
    low, high = _percentile_interval(_resampled_means(values, resamples, np.random.default_rng(seed)))
    return Estimate(float(values.mean()), low, high, len(values))


@dataclass(frozen=True)
class PairedTest:
    """A test of two systems on the same items.

    Attributes:
        gained: items that the second answers better; of 0/1 scores, those that it alone answers correctly.
        lost: items that the first answers better.
        total: items.
        p_value: two-sided; how likely a split at least this uneven is if both are equally good.
    """

    gained: int
    lost: int
    total: int
    p_value: float

    @property
    def gain(self) -> float:
        """Difference of the accuracies, second minus first, −1 … 1."""
        return (self.gained - self.lost) / self.total


@dataclass(frozen=True)
class Comparison(PairedTest):
    """A paired test with the two means and an interval of their difference.

    Attributes:
        before: mean score of the first system, 0 … 1; over several benchmarks, the unweighted mean of their means.
        after: the same of the second.
        low: lower end of the gain's 95 % paired bootstrap interval, −1 … 1.
        high: upper end.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """Difference of the means, second minus first, −1 … 1."""
        return round(self.after - self.before, _DECIMALS)


@dataclass(frozen=True)
class BenchmarkComparison(Comparison):
    """A comparison on one benchmark, which also says what it could have seen.

    Attributes:
        minimal_detectable: smallest true difference that the test finds with power 0.8 at level 0.05, if the
            systems disagree as much as they did here; None if it cannot find any.
    """

    minimal_detectable: float | None


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> PairedTest:
    """McNemar's exact test: the items on which two systems differ split like fair coins if both are equally good.

    Args:
        before: whether the first system answered each item correctly.
        after: the same of the second system, same items in the same order.

    Raises:
        ValueError: the lengths differ, or there are no items.
    """
    if not before:
        raise ValueError("no items to compare")
    pairs = list(zip(before, after, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    return PairedTest(gained, lost, len(pairs), _exact_mcnemar(gained, lost))


def compare_pairs(
    before: Sequence[float], after: Sequence[float], resamples: int = 10_000, seed: int = 0
) -> BenchmarkComparison:
    """Compare two systems on the items of one benchmark: `compare_overall` of this one, and what it can detect.

    `minimal_detectable` puts the mean square of the differences in the place of ψ. That is ψ itself for 0/1 scores,
    and the variance of the sign-flip test for others. The largest difference that a test can look for is then the
    mean absolute one, when every differing item moves the same way.

    Args:
        before: the first system's score of each item, 0 … 1.
        after: the same of the second system, same items in the same order.
        resamples: of the bootstrap, and permutations if there is a score between 0 and 1.
        seed: of both; the same seed gives the same result.

    Raises:
        ValueError: as `compare_overall`.
    """
    overall = compare_overall([(before, after)], resamples, seed)
    sizes = np.abs(np.subtract(after, before, dtype=np.float64))
    detectable = _detectable(overall.total, float(np.square(sizes).mean()), float(sizes.mean()), power=0.8, alpha=0.05)
    return BenchmarkComparison(**vars(overall), minimal_detectable=detectable)


def compare_overall(pairs: Sequence[ScorePair], resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two systems over several benchmarks.

    The means and the gain are macro averages: every benchmark counts alike, however many items it has (the AVG
    column of arXiv 2510.07962). The interval is a stratified paired percentile bootstrap: items are resampled within
    each benchmark, each with both its scores, and the benchmarks' gains averaged.

    The p-value pools the items, so large benchmarks weigh more in it than in the gain; where benchmarks disagree,
    the two may point in different directions. It is McNemar's exact test if all scores are 0 or 1, otherwise a paired
    permutation test that flips the sign of each item's difference: all sign patterns if they are no more than
    `resamples`, otherwise random ones, and then p is at least 2/(resamples + 1).

    Args:
        pairs: per benchmark, the first and the second system's scores of the same items, 0 … 1.
        resamples: of the bootstrap, and permutations if there is a score between 0 and 1.
        seed: of both; the same seed gives the same result.

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
    zero_one = all(np.isin(pair, (0, 1)).all() for pair in scores)
    p_value = _exact_mcnemar(gained, lost) if zero_one else _sign_flip_test(pooled, resamples, flips)
    before, after = np.mean([(before.mean(), after.mean()) for before, after in scores], axis=0).tolist()
    return Comparison(gained, lost, len(pooled), p_value, before, after, low, high)


def minimal_detectable_difference(
    total: int, discordant: float, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """Smallest true difference δ of two paired proportions that McNemar's test finds with this power.

    Solves n = (z_{1−α/2}·√ψ + z_power·√(ψ − δ²))² / δ² for δ (Connor, Biometrics 43, 1987, p. 209): a normal
    approximation, so the exact test needs a little more than δ, noticeably so below some tens of discordant items.

    Args:
        total: n, items.
        discordant: ψ, the share of items that exactly one of the two systems answers correctly, 0 … 1.
        power: 0.5 … 1, exclusive of 1.
        alpha: level of the two-sided test, between 0 and 1.

    Returns:
        δ, 0 < δ ≤ ψ. None if there is none: no difference can exceed the share of discordant items, and with few of
        them (none at all: ψ = 0) even δ = ψ, all of them in favour of one system, would be missed too often.

    Raises:
        ValueError: an argument is out of range.
    """
    if total < 1 or not (0 <= discordant <= 1 and 0.5 <= power < 1 and 0 < alpha < 1):
        raise ValueError(f"impossible test: n = {total}, ψ = {discordant}, power {power}, alpha {alpha}")
    return _detectable(total, discordant, discordant, power, alpha)


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

    The binomials are exact integers, and subtracted before they are divided: nothing overflows or cancels.

    Args:
        correct: c, correct samples of the item.
        samples: n, samples of the item.
        k: how many are drawn, without replacement.

    Raises:
        ValueError: unless 0 ≤ c ≤ n and 1 ≤ k ≤ n.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"no pass@{k} of {correct} correct samples of {samples}")
    draws = math.comb(samples, k)
    return (draws - math.comb(samples - correct, k)) / draws


def majority(keys: Sequence[str | None]) -> int | None:
    """Index of the first sample that gives the most frequent key; of equally frequent keys, the one that came first.

    Args:
        keys: each sample's answer in a form that equal answers share; None has no answer, and no vote.

    Returns:
        The index, None if no sample has an answer.
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

    How often each distinct value is drawn in n draws with replacement is multinomial. So one multinomial draw over
    the few distinct values (−1, 0, 1, or m/n) has the very distribution of n drawn items.
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


def _exact_mcnemar(gained: int, lost: int) -> float:
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def _sign_flip_test(differences: Floats, resamples: int, rng: np.random.Generator) -> float:
    """Two-sided p-value of the mean difference, if each item's sign were a coin's."""
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
        random_state=rng,  # the name that SciPy 1.14 knows, too
    )
    return float(found.pvalue)


def _detectable(total: int, mean_square: float, largest: float, power: float, alpha: float) -> float | None:
    """Connor's δ, None if it is above `largest`.

    With a = z_{1−α/2} and b = z_power, squaring √n·δ − a·√ψ = b·√(ψ − δ²) leaves (n + b²)·δ² − 2a·√(nψ)·δ
    + (a² − b²)·ψ = 0; its larger root is the answer where the left side is not negative: from n = a² on.
    """
    a, b = float(norm.ppf(1 - alpha / 2)), float(norm.ppf(power))
    if not mean_square or total < a * a:
        return None
    root = a * math.sqrt(total) + b * math.sqrt(total + b * b - a * a)
    delta = math.sqrt(mean_square) * root / (total + b * b)
    return delta if delta <= largest else None
