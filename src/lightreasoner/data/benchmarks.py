"""The benchmarks: where the items come from, what is asked, what counts as right.

Every source is pinned: a commit of a Hub data set, or of the evaluation toolkit that the paper used. `items_sha256`
goes further and names the very questions and gold answers, wherever they were read from; it is None where nobody here
has seen the items yet. A figure is *unverified* until a published number has been reproduced with it; so far none has.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

ARITHMETIC_ITEMS = 2000
ARITHMETIC_SEED = 0  # every evaluation asks the same questions

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
        configurations: read one after the other; None is the default one.
        splits: read one after the other.
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
class UrlSource:
    """A JSONL file behind an address that names its commit."""

    url: str

    def rows(self) -> Iterator[Row]:
        """All rows, in order."""
        return read_url(self.url)

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class _Source:
    """What all benchmarks share.

    Attributes:
        name: as users call it; also the folder below `--data-dir`.
        title: as tables call it.
        source: where the items are without `--data-dir`.
        size: number of items.
        split: name of the file below the benchmark's folder.
        items_sha256: hash of all questions and gold answers in order, see `items_hash`.
        verified: a published figure has been reproduced.
    """

    name: BenchmarkName
    title: str
    source: HubSource | UrlSource | None
    size: int
    split: str = "test"
    items_sha256: str | None = None
    verified: bool = False

    def rows(self, data_dir: Path | None) -> Iterable[Row]:
        """The raw rows."""
        if data_dir is not None:
            return read_file(data_dir / self.name / f"{self.split}.jsonl")
        assert self.source is not None
        return self.source.rows()


@dataclass(frozen=True, kw_only=True)
class Benchmark(_Source):
    """A benchmark whose questions are answered in words; metric: accuracy of the extracted answers.

    Attributes:
        question: question of a row.
        gold: gold answer of a row.
        kind: what answers are, which decides how they are compared.
        demonstrations: solved examples before each question.
    """

    question: Callable[[Row], str]
    gold: Callable[[Row], str]
    kind: AnswerKind = "number"
    demonstrations: tuple[Demonstration, ...] = ()
    metric: str = "acc"


@dataclass(frozen=True, kw_only=True)
class ChoiceBenchmark(_Source):
    """A benchmark answered by the likelihood of its choices, as lm-evaluation-harness does.

    Attributes:
        item: context, choices and place of the right one.
        metric: `acc` takes the choice of highest log-likelihood, `acc_norm` that of the highest per character.
    """

    item: Callable[[Row], tuple[str, Sequence[str], int]]
    metric: str = "acc"


B = TypeVar("B", Benchmark, ChoiceBenchmark)


# --- Fields of rows ---


def _field(row: Row, name: str) -> Any:
    where, fields = row
    if name not in fields:
        raise DataError(f"{where}: no field {name} among {', '.join(fields)}; is this the right file?")
    return fields[name]


def _gsm8k_gold(row: Row) -> str:
    return text_of(row, "answer").rpartition("####")[2].strip()


def _svamp_question(row: Row) -> str:
    body = text_of(row, "Body").strip()
    return f"{body}{'' if body.endswith('.') else '.'} {text_of(row, 'Question').strip()}"


def _svamp_gold(row: Row) -> str:
    value = str(_field(row, "Answer"))
    return value.removesuffix(".0")


def _asdiv_gold(row: Row) -> str:
    return re.sub(r"\s+\([^()]*\)\s*$", "", text_of(row, "answer"))  # "9 (apples)", but also "-(1/3)"


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
    place = _field(row, "answer")
    if not isinstance(place, int) or not 0 <= place < len(_field(row, "choices")):
        raise DataError(f"{row[0]}: answer is {place!r}, not the index of one of the choices")
    return "ABCDE"[place]


def _lettered_place(row: Row, labels: Sequence[str]) -> int:
    answer = str(_field(row, "answerKey"))
    if answer not in labels:
        raise DataError(f"{row[0]}: answerKey is {answer!r}, none of the choices {', '.join(labels)}")
    return labels.index(answer)


def _commonsense_qa_item(row: Row) -> tuple[str, Sequence[str], int]:
    choices = _field(row, "choices")
    lines = [f"{label}. {text}" for label, text in zip(choices["label"], choices["text"], strict=True)]
    context = "\n".join([f"Question: {text_of(row, 'question').strip()}", *lines, "Answer:"])
    return context, choices["label"], _lettered_place(row, choices["label"])


def _arc_item(row: Row) -> tuple[str, Sequence[str], int]:
    choices = _field(row, "choices")
    return f"Question: {text_of(row, 'question')}\nAnswer:", choices["text"], _lettered_place(row, choices["label"])


def _hellaswag_item(row: Row) -> tuple[str, Sequence[str], int]:
    context = f"{_field(row, 'ctx_a')} {str(_field(row, 'ctx_b')).capitalize()}"
    endings = [_without_wikihow_marks(ending) for ending in _field(row, "endings")]
    return _without_wikihow_marks(f"{text_of(row, 'activity_label')}: {context}"), endings, int(_field(row, "label"))


def _without_wikihow_marks(text: str) -> str:
    """HellaSwag's texts carry marks such as `[title]` and `[step]` from their source."""
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
            gold=_gsm8k_gold,
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
            gold=_svamp_gold,
        ),
        Benchmark(
            name="asdiv",
            title="ASDiv",
            source=UrlSource(f"{TOOLKIT}/asdiv/test.jsonl"),
            size=2215,
            items_sha256="7a5598d0b3dc9651b5df4c68339e152d220a805f489646ba50d9a11a2f207051",
            question=lambda row: f"{text_of(row, 'body').strip()} {text_of(row, 'question').strip()}",
            gold=_asdiv_gold,
            kind="expression",
        ),
        Benchmark(
            name="minerva_math",
            title="Minerva",
            source=UrlSource(f"{TOOLKIT}/minerva_math/test.jsonl"),
            size=272,
            items_sha256="b0dcfe2d91752d2e1645db4bb203c0bf2e6ec6a34d7aa7b8d360224240236655",
            question=lambda row: text_of(row, "problem"),
            gold=_boxed_gold,
            kind="expression",
        ),
        Benchmark(
            name="olympiadbench",
            title="Olympiad",
            source=UrlSource(f"{TOOLKIT}/olympiadbench/test.jsonl"),
            size=675,
            items_sha256="920419a779dc07c01aca909f3a49139a4fe2c2b506a073614c98498332cc802d",
            question=lambda row: text_of(row, "question"),
            gold=_olympiad_gold,
            kind="expression",
        ),
        Benchmark(
            name="mmlu_stem",
            title="MMLU-STEM",
            source=UrlSource(f"{TOOLKIT}/mmlu_stem/test.jsonl"),
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
            size=ARITHMETIC_ITEMS,
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
    """The items of a benchmark with their gold answers, in file order; questions that occur twice stay twice.

    A question whose answer is true or false (yes or no) says so at its end, as in the toolkit.

    Args:
        name: which one; one that is answered in words.
        limit: how many items; None takes all (2000 for `arithmetic`).
        data_dir: folder whose `NAME/SPLIT.jsonl` is read instead of the benchmark's own source.

    Raises:
        DataError: no such benchmark or file, or a row without question or gold.
        HubUnreachable: the source is out of reach.
    """
    benchmark = _benchmark(name, Benchmark)
    if name == "arithmetic":
        items: Iterable[Problem] = _distinct(limit or ARITHMETIC_ITEMS)
    else:
        items = (_problem(benchmark, row) for row in islice(benchmark.rows(data_dir), limit))
    # Items are told apart by place too: benchmarks such as SVAMP ask some questions twice.
    numbered = [replace(item, id=f"{place:05d}-{item.id}") for place, item in enumerate(items)]
    if not numbered:
        raise DataError(f"benchmark {name} has no items; is the file empty?")
    return numbered


def load_choices(name: BenchmarkName, *, limit: int | None, data_dir: Path | None) -> list[ChoiceProblem]:
    """The items of a benchmark that is answered by likelihood; like `load_benchmark`."""
    benchmark = _benchmark(name, ChoiceBenchmark)
    items = []
    for place, row in enumerate(islice(benchmark.rows(data_dir), limit)):
        context, choices, gold = benchmark.item(row)
        if not 0 <= gold < len(choices):
            raise DataError(f"{row[0]}: the right choice is number {gold} of {len(choices)}")
        items.append(ChoiceProblem(f"{place:05d}-{make_problem(context).id}", context, list(choices), gold))
    if not items:
        raise DataError(f"benchmark {name} has no items; is the file empty?")
    return items


def items_hash(items: Sequence[Problem] | Sequence[ChoiceProblem]) -> str:
    """SHA-256 of all questions and gold answers in order: the same items have it wherever they were read from."""
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
    hint = {"true": " (True or False)", "false": " (True or False)", "yes": " (Yes or No)", "no": " (Yes or No)"}
    return make_problem(benchmark.question(row) + hint.get(gold.lower(), ""), gold)


def _distinct(count: int) -> Iterator[Problem]:
    items: dict[str, Problem] = {}
    for problem in arithmetic_problems("test", ARITHMETIC_SEED):
        items.setdefault(problem.id, problem)
        if len(items) == count:
            break
    return iter(items.values())
