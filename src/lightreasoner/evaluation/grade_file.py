"""`lightr grade`: judge the outputs in a file, whatever tool wrote them."""

import json
import math
import sys
from contextlib import nullcontext
from decimal import Decimal
from itertools import tee
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from lightreasoner.config.sections import AnswerKind, JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark
from lightreasoner.data.files import read_file
from lightreasoner.data.golds import checked_gold, marked_gold, number_text
from lightreasoner.data.lines import Line, Row, expected
from lightreasoner.errors import ConfigError
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, Case
from lightreasoner.runs.progress import progress


class _Output(Line):
    """A row to judge. A missing gold answer or text counts as null."""

    remedy: ClassVar[str] = "Every row needs gold and text. Mend or remove it"

    gold: Annotated[str, expected("a text")] = Field(None, validate_default=True)
    text: Annotated[str, expected("a text")] = Field(None, validate_default=True)
    benchmark: str | None = None

    @field_validator("gold", mode="before")
    @classmethod
    def _number_as_text(cls, gold: object) -> object:
        if isinstance(gold, bool) or not isinstance(gold, int | float | Decimal) or not math.isfinite(gold):
            return gold
        return number_text(gold)

    @field_validator("benchmark", mode="before")
    @classmethod
    def _is_known(cls, name: object) -> object:
        if isinstance(name, str) and not name.strip():  # an empty cell of a table
            return None
        known = [name for name, entry in BENCHMARKS.items() if isinstance(entry, Benchmark)]
        if name is not None and name not in known:
            raise ValueError(f"leave it out, or use one of {', '.join(known)}")
        return name


def _case(row: Row, kind: AnswerKind | None) -> Case:
    """The row for a judge, its gold answer without the solution around it.

    The kind is that of the benchmark, else the given one; else an answer A … E is a choice, any other an expression.
    """
    output = _Output.checked(row)
    benchmark = BENCHMARKS.get(output.benchmark or "")
    gold = marked_gold(row, "gold", output.gold) or output.gold
    if isinstance(benchmark, Benchmark):
        kind = benchmark.kind
    kind = kind or ("choice" if gold.strip() in set("ABCDE") else "expression")
    return Case(output.text, checked_gold(row[0], gold, kind), kind, output.benchmark)


def grade_file(
    file: Path,
    *,
    judge: JudgeName = "math-verify",
    answer_kind: AnswerKind | None = None,
    out: Path | None = None,
    seconds: float = 10.0,
    megabytes: int = 1024,
    workers: int | None = None,
) -> dict[str, int]:
    """Judge answers from any source, one verdict per line.

    The file is checked before the first answer is judged. The verdicts are in its order.

    Args:
        file: file with gold and text, and optionally benchmark, in each row; in any format of --dataset.
        judge: math-verify compares answers as mathematics; toolkit decides as the paper's evaluation toolkit.
        answer_kind: how answers without a benchmark are compared: number, expression (mathematics), choice (letters
            A … E), text (word for word) or literal (a Python value, with its type); by default choice where the gold
            answer is a letter, else expression.
        out: JSONL file to write, which must not exist; by default the verdicts go to stdout.
        seconds: time limit of the judge per answer.
        megabytes: memory limit of each judge process.
        workers: judge processes; by default one per processor core.

    Returns:
        Number of rows by verdict.

    Raises:
        DataError: the file or a row is invalid; names the line.
        ConfigError: the output file exists.
    """
    total = sum(_case(row, answer_kind) is not None for row in read_file(file))
    counts: dict[str, int] = dict.fromkeys(VERDICTS, 0)
    with (
        GradingPool(judge, workers=workers, seconds=seconds, megabytes=megabytes) as pool,
        _writer(out) as writer,
        progress(f"judging {file.name}", total) as advance,
    ):
        cases, asked = tee(_case(row, answer_kind) for row in read_file(file))
        for number, (case, found) in enumerate(zip(cases, pool.judge(asked), strict=True), 1):
            row = {"line": number, "gold": case.gold, "benchmark": case.benchmark}
            print(json.dumps({**row, "extracted": found.extracted, "verdict": found.verdict}), file=writer)
            counts[found.verdict] += 1
            advance(1)
    return counts


def _writer(out: Path | None) -> Any:
    if out is None:
        return nullcontext(sys.stdout)
    try:
        return out.open("x", encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{out} exists already. Give another file with --out, or remove it") from None
