"""Stage 1, Algorithm 1 of the paper: rollouts, KL at every step, contrastive labels where it exceeds β.

Writes `RUN/sample/`, see `samples.folder`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import SampleConfig
from lightreasoner.config.sections import BATCH_SIZES
from lightreasoner.data.problems import ProblemSet, load_problems
from lightreasoner.errors import DataError, NothingToLearn
from lightreasoner.inference.engines import served_by
from lightreasoner.inference.memory import fitting_rows, worker_devices
from lightreasoner.inference.residency import LazyPair
from lightreasoner.models.loading import dtype_name, load_generation_config, weight_bytes
from lightreasoner.models.pairs import FoundPair, find_pair
from lightreasoner.models.shape import known_parameters
from lightreasoner.models.source import ModelSource
from lightreasoner.runs.locks import one_thread
from lightreasoner.runs.owning import run_shared
from lightreasoner.runs.progress import say, warn
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import StageFolder, settle
from lightreasoner.runs.tracking import check_trackers, track_result
from lightreasoner.samples import folder
from lightreasoner.samples.aligning import PoorAlignment, check_alignment
from lightreasoner.samples.calibration import unlike_measured
from lightreasoner.samples.card import open_samples
from lightreasoner.samples.contexts import Contexts, refuse_same_prompts
from lightreasoner.samples.folder import Ragged
from lightreasoner.samples.format_tokens import FormatShare, is_format
from lightreasoner.samples.responses import (
    STATES,
    Generated,
    Prompted,
    ResponseSource,
    decoding_of,
    expert_first,
    release_states,
    remove_states,
    responses_first,
)
from lightreasoner.samples.sampler import Sampler, TooManyNonfinite, check_finite
from lightreasoner.samples.statistics import JUDGED, AlignedShares, SampleFigures, figures_of
from lightreasoner.samples.warnings import sample_warnings

SAME_MODEL = 1e-6  # nats; the rounding of float32 stays below it


def read_problems(config: SampleConfig) -> ProblemSet:
    """The problems to sample; see `load_problems`.

    Raises:
        DataError: see `load_problems`; or none is left after those to skip.
    """
    skipped, limit = config.skip_questions, config.max_questions
    found = load_problems(
        config.dataset,
        limit=None if limit is None else skipped + limit,
        seed=config.seed,
        data_dir=config.data_dir,
        question_field=config.question_field,
        hint_fields=[field for field in (config.expert_hint, config.amateur_hint) if field is not None],
    )
    if skipped >= len(found.problems):
        raise DataError(
            f"{config.dataset} has {len(found.problems)} different problems, and --skip-questions {skipped} leaves "
            "out all of them"
        )
    return replace(found, problems=found.problems[skipped:])


@one_thread
def sample(config: SampleConfig) -> dict[str, Any]:
    """Stage 1: generate with the expert, score both models on the same prefixes, keep and label informative steps.

    Returns:
        Counts, and what was sampled.

    Raises:
        LightReasonerError: see `errors`; everything that was committed before stays.
    """
    check_trackers(config.report_to)
    result = run_shared(config, "samples.sampling:sample", _sample, partial(_devices, config))
    track_result(config, config.out, "sample", result)
    return result


def _devices(config: SampleConfig) -> list[str]:
    """The device of each worker."""
    found = find_pair(config, config.adapter)
    return worker_devices(config, config, weight_bytes(found.own_weights, config))


def _sample(config: SampleConfig, sharing: Sharing) -> dict[str, Any]:
    config = sharing.with_precision(config, "sample")
    problems = read_problems(config)
    alpha = config.plausibility_alpha
    warned = _warn(SampleFigures(questions=len(problems.problems), duplicates=problems.duplicates, alpha=alpha))
    found = find_pair(config, config.adapter)
    tokenizer, of_amateur = found.tokenizers()  # compared, and below aligned, before anything is written
    asked_at = sharing.prompts_time(config.out, "sample")
    contexts = Contexts.of(config, tokenizer, of_amateur, asked_at, problems)
    template = contexts.expert
    stops = template.stops(load_generation_config(found.expert), config.stop_strings)
    served = served_by(config, found.expert, tokenizer, config.out)
    # Where another model labels than samples, the responses come first, as those of an engine in another process.
    labels_alone = config.labeller == "base" and found.expert.adapter is not None
    labelling = replace(found, expert=replace(found.expert, adapter=None)) if labels_alone else found
    prompted = [contexts.prompted(problem) for problem in problems.problems]
    refuse_same_prompts(found, prompted)
    made = _how(config, found, contexts, problems, template.identity(stops), served.identity())
    with open_samples(config.out, "sample", made, say, asked_at, sharing) as stage:
        if stage.result is not None:
            if not sharing.joins:
                remove_states(config.out)  # a stop after `finish` leaves them
            check_alignment(stage.counts, config)
            return stage.result
        check_finite(stage.counts)  # refused again, if it was refused before
        pair = LazyPair(labelling, tokenizer, of_amateur, contexts.alignment)
        fitting = _fitting(prompted, pair.context_length, config)
        settled = stage.settled_ids
        responses: ResponseSource = Generated.of(pair, template, stops, config)
        size: int | Callable[[], int] = 1
        if any(item.problem.id not in settled for item in fitting):
            passes = _Passes(config, made, asked_at, fitting, settled, sharing)
            if config.engine != "own" or labels_alone:
                with closing(served):
                    responses = passes.outside(Generated(served.engine, decoding_of(config, stops), tokenizer))
            responses, size = passes.expert(stage, pair, responses)
        try:
            settle(stage, fitting, size, Sampler(pair, responses, config), total=len(fitting))
            if sharing.joins:
                return {}
            check_alignment(stage.counts, config)
            if not stage.counts["kept_steps"]:
                raise NothingToLearn(_why_none_is_kept(stage, config, made.asked))
        except (TooManyNonfinite, PoorAlignment, DataError):
            stage.release()
            release_states(config.out)
            raise
        result = stage.finish(
            {
                **stage.counts,
                "duplicate_questions": problems.duplicates,
                "too_long_questions": len(prompted) - len(fitting),
                "stop_ids": list(stops.ids),
                "tokens_left_out": pair.vocabulary.left_out,
                **_judged(
                    stage, config, problems.duplicates, len(prompted) - len(fitting), warned, found.expert, tokenizer
                ),
            }
        )
        remove_states(config.out)
        return result


def _how(
    config: SampleConfig,
    found: FoundPair,
    contexts: Contexts,
    problems: ProblemSet,
    asked: Mapping[str, Any],
    engine: Mapping[str, Any],
) -> folder.Sampled:
    """How the samples are made: what decides them, and what their readers want to know."""
    return folder.Sampled(
        expert=config.expert,
        expert_revision=config.expert_revision,
        expert_files=found.expert.files(),
        adapter_files=found.expert.adapter_files(),
        amateur=config.amateur,
        amateur_files=found.amateur.files(),
        amateur_adapter_files=found.amateur.adapter_files(),
        cue=config.cue,
        asked=dict(asked),
        dataset=config.dataset,
        questions=len(problems.problems),
        questions_sha256=problems.fingerprint,
        beta=config.divergence_beta,
        alpha=config.plausibility_alpha,
        settings=config,
        dtype=dtype_name(config, found.expert, found.amateur),
        engine_version=engine.get("engine_version"),
        **contexts.facts(problems.problems),
    )


@dataclass(frozen=True)
class _Passes:
    """The passes over all prompts that come before their scores; arguments as for `expert_first`."""

    config: SampleConfig
    made: folder.Sampled
    asked_at: str
    items: Sequence[Prompted]
    settled: Collection[str]
    sharing: Sharing

    def outside(self, engine: Generated) -> ResponseSource:
        """Responses of an engine in another process."""
        config = self.config
        rows = config.batch_size or BATCH_SIZES[config.engine]
        return responses_first(
            config.out, self.made, self.asked_at, engine, self.items, rows, self.settled, self.sharing
        )

    def expert(
        self, stage: StageFolder, pair: LazyPair, responses: ResponseSource
    ) -> tuple[ResponseSource, int | Callable[[], int]]:
        """Where scoring finds responses, after the expert's pass if only one model fits; and its items per batch."""
        config, sharing = self.config, self.sharing
        unfinished = config.out / STATES / "ledger.jsonl"
        mode = sharing.agree(
            stage, "residency", lambda: pair.residency(config.residency, unfinished, sharing.on_device)
        )
        size = _batch_size(config, stage, pair, self.items, sharing, together=mode == "together")
        if mode == "together":
            return responses, size
        stored = expert_first(
            config.out, self.made, self.asked_at, responses, pair, self.items, size, self.settled, sharing
        )
        return stored, stored.stage.batch_size or size


