"""The rows that stages write and read, and how a row type becomes a Parquet table.

A record is a frozen dataclass; its Arrow schema follows from its annotations. `SCHEMA_VERSION` changes whenever a
column changes its name, type or meaning.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import pyarrow as pa

SCHEMA_VERSION = 5
# Files of an adapter, by the name of their hash in the result of fine-tuning.
ADAPTER_FILES = {"adapter_sha256": "adapter_model.safetensors", "adapter_config_sha256": "adapter_config.json"}
PUSHED = "pushed.json"  # in a run folder: what was sent to the Hub, when and where to
ROUNDS = "rounds.json"  # in the folder of `lightr rounds`: the alarms of each round, and the one that is kept
# The alarms of `evaluation.alarms`, and their titles as curves over the rounds.
ALARMS = {
    "majority_share": "Share of the commonest of several answers",
    "expert_entropy": "Entropy of the expert, nats",
    "drift": "KL(expert ‖ untouched expert), nats",
    "above_beta": "Share of steps above β",
    "label_surprise": "KL(label ‖ expert) above β, nats",
    "finished": "Share of rollouts that end by themselves",
    "mean_length": "Tokens in a rollout",
    "repeated": "Share of repeated 4-grams",
    "format_mass": "Label mass on tokens of format",
    "junk_mass": "Label mass in scattered labels",
}

_TYPES = {str: pa.string(), int: pa.int32(), float: pa.float32(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> pa.DataType:
    """The Arrow type of a field: list[T] is a list, and T | None is T, since every column may hold nulls."""
    if get_origin(annotation) is list:
        return pa.list_(_arrow_type(get_args(annotation)[0]))
    return _TYPES[next((kind for kind in get_args(annotation) if kind is not NoneType), annotation)]


@dataclass(frozen=True, slots=True)
class Record:
    """Base of the rows: turns rows into a table and back."""

    schema: ClassVar[pa.Schema]

    def __init_subclass__(cls) -> None:
        hints = {name: hint for name, hint in get_type_hints(cls).items() if get_origin(hint) is not ClassVar}
        cls.schema = pa.schema([(name, _arrow_type(hint)) for name, hint in hints.items()])

    @classmethod
    def table(cls, rows: Iterable[Self]) -> pa.Table:
        """One Arrow table of these rows, columns in the order of the fields."""
        return pa.Table.from_pylist([row.as_dict() for row in rows], schema=cls.schema)

    @classmethod
    def rows(cls, table: pa.Table) -> Iterator[Self]:
        """The rows of a table that `table` made; it may have other columns too."""
        for batch in table.select(cls.schema.names).to_batches():
            for row in batch.to_pylist():
                yield cls(**row)

    def as_dict(self) -> dict[str, Any]:
        """Field names and values, in order."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Problem(Record):
    """A question, and its gold answer where one is known.

    Attributes:
        id: hash of the question's text, so that the same question is the same problem everywhere.
        answer: gold answer, used by evaluation only; sampling and fine-tuning never look at it.
    """

    id: str
    question: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class ChoiceProblem(Record):
    """A question that is answered by the likelihood of given choices.

    Attributes:
        id: place in the benchmark and hash of the context.
        context: text before the choices.
        choices: texts that may follow the context, after a space.
        gold: index of the right choice.
    """

    id: str
    context: str
    choices: list[str]
    gold: int


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """A model's answer to one benchmark item. What a judge makes of it is a `JudgedAnswer`.

    Attributes:
        sample: 0 … samples_per_problem − 1.
        prompt_ids: token ids of the whole prompt.
        output: generated text without special tokens, up to the first stop string.
        finish: why it ended: `stop` (stop token or string), `length` (cut off at the limit), `prompt_too_long`
            (the prompt fills the model's context, and nothing was generated), or `unknown` (another tool
            made the answer and did not say; it has no token ids then).
    """

    question_id: str
    sample: int
    benchmark: str
    question: str
    gold: str
    prompt_ids: list[int]
    output_ids: list[int]
    output: str
    finish: str


@dataclass(frozen=True, slots=True)
class JudgedAnswer(Record):
    """What a judge made of an `Answer`.

    Attributes:
        extracted: the answer found in the output, None if there is none.
        canonical: a form in which equal answers are mostly the same text, for majority votes.
        verdict: one of `grading.verdicts.VERDICTS`.
    """

    question_id: str
    sample: int
    extracted: str | None
    canonical: str | None
    verdict: str


@dataclass(frozen=True, slots=True)
class ScoredChoices(Record):
    """How likely a model finds each choice of a `ChoiceProblem`.

    Attributes:
        logprobs: log-probability of each choice after the context, nats.
    """

    question_id: str
    context: str
    choices: list[str]
    gold: int
    logprobs: list[float]

    def is_right(self, metric: str) -> bool:
        """Whether the right choice is the likeliest: as it is (`acc`) or per character (`acc_norm`).

        Of equally likely choices the first counts. A NaN among them says nothing about the likeliest.
        """
        if any(map(math.isnan, self.logprobs)):
            return False
        scores = [
            logprob / (len(choice) if metric == "acc_norm" else 1)
            for logprob, choice in zip(self.logprobs, self.choices, strict=True)
        ]
        return scores.index(max(scores)) == self.gold
