"""Arithmetic word problems with exact answers: a story of two to four chained operations.

A problem is a pure function of (split, seed, index). The hash of its chain of calculations decides its split, so the
two splits never share a chain, whatever the seeds. A test problem therefore has new numbers, not only new names.
`stories.yaml` has the phrases.
"""

import hashlib
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

Split = Literal["train", "test"]

TEST_SHARE = 0.1  # of all possible chains
DISTRACTOR_SHARE = 0.25  # of problems with an irrelevant number
LARGEST_VALUE = 199

# Themes with worked solutions in words ("First …, then …") instead of equations only.
WORDY_THEMES = frozenset({"savings", "school", "game"})

_Step = tuple[str, int]  # symbol of the operation, and operand
OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}


class Theme(BaseModel):
    """A kind of story: its nouns, and phrases for its parts; those of the steps by operator."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    nouns: tuple[str, ...]
    openings: tuple[str, ...]
    steps: dict[str, tuple[str, ...]]
    questions: tuple[str, ...]


_STORIES = yaml.safe_load((Path(__file__).parent / "stories.yaml").read_text(encoding="utf-8"))
NAMES: list[str] = _STORIES["names"]
DISTRACTORS: list[str] = _STORIES["distractors"]
THEMES = {name: Theme(**phrases) for name, phrases in _STORIES["themes"].items()}


@dataclass(frozen=True)
class WordProblem:
    """A question with its calculation.

    Attributes:
        theme: key of `THEMES`.
        question: the text of the problem.
        start: the first number of the story.
        steps: the calculations in order, such as `14+9=23`.
        answer: the exact result, 1 … `LARGEST_VALUE`.
    """

    theme: str
    question: str
    start: int
    steps: tuple[str, ...]
    answer: int


def word_problems(split: Split, seed: int) -> Iterator[WordProblem]:
    """Endless problems of one split; no chain of calculations is in both splits.

    Questions may repeat by chance; a caller that needs distinct questions drops repeats.
    """
    rng = random.Random(f"{split}/{seed}")
    while True:
        start, steps = _chain(rng)
        if split_of(start, steps) == split:
            yield _write_problem(rng, start, steps)


def split_of(start: int, steps: tuple[_Step, ...]) -> Split:
    """The split of a chain of calculations."""
    return split_by_hash(f"{start}{steps}")


def split_by_hash(text: str) -> Split:
    """The split of what a text describes, from its hash."""
    return "test" if hashlib.sha256(text.encode()).digest()[0] < TEST_SHARE * 256 else "train"


def _chain(rng: random.Random) -> tuple[int, tuple[_Step, ...]]:
    start = value = rng.randint(3, 60)
    steps: list[_Step] = []
    for _ in range(rng.choice((2, 3, 3, 4))):
        symbol, operand = rng.choice(_possible_steps(rng, value))
        steps.append((symbol, operand))
        value = OPERATIONS[symbol](value, operand)
    return start, tuple(steps)


def _possible_steps(rng: random.Random, value: int) -> list[_Step]:
    """One candidate for each operation that keeps the value an integer in 1 … LARGEST_VALUE."""
    candidates = [
        ("+", rng.randint(2, 50)),
        ("-", rng.randint(1, 50)),
        ("*", rng.randint(2, 5)),
        ("/", rng.randint(2, 5)),
    ]
    return [
        (symbol, operand)
        for symbol, operand in candidates
        if (symbol != "/" or value % operand == 0) and 1 <= OPERATIONS[symbol](value, operand) <= LARGEST_VALUE
    ] or [("+", 2)]


def _write_problem(rng: random.Random, start: int, steps: tuple[_Step, ...]) -> WordProblem:
    key = rng.choice(sorted(THEMES))
    theme = THEMES[key]
    name, noun = rng.choice(NAMES), rng.choice(theme.nouns)

    def say(phrases: Sequence[str], n: int) -> str:
        return rng.choice(phrases).format(name=name, noun=noun, n=n)

    sentences = [say(theme.openings, start)]
    worked: list[str] = []
    value = start
    for symbol, operand in steps:
        sentences.append(say(theme.steps[symbol], operand))
        result = OPERATIONS[symbol](value, operand)
        worked.append(f"{value}{symbol}{operand}={result}")
        value = result
    if rng.random() < DISTRACTOR_SHARE:
        sentences.insert(rng.randint(1, len(sentences)), say(DISTRACTORS, rng.randint(2, 40)))
    sentences.append(say(theme.questions, 0))
    return WordProblem(key, " ".join(sentences), start, tuple(worked), value)


def worked_solution(problem: WordProblem) -> str:
    """The solution that writes every calculation before the answer."""
    if problem.theme in WORDY_THEMES:
        return "First " + ", then ".join(problem.steps) + f". So \\boxed{{{problem.answer}}}"
    return " ".join(f"{step}." for step in problem.steps) + f" \\boxed{{{problem.answer}}}"
