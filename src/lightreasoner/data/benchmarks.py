"""The benchmarks, one entry each: source, question, gold answer, kind of answer, few-shot examples, version.

To add one, add an entry to `BENCHMARKS` and its name to `config.BenchmarkName`.

Every source is pinned to a commit of a Hub data set, or of the evaluation toolkit that the paper used. `items_sha256`
also pins the questions and gold answers themselves, wherever they are read from; it is None for items that have not
been checked yet. A benchmark is *unverified* until it has reproduced a published number; none has so far.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

from lightreasoner.config import BenchmarkName
from lightreasoner.data.demonstrations import MMLU_STEM, Demonstration
from lightreasoner.data.lines import Row
from lightreasoner.data.problems import arithmetic_problems, make_problem, read_file, read_hub, read_url, text_of
from lightreasoner.errors import DataError
from lightreasoner.grading.extraction import last_boxed
from lightreasoner.grading.verdicts import AnswerKind
from lightreasoner.runs.records import ChoiceProblem, Problem

ARITHMETIC_SEED = 0  # fixed, so every evaluation asks the same questions

TOOLKIT = (
    "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Math/a45202bd16f1ec06f433442dc1152d0074773465/evaluation/data"
)
MATH_SUBJECTS = tuple(
    "algebra counting_and_probability geometry intermediate_algebra number_theory prealgebra precalculus".split()
)


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub.

    Attributes:
        dataset: its id.
        revision: commit.
        configurations: read in order; None is the default configuration.
        splits: read in order.
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


@dataclass(frozen=True)
class _Entry:
    """The fields that all benchmarks share.

    Attributes:
        name: name on the command line, and folder below `--data-dir`.
        title: name in tables.
        source: a Hub data set, or the URL of a JSONL file; `--data-dir` replaces it. None for generated items.
        size: number of items.
        split: name of the file below the benchmark's folder.
        items_sha256: hash of all questions and gold answers in order, see `items_hash`.
        verified: whether it has reproduced a published number.
    """

    name: BenchmarkName
    title: str
    source: HubSource | str | None
    size: int
    split: str = "test"
    items_sha256: str | None = None
    verified: bool = False

    def rows(self, data_dir: Path | None, limit: int | None) -> Iterator[Row]:
        """The first `limit` rows; None takes all rows of a source, and `size` rows of a generator."""
        if self.source is None:
            return islice(_arithmetic_rows(), limit or self.size)
        if data_dir is not None:
            return islice(read_file(data_dir / self.name / f"{self.split}.jsonl"), limit)
        return islice(read_url(self.source) if isinstance(self.source, str) else self.source.rows(), limit)


@dataclass(frozen=True, kw_only=True)
class Benchmark(_Entry):
    """A benchmark with generated answers; its metric is the accuracy of the extracted answers.

    Attributes:
        question: question of a row.
        gold: gold answer of a row.
        kind: kind of answer, which decides how answers are compared.
        demonstrations: solved examples before each question (few-shot).
    """

    question: Callable[[Row], str]
    gold: Callable[[Row], str]
    kind: AnswerKind = "number"
    demonstrations: tuple[Demonstration, ...] = ()
    metric: str = "acc"


@dataclass(frozen=True, kw_only=True)
class ChoiceBenchmark(_Entry):
    """A benchmark that scores the likelihood of given choices, like lm-evaluation-harness.

    Attributes:
        item: context, choices and index of the correct choice.
        metric: `acc` takes the choice with the highest log-likelihood, `acc_norm` the highest per character.
    """

    item: Callable[[Row], tuple[str, Sequence[str], int]]
    metric: str = "acc"


B = TypeVar("B", Benchmark, ChoiceBenchmark)
Item = TypeVar("Item")


# --- Fields of rows ---


def _field(row: Row, name: str) -> Any:
    where, fields = row
    if name not in fields:
        raise DataError(f"{where}: no field {name} among {', '.join(fields)}; is this the right file?")
    return fields[name]


def _svamp_question(row: Row) -> str:
    body = text_of(row, "Body").strip()
    return f"{body}{'' if body.endswith('.') else '.'} {text_of(row, 'Question').strip()}"


def _boxed_gold(row: Row) -> str:
    boxed = last_boxed(text_of(row, "solution"))
    if boxed is None:
        raise DataError(f"{row[0]}: no \\boxed answer in the solution; is this the right file?")
    return boxed.strip()


def _olympiad_gold(row: Row) -> str:
    answers = _field(row, "final_answer")
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise DataError(f"{row[0]}: final_answer is {answers!r}, not a list of texts")
    return answers[0].replace("$", "").strip().removesuffix(".")


def _mmlu_question(row: Row) -> str:
    choices = _field(row, "choices")
    lettered = " ".join(f"({letter}) {choice.strip()}" for letter, choice in zip("ABCDE", choices, strict=False))
    return f"{text_of(row, 'question').strip()}\nAnswer Choices: {lettered}"


def _mmlu_gold(row: Row) -> str:
    index = _field(row, "answer")
    if not isinstance(index, int) or not 0 <= index < len(_field(row, "choices")):
        raise DataError(f"{row[0]}: answer is {index!r}, not the index of one of the choices")
    return "ABCDE"[index]


def _index_of_answer(row: Row, labels: Sequence[str]) -> int:
    answer = str(_field(row, "answerKey"))
    if answer not in labels:
        raise DataError(f"{row[0]}: answerKey is {answer!r}, none of the choices {', '.join(labels)}")
    return labels.index(answer)


def _commonsense_qa_item(row: Row) -> tuple[str, Sequence[str], int]:
    choices = _field(row, "choices")
    lines = [f"{label}. {text}" for label, text in zip(choices["label"], choices["text"], strict=True)]
    context = "\n".join([f"Question: {text_of(row, 'question').strip()}", *lines, "Answer:"])
    return context, choices["label"], _index_of_answer(row, choices["label"])


def _arc_item(row: Row) -> tuple[str, Sequence[str], int]:
    choices = _field(row, "choices")
    return f"Question: {text_of(row, 'question')}\nAnswer:", choices["text"], _index_of_answer(row, choices["label"])


def _hellaswag_item(row: Row) -> tuple[str, Sequence[str], int]:
    context = f"{_field(row, 'ctx_a')} {str(_field(row, 'ctx_b')).capitalize()}"
    endings = [_without_wikihow_marks(ending) for ending in _field(row, "endings")]
    return _without_wikihow_marks(f"{text_of(row, 'activity_label')}: {context}"), endings, int(_field(row, "label"))


def _without_wikihow_marks(text: str) -> str:
    """Remove WikiHow's marks, such as `[title]` and `[step]`."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


