"""One line of a sample file: write it, check it, read it.

One line is one kept step, (s_t, v_C) of Algorithm 1. The authors' fields:

    prompt_id               the question's text (for files where it is an id, see `import_samples`)
    step                    response tokens in the prefix: the 0-based index of the token that the label predicts
    prefix                  the response prefix as text, control tokens kept
    token_ids, weights      the label: plausible tokens and their probabilities
    tokens                  each of `token_ids` decoded alone; may be absent, else it must fit
    kl_divergence           D_KL(π_E‖π_A) in nats

Ours, each absent or null where it is not known:

    question_id             `runs.records.Problem.id`; not read
    prompt_ids              the prompt's token ids
    response_ids, position  the prefix's token ids; their number, which is `step` again
    taken_id, expert_logprob, amateur_logprob    the rollout's own next token, log π_E and log π_A of it
    expert_logprobs, amateur_logprobs            log π_E and log π_A of `token_ids`
    expert_entropy, amateur_entropy              H(π_E) and H(π_A) in nats
"""

import json
import math
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightreasoner.data.problems import make_problem
from lightreasoner.errors import DataError, SampleFormatError
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.records import Problem
from lightreasoner.samples.folder import PER_STEP, Label, ScoredRollout

LONGEST_LINE = 1 << 20  # bytes
WEIGHT_SUM_TOLERANCE = 1e-3
SMALLEST_KL = -1e-3  # a divergence is never negative, but computed in float32 it can miss 0 by rounding

_ID = re.compile(r"[\w./:#@-]+", re.ASCII)  # not a question; ASCII, since a question in Chinese has no blanks either
_LARGEST = float(np.finfo(np.float32).max)  # number that a table can hold

_reader = reprlib.Repr()
_reader.maxstring = _reader.maxother = 80


def short(value: Any) -> str:
    """A value as it stands in a message."""
    return _reader.repr(value)


def write_line(rollout: ScoredRollout, label: Label, tokenizer: PreTrainedTokenizerBase) -> str:
    """A label as a line, line break included. JSON has no NaN: what is not known is left out.

    Raises:
        DataError: the line would be longer than a reader takes.
    """
    at = label.position
    prefix_ids = rollout.response_ids[:at].tolist()
    taken_id = int(rollout.response_ids[at])
    statistics: dict[str, Any] = {
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
        **({"taken_id": taken_id} if taken_id >= 0 else {}),
        **{name: value for name, value in statistics.items() if np.size(value) and np.isfinite(value).all()},
    }
    line = json.dumps(fields, allow_nan=False) + "\n"
    if len(line) > LONGEST_LINE:
        raise DataError(
            f"a label of {len(label.token_ids)} tokens makes a line of {len(line)} bytes, and an import reads at most "
            f"{LONGEST_LINE}. Sample with a larger --plausibility-alpha"
        )
    return line


@dataclass(frozen=True)
class Line:
    """One line, checked.

    Attributes:
        problem: the question.
        prompt_ids: token ids of the prompt.
        prefix_ids: token ids of the response before the label.
        taken_id: the rollout's own next token; None where the line does not tell.
        per_step: the columns `PER_STEP` at the label; NaN where the line does not tell.
        label: the label.
    """

    problem: Problem
    prompt_ids: list[int]
    prefix_ids: list[int]
    taken_id: int | None
    per_step: dict[str, float]
    label: Label


class _Row:
    """The fields of one line, checked as they are asked for."""

    def __init__(self, where: str, line: bytes) -> None:
        self._where = where
        try:
            self._values = json.loads(line)
        except (ValueError, RecursionError):
            raise self.error("not JSON in UTF-8" if line.strip() else "the line is empty") from None
        if not isinstance(self._values, dict):
            raise self.error(f"{short(self._values)} is no JSON object")

    def error(self, what: str, remedy: str = "Mend or remove the line") -> SampleFormatError:
        """To be raised."""
        return SampleFormatError(f"{self._where}: {what}. {remedy}")

    def has(self, name: str) -> bool:
        """The line tells this field; asked of those that it may leave out."""
        return self._values.get(name) is not None

    def get(self, name: str, what: str, is_right: Callable[[Any], bool]) -> Any:
        """The value of a field; `what` says what it must be."""
        if name not in self._values:
            raise self.error(f"no field {name} among {short(list(self._values))}; every sample needs it")
        if not is_right(self._values[name]):
            raise self.error(f"{name} is {short(self._values[name])}, not {what}")
        return self._values[name]

    def items(self, name: str, what: str, is_right: Callable[[Any], bool]) -> list[Any]:
        """The value of a field that is a list; `what` says what each item must be."""
        values: list[Any] = self.get(name, "a list", lambda value: isinstance(value, list))
        for place, value in enumerate(values):
            if not is_right(value):
                raise self.error(f"{name}[{place}] is {short(value)}, not {what}")
        return values


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot
        return False


def _is_number(value: Any, least: float = -_LARGEST) -> bool:
    """False for NaN, infinity, and whatever becomes infinite in a table."""
    return type(value) in (int, float) and least <= value <= _LARGEST


# What a value must be, for messages, and whether it is.
_COUNT = ("a whole number from 0 on", lambda value: type(value) is int and value >= 0)
_NUMBER = ("a finite number", _is_number)
_SHARE = ("a finite number from 0 on", lambda value: _is_number(value, 0))
_TEXT = ("a text", _is_text)


