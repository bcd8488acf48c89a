"""The HTML page: template, style and script inlined, allowed by their hashes alone, blocks of data behind them."""

import base64
import hashlib
from collections.abc import Mapping
from importlib import metadata, resources
from typing import Any, BinaryIO

import jinja2
from markupsafe import Markup

from lightreasoner.report import charts
from lightreasoner.report.model import PAPER_COSTS, Report, Score
from lightreasoner.report.verdict import p_value

Facts = Mapping[str, Any]


def write_report(page: BinaryIO, report: Report, facts: Facts, blocks: BinaryIO) -> None:
    """Write the page of a report.

    Args:
        page: file to write.
        report: what it says.
        facts: what the token browser's section says: `beta`, `shown` and `left_out` rollouts.
        blocks: what `browser.BlockWriter` wrote, at its beginning.
    """
    labels = report.labels
    titles = {"loss": "Loss: cross-entropy to the labels, nats", "kl_to_target": "KL to the labels, nats"}
    curves = [charts.curve(report.training, key, title, width=420, height=190) for key, title in titles.items()]
    context = {
        "title": f"{report.run} · lightreasoner",
        "report": report,
        "first_test": next(iter((*report.overall, *(row.test for row in report.accuracies if row.test))), None),
        "plots": [charts.dumbbell(row, width=600) for row in report.accuracies],
        "paper": PAPER_COSTS,
        "curves": [curve for curve in curves if curve],
        "browser_facts": facts,
        "kept_at": None,  # where not every step was scored
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
    style, script = (_source(name) for name in ("report.css", "report.js"))
    text = _ENVIRONMENT.get_template(template).render(
        **context,
        classes=charts.KL_CLASSES,
        version=metadata.version("lightreasoner"),
        style=Markup(style),  # noqa: S704  (our own files, nobody's input)
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    page.write(text.encode())
    while part := blocks.read(1 << 20):
        page.write(part)
    page.write(f"<script>{script}</script>\n</body>\n</html>\n".encode())


def _source(name: str) -> str:
    return (resources.files("lightreasoner.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def duration(seconds: float | None) -> str:
    """A time for people: 26 s, 5 min, 1.5 h."""
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def _gain(row: Mapping[str, Any]) -> str:
    return f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def _score(score: Score | None) -> str:
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})" if score else "–"


def _p_value(value: float) -> Markup | str:
    """2·10⁻⁹⁶ instead of 2e-96, whose digits few fonts raise alike."""
    text = p_value(value)
    digits, _, exponent = text.partition("e")
    return Markup("{}·10<sup>{}</sup>").format(digits, f"−{exponent.lstrip('-0')}") if exponent else text


def _seen(text: str) -> str:
    """A token on its own: its blanks and line breaks are seen."""
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
    "whole": lambda value: "–" if value is None else f"{value:,}",
    "percent": lambda share: f"{100 * share:.1f}",
    "share": lambda share: "–" if share is None else f"{100 * share:.1f} %",
    "fixed": lambda value: "–" if value is None else f"{value:.3f}",
    "duration": duration,
    "gain": _gain,
    "score": _score,
    "p": _p_value,
    "tight": lambda text: text.replace(" %", "\u00a0%"),
    "seen": _seen,
    "setting": _setting,
}
