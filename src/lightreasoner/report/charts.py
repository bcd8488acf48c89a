"""Geometry of the page's charts, in units of their view boxes. The template draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS

# Upper ends of the classes of the colour scale, nats; 0.4 is the paper's β. report.js has the same.
KL_CLASSES = (0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.0, 3.0)
MOST_BARS = 120  # positions in a rollout; beyond, neighbours share a bar
LEFT, RIGHT, BOTTOM = 46.0, 10.0, 22.0  # space of the y axis's names, half an x tick, the x axis

Ticks = tuple[tuple[float, str], ...]  # place and name
Points = Sequence[tuple[float, float]]


def kl_class(kl: float) -> int:
    """Class of a divergence on the colour scale, 0 … 8."""
    return sum(kl >= end for end in KL_CLASSES)


@dataclass(frozen=True)
class Bar:
    """A vertical bar: geometry, class on the colour scale, and the texts above it and on hover."""

    x: float
    y: float
    width: float
    height: float
    level: int
    value: str = ""
    title: str = ""


@dataclass(frozen=True)
class Bars:
    """Vertical bars over an x axis, beside a y axis in %; `mark` is the x of β, and `turned` puts its name left."""

    width: float
    height: float
    left: float
    base: float
    bars: tuple[Bar, ...]
    x_ticks: Ticks
    y_ticks: Ticks
    mark: float | None = None
    turned: bool = False


@dataclass(frozen=True)
class _Column:
    """A bar before it is drawn; `place` is its left edge in units of a bar."""

    place: float
    share: float
    level: int
    title: str


def histogram(shares: Sequence[float], beta: float | None, *, width: float, height: float, values: bool) -> Bars:
    """Figure 2 up to its overflow: shares in `HEAD_BINS` without the last, ticks at the edges of the bins.

    Args:
        shares: of all tokens, in `HEAD_BINS`.
        beta: β of Eq 3, to mark.
        width, height: of the view box.
        values: write the shares above their bars.
    """
    bins = HEAD_BINS[:-1]
    columns = [
        _Column(place, share, kl_class(bin_.start + 1e-9), f"KL {bin_}")
        for place, (bin_, share) in enumerate(zip(bins, shares, strict=False))
    ]
    edges = [(float(place), f"{place / 10:.1f}") for place in range(0, len(bins) + 1, 4)]
    drawn = _bars(columns, len(bins), edges, width=width, height=height, least=0.0005 if values else math.inf)
    return drawn if beta is None else _marked(drawn, beta, HEAD_BINS[0].start, HEAD_BINS[-1].start, len(bins))


def tail(shares: Sequence[float], beta: float | None, *, width: float, height: float) -> Bars:
    """The overflow of Figure 2: shares in `TAIL_BINS`, the open bin apart."""
    last = len(TAIL_BINS) - 1
    columns = [
        _Column(place + 0.7 * (place == last), share, min(kl_class(bin_.start + 1e-9), len(KL_CLASSES)), f"KL {bin_}")
        for place, (bin_, share) in enumerate(zip(TAIL_BINS, shares, strict=True))
    ]
    ticks = [(float(place), f"{TAIL_BINS[place].start:.0f}") for place in range(0, last, 5)]
    ticks.append((last + 1.2, f"{TAIL_BINS[last].start:g}+"))
    drawn = _bars(columns, last + 1.9, ticks, width=width, height=height)
    if beta is None or beta >= TAIL_BINS[last].start:
        return drawn
    units = (last + 1.9) / last * (TAIL_BINS[last].start - TAIL_BINS[0].start)
    return _marked(drawn, beta, TAIL_BINS[0].start, TAIL_BINS[0].start + units, last + 1.9)


def _marked(drawn: Bars, beta: float, start: float, end: float, units: float) -> Bars:
    """The chart with β at its place on the x axis from `start` to `end`, if it lies there."""
    if not start <= beta < end:
        return drawn
    x = _across(drawn.width, units)(units * (beta - start) / (end - start))
    return replace(drawn, mark=x, turned=x > drawn.width / 2)


def positions(kept_at: Sequence[float], steps_at: Sequence[int], *, width: float, height: float) -> Bars:
    """Share of kept steps by position in the rollout, without positions that few rollouts reach."""
    places = reached(steps_at)
    size = math.ceil(len(places) / MOST_BARS) or 1
    columns = []
    for number, start in enumerate(range(0, len(places), size)):
        group = places[start : start + size]
        steps = sum(steps_at[place] for place in group)
        kept = sum(kept_at[place] * steps_at[place] for place in group)
        name = f"step {group[0]}" if size == 1 else f"steps {group[0]} to {group[-1]}"
        columns.append(_Column(number, kept / steps, 6, f"{name}, {steps_at[group[0]]:,} rollouts"))
    every = max(1, round(nice(len(places) / 6)))
    ticks = [(place / size + 0.5 / size, str(places[place])) for place in range(0, len(places), every)]
    return _bars(columns, max(len(columns), 1), ticks, width=width, height=height, top=10)


def reached(steps_at: Sequence[int]) -> list[int]:
    """The positions that a fiftieth of the rollouts reach, where the first one is reached most."""
    enough = max(max(steps_at, default=0) * 0.02, 1)
    return [place for place, steps in enumerate(steps_at) if steps >= enough]


def _across(width: float, units: float) -> "_Scale":
    return _Scale(0.0, units, LEFT, width - RIGHT)


@dataclass(frozen=True)
class _Scale:
    """Maps values from `low` to `high` to places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 2)