class LineReader:
    """Checks lines, and makes of each its step and the rollout up to there.

    Args:
        expert: name of the model that was sampled, for messages.
        template: how that model asks a question.
        questions: question by `prompt_id`, where that is not the question itself.
    """

    def __init__(self, expert: str, template: PromptTemplate, questions: Mapping[str, str] | None) -> None:
        self._expert = expert
        self._template = template
        self._questions = questions
        self._ask = lru_cache(maxsize=16)(template.encode)
        self._piece_of = {index: piece for piece, index in template.tokenizer.get_vocab().items()}
        self._token = (
            f"a token id of {expert}, {min(self._piece_of)} to {max(self._piece_of)}",
            lambda value: type(value) is int and value in self._piece_of,
        )
        self._asked = self._differing = 0

    @property
    def facts(self) -> dict[str, Any]:
        """How the token ids of all lines were made; see `samples.jsonl.import_samples`."""
        cue = self._template.cue if self._asked else None
        return {"prefix_length_differs": self._differing, "expert": self._expert, "cue": cue}

    def read(self, where: str, line: bytes) -> Line:
        """Read a line.

        Raises:
            SampleFormatError: the line breaks the format; the message begins with `where`.
        """
        row = _Row(where, line)
        problem = make_problem(self._question(row))
        label = self._label(row)
        kl = row.get("kl_divergence", "a finite number from 0 on", lambda value: _is_number(value, SMALLEST_KL))
        prefix_ids = self._response_ids(row)
        taken_id = row.get("taken_id", *self._token) if row.has("taken_id") else None
        others = (name for name in PER_STEP if name != "kl")
        per_step = {name: float(row.get(name, *_NUMBER)) if row.has(name) else math.nan for name in others}
        return Line(
            problem,
            self._prompt_ids(row, problem.question),
            prefix_ids,
            taken_id,
            {"kl": float(kl), **per_step},
            Label(problem.id, len(prefix_ids), **label),
        )

    def _question(self, row: _Row) -> str:
        # Whole numbers too: a fork of the authors' script numbers questions that have no id.
        prompt_id = str(row.get("prompt_id", "a text", lambda value: type(value) is int or _is_text(value)))
        question = prompt_id
        if self._questions is not None:
            if prompt_id not in self._questions:
                raise row.error(
                    f"prompt_id {short(prompt_id)} is no id in the --questions file", "Give the file of these samples"
                )
            question = self._questions[prompt_id]
        elif _ID.fullmatch(prompt_id) and not row.has("prompt_ids"):
            raise row.error(
                f"prompt_id {short(prompt_id)} looks like an id, and a prompt needs the question",
                "Give the file that has the question of this id with --questions",
            )
        if not question.strip() or not _is_text(question):
            raise row.error(f"the question is {short(question)}, not a text that can be asked")
        return question

    def _prompt_ids(self, row: _Row, question: str) -> list[int]:
        if row.has("prompt_ids"):
            prompt_ids = row.items("prompt_ids", *self._token)
            if not prompt_ids:
                raise row.error("prompt_ids is empty, and the model would have nothing to go on from")
            return prompt_ids
        self._asked += 1
        try:
            return self._ask(question)
        except DataError as error:
            raise row.error(str(error)) from None

    def _response_ids(self, row: _Row) -> list[int]:
        step, prefix = row.get("step", *_COUNT), row.get("prefix", *_TEXT)
        if not row.has("response_ids"):
            tokenised: list[int] = self._template.tokenizer(prefix, add_special_tokens=False)["input_ids"]
            self._differing += len(tokenised) != step
            return tokenised
        response_ids = row.items("response_ids", *self._token)
        position = row.get("position", *_COUNT) if row.has("position") else step
        if not step == position == len(response_ids):
            raise row.error(
                f"step is {short(step)}, position {short(position)}, and there are {len(response_ids)} response_ids: "
                "all must be one number, or the label stands at another token"
            )
        return response_ids

    def _label(self, row: _Row) -> dict[str, Any]:
        """The label's columns of `Label`, tokens ascending."""
        token_ids = row.items("token_ids", *self._token)
        if not token_ids or len(set(token_ids)) < len(token_ids):
            raise row.error(f"token_ids {short(token_ids)} is empty or names a token twice")
        columns = {"token_ids": token_ids, "weights": row.items("weights", *_SHARE)}
        optional = {"tokens": _TEXT, "expert_logprobs": _NUMBER, "amateur_logprobs": _NUMBER}
        columns |= {name: row.items(name, *check) for name, check in optional.items() if row.has(name)}
        for name, values in columns.items():
            if len(values) != len(token_ids):
                raise row.error(
                    f"{name} has {len(values)} entries, token_ids has {len(token_ids)}; they belong together"
                )
        self._check_tokens(row, token_ids, columns.pop("tokens", []))
        total = math.fsum(columns["weights"])
        if abs(total - 1) > WEIGHT_SUM_TOLERANCE:
            raise row.error(f"weights sum to {total:.6g}, not to 1; a label is a probability distribution")
        columns["weights"] = [weight / total for weight in columns["weights"]]
        order = np.argsort(token_ids)
        return {
            name: [columns[name][place] for place in order] if name in columns else []
            for name in ("token_ids", "weights", "expert_logprobs", "amateur_logprobs")
        }

    def _check_tokens(self, row: _Row, token_ids: list[int], tokens: list[str]) -> None:
        """The one trace of the tokenizer in a file. Its decoders differ in blanks only, some tools write pieces."""
        for token_id, text in zip(token_ids, tokens, strict=False):
            mine = _text_of(self._template.tokenizer, [token_id])
            if text.strip() != mine.strip() and text != self._piece_of[token_id]:
                raise row.error(
                    f"token id {token_id} is {short(text)} in the file and {short(mine)} to {self._expert}: "
                    "another tokenizer made it, so all ids would mean other tokens",
                    "Name the model that was sampled with --expert",
                )


def _text_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
