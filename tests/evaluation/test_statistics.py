"""Intervals and paired tests against formulas worked by hand, SciPy, statsmodels and simulations."""

import itertools
import math
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, multinomial, norm, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from lightreasoner.evaluation.statistics import (
    BenchmarkComparison,
    Interval,
    compare_overall,
    compare_pairs,
    holm,
    mean_interval,
    minimal_detectable_difference,
    paired_interval,
    pass_at_k,
    wilson_interval,
)


def test_the_wilson_interval_of_eight_in_ten_is_the_one_worked_by_hand() -> None:
    # z = 1.959964, z² = 3.841459, n = 10, p = 0.8.
    # centre = (p + z²/2n) / (1 + z²/n) = (0.8 + 0.192073) / 1.384146 = 0.716740
    # half   = z/(1 + z²/n) · √(p(1−p)/n + z²/4n²) = 1.416010 · √(0.016 + 0.009604) = 1.416010 · 0.160012 = 0.226578
    accuracy = wilson_interval(8, 10)
    assert accuracy.low == pytest.approx(0.716740 - 0.226578, abs=2e-6)
    assert accuracy.high == pytest.approx(0.716740 + 0.226578, abs=2e-6)
    assert accuracy.value == 0.8


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (560, 1319), (999, 1000)])
def test_the_interval_is_scipys_wilson_interval_at_95_percent(correct: int, total: int) -> None:
    accuracy = wilson_interval(correct, total)
    expected = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert accuracy.value == correct / total


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_the_closed_wilson_formula_for_any_counts(counts: tuple[int, int]) -> None:
    correct, total = counts
    z, share = 1.959963984540054, correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    accuracy = wilson_interval(correct, total)
    assert accuracy.low == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert accuracy.high == pytest.approx(min(1.0, centre + half), abs=1e-9)
    assert accuracy.low <= accuracy.value <= accuracy.high


def test_an_interval_is_formatted_as_its_value_and_both_ends() -> None:
    accuracy = wilson_interval(8, 10)
    assert f"{accuracy.percent:.1f}" == "80.0 (49.0 to 94.3)"
    assert f"{accuracy:.2f}" == "0.80 (0.49 to 0.94)"
    assert f"{Interval(-0.8, -2.2, 0.6):+.1f}" == "-0.8 (-2.2 to +0.6)"
    assert accuracy.percent.ends(".1f") == "49.0 to 94.3"


def test_a_row_of_results_holds_an_interval_as_three_keys() -> None:
    interval = Interval(0.5, 0.25, 0.75)
    assert interval.named("gain") == {"gain": 0.5, "low": 0.25, "high": 0.75}
    assert Interval.of({"total": 9, **interval.named("gain")}, "gain") == interval
    row = compare_pairs([0, 0], [1, 1]).as_row()
    assert (row["gain"], row["high"]) == (1.0, 1.0)
    assert row["low"] < 0.1
    assert set(row) == {
        "gained", "lost", "total", "p_value", "before", "after", "gain", "low", "high", "minimal_detectable",
    }  # fmt: skip


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5), (0, -1)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are SciPy's
        wilson_interval(correct, total)


def answers(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two systems' answers with these counts."""
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return before, after


def mcnemar(before: Sequence[float], after: Sequence[float]) -> BenchmarkComparison:
    """The test of 0/1 scores, which draws nothing."""
    return compare_pairs(before, after, resamples=1)


def test_mcnemar_counts_gained_and_lost_items_and_the_gain() -> None:
    test = mcnemar(*answers(both=5, gained=8, lost=2, neither=5))
    assert (test.gained, test.lost, test.total) == (8, 2, 20)
    assert test.gain.value == pytest.approx(0.3)  # 13/20 − 7/20


def test_mcnemar_of_eight_to_two_is_the_sum_worked_by_hand() -> None:
    # Two-sided binomial at 1/2 with n = 10: 2·(C(10,0) + C(10,1) + C(10,2))/2¹⁰ = 2·(1 + 10 + 45)/1024 = 0.109375
    assert mcnemar(*answers(both=3, gained=8, lost=2, neither=4)).p_value == pytest.approx(0.109375, abs=1e-12)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (0, 6), (5, 5), (9, 1), (30, 12), (40, 41), (200, 120)])
