"""Statistics of samples: the divergence of the models, signs of a bad pair, the effect of labels, signs of junk."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lightreasoner.samples.calibration import known_figures, read_calibration
from lightreasoner.samples.folder import Ragged

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
PAPER_BIN = 4  # the first of them above the paper's β
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


# Limits of `sample_warnings`. The paper (§2.2) keeps 20 % of the steps; its mean KL is 1.99 nats where the models'
# favourite tokens differ and 0.166 where they agree, so about 0.4 over all. Measured with the bundled miniatures:
# expert and base 48 % and 0.9 nats, instruct and base 66 % and 1.3 nats, expert and the stronger instruct 7 % and 0.1.
LARGEST_KEPT, SMALLEST_KEPT = 0.7, 0.05
LARGEST_MEAN_KL = 2.0  # nats over all steps: the mean of the paper's steps where the favourite tokens differ
LARGEST_ENTROPY = 3.0  # nats of the expert, of 20 equally likely tokens; working experts have 0.1 to 1
SMALLEST_ENTROPY = 1e-3  # nats of the expert: it is certain everywhere
MOST_DUPLICATES = 0.1  # share of the rows of a data set
MOST_TOO_LONG = 0.1  # share of the questions
MOST_EMPTY = 0.05  # share of the rollouts
MOST_EQUAL = 0.5  # share of the rollouts that are one text; short answers such as \boxed{12} are often equal
MOST_FORMAT = 0.5  # share of the label mass on format tokens
FORMAT_TIMES = 2.0  # the same as a multiple of their share in the responses
PAPER_KEPT, PAPER_BELOW_TENTH = 0.2, 0.6  # of the steps: KL above 0.4 nats, below 0.1 (its Figure 2)
FEWEST = 8  # rollouts of which the shares mean something


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
        finished: rollouts that a stop token or stop text ended.
        agree: share of the steps where both models have the same most probable token.
        overlap: mean over the steps of the expert's mass on tokens that are among the most probable ones of both
            models. The overlap mass of arXiv 2604.13016 (Eq 9), there with k = 16 and under the student; here k is
            `top_tokens` (5), under the expert.
        histogram: shares of the steps in `HEAD_BINS`; empty is unknown.
        parameters: of the expert.
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


def sample_warnings(found: SampleFigures) -> list[str]:
    """Signs that the questions, the prompt or the pair of models is wrong: what, why it matters, what to do."""
    return [
        *_question_warnings(found),
        *_rollout_warnings(found),
        *_pair_warnings(found),
        *_format_warnings(found),
        *_gain_warnings(found),
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
    share, kl = found.kept_share, found.mean_kl
    texts = []
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


def _gain_warnings(found: SampleFigures) -> list[str]:
    calibration = read_calibration()
    predicted = calibration.predict(known_figures(found), found.parameters)
    if found.rollouts < FEWEST or not predicted.is_loss:
        return []
    return [
        f"pairs with such figures lost accuracy: {predicted.gain:+.0f} ± {predicted.error:.0f} points, predicted from "
        f"{len(calibration.pairs)} measured pairs. Choose another amateur; `lightr advise` says more about a pair"
    ]


def _is_as_certain(found: SampleFigures) -> bool:
    """A weaker model is less certain: 1.1 to 1.3 against 0.05 to 0.4 nats with the miniatures, in every pair."""
    expert, amateur, kl = found.expert_entropy, found.amateur_entropy, found.mean_kl
    return None not in (expert, amateur, kl) and amateur <= expert and kl <= LARGEST_MEAN_KL  # type: ignore[operator]


def label_entropy(weights: Sequence[float]) -> float:
    """H(v_C) of a label, nats."""
    return -math.fsum(weight * math.log(weight) for weight in weights if weight > 0)


def label_surprise(weights: Ragged, expert_logprobs: Ragged) -> NDArray[np.float64]:
    """D_KL(v_C‖π_E) of each label, nats: Σ v_C · (log v_C − log π_E). How much the label would change the expert."""
    values, logprobs = (column.values.astype(np.float64) for column in (weights, expert_logprobs))
    inside = values > 0
    terms = np.where(inside, values * (np.log(np.where(inside, values, 1.0)) - logprobs), 0.0)
    sums = np.concatenate([[0.0], np.cumsum(terms)])
    found: NDArray[np.float64] = np.diff(sums[weights.starts])
    return found


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
