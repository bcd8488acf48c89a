"""The stop rule of `lightr rounds`: which round to keep, and whether to go on, from the alarms alone.

A round is kept if its expert agrees more with itself than the kept one: the share of the majority among several sampled
answers, over the same prompts (self-consistency, arXiv 2203.11171), must rise by more than chance. It is refused,
whatever its agreement, where the alarms show what agreement cannot: texts that do not end, repeat themselves, or labels
that ask for format or scatter. A later round must also rise by a good part of what the one before it brought, since
agreement was seen to rise a little further after the accuracy had turned (docs/beyond.md). The first round that is not
kept ends the loop.
"""

import math
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
    gain, error = _rise(before, after)
    change = (
        f"the majority's share of {settings.answers} answers changed by {gain:+.3f} ± {error:.3f} against round {kept}"
    )
    needed = settings.evidence * error
    if not gain > needed:
        return True, f"{change}, and more than {needed:+.3f} is needed (--rounds.evidence {settings.evidence:g})"
    if kept:
        rise, _ = _rise(series[kept - 1], before)
        if gain < settings.least_rise * rise:
            least = f"--rounds.least-rise {settings.least_rise:g} of the {rise:+.3f} that round {kept} brought"
            return True, f"{change}, less than {least}"
    return False, change


def _rise(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """Rise of the majority's share from one round to another, and its standard error over the prompts."""
    return paired_gain(before["per_prompt"]["majority_share"], after["per_prompt"]["majority_share"])


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
