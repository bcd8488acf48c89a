"""Statistics of samples: the divergence of the models, signs of a bad pair, the effect of labels, signs of junk."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightreasoner.samples.folder import Ragged, Rollout

PAPER_BETA = 0.4  # nats, the threshold in the paper's text on Figure 2
PAPER_KEPT, PAPER_BELOW_TENTH = 0.2, 0.6  # of its steps: KL above `PAPER_BETA`, below 0.1 nats
HIGH_ENTROPY = 1.5  # nats; that of 4.5 equally likely tokens
JUNK_KL = 4.0  # nats; the paper's mean is 2.0 where the models' favourite tokens differ, and 0.2 where they agree
FEWEST = 8  # rollouts of which shares mean something
ECHO_LENGTH = 8  # tokens in a row that a rollout shares with the part of the prompt before the question


class Bin(NamedTuple):
    """A bin of Figure 2: `start` ≤ KL < `end`, nats; None is an open end."""

    start: float
    end: float | None

    def __str__(self) -> str:
        return f"{self.start:.1f} and more" if self.end is None else f"{self.start:.1f} to {self.end:.1f}"


# Exact tenths, so that 0.3 is the lower end of its bin.
HEAD_BINS = (*(Bin(tenth / 10, (tenth + 1) / 10) for tenth in range(20)), Bin(2.0, None))
PAPER_BIN = 4  # the first of them above `PAPER_BETA`
# The paper's inset ends at 4.8 nats; the last bin holds the rest.
TAIL_BINS = (*(Bin(tenth / 10, (tenth + 2) / 10) for tenth in range(20, 48, 2)), Bin(4.8, None))


@dataclass
class KlHistogram:
    """Tokens counted by KL divergence, in the bins of the paper's Figure 2. Rounding below 0 counts as 0."""

    # Counts in `HEAD_BINS` and in `TAIL_BINS`; the highest divergence, nats.
    head: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(HEAD_BINS), dtype=np.int64))
    tail: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(TAIL_BINS), dtype=np.int64))
    highest: float = 0.0

    def add(self, kl: NDArray[np.float64]) -> None:
        """Count these divergences, except NaN and infinity."""
        values = np.maximum(kl[np.isfinite(kl)], 0.0)
        self.head += _counted(values, [place.start for place in HEAD_BINS[1:]])
        tail = values[values >= TAIL_BINS[0].start]
        self.tail += _counted(tail, [place.end for place in TAIL_BINS if place.end is not None])
        self.highest = max(self.highest, float(values.max(initial=0.0)))

    @property
    def total(self) -> int:
        """All tokens counted."""
        return int(self.head.sum())

    def shares(self) -> tuple[list[float], list[float]]:
        """Head and tail as shares of all tokens."""
        total = max(self.total, 1)
        return (self.head / total).tolist(), (self.tail / total).tolist()


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


@dataclass
class Divergence:
    """The divergence of an expert from an amateur, as the paper's Figure 2 describes it (arXiv 2510.07962).

    Attributes:
        histogram: all steps, by KL.
        agreed, differed: mean KL of the steps where the models' most probable tokens are the same, and of the others.
        exceeding, exceeding_agreed: steps above `PAPER_BETA`, and those of them where the most probable tokens agree.
    """

    histogram: KlHistogram = field(default_factory=KlHistogram)
    agreed: Mean = field(default_factory=Mean)
    differed: Mean = field(default_factory=Mean)
    exceeding: int = 0
    exceeding_agreed: int = 0

    @classmethod
    def of(cls, rollouts: Iterable[Rollout]) -> Self:
        """The divergence in these rollouts."""
        found = cls()
        for row in rollouts:
            kl = np.array(row.kl, dtype=float)
            tops = zip(row.expert_top_ids, row.amateur_top_ids, strict=True)
            agrees = np.array([expert[0] == amateur[0] for expert, amateur in tops], bool)
            found.histogram.add(kl)
            found.agreed.add(kl[agrees])
            found.differed.add(kl[~agrees])
            found.exceeding += int(np.count_nonzero(kl > PAPER_BETA))
            found.exceeding_agreed += int(np.count_nonzero(kl[agrees] > PAPER_BETA))
        return found

    @property
    def below_tenth_share(self) -> float:
        """Share of the steps with a KL below 0.1 nats."""
        return self.histogram.shares()[0][0]

    @property
    def exceeding_share(self) -> float:
        """Share of the steps above `PAPER_BETA`."""
        return self.exceeding / max(1, self.histogram.total)

    @property
    def exceeding_agreed_share(self) -> float:
        """Share of the agreeing steps above `PAPER_BETA`."""
        return self.exceeding_agreed / max(1, self.agreed.count)


