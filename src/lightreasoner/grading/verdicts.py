"""What a judge is asked, and what it says."""

from dataclasses import dataclass
from typing import Literal

AnswerKind = Literal["number", "expression", "choice"]
Verdict = Literal["correct", "wrong", "no_answer", "timeout", "grader_error"]
VERDICTS: tuple[Verdict, ...] = ("correct", "wrong", "no_answer", "timeout", "grader_error")


@dataclass(frozen=True, slots=True)
class Case:
    """One answer to judge.

    Attributes:
        text: what the model wrote.
        gold: the gold answer.
        kind: what answers are, which decides how they are compared.
        benchmark: name of the benchmark, for the toolkit's special rules.
    """

    text: str
    gold: str
    kind: AnswerKind
    benchmark: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's finding.

    Attributes:
        extracted: the answer found in the text, as text; None if there is none.
        canonical: a form in which equal answers are mostly the same text, for majority votes.
        verdict: `timeout` and `grader_error` say that the judge failed, not the model; they count as not correct,
            and are counted apart so that nobody takes them for wrong answers.
    """

    extracted: str | None
    canonical: str | None
    verdict: Verdict
