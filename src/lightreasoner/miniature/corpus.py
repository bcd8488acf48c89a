"""The texts the miniature models were trained on: a question and a solution, worked or blurted.

A *worked* solution writes every calculation before the answer; a *blurted* one states the answer at
once. The share of worked solutions is what separates the amateur (few) from the expert (more).
"""

import random
from dataclasses import dataclass, field

from lightreasoner.miniature.word_problems import THEMES, WordProblem

# Themes whose worked solutions are told in words ("First …, then …") instead of bare equations.
WORDY_THEMES = frozenset({"savings", "school", "game"})


@dataclass(frozen=True)
class Corpus:
    """How often a solution is worked, by theme.

    Attributes:
        worked_share: probability of a worked solution in themes that are not named below.
        worked_share_by_theme: the exceptions. Natural corpora are uneven in the same way: people
            write out some kinds of problem and answer others at once.
    """

    worked_share: float
    worked_share_by_theme: dict[str, float] = field(default_factory=dict)

    def solution(self, problem: WordProblem, rng: random.Random) -> str:
        """A solution drawn from this corpus."""
        share = self.worked_share_by_theme.get(problem.theme, self.worked_share)
        return worked_solution(problem) if rng.random() < share else blurted_solution(problem)


def worked_solution(problem: WordProblem) -> str:
    """Every calculation, then the answer."""
    if problem.theme in WORDY_THEMES:
        return "First " + ", then ".join(problem.steps) + f". So \\boxed{{{problem.answer}}}"
    return " ".join(f"{step}." for step in problem.steps) + f" \\boxed{{{problem.answer}}}"


def blurted_solution(problem: WordProblem) -> str:
    """The answer alone."""
    return f"\\boxed{{{problem.answer}}}"


AMATEUR_CORPUS = Corpus(worked_share=0.04)

EXPERT_CORPUS = Corpus(
    worked_share=0.55,
    worked_share_by_theme=dict(zip(sorted(THEMES), (0.9, 0.5, 0.3, 0.6, 0.8, 0.25, 0.35, 0.7), strict=True)),
)

INSTRUCT_CORPUS = Corpus(worked_share=0.95)