def test_mcnemars_p_value_is_the_exact_binomial_sum(gained: int, lost: int) -> None:
    discordant = gained + lost
    tail = sum(math.comb(discordant, k) for k in range(min(gained, lost) + 1)) / 2**discordant
    assert mcnemar(*answers(1, gained, lost, 1)).p_value == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_swapping_the_systems_swaps_gains_and_losses_and_keeps_the_p_value(pairs: list[tuple[bool, bool]]) -> None:
    before, after = map(list, zip(*pairs, strict=True))
    there, back = mcnemar(before, after), mcnemar(after, before)
    assert (there.gained, there.lost) == (back.lost, back.gained)
    assert there.gain.value == -back.gain.value == pytest.approx((sum(after) - sum(before)) / len(pairs))
    assert there.p_value == pytest.approx(back.p_value)
    assert 0 < there.p_value <= 1


@given(st.lists(st.booleans(), min_size=1), st.integers(0, 50))
def test_items_that_both_judge_alike_do_not_move_the_p_value(same: list[bool], extra: int) -> None:
    before, after = answers(0, 7, 1, 0)
    alone = mcnemar(before, after)
    assert mcnemar(before + same * extra, after + same * extra).p_value == alone.p_value


def test_systems_that_agree_everywhere_differ_by_nothing() -> None:
    test = mcnemar([True, False, True], [True, False, True])
    assert (test.gained, test.lost, test.gain.value, test.p_value) == (0, 0, 0.0, 1.0)


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (7, 7), (1, 3), (560, 1319), (999, 1000)])
def test_the_wilson_interval_is_the_one_of_statsmodels(correct: int, total: int) -> None:
    accuracy = wilson_interval(correct, total)
    expected = proportion_confint(correct, total, method="wilson")
    assert (accuracy.low, accuracy.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (8, 2), (5, 5), (40, 41), (200, 120)])
def test_mcnemars_p_value_is_the_one_of_statsmodels(gained: int, lost: int) -> None:
    expected = statsmodels_mcnemar([[11, lost], [gained, 13]], exact=True).pvalue
    before, after = answers(11, gained, lost, 13)
    assert mcnemar(before, after).p_value == pytest.approx(expected, abs=1e-9)


# Several samples per item.


def test_pass_at_two_of_one_in_four_is_the_fraction_worked_by_hand() -> None:
    assert pass_at_k(1, 4, 2) == 0.5  # 1 − C(3,2)/C(4,2) = 1 − 3/6


@pytest.mark.parametrize("samples", range(1, 8))
def test_pass_at_k_is_the_share_of_draws_that_hold_a_correct_sample(samples: int) -> None:
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations([True] * correct + [False] * (samples - correct), k))
        assert pass_at_k(correct, samples, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n), st.integers(1, n))))
def test_pass_at_k_is_a_chance_and_at_one_the_accuracy(counts: tuple[int, int, int]) -> None:
    correct, samples, k = counts
    assert pass_at_k(correct, samples, 1) == correct / samples <= pass_at_k(correct, samples, k) <= 1
    assert (pass_at_k(correct, samples, k) == 0) == (correct == 0)


def test_pass_at_k_keeps_its_digits_where_the_plain_formula_loses_them() -> None:
    # With c = 1 the chance is k/n, here 10⁻¹²: 1 − (1 − 10⁻¹²) has four digits left.
    assert pass_at_k(1, 10**12, 1) == 1e-12
    assert pass_at_k(3, 10**6, 2) == pytest.approx(float(1 - Fraction(999_997 * 999_996, 10**6 * 999_999)), rel=1e-15)


@pytest.mark.parametrize(("correct", "samples", "k"), [(-1, 4, 1), (5, 4, 1), (1, 4, 0), (1, 4, 5), (0, 0, 0)])
def test_pass_at_k_of_impossible_counts_is_refused(correct: int, samples: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(correct, samples, k)


# Intervals of gains and of means over several samples.


def gain_interval(gained: int, lost: int, total: int) -> Interval:
    return paired_interval(np.repeat([1.0, -1.0, 0.0], [gained, lost, total - gained - lost]))


@pytest.mark.parametrize(
    ("gained", "lost", "total", "low", "high"),
    [
        (1, 7, 21, -0.517, -0.026),  # Fagerland, Lydersen and Laake, Stat. Med. 33, 2014, Table V: airways, Tango
        (16, 8, 86, -0.020, 0.207),  # tests of the R package ratesci: 53, 16, 8 and 9 pairs
        (0, 1, 44, -0.118, 0.059),  # Tango, Stat. Med. 17, 1998: disinfection of contact lenses
    ],
)
def test_the_interval_of_a_gain_is_the_published_one(
    gained: int, lost: int, total: int, low: float, high: float
) -> None:
    found = gain_interval(gained, lost, total)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)
    assert found.value == pytest.approx((gained - lost) / total, abs=1e-12)


