"""The kept steps of a sample folder, each with every number that belongs to it."""

from dataclasses import dataclass
from pathlib import Path

from lightreasoner.samples.folder import Shard, read_samples, read_shards, scored_rollouts


@dataclass(frozen=True)
class KeptStep:
    """A `Label`, and the numbers of its step from `Rollout`."""

    question_id: str
    position: int
    token_ids: list[int]
    weights: list[float]
    expert_logprobs: list[float]
    amateur_logprobs: list[float]
    kl: float
    expert_entropy: float
    amateur_entropy: float
    taken_id: int
    taken_expert_logprob: float
    taken_amateur_logprob: float


def kept_in(shard: Shard) -> list[KeptStep]:
    """The kept steps of a shard in the order of its labels."""
    numbers = {}
    for rollout in scored_rollouts(shard):
        for position, label in rollout.labels.items():
            at = {name: float(column[position]) for name, column in rollout.per_step.items()}
            numbers[rollout.question_id, position] = KeptStep(
                **label.as_dict(),
                kl=at["kl"],
                expert_entropy=at["expert_entropy"],
                amateur_entropy=at["amateur_entropy"],
                taken_id=int(rollout.response_ids[position]),
                taken_expert_logprob=at["expert_logprob"],
                taken_amateur_logprob=at["amateur_logprob"],
            )
    keys = zip(shard.labels["question_id"].to_pylist(), shard.labels["position"].to_pylist(), strict=True)
    return [numbers[key] for key in keys]


def kept_steps(folder: Path) -> list[KeptStep]:
    """The kept steps of a run folder or sample folder in the order of commit."""
    return [step for shard in read_shards(read_samples(folder)[1]) for step in kept_in(shard)]
