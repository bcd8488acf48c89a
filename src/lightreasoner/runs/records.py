"""The rows that stages write and read: their only way to meet.

Each record is a frozen dataclass with the Arrow schema of its Parquet table. `SCHEMA_VERSION` changes
whenever a column changes its name, type or meaning.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import pyarrow as pa

SCHEMA_VERSION = 3
# Keys of a sample folder's fingerprint that say how it was made where that was not sampling.
SELECTED = "selected"  # from another folder: the rule
BASELINE = "baseline"  # as a rival's data: which
IMPORTED = "imported"  # from other people's file
# What an adapter consists of, by the name of its hash in the result of fine-tuning.
ADAPTER_FILES = {"adapter_sha256": "adapter_model.safetensors", "adapter_config_sha256": "adapter_config.json"}

_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int32(), pa.float32(), pa.bool_()
_INTS, _FLOATS, _TEXTS = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.string())
_INT_LISTS, _FLOAT_LISTS = pa.list_(_INTS), pa.list_(_FLOATS)


@dataclass(frozen=True, slots=True)
class Record:
    """Base of the rows: knows how to become a table and to come back from one."""

    schema: ClassVar[pa.Schema]

    @classmethod
    def table(cls, rows: Iterable[Self]) -> pa.Table:
        """One Arrow table of these rows, columns in the order of the fields."""
        return pa.Table.from_pylist([row.as_dict() for row in rows], schema=cls.schema)

    @classmethod
    def rows(cls, table: pa.Table) -> Iterator[Self]:
        """The rows of a table that `table` made."""
        for batch in table.to_batches():
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
        question: what the models are asked.
        answer: gold answer, used by evaluation only; sampling and fine-tuning never look at it.
    """

    id: str
    question: str
    answer: str | None = None

    schema: ClassVar[pa.Schema] = pa.schema([("id", _TEXT), ("question", _TEXT), ("answer", _TEXT)])


@dataclass(frozen=True, slots=True)
class Rollout(Record):
    """The expert's response to one question, both models scored at every response token.

    Lists have one entry per response token t = 0 … T−1 (0-based); entry t speaks of the distribution
    *before* token t, given the prompt and tokens 0 … t−1.

    Attributes:
        question_id: `Problem.id`.
        question: the question's text.
        prompt_ids: token ids of the whole prompt.
        response_ids: token ids that the expert generated, the stop token included where one came.
        finished: the response ended by a stop token, not by the length limit.
        kl: D_KL(π_E‖π_A) in nats.
        expert_entropy: H(π_E) in nats.
        amateur_entropy: H(π_A) in nats.
        expert_logprob: log π_E(response_ids[t]).
        amateur_logprob: log π_A(response_ids[t]).
        expert_top_ids: the expert's most probable tokens, descending, [T][k].
        expert_top_logprobs: log π_E of them.
        amateur_top_ids: the amateur's most probable tokens, descending, [T][k].
        amateur_top_logprobs: log π_A of them.
    """

    question_id: str
    question: str
    prompt_ids: list[int]
    response_ids: list[int]
    finished: bool
    kl: list[float]
    expert_entropy: list[float]
    amateur_entropy: list[float]
    expert_logprob: list[float]
    amateur_logprob: list[float]
    expert_top_ids: list[list[int]]
    expert_top_logprobs: list[list[float]]
    amateur_top_ids: list[list[int]]
    amateur_top_logprobs: list[list[float]]

    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("question_id", _TEXT),
            ("question", _TEXT),
            ("prompt_ids", _INTS),
            ("response_ids", _INTS),
            ("finished", _BOOL),
            ("kl", _FLOATS),
            ("expert_entropy", _FLOATS),
            ("amateur_entropy", _FLOATS),
            ("expert_logprob", _FLOATS),
            ("amateur_logprob", _FLOATS),
            ("expert_top_ids", _INT_LISTS),
            ("expert_top_logprobs", _FLOAT_LISTS),
            ("amateur_top_ids", _INT_LISTS),
            ("amateur_top_logprobs", _FLOAT_LISTS),
        ]
    )


