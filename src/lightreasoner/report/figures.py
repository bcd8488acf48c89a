"""Draw the paper's figures with matplotlib, and save each one with its data.

The functions know nothing of run folders or studies. Text may come from models: it is drawn literally, without
mathematics between dollar signs.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot: no window, no shared state

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS, Bin

# Okabe and Ito's colours, distinct with every kind of colour vision; grey is the baseline.
GREY, BLUE, VERMILION, GREEN, PURPLE, SKY = "#8c8c8c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, SKY, GREY)
MARKERS = "osD^vPX*<>"
INK, RULE = "#222222", "#d9d9d9"
DASHED: Any = {"linestyle": (0, (4, 3)), "linewidth": 0.9}

_styled = style.context(str(Path(__file__).with_name("figures.mplstyle")))


@_styled
def radar(
    axes: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    formats: Sequence[str] | None = None,
    one_scale: bool = False,
) -> Figure:
    """Draw radars side by side, one polygon per series (Figures 1 and 7).

    Args:
        axes: names of the axes, at least three.
        panels: by title, by series, one value per axis. An axis goes from 0, or the smallest value if that is
            negative, to the largest.
        formats: format specification of each axis's values, such as `+.1f`; by default `.3g`.
        one_scale: all axes of a panel share a scale; by default each has its own.
    """
    if len(axes) < 3:
        raise ValueError(f"a radar needs three axes, and there are {len(axes)}")
    specifications = formats or [".3g"] * len(axes)
    angles = [math.pi / 2 - 2 * math.pi * place / len(axes) for place in range(len(axes))]
    corners = np.array([(math.cos(angle), math.sin(angle)) for angle in angles])
    figure = Figure(figsize=(max(3.6, 4.8 - 0.6 * len(panels)) * len(panels), 3.0 if len(axes) == 3 else 3.8))
    for plot, (title, series) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        columns = list(zip(*series.values(), strict=True))
        lows, highs = [min(0.0, *column) for column in columns], [max(0.0, *column) for column in columns]
        if one_scale:
            lows, highs = [min(lows)] * len(axes), [max(highs)] * len(axes)
        for ring in (0.25, 0.5, 0.75, 1.0):
            plot.fill(*(ring * corners).T, fill=False, edgecolor=RULE, linewidth=0.7)
        for (x, y), axis, column, specification in zip(corners, axes, columns, specifications, strict=True):
            plot.plot([0, x], [0, y], color=RULE, linewidth=0.7)
            listed = " / ".join(format(value, specification) for value in column)
            where = {"ha": "center" if abs(x) < 0.1 else "left" if x > 0 else "right", "va": "center"}
            plot.text(1.1 * x, 1.2 * y + 0.06, axis, fontsize=8, **where)
            plot.text(1.1 * x, 1.2 * y - 0.08, listed, fontsize=6.5, **where)
        for colour, (name, values) in zip(cycle(SERIES), series.items(), strict=False):
            radii = [
                0.08 + 0.92 * ((value - low) / (high - low) if high > low else 0.0)
                for value, low, high in zip(values, lows, highs, strict=True)
            ]
            polygon = (np.array(radii)[:, None] * corners).T
            plot.fill(*polygon, facecolor=(colour, 0.12), edgecolor=colour, linewidth=1.5, label=name)
        plot.set_title(title)
        plot.set(xlim=(-1.9, 1.9), ylim=(-0.85 if len(axes) == 3 else -1.3, 1.45), aspect="equal")
        plot.axis("off")
    _legend_below(figure)
    return figure


def _legend_below(figure: Figure) -> None:
    """Add the legend of the first plot below all plots, in as many columns as fit."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    fitting = int(figure.get_figwidth() / (0.7 + 0.075 * max(map(len, names))))
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, min(len(names), fitting)))


