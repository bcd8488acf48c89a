"""One line of a sample file: write it, check it, read it. `SampleLine` says what the fields mean.

Token ids: `prompt_ids` and `response_ids` are used as they are. Without `prompt_ids`, the expert's chat template asks
the question under a cue. Without `response_ids`, the `prefix` is tokenised again, and its ids decide the position, as
in the authors' training: where tokens merge or split, that is not `step`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError
from transformers import PreTrainedTokenizerBase

from lightreasoner.data.lines import Line, Text, expected, short
from lightreasoner.data.problems import make_problem
from lightreasoner.errors import DataError, SampleFormatError
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.vocabulary import tokens_by_id
from lightreasoner.runs.records import Problem
from lightreasoner.samples.folder import PER_LABEL, PER_STEP, Label, ScoredRollout

LONGEST_LINE = 1 << 20  # bytes
WEIGHT_SUM_TOLERANCE = 1e-3
WEIGHT_ROUNDING = 2**-23  # of a sum of float32 weights; normalising again would change their last bits at each import
SMALLEST_KL = -1e-3  # a divergence is never negative, but computed in float32 it can miss 0 by rounding

_ID = re.compile(r"[\w./:#@-]+", re.ASCII)  # not a question; ASCII, since a question in Chinese has no blanks either
_LARGEST = float(np.finfo(np.float32).max)  # number that a table can hold


def write_line(rollout: ScoredRollout, label: Label, tokenizer: PreTrainedTokenizerBase) -> str:
    """A label as a line, line break included. JSON has no NaN, so unknown values are left out.

    Raises:
        DataError: the line would be longer than a reader takes.
    """
    at = label.position
    prefix_ids = rollout.response_ids[:at].tolist()
    taken_id = int(rollout.response_ids[at])
    optional: dict[str, Any] = {
        "taken_id": taken_id if taken_id >= 0 else [],
        "expert_logprobs": label.expert_logprobs,
        "amateur_logprobs": label.amateur_logprobs,
        **{name: float(rollout.per_step[name][at]) for name in PER_STEP if name != "kl"},
    }
    fields = {
        "prompt_id": rollout.question,
        "step": at,
        "prefix": _text_of(tokenizer, prefix_ids),
        "tokens": [_text_of(tokenizer, [token]) for token in label.token_ids],
        "token_ids": label.token_ids,
        "weights": label.weights,
        "kl_divergence": float(rollout.kl[at]),
        "question_id": rollout.question_id,
        "prompt_ids": rollout.prompt_ids.tolist(),
        "response_ids": prefix_ids,
        "position": at,
        **{name: value for name, value in optional.items() if np.size(value) and np.isfinite(value).all()},
    }
    line = json.dumps(fields, allow_nan=False) + "\n"
    if len(line) > LONGEST_LINE:
        raise DataError(
            f"a label of {len(label.token_ids)} tokens makes a line of {len(line)} bytes, and an import reads at most "
            f"{LONGEST_LINE}. Sample with a larger --plausibility-alpha"
        )
    return line


def _token_id(value: Any, info: ValidationInfo) -> int:
    reader: Any = info.context  # the `LineReader`
    if type(value) is not int or value not in reader.pieces:  # `True` is no token id
        what = {"expert": reader.expert, "low": min(reader.pieces), "high": max(reader.pieces)}
        raise PydanticCustomError("token_id", "not a token id of {expert}, {low} to {high}", what)
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, list):
        raise PydanticCustomError("list", "not a list")
    return value


T = TypeVar("T")
_List = Annotated[list[T], Field(fail_fast=True), BeforeValidator(_list)]
_TokenId = Annotated[int, PlainValidator(_token_id)]
_Count = Annotated[int, Field(ge=0), expected("a whole number from 0 on")]
_Number = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST), expected("a finite number")]
_Share = Annotated[float, Field(ge=0, le=_LARGEST), expected("a finite number from 0 on")]
_Kl = Annotated[float, Field(ge=SMALLEST_KL, le=_LARGEST), expected("a finite number from 0 on")]
_String = Annotated[Text, expected("a text")]
# A fork of the authors' script numbers questions that have no id.
_PromptId = Annotated[_String, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class SampleLine(Line):
    """A kept step, (s_t, v_C) of Algorithm 1: the authors' fields, then ours, which are absent or null if unknown.

    Exports have one more field, `question_id` (`Problem.id`), which is not read.
    """

    error: ClassVar[type[DataError]] = SampleFormatError
    remedy_if_missing: ClassVar[str] = "every sample needs it. Mend or remove the line"

    prompt_id: _PromptId  # the question's text; for files where it is an id, see `import_samples`
    step: _Count  # response tokens in the prefix: the 0-based index of the token that the label predicts
    prefix: _String  # the response prefix as text, control tokens kept
    tokens: _List[_String] | None = None  # each of `token_ids` decoded alone; may be absent
    token_ids: _List[_TokenId]  # the plausible tokens
    weights: _List[_Share]  # their probabilities in the label
    kl: Annotated[_Kl, Field(alias="kl_divergence")]  # D_KL(π_E‖π_A) in nats
    prompt_ids: _List[_TokenId] | None = None  # of the prompt
    response_ids: _List[_TokenId] | None = None  # of the prefix
    position: _Count | None = None  # number of `response_ids`, which is `step` again
    taken_id: _TokenId | None = None  # the rollout's own next token
    expert_logprob: _Number | None = None  # log π_E and log π_A of it
    amateur_logprob: _Number | None = None
    expert_logprobs: _List[_Number] | None = None  # log π_E and log π_A of `token_ids`
    amateur_logprobs: _List[_Number] | None = None
    expert_entropy: _Number | None = None  # H(π_E) and H(π_A) in nats
    amateur_entropy: _Number | None = None

    @model_validator(mode="after")
    def _fields_fit(self) -> Self:
        count, given = len(self.token_ids), self.response_ids
        if not self.token_ids or len(set(self.token_ids)) < count:
            raise ValueError(f"token_ids {short(self.token_ids)} is empty or names a token twice. {self.remedy}")
        for name in ("tokens", *PER_LABEL):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(
                    f"{name} has {len(values)} entries, token_ids has {count}; they belong together. {self.remedy}"
                )
        total = math.fsum(self.weights)
        if abs(total - 1) > WEIGHT_SUM_TOLERANCE:
            raise ValueError(
                f"weights sum to {total:.6g}, not to 1; a label is a probability distribution. {self.remedy}"
            )
        if self.prompt_ids == []:
            raise ValueError(f"prompt_ids is empty, and the model would have nothing to continue. {self.remedy}")
        position = self.step if self.position is None else self.position
        if given is not None and not self.step == position == len(given):
            raise ValueError(
                f"step is {short(self.step)}, position {short(position)}, and there are {len(given)} response_ids: all "
                f"must be one number, or the label stands at another token. {self.remedy}"
            )
        return self

    def label(self, question_id: str, position: int) -> Label:
        """The label, its tokens ascending and its weights normalised."""
        total = math.fsum(self.weights)
        total = 1.0 if abs(total - 1) <= WEIGHT_ROUNDING else total
        columns = {name: getattr(self, name) or [] for name in PER_LABEL}
        columns["weights"] = [weight / total for weight in self.weights]
        order = np.argsort(self.token_ids)
        columns = {name: [column[place] for place in order if column] for name, column in columns.items()}
        return Label(question_id, position, **columns)


@dataclass(frozen=True)
class ImportedStep:
    """A line with its token ids."""

    line: SampleLine
    problem: Problem
    prompt_ids: list[int]
    prefix_ids: list[int]  # of the response before the label
    label: Label

    @property
    def known_ids(self) -> list[int]:
        """The prefix, and the rollout's own next token where the line has it."""
        return self.prefix_ids if self.line.taken_id is None else [*self.prefix_ids, self.line.taken_id]

    def extends(self, last: "ImportedStep") -> bool:
        """The prompt is the same, and this prefix is longer and begins with what is known of the last response."""
        return (
            (last.problem, last.prompt_ids) == (self.problem, self.prompt_ids)
            and len(last.prefix_ids) < len(self.prefix_ids)
            and last.known_ids == self.prefix_ids[: len(last.known_ids)]
        )


