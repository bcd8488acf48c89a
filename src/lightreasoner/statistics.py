"""How sure a figure is: intervals of one accuracy, paired tests of two."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest


@dataclass(frozen=True)
class Accuracy:
    """A share of correct answers with its 95 % Wilson interval.

    Attributes:
        correct: number of correct answers.
        total: number of answers.
        low: lower end of the interval, 0 … 1.
        high: upper end.
    """

    correct: int
    total: int
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, total: int) -> "Accuracy":
        """The accuracy of these counts.

        Raises:
            ValueError: there are no answers, or more correct ones than answers.
        """
        interval = binomtest(correct, total).proportion_ci(0.95, method="wilson")
        return cls(correct, total, float(interval.low), float(interval.high))

    @property
    def value(self) -> float:
        """The share itself, 0 … 1."""
        return self.correct / self.total

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} – {100 * self.high:.1f}, n = {self.total})"


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test of two systems on the same items.

    Attributes:
        gained: items that only the second answers correctly.
        lost: items that only the first answers correctly.
        total: items.
        p_value: two-sided; how likely a split at least this uneven is if both are equally good.
    """

    gained: int
    lost: int
    total: int
    p_value: float

    @property
    def gain(self) -> float:
        """Difference of the accuracies, second minus first, −1 … 1."""
        return (self.gained - self.lost) / self.total


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> PairedTest:
    """Compare two systems, item by item.

    Args:
        before: whether the first system answered each item correctly.
        after: the same of the second system, same items in the same order.

    Raises:
        ValueError: the lengths differ, or there are no items.
    """
    if not before:
        raise ValueError("no items to compare")
    pairs = list(zip(before, after, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    p_value = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return PairedTest(gained, lost, len(pairs), float(p_value))
