"""What a study found, as Markdown, CSV, JSON and a figure; and all of them as one page."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from lightreasoner.evaluation.statistics import Interval, holm
from lightreasoner.report import figures
from lightreasoner.report.tables import table
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.files import write_atomically
from lightreasoner.studies.outcomes import Difference
from lightreasoner.studies.paper import PAPER

VERDICTS = ("holds", "does not hold", "not decided")
SURE = 0.05  # level at which a difference counts as found
READING = r"<!-- reading: (\w+) -->\n(.*?)<!-- end -->"  # what people wrote on the page


@dataclass(frozen=True)
class P:
    """A p-value, to be shown as one; None where there is no test."""

    value: float | None


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, held against what was measured here.

    Attributes:
        text: what is claimed.
        verdict: one of `VERDICTS`.
        evidence: the figures.
    """

    text: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Report:
    """One table or figure.

    Attributes:
        title: what it shows.
        header: names of the columns.
        rows: cells: numbers, texts, `Interval`, `P`, None.
        claims: what follows from it.
        notes: n, seeds, what is behind a column.
        draw: makes the figure, where there is one.
        data: the rows behind the figure.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = ()
    draw: Callable[[], Any] | None = None
    data: Sequence[Mapping[str, Any]] = ()


def judged(text: str, found: Difference, p_value: float | None = None) -> Claim:
    """A claim that the second of two groups is better: decided only where the difference is sure."""
    p_value = found.p_value if p_value is None else p_value
    verdict = "not decided" if p_value > SURE else "holds" if found.gain.value > 0 else "does not hold"
    seeds = "" if found.p_seeds is None else f", over seeds {found.p_seeds:.2g} (n = {found.seeds})"
    adjusted = "" if p_value == found.p_value else f"; after Holm's correction {p_value:.2g}"
    evidence = f"{_text(found.gain)} points; p over items {found.p_items:.2g}{seeds}{adjusted}"
    return Claim(text, verdict, evidence)


def judged_together(pairs: Sequence[tuple[str, Difference]]) -> list[Claim]:
    """Claims of one table, each that the second of two groups is better, with Holm's correction for their number."""
    adjusted = holm([found.p_value for _, found in pairs])
    return [judged(text, found, p) for (text, found), p in zip(pairs, adjusted, strict=True)]


def threshold(text: str, value: float, limit: float, unit: str = "") -> Claim:
    """A claim that a figure stays below a limit."""
    return Claim(text, "holds" if value <= limit else "does not hold", f"{value:.3g}{unit}, at most {limit:g}{unit}")


def lines_of(name: str, report: Report, folder: str = "") -> list[str]:
    """A report in Markdown, without its heading; its figure is looked for in the folder."""
    lines = table(report.header, [[_text(cell) for cell in row] for row in report.rows]) if report.rows else []
    lines += ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    if report.claims:
        counts = {verdict: sum(claim.verdict == verdict for claim in report.claims) for verdict in VERDICTS}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        lines += ["", f"What follows, of {len(report.claims)} claims ({told}):", ""]
        lines += [f"- {claim.text}: **{claim.verdict}** ({claim.evidence})." for claim in report.claims]
    if report.draw is not None:
        lines += ["", f"![{report.title}]({folder and folder + '/'}{name}.png)"]
    return lines


def write(name: str, report: Report, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write a report as `NAME.md`, `.csv`, `.json` and, where there is a figure, `.svg` and `.png`.

    Args:
        name: of the study.
        report: what it found.
        folder: where to.
        facts: what was asked for, for the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if report.draw is not None:
        figures.save(report.draw(), folder / name, report.data)
    text = "\n".join([f"# {report.title}", "", *lines_of(name, report)]) + "\n"
    write_atomically(folder / f"{name}.md", text.encode())
    suffix = "" if report.draw is None else ".table"  # figures keep their own numbers beside them
    with (folder / f"{name}{suffix}.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(report.header)
        rows.writerows([[_text(cell) for cell in row] for row in report.rows])
    content = {
        "study": name,
        "title": report.title,
        **facts,
        "made": now(),
        "environment": environment(),
        "rows": [dict(zip(report.header, map(_plain, row), strict=True)) for row in report.rows],
        "claims": [asdict(claim) for claim in report.claims],
        "notes": list(report.notes),
    }
    (folder / f"{name}{suffix}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return sorted(folder.glob(f"{name}.*"))


def page(
    file: Path,
    reports: Mapping[str, Report],
    *,
    written: Path,
    missing: Sequence[str],
    command: str,
    minutes: float,
    workers: int,
) -> None:
    """Write all reports as one page, each beside the paper's figures and the command that makes it again.

    What people wrote between a section's marks `<!-- reading: NAME -->` and `<!-- end -->` stays when the page is
    written anew; figures of the reports go into a folder beside the page, of its name.

    Args:
        file: the page.
        reports: by study.
        written: folder where `write` put them.
        missing: studies that could not be reported.
        command: that made them, `{}` for the study's name.
        minutes: of one worker, for everything on the page.
        workers: how many there were.
    """
    readings = dict(re.findall(READING, file.read_text(encoding="utf-8"), re.DOTALL)) if file.exists() else {}
    whole = command.format("all" if len(reports) + len(missing) > 1 else next(iter([*reports, *missing])))
    lines = [
        "# Results",
        "",
        f"Written by `{whole} --write {file}`: {minutes:.0f} minutes of work, shared by {workers} processes. No",
        "figure in a table or a claim is typed in, and each section's own command makes its numbers again. Accuracies",
        f"in %, times in seconds. A difference is decided only where it is sure at {SURE:g} over items and, where",
        "there are several, over seeds, with Holm's correction for a list of claims; everything else is *not decided*,",
        "which is no evidence that there is no difference. Claims about shares, orders and limits compare plain means.",
        "Figures from miniature models show how the method behaves, not how large its effect is on models that people",
        "use; the paper's stand beside them to compare the pattern.",
        "",
        f"Machine: {', '.join(f'{name} {value}' for name, value in environment().items())}.",
    ]
    if missing:
        lines += ["", f"**Not here, because some of their jobs failed: {', '.join(missing)}.**"]
    for name, report in reports.items():
        lines += ["", f"## {report.title}", "", f"`{command.format(name)}`", "", *lines_of(name, report, file.stem)]
        if name in PAPER:
            lines += ["", "The paper's:", "", *PAPER[name].strip().splitlines()]
        lines += ["", f"<!-- reading: {name} -->", readings.get(name, "").strip(), "<!-- end -->"]
        if report.draw is not None:
            pictures = file.with_suffix("")
            pictures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(written / f"{name}.png", pictures / f"{name}.png")
    write_atomically(file, ("\n".join(lines) + "\n").encode())


def _text(cell: Any) -> str:
    match cell:
        case None:
            return "–"
        case Interval():
            return f"{cell:+.1f}"
        case P(value):
            return "–" if value is None else f"{value:.2g}"
        case bool():
            return "yes" if cell else "no"
        case float():
            return "–" if math.isnan(cell) else f"{cell:.1f}"
        case _:
            return str(cell)


def _plain(cell: Any) -> Any:
    """A cell for JSON."""
    if is_dataclass(cell) and not isinstance(cell, type):
        values = asdict(cell)
        return values["value"] if set(values) == {"value"} else values
    return None if isinstance(cell, float) and math.isnan(cell) else cell