MASSES = ("expert_mass", "amateur_mass")  # probability of the common tokens before the renormalisation, by step
UNIT = 1_000_000  # counts are whole numbers: masses are counted in millionths


@dataclass(frozen=True)
class AlignedShares:
    """How much of a pair can be compared.

    Attributes:
        steps: share of the response tokens that are scored.
        expert: mean probability that the expert gives to the common tokens, over these steps.
        amateur: mean probability that the amateur gives to them.
    """

    steps: float
    expert: float
    amateur: float

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> "AlignedShares | None":
        """The shares by the counts of a stage; None where the models share their ids, or nothing was sampled."""
        scored, left_out = counts.get("steps", 0), counts.get("unaligned_steps")
        if left_out is None or not scored + left_out:
            return None
        expert, amateur = (counts[name] / UNIT / max(scored, 1) for name in MASSES)
        return cls(scored / (scored + left_out), expert, amateur)

    def rounded(self) -> dict[str, float]:
        """The shares as values of a result."""
        return {
            "aligned_share": round(self.steps, 6),
            MASSES[0]: round(self.expert, 6),
            MASSES[1]: round(self.amateur, 6),
        }

    def __str__(self) -> str:
        return (
            f"{100 * self.steps:.1f} % of the steps are aligned with the amateur's tokens; there the tokens that both "
            f"have get {100 * self.expert:.1f} % of the expert's probability and {100 * self.amateur:.1f} % of the "
            "amateur's"
        )

    @classmethod
    def of_result(cls, result: Mapping[str, Any]) -> "AlignedShares | None":
        """The shares in the result of a finished stage; None as in `of`."""
        names = ("aligned_share", *MASSES)
        return cls(*(result[name] for name in names)) if "aligned_share" in result else None


@dataclass(frozen=True)
class SampleFigures:
    """What `samples.warnings` judges; None is unknown, KL and entropies are means over all steps in nats.

    Attributes:
        questions: distinct questions that were read, with those that are too long.
        duplicates: rows that repeat one of them.
        too_long: questions that do not fit into the context with their rollout.
        steps: response tokens scored by both models.
        kept: of them, those that are labels; None where another rule than β chose them.
        empty: rollouts that end at once.
        commonest: rollouts with the most frequent response.
        advantage: mean of log π_E − log π_A of the tokens in the rollouts.
        format_labels: share of the label mass on format tokens, see `samples.format_tokens`.
        format_responses: share of the response tokens that are format tokens.
        finished: rollouts that a stop token or stop text ended.
        agree: share of the steps where both models have the same most probable token.
        overlap: mean over the steps of the expert's mass on tokens that are among the most probable ones of both
            models. The overlap mass of arXiv 2604.13016 (Eq 9), there with k = 16 and under the student; here k is
            `top_tokens` (5), under the expert.
        histogram: shares of the steps in `HEAD_BINS`; empty is unknown.
        parameters: of the expert.
        unlike: why the samples are unlike those of `samples.calibration`; None if they are like them.
        aligned: how much of the pair can be compared; None where both models share their ids.
        alpha: α of the labels.
    """

    questions: int = 0
    duplicates: int = 0
    too_long: int = 0
    rollouts: int = 0
    steps: int = 0
    kept: int | None = None
    empty: int = 0
    commonest: int = 0
    mean_kl: float | None = None
    expert_entropy: float | None = None
    amateur_entropy: float | None = None
    advantage: float | None = None
    format_labels: float | None = None
    format_responses: float | None = None
    finished: int = 0
    agree: float | None = None
    overlap: float | None = None
    histogram: tuple[float, ...] = ()
    parameters: int | None = None
    unlike: str | None = None
    aligned: AlignedShares | None = None
    alpha: float | None = None

    @property
    def above_beta(self) -> float | None:
        """Share of the steps with a KL of 0.4 nats, the paper's β, or more."""
        return math.fsum(self.histogram[PAPER_BIN:]) if self.histogram else None

    @property
    def below_tenth(self) -> float | None:
        """Share of the steps with a KL below 0.1 nats."""
        return self.histogram[0] if self.histogram else None

    @property
    def entropy_gap(self) -> float | None:
        """(H_A − H_E) / (H_A + H_E), −1 … 1: how much more certain the expert is than the amateur."""
        expert, amateur = self.expert_entropy, self.amateur_entropy
        if expert is None or amateur is None or not expert + amateur > 0:
            return None
        return (amateur - expert) / (amateur + expert)

    @property
    def log_expert_entropy(self) -> float | None:
        """The logarithm of H_E."""
        return math.log(self.expert_entropy) if self.expert_entropy else None

    @property
    def kept_share(self) -> float | None:
        """Share of the steps that were kept."""
        return None if self.kept is None or not self.steps else self.kept / self.steps


