"""Whole answers as training data, every token a label: what all baselines share, and those that use gold answers.

A label of one token with probability 1 makes the loss of `lightr finetune` the usual cross-entropy. Divergences are
missing in these folders, since no amateur is involved.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lightreasoner.config import BaselineConfig
from lightreasoner.config.sections import AnswerKind
from lightreasoner.data.generated import GENERATORS
from lightreasoner.errors import ConfigError
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, Case, Judgement
from lightreasoner.inference.engines import Served
from lightreasoner.inference.generation import Decoding, TokenIds
from lightreasoner.inference.memory import ModelWork
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.runs.eta import Load
from lightreasoner.runs.records import Problem
from lightreasoner.runs.work import Commit
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Label, Ragged, Rollout, table_of


@dataclass(frozen=True)
class Solved:
    """A problem with its gold answer, and a written solution; without both for baselines that use none."""

    problem: Problem
    solution: str


class Kept(NamedTuple):
    """An answer to train on, and whether it ended by itself."""

    ids: TokenIds
    finished: bool = True


class Read(NamedTuple):
    """A sampled answer: its text up to a stop text, and whether it ended by itself."""

    text: str
    finished: bool


Samples = list[TokenIds]  # of one problem; none if its prompt fills the context


def answer_kind(config: BaselineConfig) -> AnswerKind:
    """How answers are compared.

    Raises:
        ConfigError: the settings name a kind for generated problems, which have their own.
    """
    if config.dataset in GENERATORS and config.answer_kind is not None:
        raise ConfigError(
            f"answer_kind = {config.answer_kind}: the answers of {config.dataset} are compared as "
            f"{GENERATORS[config.dataset].answers}; omit --answer-kind"
        )
    if config.dataset in GENERATORS:
        return GENERATORS[config.dataset].answers
    return config.answer_kind or ("number" if config.dataset == "gsm8k" else "expression")


class WrittenSolutions(ModelWork[Solved, Samples]):
    """Ground-truth SFT: the solution that came with each problem. Needs no model."""

    def __init__(self, config: BaselineConfig, served: Served, template: PromptTemplate, stops: Stops) -> None:
        self.label = config.kind
        self._config = config
        self._served = served
        self._template = template
        self._stops = stops

    def key(self, item: Solved) -> str:
        """The question's id."""
        return item.problem.id

    def order(self, item: Solved) -> int:
        """Prompts of like length share a batch."""
        return len(self._prompt(item))

    def run(self, batch: Sequence[Solved]) -> list[Samples]:
        """The answers to each problem that `choose` chooses from."""
        return [[self._template.encode_answer(item.solution)] for item in batch]

    def choose(self, batch: Sequence[Solved], answers: list[Samples]) -> tuple[list[Kept | None], dict[str, int]]:
        """The answer to each problem to train on, if any, and counts of the others."""
        return [Kept(ids) for (ids,) in answers], {}

    def commit(self, batch: Sequence[Solved], results: list[Samples]) -> Commit:
        """The chosen answers, with every token as a label of its own."""
        chosen, counts = self.choose(batch, results)
        kept = [(item, answer) for item, answer in zip(batch, chosen, strict=True) if answer and answer.ids]
        labels = one_hot_labels([item.problem.id for item, _ in kept], [answer.ids for _, answer in kept])
        rollouts = unscored_rollouts(Unscored(item.problem, self._prompt(item), *answer) for item, answer in kept)
        counts = {"questions": len(batch), "answers_kept": len(kept), "labels": len(labels), **counts}
        return Commit({"rollouts": rollouts, "steps": labels}, counts)

    def note(self, counts: Mapping[str, int]) -> str:
        """Kept answers so far."""
        return f"{counts['answers_kept']} answers kept"

    def _prompt(self, item: Solved) -> TokenIds:
        return self._template.encode(item.problem.question)


