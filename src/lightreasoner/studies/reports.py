"""Write the report of a study as Markdown, CSV, JSON and a figure, and all reports as one page."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined, Template

from lightreasoner.evaluation.statistics import Interval, holm
from lightreasoner.report import figures
from lightreasoner.report.tables import table
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.files import write_atomically
from lightreasoner.studies.outcomes import Difference

Row = dict[str, Any]  # cells by column: numbers, texts, `Interval`, `P`, None

VERDICTS = ("holds", "does not hold", "not decided")
SIGNIFICANCE = 0.05
READING = r"<!-- reading: (\w+) -->\n(.*?)<!-- end -->"  # text that people wrote on the page


@dataclass(frozen=True)
class P:
    """A p-value in a cell; None if there is no test."""

    value: float | None


@dataclass(frozen=True)
class Claim:
    """A statement, compared with the measurements; the verdict is one of `VERDICTS`."""

    text: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Report:
    """One table or figure."""

    title: str
    rows: Sequence[Row]
    """All with the same columns in the same order."""
    claims: Sequence[Claim] = ()
    notes: Sequence[str] = ()
    draw: Callable[[], Any] | None = None
    data: Sequence[Row] = ()
    """The numbers in the figure, if they are not those of the rows."""

    @property
    def texts(self) -> list[list[str]]:
        """The table as text, with the names of the columns first."""
        header = list(self.rows[0]) if self.rows else []
        return [header, *([_text(cell) for cell in row.values()] for row in self.rows)]

    @property
    def numbers(self) -> list[Row]:
        """The numbers in the figure; an interval becomes its value."""
        rows = self.data or self.rows
        return [{name: getattr(cell, "value", cell) for name, cell in row.items()} for row in rows]


def decide(text: str, found: Difference, p_value: float | None = None) -> Claim:
    """A claim that the second of two groups is better; decided only if the difference is significant."""
    p_value = found.p_value if p_value is None else p_value
    verdict = "not decided" if p_value > SIGNIFICANCE else "holds" if found.gain.value > 0 else "does not hold"
    seeds = "" if found.p_seeds is None else f", over seeds {found.p_seeds:.2g} (n = {found.seeds})"
    adjusted = "" if p_value == found.p_value else f"; after Holm's correction {p_value:.2g}"
    evidence = f"{_text(found.gain)} points; p over items {found.p_items:.2g}{seeds}{adjusted}"
    return Claim(text, verdict, evidence)


def decide_all(pairs: Iterable[tuple[str, Difference]]) -> list[Claim]:
    """Claims of one table, each that the second of two groups is better, with Holm's correction for their number."""
    pairs = list(pairs)
    adjusted = holm([found.p_value for _, found in pairs])
    return [decide(text, found, p) for (text, found), p in zip(pairs, adjusted, strict=True)]


def at_most(text: str, value: float, limit: float) -> Claim:
    """A claim that a figure does not exceed a limit."""
    return Claim(text, "holds" if value <= limit else "does not hold", f"{value:.3g}, at most {limit:g}")


def lines_of(name: str, report: Report, folder: str = "") -> list[str]:
    """A report in Markdown, without its heading; `folder` holds its figure."""
    header, *rows = report.texts
    lines = table(header, rows) if rows else []
    lines += ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    if report.claims:
        counts = {verdict: sum(claim.verdict == verdict for claim in report.claims) for verdict in VERDICTS}
        summary = ", ".join(f"{verdict}: {count}" for verdict, count in counts.items() if count)
        lines += ["", f"Claims ({summary}):", ""]
        lines += [f"- {claim.text}: **{claim.verdict}** ({claim.evidence})." for claim in report.claims]
    if report.draw is not None:
        lines += ["", f"![{report.title}]({folder and folder + '/'}{name}.png)"]
    return lines


def write(name: str, report: Report, folder: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Write a report as `NAME.md`, `.csv`, `.json` (with these facts) and, if there is a figure, `.svg` and `.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    if report.draw is not None:
        figures.save(report.draw(), folder / name, report.numbers)
    text = "\n".join([f"# {report.title}", "", *lines_of(name, report)]) + "\n"
    write_atomically(folder / f"{name}.md", text.encode())
    suffix = "" if report.draw is None else ".table"  # NAME.csv and NAME.json hold the data of the figure
    with (folder / f"{name}{suffix}.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(report.texts)
    content = {
        "study": name,
        "title": report.title,
        **facts,
        "made": now(),
        "environment": environment(),
        "rows": [{name: _plain(cell) for name, cell in row.items()} for row in report.rows],
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
        minutes, workers: time of all jobs, summed, and processes that shared them.
    """
    readings = dict(re.findall(READING, file.read_text(encoding="utf-8"), re.DOTALL)) if file.exists() else {}
    pictures = file.with_suffix("")
    template = Template(
        _shipped("results.md.jinja"), trim_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    text = template.render(
        file=file,
        whole=command.format("all" if len(reports) + len(missing) > 1 else next(iter([*reports, *missing]))),
        command=command,
        minutes=minutes,
        workers=workers,
        significance=SIGNIFICANCE,
        machine=", ".join(f"{name} {value}" for name, value in environment().items()),
        missing=missing,
        reports=reports,
        lines_of=lines_of,
        pictures=pictures,
        paper=yaml.safe_load(_shipped("paper.yaml")),
        readings=readings,
    )
    for name, report in reports.items():
        if report.draw is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(written / f"{name}.png", pictures / f"{name}.png")
    write_atomically(file, text.encode())


def _shipped(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


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
    match cell:
        case Interval():
            return asdict(cell)
        case P(value):
            return value
        case float() if math.isnan(cell):
            return None
        case _:
            return cell
