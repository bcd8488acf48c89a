"""`lightr report`: the content of a run folder as one HTML page, as Markdown, or as JSON."""

import json
import tempfile
from pathlib import Path
from typing import Any

from lightreasoner.errors import ConfigError
from lightreasoner.report.browser import BlockWriter
from lightreasoner.report.markdown import markdown
from lightreasoner.report.model import Report
from lightreasoner.report.page import write_report
from lightreasoner.report.reading import open_run, read_run

LARGEST = 3000  # rollouts in a page, about 10 KB each

__all__ = ["LARGEST", "Report", "markdown", "report", "write", "write_figures", "write_page"]


def report(path: Path) -> Report:
    """The report of a run folder as plain data.

    Raises:
        DataError: there is nothing to report.
    """
    run = open_run(path)
    return read_run(run, run.texts)


def write_page(path: Path, out: Path | None = None, largest: int = LARGEST) -> dict[str, Any]:
    """Write the report of a run folder as one HTML file.

    The page has the first `largest` rollouts. Memory holds one shard of the samples and the verdicts of one benchmark.

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
        found = read_run(run, texts, writer.add)
        writer.finish({"alpha": alpha})
        rollouts = found.labels.rollouts if found.labels else 0
        facts = {"beta": found.beta, "shown": writer.rollouts, "left_out": rollouts - writer.rollouts}
        blocks.seek(0)
        with temporary.open("wb") as page:
            write_report(page, found, facts, blocks)
    temporary.replace(target)
    return {"file": str(target), "bytes": target.stat().st_size, "rollouts": writer.rollouts}


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
    run_folder: Path,
    *,
    out: Path | None = None,
    as_markdown: bool = False,
    figures: Path | None = None,
    as_json: bool = False,
) -> str | dict[str, Any] | None:
    """Write a run folder as one HTML page: accuracies, cost, and every rollout token by token.

    Args:
        run_folder: run folder, or a folder of `lightr samples import`.
        out: file to write; by default report.html in the run folder, and stdout for Markdown and JSON.
        as_markdown: write Markdown instead of HTML, without the rollouts.
        figures: write the paper's figures of this run to this folder instead, as SVG and PNG with their data.
        as_json: write JSON instead of HTML, without the rollouts.

    Returns:
        The output of the command: facts about the page, the paths of the figures, or the text if it has no `out`.

    Raises:
        ConfigError: several of Markdown, JSON and figures are asked for.
        DataError: there is nothing to report.
    """
    if sum((as_markdown, as_json, figures is not None)) > 1:
        raise ConfigError("--markdown, --json and --figures are different things to write; give one of them")
    if figures is not None:
        return "\n".join(map(str, write_figures(run_folder, figures)))
    if not (as_markdown or as_json):
        return write_page(run_folder, out)
    found = report(run_folder)
    text = markdown(found) if as_markdown else json.dumps(found.as_dict(), indent=2, ensure_ascii=False) + "\n"
    if out is None:
        return text
    out.write_text(text, encoding="utf-8")
    return None
