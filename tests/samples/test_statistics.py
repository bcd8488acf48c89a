"""Statistics of samples and labels by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lightreasoner.samples.folder import PER_STEP, PER_TOP, Rollout
from lightreasoner.samples.statistics import (
    KlHistogram,
    echoes,
    figures_of,
    is_scattered,
)


def test_signs_of_junk_by_hand() -> None:
    assert echoes(list(range(10)), [99, *range(1, 9), 99]) == 1
    assert echoes(list(range(10)), [99, *range(1, 8), 99]) is None
    assert is_scattered([0.1] * 10, 4.1)
    assert not is_scattered([0.1] * 10, 3.9)
    assert not is_scattered([0.9, 0.1], 9.0)


def test_bins_hold_their_lower_ends_and_rounding_below_zero() -> None:
    histogram = KlHistogram()
    histogram.add(np.array([-1e-4, 0.0, 0.1, 0.3, 0.7, 1.9999, 2.0, 2.2, 4.7, 4.8, 50.0, np.nan]))
    assert histogram.head[[0, 1, 3, 7, 19, 20]].tolist() == [2, 1, 1, 1, 1, 5]
    assert histogram.tail[[0, 1, 13, 14]].tolist() == [1, 1, 1, 2]
    assert histogram.total == 11


def rollout(name: str, kl: list[float], *, finished: bool = True) -> Rollout:
    """Three steps: the models share both, one (of mass 0.75) and none of their two top tokens."""
    tops = [[[1, 2], [3, 4], [5, 6]], [[2, 1], [3, 7], [8, 9]]]
    masses = np.log([[0.75, 0.125], [0.75, 0.25], [0.5, 0.5]]).tolist()
    return Rollout(
        name, name, [1], [1, 3, 5], finished, kl, [0.5, 0.1, 0.0], [1.0, 1.1, 0.9], [-0.25, -0.5, -0.75],
        [-1.0, -1.0, -1.0], tops[0], masses, tops[1], masses,
    )  # fmt: skip


def test_figures_of_rollouts_by_hand() -> None:
    tables = [
        Rollout.table([rollout("a", [0.0, 0.05, 0.4]), rollout("b", [0.3, 1.0, 3.0], finished=False)]),
        Rollout.table([rollout("c", [0.09, 0.1, math.nan])]),
    ]
    found = figures_of(tables, 3)
    assert (found.rollouts, found.steps, found.finished, found.kept_share) == (3, 8, 2, 3 / 8)
    assert found.mean_kl == pytest.approx(4.94 / 8)
    assert found.agree == pytest.approx(1 / 3)
    assert found.overlap == pytest.approx((0.875 + 0.75 + 0) / 3)
    assert found.below_tenth == pytest.approx(3 / 8)
    assert found.above_beta == pytest.approx(3 / 8)
    assert found.advantage == pytest.approx(0.5)
    assert found.entropy_gap == pytest.approx(0.8 / 1.2)
    assert found.log_expert_entropy == pytest.approx(math.log(0.2))


def test_rollouts_without_scores_have_no_figures() -> None:
    unscored = replace(rollout("a", []), **{key: [] for key in (*PER_STEP, *PER_TOP)})
    found = figures_of([Rollout.table([unscored])], None)
    assert (found.rollouts, found.steps) == (1, 0)
    assert {found.agree, found.overlap, found.above_beta, found.below_tenth, found.mean_kl} == {None}