@pytest.mark.parametrize("total", [1, 2, 10, 44, 2000])
def test_no_changed_item_leaves_an_interval_that_knows_the_number_of_items(total: int) -> None:
    # With g = l = 0: q = 0, and n·δ = z·√(n·δ(1 − δ)) at δ = z²/(n + z²).
    square = 1.959963984540054**2
    found = gain_interval(0, 0, total)
    assert (found.low, found.value, found.high) == pytest.approx((-square / (total + square), 0, -found.low), abs=1e-9)


def score(gained: int, lost: int, total: int, delta: float) -> float:
    """Tango's statistic, with the nuisance parameter from a numerical maximum of the likelihood."""
    shares = np.linspace(max(0.0, -delta), (1 - delta) / 2, 200_001)[1:-1]
    with np.errstate(divide="ignore"):
        likelihood = gained * np.log(shares + delta) if gained else np.zeros_like(shares)
        likelihood = likelihood + (lost * np.log(shares) if lost else 0)
        likelihood += (total - gained - lost) * np.log1p(-2 * shares - delta)
    q = shares[likelihood.argmax()]
    return float((gained - lost - total * delta) / math.sqrt(total * (2 * q + delta - delta**2)))


@pytest.mark.parametrize(("gained", "lost", "total"), [(3, 1, 12), (12, 30, 90), (5, 5, 40), (20, 2, 25), (1, 19, 20)])
def test_the_score_test_rejects_exactly_what_is_outside_the_interval(gained: int, lost: int, total: int) -> None:
    found = gain_interval(gained, lost, total)
    assert score(gained, lost, total, found.low) == pytest.approx(1.96, abs=0.002)
    assert score(gained, lost, total, found.high) == pytest.approx(-1.96, abs=0.002)


@pytest.mark.parametrize(
    ("total", "up", "down"), [(10, 0.0, 0.05), (10, 0.3, 0.1), (20, 0.02, 0.02), (20, 0.5, 0.1), (30, 0.2, 0.2)]
)
def test_the_interval_of_a_gain_covers_the_truth_in_95_percent_of_all_outcomes(
    total: int, up: float, down: float
) -> None:
    outcomes = [(gained, lost) for gained in range(total + 1) for lost in range(total + 1 - gained)]
    counts = [(gained, lost, total - gained - lost) for gained, lost in outcomes]
    chances = multinomial.pmf(counts, total, [up, down, 1 - up - down])
    truth = up - down
    covers = [
        chance > 1e-7 and (found := gain_interval(*outcome, total)).low - 1e-9 <= truth <= found.high + 1e-9
        for outcome, chance in zip(outcomes, chances, strict=True)
    ]
    assert chances[covers].sum() > 0.93


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_the_interval_of_a_gain_holds_it_mirrors_and_shrinks_with_more_items(counts: tuple[int, int, int]) -> None:
    gained, lost, total = counts
    lost = min(lost, total - gained)
    there, back = gain_interval(gained, lost, total), gain_interval(lost, gained, total)
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert there.low < there.high
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    more = gain_interval(4 * gained, 4 * lost, 4 * total)
    assert more.high - more.low < there.high - there.low


def shares(items: int, samples: int, skill: float, seed: int) -> list[float]:
    """Scores of items of different difficulty, with this many samples each."""
    rng = np.random.default_rng(seed)
    return (rng.binomial(samples, rng.beta(skill, 1, items)) / samples).tolist()


def ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def test_equal_scores_leave_an_interval_that_knows_the_number_of_answers() -> None:
    assert ends(mean_interval([0.5] * 3, samples=4)) == pytest.approx(ends(wilson_interval(6, 12)))
    assert ends(mean_interval([0.0] * 3, samples=4)) == pytest.approx(ends(wilson_interval(0, 3)))
    assert ends(mean_interval([0.5] * 4)) == pytest.approx(ends(wilson_interval(2, 4)))


