"""The HTML page: template, style and script inline, allowed by their hashes only, followed by the blocks of data."""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from typing import Any, BinaryIO

import jinja2
import numpy as np
from markupsafe import Markup

from lightreasoner.evaluation.comparison import Prompts
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report import charts, tables
from lightreasoner.report.lengths import Lengths
from lightreasoner.report.model import PAPER_COSTS, Report
from lightreasoner.report.several import Several
from lightreasoner.runs.records import ALARMS
from lightreasoner.runs.terminal import duration
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS

Facts = Mapping[str, Any]
COLOURS = 6  # of runs; further ones are dashed
SCRIPTS = ("blocks.js", "report.js", "cases.js")
SIZE: Mapping[str, Any] = {"width": 420, "height": 214}  # of a curve
OVERFLOW = f"{TAIL_BINS[0].start:g}"  # nats from which the divergence has a chart of its own


def write_report(page: BinaryIO, report: Report, facts: Facts, blocks: BinaryIO) -> None:
    """Write the page of a report.

    Args:
        page: file to write.
        report: content of the page.
        facts: for the browsers: `beta`, the numbers of rollouts `shown` and `left_out`, and the number of `cases`.
        blocks: file that `browser.BlockWriter` and `browser.CaseWriter` wrote, at its beginning.
    """
    names = training_names([report])
    curves = [charts.curve(report.training, key, name, **SIZE) for key, name in names.items()]
    kept = report.rounds.get("kept")
    alarms = [
        charts.curve(numbered(report.rounds), key, title, **SIZE, x_name="round", mark=kept, smooth=False)
        for key, title in ALARMS.items()
    ]
    context = {
        "title": f"{report.run} · lightreasoner",
        "report": report,
        "paper": PAPER_COSTS,
        "training_names": names,
        "curves": [curve for curve in curves if curve],
        "alarms": [curve for curve in alarms if curve],
        "rounds": tables.round_rows(report.rounds),
        "round_settings": {
            name.removeprefix("rounds."): value for name, value in report.settings.items() if name.startswith("rounds.")
        },
        "browser_facts": facts,
        "cases": facts["cases"],
        "kept_at": None,  # None if some steps were not scored
        **_lengths(report),
    }
    if labels := report.labels if report.labels and report.labels.steps else None:
        beta = report.beta
        context |= {
            "wide": charts.histogram(labels.histogram, beta, width=680, height=300, values=True),
            "narrow": charts.histogram(labels.histogram, beta, width=376, height=240, values=False),
            "overflow_chart": charts.tail(labels.tail, beta, width=376, height=300) if any(labels.tail) else None,
            "kept_at": charts.positions(labels.kept_at, labels.steps_at, width=500, height=220),
        }
    _write(page, "report.html", context, blocks)


def training_names(reports: Sequence[Report]) -> dict[str, str]:
    """The curves of these trainings: titles by column of their logs."""
    losses = list(dict.fromkeys(report.loss_name for report in reports))
    return {
        "loss": f"Loss: {' or '.join(losses)}, nats",
        "kl_to_target": "KL to the labels, nats",
        "grad_norm": "Gradient norm before clipping",
        "learning_rate": "Learning rate",
    }