# --- The table ---

BENCHMARKS: Mapping[str, Benchmark | ChoiceBenchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="gsm8k",
            title="GSM8K",
            source=HubSource("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", ("main",)),
            size=1319,
            items_sha256="5ab55b6e3ec7edeb9663bc6fda20d5546428ab77b011dfec7bce311572715161",
            question=lambda row: text_of(row, "question"),
            gold=lambda row: text_of(row, "answer").rpartition("####")[2].strip(),
        ),
        Benchmark(
            name="math",
            title="MATH",
            source=HubSource("EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", MATH_SUBJECTS),
            size=5000,
            question=lambda row: text_of(row, "problem"),
            gold=_boxed_gold,
            kind="expression",
        ),
        Benchmark(
            name="math500",
            title="MATH-500",
            source=HubSource("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"),
            size=500,
            items_sha256="3c2c919e07a858d281578735a0f62642c7b1acf98fc93c645a2da7dc85450875",
            question=lambda row: text_of(row, "problem"),
            gold=lambda row: text_of(row, "answer"),
            kind="expression",
        ),
        Benchmark(
            name="svamp",
            title="SVAMP",
            source=HubSource("ChilleD/SVAMP", "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef", splits=("train", "test")),
            size=1000,
            items_sha256="843df182785152ba3f7bb73c533eb1ea72d6905d11e2fec6d29fe3d5373ad3e8",
            question=_svamp_question,
            gold=lambda row: str(_field(row, "Answer")).removesuffix(".0"),
        ),
        Benchmark(
            name="asdiv",
            title="ASDiv",
            source=f"{TOOLKIT}/asdiv/test.jsonl",
            size=2215,
            items_sha256="7a5598d0b3dc9651b5df4c68339e152d220a805f489646ba50d9a11a2f207051",
            question=lambda row: f"{text_of(row, 'body').strip()} {text_of(row, 'question').strip()}",
            # Drops the unit of "9 (apples)", but keeps the brackets of "-(1/3)".
            gold=lambda row: re.sub(r"\s+\([^()]*\)\s*$", "", text_of(row, "answer")),
            kind="expression",
        ),
        Benchmark(
            name="minerva_math",
            title="Minerva",
            source=f"{TOOLKIT}/minerva_math/test.jsonl",
            size=272,
            items_sha256="b0dcfe2d91752d2e1645db4bb203c0bf2e6ec6a34d7aa7b8d360224240236655",
            question=lambda row: text_of(row, "problem"),
            gold=_boxed_gold,
            kind="expression",
        ),
        Benchmark(
            name="olympiadbench",
            title="Olympiad",
            source=f"{TOOLKIT}/olympiadbench/test.jsonl",
            size=675,
            items_sha256="920419a779dc07c01aca909f3a49139a4fe2c2b506a073614c98498332cc802d",
            question=lambda row: text_of(row, "question"),
            gold=_olympiad_gold,
            kind="expression",
        ),
        Benchmark(
            name="mmlu_stem",
            title="MMLU-STEM",
            source=f"{TOOLKIT}/mmlu_stem/test.jsonl",
            size=3018,
            items_sha256="75b9deb0fe2d26a0020128ccf09b9a7af5213db4a4b3d3f9db1834145b217ea0",
            question=_mmlu_question,
            gold=_mmlu_gold,
            kind="choice",
            demonstrations=MMLU_STEM,
        ),
        ChoiceBenchmark(
            name="commonsense_qa",
            title="CommonsenseQA",
            source=HubSource("tau/commonsense_qa", "94630fe30dad47192a8546eb75f094926d47e155", splits=("validation",)),
            size=1221,
            split="validation",
            item=_commonsense_qa_item,
        ),
        ChoiceBenchmark(
            name="hellaswag",
            title="HellaSwag",
            source=HubSource("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", splits=("validation",)),
            size=10042,
            split="validation",
            item=_hellaswag_item,
            metric="acc_norm",
        ),
        ChoiceBenchmark(
            name="arc_challenge",
            title="ARC-Challenge",
            source=HubSource("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", ("ARC-Challenge",)),
            size=1172,
            item=_arc_item,
            metric="acc_norm",
        ),
        Benchmark(
            name="arithmetic",
            title="Arithmetic",
            source=None,
            size=2000,
            items_sha256="3875d28caeb906c81559acc5d657b73942fa702ea8bc473e2ad4bb533046f85f",
            question=lambda row: text_of(row, "question"),
            gold=lambda row: text_of(row, "answer"),
        ),
    )
}