def test_one_sample_per_item_has_the_wilson_interval() -> None:
    for correct, total in ((0, 1), (1, 1), (0, 9), (4, 9), (9, 9), (560, 1319)):
        scores = [1.0] * correct + [0.0] * (total - correct)
        assert ends(mean_interval(scores)) == pytest.approx(ends(wilson_interval(correct, total)), abs=1e-9)


def test_many_items_have_the_interval_of_the_normal_distribution() -> None:
    values = shares(3000, 8, 1.5, seed=5)
    found, half = mean_interval(values, samples=8), 1.96 * float(np.std(values)) / math.sqrt(3000)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.02 * half + 3e-4)


@pytest.mark.parametrize(("items", "samples", "skill"), [(5, 8, 1.0), (12, 4, 3.0), (40, 16, 0.5)])
def test_the_interval_of_a_mean_over_samples_covers_the_truth(items: int, samples: int, skill: float) -> None:
    truth, covered = skill / (skill + 1), 0
    for seed in range(600):
        found = mean_interval(shares(items, samples, skill, seed), samples)
        covered += found.low <= truth <= found.high
    assert covered / 600 > 0.92


@pytest.mark.parametrize(("items", "samples", "gap"), [(6, 8, 0.0), (15, 4, 0.1), (60, 16, 0.2)])
def test_the_interval_of_a_gain_over_samples_covers_the_truth(items: int, samples: int, gap: float) -> None:
    covered = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        skill = rng.uniform(0, 0.8, items)
        before, after = rng.binomial(samples, skill) / samples, rng.binomial(samples, skill + gap) / samples
        found = paired_interval(after - before, samples)
        covered += found.low <= gap <= found.high
    assert covered / 600 > 0.92


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
@settings(max_examples=50)
def test_an_interval_contains_its_mean_stays_in_bounds_and_has_a_width(fourths: list[int]) -> None:
    estimate = mean_interval([fourth / 4 for fourth in fourths], samples=4)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.low < estimate.high


@pytest.mark.parametrize("scores", [[], [0.5, 1.5], [-0.1], [math.nan], [[0.5, 0.5]]])
def test_impossible_scores_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="no items|between 0 and 1"):
        mean_interval(scores)
    with pytest.raises(ValueError, match="no items|between 0 and 1"):
        compare_pairs(scores, scores)


def test_no_permutations_are_refused() -> None:
    with pytest.raises(ValueError, match="permutation"):
        compare_pairs([0.5], [0.5], resamples=0)


def test_permuting_thousands_of_items_takes_little_memory() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(5000).tolist(), rng.random(5000).tolist()
    tracemalloc.start()
    try:
        compare_pairs(before, after, resamples=600)  # 100 permutations at a time; all at once: above 24 MB per array
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


# Paired comparisons.


def test_a_comparison_counts_and_averages_what_was_worked_by_hand() -> None:
    found = compare_pairs([0.5, 0.0, 1.0, 0.25], [1.0, 0.5, 0.75, 0.25])
    assert (found.before, found.after, found.gained, found.lost, found.total) == (0.4375, 0.625, 2, 1, 4)
    assert found.gain.value == 0.1875
    # Differences ½, ½, −¼: |±½ ±½ ±¼| reaches ¾ in 4 of 8 sign patterns (1¼ and ¾, and their negatives).
    assert found.p_value == 0.5


def test_comparing_zeros_and_ones_counts_and_tests_as_mcnemar_does() -> None:
    before, after = answers(both=50, gained=30, lost=12, neither=40)
    found = compare_pairs(before, after)
    assert (found.gained, found.lost, found.total) == (30, 12, 132)
    assert found.p_value == pytest.approx(binomtest(30, 42).pvalue, abs=1e-12)
    assert found.gain.value == pytest.approx(18 / 132, abs=1e-12)
    assert found.minimal_detectable == pytest.approx(minimal_detectable_difference(132, 42 / 132), abs=1e-12)
    as_numbers = compare_pairs([float(right) for right in before], [int(right) for right in after])
    assert as_numbers == found


def test_pairing_removes_the_differences_between_items() -> None:
    before = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7]  # unpaired, these would leave the gain of 0.1 very uncertain
    found = compare_pairs(before, [0.1, 0.2, 0.3, 0.4, 0.6, 0.8], samples=10)
    assert found.gain.low < 0.1 < found.gain.high
    apart = compare_pairs(before, [0.6, 0.3, 0.8, 0.2, 0.1, 0.4], samples=10)
    assert apart.gain.high - apart.gain.low > 2 * (found.gain.high - found.gain.low)
    assert found.p_value == 2 / 2**6


