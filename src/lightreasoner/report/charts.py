"""Geometry of the page's charts, in units of their view boxes. The template draws them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS

# Upper ends of the classes of the colour scale, nats; 0.4 is the paper's β. report.js has the same.
KL_CLASSES = (0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.0, 3.0)


def kl_class(kl: float) -> int:
    """Class of a divergence on the colour scale, 0 … 8."""
    return sum(kl >= end for end in KL_CLASSES)


@dataclass(frozen=True)
class Bar:
    """A vertical bar: geometry, class on the colour scale, and the texts above, below and on hover."""

    x: float
    y: float
    width: float
    height: float
    level: int
    value: str = ""
    name: str = ""
    title: str = ""


@dataclass(frozen=True)
class Bars:
    """Vertical bars on a base line; `mark` is the x of β."""

    width: float
    height: float
    base: float
    bars: tuple[Bar, ...]
    mark: float | None = None


def histogram(shares: Sequence[float], beta: float | None, *, width: float, height: float) -> Bars:
    """Figure 2: shares in `HEAD_BINS`."""
    names = [f"{place.start:.1f}" if at % 4 == 0 else "" for at, place in enumerate(HEAD_BINS)]
    names[-1] = f"{HEAD_BINS[-1].start:.1f}+"
    titles = [f"KL {place}" for place in HEAD_BINS]
    levels = [kl_class(place.start + 1e-9) if place.end else len(KL_CLASSES) for place in HEAD_BINS]
    bars = _bars(shares, levels, names, titles, width=width, height=height, top=22, bottom=20, least=0.003)
    if beta is None or not 0 <= beta < HEAD_BINS[-1].start:
        return bars
    nats = HEAD_BINS[1].start * len(HEAD_BINS)  # across the width
    return replace(bars, mark=beta * width / nats)


def tail(shares: Sequence[float], *, width: float, height: float) -> Bars:
    """The inset of Figure 2: shares in `TAIL_BINS`."""
    names = [f"{place.start:.0f}" if at % 5 == 0 else "" for at, place in enumerate(TAIL_BINS)]
    titles = [f"KL {place}" for place in TAIL_BINS]
    levels = [kl_class(place.start + 1e-9) for place in TAIL_BINS]
    return _bars(shares, levels, names, titles, width=width, height=height, top=6, bottom=16)


def positions(kept_at: Sequence[float], steps_at: Sequence[int], *, width: float, height: float) -> Bars:
    """Share of kept steps by position in the rollout, without positions that few rollouts reach."""
    enough = max(steps_at, default=0) * 0.02
    shares = [share for share, steps in zip(kept_at, steps_at, strict=True) if steps >= max(enough, 1)]
    every = max(1, 10 * math.ceil(len(shares) / 60))
    names = [str(place) if place % every == 0 else "" for place in range(len(shares))]
    titles = [f"step {place}, {steps_at[place]} rollouts" for place in range(len(shares))]
    return _bars(shares, [6] * len(shares), names, titles, width=width, height=height, top=8, bottom=18)


def _bars(
    shares: Sequence[float], levels: Sequence[int], names: Sequence[str], titles: Sequence[str],
    *, width: float, height: float, top: float, bottom: float, least: float = math.inf,
) -> Bars:  # fmt: skip
    """Bars side by side, the tallest from `bottom` to `top`; shares from `least` on are written above theirs."""
    step = width / max(len(shares), 1)
    base = height - bottom
    scale = (base - top) / (max(shares, default=0) or 1.0)
    bars = [
        Bar(
            round(place * step + 0.06 * step, 2),
            round(base - scale * share, 2),
            round(0.88 * step, 2),
            round(scale * share, 2),
            level,
            f"{100 * share:.1f}" if share >= least else "",
            name,
            f"{title}: {100 * share:.2f} %",
        )
        for place, (share, level, name, title) in enumerate(zip(shares, levels, names, titles, strict=True))
    ]
    return Bars(width, height, base, tuple(bars))


def whisker(accuracy: Interval | None, *, width: float) -> Interval | None:
    """An accuracy as positions on a scale from 0 to 100 %."""
    if accuracy is None:
        return None
    return Interval(*(round(6 + (width - 12) * end, 2) for end in (accuracy.value, accuracy.low, accuracy.high)))


@dataclass(frozen=True)
class Curve:
    """A line: its points in SVG form, ticks of both axes, first and last value."""

    title: str
    points: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    first: float
    last: float


def curve(log: Sequence[Mapping[str, float]], key: str, title: str, *, width: float, height: float) -> Curve | None:
    """A column of the training log over the steps; None if fewer than two rows have it."""
    rows = [(row["step"], row[key]) for row in log if key in row and math.isfinite(row[key])]
    if len(rows) < 2:
        return None
    left, bottom, top = 44.0, 20.0, 8.0
    steps, values = [step for step, _ in rows], [value for _, value in rows]
    unit = nice(max(values) / 3)
    highest = unit * math.ceil(max(values) / unit) if max(values) > 0 else 1.0

    def x_of(step: float) -> float:
        return round(left + (width - left - 8) * step / max(steps), 2)

    def y_of(value: float) -> float:
        return round(height - bottom - (height - bottom - top) * max(value, 0.0) / highest, 2)

    across = nice(max(steps) / 4)
    return Curve(
        title,
        " ".join(f"{x_of(step)},{y_of(value)}" for step, value in rows),
        tuple((x_of(across * place), f"{across * place:g}") for place in range(int(max(steps) / across) + 1)),
        tuple((y_of(unit * place), f"{unit * place:g}") for place in range(round(highest / unit) + 1)),
        values[0],
        values[-1],
    )


def nice(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `value`."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= value * (1 - 1e-9)), 10 * power)
