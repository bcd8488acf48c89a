"""The benchmarks: where the items come from, what is asked, what counts as right.

So far those with numeric answers. Each figure is *unverified* until a published number has been reproduced with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lightreasoner.config import BenchmarkName
from lightreasoner.errors import DataError
from lightreasoner.problems import Row, arithmetic_problems, make_problem, read_dataset, text_of
from lightreasoner.records import Problem

ARITHMETIC_ITEMS = 2000
ARITHMETIC_SEED = 0  # every evaluation asks the same questions


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as users call it; also the folder below `--data-dir`.
        dataset: Hub id, with its configuration after a colon where it has several.
        question: question of a row.
        gold: gold answer of a row, a number as text.
        split: part of the data set that is asked.
        verified: a published figure has been reproduced.
    """

    name: str
    dataset: str
    question: Callable[[Row], str]
    gold: Callable[[Row], str]
    split: str = "test"
    verified: bool = False


def _gsm8k_gold(row: Row) -> str:
    return text_of(row, "answer").rpartition("####")[2].strip()


def _svamp_question(row: Row) -> str:
    body = text_of(row, "Body").strip()
    return f"{body}{'' if body.endswith('.') else '.'} {text_of(row, 'Question').strip()}"


def _svamp_gold(row: Row) -> str:
    return str(_field(row, "Answer"))


def _field(row: Row, name: str) -> Any:
    where, fields = row
    if name not in fields:
        raise DataError(f"{where}: no field {name} among {', '.join(fields)}; is this the right file?")
    return fields[name]


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("gsm8k", "openai/gsm8k:main", lambda row: text_of(row, "question"), _gsm8k_gold),
        Benchmark("svamp", "ChilleD/SVAMP", _svamp_question, _svamp_gold),
    )
}


def load_benchmark(name: BenchmarkName, *, limit: int | None, data_dir: Path | None) -> list[Problem]:
    """The items of a benchmark with their gold answers, in file order; questions that occur twice stay twice.

    Args:
        name: which one.
        limit: how many items; None takes all (2000 for `arithmetic`).
        data_dir: folder whose `NAME/test.jsonl` is read instead of the Hub.

    Raises:
        DataError: no such benchmark or file, or a row without question or gold.
    """
    if name == "arithmetic":
        return _distinct(limit or ARITHMETIC_ITEMS)
    if name not in BENCHMARKS:
        raise DataError(f"no benchmark {name!r}; there are arithmetic, {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    dataset = name if data_dir is not None else benchmark.dataset
    rows = islice(read_dataset(dataset, benchmark.split, data_dir), limit)
    items = [make_problem(benchmark.question(row), benchmark.gold(row)) for row in rows]
    if not items:
        raise DataError(f"benchmark {name} has no items; is the file empty?")
    return [_numbered(item, place) for place, item in enumerate(items)]


def _distinct(count: int) -> list[Problem]:
    items: dict[str, Problem] = {}
    for problem in arithmetic_problems("test", ARITHMETIC_SEED):
        items.setdefault(problem.id, problem)
        if len(items) == count:
            return [_numbered(item, place) for place, item in enumerate(items.values())]
    raise AssertionError("the generator has no end")


def _numbered(item: Problem, place: int) -> Problem:
    """Items are told apart by place too: benchmarks such as SVAMP ask some questions twice."""
    return Problem(f"{place:05d}-{item.id}", item.question, item.answer)
