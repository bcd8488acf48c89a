"""The HTML page: template, style and script inline, allowed by their hashes only, followed by the blocks of data."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import metadata, resources
from typing import Any, BinaryIO

import jinja2
from markupsafe import Markup

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report import charts, tables
from lightreasoner.report.model import PAPER_COSTS, Report
from lightreasoner.runs.records import ALARMS
from lightreasoner.samples.statistics import TAIL_BINS

Facts = Mapping[str, Any]


def write_report(page: BinaryIO, report: Report, facts: Facts, blocks: BinaryIO) -> None:
    """Write the page of a report.

    Args:
        page: file to write.
        report: content of the page.
        facts: for the token browser: `beta`, and the numbers of rollouts `shown` and `left_out`.
        blocks: file that `browser.BlockWriter` wrote, at its beginning.
    """
    labels = report.labels
    titles = {"loss": f"Loss: {report.loss_name}, nats", "kl_to_target": "KL to the labels, nats"}
    curves = [charts.curve(report.training, key, title, width=420, height=190) for key, title in titles.items()]
    by_round = [{**row, "step": number} for number, row in enumerate(report.rounds.get("rounds", ()))]
    alarms = [charts.curve(by_round, key, title, width=420, height=190) for key, title in ALARMS.items()]
    context = {
        "title": f"{report.run} · lightreasoner",
        "report": report,
        "paper": PAPER_COSTS,
        "curves": [curve for curve in curves if curve],
        "alarms": [curve for curve in alarms if curve],
        "rounds": tables.round_rows(report.rounds),
        "browser_facts": facts,
        "kept_at": None,  # None if some steps were not scored
    }
    if labels and labels.steps:
        context |= {
            "wide": charts.histogram(labels.histogram, report.beta, width=1084, height=330),
            "narrow": charts.histogram(labels.histogram, report.beta, width=420, height=260),
            "inset": charts.tail(labels.tail, width=440, height=130) if any(labels.tail) else None,
            "kept_at": charts.positions(labels.kept_at, labels.steps_at, width=500, height=210),
        }
    _write(page, "report.html", context, blocks)


def write_inspection(page: BinaryIO, facts: Facts, blocks: BinaryIO) -> None:
    """Write the page of one question: `facts` names `question`, `expert`, `amateur` and `beta`."""
    _write(page, "inspect.html", {"title": "lightreasoner inspect", "facts": facts}, blocks)


def _write(page: BinaryIO, template: str, context: Mapping[str, Any], blocks: BinaryIO) -> None:
    folder = resources.files("lightreasoner.report")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    text = _ENVIRONMENT.get_template(template).render(
        **context,
        classes=charts.KL_CLASSES,
        tail_bins=TAIL_BINS,
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
    **{name: getattr(tables, name) for name in ("whole", "share", "fixed", "duration", "gain", "score", "lengths")},
    "percent": lambda share: f"{100 * share:.1f}",
    "ends": lambda row: Interval.of(row, "gain").percent.ends("+.1f"),
    "whisker": charts.whisker,
    "p": _p_value,
    "tight": lambda text: text.replace(" %", "\u00a0%"),
    "seen": _seen,
    "setting": _setting,
}
