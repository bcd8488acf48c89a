"""`lightr report`: the content of a run folder, or of several, as one HTML page, as Markdown, or as JSON."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightreasoner.errors import ConfigError
from lightreasoner.report.browser import BlockWriter, CaseWriter
from lightreasoner.report.markdown import markdown, several_markdown
from lightreasoner.report.model import Report
from lightreasoner.report.page import write_report, write_several
from lightreasoner.report.reading import open_run, read_run
from lightreasoner.report.several import read_several

LARGEST = 3000  # rollouts in a page, about 10 KB each
MOST_CASES = 10_000  # in a page, about 1 KB each

__all__ = ["LARGEST", "Report", "markdown", "report", "write", "write_comparison", "write_figures", "write_page"]


def report(path: Path) -> Report:
    """The report of a run folder as plain data.

    Raises:
        DataError: there is nothing to report.
    """
    run = open_run(path)
    return read_run(run, run.texts)


def write_page(path: Path, out: Path | None = None, largest: int = LARGEST) -> dict[str, Any]:
    """Write the report of a run folder as one HTML file.

    The page has the first `largest` rollouts and `MOST_CASES` cases. Memory holds one shard of the samples and the
    verdicts of one benchmark.

    Args:
        path: run folder.
        out: by default `report.html` in the run folder; an existing file is overwritten.
        largest: most rollouts in the page.

    Returns:
        The `file`, its size in `bytes`, and the number of `rollouts` in it.

    Raises:
        DataError: there is nothing to report.
    """
    run = open_run(path)
    texts = run.texts
    alpha = run.sampled[0].alpha if run.sampled else None
    target = out or path / "report.html"
    temporary = target.with_name(f".{target.name}.tmp")
    with tempfile.TemporaryFile() as blocks:
        writer = BlockWriter(blocks, texts, alpha, largest)
        cases = CaseWriter(blocks, MOST_CASES)
        found = read_run(run, texts, writer.add, cases.add)
        writer.finish({"alpha": alpha})
        cases.finish()
        rollouts = found.labels.rollouts if found.labels else 0
        facts = {"beta": found.beta, "shown": writer.rollouts, "left_out": rollouts - writer.rollouts}
        facts["cases"] = cases.cases
        blocks.seek(0)
        with temporary.open("wb") as page:
            write_report(page, found, facts, blocks)
    temporary.replace(target)
    return {"file": str(target), "bytes": target.stat().st_size, "rollouts": writer.rollouts}


def write_comparison(paths: Sequence[Path], out: Path | None = None) -> dict[str, Any]:
    """Write the comparison of several runs with the first of them as one HTML file.

    Args:
        paths: run folders.
        out: by default `comparison.html` in the first run folder; an existing file is overwritten.

    Returns:
        The `file`, its size in `bytes`, and the number of `runs` in it.

    Raises:
        ConfigError: a run is named twice.
        DataError: a folder holds nothing to report.
    """
    found = read_several(paths)
    target = out or paths[0] / "comparison.html"
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as page:
        write_several(page, found)
    temporary.replace(target)
    return {"file": str(target), "bytes": target.stat().st_size, "runs": len(paths)}


def write_figures(path: Path, folder: Path) -> list[Path]:
    """Save the figures that a run folder has data for: Figures 2, 3, 5, and 8 and 9 in one.

    Returns:
        The files in `folder`: each figure as SVG and PNG, its data as CSV and JSON.

    Raises:
        DataError: there is nothing to report.
    """
    # Imported here because matplotlib is slow to load.
    from lightreasoner.report.run_figures import LongestContrast, save_figures

    run = open_run(path)
    texts = run.texts
    segments = LongestContrast()
    return save_figures(read_run(run, texts, segments.add), segments.best, texts, folder)


def write(
    run_folders: Sequence[Path],
    *,
    out: Path | None = None,
    as_markdown: bool = False,
    figures: Path | None = None,
    as_json: bool = False,
) -> str | dict[str, Any] | None:
    """Write a run folder as one HTML page, or compare several runs on one.

    Args:
        run_folders: run folders, or folders of `lightr samples import`. Several are compared on one page, each with the
            first: settings that differ, paired differences of accuracy, curves.
        out: file to write; by default report.html in the run folder, comparison.html in the first of several, and
            stdout for Markdown and JSON.
        as_markdown: write Markdown instead of HTML, without the rollouts.
        figures: write the paper's figures of this run to this folder instead, as SVG and PNG with their data.
        as_json: write JSON instead of HTML, without the rollouts.

    Returns:
        The output of the command: facts about the page, the paths of the figures, or the text if it has no `out`.

    Raises:
        ConfigError: several of Markdown, JSON and figures are asked for; figures of several runs; a run named twice.
        DataError: there is nothing to report.
    """
    if sum((as_markdown, as_json, figures is not None)) > 1:
        raise ConfigError("--markdown, --json and --figures are different things to write; give one of them")
    first, *others = run_folders
    if figures is not None:
        if others:
            raise ConfigError(
                f"--figures draws the figures of one run, and {len(run_folders)} are given. Give one run, or leave out "
                "--figures to compare them"
            )
        return "\n".join(map(str, write_figures(first, figures)))
    if not (as_markdown or as_json):
        return write_comparison(run_folders, out) if others else write_page(first, out)
    if others:
        several = read_several(run_folders)
        values, lines = several.as_dict(), several_markdown(several) if as_markdown else ""
    else:
        found = report(first)
        values, lines = found.as_dict(), markdown(found) if as_markdown else ""
    text = lines if as_markdown else json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    if out is None:
        return text
    out.write_text(text, encoding="utf-8")
    return None
