"""Statistics of labels, by hand."""

import numpy as np

from lightreasoner.samples.statistics import KlHistogram, echoes, is_scattered


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