@_styled
def kl_histogram(shares: Sequence[float], tail: Sequence[float], beta: float | None = None) -> Figure:
    """Draw the share of tokens by KL divergence, the tail above 2 nats as an inset (Figure 2).

    Args:
        shares: of all tokens, 0 … 1, in `samples.statistics.HEAD_BINS`.
        tail: of all tokens, 0 … 1, in `samples.statistics.TAIL_BINS`.
        beta: threshold to mark, in nats.
    """
    figure = Figure(figsize=(6.4, 3.6))
    plot = figure.add_subplot()
    bars = _histogram(plot, HEAD_BINS, shares, [BLUE if place.end else VERMILION for place in HEAD_BINS])
    plot.bar_label(bars, [f"{100 * share:.1f}" if share >= 0.0005 else "" for share in shares], fontsize=7, padding=1)
    *starts, last = (place.start for place in HEAD_BINS)
    ticks = [*starts[::2], last + starts[1] / 2]
    plot.set_xticks(ticks, [*(f"{tick:.1f}" for tick in ticks[:-1]), f"{last:.1f}+"], fontsize=8)
    plot.set_xlabel("KL divergence of expert from amateur (nats)")
    plot.set_ylabel("% of tokens")
    if beta is not None:
        plot.axvline(beta, color=INK, **DASHED)
        plot.annotate(f"β = {beta:g}", (beta, 1), (4, -2), plot.get_xaxis_transform(),
                      textcoords="offset points", va="top")  # fmt: skip
    if any(tail):
        inset = plot.inset_axes((0.44, 0.4, 0.54, 0.5))
        _histogram(inset, TAIL_BINS, tail, VERMILION)
        first, last = TAIL_BINS[0].start, TAIL_BINS[-1].start
        inset.set_title(f"from {first:g} nats on, the last bar from {last:g}", fontsize=8)
        inset.tick_params(labelsize=7)
    return figure


def _histogram(plot: Axes, bins: Sequence[Bin], shares: Sequence[float], colours: Any) -> Any:
    """Draw shares as bars in %, all as wide as the first bin."""
    width = bins[1].start - bins[0].start
    centres = [place.start + width / 2 for place in bins]
    return plot.bar(centres, [100 * share for share in shares], width=0.92 * width, color=colours)


class Segment(NamedTuple):
    """A segment of a rollout for Figure 3: texts of its tokens, and the KL divergence before each of them, nats."""

    tokens: Sequence[str]
    kl: Sequence[float]


@_styled
def kl_along_rollout(segments: Sequence[Segment], beta: float | None = None) -> Figure:
    """Draw the KL divergence token by token along one or two segments of rollouts in one plot (Figure 3).

    Args:
        segments: the tokens of the first one are below the plot, those of the second one above it.
        beta: threshold to mark, in nats; values above it are written beside their points.
    """
    if not 1 <= len(segments) <= 2:
        raise ValueError(f"one or two segments share a plot, not {len(segments)}")
    longest = max(len(segment.tokens) for segment in segments)
    figure = Figure(figsize=(max(5.0, 0.2 * longest + 1.2), 3.4))
    plot = figure.add_subplot()
    for place, segment in enumerate(segments):
        colour = SERIES[place]
        axis = plot if place == 0 else plot.twiny()
        steps = range(len(segment.kl))
        axis.plot(steps, segment.kl, color=colour, linewidth=1.1, marker=MARKERS[place], markersize=2.5)
        axis.set_xlim(-0.5, longest - 0.5)
        axis.set_xticks(steps, [_visible(token) for token in segment.tokens], rotation=90, fontsize=6.5, color=colour)
        axis.spines["top"].set_visible(len(segments) == 2)
        for step, value in enumerate(segment.kl):
            if beta is not None and value > beta:
                axis.annotate(f"{value:.2f}", (step, value), (0, 3), textcoords="offset points", ha="center",
                              fontsize=6.5, color=colour)  # fmt: skip
    if beta is not None:
        plot.axhline(beta, color=INK, **DASHED)
    plot.set_ylabel("KL (nats)")
    plot.set_ylim(bottom=0)
    plot.grid(axis="y")
    return figure


@_styled
def grouped_bars(
    categories: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[float | Interval]]],
    ylabel: str = "accuracy (%)",
) -> Figure:
    """Draw bars by category, with the difference of the last series from the first (Figure 5).

    Args:
        categories: names below the groups, such as benchmarks.
        panels: by title (a model), by series (base, LightReasoner), one value per category, with its interval or not.
        ylabel: the quantity and its unit.
    """
    figure = Figure(figsize=(max(3.6, 1.0 + 0.85 * len(categories)) * len(panels), 3.3))
    plots: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0])
    for plot, (title, cells) in zip(plots, panels.items(), strict=True):
        series = {
            name: [cell if isinstance(cell, Interval) else Interval(cell, cell, cell) for cell in row]
            for name, row in cells.items()
        }
        width = 0.76 / len(series)
        colours = [GREY, *SERIES] if len(series) > 1 else [BLUE]
        tops = [0.0] * len(categories)
        for place, (name, bars) in enumerate(series.items()):
            centres = [group + (place - (len(series) - 1) / 2) * width for group in range(len(categories))]
            plot.bar(centres, [bar.value for bar in bars], width=0.94 * width, color=colours[place], label=name)
            for centre, bar in zip(centres, bars, strict=True):
                if bar.high > bar.low:
                    plot.plot([centre, centre], [bar.low, bar.high], color=INK, linewidth=1)
            tops = [max(top, bar.value, bar.high) for top, bar in zip(tops, bars, strict=True)]
        if len(series) > 1:
            first, *_, last = series.values()
            for group, top in enumerate(tops):
                plot.annotate(f"{last[group].value - first[group].value:+.1f}", (group, top), (0, 3),
                              textcoords="offset points", ha="center", fontsize=8, fontweight="bold")  # fmt: skip
        slanted: Any = {"rotation": 30, "ha": "right"} if len(categories) > 4 else {}
        plot.set_xticks(range(len(categories)), categories, **slanted)
        plot.set_title(title)
        plot.grid(axis="y")
        plot.margins(y=0.12)
    plots[0].set_ylabel(ylabel)
    _legend_below(figure)
    return figure


