"""`lightr grade`: verdicts on outputs that came from anywhere."""

import json
import sys
from contextlib import nullcontext
from itertools import tee
from pathlib import Path
from typing import Any

from lightreasoner.config import JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark
from lightreasoner.data.problems import Row, read_file
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, AnswerKind, Case
from lightreasoner.runs.progress import progress


def grade_file(
    file: Path, out: Path | None, *, judge: JudgeName, seconds: float, megabytes: int, workers: int | None
) -> dict[str, int]:
    """Judge every row of a file and write one verdict row each, in order, as they come.

    Args:
        file: JSONL, JSON or Parquet with `gold`, `text` and optionally `benchmark`.
        out: JSONL to write; None writes to stdout. Rows have line, extracted, verdict, and gold and benchmark again.
        judge: which judge.
        seconds: time for one answer.
        megabytes: memory of one of the judge's processes.
        workers: processes; None takes one for each processor core.

    Returns:
        How many rows got each verdict.

    Raises:
        DataError: the file or a row cannot be used; names the line. Checked before anything is judged.
        ConfigError: the output exists.
    """
    total = sum(1 for _ in map(_case, read_file(file)))
    counts: dict[str, int] = dict.fromkeys(VERDICTS, 0)
    with (
        GradingPool(judge, workers=workers, seconds=seconds, megabytes=megabytes) as pool,
        _writer(out) as writer,
        progress(f"judging {file.name}", total) as advance,
    ):
        cases, asked = tee(_case(row) for row in read_file(file))
        for number, (case, found) in enumerate(zip(cases, pool.judge(asked), strict=True), 1):
            row: dict[str, Any] = {
                "line": number,
                "gold": case.gold,
                "benchmark": case.benchmark,
                "extracted": found.extracted,
                "verdict": found.verdict,
            }
            print(json.dumps(row), file=writer)
            counts[found.verdict] += 1
            advance(1)
    return counts


def kind_of(gold: str, benchmark: str | None) -> AnswerKind:
    """What answers to this gold answer are: the benchmark says; without one, a lone letter A … E is a choice."""
    if benchmark is not None:
        known = BENCHMARKS[benchmark]
        assert isinstance(known, Benchmark)
        return known.kind
    return "choice" if gold.strip() in set("ABCDE") else "expression"


def _case(row: Row) -> Case:
    where, fields = row
    gold, text, benchmark = fields.get("gold"), fields.get("text"), fields.get("benchmark")
    for name, value in (("gold", gold), ("text", text)):
        if not isinstance(value, str):
            raise DataError(f"{where}: {name} is {value!r}, not a text; every row needs gold and text")
    if benchmark is not None and not (isinstance(benchmark, str) and isinstance(BENCHMARKS.get(benchmark), Benchmark)):
        known = ", ".join(name for name, entry in BENCHMARKS.items() if isinstance(entry, Benchmark))
        raise DataError(f"{where}: benchmark is {benchmark!r}; leave it out, or use one of {known}")
    assert isinstance(gold, str)
    assert isinstance(text, str)
    return Case(text, gold, kind_of(gold, benchmark), benchmark)


def _writer(out: Path | None) -> Any:
    if out is None:
        return nullcontext(sys.stdout)
    try:
        return out.open("x", encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{out} exists already; give another file with --out, or remove it") from None