def numbered(rounds: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The alarms of each round, with its number as `round`."""
    return [{**row, "round": number} for number, row in enumerate(rounds.get("rounds", ()))]


def _lengths(report: Report) -> dict[str, Any]:
    """The strips of the lengths: figures, positions of median and range, position of the limit if it is reached."""
    scale = max((row.longest for row in report.lengths), default=1)

    def place(row: Lengths, value: float) -> Interval:
        return charts.spread(Interval(value, row.low, row.high), 0, scale, width=600)

    rows = [
        (row, place(row, row.median), place(row, row.limit).value if row.limit and row.limit <= scale else None)
        for row in report.lengths
    ]
    return {"length_rows": rows, "length_scale": scale}


def write_several(page: BinaryIO, several: Several) -> None:
    """Write the page that compares several runs."""
    reports = dict(zip(several.names, several.reports, strict=True))
    names = training_names([report for report in several.reports if report.training])
    curves = [
        charts.curves({name: charts.column(one.training, key) for name, one in reports.items()}, title, **SIZE)
        for key, title in names.items()
    ]
    alarms = [
        charts.curves(
            {name: charts.column(numbered(one.rounds), key, "round") for name, one in reports.items()},
            title, **SIZE, x_name="round", smooth=False,
        )
        for key, title in ALARMS.items()
    ]  # fmt: skip
    ends = [abs(row[end]) for _, _, row in several.rows for end in ("low", "high")]
    reach = charts.round_values(0.0, 100 * max(ends, default=0.0))[-1] / 100
    differences = [
        (several.names[place], _colour(place), title, row, _at(row, reach)) for place, title, row in several.rows
    ]
    context = {
        "title": "Comparison of runs · lightreasoner",
        "several": several,
        "runs": list(reports.items()),
        "accuracies": _accuracies(several),
        "differences": differences,
        "reach": charts.short(100 * reach),
        "divergence": [curve for curve in _divergences(reports) if curve],
        "curves": [curve for curve in curves if curve],
        "alarms": [curve for curve in alarms if curve],
    }
    with io.BytesIO() as nothing:
        _write(page, "several.html", context, nothing)


def _colour(place: int) -> str:
    return f"r{place % COLOURS}"


def _at(row: Mapping[str, Any], reach: float) -> Interval:
    return charts.spread(Interval.of(row, "gain"), -reach, reach, width=600)


def _accuracies(several: Several) -> list[tuple[str, str, list[tuple[str, str, Interval, int]]]]:
    """By benchmark and prompt after fine-tuning: name, colour, accuracy and items of the first expert and each run."""
    found: dict[tuple[str, str], list[tuple[str, str, Interval, int]]] = {}
    for place, (name, report) in enumerate(zip(several.names, several.reports, strict=True)):
        for row in report.accuracies:
            rows = found.setdefault((row.title, row.prompts.after), [])
            if place == 0 and row.before is not None:
                rows.append((f"{report.expert or 'expert'}, before", "before", row.before, row.total))
            if row.after is not None:
                rows.append((name, _colour(place), row.after, row.total))
    return [(*key, rows) for key, rows in found.items() if rows]


def _divergences(reports: Mapping[str, Report]) -> list[charts.Curve | None]:
    """What thresholds of the divergence would keep, and the kept steps by position, in %."""
    known = {name: one.labels for name, one in reports.items() if one.labels and one.labels.steps}
    starts = [place.start for place in (*HEAD_BINS[:-1], *TAIL_BINS)]
    by_beta: dict[str, charts.Points] = {}
    for name in reports:
        shares = (*known[name].histogram[:-1], *known[name].tail) if name in known else ()
        above = np.cumsum(shares[::-1])[::-1].tolist()  # in this bin and those above it
        by_beta[name] = [(start, 100 * share) for start, share in zip(starts, above, strict=False)]
    by_position = {
        name: [(place, 100 * known[name].kept_at[place]) for place in charts.reached(known[name].steps_at)]
        if name in known
        else []
        for name in reports
    }
    return [
        charts.curves(by_beta, "Steps with a KL of at least β, %", **SIZE, x_name="β, nats", smooth=False,
                      whole=False),
        charts.curves(by_position, "Kept steps by position in the rollout, %", **SIZE, x_name="position"),
    ]  # fmt: skip


def write_inspection(page: BinaryIO, facts: Facts, blocks: BinaryIO) -> None:
    """Write the page of one question: `facts` names `question`, `expert`, `amateur` and `beta`."""
    _write(page, "inspect.html", {"title": "lightreasoner inspect", "facts": facts}, blocks)


def _write(page: BinaryIO, template: str, context: Mapping[str, Any], blocks: BinaryIO) -> None:
    folder = resources.files("lightreasoner.report")
    style, *parts = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS))
    script = "".join(parts)
    text = _ENVIRONMENT.get_template(template).render(
        **context,
        classes=charts.KL_CLASSES,
        overflow=OVERFLOW,
        version=metadata.version("lightreasoner"),
        style=Markup(style),  # noqa: S704  (our own files, not input)
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    page.write(text.encode())
    while part := blocks.read(1 << 20):
        page.write(part)
    page.write(f"<script>{script}</script>\n</body>\n</html>\n".encode())


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _p_value(value: float) -> Markup | str:
    """A p-value with a raised exponent, 2·10⁻⁹⁶; few fonts have all raised digits in one style."""
    text = tables.p_value(value)
    digits, _, exponent = text.partition("e")
    return Markup("{}·10<sup>{}</sup>").format(digits, f"−{exponent.lstrip('-0')}") if exponent else text


def _seen(text: str) -> str:
    """A token by itself, with visible blanks and line breaks at its ends."""
    return text.replace("\n", "↵").replace("\t", "→").replace(" ", "␣") if text.strip() != text else text


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("lightreasoner.report", "."),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    **{name: getattr(tables, name) for name in ("whole", "share", "fixed", "gain", "score", "lengths")},
    "duration": duration,
    "percent": lambda share: f"{100 * share:.1f}",
    "ends": lambda row: Interval.of(row, "gain").percent.ends("+.1f"),
    "whisker": charts.whisker,
    "breakable": lambda name: Markup("<wbr>").join(re.split(r"(?<=[._])", name)),
    "prompts": lambda row: str(Prompts(*row["prompts"])),
    "number": charts.short,
    "p": _p_value,
    "tight": lambda text: text.replace(" %", "\u00a0%"),
    "seen": _seen,
    "setting": _setting,
}
