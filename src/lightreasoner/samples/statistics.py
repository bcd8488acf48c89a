"""Statistics of labels: the divergence of the models, the effect of a label on each token, signs of junk."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HIGH_ENTROPY = 1.5  # nats; that of 4.5 equally likely tokens
JUNK_KL = 4.0  # nats; the paper's mean is 2.0 where the models' favourite tokens differ, and 0.2 where they agree
ECHO_LENGTH = 8  # tokens in a row that a rollout shares with the part of the prompt before the question


class Bin(NamedTuple):
    """A bin of Figure 2: `start` ≤ KL < `end`, nats; None is an open end."""

    start: float
    end: float | None

    def __str__(self) -> str:
        return f"{self.start:.1f} and more" if self.end is None else f"{self.start:.1f} to {self.end:.1f}"


# Exact tenths, so that 0.3 is the lower end of its bin.
HEAD_BINS = (*(Bin(tenth / 10, (tenth + 1) / 10) for tenth in range(20)), Bin(2.0, None))
TAIL_BINS = tuple(Bin(tenth / 10, (tenth + 2) / 10) for tenth in range(20, 48, 2))  # the inset


@dataclass
class KlHistogram:
    """Tokens counted by KL divergence, in the bins of the paper's Figure 2. Rounding below 0 counts as 0."""

    # Counts in `HEAD_BINS`; and in `TAIL_BINS`, with one more bin above them.
    head: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(HEAD_BINS), dtype=np.int64))
    tail: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(TAIL_BINS) + 1, dtype=np.int64))

    def add(self, kl: NDArray[np.float64]) -> None:
        """Count these divergences, except NaN and infinity."""
        values = np.maximum(kl[np.isfinite(kl)], 0.0)
        self.head += _counted(values, [place.start for place in HEAD_BINS[1:]])
        tail = values[values >= TAIL_BINS[0].start]
        self.tail += _counted(tail, [place.end for place in TAIL_BINS if place.end is not None])

    @property
    def total(self) -> int:
        """All tokens counted."""
        return int(self.head.sum())

    def shares(self) -> tuple[list[float], list[float]]:
        """Head and tail as shares of all tokens, the tail without its open end."""
        total = max(self.total, 1)
        return (self.head / total).tolist(), (self.tail[:-1] / total).tolist()


def _counted(values: NDArray[np.float64], edges: Sequence[float]) -> NDArray[np.int64]:
    """Counts below the first edge, from each edge to the next, and from the last edge on."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


@dataclass
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in these values; those that are no numbers are left out."""
        finite = values[np.isfinite(values)]
        self.total += float(finite.sum())
        self.count += len(finite)

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None


def label_entropy(weights: Sequence[float]) -> float:
    """H(v_C) of a label, nats."""
    return -math.fsum(weight * math.log(weight) for weight in weights if weight > 0)


def is_scattered(weights: Sequence[float], kl: float) -> bool:
    """The label is spread over many tokens where the models part widely, as in rollouts that went astray."""
    return kl > JUNK_KL and label_entropy(weights) > HIGH_ENTROPY


def echoes(head: Sequence[int], response: Sequence[int]) -> int | None:
    """Position where the response begins to repeat `ECHO_LENGTH` tokens of the prompt's head; None if it does not."""
    runs = {tuple(head[start : start + ECHO_LENGTH]) for start in range(len(head) - ECHO_LENGTH + 1)}
    starts = range(len(response) - ECHO_LENGTH + 1)
    return next((start for start in starts if tuple(response[start : start + ECHO_LENGTH]) in runs), None)


def pull(label: Mapping[int, float], expert: Mapping[int, float]) -> dict[int, float]:
    """How a label moves each token: v_C − π_E, the negative gradient of Eq 8 at the expert's logits.

    Args:
        label: v_C of the plausible tokens.
        expert: π_E of these and of further tokens, where v_C is 0.
    """
    return {token: label.get(token, 0.0) - probability for token, probability in expert.items()}