class LineReader:
    """Checks lines, and makes their token ids.

    Args:
        expert: name of the model that was sampled, for messages.
        template: how that model asks a question.
        questions: question by `prompt_id`, where that is not the question itself.
    """

    def __init__(self, expert: str, template: PromptTemplate, questions: Mapping[str, str] | None) -> None:
        self.expert = expert
        self.pieces = tokens_by_id(template.tokenizer)
        self.template = template
        self._questions = questions
        self._ask = lru_cache(maxsize=16)(template.encode)

    def read(self, where: str, line: bytes) -> ImportedStep:
        """Read a line.

        Raises:
            SampleFormatError: the line breaks the format; the message begins with `where`.
        """
        if len(line) > LONGEST_LINE:
            raise SampleFormatError(
                f"{where}: more than {LONGEST_LINE} bytes, far beyond what a sample needs. "
                "Put one JSON object on each line"
            )
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            reason = "not JSON in UTF-8" if line.strip() else "the line is empty"
            raise SampleFormatError(f"{where}: {reason}. Mend or remove the line") from None
        if not isinstance(fields, dict):
            raise SampleFormatError(f"{where}: {short(fields)} is no JSON object. Mend or remove the line")
        checked = SampleLine.checked((where, fields), self)
        try:
            return self._step(checked)
        except DataError as error:
            raise SampleFormatError(f"{where}: {error}") from None

    def _step(self, line: SampleLine) -> ImportedStep:
        self._check_tokens(line)
        problem = make_problem(self._question(line))
        prompt_ids = self._ask(problem.question) if line.prompt_ids is None else line.prompt_ids
        prefix_ids = line.response_ids
        if prefix_ids is None:
            prefix_ids = self.template.encode_prefix(line.prefix)
        return ImportedStep(line, problem, prompt_ids, prefix_ids, line.label(problem.id, len(prefix_ids)))

    def _question(self, line: SampleLine) -> str:
        shown = short(line.prompt_id)
        if self._questions is not None:
            if line.prompt_id not in self._questions:
                raise DataError(f"prompt_id {shown} is no id in the --questions file. Give the file of these samples")
            return self._questions[line.prompt_id]
        if _ID.fullmatch(line.prompt_id) and line.prompt_ids is None:
            raise DataError(
                f"prompt_id {shown} looks like an id, and a prompt needs the question. "
                "Give the file that has the question of this id with --questions"
            )
        if not line.prompt_id.strip():
            raise DataError(f"the question is {shown}, not a text that can be asked. Mend or remove the line")
        return line.prompt_id

    def _check_tokens(self, line: SampleLine) -> None:
        """Compare the texts of the tokens. Decoders differ in blanks only, and some tools write pieces."""
        for token_id, text in zip(line.token_ids, line.tokens or [], strict=False):
            mine = _text_of(self.template.tokenizer, [token_id])
            if text.strip() != mine.strip() and text != self.pieces[token_id]:
                raise DataError(
                    f"token id {token_id} is {short(text)} in the file and {short(mine)} to {self.expert}: "
                    "another tokenizer made it, so all ids would mean other tokens. "
                    "Name the model that was sampled with --expert"
                )


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