# Columns of `Rollout` that `figures_of` reads.
JUDGED = ["kl", "expert_entropy", "amateur_entropy", "expert_logprob", "amateur_logprob", "response_ids", "finished"]
JUDGED += ["expert_top_ids", "expert_top_logprobs", "amateur_top_ids"]


def figures_of(
    rollouts: Iterable[pa.Table], kept: int | None, *, duplicates: int = 0, too_long: int = 0
) -> SampleFigures:
    """The figures of rollouts; memory holds one table and a number for each rollout.

    Args:
        rollouts: tables with the columns `JUDGED` of `samples.folder.Rollout`.
        kept, duplicates, too_long: see `SampleFigures`.
    """
    kl, expert, amateur, advantage, agree, overlap = (Mean() for _ in range(6))
    histogram = KlHistogram()
    count = empty = ended = 0
    responses: Counter[int] = Counter()
    for table in rollouts:
        # A token that one model lacks has −∞ in its column.
        columns = [Ragged.of(table[name]).values.astype(np.float64) for name in JUDGED[:5]]
        with np.errstate(invalid="ignore"):
            columns[3] -= columns.pop()
        for mean, values in zip((kl, expert, amateur, advantage), columns, strict=True):
            mean.add(values)
        histogram.add(columns[0])
        for mean, values in zip((agree, overlap), _shared_tokens(table), strict=True):
            mean.add(values)
        for response, finished in zip(Ragged.of(table["response_ids"]), table["finished"].to_pylist(), strict=True):
            count += 1
            ended += finished
            empty += len(response) <= int(finished)  # nothing but a stop token
            responses[hash(response.tobytes())] += 1
    return SampleFigures(
        questions=count + too_long,
        duplicates=duplicates,
        too_long=too_long,
        rollouts=count,
        steps=kl.count,
        kept=kept,
        empty=empty,
        commonest=max(responses.values(), default=0),
        mean_kl=kl.value,
        expert_entropy=expert.value,
        amateur_entropy=amateur.value,
        advantage=advantage.value,
        finished=ended,
        agree=agree.value,
        overlap=overlap.value,
        histogram=tuple(histogram.shares()[0]) if histogram.total else (),
    )


def _shared_tokens(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At each step: whether the top-1 tokens agree, and the expert's mass on the top tokens of both; [N], [N]."""
    expert, logprobs, amateur = (Ragged.of(table[name]).values for name in JUDGED[7:])
    if expert.ndim < 2 or not expert.size:  # not scored
        return np.empty(0), np.empty(0)
    shared = (expert[:, :, None] == amateur[:, None, :]).any(2)
    mass = np.where(shared, np.exp(logprobs.astype(np.float64)), 0.0).sum(1)
    return (expert[:, 0] == amateur[:, 0]).astype(np.float64), mass


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
