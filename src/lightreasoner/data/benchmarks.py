"""The benchmarks of `benchmarks.yaml`: source, question, gold answer, kind of answer, few-shot examples, version.

To add one, add an entry to that file, and a function to `rows.py` where a field alone is not enough. Files of the
user's own problems become benchmarks in `own.py`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

from lightreasoner.config.sections import BenchmarkName
from lightreasoner.data import rows
from lightreasoner.data.fields import text_of
from lightreasoner.data.files import read_file, split_file
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.golds import checked_gold
from lightreasoner.data.lines import Row
from lightreasoner.data.problems import make_problem, read_hub, read_url
from lightreasoner.errors import DataError
from lightreasoner.grading.verdicts import AnswerKind
from lightreasoner.runs.records import ChoiceProblem, Problem

GENERATED_SEED = 0  # of generated items, fixed, so every evaluation asks the same questions
PAPER_SET: tuple[BenchmarkName, ...] = (
    "gsm8k",
    "math",
    "svamp",
    "asdiv",
    "minerva_math",
    "olympiadbench",
    "mmlu_stem",
)  # the seven columns of Table 1
HINTS = {"true": " (True or False)", "false": " (True or False)", "yes": " (Yes or No)", "no": " (Yes or No)"}


class Demonstration(NamedTuple):
    """A question with its worked answer, shown before a question (few-shot)."""

    question: str
    answer: str


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub, pinned to a commit; configurations and splits are read in order.

    The configuration None is the default one.
    """

    dataset: str
    revision: str
    configurations: tuple[str | None, ...] = (None,)
    splits: tuple[str, ...] = ("test",)

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        for configuration in self.configurations:
            for split in self.splits:
                yield from read_hub(self.dataset, configuration, split, self.revision)

    def __str__(self) -> str:
        return f"{self.dataset}@{self.revision[:12]}"


class _Entry(BaseModel):
    """The fields that all benchmarks share.

    Attributes:
        name: name on the command line, and folder below `--data-dir`.
        title: name in tables.
        source: a Hub data set, or the URL of a JSONL file; `--data-dir` replaces it. None for generated items.
        size: number of items.
        items_sha256: hash of all questions and gold answers in order (`items_hash`), wherever they are read from; None
            until the items have been checked.
        metric: `acc` is the accuracy of the extracted answers, or of the choices with the highest log-likelihood;
            `acc_norm` takes the highest per character.
        verified: whether it has reproduced a published number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: BenchmarkName
    title: str
    source: HubSource | str | None
    size: int
    items_sha256: str | None = None
    metric: Literal["acc", "acc_norm"] = "acc"
    verified: bool = False

    @property
    def split(self) -> str:
        """Name of the file below the benchmark's folder."""
        return self.source.splits[-1] if isinstance(self.source, HubSource) else "test"

    def rows(self, data_dir: Path | None, limit: int | None) -> Iterator[Row]:
        """The first `limit` rows; None takes all rows of a source, and `size` rows of a generator."""
        if self.source is None:
            return _generated_rows(self.name, limit or self.size)
        if data_dir is not None:
            return islice(read_file(split_file(data_dir / self.name, self.split)), limit)
        return islice(read_url(self.source) if isinstance(self.source, str) else self.source.rows(), limit)


def _reader(name: str) -> Callable[[Row], Any]:
    """Reads the field of that name, or for `NAME()` is that function of `rows`."""
    return getattr(rows, name[:-2]) if name.endswith("()") else partial(text_of, name=name)


class Benchmark(_Entry):
    """A benchmark with generated answers.

    Attributes:
        question: question of a row.
        gold: gold answer of a row.
        kind: kind of answer, which decides how answers are compared.
        demonstrations: solved examples before each question (few-shot).
    """

    question: Annotated[Callable[[Row], str], BeforeValidator(_reader)]
    gold: Annotated[Callable[[Row], str], BeforeValidator(_reader)]
    kind: AnswerKind = "number"
    demonstrations: tuple[Demonstration, ...] = ()

    def problem(self, row: Row) -> Problem:
        """The problem of a row; raises `DataError` if its gold answer is not of this kind."""
        gold = checked_gold(row[0], self.gold(row), self.kind)
        hint = HINTS.get(gold.lower(), "") if self.kind != "literal" else ""
        return make_problem(self.question(row) + hint, gold)

    def items(self, limit: int | None, data_dir: Path | None) -> list[Problem]:
        """See `load_benchmark`."""
        return numbered(self.name, map(self.problem, self.rows(data_dir, limit)))

    @property
    def toolkit_name(self) -> str | None:
        """Name of the benchmark whose rules the toolkit's judge applies."""
        return self.name