def _batch_size(
    config: SampleConfig,
    stage: StageFolder,
    pair: LazyPair,
    items: Sequence[Prompted],
    sharing: Sharing,
    *,
    together: bool,
) -> int | Callable[[], int]:
    """Items per batch: as configured, as before, or as many as fit beside the models in memory.

    The latter is a function, since it loads the expert. It leaves a batch for every worker.
    """

    def fitting() -> int:
        longest = max(item.longest for item in items) + config.max_new_tokens
        amateur = pair.memory.amateur if together else 0
        reserved = amateur + (sharing.on_device - 1) * (pair.memory.expert + amateur)
        rows = fitting_rows(pair.expert, longest, reserved, sharing.on_device)
        return min(rows, math.ceil(len(items) / sharing.workers))

    return config.batch_size or stage.batch_size or fitting


def _fitting(prompted: Sequence[Prompted], context: float, config: SampleConfig) -> list[Prompted]:
    """The prompts that fit in the context together with a rollout.

    Raises:
        DataError: there are none.
    """
    rollout, lengths = config.max_new_tokens, [item.longest for item in prompted]
    refuse_if_none_fits(lengths, context, rollout)
    fitting = [item for item, length in zip(prompted, lengths, strict=True) if length + rollout <= context]
    if too_long := len(prompted) - len(fitting):
        say(f"{too_long} questions skipped: with the rollout they are longer than {context} tokens")
    return fitting


