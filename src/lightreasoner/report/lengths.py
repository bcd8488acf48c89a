"""How long rollouts and answers are, and how many the limit cut off."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from lightreasoner.evaluation.folder import Evaluated


@dataclass(frozen=True)
class Lengths:
    """The lengths of some texts, in tokens.

    Attributes:
        of: what they are: rollouts, or the answers to a benchmark.
        side: `before` or `after`; empty for rollouts.
        low, high: the 10th and the 90th percentile.
        limit: the cap; None if it is not known.
        cut_off: share that reached the limit.
        empty: share of at most one token, such as a stop token alone.
    """

    of: str
    side: str
    total: int
    mean: float
    low: float
    median: float
    high: float
    longest: int
    limit: int | None
    cut_off: float
    empty: float

    @classmethod
    def measured(cls, of: str, side: str, lengths: Sequence[int], cut_off: int, limit: int | None) -> "Lengths | None":
        """The figures of these lengths; None without any."""
        if not len(lengths):
            return None
        values = np.asarray(lengths)
        low, median, high = np.percentile(values, (10, 50, 90)).tolist()
        shares = cut_off / len(values), float((values <= 1).mean())
        return cls(
            of, side, len(values), float(values.mean()), low, median, high, int(values.max()), limit, *shares
        )  # fmt: skip


def answer_lengths(evaluated: Sequence[Evaluated], side: str) -> Iterable[Lengths]:
    """The lengths of the answers to each benchmark, where they are known."""
    for one in evaluated:
        if not one.judged:  # choices are scored, not written
            continue
        lengths: list[int] = []
        cut_off = 0
        for table in one.stage.tables("answers", ["output_ids", "finish"]):
            known = table.filter(pc.not_equal(table["finish"], "unknown"))
            lengths += pc.list_value_length(known["output_ids"]).to_pylist()
            cut_off += pc.sum(pc.equal(known["finish"], "length")).as_py() or 0
        limit = one.settings.get("max_answer_tokens")
        if found := Lengths.measured(f"{one.benchmark.title}, {one.prompt}", side, lengths, cut_off, limit):
            yield found