@dataclass(frozen=True, slots=True)
class StepSample(Record):
    """One kept step: a position of a rollout and its contrastive label, (s_t, v_C) of Algorithm 1.

    The prefix s_t is the rollout's prompt and its first `position` response tokens.

    Attributes:
        question_id: `Problem.id`, joins with `Rollout.question_id`.
        position: 0-based index t of the response token that the label predicts.
        token_ids: ids of the plausible tokens (A_mask), ascending, [K].
        weights: label probabilities v_C of these tokens, sum 1, [K].
        expert_logprobs: log π_E of these tokens when sampled, [K].
        amateur_logprobs: log π_A of these tokens, [K].
        kl: D_KL(π_E‖π_A) at this step, nats.
        expert_entropy: H(π_E), nats.
        amateur_entropy: H(π_A), nats.
        taken_id: the token that the rollout took here.
        taken_expert_logprob: log π_E of it.
        taken_amateur_logprob: log π_A of it.
    """

    question_id: str
    position: int
    token_ids: list[int]
    weights: list[float]
    expert_logprobs: list[float]
    amateur_logprobs: list[float]
    kl: float
    expert_entropy: float
    amateur_entropy: float
    taken_id: int
    taken_expert_logprob: float
    taken_amateur_logprob: float

    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("question_id", _TEXT),
            ("position", _INT),
            ("token_ids", _INTS),
            ("weights", _FLOATS),
            ("expert_logprobs", _FLOATS),
            ("amateur_logprobs", _FLOATS),
            ("kl", _FLOAT),
            ("expert_entropy", _FLOAT),
            ("amateur_entropy", _FLOAT),
            ("taken_id", _INT),
            ("taken_expert_logprob", _FLOAT),
            ("taken_amateur_logprob", _FLOAT),
        ]
    )


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

    schema: ClassVar[pa.Schema] = pa.schema([("id", _TEXT), ("context", _TEXT), ("choices", _TEXTS), ("gold", _INT)])


@dataclass(frozen=True, slots=True)
class Answer(Record):
    """A model's answer to one benchmark item. What a judge makes of it is a `JudgedAnswer`.

    Attributes:
        question_id: `Problem.id`.
        sample: 0 … samples_per_problem − 1.
        benchmark: name of the benchmark.
        question: the question's text.
        gold: gold answer.
        prompt_ids: token ids of the whole prompt.
        output_ids: generated token ids.
        output: generated text without special tokens, up to the first stop string.
        finish: why it ended: `stop` (stop token or string), `length` (cut off at the limit), `prompt_too_long`
            (the prompt leaves no room in the model's context, and nothing was generated), or `unknown` (another tool
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

    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("question_id", _TEXT),
            ("sample", _INT),
            ("benchmark", _TEXT),
            ("question", _TEXT),
            ("gold", _TEXT),
            ("prompt_ids", _INTS),
            ("output_ids", _INTS),
            ("output", _TEXT),
            ("finish", _TEXT),
        ]
    )


@dataclass(frozen=True, slots=True)
class JudgedAnswer(Record):
    """What a judge made of an `Answer`.

    Attributes:
        question_id: `Answer.question_id`.
        sample: `Answer.sample`.
        extracted: the answer found in the output, None if there is none.
        canonical: a form in which equal answers are mostly the same text, for majority votes.
        verdict: one of `grading.verdicts.VERDICTS`.
    """

    question_id: str
    sample: int
    extracted: str | None
    canonical: str | None
    verdict: str

    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("question_id", _TEXT),
            ("sample", _INT),
            ("extracted", _TEXT),
            ("canonical", _TEXT),
            ("verdict", _TEXT),
        ]
    )


@dataclass(frozen=True, slots=True)
class ScoredChoices(Record):
    """How likely a model finds each choice of a `ChoiceProblem`.

    Attributes:
        question_id: `ChoiceProblem.id`.
        context: `ChoiceProblem.context`.
        choices: `ChoiceProblem.choices`.
        gold: `ChoiceProblem.gold`.
        logprobs: log-probability of each choice after the context, nats.
    """

    question_id: str
    context: str
    choices: list[str]
    gold: int
    logprobs: list[float]

    schema: ClassVar[pa.Schema] = pa.schema(
        [
            ("question_id", _TEXT),
            ("context", _TEXT),
            ("choices", _TEXTS),
            ("gold", _INT),
            ("logprobs", _FLOATS),
        ]
    )

    def is_right(self, metric: str) -> bool:
        """Whether the right choice is the likeliest: as it is (`acc`) or per character (`acc_norm`).

        Of equally likely choices the first counts.
        """
        scores = [
            logprob / (len(choice) if metric == "acc_norm" else 1)
            for logprob, choice in zip(self.logprobs, self.choices, strict=True)
        ]
        return scores.index(max(scores)) == self.gold