def test_rounding_errors_are_no_gains() -> None:
    found = compare_pairs([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert (found.gained, found.lost, found.p_value, found.minimal_detectable) == (0, 0, 1.0, None)


def test_rounding_errors_do_not_break_ties_of_sign_patterns() -> None:
    # The differences 0.1, 0.2 and −0.3 add to nothing, in floats to 5.6e-17: no pattern is less extreme.
    assert compare_pairs([0.0, 0.0, 0.3] * 3, [0.1, 0.2, 0.0] * 3).p_value == 1.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7))
@settings(max_examples=40, deadline=None)
def test_the_permutation_test_of_few_items_counts_all_sign_patterns(pairs: list[tuple[int, int]]) -> None:
    found = compare_pairs([before / 3 for before, _ in pairs], [after / 3 for _, after in pairs], resamples=128)
    differences = [after - before for before, after in pairs]
    patterns = itertools.product((-1, 1), repeat=len(pairs))
    sums = [sum(sign * size for sign, size in zip(signs, differences, strict=True)) for signs in patterns]
    extreme = sum(abs(total) >= abs(sum(differences)) for total in sums)
    if all(score in (0, 3) for pair in pairs for score in pair):
        assert found.p_value == (binomtest(found.gained, found.gained + found.lost).pvalue if any(differences) else 1)
    assert found.p_value == pytest.approx(extreme / len(sums), abs=1e-12)


def test_the_permutation_test_of_many_items_agrees_with_the_t_test() -> None:
    before, after = shares(300, 8, 1.0, seed=3), shares(300, 8, 1.18, seed=4)
    expected = ttest_rel(after, before).pvalue
    assert 0.05 < expected < 0.4
    # Standard error of 10,000 permutations: √(0.2 · 0.8/10⁴) = 0.004, doubled for two sides.
    assert compare_pairs(before, after).p_value == pytest.approx(expected, abs=0.03)


scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=30), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_swapping_the_systems_negates_a_comparison(pairs: list[tuple[float, float]], seed: int) -> None:
    before, after = map(list, zip(*pairs, strict=True))
    there, back = (compare_pairs(*pair, 4, 1000, seed) for pair in ((before, after), (after, before)))
    assert compare_pairs(before, after, 4, 1000, seed) == there
    assert (there.gained, there.lost, there.before, there.after) == (back.lost, back.gained, back.after, back.before)
    assert (there.gain.value, there.p_value) == (-back.gain.value, pytest.approx(back.p_value, abs=1e-12))
    assert there.minimal_detectable == back.minimal_detectable
    assert -1 <= there.gain.low <= there.gain.value <= there.gain.high <= 1
    assert 0 < there.p_value <= 1
    assert ends(there.gain) == pytest.approx((-back.gain.high, -back.gain.low), abs=1e-9)


@pytest.mark.parametrize(("before", "after"), [([0.5], [0.5, 1.0]), ([1.0, 0.0], [1.0])])
def test_comparing_different_numbers_of_scores_is_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="one score for each item"):
        compare_pairs(before, after)


# Several benchmarks.


