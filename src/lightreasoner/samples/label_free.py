"""Baselines that use no gold answer and no verifier: a model's own samples, as they are or after a vote.

`config.sections.LABEL_FREE` has the settings of their sources. Each class names its source, and where it differs.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightreasoner.config import BaselineConfig
from lightreasoner.config.sections import AnswerKind
from lightreasoner.grading.verdicts import majority
from lightreasoner.inference.engines import Served
from lightreasoner.inference.generation import TokenIds
from lightreasoner.inference.memory import ModelWork
from lightreasoner.inference.scoring import response_states, row_chunks
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, vocabulary_of
from lightreasoner.runs.eta import Load
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Problem, Record
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import StageFolder, open_stage, settle
from lightreasoner.runs.work import Commit
from lightreasoner.samples.answers import (
    Kept,
    OwnAnswers,
    Read,
    Samples,
    Solved,
    Unscored,
    answer_kind,
    labels_table,
    unscored_rollouts,
)
from lightreasoner.samples.folder import Baseline, Ragged

VOTES = "sample-votes"  # folder of the votes of u-opsd, until its labels are finished
# Judges compare with a gold answer, and give the normal form of any answer; this one decides nothing.
ANY_GOLD: dict[AnswerKind, str] = {"number": "0", "expression": "0", "choice": "A", "text": "-", "literal": "0"}


class RawSamples(OwnAnswers):
    """One sample of each problem, as it is: self-training, SePT's single round, and the samples of EM-FT.

    L = −Σ_t log π_θ(y_t | x, y_<t) / |y| with y ~ π_0 at temperature T and nucleus p, whether y is right or not.

    Sources: SSD, arXiv 2604.01193 (read: its abstract, its repository's README, and a description of its released
    settings: T = 1.5, top-p 0.8, top-k 20, and the shortest tenth of the samples left out). Here without top-k, and
    only empty samples are left out. SePT, arXiv 2510.18814 (checked in its released code: one sample at T = 0.6,
    cross-entropy at temperature 1). Its gain comes from samples of the model that is being trained; one round of it is
    this. EM-FT, arXiv 2505.15134: samples at T = 1; see `contrast.entropy` and `--objective entropy`.
    """

    def choose(self, batch: Sequence[Solved], answers: list[Samples]) -> tuple[list[Kept | None], dict[str, int]]:
        """See `WrittenSolutions.choose`: every sample."""
        read = [[self.read(ids) for ids in samples] for samples in answers]
        chosen = [
            self.kept(samples[0], texts[0]) if samples else None for samples, texts in zip(answers, read, strict=True)
        ]
        return chosen, self.counted(answers, [one for texts in read for one in texts])


@dataclass(frozen=True)
class Vote:
    """The samples of one problem by their answers; incomplete ones and those without an answer are in neither list."""

    agreeing: list[int]
    disagreeing: list[int]


def vote(answers: Sequence[str | None], consensus: float) -> Vote | None:
    """The vote of all samples of a problem.

    The most frequent answer wins; of equally frequent ones the first, which is a fair draw, since the order of
    samples means nothing.

    Args:
        answers: normal form of each sample's answer; None has no vote.
        consensus: smallest share of all samples, those without a vote too, that must agree.

    Returns:
        None if there is no answer or the share is smaller.
    """
    first = majority(answers)
    if first is None:
        return None
    agreeing = [place for place, answer in enumerate(answers) if answer == answers[first]]
    if len(agreeing) < consensus * len(answers):
        return None
    others = [place for place, answer in enumerate(answers) if answer not in (None, answers[first])]
    return Vote(agreeing, others)


class MajorityVote(OwnAnswers):
    """Majority-vote SFT: of k samples of a problem, the shortest with the most frequent answer.

    ŷ = argmax_a |{i : answer(y_i) = a}|; trained on the shortest y_i with answer ŷ, of equally short ones the first.

    Source of the vote: TTRL, arXiv 2504.16084 (checked in its released code: answers in normal form, counted; 8 samples
    at temperature 1). TTRL rewards every agreeing sample in reinforcement learning, and counts cut-off samples that
    state an answer; here one sample is trained on by cross-entropy, and only complete samples vote.
    """

    def votes(self, sampled: list[Samples]) -> tuple[list[list[Read]], list[Vote | None], dict[str, int]]:
        """The texts and the vote of each problem, and counts."""
        read = [[self.read(ids) for ids in samples] for samples in sampled]
        flat = [one for texts in read for one in texts]
        gold = ANY_GOLD[answer_kind(self._config)]
        judged = self.judge([one.text for one in flat], [gold] * len(flat))
        forms = iter([each.canonical if one.finished else None for each, one in zip(judged, flat, strict=True)])
        keys = [list(islice(forms, len(texts))) for texts in read]
        found = [vote(answers, self._config.consensus or 0.0) for answers in keys]
        return (
            read,
            found,
            {
                "samples": len(flat),
                "samples_without_vote": sum(form is None for answers in keys for form in answers),
                "samples_agreeing": sum(len(one.agreeing) for one in found if one),
                "problems_without_majority": sum(one is None for one in found),
                **self.counted(sampled, flat),
            },
        )

    def choose(self, batch: Sequence[Solved], answers: list[Samples]) -> tuple[list[Kept | None], dict[str, int]]:
        """See `WrittenSolutions.choose`: the shortest answer of the majority."""
        read, votes, counts = self.votes(answers)
        chosen: list[Kept | None] = []
        for samples, texts, found in zip(answers, read, votes, strict=True):
            best = min(found.agreeing, key=lambda place: len(samples[place])) if found else None
            chosen.append(None if best is None else self.kept(samples[best], texts[best]))
        return chosen, counts


# --- U-OPSD: votes first, then the labels of the model with a hint ---


@dataclass(frozen=True, slots=True)
class Disagreement(Record):
    """A sample against the majority of its problem, with the hint that corrects it."""

    question_id: str
    question: str
    solution: str  # text of the majority's shortest sample
    response_ids: list[int]  # of the longest sample with another answer


class Disagreements(MajorityVote):
    """The first pass of `u-opsd`: of each problem with a majority, the longest sample against it."""

    def commit(self, batch: Sequence[Solved], results: list[Samples]) -> Commit:
        """The disagreements of a batch."""
        read, votes, counts = self.votes(results)
        rows = []
        for item, samples, texts, found in zip(batch, results, read, votes, strict=True):
            if found is None or not found.disagreeing:
                continue
            hint = min(found.agreeing, key=lambda place: len(samples[place]))
            wrong = max(found.disagreeing, key=lambda place: len(samples[place]))
            answer = self.kept(samples[wrong], texts[wrong]).ids
            rows.append(Disagreement(item.problem.id, item.problem.question, texts[hint].text, answer))
        unanimous = sum(found is not None and not found.disagreeing for found in votes)
        counts = {"questions": len(batch), "problems_unanimous": unanimous, **counts}
        return Commit({"disagreements": Disagreement.table(rows)}, counts)

    def note(self, counts: Mapping[str, int]) -> str:
        """Votes so far."""
        return f"{counts['questions'] - counts['problems_without_majority']} majorities"


Distributions = tuple[Tensor, Tensor]  # token ids and weights, [T, K] each


class HintedLabels(ModelWork[Disagreement, Distributions | None]):
    """U-OPSD: the model's distributions with a hint, as labels for the model without it.

    v_t = π_0(· | x, z, y_<t), cut to its most probable tokens and renormalised, where y is the longest sample with
    another answer than the majority's, and z the majority's shortest sample. The loss is D_KL(v_t‖π_θ(· | x, y_<t)).

    Source: arXiv 2608.06296 (not checked at its source: read in two summaries). As there: a majority of at least half
    of 8 samples, the shortest agreeing and the longest disagreeing one, forward KL, the initial model as teacher. Here
    the samples are those of the initial model too, per-token terms are not clipped, and the words of the hint are ours.
    """

    passes = 1.0

    def __init__(self, config: BaselineConfig, served: Served, template: PromptTemplate) -> None:
        self.label = f"{config.kind}: labels"
        self._config = config
        self._served = served
        self._template = template
        self._vocabulary: SharedVocabulary | None = None

    def key(self, item: Disagreement) -> str:
        """The question's id."""
        return item.question_id

    def order(self, item: Disagreement) -> int:
        """Texts of like length share a batch."""
        return len(self._hinted(item)) + len(item.response_ids)

    def load(self, item: Disagreement) -> Load:
        """The text."""
        return Load(self.order(item))

    def run(self, batch: Sequence[Disagreement]) -> list[Distributions | None]:
        """The labels of each sample; None where hint and sample are longer than the context."""
        fitting = [item for item in batch if self.order(item) <= self._served.context]
        if not fitting:
            return [None] * len(batch)
        model = self._served.model
        if self._vocabulary is None:
            self._vocabulary = vocabulary_of(self._template.tokenizer, logit_width(model))
        states = response_states(
            model, [self._hinted(item) for item in fitting], [item.response_ids for item in fitting]
        )
        lengths = [len(item.response_ids) for item in fitting]
        parts = [
            self._labels(states.logits(rows), self._vocabulary)
            for rows in row_chunks(sum(lengths), len(self._vocabulary.token_ids), model.device, for_head=True)
        ]
        ids, weights = (torch.cat(column).split(lengths) for column in zip(*parts, strict=True))
        made = iter(zip(ids, weights, strict=True))
        return [next(made) if item in fitting else None for item in batch]

    def commit(self, batch: Sequence[Disagreement], results: list[Distributions | None]) -> Commit:
        """A label at every token of these samples, under the prompt without the hint."""
        made = [(item, found) for item, found in zip(batch, results, strict=True) if found is not None]
        lengths = [len(item.response_ids) for item, _ in made]
        ids, weights = (
            np.concatenate([np.zeros((0, 1)), *(found[column].numpy() for _, found in made)][bool(made) :])
            for column in (0, 1)
        )
        sizes = np.full(len(ids), ids.shape[1])
        labels = labels_table(
            [item.question_id for item, _ in made],
            lengths,
            Ragged.of_lengths(ids.ravel(), sizes),
            Ragged.of_lengths(weights.ravel(), sizes),
        )
        rollouts = unscored_rollouts(
            Unscored(
                Problem(item.question_id, item.question),
                self._template.encode(item.question),
                item.response_ids,
                True,
            )
            for item, _ in made
        )
        counts = {"answers_kept": len(made), "labels": len(labels), "hint_too_long": len(batch) - len(made)}
        return Commit({"rollouts": rollouts, "steps": labels}, counts)

    @torch.inference_mode()
    def _labels(self, logits: Tensor, vocabulary: SharedVocabulary) -> Distributions:
        """The most probable tokens, ascending, and their renormalised probabilities: [n, width] → [n, K] each."""
        log_teacher = vocabulary.log_softmax(logits)
        count = min(self._config.label_tokens or 1, log_teacher.shape[1])
        columns = log_teacher.topk(count).indices.sort(1).values
        return vocabulary.ids_of(columns).cpu(), log_teacher.gather(1, columns).softmax(1).cpu()

    def _hinted(self, item: Disagreement) -> TokenIds:
        hint = self._config.hint or "{solution}"
        # One replacement, so that a question with the text {solution} stays as it is.
        before, after = (part.replace("{question}", item.question) for part in hint.split("{solution}", 1))
        return self._template.encode(f"{before}{item.solution}{after}")


def voted(
    made: Baseline, asked_at: str, work: Disagreements, solved: Sequence[Solved], size: int, sharing: Sharing
) -> StageFolder:
    """The stage with the disagreements of all problems: of any engine, before a model is loaded for the labels."""
    with open_stage(made.settings.out, VOTES, made.fingerprint(), say, asked_at=asked_at, sharing=sharing) as stage:
        settle(stage, solved, size, work, total=len(solved))
        sharing.await_commits(stage, {item.problem.id for item in solved})
    return stage


def disagreements(stage: StageFolder) -> list[Disagreement]:
    """All rows of the stage."""
    return [row for table in stage.tables("disagreements") for row in Disagreement.rows(table)]


def remove_votes(run: Path) -> None:
    """Remove the votes, which finished labels do not need."""
    shutil.rmtree(run / VOTES, ignore_errors=True)
