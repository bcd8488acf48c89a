"""Geometry of the page's charts."""

import pytest

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report.charts import curve, histogram, kl_class, nice, positions, tail, whisker
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS


def test_the_histogram_has_one_bar_per_bin_and_marks_beta() -> None:
    drawn = histogram([0.6, 0.2, *[0.0] * 18, 0.2], 0.4, width=210, height=100)
    assert len(drawn.bars) == len(HEAD_BINS) == 21
    assert [bar.name for bar in drawn.bars if bar.name] == ["0.0", "0.4", "0.8", "1.2", "1.6", "2.0+"]
    assert (drawn.bars[1].title, drawn.bars[-1].title) == ("KL 0.1 to 0.2: 20.00 %", "KL 2.0 and more: 20.00 %")
    assert [bar.level for bar in drawn.bars[:5]] == [0, 1, 2, 2, 3]
    assert drawn.bars[-1].level == 8
    assert (drawn.bars[0].height, drawn.bars[1].height) == (58, 19.33)
    assert drawn.mark == pytest.approx(40)  # four of 21 bins, 10 wide each
    assert histogram([0.0] * 21, 2.5, width=210, height=100).mark is None


def test_the_tail_covers_2_to_4_8_nats() -> None:
    drawn = tail([0.01] * 14, width=140, height=50)
    assert len(drawn.bars) == len(TAIL_BINS) == 14
    assert (drawn.bars[0].title, drawn.bars[-1].title) == ("KL 2.0 to 2.2: 1.00 %", "KL 4.6 to 4.8: 1.00 %")


def test_positions_that_few_rollouts_reach_are_left_out() -> None:
    assert len(positions([0.5, 0.5, 0.5], [100, 50, 1], width=100, height=50).bars) == 2


def test_an_accuracy_lies_between_the_ends_of_its_scale() -> None:
    assert whisker(Interval(0.5, 0.0, 1.0), width=600) == Interval(300, 6, 594)
    assert whisker(None, width=600) is None


def test_a_curve_needs_two_finite_rows() -> None:
    log = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 0.25}]
    drawn = curve(log, "loss", "Loss", width=420, height=190)
    assert drawn is not None
    assert (drawn.first, drawn.last, len(drawn.points.split())) == (0.5, 0.25, 2)
    assert curve(log[:2], "loss", "Loss", width=420, height=190) is None


def test_classes_and_ticks_by_hand() -> None:
    assert [kl_class(kl) for kl in (0.0, 0.1, 0.4, 2.9, 3.0)] == [0, 1, 3, 7, 8]
    assert [nice(value) for value in (0.0, 0.03, 0.05, 1.1, 7.0)] == [1.0, 0.05, 0.05, 2.0, 10.0]
