"""The stop rule of `lightr rounds`: which round to keep, and whether to go on, from the alarms alone.

A round is kept if its expert agrees more with itself than the kept one: the share of the majority among several sampled
answers, over the same prompts (self-consistency, arXiv 2203.11171), must rise by more than chance. It is refused,
whatever its agreement, where the alarms show what agreement cannot: texts that do not end, repeat themselves, or labels
that ask for format or scatter; and where the answers that were the commonest become rarer, since agreement was seen to
rise a little further after the accuracy had turned (docs/beyond.md). The first round that is not kept ends the loop.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightreasoner.config import RoundsSettings

# What a collapse makes fall (−1) or rise (+1), as shares; and in words.
GUARDS = {
    "finished": (-1, "rollouts that end by themselves"),
    "repeated": (+1, "repeated 4-grams"),
    "format_mass": (+1, "label mass on tokens of format"),
    "junk_mass": (+1, "label mass in scattered labels"),
}


@dataclass(frozen=True)
class Decision:
    """What to do after the rounds so far.

    Attributes:
        kept: the round to keep; 0 is the untouched expert.
        ends: no further round is made.
        why: the reason, one line.
    """

    kept: int
    ends: bool
    why: str


def decide(series: Sequence[Mapping[str, Any]], settings: RoundsSettings) -> Decision:
    """Decide after some rounds.

    Args:
        series: alarms of round 0, 1, …, see `evaluation.alarms.measure`.
        settings: limit and thresholds.
    """
    kept, why = 0, "no round was made yet"
    for number in range(1, len(series)):
        refused, reason = _compared(series, kept, number, settings)
        if refused:
            return Decision(kept, True, f"round {number} is not kept: {reason}. {_kept(kept)}")
        kept, why = number, f"round {number} is kept: {reason}"
    if len(series) > settings.limit:
        return Decision(kept, True, f"{why}. It is the last of --rounds.limit {settings.limit}")
    return Decision(kept, False, why)


def _compared(
    series: Sequence[Mapping[str, Any]], kept: int, number: int, settings: RoundsSettings
) -> tuple[bool, str]:
    """Whether a round is refused in favour of the kept one, and why (not)."""
    before, after = series[kept], series[number]
    if "failure" in after:
        return True, f"it could not be made or measured ({after['failure'].rstrip('.')})"
    for name, (sign, words) in GUARDS.items():
        if sign * (after[name] - before[name]) > settings.most_lost:
            change = "fell" if sign < 0 else "rose"
            return True, f"{words} {change} from {before[name]:.2f} to {after[name]:.2f} (--rounds.most-lost)"
    shares = (one["per_prompt"]["majority_share"] for one in (before, after))
    gain, error = paired_gain(*shares)
    change = (
        f"the majority's share of {settings.answers} answers changed by {gain:+.3f} ± {error:.3f} against round {kept}"
    )
    needed = settings.evidence * error
    if not gain > needed:
        return True, f"{change}, and more than {needed:+.3f} is needed (--rounds.evidence {settings.evidence:g})"
    gain, error = retained(before["per_prompt"]["answers"], after["per_prompt"]["answers"])
    again = f"the share of its commonest answers by {gain:+.3f} ± {error:.3f}"
    if gain < -settings.counter_evidence * error:
        return True, f"{change}, but {again} (--rounds.counter-evidence {settings.counter_evidence:g})"
    return False, f"{change}, and {again}"


def retained(
    before: Mapping[str, Sequence[str | None]], after: Mapping[str, Sequence[str | None]]
) -> tuple[float, float]:
    """How much rarer or commoner the commonest answers before a round are after it, and the standard error.

    The commonest answer is taken of the first half of a prompt's answers before the round, and its share of the second
    half before is compared with that of the second half after: the half that chooses is not the half that is counted.
    Sharper distributions raise it, and answers that turn into others lower it, be they better or worse.

    Args:
        before, after: answers to each prompt, by its id; None states nothing.
    """
    shares: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for name, answers in before.items():
        half = len(answers) // 2
        counts = Counter(answer for answer in answers[:half] if answer is not None)
        if counts and name in after:
            (commonest, _), *_ = counts.most_common(1)
            for share, counted in zip(shares, (answers[half:], after[name][half:]), strict=True):
                share[name] = counted.count(commonest) / len(counted)
    return paired_gain(*shares)


def paired_gain(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[float, float]:
    """Mean difference over the prompts of both, and its standard error.

    Args:
        before, after: a figure of each prompt, by its id.
    """
    differences = np.array([after[name] - before[name] for name in before if name in after], dtype=np.float64)
    if len(differences) < 2:
        return 0.0, math.inf
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _kept(kept: int) -> str:
    return f"Round {kept} is kept" if kept else "Round 0 is kept: the expert as it was"
