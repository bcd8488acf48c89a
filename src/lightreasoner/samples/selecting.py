"""From one sample folder to another: other steps, other labels, no model.

A folder that was sampled with `--divergence-beta none` holds every step with what both models say of its plausible
tokens. Every selection rule and every kind of label follows from that, so that rules are compared on the same
rollouts, and sampling is paid for once.

Reads `SOURCE/sample/`, writes `OUT/sample/`, both as `sampling` does.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightreasoner import contrast
from lightreasoner.config import SelectConfig, Selection, SelectSettings
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import BASELINE, SELECTED, StepSample
from lightreasoner.runs.stage import StageFolder, open_stage, read_stage, sample_folder


@dataclass(frozen=True)
class Steps:
    """The steps of one shard with their new labels.

    Attributes:
        table: the rows as they were sampled (`runs.records.StepSample`), N of them.
        kl: D_KL(π_E‖π_A), [N].
        expert_entropy: H(π_E), [N].
        flips: the models' favourite tokens differ, bool [N].
        token_ids: the tokens that may be in a label, padded, [N, K].
        log_expert: log π_E of them, −∞ where padded, [N, K].
        log_amateur: log π_A of them, likewise.
        weights: the new label, 0 outside it, [N, K].
    """

    table: pa.Table
    kl: Tensor
    expert_entropy: Tensor
    flips: Tensor
    token_ids: Tensor
    log_expert: Tensor
    log_amateur: Tensor
    weights: Tensor


# A rule is one line: the score of each step. The highest are kept; −∞ never, and of equal scores any.
RULES: Mapping[Selection, Callable[[Steps], Tensor]] = {
    "divergence": lambda steps: steps.kl,
    "label_surprise": lambda steps: contrast.label_kl(steps.weights, steps.log_expert),
    "top1_flip": lambda steps: torch.where(steps.flips, 0.0, -torch.inf),
    "expert_entropy": lambda steps: steps.expert_entropy,
    "random": lambda steps: torch.zeros_like(steps.kl),
    "none": lambda steps: torch.zeros_like(steps.kl),
}


def select(config: SelectConfig) -> dict[str, Any]:
    """Write the selection, and give its counts.

    Raises:
        DataError: the source holds no samples or not what the rule needs, or no step is kept.
        ConfigError: the label needs tokens that were not sampled.
        RunCorrupted: the source is unfinished or damaged.
    """
    folder = sample_folder(config.source)
    sampled, source = read_stage(folder)
    _check_source(config, folder, sampled)
    settings = SelectSettings(**config.model_dump(include=set(SelectSettings.model_fields)))
    how = {**settings.model_dump(), "seed": config.seed, "samples": source.digest}
    with open_stage(config.out, "sample", {**sampled, SELECTED: how}, report=say) as stage:
        if stage.result is not None:
            return stage.result
        scores = torch.cat([RULES[settings.selection](steps) for _, steps in _shards(source, settings)])
        kept = _cut(scores, settings, config.seed)
        if not kept.any():
            raise DataError(f"none of the {len(kept)} steps in {folder} is kept; loosen the rule")
        _write(stage, source, settings, kept)
        counts = stage.counts
        stage.finish({**counts, "selection": settings.selection, "lowest_score": float(scores[kept].min())})
        assert stage.result is not None
        return stage.result


def _check_source(config: SelectConfig, folder: Path, sampled: Mapping[str, Any]) -> None:
    if SELECTED in sampled or BASELINE in sampled:
        raise DataError(
            f"{folder} is itself a selection or a baseline, whose labels cannot be made anew. "
            "Give the folder of `lightr sample`"
        )
    alpha, lowest = config.plausibility_alpha, sampled.get("plausibility_alpha")
    if alpha is not None and (lowest is None or alpha < lowest):
        raise ConfigError(
            f"plausibility_alpha = {alpha}, but the tokens in {folder} were kept with {lowest}: less probable ones are "
            "not there. Sample with a smaller --plausibility-alpha"
        )
    beta = sampled.get("divergence_beta", 0.4)
    if beta is not None and (config.selection != "divergence" or config.threshold is None or config.threshold < beta):
        say(f"note: {folder} holds only steps with a KL above {beta}; the rule chooses among these")


def _cut(scores: Tensor, settings: SelectSettings, seed: int) -> Tensor:
    """Which steps are kept, bool [S]."""
    if settings.threshold is not None:
        scores = torch.where(contrast.select_steps(scores, settings.threshold), scores, -torch.inf)
    count = len(scores) if settings.keep_labels is None else settings.keep_labels
    if settings.keep_share is not None:
        count = round(settings.keep_share * len(scores))
    return contrast.select_highest(scores, count, torch.Generator().manual_seed(seed))


def _write(stage: StageFolder, source: StageFolder, settings: SelectSettings, kept: Tensor) -> None:
    settled, first = stage.settled_ids, 0
    for rollouts, steps in _shards(source, settings):
        mine = kept[first : first + len(steps.kl)]
        first += len(steps.kl)
        ids = rollouts["question_id"].to_pylist()
        if ids and ids[0] in settled:
            continue
        chosen = _relabelled(steps, mine)
        sizes = chosen["token_ids"].combine_chunks().value_lengths()
        counts = {
            "questions": len(ids),
            "steps": len(mine),
            "kept_steps": len(chosen),
            "single_token_labels": int(np.count_nonzero(sizes.to_numpy(zero_copy_only=False) == 1)),
        }
        stage.commit(ids, {"rollouts": rollouts, "steps": chosen}, counts)


def _shards(source: StageFolder, settings: SelectSettings) -> Iterator[tuple[pa.Table, Steps]]:
    """Rollouts and steps, shard by shard: memory does not grow with the folder."""
    for rollouts, table in zip(source.tables("rollouts"), source.tables("steps"), strict=True):
        yield rollouts, _read(rollouts, table, settings)


def _read(rollouts: pa.Table, table: pa.Table, settings: SelectSettings) -> Steps:
    if settings.contrast == "own_token":
        token_ids, log_expert, log_amateur = (
            torch.tensor(table[name].to_numpy())[:, None]
            for name in ("taken_id", "taken_expert_logprob", "taken_amateur_logprob")
        )
        if bool((token_ids < 0).any()):
            raise DataError("these samples do not say which token the rollout took; they cannot be trained on it")
        weights = torch.ones_like(log_expert)
    else:
        # The most probable token is always among the stored ones, so the mask of Eq 4 can be taken from them.
        token_ids = _padded(table, "token_ids", 0)
        log_expert, log_amateur = (_padded(table, name, -torch.inf) for name in ("expert_logprobs", "amateur_logprobs"))
        if log_expert.shape != token_ids.shape or log_amateur.shape != token_ids.shape:
            raise DataError("these samples lack the log-probabilities of both models; no label can be made from them")
        alpha = settings.plausibility_alpha
        plausible = log_expert > -torch.inf if alpha is None else contrast.plausible_tokens(log_expert, alpha)
        against = log_amateur if settings.contrast == "amateur" else torch.zeros_like(log_amateur)
        weights = contrast.contrastive_labels(log_expert, against, plausible, settings.label_temperature)
    return Steps(
        table=table,
        kl=torch.tensor(table["kl"].to_numpy()),
        expert_entropy=torch.tensor(table["expert_entropy"].to_numpy()),
        flips=_flips(rollouts, table)
        if settings.selection == "top1_flip"
        else torch.zeros(len(table), dtype=torch.bool),
        token_ids=token_ids,
        log_expert=log_expert,
        log_amateur=log_amateur,
        weights=weights,
    )


def _flips(rollouts: pa.Table, table: pa.Table) -> Tensor:
    """Where the favourite tokens of the two models differ, bool [N]."""
    questions, experts, amateurs = (
        rollouts[name].to_pylist() for name in ("question_id", "expert_top_ids", "amateur_top_ids")
    )
    if not all(experts):
        raise DataError("these samples do not say which token each model favours; choose another selection")
    differ = {
        question: [mine[0] != theirs[0] for mine, theirs in zip(expert, amateur, strict=True)]
        for question, expert, amateur in zip(questions, experts, amateurs, strict=True)
    }
    places = zip(table["question_id"].to_pylist(), table["position"].to_pylist(), strict=True)
    return torch.tensor([differ[question][position] for question, position in places], dtype=torch.bool)


def _padded(table: pa.Table, name: str, padding: float) -> Tensor:
    """A column of lists as one tensor, [N, K]."""
    column = table[name].combine_chunks()
    sizes = column.value_lengths().to_numpy(zero_copy_only=False)
    values = column.flatten().to_numpy(zero_copy_only=False)
    padded = np.full((len(sizes), max(sizes, default=0)), padding, values.dtype)
    padded[np.arange(padded.shape[1]) < sizes[:, None]] = values
    return torch.from_numpy(padded)


def _relabelled(steps: Steps, kept: Tensor) -> pa.Table:
    """The kept rows with their new labels."""
    weights = steps.weights[kept]
    inside = weights > 0
    sizes = inside.sum(1).numpy()
    lists = {
        "token_ids": steps.token_ids[kept],
        "weights": weights,
        "expert_logprobs": steps.log_expert[kept],
        "amateur_logprobs": steps.log_amateur[kept],
    }
    table = steps.table.filter(pa.array(kept.numpy()))
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    for name, values in lists.items():
        field = StepSample.schema.field(name)
        flat = pa.array(values[inside].numpy(), field.type.value_type)
        table = table.set_column(table.schema.get_field_index(name), field, pa.ListArray.from_arrays(offsets, flat))
    return table