class GapPoint(NamedTuple):
    """A pair of models in Figure 6."""

    expert: str
    amateur: str
    gap: float  # accuracy of the expert minus that of the amateur, points
    average: float  # mean accuracy of the tuned expert, %


@_styled
def gap_scatter(points: Sequence[GapPoint], baselines: Mapping[str, float]) -> Figure:
    """Draw accuracy after fine-tuning over the gap between expert and amateur (Figure 6).

    Args:
        points: the pairs.
        baselines: mean accuracy of each expert before fine-tuning, %; dashed lines.
    """
    experts = dict.fromkeys([*(point.expert for point in points), *baselines])
    amateurs = dict.fromkeys(point.amateur for point in points)
    colours = dict(zip(experts, cycle(SERIES), strict=False))
    markers = dict(zip(amateurs, cycle(MARKERS), strict=False))
    figure = Figure(figsize=(5.6, 3.4 + 0.18 * (len(experts) + len(amateurs))))
    plot = figure.add_subplot()
    for expert, baseline in baselines.items():
        plot.axhline(baseline, color=colours[expert], **DASHED)
    for expert, amateur, gap, average in points:
        plot.plot(gap, average, markers[amateur], markersize=7, color=colours[expert], linestyle="none")
    plot.axvline(0, color=INK, linewidth=0.8)
    for expert, colour in colours.items():
        plot.plot([], [], "s", color=colour, label=f"expert {expert}")
    for amateur, marker in markers.items():
        plot.plot([], [], marker, color=INK, fillstyle="none", linestyle="none", label=f"amateur {amateur}")
    plot.set_xlabel("expert − amateur (points)")
    plot.set_ylabel("mean accuracy after (%)")
    plot.grid()
    figure.legend(loc="outside lower left", fontsize=8)
    return figure


@_styled
def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str = ""
) -> Figure:
    """Draw lines over a common axis, such as a loss over training steps (Figures 8 and 9).

    Args:
        series: by name, the x and the y values.
        xlabel: name of the x axis.
        ylabel: name of the y axis, with its unit.
        title: text above the plot.
    """
    figure = Figure(figsize=(5.2, 3.2))
    plot = figure.add_subplot()
    for colour, (name, (across, up)) in zip(cycle(SERIES), series.items(), strict=False):
        plot.plot(across, up, color=colour, linewidth=1.4, label=name)
    plot.set_xlabel(xlabel)
    plot.set_ylabel(ylabel)
    plot.set_title(title)
    plot.grid(axis="y")
    if len(series) > 1:
        plot.legend()
    return figure


@_styled
def save(figure: Figure, path: Path, data: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write a figure as SVG and PNG, and the numbers in it as CSV and JSON.

    Args:
        figure: result of one of the functions above.
        path: of the files, without suffix; missing folders are made.
        data: the rows behind the figure, all with the same keys.

    Returns:
        The four files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(path.name + suffix) for suffix in (".svg", ".png", ".csv", ".json")]
    figure.savefig(files[0], metadata={"Date": None})
    figure.savefig(files[1], metadata={"Software": None})
    with files[2].open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(data[0]) if data else [], lineterminator="\n")
        table.writeheader()
        table.writerows(data)
    files[3].write_text(json.dumps(list(data), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _visible(token: str) -> str:
    """A token as a tick label: blanks and line breaks visible, at most 14 characters."""
    text = token.replace("\n", "↵").replace("\t", "→").strip(" ") or "␣"
    return "".join(letter if letter.isprintable() else "·" for letter in text[:14])
