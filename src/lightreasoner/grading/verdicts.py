"""A judge's input and output, and votes on answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

AnswerKind = Literal["number", "expression", "choice", "text", "literal"]
"""How answers are compared: as numbers, mathematics, letters A … E, word for word, or as Python literals."""
Verdict = Literal["correct", "wrong", "no_answer", "timeout", "grader_error"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to judge.

    Attributes:
        text: the model's response.
        gold: the gold answer.
        kind: kind of answer, which decides how answers are compared.
        benchmark: name of the benchmark, for the toolkit's special rules.
    """

    text: str
    gold: str
    kind: AnswerKind
    benchmark: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict on one answer.

    Attributes:
        extracted: the answer found in the text; None without one.
        canonical: normal form for majority votes; equal answers mostly have the same one.
        verdict: `timeout` and `grader_error` mean that the judge failed, not the model. They count as not correct, and
            are reported apart from wrong answers.
    """

    extracted: str | None
    canonical: str | None
    verdict: Verdict


def majority(keys: Sequence[str | None]) -> int | None:
    """Index of the first sample with the most frequent key; of equally frequent keys, the first one wins.

    A key is a sample's answer in a form that equal answers share. None is no answer and no vote; with no vote at all
    there is no index.
    """
    votes = Counter(key for key in keys if key is not None)
    return keys.index(max(votes, key=votes.__getitem__)) if votes else None  # a Counter keeps the order of arrival
