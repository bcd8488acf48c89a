"""Steps of an expert that an amateur with another tokenizer scores: which, how many, and whether they are enough.

`models.alignment` says where the tokens of both begin. Steps elsewhere are not scored: their numbers are NaN and their
top tokens −1, no figure counts them, and no rule keeps them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lightreasoner.config import SampleConfig
from lightreasoner.errors import VocabularyMismatch
from lightreasoner.inference.scoring import ResponseStates, response_states
from lightreasoner.models.alignment import Reading
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Ragged, Shard
from lightreasoner.samples.statistics import MASSES, UNIT, AlignedShares

JUDGED_FROM = 1000  # steps; fewer can be a few odd texts


class PoorAlignment(VocabularyMismatch):
    """Too few steps of the pair can be compared, or too little of their distributions."""


@dataclass(frozen=True)
class Scored(Shard):
    """Rollouts and labels of a batch.

    Attributes:
        masses: sums of `MASSES` over the aligned steps; None where the models share their ids.
    """

    masses: tuple[float, float] | None = None


def read_by_amateur(amateur: PreTrainedModel, readings: Sequence[Reading]) -> tuple[ResponseStates, Tensor]:
    """The amateur's hidden states at the aligned steps, M of them, and their indices among all N steps.

    Args:
        amateur: the model.
        readings: what it reads for each response.

    Returns:
        States [M, H]; int64 [M], ascending.
    """
    states = response_states(amateur, [one.prompt_ids for one in readings], [one.response_ids for one in readings])
    rows, steps, first, step = [], [], 0, 0
    for reading in readings:
        for place in reading.places:
            if place >= 0:
                rows.append(first + place)
                steps.append(step)
            step += 1
        first += len(reading.response_ids)
    chosen = torch.tensor(rows, dtype=torch.long, device=states.hidden.device)
    return replace(states, hidden=states.hidden[chosen]), torch.tensor(steps, dtype=torch.long)


def at_all_steps(scores: Mapping[str, Tensor], aligned: Tensor, steps: int) -> dict[str, Tensor]:
    """Scores of the aligned steps as scores of all steps.

    Args:
        scores: see `sampler.Scores`.
        aligned: index of each aligned step, [M].
        steps: number of all steps.
    """
    spread = dict(scores)
    for name in (*PER_STEP, *PER_TOP):
        values = scores[name]
        missing = torch.nan if values.is_floating_point() else -1
        spread[name] = values.new_full((steps, *values.shape[1:]), missing).index_copy(0, aligned, values)
    spread["kept_rows"] = aligned[scores["kept_rows"]]
    return spread


def aligned_counts(shards: Sequence[Scored]) -> dict[str, int]:
    """What a commit counts of an aligned pair: steps left out, and the masses in `UNIT`."""
    left_out = sum(int((Ragged.of(shard.rollouts["expert_top_ids"]).values[..., :1] < 0).sum()) for shard in shards)
    masses = [shard.masses for shard in shards if shard.masses is not None]
    sums = {name: round(UNIT * sum(mass[side] for mass in masses)) for side, name in enumerate(MASSES)}
    return {"unaligned_steps": left_out, **sums}


def check_alignment(counts: Mapping[str, int], config: SampleConfig) -> None:
    """Refuse a pair of which too little can be compared.

    Raises:
        PoorAlignment: the share of aligned steps, or the expert's mean probability of the common tokens there, is below
            its limit.
    """
    shares = AlignedShares.of(counts)
    if shares is None or (shares.steps >= config.min_aligned_share and shares.expert >= config.min_common_mass):
        return
    raise PoorAlignment(
        f"the two tokenizers are too different: {shares}. The limits are {100 * config.min_aligned_share:g} % "
        f"(--min-aligned-share) and {100 * config.min_common_mass:g} % (--min-common-mass), below which the contrast "
        "says little about the expert's choice of tokens. Choose an amateur with a more similar tokenizer, or lower "
        "the limit: the same command goes on from here"
    )
