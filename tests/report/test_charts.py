"""Geometry of the charts."""

import pytest

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report.charts import (
    MOST_BARS,
    column,
    curve,
    curves,
    histogram,
    kl_class,
    nice,
    positions,
    round_values,
    short,
    smoothed,
    spread,
    tail,
    whisker,
)
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS

SIZE = {"width": 256, "height": 158}  # the x axis has 200 units, the bars of a histogram 100


def test_the_histogram_has_one_bar_per_bin_and_ticks_that_line_up_with_beta() -> None:
    drawn = histogram([0.6, 0.2, *[0.0] * 18, 0.2], 0.4, values=True, **SIZE)
    assert len(drawn.bars) == len(HEAD_BINS) - 1 == 20
    assert drawn.x_ticks == ((46, "0.0"), (86, "0.4"), (126, "0.8"), (166, "1.2"), (206, "1.6"), (246, "2.0"))
    assert drawn.mark == {name: x for x, name in drawn.x_ticks}["0.4"]
    assert drawn.y_ticks == ((136, "0"), (102.67, "20"), (69.33, "40"), (36, "60"))
    assert (drawn.bars[0].y, drawn.bars[0].height, drawn.bars[1].height) == (36, 100, 33.33)
    assert (drawn.bars[1].title, drawn.bars[1].value) == ("KL 0.1 to 0.2: 20.00 %", "20.0")
    assert [bar.level for bar in drawn.bars[:5]] == [0, 1, 2, 2, 3]
    assert histogram([0.0] * 21, 2.5, values=True, **SIZE).mark is None
    late = histogram([0.0] * 21, 1.9, values=False, **SIZE)
    assert late.turned
    assert late.mark == pytest.approx(236)


def test_the_overflow_has_all_of_the_rest_and_its_open_bar_apart() -> None:
    drawn = tail([0.01] * 15, 3.0, **SIZE)
    assert len(drawn.bars) == len(TAIL_BINS) == 15
    assert (drawn.bars[0].title, drawn.bars[-1].title) == ("KL 2.0 to 2.2: 1.00 %", "KL 4.8 and more: 1.00 %")
    step = drawn.bars[1].x - drawn.bars[0].x
    assert drawn.bars[-1].x - drawn.bars[-2].x == pytest.approx(1.7 * step, abs=0.05)
    assert [name for _, name in drawn.x_ticks] == ["2", "3", "4", "4.8+"]
    assert drawn.mark == pytest.approx(drawn.x_ticks[1][0], abs=0.01)
    assert tail([0.01] * 15, 0.4, **SIZE).mark is None
    assert tail([0.01] * 15, 9.0, **SIZE).mark is None


def test_positions_that_few_rollouts_reach_are_left_out_and_many_share_bars() -> None:
    drawn = positions([0.5, 0.25, 0.5], [100, 50, 1], **SIZE)
    assert [bar.title for bar in drawn.bars] == ["step 0, 100 rollouts: 50.00 %", "step 1, 50 rollouts: 25.00 %"]
    assert [name for _, name in drawn.y_ticks] == ["0", "20", "40", "60"]
    assert drawn.x_ticks[0] == (pytest.approx(drawn.bars[0].x + drawn.bars[0].width / 2, abs=0.1), "0")
    long = positions([0.0, 1.0] * 1000, [4] * 2000, **SIZE)
    assert len(long.bars) <= MOST_BARS
    assert long.bars[0].title.startswith("steps 0 to 16, 4 rollouts: 47.06 %")  # 8 of 17
    nothing = positions([0.0], [3], **SIZE)
    assert (nothing.bars[0].height, [name for _, name in nothing.y_ticks]) == (0, ["0", "50", "100"])


def test_an_accuracy_lies_between_the_ends_of_its_scale() -> None:
    assert whisker(Interval(0.5, 0.0, 1.0), width=600) == Interval(300, 6, 594)
    assert whisker(None, width=600) is None
    assert spread(Interval(0.1, -0.2, 0.3), -0.2, 0.2, width=212) == Interval(156, 6, 206)


def test_a_curve_needs_two_finite_rows() -> None:
    log = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": 0.25}]
    drawn = curve(log, "loss", "Loss", width=420, height=190)
    assert drawn is not None
    (line,) = drawn.lines
    assert (line.first, line.last, len(line.points.split()), line.raw) == (0.5, 0.25, 2, "")
    assert curve(log[:2], "loss", "Loss", width=420, height=190) is None
    assert column([{"step": 1, "loss": None}, {"loss": 1.0}, {"step": 2, "loss": True}], "loss") == [(2, True)]


def test_curves_share_their_axes_and_keep_the_colour_of_their_series() -> None:
    drawn = curves(
        {"short": [(1, 1.0)], "a": [(1, 2.0), (2, 4.0)], "b": [(1, -1.0), (4, 1.0)]}, "T", width=256, height=146, mark=2
    )
    assert drawn is not None
    assert [(line.place, line.name) for line in drawn.lines] == [(1, "a"), (2, "b")]
    assert drawn.lines[0].points == "96.0,43.33 146.0,10.0"  # x from 0 to 4 in 46 … 246, y from −2 to 4 in 110 … 10
    assert [name for _, name in drawn.x_ticks] == ["0", "1", "2", "3", "4"]
    assert [name for _, name in drawn.y_ticks] == ["-2", "0", "2", "4"]
    assert drawn.mark == 146
    assert curves({"short": [(1, 1.0)]}, "T", width=256, height=146) is None


def test_long_curves_are_smoothed_by_a_mean_that_keeps_lines_and_ends() -> None:
    line = [(step, 2.0 * step) for step in range(40)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    waves = [(step, float(step % 2)) for step in range(40)]
    means = [y for _, y in smoothed(waves)]
    assert (means[0], means[-1]) == (0, 1)
    assert means[20] == pytest.approx(0.4)  # of 0 1 0 1 0
    assert smoothed(waves[:19]) == waves[:19]
    drawn = curves({"a": waves}, "T", width=256, height=146)
    assert drawn is not None
    assert drawn.is_smoothed
    assert drawn.lines[0].raw != drawn.lines[0].points


def test_classes_and_ticks_by_hand() -> None:
    assert [kl_class(kl) for kl in (0.0, 0.1, 0.4, 2.9, 3.0)] == [0, 1, 3, 7, 8]
    assert [nice(value) for value in (0.0, 0.03, 0.05, 1.1, 7.0)] == [1.0, 0.05, 0.05, 2.0, 10.0]
    assert round_values(0, 0.41) == [0, 0.2, 0.4, 0.6]
    assert round_values(-0.3, 0.3) == [-0.4, -0.2, 0.0, 0.2, 0.4]
    assert round_values(0, 3, least=1, parts=4) == [0, 1, 2, 3]
    assert [short(value) for value in (5e-5, 0.25, 0.1, 1200.0, 2e6, 0.0)] == [
        "5e-5",
        "0.25",
        "0.1",
        "1200",
        "2e6",
        "0",
    ]