def test_the_overall_gain_counts_benchmarks_alike_and_the_p_value_items() -> None:
    small, large = answers(both=0, gained=2, lost=0, neither=2), answers(both=10, gained=30, lost=10, neither=50)
    found = compare_overall([small, large])
    assert (found.before, found.after) == pytest.approx((0.1, 0.45))  # (0 + 20 %)/2 and (50 % + 40 %)/2
    assert found.gain.value == pytest.approx(0.35)  # pooled, it would be 22/104
    assert (found.gained, found.lost, found.total) == (32, 10, 104)
    assert found.p_value == pytest.approx(binomtest(10, 42).pvalue, abs=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("score", [1.0, 0.5], ids=["McNemar", "sign flips"])
def test_items_that_point_another_way_than_the_mean_decide_nothing(sign: int, score: float) -> None:
    """The mean of benchmarks gains a point while the items lose: p of that loss must not stand beside the gain."""
    pairs = [answers(0, 40, 100, 1860), answers(0, 5, 0, 95)]
    pairs = [([score * x for x in before], [score * x for x in after]) for before, after in pairs]
    found = compare_overall([pair[::sign] for pair in pairs])
    assert sign * found.gain.value == pytest.approx(score * 0.01)
    assert sorted([found.gained, found.lost]) == [45, 100]
    assert found.p_value == 1
    assert compare_overall([pairs[0]]).p_value < 1e-3


def test_the_overall_interval_squares_and_adds_those_of_the_benchmarks() -> None:
    pairs = [answers(4, 3, 1, 2), answers(30, 20, 9, 41)]
    parts = [compare_pairs(*pair).gain for pair in pairs]
    found = compare_overall(pairs).gain
    assert found.value == pytest.approx((0.2 + 0.11) / 2)
    below = math.sqrt(sum((part.value - part.low) ** 2 for part in parts)) / 2
    above = math.sqrt(sum((part.high - part.value) ** 2 for part in parts)) / 2
    assert ends(found) == pytest.approx((found.value - below, found.value + above), abs=1e-9)


def test_the_overall_interval_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), 0
    chances = [(12, (0.3, 0.1)), (30, (0.02, 0.0)), (100, (0.2, 0.25))]
    truth = np.mean([up - down for _, (up, down) in chances])
    for _ in range(600):
        pairs = []
        for total, (up, down) in chances:
            gained, lost, same = rng.multinomial(total, (up, down, 1 - up - down))
            pairs.append(answers(0, gained, lost, same))
        covered += (found := compare_overall(pairs).gain).low <= truth <= found.high
    assert 0.92 < covered / 600 <= 1


def test_benchmarks_without_a_changed_item_leave_an_interval_with_a_width() -> None:
    few, many = ([True] * 3, [True] * 3), ([False] * 300, [False] * 300)
    for pairs in ([few, many], [many, many], [few]):
        found = compare_overall(pairs).gain
        assert found.low < found.value == 0 < found.high
    assert compare_overall([many, many]).gain.high < compare_overall([few, many]).gain.high


def test_one_benchmark_overall_is_that_benchmark() -> None:
    before, after = shares(50, 4, 1.0, seed=1), shares(50, 4, 2.0, seed=2)
    assert (
        vars(compare_overall([(before, after)], 4, 500, 7)).items()
        <= vars(compare_pairs(before, after, 4, 500, 7)).items()
    )


def test_one_benchmark_with_fractions_makes_the_pooled_test_a_permutation() -> None:
    found = compare_overall([([0, 0, 0], [1, 1, 1]), ([0.5], [0.75])])
    assert found.p_value == 2 / 2**4  # McNemar's test of four gains has the same: both count sign patterns …
    found = compare_overall([([0, 0, 0], [1, 1, 1]), ([0.75], [0.5])])
    assert found.p_value == 4 / 2**4  # … but here losing ¼ is as good as gaining it is better: 2¾ and 3¼, and negatives


def test_comparing_no_benchmarks_is_refused() -> None:
    with pytest.raises(ValueError, match="no benchmarks"):
        compare_overall([])


# What a test can detect, and many tests at once.


@given(st.integers(4, 20_000), st.floats(1e-4, 1), st.floats(0.5, 0.999), st.floats(1e-4, 0.2))
def test_the_minimal_difference_put_back_into_connors_formula_gives_the_items(
    total: int, discordant: float, power: float, alpha: float
) -> None:
    delta = minimal_detectable_difference(total, discordant, power, alpha)
    z_alpha, z_power = norm.ppf(1 - alpha / 2), norm.ppf(power)
    if delta is None:  # then even δ = ψ needs more items
        needed = z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - discordant**2)
        assert (needed / discordant) ** 2 > total * (1 - 1e-9)
    else:
        assert 0 < delta <= discordant
        needed = z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - delta**2)
        assert (needed / delta) ** 2 == pytest.approx(total, rel=1e-9)


def test_the_minimal_difference_inverts_a_published_sample_size() -> None:
    # powersamplesize.com, McNemar's test, two-sided: p01 = 0.45, p10 = 0.05, α = 0.05, power 0.8 need 23 pairs (22.01).
    above, below = minimal_detectable_difference(22, 0.5), minimal_detectable_difference(23, 0.5)
    assert above is not None
    assert below is not None
    assert below < 0.4 < above


