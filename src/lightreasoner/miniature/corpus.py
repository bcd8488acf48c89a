"""Training texts of the miniature models: a question with a worked or an answer-only solution.

A *worked* solution writes every calculation before the answer; an *answer-only* solution has the answer alone. The
amateur learns from few worked solutions, the expert from more.
"""

import random
from dataclasses import dataclass, field

from lightreasoner.miniature.word_problems import THEMES, WordProblem

# Themes with worked solutions in words ("First …, then …") instead of equations only.
WORDY_THEMES = frozenset({"savings", "school", "game"})


@dataclass(frozen=True)
class Corpus:
    """Share of worked solutions, by theme.

    Attributes:
        worked_share: probability of a worked solution in themes without an own share.
        worked_share_by_theme: own shares. Natural corpora are also uneven: people work out some kinds of problem, and
            write only the answer to others.
    """

    worked_share: float
    worked_share_by_theme: dict[str, float] = field(default_factory=dict)

    def solution(self, problem: WordProblem, rng: random.Random) -> str:
        """A random solution of this corpus."""
        share = self.worked_share_by_theme.get(problem.theme, self.worked_share)
        return worked_solution(problem) if rng.random() < share else answer_only_solution(problem)


def worked_solution(problem: WordProblem) -> str:
    """All calculations, then the answer."""
    if problem.theme in WORDY_THEMES:
        return "First " + ", then ".join(problem.steps) + f". So \\boxed{{{problem.answer}}}"
    return " ".join(f"{step}." for step in problem.steps) + f" \\boxed{{{problem.answer}}}"


def answer_only_solution(problem: WordProblem) -> str:
    """The answer alone."""
    return f"\\boxed{{{problem.answer}}}"


AMATEUR_CORPUS = Corpus(worked_share=0.04)

EXPERT_CORPUS = Corpus(
    worked_share=0.55,
    worked_share_by_theme=dict(zip(sorted(THEMES), (0.9, 0.5, 0.3, 0.6, 0.8, 0.25, 0.35, 0.7), strict=True)),
)

INSTRUCT_CORPUS = Corpus(worked_share=0.95)
