"""Intervals and paired tests against formulas worked by hand and against SciPy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lightreasoner.statistics import Accuracy, mcnemar


def test_the_wilson_interval_of_eight_in_ten_is_the_one_worked_by_hand() -> None:
    # z = 1.959964, z² = 3.841459, n = 10, p = 0.8.
    # centre = (p + z²/2n) / (1 + z²/n) = (0.8 + 0.192073) / 1.384146 = 0.716740
    # half   = z/(1 + z²/n) · √(p(1−p)/n + z²/4n²) = 1.416010 · √(0.016 + 0.009604) = 1.416010 · 0.160012 = 0.226578
    accuracy = Accuracy.of(8, 10)
    assert accuracy.low == pytest.approx(0.716740 - 0.226578, abs=2e-6)
    assert accuracy.high == pytest.approx(0.716740 + 0.226578, abs=2e-6)
    assert accuracy.value == 0.8


@pytest.mark.parametrize(("correct", "total"), [(0, 1), (1, 1), (0, 50), (50, 50), (1, 3), (560, 1319), (999, 1000)])
def test_the_interval_is_scipys_wilson_interval_at_95_percent(correct: int, total: int) -> None:
    accuracy = Accuracy.of(correct, total)
    expected = binomtest(correct, total).proportion_ci(confidence_level=0.95, method="wilson")
    assert (accuracy.low, accuracy.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (accuracy.correct, accuracy.total) == (correct, total)


@given(st.integers(1, 3000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_is_the_closed_wilson_formula_for_any_counts(counts: tuple[int, int]) -> None:
    correct, total = counts
    z, share = 1.959963984540054, correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    accuracy = Accuracy.of(correct, total)
    assert accuracy.low == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert accuracy.high == pytest.approx(min(1.0, centre + half), abs=1e-9)
    assert accuracy.low <= accuracy.value <= accuracy.high


def test_an_accuracy_reads_as_a_percentage_with_its_interval_and_size() -> None:
    assert str(Accuracy.of(8, 10)) == "80.0 % (49.0 – 94.3, n = 10)"


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5), (0, -1)])
def test_counts_that_cannot_be_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the words are SciPy's
        Accuracy.of(correct, total)


def answers(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Two systems' answers with these counts."""
    before = [True] * both + [False] * gained + [True] * lost + [False] * neither
    after = [True] * both + [True] * gained + [False] * lost + [False] * neither
    return before, after


def test_mcnemar_counts_gained_and_lost_items_and_the_gain() -> None:
    test = mcnemar(*answers(both=5, gained=8, lost=2, neither=5))
    assert (test.gained, test.lost, test.total) == (8, 2, 20)
    assert test.gain == pytest.approx(0.3)  # 13/20 − 7/20


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
    assert there.gain == -back.gain == pytest.approx((sum(after) - sum(before)) / len(pairs))
    assert there.p_value == pytest.approx(back.p_value)
    assert 0 < there.p_value <= 1


@given(st.lists(st.booleans(), min_size=1), st.integers(0, 50))
def test_items_that_both_judge_alike_do_not_move_the_p_value(same: list[bool], extra: int) -> None:
    before, after = answers(0, 7, 1, 0)
    alone = mcnemar(before, after)
    assert mcnemar(before + same * extra, after + same * extra).p_value == alone.p_value


def test_systems_that_agree_everywhere_differ_by_nothing() -> None:
    test = mcnemar([True, False, True], [True, False, True])
    assert (test.gained, test.lost, test.gain, test.p_value) == (0, 0, 0.0, 1.0)


def test_comparing_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        mcnemar([], [])


@pytest.mark.parametrize(("before", "after"), [([True], [True, False]), ([True, False], [True])])
def test_systems_with_different_numbers_of_answers_are_refused(before: list[bool], after: list[bool]) -> None:
    with pytest.raises(ValueError, match="zip"):
        mcnemar(before, after)