@pytest.mark.parametrize(("total", "discordant"), [(600, 0.2), (1319, 0.1), (5000, 0.3)])
def test_mcnemars_test_finds_the_minimal_difference_with_power_80_percent(total: int, discordant: float) -> None:
    delta = minimal_detectable_difference(total, discordant)
    assert delta is not None
    parts = [(discordant + delta) / 2, (discordant - delta) / 2, 1 - discordant]
    gained, lost, _ = np.random.default_rng(0).multinomial(total, parts, 20_000).T
    p_values = 2 * binom.cdf(np.minimum(gained, lost), gained + lost, 0.5)
    assert (p_values < 0.05).mean() == pytest.approx(0.8, abs=0.03)  # the exact test is a little conservative


def test_the_sign_flip_test_finds_the_minimal_difference_of_fractions_with_power_80_percent() -> None:
    sizes = np.repeat([0.0, 0.125, 0.25, 0.75], [300, 150, 100, 50])
    found = compare_pairs([0.0] * 600, sizes.tolist(), resamples=1)
    delta = found.minimal_detectable
    assert delta is not None
    signs = np.where(np.random.default_rng(0).random((10_000, 600)) < (1 + delta / sizes.mean()) / 2, 1, -1)
    scores = (signs * sizes).sum(axis=1) / np.linalg.norm(sizes)  # normal under sign flips, nearly
    assert (np.abs(scores) > 1.959964).mean() == pytest.approx(0.8, abs=0.03)


def test_small_differences_of_many_samples_can_be_detected_where_whole_answers_could_not() -> None:
    found = compare_pairs([0.5] * 30, [0.375, 0.625, 0.5] * 10, resamples=1)  # ψ = 20/30 · ⅛², mean |d| = 1/12
    a, b = norm.ppf(0.975), norm.ppf(0.8)
    square = 2 / 3 / 64
    assert minimal_detectable_difference(30, square) is None
    assert found.minimal_detectable is not None
    put_back = a * math.sqrt(square) + b * math.sqrt(square - found.minimal_detectable**2)
    assert (put_back / found.minimal_detectable) ** 2 == pytest.approx(30, rel=1e-9)
    assert found.minimal_detectable < 1 / 12


@pytest.mark.parametrize(("total", "discordant"), [(1000, 0.0), (3, 1.0), (100, 0.05), (1, 1.0)])
def test_a_difference_that_cannot_be_detected_has_no_minimum(total: int, discordant: float) -> None:
    assert minimal_detectable_difference(total, discordant) is None


@pytest.mark.parametrize(
    ("total", "discordant", "power", "alpha"),
    [
        (0, 0.1, 0.8, 0.05),
        (9, -0.1, 0.8, 0.05),
        (9, 1.1, 0.8, 0.05),
        (9, math.nan, 0.8, 0.05),
        (9, 0.1, 1.0, 0.05),
        (9, 0.1, 0.4, 0.05),
        (9, 0.1, 0.8, 0.0),
        (9, 0.1, 0.8, 1.0),
    ],
)
def test_impossible_tests_are_refused(total: int, discordant: float, power: float, alpha: float) -> None:
    with pytest.raises(ValueError, match="impossible test"):
        minimal_detectable_difference(total, discordant, power, alpha)


def test_holms_p_values_are_those_worked_by_hand() -> None:
    # Sorted: 0.01·4 = 0.04, 0.02·3 = 0.06, 0.025·2 = 0.05 → 0.06 (never below the one before), 0.9·1.
    assert holm([0.02, 0.9, 0.01, 0.025]) == pytest.approx([0.06, 0.9, 0.04, 0.06], abs=1e-15)
    assert holm([]) == []


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(p_values)
@settings(max_examples=10, deadline=None)  # statsmodels collects garbage in every call
def test_holms_p_values_are_those_of_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-9)


@given(p_values, st.randoms(use_true_random=False))
def test_holm_keeps_the_order_lowers_no_p_value_and_does_not_depend_on_the_sequence(
    p_values: list[float], random: Random
) -> None:
    adjusted = holm(p_values)
    assert all(plain <= more <= 1 for plain, more in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [more for _, more in ranked] == sorted(adjusted)
    shuffled = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[index] for index in shuffled]) == [adjusted[index] for index in shuffled]


@pytest.mark.parametrize("p_value", [-0.1, 1.1, math.nan])
def test_impossible_p_values_are_refused(p_value: float) -> None:
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, p_value])
