"""The rollouts and labels of a sample folder, one shard at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lightreasoner.runs.records import StepSample
from lightreasoner.runs.stage import StageFolder

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PER_STEP = ("kl", "expert_entropy", "amateur_entropy", "expert_logprob", "amateur_logprob")
PER_TOP = ("expert_top_ids", "expert_top_logprobs", "amateur_top_ids", "amateur_top_logprobs")


@dataclass(frozen=True)
class ScoredRollout:
    """A row of `runs.records.Rollout` as arrays, with the labels of its kept steps.

    Attributes:
        question_id: `Rollout.question_id`.
        question: `Rollout.question`.
        prompt_ids: `Rollout.prompt_ids`.
        response_ids: `Rollout.response_ids`, [T].
        finished: `Rollout.finished`.
        per_step: the columns `PER_STEP`, [T] each; NaN where a step was not scored, as in imported samples.
        per_top: the columns `PER_TOP`, [T, k] each; k is 0 where steps were not scored.
        labels: the kept steps by position.
    """

    question_id: str
    question: str
    prompt_ids: Ints
    response_ids: Ints
    finished: bool
    per_step: Mapping[str, Floats]
    per_top: Mapping[str, NDArray[Any]]
    labels: Mapping[int, StepSample]

    @property
    def kl(self) -> Floats:
        """D_KL(π_E‖π_A) before each token, nats."""
        return self.per_step["kl"]

    @property
    def agrees(self) -> NDArray[np.bool_] | None:
        """Whether both models have the same top-1 token, [T]; None if unknown."""
        if not self.per_top["expert_top_ids"].shape[1]:
            return None
        same: NDArray[np.bool_] = self.per_top["expert_top_ids"][:, 0] == self.per_top["amateur_top_ids"][:, 0]
        return same


def read_rollouts(stage: StageFolder) -> Iterator[ScoredRollout]:
    """All rollouts of a sample stage in order of commit; memory holds one shard."""
    for rollouts, steps in zip(stage.tables("rollouts"), stage.tables("steps"), strict=True):
        yield from rollouts_of(rollouts, steps)


def rollouts_of(rollouts: pa.Table, steps: pa.Table) -> Iterator[ScoredRollout]:
    """The rollouts of a table of `runs.records.Rollout`, with their labels from one of `runs.records.StepSample`."""
    labels: dict[str, dict[int, StepSample]] = {}
    for step in StepSample.rows(steps):
        labels.setdefault(step.question_id, {})[step.position] = step
    yield from _read_shard(rollouts, labels)


def _read_shard(table: pa.Table, labels: Mapping[str, Mapping[int, StepSample]]) -> Iterator[ScoredRollout]:
    names = [table.column(name).to_pylist() for name in ("question_id", "question", "finished")]
    prompts, responses = (_Lists(table.column(name)) for name in ("prompt_ids", "response_ids"))
    per_step = {name: _Lists(table.column(name)) for name in PER_STEP}
    per_top = {name: _Lists(table.column(name)) for name in PER_TOP}
    for row, (question_id, question, finished) in enumerate(zip(*names, strict=True)):
        mine = labels.get(question_id, {})
        response_ids = responses[row]
        if (beyond := max(mine, default=-1) + 1 - len(response_ids)) > 0:
            # The last step of an imported rollout predicts a token beyond the rollout.
            response_ids = np.append(response_ids, [mine[max(mine)].taken_id] * beyond).astype(np.int64)
        length = len(response_ids)
        yield ScoredRollout(
            question_id,
            question,
            prompts[row],
            response_ids,
            finished,
            {name: _filled(lists[row], name, mine, length) for name, lists in per_step.items()},
            {name: lists[row].reshape(length, lists[row].size // max(length, 1)) for name, lists in per_top.items()},
            mine,
        )


def _filled(values: Floats, name: str, labels: Mapping[int, StepSample], length: int) -> Floats:
    """A column of a rollout; if it is missing, the values of its kept steps, and NaN for the others."""
    if len(values) == length:
        return values
    column = np.full(length, np.nan)
    of_step = {"expert_logprob": "taken_expert_logprob", "amateur_logprob": "taken_amateur_logprob"}.get(name, name)
    for position, label in labels.items():
        column[position] = getattr(label, of_step)
    return column


class _Lists:
    """A column of lists, or of lists of equally long lists, as one flat array."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lengths = pc.list_value_length(column)
        flat = pc.list_flatten(column)
        ends = np.cumsum(lengths.to_numpy())
        if pa.types.is_list(flat.type):
            inner = pc.list_flatten(flat)
            ends = ends * (len(inner) // max(len(flat), 1))
            flat = inner
        integers = pa.types.is_integer(flat.type)
        self._values = flat.to_numpy().astype(np.int64 if integers else np.float64)
        self._ends = ends

    def __getitem__(self, row: int) -> Any:
        return self._values[self._ends[row - 1] if row else 0 : self._ends[row]]