class OwnAnswers(WrittenSolutions):
    """Answers of the model, greedy or sampled. A subclass chooses those to train on."""

    def run(self, batch: Sequence[Solved]) -> list[Samples]:
        """The model's answers, each ended by a stop token, a stop text or the cap."""
        cap, config = self.group(batch[0]), self._config
        if not cap:
            return [[] for _ in batch]
        decoding = Decoding(
            cap,
            self._stops.ids,
            temperature=config.temperature or 0.0,
            top_p=config.top_p or 1.0,
            seed=config.seed,
            stop_strings=self._stops.strings,
        )
        count = config.samples_per_problem or 1
        prompts = [self._prompt(item) for item in batch for _ in range(count)]
        responses = self._served.engine.generate(prompts, decoding).finite_responses()
        return [responses[first : first + count] for first in range(0, len(responses), count)]

    def group(self, item: Solved) -> int:
        """Cap on the answer, in tokens; 0 if the prompt fills the context. So no answer depends on other prompts."""
        return self._cap(len(self._prompt(item)))

    def _cap(self, prompt: int) -> int:
        left = self._served.context - prompt
        return int(max(0, min(self._config.max_new_tokens, left)))

    def load(self, item: Solved) -> Load:
        """The prompt, and an answer up to the cap."""
        prompt = len(self._prompt(item))
        return Load(prompt, self._cap(prompt))

    def read(self, ids: TokenIds) -> Read:
        """The text of an answer."""
        text = self._stops.text_of(ids, self._template.tokenizer)
        end = self._stops.start_in(text)
        return Read(text[:end], end is not None or (bool(ids) and ids[-1] in self._stops.ids))

    def kept(self, ids: TokenIds, read: Read) -> Kept:
        """The tokens to train on: the answer without a stop text."""
        return Kept(ids[: self._stops.answer_length(ids, self._template.tokenizer)], read.finished)

    def judge(self, texts: Sequence[str], golds: Sequence[str]) -> list[Judgement]:
        """The answer in each text, and whether it equals its gold answer."""
        kind = answer_kind(self._config)
        cases = [Case(text, gold, kind, self._config.dataset) for text, gold in zip(texts, golds, strict=True)]
        symbolic = kind == "expression"
        with GradingPool(self._config.judge, workers=self._config.grading_workers, symbolic=symbolic) as pool:
            return list(pool.judge(cases))

    @staticmethod
    def counted(answers: Sequence[Samples], read: Sequence[Read]) -> dict[str, int]:
        """Counts of all answers, kept or not: what they cost, and how they ended."""
        return {
            "truncated": sum(not one.finished for one in read),
            "prompt_too_long": sum(not samples for samples in answers),
            "tokens": sum(len(ids) for samples in answers for ids in samples),
        }


class OwnRightAnswers(OwnAnswers):
    """Rejection-sampled SFT: one greedy answer of the model to each problem, kept if it is complete and right."""

    def choose(self, batch: Sequence[Solved], answers: list[Samples]) -> tuple[list[Kept | None], dict[str, int]]:
        """See `WrittenSolutions.choose`: right and complete answers."""
        read = [self.read(ids) for samples in answers for ids in samples or [[]]]
        judged = self.judge([one.text for one in read], [item.problem.answer or "" for item in batch])
        verdicts = [one.verdict for one in judged]
        counts: dict[str, int] = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
        counts |= self.counted(answers, [one for one, samples in zip(read, answers, strict=True) if samples])
        right = [verdict == "correct" and one.finished for verdict, one in zip(verdicts, read, strict=True)]
        return [
            self.kept(samples[0], one) if good else None
            for samples, one, good in zip(answers, read, right, strict=True)
        ], counts


class Unscored(NamedTuple):
    """A response to train on that no amateur has scored."""

    problem: Problem
    prompt_ids: TokenIds
    response_ids: TokenIds
    finished: bool


def unscored_rollouts(responses: Iterable[Unscored]) -> pa.Table:
    """Rows of `Rollout` without divergences; only stage 1 scores steps."""
    unknown: list[Any] = [[]] * len((*PER_STEP, *PER_TOP))
    return Rollout.table(
        Rollout(one.problem.id, one.problem.question, one.prompt_ids, one.response_ids, one.finished, *unknown)
        for one in responses
    )


def one_hot_labels(question_ids: Sequence[str], answers: Sequence[TokenIds]) -> pa.Table:
    """Every token of these answers as a label of its own."""
    ids = np.array([token for answer in answers for token in answer], np.int64)
    one_each = np.ones_like(ids)
    return labels_table(
        question_ids,
        list(map(len, answers)),
        Ragged.of_lengths(ids, one_each),
        Ragged.of_lengths(np.ones(len(ids)), one_each),
    )


def labels_table(question_ids: Sequence[str], lengths: Sequence[int], token_ids: Ragged, weights: Ragged) -> pa.Table:
    """Rows of `Label` at every position of responses of these lengths, without the models' log-probabilities."""
    unscored = Ragged.of_lengths(np.zeros(0), np.zeros(len(token_ids), np.int64))
    return table_of(
        Label,
        {
            "question_id": np.repeat(np.array(question_ids, dtype=object), np.array(lengths, np.int64)),
            "position": np.concatenate([np.arange(0), *map(np.arange, lengths)]),
            "token_ids": token_ids,
            "weights": weights,
            "expert_logprobs": unscored,
            "amateur_logprobs": unscored,
        },
    )