def refuse_if_none_fits(lengths: Sequence[int], context: float, rollout: int) -> None:
    """Refuse questions of which none fits in the context.

    Args:
        lengths: tokens of each prompt.
        context: tokens that both models were made for.
        rollout: most tokens of a response.

    Raises:
        DataError: none fits together with a rollout.
    """
    shortest = min(lengths)
    if shortest + rollout <= context:
        return
    who = f"all {len(lengths)} questions are" if len(lengths) > 1 else "the question is"
    all_of_them = f"{who} longer than the context of {context} tokens"
    if shortest >= context:
        raise DataError(f"{all_of_them}: the shortest prompt has {shortest}. Give shorter questions or other models")
    raise DataError(
        f"{all_of_them}, with the rollout: the shortest prompt has {shortest} and --max-new-tokens is {rollout}. "
        f"Lower --max-new-tokens to {context - shortest} or less"
    )


def _why_none_is_kept(stage: StageFolder, config: SampleConfig, asked: Mapping[str, Any]) -> str:
    """Why no step was kept, and what helps."""
    kls = np.concatenate([Ragged.of(table["kl"]).values for table in stage.tables("rollouts")])
    steps, rollouts, beta = stage.counts["steps"], stage.counts["questions"], config.divergence_beta
    if not steps:
        return (
            f"all {rollouts} rollouts are empty: the expert begins with a text that ends a response "
            f"({', '.join(map(repr, asked['stop_strings']))}). Check the chat template and --stop-strings"
        )
    largest = float(kls[np.isfinite(kls)].max())
    if above := steps if beta is None else int((kls > beta).sum()):
        return (
            f"no label can be made: at each of the {above} steps above β the rollout takes a token that means "
            f"something else to the amateur, and --vocabulary {config.vocabulary} leaves those out. Choose an amateur "
            "of the expert's family"
        )
    nothing = f"none of {steps} steps exceeds β = {beta:g}, so there is nothing to learn from"
    if largest < SAME_MODEL:
        return f"{nothing}: expert and amateur predict the same at every step. Choose a weaker amateur"
    nothing = f"{nothing}: the largest KL divergence is {largest:.3g} nats"
    if steps == rollouts:
        ends = ", ".join(asked["stop_tokens"])
        return f"{nothing}. Every rollout ends at its first token (stop tokens: {ends}): check the chat template"
    return (
        f"{nothing}. Lower --divergence-beta, for example to {largest / 2:.2g}, or choose an amateur that differs more "
        "from the expert"
    )


def _judged(
    stage: StageFolder,
    config: SampleConfig,
    duplicates: int,
    too_long: int,
    warned: Sequence[str],
    expert: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    """Means over all steps, and what they say about questions, prompt and pair."""
    kept = stage.counts["kept_steps"] if config.divergence_beta is not None else None
    figures = figures_of(stage.tables("rollouts", JUDGED), kept, duplicates=duplicates, too_long=too_long)
    share = format_share(stage, stage, tokenizer)
    figures = replace(
        figures,
        format_labels=share.of_labels,
        format_responses=share.of_responses,
        aligned=AlignedShares.of(stage.counts),
        parameters=known_parameters(expert.config(), expert.name),
        unlike=unlike_measured(config),
        alpha=config.plausibility_alpha,
    )
    return {
        "expert_parameters": figures.parameters,
        "mean_kl": figures.mean_kl,
        "mean_expert_entropy": figures.expert_entropy,
        "mean_amateur_entropy": figures.amateur_entropy,
        "format_labels": figures.format_labels,
        "format_responses": figures.format_responses,
        "warnings": _warn(figures, warned),
        **(figures.aligned.rounded() if figures.aligned else {}),  # in the place of their sums
    }


def format_share(rollouts: StageFolder, labels: StageFolder, tokenizer: PreTrainedTokenizerBase) -> FormatShare:
    """Format tokens in the responses of one stage and in the labels of the same or another one."""
    control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    share = FormatShare(lambda index: is_format(str(tokenizer.decode([index])), index in control))
    for table in rollouts.tables("rollouts", ["response_ids"]):
        share.add_responses(Ragged.of(table["response_ids"]).values)
    for table in labels.tables("steps", ["token_ids", "weights"]):
        share.add_labels(*(Ragged.of(table[name]).values for name in ("token_ids", "weights")))
    return share


def _warn(figures: SampleFigures, warned: Sequence[str] = ()) -> list[str]:
    """All warnings about these samples; those that were not yet given are printed."""
    texts = sample_warnings(figures)
    for text in texts:
        if text not in warned:
            warn(text)
    return texts