PAPER_SET: tuple[BenchmarkName, ...] = (
    "gsm8k",
    "math",
    "svamp",
    "asdiv",
    "minerva_math",
    "olympiadbench",
    "mmlu_stem",
)  # the seven columns of Table 1


# --- Items ---


def load_benchmark(name: BenchmarkName, *, limit: int | None, data_dir: Path | None) -> list[Problem]:
    """Load the items of a benchmark with their gold answers, in file order; repeated questions stay separate items.

    A question with the answer true or false (yes or no) gets a hint at its end, as in the toolkit.

    Args:
        name: a benchmark with generated answers.
        limit: number of items; None takes all (2000 for `arithmetic`).
        data_dir: folder whose `NAME/SPLIT.jsonl` replaces the benchmark's source.

    Raises:
        DataError: no such benchmark or file, or a row lacks its question or gold answer.
        HubUnreachable: the source cannot be reached.
    """
    benchmark = _benchmark(name, Benchmark)
    items = []
    for number, row in enumerate(benchmark.rows(data_dir, limit)):
        item = _problem(benchmark, row)
        items.append(replace(item, id=f"{number:05d}-{item.id}"))  # SVAMP asks some questions twice
    return _not_empty(name, items)


def load_choices(name: BenchmarkName, *, limit: int | None, data_dir: Path | None) -> list[ChoiceProblem]:
    """Load the items of a benchmark with given choices; like `load_benchmark`."""
    benchmark = _benchmark(name, ChoiceBenchmark)
    items = []
    for number, row in enumerate(benchmark.rows(data_dir, limit)):
        context, choices, gold = benchmark.item(row)
        if not 0 <= gold < len(choices):
            raise DataError(f"{row[0]}: the right choice is number {gold} of {len(choices)}")
        items.append(ChoiceProblem(f"{number:05d}-{make_problem(context).id}", context, list(choices), gold))
    return _not_empty(name, items)


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


def _problem(benchmark: Benchmark, row: Row) -> Problem:
    gold = benchmark.gold(row)
    hints = {"true": " (True or False)", "false": " (True or False)", "yes": " (Yes or No)", "no": " (Yes or No)"}
    return make_problem(benchmark.question(row) + hints.get(gold.lower(), ""), gold)


def _not_empty(name: str, items: list[Item]) -> list[Item]:
    if not items:
        raise DataError(f"benchmark {name} has no items; is the file empty?")
    return items


def _arithmetic_rows() -> Iterator[Row]:
    """Endless distinct problems of the generator."""
    seen = set()
    for problem in arithmetic_problems("test", ARITHMETIC_SEED):
        if problem.id not in seen:
            seen.add(problem.id)
            yield f"arithmetic, item {len(seen)}", {"question": problem.question, "answer": problem.answer}