def _bars(
    columns: Sequence[_Column], units: float, x_ticks: Points | Sequence[tuple[float, str]],
    *, width: float, height: float, top: float = 36, least: float = math.inf,
) -> Bars:  # fmt: skip
    """Bars from a base line up; shares from `least` on are written above theirs."""
    x_of, base = _across(width, units), height - BOTTOM
    marks = round_values(0.0, max((column.share for column in columns), default=0.0))
    y_of = _Scale(0.0, marks[-1], base, top)
    bars = tuple(
        Bar(
            x_of(column.place + 0.06),
            y_of(column.share),
            round(x_of(column.place + 0.94) - x_of(column.place + 0.06), 2),
            round(base - y_of(column.share), 2),
            column.level,
            f"{100 * column.share:.1f}" if column.share >= least else "",
            f"{column.title}: {100 * column.share:.2f} %",
        )
        for column in columns
    )
    names = tuple((x_of(place), str(name)) for place, name in x_ticks)
    return Bars(width, height, LEFT, base, bars, names, tuple((y_of(mark), short(100 * mark)) for mark in marks))


def whisker(accuracy: Interval | None, *, width: float) -> Interval | None:
    """An accuracy as positions on a scale from 0 to 100 %."""
    return None if accuracy is None else spread(accuracy, 0.0, 1.0, width=width)


def spread(interval: Interval, low: float, high: float, *, width: float) -> Interval:
    """A figure and its ends as positions on a scale from `low` to `high`, cut off at its ends."""
    place = _Scale(low, high, 6, width - 6)
    return Interval(*(place(min(max(end, low), high)) for end in (interval.value, interval.low, interval.high)))


@dataclass(frozen=True)
class Line:
    """A line: its points in SVG form, also those before smoothing if it is smoothed; first and last value.

    `place` is the place of its series, which decides its colour.
    """

    place: int
    name: str
    points: str
    raw: str
    first: float
    last: float


@dataclass(frozen=True)
class Curve:
    """Lines over a common axis; `mark` is an x to mark, such as the round that is kept."""

    title: str
    width: float
    height: float
    left: float
    base: float
    lines: tuple[Line, ...]
    x_ticks: Ticks
    y_ticks: Ticks
    x_name: str
    mark: float | None = None

    @property
    def is_smoothed(self) -> bool:
        """A line is drawn smoothed, above its own points."""
        return any(line.raw for line in self.lines)


