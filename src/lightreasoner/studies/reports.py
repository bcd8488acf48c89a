"""Write the report of a study as Markdown, CSV, JSON and a figure, and all reports as one page."""

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
SIGNIFICANCE = 0.05
READING = r"<!-- reading: (\w+) -->\n(.*?)<!-- end -->"  # text that people wrote on the page


@dataclass(frozen=True)
class P:
    """A p-value in a cell; None if there is no test."""

    value: float | None


@dataclass(frozen=True)
class Claim:
    """A statement, compared with the measurements.

    Attributes:
        text: the statement.
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
        title: heading.
        header: names of the columns.
        rows: cells: numbers, texts, `Interval`, `P`, None.
        claims: statements that the rows decide.
        notes: n, seeds, meaning of a column.
        draw: makes the figure, if there is one.
        data: the rows of the figure.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = ()
    draw: Callable[[], Any] | None = None
    data: Sequence[Mapping[str, Any]] = ()


def decide(text: str, found: Difference, p_value: float | None = None) -> Claim:
    """A claim that the second of two groups is better; decided only if the difference is significant."""
    p_value = found.p_value if p_value is None else p_value
    verdict = "not decided" if p_value > SIGNIFICANCE else "holds" if found.gain.value > 0 else "does not hold"
    seeds = "" if found.p_seeds is None else f", over seeds {found.p_seeds:.2g} (n = {found.seeds})"
    adjusted = "" if p_value == found.p_value else f"; after Holm's correction {p_value:.2g}"
    evidence = f"{_text(found.gain)} points; p over items {found.p_items:.2g}{seeds}{adjusted}"
    return Claim(text, verdict, evidence)


def decide_all(pairs: Sequence[tuple[str, Difference]]) -> list[Claim]:
    """Claims of one table, each that the second of two groups is better, with Holm's correction for their number."""
    adjusted = holm([found.p_value for _, found in pairs])
    return [decide(text, found, p) for (text, found), p in zip(pairs, adjusted, strict=True)]


def at_most(text: str, value: float, limit: float) -> Claim:
    """A claim that a figure does not exceed a limit."""
    return Claim(text, "holds" if value <= limit else "does not hold", f"{value:.3g}, at most {limit:g}")


def lines_of(name: str, report: Report, folder: str = "") -> list[str]:
    """A report in Markdown, without its heading; `folder` holds its figure."""
    lines = table(report.header, [[_text(cell) for cell in row] for row in report.rows]) if report.rows else []
    lines += ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    if report.claims:
        counts = {verdict: sum(claim.verdict == verdict for claim in report.claims) for verdict in VERDICTS}
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        lines += ["", f"{len(report.claims)} claims ({summary}):", ""]
        lines += [f"- {claim.text}: **{claim.verdict}** ({claim.evidence})." for claim in report.claims]
    if report.draw is not None:
        lines += ["", f"![{report.title}]({folder and folder + '/'}{name}.png)"]
    return lines


def write(name: str, report: Report, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write a report as `NAME.md`, `.csv`, `.json` and, if there is a figure, `.svg` and `.png`.

    Args:
        name: the study.
        report: its report.
        folder: the folder of all reports.
        facts: the options of the study, for the JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if report.draw is not None:
        figures.save(report.draw(), folder / name, report.data)
    text = "\n".join([f"# {report.title}", "", *lines_of(name, report)]) + "\n"
    write_atomically(folder / f"{name}.md", text.encode())
    suffix = "" if report.draw is None else ".table"  # NAME.csv and NAME.json hold the data of the figure
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
    """Write all reports as one page, each with its command and the paper's figures.

    Text that people write between the marks `<!-- reading: NAME -->` and `<!-- end -->` of a section stays when the
    page is written again. Figures go into a folder beside the page, with its name.

    Args:
        file: the page.
        reports: by study.
        written: folder of `write`.
        missing: studies without a report.
        command: the command of a study, with `{}` for its name.
        minutes: time of all jobs, summed.
        workers: processes that shared the jobs.
    """
    readings = dict(re.findall(READING, file.read_text(encoding="utf-8"), re.DOTALL)) if file.exists() else {}
    whole = command.format("all" if len(reports) + len(missing) > 1 else next(iter([*reports, *missing])))
    lines = [
        "# Results",
        "",
        f"Written by `{whole} --write {file}`: {minutes:.0f} minutes of work, shared by {workers} processes. The",
        "program computes every figure in a table or a claim, and the command under a heading computes its section",
        "again. Accuracies are in %, times in seconds. A difference is decided only if it is significant at",
        f"{SIGNIFICANCE:g} over items and, with several seeds, over seeds, with Holm's correction for lists of claims.",
        "*Not decided* is no evidence that there is no difference. Claims about shares, orders and limits compare",
        "plain means. Miniature models show how the method behaves, not the size of its effect on real models; the",
        "paper's figures stand beside them to compare the pattern.",
        "",
        f"Machine: {', '.join(f'{name} {value}' for name, value in environment().items())}.",
    ]
    if missing:
        lines += ["", f"**Missing because some of their jobs failed: {', '.join(missing)}.**"]
    for name, report in reports.items():
        lines += ["", f"## {report.title}", "", f"`{command.format(name)}`", "", *lines_of(name, report, file.stem)]
        if name in PAPER:
            lines += ["", "In the paper:", "", *PAPER[name].strip().splitlines()]
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
