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


# Limits of `sample_warnings`. The paper (§2.2) keeps 20 % of the steps; its mean KL is 1.99 nats where the models'
# favourite tokens differ and 0.166 where they agree, so about 0.4 over all. Measured with the bundled miniatures:
# expert and base 48 % and 0.9 nats, instruct and base 66 % and 1.3 nats, expert and the stronger instruct 7 % and 0.1.
LARGEST_KEPT, SMALLEST_KEPT = 0.7, 0.05
SMALLEST_ALIGNED = 0.8  # of the steps, and of the probability of the common tokens
LARGEST_MEAN_KL = 2.0  # nats over all steps: the mean of the paper's steps where the favourite tokens differ
LARGEST_ENTROPY = 3.0  # nats of the expert, of 20 equally likely tokens; working experts have 0.1 to 1
SMALLEST_ENTROPY = 1e-3  # nats of the expert: it is certain everywhere
MOST_DUPLICATES = 0.1  # share of the rows of a data set
MOST_TOO_LONG = 0.1  # share of the questions
MOST_EMPTY = 0.05  # share of the rollouts
MOST_EQUAL = 0.5  # share of the rollouts that are one text; short answers such as \boxed{12} are often equal
MOST_FORMAT = 0.5  # share of the label mass on format tokens
FORMAT_TIMES = 2.0  # the same as a multiple of their share in the responses
FEWEST = 8  # rollouts of which the shares mean something


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
    """What `sample_warnings` judges; None is unknown, KL and entropies are means over all steps in nats.

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
        aligned: how much of the pair can be compared; None where both models share their ids.
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
    aligned: AlignedShares | None = None

    @property
    def kept_share(self) -> float | None:
        """Share of the steps that were kept."""
        return None if self.kept is None or not self.steps else self.kept / self.steps


# Columns of `Rollout` that `figures_of` reads.
JUDGED = ["kl", "expert_entropy", "amateur_entropy", "expert_logprob", "amateur_logprob", "response_ids", "finished"]


def figures_of(
    rollouts: Iterable[pa.Table], kept: int | None, *, duplicates: int = 0, too_long: int = 0
) -> SampleFigures:
    """The figures of rollouts; memory holds one table and a number for each rollout.

    Args:
        rollouts: tables with the columns `JUDGED` of `samples.folder.Rollout`.
        kept, duplicates, too_long: see `SampleFigures`.
    """
    kl, expert, amateur, advantage = Mean(), Mean(), Mean(), Mean()
    count = empty = 0
    responses: Counter[int] = Counter()
    for table in rollouts:
        # A token that one model lacks has −∞ in its column.
        columns = [Ragged.of(table[name]).values.astype(np.float64) for name in JUDGED[:5]]
        with np.errstate(invalid="ignore"):
            columns[3] -= columns.pop()
        for mean, values in zip((kl, expert, amateur, advantage), columns, strict=True):
            mean.add(values)
        for response, finished in zip(Ragged.of(table["response_ids"]), table["finished"].to_pylist(), strict=True):
            count += 1
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
    )


def sample_warnings(found: SampleFigures) -> list[str]:
    """Signs that the questions, the prompt or the pair of models is wrong: what, why it matters, what to do."""
    return [
        *_question_warnings(found),
        *_rollout_warnings(found),
        *_pair_warnings(found),
        *_format_warnings(found),
    ]


def _question_warnings(found: SampleFigures) -> list[str]:
    texts = []
    rows = found.questions + found.duplicates
    if found.duplicates > MOST_DUPLICATES * rows:
        texts.append(
            f"{found.duplicates:,} of {rows:,} rows repeat the question of an earlier row, so only {found.questions:,} "
            "are used. If the rows differ, name the field with the question in --question-field, with another --out"
        )
    if found.too_long > MOST_TOO_LONG * found.questions:
        texts.append(
            f"{found.too_long:,} of {found.questions:,} questions are left out: with their rollout they are longer "
            "than the context. Lower --max-new-tokens, or choose models with a longer context, with another --out"
        )
    return texts


def _rollout_warnings(found: SampleFigures) -> list[str]:
    texts = []
    if found.rollouts and found.empty > MOST_EMPTY * found.rollouts:
        texts.append(
            f"{found.empty:,} of {found.rollouts:,} rollouts are empty: the expert ends at once. Look at the prompt "
            "with `lightr inspect`; the chat template (--chat-template) or the stop tokens may be wrong"
        )
    if found.rollouts >= FEWEST and found.commonest > MOST_EQUAL * found.rollouts:
        texts.append(
            f"{found.commonest:,} of {found.rollouts:,} rollouts are the same text, so most labels repeat one another. "
            "Look at the questions and at the prompt with `lightr inspect`"
        )
    entropy = found.expert_entropy
    if entropy is not None and entropy > LARGEST_ENTROPY:
        texts.append(
            f"the expert's mean entropy is {entropy:.1f} nats, as of {math.exp(entropy):.0f} equally likely tokens "
            "(usual: 0.1 to 1): it guesses. Its weights or the prompt may be wrong; see `lightr doctor`"
        )
    if entropy is not None and entropy < SMALLEST_ENTROPY:
        texts.append(
            f"the expert's mean entropy is {entropy:.1g} nats: it is certain at every step, so a label is one token. "
            "Its weights or the precision (--dtype) may be wrong"
        )
    return texts


def _pair_warnings(found: SampleFigures) -> list[str]:
    share, kl, aligned = found.kept_share, found.mean_kl, found.aligned
    texts = []
    if aligned is not None and min(aligned.steps, aligned.expert, aligned.amateur) < SMALLEST_ALIGNED:
        texts.append(
            f"{aligned}. The rest of the text and of the distributions is left out of the contrast, which may choose "
            "other steps than an amateur of the expert's family would. Look at the unmarked tokens with `lightr "
            "inspect`"
        )
    if kl is not None and kl > LARGEST_MEAN_KL:
        texts.append(
            f"the mean KL divergence is {kl:.1f} nats (usual: 0.3 to 1.5): the amateur hardly predicts the expert's "
            "text. It may be broken, or another kind of model; see `lightr inspect`, or choose another amateur"
        )
    if share is not None and share > LARGEST_KEPT:
        texts.append(
            f"{100 * share:.0f} % of the steps are kept (paper: 20 %, bundled miniatures: 48 % and 66 %), so little is "
            "selected. The amateur may be broken or too weak; choose another one, or raise --divergence-beta, "
            "with another --out"
        )
    if share is not None and share < SMALLEST_KEPT:
        texts.append(
            f"{100 * share:.1f} % of the steps are kept (paper: 20 %, bundled miniature: 48 %): the amateur is as good "
            "as the expert or nearly, so there is little to learn. Choose a weaker one, or lower "
            "--divergence-beta, with another --out"
        )
    if found.advantage is not None and found.advantage <= 0:
        texts.append(
            "the amateur finds the expert's tokens as likely as the expert does, or likelier (mean log-ratio "
            f"{found.advantage:+.2f}): it may be the better model. Exchange the two, or choose a weaker amateur"
        )
    elif _is_as_certain(found):
        texts.append(
            "the amateur is as certain of the expert's text as the expert (mean entropy "
            f"{found.amateur_entropy:.2f} and {found.expert_entropy:.2f} nats): it may be the better model. "
            "Compare the two with `lightr evaluate`"
        )
    return texts


def _format_warnings(found: SampleFigures) -> list[str]:
    labels, responses = found.format_labels, found.format_responses
    if labels is None or responses is None or labels <= MOST_FORMAT or labels <= FORMAT_TIMES * responses:
        return []
    return [
        f"{100 * labels:.0f} % of the label mass is on format tokens (punctuation, blanks, LaTeX and Markdown marks), "
        f"which are {100 * responses:.0f} % of the responses: the labels teach style more than content. Look at the "
        "prompts of both sides in the report; choose another amateur or --amateur-cue, with another --out"
    ]


def _is_as_certain(found: SampleFigures) -> bool:
    """A weaker model is less certain: 1.1 to 1.3 against 0.05 to 0.4 nats with the miniatures, in every pair."""
    expert, amateur, kl = found.expert_entropy, found.amateur_entropy, found.mean_kl
    return None not in (expert, amateur, kl) and amateur <= expert and kl <= LARGEST_MEAN_KL  # type: ignore[operator]


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