def curve(
    log: Sequence[Mapping[str, float]], key: str, title: str, *,
    width: float, height: float, x_name: str = "step", mark: float | None = None, smooth: bool = True,
) -> Curve | None:  # fmt: skip
    """A column of a log over the steps; None if fewer than two rows have it."""
    return curves({"": column(log, key, x_name)}, title, width=width, height=height, x_name=x_name, mark=mark,
                  smooth=smooth)  # fmt: skip


def column(log: Sequence[Mapping[str, float]], key: str, x_name: str = "step") -> Points:
    """The points of a column of a log: rows without it, or where it is no number, are left out."""
    return [(row[x_name], row[key]) for row in log if _is_number(row.get(key)) and _is_number(row.get(x_name))]


def _is_number(value: float | None) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def curves(
    series: Mapping[str, Points], title: str, *,
    width: float, height: float, x_name: str = "step", mark: float | None = None, smooth: bool = True,
    whole: bool = True,
) -> Curve | None:  # fmt: skip
    """Lines by name in one chart, those of fewer than two points left out; None if none is left.

    Args:
        series: points by name, in the order of their x.
        title: above the chart.
        width, height: of the view box.
        x_name: what the x axis shows.
        mark: an x to mark.
        smooth: draw long series as a running mean, above their own points.
        whole: name whole numbers only on the x axis.
    """
    known = {name: points for name, points in series.items() if len(points) > 1}
    if not known:
        return None
    everything = [point for points in known.values() for point in points]
    x_marks = round_values(
        min(0.0, *(x for x, _ in everything)), max(x for x, _ in everything), least=float(whole), parts=4
    )
    y_marks = round_values(min(0.0, *(y for _, y in everything)), max(y for _, y in everything))
    most = max(x for x, _ in everything)
    base = height - BOTTOM - 14
    x_of, y_of = _Scale(x_marks[0], most, LEFT, width - RIGHT), _Scale(y_marks[0], y_marks[-1], base, 10)

    def drawn(points: Points) -> str:
        return " ".join(f"{x_of(x)},{y_of(y)}" for x, y in points)

    lines = []
    for place, (name, points) in enumerate(series.items()):
        if name not in known:
            continue
        mean = smoothed(points) if smooth else points
        raw = drawn(points) if mean is not points else ""
        lines.append(Line(place, name, drawn(mean), raw, points[0][1], points[-1][1]))
    name = {"step": "steps", "round": "rounds"}.get(x_name, x_name)
    return Curve(
        title, width, height, LEFT, base, tuple(lines),
        tuple((x_of(x), short(x)) for x in x_marks if x <= most),
        tuple((y_of(y), short(y)) for y in y_marks),
        name,
        None if mark is None else x_of(mark),
    )  # fmt: skip


def smoothed(points: Points) -> Points:
    """The centred mean over a tenth of the points, fewer near the ends; the same points if there are fewer than 20."""
    half = len(points) // 20
    if not half:
        return points
    values = [y for _, y in points]
    means = []
    for place, (x, _) in enumerate(points):
        reach = min(half, place, len(points) - 1 - place)
        window = values[place - reach : place + reach + 1]
        means.append((x, math.fsum(window) / len(window)))
    return means


def round_values(low: float, high: float, *, least: float = 0.0, parts: int = 3) -> list[float]:
    """Round values from at most `low` to at least `high`, some `parts` steps of at least `least` apart."""
    if high <= low:
        high = low + 1.0
    unit = max(nice((high - low) / parts), least)
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return [float(f"{unit * place:.10g}") for place in range(first, last + 1)]


def nice(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= value * (1 - 1e-9)), 10 * power)


def short(value: float) -> str:
    """A number in few letters: 0.25, 1200, 5e-5, 2e6."""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:.5g}"
    digits, _, exponent = text.partition("e")
    return f"{digits}e{int(exponent)}" if exponent else digits
