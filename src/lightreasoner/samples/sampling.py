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

from lightreasoner.config import SampleConfig
from lightreasoner.config_sections import BATCH_SIZES
from lightreasoner.data.problems import ProblemSet, load_problems
from lightreasoner.errors import DataError
from lightreasoner.inference.engines import served_by
from lightreasoner.inference.memory import fitting_rows, worker_devices
from lightreasoner.inference.residency import LazyPair
from lightreasoner.models.loading import dtype_name, find_pair, load_generation_config, load_tokenizer, weight_bytes
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.shape import known_parameters
from lightreasoner.models.source import ModelSource
from lightreasoner.models.vocabulary import share_vocabulary
from lightreasoner.runs.owning import run_shared
from lightreasoner.runs.progress import say, warn
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import StageFolder, open_stage, settle
from lightreasoner.samples import folder
from lightreasoner.samples.folder import Ragged
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
from lightreasoner.samples.statistics import JUDGED, SampleFigures, figures_of, sample_warnings

SAME_MODEL = 1e-6  # nats; the rounding of float32 stays below it


def read_problems(config: SampleConfig) -> ProblemSet:
    """The problems to sample; see `load_problems`."""
    return load_problems(
        config.dataset,
        limit=config.max_questions,
        seed=config.seed,
        data_dir=config.data_dir,
        question_field=config.question_field,
    )


def sample(config: SampleConfig) -> dict[str, Any]:
    """Stage 1: generate with the expert, score both models on the same prefixes, keep and label informative steps.

    Returns:
        Counts, and what was sampled.

    Raises:
        LightReasonerError: see `errors`; everything that was committed before stays.
    """
    return run_shared(config, "samples.sampling:sample", _sample, partial(_devices, config))


def _devices(config: SampleConfig) -> list[str]:
    """The device of each worker."""
    found = find_pair(config)
    return worker_devices(config, config, weight_bytes([found.expert, found.amateur], config))


def _sample(config: SampleConfig, sharing: Sharing) -> dict[str, Any]:
    config = sharing.with_precision(config, "sample")
    problems = read_problems(config)
    warned = _warn(SampleFigures(questions=len(problems.problems), duplicates=problems.duplicates))
    found = find_pair(config)
    tokenizer, of_amateur = (load_tokenizer(source, config) for source in (found.expert, found.amateur))
    share_vocabulary(tokenizer, of_amateur, rule=config.vocabulary)  # before anything is written
    asked_at = sharing.prompts_time(config.out, "sample")
    template = PromptTemplate(tokenizer, config.cue, config.chat_template, at=asked_at)
    stops = template.stops(load_generation_config(found.expert), config.stop_strings)
    served = served_by(config, found.expert, tokenizer, config.out)
    made = folder.Sampled(
        expert=config.expert,
        expert_revision=config.expert_revision,
        expert_files=found.expert.files(),
        amateur=config.amateur,
        amateur_files=found.amateur.files(),
        cue=config.cue,
        asked=template.identity(stops),
        dataset=config.dataset,
        questions=len(problems.problems),
        questions_sha256=problems.fingerprint,
        beta=config.divergence_beta,
        alpha=config.plausibility_alpha,
        settings=config,
        dtype=dtype_name(config, found.expert, found.amateur),
        engine_version=served.identity().get("engine_version"),
    )
    record = made.model_dump(mode="json")
    with open_stage(config.out, "sample", made.fingerprint(), say, record, asked_at, sharing) as stage:
        if stage.result is not None:
            if not sharing.joins:
                remove_states(config.out)  # a stop after `finish` leaves them
            return stage.result
        check_finite(stage.counts)  # refused again, if it was refused before
        prompted = [Prompted(problem, template.encode(problem.question)) for problem in problems.problems]
        pair = LazyPair(found, tokenizer, of_amateur)
        fitting = _fitting(prompted, pair.context_length, config)
        settled = stage.settled_ids
        responses: ResponseSource = Generated.of(pair, template, stops, config)
        size: int | Callable[[], int] = 1
        if any(item.problem.id not in settled for item in fitting):
            passes = _Passes(config, made, asked_at, fitting, settled, sharing)
            if config.engine != "own":
                with closing(served):
                    responses = passes.outside(Generated(served.engine, decoding_of(config, stops), tokenizer))
            responses, size = passes.expert(stage, pair, responses)
        try:
            settle(stage, fitting, size, Sampler(pair, responses, config), total=len(fitting))
            if sharing.joins:
                return {}
            if not stage.counts["kept_steps"]:
                raise DataError(_why_none_is_kept(stage, config, made.asked))
        except (TooManyNonfinite, DataError):
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
                **_judged(stage, config, problems.duplicates, len(prompted) - len(fitting), warned, found.expert),
            }
        )
        remove_states(config.out)
        return result


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
        longest = max(len(item.prompt_ids) for item in items) + config.max_new_tokens
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
    rollout, lengths = config.max_new_tokens, [len(item.prompt_ids) for item in prompted]
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
    steps, rollouts, beta = len(kls), stage.counts["questions"], config.divergence_beta
    if not steps:
        return (
            f"all {rollouts} rollouts are empty: the expert begins with a text that ends a response "
            f"({', '.join(map(repr, asked['stop_strings']))}). Check the chat template and --stop-strings"
        )
    largest = float(kls[np.isfinite(kls)].max())
    if above := steps if beta is None else int((kls > beta).sum()):
        return (
            f"no label can be made: at each of the {above} steps above β the rollout takes a token that means "
            "something else to the amateur, and --vocabulary shared leaves those out. Choose an amateur of the "
            "expert's family"
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
) -> dict[str, Any]:
    """Means over all steps, and what they say about questions, prompt and pair."""
    kept = stage.counts["kept_steps"] if config.divergence_beta is not None else None
    figures = figures_of(stage.tables("rollouts", JUDGED), kept, duplicates=duplicates, too_long=too_long)
    figures = replace(figures, parameters=known_parameters(expert.config(), expert.name))
    return {
        "expert_parameters": figures.parameters,
        "mean_kl": figures.mean_kl,
        "mean_expert_entropy": figures.expert_entropy,
        "mean_amateur_entropy": figures.amateur_entropy,
        "warnings": _warn(figures, warned),
    }


def _warn(figures: SampleFigures, warned: Sequence[str] = ()) -> list[str]:
    """All warnings about these samples; those that were not yet given are printed."""
    texts = sample_warnings(figures)
    for text in texts:
        if text not in warned:
            warn(text)
    return texts
