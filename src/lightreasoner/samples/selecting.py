"""Re-select steps or relabel existing samples without running a model.

A folder that was sampled with `--divergence-beta none` holds every step, with the log-probabilities of both models for
its plausible tokens. Every selection rule and every kind of label follows from that: rules are compared on the same
rollouts, and sampling is paid for once.

Reads `SOURCE/sample/`, writes `OUT/sample/`, or `OUT/select/` where OUT is SOURCE; see `samples.folder`.

`register_rule` adds a rule from outside of this package; `examples/own_rule.py` shows it.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightreasoner import contrast
from lightreasoner.config import SelectConfig
from lightreasoner.config.base import nearest
from lightreasoner.config.sections import SELECTION, SelectSettings
from lightreasoner.errors import ConfigError, DataError, NothingToLearn
from lightreasoner.runs.progress import say, warn
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples import folder
from lightreasoner.samples.card import open_samples
from lightreasoner.samples.folder import Made, Ragged, Selected, Shard


@dataclass(frozen=True)
class Steps:
    """The steps of one shard with their new labels, N of them, over at most K tokens each."""

    shard: Shard  # the rollouts and the labels as they were sampled
    token_ids: Tensor  # that the label may hold, padded, [N, K]
    log_expert: Tensor  # log π_E of them, −∞ where padded, [N, K]
    log_amateur: Tensor  # log π_A of them, −∞ where padded, [N, K]
    weights: Tensor  # the new label, 0 outside of it, [N, K]

    def __len__(self) -> int:
        return len(self.weights)

    def of(self, column: str) -> Tensor:
        """A per-token column of `Rollout` at each step, [N] or [N, k]."""
        return torch.from_numpy(self.shard.at_labels(column))

    @property
    def place(self) -> Tensor:
        """Place of each step in its rollout: t / T, 0 at the first token and below 1 at the last, [N]."""
        lengths = Ragged.of(self.shard.rollouts["response_ids"]).lengths[self.shard.rollout_of]
        positions = torch.from_numpy(self.shard.positions)
        return positions / torch.maximum(torch.from_numpy(lengths), positions + 1)


COUNTS = ("keep_share", "keep_labels")


@dataclass(frozen=True)
class Rule:
    """A selection rule. The steps with the highest scores are kept, those with −∞ or NaN never.

    Attributes:
        score: the scores of the steps of one shard, [N]; or [N, C] for `combine`.
        cuts: settings of `SelectSettings` that may say where to cut: threshold, keep_share, keep_labels.
        needs_cut: one of them must.
        combine: makes scores of what `score` gave for all S steps of the folder together, [S, C] → [S].
        weighs: the scores can weigh labels (`weigh_by`).
    """

    score: Callable[[Steps], Tensor]
    cuts: tuple[str, ...] = ("threshold", *COUNTS)
    needs_cut: bool = True
    combine: Callable[[Tensor], Tensor] | None = None
    weighs: bool = True


# A rule is one entry here.
RULES: Mapping[str, Rule] = {
    "divergence": Rule(lambda steps: steps.of("kl")),
    "label_surprise": Rule(lambda steps: contrast.label_kl(steps.weights, steps.log_expert)),
    "top1_flip": Rule(lambda steps: torch.where(_flips(steps), 0.0, -torch.inf), COUNTS, needs_cut=False, weighs=False),
    "expert_entropy": Rule(lambda steps: steps.of("expert_entropy")),
    # TIP (arXiv 2604.14084), see `contrast.soft_or`.
    "uncertain_or_contradicted": Rule(
        lambda steps: torch.stack([steps.of("expert_entropy"), steps.of("kl")], 1),
        COUNTS,
        combine=lambda scores: contrast.soft_or(*scores.unbind(1)),
    ),
    # Rho-1 (arXiv 2404.07965): the loss of the model that is trained less that of a better one. Here the amateur's loss
    # less the expert's.
    "excess_loss": Rule(lambda steps: steps.of("expert_logprob") - steps.of("amateur_logprob")),
    "later": Rule(lambda steps: steps.place),  # of no paper: a control
    "random": Rule(lambda steps: torch.zeros(len(steps)), COUNTS, weighs=False),
    "none": Rule(lambda steps: torch.zeros(len(steps)), (), needs_cut=False, weighs=False),
}
_registered: dict[str, Rule] = {}


def register_rule(name: str, rule: Rule) -> None:
    """Add a selection rule of your own, for `selection` and `weigh_by` in this process.

    A name cannot say what a rule of yours computes. Its selections are therefore identified by the steps that it keeps
    and their factors: another rule under the same name is refused in the same folder.

    Args:
        name: letters, digits and underscores; a later rule of the same name takes its place.
        rule: its scores.

    Raises:
        ConfigError: the name is that of a rule of this package, or no name.
    """
    if name in RULES:
        raise ConfigError(f"{name} is a rule of this package, and folders name it; give yours another name")
    if not name.isidentifier():
        raise ConfigError(f"{name!r} is no name of a rule; use letters, digits and underscores")
    _registered[name] = rule


def known_rules() -> Mapping[str, Rule]:
    """The rules of this package and the registered ones, by name."""
    return MappingProxyType({**RULES, **_registered})


def select(config: SelectConfig) -> dict[str, Any]:
    """Re-select steps or relabel existing samples without running a model.

    Raises:
        DataError: the source holds no samples or not what the rule needs, or no step is kept.
        ConfigError: the label needs tokens that were not sampled.
        RunCorrupted: the source is unfinished or damaged.
    """
    rule = rule_of(config)
    sampled, source = folder.read_samples(config.source)
    made = _selection(config, sampled, source)
    chosen: _Chosen | None = None
    if {config.selection, config.weigh_by} & _registered.keys():
        chosen = _Chosen.by(rule, source, config)
        made = made.model_copy(update={"chosen_steps_sha256": chosen.sha256})
    is_beside = config.out.resolve() == source.path.resolve().parent
    with open_samples(config.out, SELECTION if is_beside else "sample", made) as stage:
        if stage.result is not None:
            return stage.result
        chosen = chosen or _Chosen.by(rule, source, config)
        kept = chosen.kept
        say(f"{int(kept.sum())} of {len(kept)} steps kept in {stage.path}: {made.words}")
        _write(stage, source, config, kept, chosen.factors)
        lowest = float(chosen.scores[kept].min())
        return stage.finish({**stage.counts, "selection": config.selection, "lowest_score": lowest})


def rule_of(settings: SelectSettings) -> Rule:
    """The rule of these settings.

    Raises:
        ConfigError: there is no such rule, or the settings cut it in a way that means nothing.
    """
    known = known_rules()
    name, rule = settings.selection, known.get(settings.selection)
    if rule is None:
        own = "lightreasoner.register_rule adds one of your own, in Python"
        raise ConfigError(f"no selection {name}: {nearest(name, known, 'rules')} ({own})")
    cuts = [cut for cut in ("threshold", *COUNTS) if getattr(settings, cut) is not None]
    if rule.needs_cut and not cuts:
        raise ConfigError(f"selection = {name} needs {', '.join(rule.cuts[:-1])} or {rule.cuts[-1]}")
    if not rule.cuts and cuts:
        raise ConfigError(f"selection = {name} keeps every step, so {cuts[0]} means nothing; random keeps some")
    if set(cuts) - set(rule.cuts):
        raise ConfigError(f"selection = {name} has no score that a threshold could cut")
    if set(COUNTS) <= set(cuts):
        raise ConfigError("keep_share and keep_labels both say how many; give one")
    weighing = {name: rule for name, rule in known.items() if rule.weighs}
    if settings.weigh_by is not None and settings.weigh_by not in weighing:
        raise ConfigError(f"weigh_by = {settings.weigh_by}: {nearest(settings.weigh_by, weighing, 'rules that weigh')}")
    return rule


def _selection(config: SelectConfig, sampled: Made, source: StageFolder) -> Selected:
    """The provenance of the selection, after a check that the source holds what it needs."""
    if not isinstance(sampled, folder.Sampled | folder.Imported):
        raise DataError(
            f"{source.path} is itself a selection or a baseline, whose labels cannot be made anew. "
            "Give the folder of `lightr sample`"
        )
    alpha, lowest = config.plausibility_alpha, sampled.alpha
    if alpha is not None and (lowest is None or alpha < lowest):
        raise ConfigError(
            f"plausibility_alpha = {alpha}, but the tokens in {source.path} were kept with {lowest}: less probable "
            "ones were not stored. Sample with a smaller --plausibility-alpha"
        )
    by_divergence = config.selection == "divergence"
    beta = sampled.beta if isinstance(sampled, folder.Sampled) else 0.4
    if beta is not None and (not by_divergence or config.threshold is None or config.threshold < beta):
        warn(f"{source.path} holds only steps with a KL above {beta}; the rule, and a share, choose among these")
    lowest_kl = None if config.threshold is None else max(config.threshold, beta or 0.0)
    changes = {"beta": lowest_kl if by_divergence else None, "alpha": lowest if alpha is None else alpha}
    return Selected(
        **sampled.model_dump(include=set(Made.model_fields)) | changes,
        settings=config,
        source=sampled,
        samples_sha256=source.digest,
    )


@dataclass(frozen=True)
class _Chosen:
    """What a rule chose among the S steps of a folder."""

    scores: Tensor  # [S]
    kept: Tensor  # bool [S]
    factors: Tensor | None  # see `_factors`, [S]

    @classmethod
    def by(cls, rule: Rule, source: StageFolder, config: SelectConfig) -> "_Chosen":
        """The choice of this rule.

        Raises:
            DataError: no step is kept, or see `_scores` and `_factors`.
        """
        scores = _scores(config.selection, rule, source, config)
        if (config.keep_labels or 0) > len(scores):
            say(f"note: {source.path} holds {len(scores)} steps, fewer than --keep-labels {config.keep_labels}")
        kept = _cut(scores, config)
        if not kept.any():
            raise NothingToLearn(f"none of the {len(kept)} steps in {source.path} is kept; loosen the rule")
        return cls(scores, kept, _factors(source, config, kept))

    @property
    def sha256(self) -> str:
        """Hash of the kept steps and their factors: of all that the rule decides in the folder."""
        parts = [self.kept] if self.factors is None else [self.kept, self.factors]
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


def _cut(scores: Tensor, config: SelectConfig) -> Tensor:
    """Which steps are kept, bool [N]."""
    if config.threshold is not None:
        scores = torch.where(contrast.select_steps(scores, config.threshold), scores, -torch.inf)
    count = len(scores) if config.keep_labels is None else config.keep_labels
    if config.keep_share is not None:
        count = round(config.keep_share * len(scores))
    return contrast.select_highest(scores, count, torch.Generator().manual_seed(config.seed))


def _scores(name: str, rule: Rule, source: StageFolder, config: SelectConfig) -> Tensor:
    """The scores of all steps, [S].

    Raises:
        DataError: the rule does not give one number for each step.
    """
    parts, steps = [], 0
    for shard in _steps(source, config):
        part = rule.score(shard)
        _refuse_other_than_scores(name, part, len(shard), [1] if rule.combine is None else [1, 2])
        parts.append(part)
        steps += len(shard)
    scores = torch.cat(parts)
    if rule.combine is not None:
        scores = rule.combine(scores)
        _refuse_other_than_scores(name, scores, steps, [1])
    return scores


def _refuse_other_than_scores(name: str, scores: object, steps: int, dimensions: list[int]) -> None:
    if not isinstance(scores, Tensor) or scores.ndim not in dimensions or len(scores) != steps:
        found = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise DataError(f"the rule {name} gave {found} for {steps} steps; it must give a tensor with a score for each")


def _factors(source: StageFolder, config: SelectConfig, kept: Tensor) -> Tensor | None:
    """What the loss of each step is multiplied by, [S], 0 where it is not kept; None if all labels weigh the same.

    Raises:
        DataError: the scores of the kept steps cannot weigh them.
    """
    if config.weigh_by is None:
        return None
    scores = _scores(config.weigh_by, known_rules()[config.weigh_by], source, config)
    factors = torch.zeros(len(scores))
    factors[kept] = contrast.label_factors(scores[kept])
    if not bool(factors.isfinite().all()):
        raise DataError(
            f"weigh_by = {config.weigh_by}: the kept steps have no score above 0, or one that is not finite, so they "
            "cannot be weighed by it. Choose another rule"
        )
    return factors


def _write(stage: StageFolder, source: StageFolder, config: SelectConfig, kept: Tensor, factors: Tensor | None) -> None:
    settled, first = stage.settled_ids, 0
    for steps in _steps(source, config):
        mine = kept[first : first + len(steps)]
        weighing = None if factors is None else factors[first : first + len(steps)][mine]
        first += len(steps)
        ids = steps.shard.rollouts["question_id"].to_pylist()
        if ids and ids[0] in settled:
            continue
        inside = (steps.weights > 0) & mine[:, None]
        sizes = inside.sum(1)[mine].numpy()
        label = {
            "token_ids": steps.token_ids,
            "weights": steps.weights,
            "expert_logprobs": steps.log_expert,
            "amateur_logprobs": steps.log_amateur,
        }
        columns: dict[str, Any] = {
            name: Ragged.of_lengths(values[inside].numpy(), sizes) for name, values in label.items()
        }
        old = steps.shard.labels.filter(mine.numpy())
        columns |= {name: old[name].combine_chunks() for name in ("question_id", "position")}
        labels = folder.table_of(folder.Label, columns)
        if weighing is not None:
            labels = labels.append_column(folder.FACTOR, pa.array(weighing.numpy()))
        counts = {
            "questions": len(ids),
            "steps": len(mine),
            "kept_steps": len(labels),
            "single_token_labels": int((sizes == 1).sum()),
        }
        stage.commit(ids, {"rollouts": steps.shard.rollouts, "steps": labels}, counts)


def _steps(source: StageFolder, config: SelectConfig) -> Iterator[Steps]:
    """The steps shard by shard: memory does not grow with the folder."""
    return (_relabelled(shard, config) for shard in folder.read_shards(source))


def _relabelled(shard: Shard, config: SelectConfig) -> Steps:
    if config.contrast == "own_token":
        token_ids, log_expert, log_amateur = (
            torch.from_numpy(shard.at_labels(name))[:, None]
            for name in ("response_ids", "expert_logprob", "amateur_logprob")
        )
        if bool((token_ids < 0).any()):
            raise DataError("these samples do not say which token the rollout took; they cannot be trained on it")
        return Steps(shard, token_ids, log_expert, log_amateur, torch.ones_like(log_expert))
    # The most probable token is always among the stored ones, so the mask of Eq 4 can be taken from them.
    fills = {"token_ids": 0, "expert_logprobs": -np.inf, "amateur_logprobs": -np.inf}
    token_ids, log_expert, log_amateur = (
        torch.from_numpy(Ragged.of(shard.labels[name]).padded(fill)) for name, fill in fills.items()
    )
    if log_expert.shape != token_ids.shape or log_amateur.shape != token_ids.shape:
        raise DataError("these samples lack the log-probabilities of both models; no label can be made from them")
    alpha = config.plausibility_alpha
    plausible = log_expert > -torch.inf if alpha is None else contrast.plausible_tokens(log_expert, alpha)
    powers = (config.expert_power, config.amateur_power) if config.contrast == "amateur" else (1.0, 0.0)
    weights = contrast.contrastive_labels(log_expert, log_amateur, plausible, config.label_temperature, *powers)
    if bool(weights.isnan().any()):
        raise DataError(
            f"labels with expert_power = {powers[0]:g}, amateur_power = {powers[1]:g} and label_temperature = "
            f"{config.label_temperature:g} are not finite: a model gives a plausible token no probability, the powers "
            "are too large or the temperature is too low. Choose others"
        )
    return Steps(shard, token_ids, log_expert, log_amateur, weights)


def _flips(steps: Steps) -> Tensor:
    """Where the top tokens of the two models differ, bool [N]."""
    expert, amateur = (steps.of(name) for name in ("expert_top_ids", "amateur_top_ids"))
    if expert.ndim < 2 or not expert.shape[1]:
        raise DataError("these samples do not say which token each model favours; choose another selection")
    return expert[:, 0] != amateur[:, 0]
