"""Statistics of a run's rollouts and labels: the paper's token statistics, and signs of junk."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightreasoner.report.tokens import TokenTexts
from lightreasoner.samples.folder import Label, ScoredRollout
from lightreasoner.samples.format_tokens import TOKEN_KINDS, TokenKind, token_kind
from lightreasoner.samples.statistics import KlHistogram, Mean, echoes, is_scattered, label_entropy, pull

MOST_MOVED = 12  # tokens listed as promoted and as demoted
LARGEST_SUPPORT = 6  # label sizes from here on are counted together
LINKS = 24  # steps that a warning links to


@dataclass(frozen=True)
class Place:
    """A step that a warning links to: number of the rollout in the report, and position in it."""

    rollout: int
    position: int


@dataclass
class JunkWarning:
    """A sign that labels may teach the wrong thing: how many rollouts or labels it affects, and the first places."""

    kind: str
    count: int
    text: str
    places: list[Place]

    def add(self, rollout: int, position: int) -> None:
        """Count an affected rollout or label."""
        self.count += 1
        if len(self.places) < LINKS:
            self.places.append(Place(rollout, position))


@dataclass(frozen=True)
class MovedToken:
    """A token that this many labels push up, or down; `mass` is the sum of v_C − π_E over them."""

    text: str
    mass: float
    labels: int


@dataclass(frozen=True)
class KindShare:
    """One kind of token; shares 0 … 1, and None where there is nothing to share.

    Attributes:
        kind: see `samples.format_tokens`.
        responses: its share of the response tokens.
        kept: share of its response tokens that were kept.
        labels: its share of the kept tokens of the responses.
        mass: its share of the label mass Σ v_C.
    """

    kind: TokenKind
    responses: float | None
    kept: float | None
    labels: float | None
    mass: float | None


@dataclass(frozen=True)
class LabelStatistics:
    """Statistics of the rollouts and labels of a run. Shares are 0 … 1, KL and entropy in nats; None is unknown.

    Attributes:
        finished: rollouts that a stop token ended.
        steps: response tokens scored by both models.
        kept: number of labels.
        below_tenth: share of scored steps with KL < 0.1.
        above_beta: share of scored steps that were kept.
        agree: share of scored steps where both models have the same top-1 token.
        agree_above_beta: share of these steps that were kept.
        histogram: shares in `samples.statistics.HEAD_BINS`; empty if no step was scored.
        tail: shares in `samples.statistics.TAIL_BINS`.
        highest_kl: of all steps.
        single_token: share of labels with one token.
        mean_support: tokens in a label.
        supports: labels with 1, 2 … tokens; the last entry counts all larger ones.
        kept_at: share of the steps at each position that were kept.
        promoted: tokens that the labels push up most.
        kinds: shares of each kind of token; empty without a tokenizer.
    """

    rollouts: int
    finished: int
    steps: int
    kept: int
    below_tenth: float | None
    above_beta: float | None
    mean_kl_agree: float | None
    mean_kl_disagree: float | None
    agree: float | None
    agree_above_beta: float | None
    histogram: tuple[float, ...]
    tail: tuple[float, ...]
    highest_kl: float | None
    single_token: float | None
    mean_support: float | None
    supports: tuple[int, ...]
    mean_entropy: float | None
    kept_at: tuple[float, ...]
    steps_at: tuple[int, ...]
    promoted: tuple[MovedToken, ...]
    demoted: tuple[MovedToken, ...]
    kinds: tuple[KindShare, ...]
    warnings: tuple[JunkWarning, ...]

    @property
    def format_labels(self) -> float | None:
        """Share of the label mass on format tokens."""
        return next((one.mass for one in self.kinds if one.kind == "format"), None)

    @property
    def format_responses(self) -> float | None:
        """Share of the response tokens that are format tokens."""
        return next((one.responses for one in self.kinds if one.kind == "format"), None)


class LabelCounter:
    """Counts rollouts one by one; its memory does not grow with their number. `head` is the prompts' common prefix."""

    def __init__(self, texts: TokenTexts, head: Sequence[int]) -> None:
        self._texts = texts
        self._head = head
        self._histogram = KlHistogram()
        self._kl = {True: Mean(), False: Mean()}  # by agreement
        self._entropy = Mean()
        self._support: Counter[int] = Counter()
        self._mass: dict[bool, dict[int, float]] = {True: {}, False: {}}  # by direction: up, down
        self._moved = {True: Counter[int](), False: Counter[int]()}
        self._responses_of: Counter[TokenKind] = Counter()
        self._kept_of: Counter[TokenKind] = Counter()
        self._mass_of = dict.fromkeys(TOKEN_KINDS, 0.0)
        self._kind_of: dict[int, TokenKind] = {}
        self._counts: Counter[str] = Counter()
        self._steps_at: Counter[int] = Counter()
        self._kept_at: Counter[int] = Counter()
        self._warnings = {kind: JunkWarning(kind, 0, text, []) for kind, text in _WARNINGS.items()}

    def add(self, rollout: ScoredRollout) -> None:
        """Count a rollout."""
        number = self._counts["rollouts"]
        self._counts.update(rollouts=1, finished=int(rollout.finished), kept=len(rollout.labels))
        self._steps_at.update(np.flatnonzero(~rollout.unaligned).tolist())
        self._kept_at.update(list(rollout.labels))
        agrees = rollout.agrees
        if agrees is not None:  # every step was scored, not only those that were kept
            self._histogram.add(rollout.kl)
            kept = np.zeros(len(rollout.kl), dtype=bool)
            kept[list(rollout.labels)] = True
            for same in (True, False):
                self._kl[same].add(rollout.kl[agrees == same])
            self._counts.update(
                below_tenth=int((rollout.kl < 0.1).sum()),
                scored_kept=int(kept.sum()),
                agree_kept=int((agrees & kept).sum()),
            )
        kinds = [self._kind(token) for token in rollout.response_ids.tolist()]
        self._responses_of.update(kinds)
        self._kept_of.update(kinds[position] for position in rollout.labels)
        for label in rollout.labels.values():
            self._count_label(rollout, label)
        self._look_for_junk(number, rollout)

    def result(self) -> LabelStatistics:
        """The statistics of all rollouts added."""
        counts, steps, kept = self._counts, self._histogram.total, self._counts["kept"]
        head, tail = self._histogram.shares() if steps else ([], [])
        positions = range(max(self._steps_at, default=-1) + 1) if steps else ()
        return LabelStatistics(
            rollouts=counts["rollouts"],
            finished=counts["finished"],
            steps=steps,
            kept=kept,
            below_tenth=_share(counts["below_tenth"], steps),
            above_beta=_share(counts["scored_kept"], steps),
            mean_kl_agree=self._kl[True].value,
            mean_kl_disagree=self._kl[False].value,
            agree=_share(self._kl[True].count, steps),
            agree_above_beta=_share(counts["agree_kept"], self._kl[True].count),
            histogram=tuple(head),
            tail=tuple(tail),
            highest_kl=self._histogram.highest if steps else None,
            single_token=_share(self._support[1], kept),
            mean_support=_share(sum(size * count for size, count in self._support.items()), kept),
            supports=(
                *(self._support[size] for size in range(1, LARGEST_SUPPORT)),
                sum(count for size, count in self._support.items() if size >= LARGEST_SUPPORT),
            ),
            mean_entropy=self._entropy.value,
            kept_at=tuple(self._kept_at[place] / max(self._steps_at[place], 1) for place in positions),
            steps_at=tuple(self._steps_at[place] for place in positions),
            promoted=self._most_moved(up=True),
            demoted=self._most_moved(up=False),
            kinds=self._kinds() if self._texts.known else (),
            warnings=tuple(warning for warning in self._warnings.values() if warning.count),
        )

    def _count_label(self, rollout: ScoredRollout, step: Label) -> None:
        self._support[len(step.token_ids)] += 1
        self._entropy.add(np.array([label_entropy(step.weights)]))
        for token, weight in zip(step.token_ids, step.weights, strict=True):
            self._mass_of[self._kind(token)] += weight
        if not step.expert_logprobs:  # an imported label without log-probabilities
            return
        top = (rollout.per_top[name][step.position].tolist() for name in ("expert_top_ids", "expert_top_logprobs"))
        logprobs = dict(zip(*top, strict=True)) | dict(zip(step.token_ids, step.expert_logprobs, strict=True))
        expert = {token: math.exp(logprob) for token, logprob in logprobs.items()}
        for token, mass in pull(dict(zip(step.token_ids, step.weights, strict=True)), expert).items():
            self._mass[mass > 0][token] = self._mass[mass > 0].get(token, 0.0) + mass
            self._moved[mass > 0][token] += 1

    def _kind(self, index: int) -> TokenKind:
        if (kind := self._kind_of.get(index)) is None:
            token = self._texts.token(index)
            kind = self._kind_of[index] = token_kind(token.text, token.control)
        return kind

    def _kinds(self) -> tuple[KindShare, ...]:
        tokens, kept, mass = self._responses_of.total(), self._kept_of.total(), sum(self._mass_of.values())
        return tuple(
            KindShare(
                kind,
                _share(self._responses_of[kind], tokens),
                _share(self._kept_of[kind], self._responses_of[kind]),
                _share(self._kept_of[kind], kept),
                _share(self._mass_of[kind], mass),
            )
            for kind in TOKEN_KINDS
        )

    def _look_for_junk(self, number: int, rollout: ScoredRollout) -> None:
        for position, label in rollout.labels.items():
            if is_scattered(label.weights, rollout.kl[position]):
                self._warnings["scattered"].add(number, position)
        response = rollout.response_ids.tolist()
        if (start := echoes(self._head, response)) is not None:
            self._warnings["echo"].add(number, start)
        control = self._texts.control_ids
        if (end := next((at for at, token in enumerate(response[:-1]) if token in control), None)) is not None:
            self._warnings["past_end"].add(number, end)

    def _most_moved(self, *, up: bool) -> tuple[MovedToken, ...]:
        masses = self._mass[up]
        order = sorted(masses, key=lambda token: (-abs(masses[token]), token))
        return tuple(
            MovedToken(self._texts.token(token).text, masses[token], self._moved[up][token])
            for token in order[:MOST_MOVED]
        )


_WARNINGS = {
    "scattered": "labels spread over many tokens at a high KL: they may name unrelated tokens",
    "echo": "rollouts repeat the instruction of the prompt: their labels teach the model to repeat it",
    "past_end": "rollouts continue after a control token, such as the end of a turn: their labels teach the same",
}


def _share(count: float, total: float) -> float | None:
    return count / total if total else None
