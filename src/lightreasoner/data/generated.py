"""The data sets that are generated: endless problems with exact answers, in two disjoint splits.

To add one, add a function that gives its problems, and an entry to `GENERATORS`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

from lightreasoner.data.programs import KINDS, LEVELS, programs
from lightreasoner.grading.verdicts import AnswerKind
from lightreasoner.miniature.word_problems import THEMES, Split, word_problems, worked_solution


@dataclass(frozen=True)
class Generated:
    """A generated problem.

    Attributes:
        kind: its kind, one of the generator's.
        question: the text of the problem.
        answer: the exact answer.
        solution: a solution that writes every step before the answer.
    """

    kind: str
    question: str
    answer: str
    solution: str


class Generator(NamedTuple):
    """A generated data set.

    Attributes:
        problems: endless problems of a split and a seed; questions may repeat by chance.
        kinds: the kinds of its problems.
        answers: kind of their answers.
    """

    problems: Callable[[Split, int], Iterator[Generated]]
    kinds: Sequence[str]
    answers: AnswerKind

    def distinct(self, split: Split, seed: int, count: int) -> list[Generated]:
        """The first `count` problems with different questions."""
        seen: dict[str, Generated] = {}
        fresh = (
            seen.setdefault(problem.question, problem)
            for problem in self.problems(split, seed)
            if problem.question not in seen
        )
        return list(islice(fresh, count))


def _word_problems(split: Split, seed: int) -> Iterator[Generated]:
    for problem in word_problems(split, seed):
        yield Generated(problem.theme, problem.question, str(problem.answer), worked_solution(problem))


def _programs(split: Split, seed: int, levels: Sequence[int]) -> Iterator[Generated]:
    for program in programs(split, seed, levels):
        yield Generated(program.kind, program.question, program.answer, program.solution)


GENERATORS: Mapping[str, Generator] = {
    "arithmetic": Generator(_word_problems, sorted(THEMES), "number"),
    "programs": Generator(partial(_programs, levels=LEVELS), KINDS, "literal"),
    **{f"programs_{level}": Generator(partial(_programs, levels=(level,)), KINDS, "literal") for level in LEVELS},
}