class ChoiceBenchmark(_Entry):
    """A benchmark that scores the likelihood of given choices, like lm-evaluation-harness.

    Attributes:
        item: context, choices and index of the correct choice.
    """

    item: Annotated[Callable[[Row], rows.Choices], BeforeValidator(_reader)]

    def problem(self, row: Row) -> ChoiceProblem:
        """The problem of a row."""
        context, choices, gold = self.item(row)
        if not 0 <= gold < len(choices):
            raise DataError(f"{row[0]}: the right choice is number {gold} of {len(choices)}")
        return ChoiceProblem(make_problem(context).id, context, list(choices), gold)

    def items(self, limit: int | None, data_dir: Path | None) -> list[ChoiceProblem]:
        """See `load_choices`."""
        return numbered(self.name, map(self.problem, self.rows(data_dir, limit)))


def _read_entries() -> Iterator[Benchmark | ChoiceBenchmark]:
    entries = yaml.safe_load((Path(__file__).parent / "benchmarks.yaml").read_text(encoding="utf-8"))
    for name, fields in entries.items():
        yield (ChoiceBenchmark if "item" in fields else Benchmark)(name=name, **fields)


BENCHMARKS: Mapping[str, Benchmark | ChoiceBenchmark] = {entry.name: entry for entry in _read_entries()}

B = TypeVar("B", Benchmark, ChoiceBenchmark)
Item = TypeVar("Item", Problem, ChoiceProblem)


def load_benchmark(name: BenchmarkName, *, limit: int | None, data_dir: Path | None) -> list[Problem]:
    """Load the items of a benchmark with their gold answers, in file order; repeated questions stay separate items.

    A question with the answer true or false (yes or no) gets a hint at its end, as in the toolkit.

    Args:
        name: a benchmark with generated answers.
        limit: number of items; None takes all (2000 of a generator).
        data_dir: folder whose `NAME/SPLIT.jsonl` replaces the benchmark's source.

    Raises:
        DataError: no such benchmark or file, or a row lacks its question or gold answer.
        HubUnreachable: the source cannot be reached.
    """
    return _benchmark(name, Benchmark).items(limit, data_dir)


def load_choices(name: BenchmarkName, *, limit: int | None, data_dir: Path | None) -> list[ChoiceProblem]:
    """Load the items of a benchmark with given choices; like `load_benchmark`."""
    return _benchmark(name, ChoiceBenchmark).items(limit, data_dir)


def title_of(name: str) -> str:
    """Title of a benchmark in tables; that of a file is its name."""
    return BENCHMARKS[name].title if name in BENCHMARKS else name


def items_hash(items: Sequence[Problem] | Sequence[ChoiceProblem]) -> str:
    """SHA-256 of all questions and gold answers in order, independent of where they were read from."""
    lines = (
        (item.id, item.answer or "")
        if isinstance(item, Problem)
        else (item.id, "\x1f".join([*item.choices, str(item.gold)]))
        for item in items
    )
    return hashlib.sha256("\n".join(chain.from_iterable(lines)).encode()).hexdigest()


def _benchmark(name: str, kind: type[B]) -> B:
    found = BENCHMARKS.get(name)
    if not isinstance(found, kind):
        known = ", ".join(name for name, benchmark in BENCHMARKS.items() if isinstance(benchmark, kind))
        raise DataError(f"no benchmark {name!r} of this kind; there are {known}")
    return found


def numbered(name: str, problems: Iterable[Item]) -> list[Item]:
    """The problems with their place in the id, because SVAMP asks some questions twice."""
    items = [replace(problem, id=f"{number:05d}-{problem.id}") for number, problem in enumerate(problems)]
    if not items:
        raise DataError(f"benchmark {name} has no items; is the file empty?")
    return items


def _generated_rows(name: str, limit: int) -> Iterator[Row]:
    """Distinct problems of the generator of that name."""
    problems = GENERATORS[name].distinct("test", GENERATED_SEED, limit)
    for number, problem in enumerate(problems, 1):
        yield f"{name}, item {number}", {"question": problem.question, "answer": problem.answer}
