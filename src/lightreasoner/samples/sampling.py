"""Stage 1, Algorithm 1 of the paper: rollouts, KL at every step, contrastive labels where it exceeds β.

Writes `RUN/sample/`, see `samples.folder`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightreasoner import contrast
from lightreasoner.config import SampleConfig
from lightreasoner.data.problems import ProblemSet, load_problems
from lightreasoner.errors import DataError, ModelError
from lightreasoner.inference.generation import Decoding, Engine, Generation
from lightreasoner.inference.memory import ModelWork, fitting_rows, worker_devices
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.scoring import response_states, row_chunks
from lightreasoner.models.loading import (
    FoundPair,
    Pair,
    context_length,
    dtype_name,
    empty_model,
    find_pair,
    load_generation_config,
    load_tokenizer,
    weight_bytes,
)
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, share_vocabulary
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Problem
from lightreasoner.runs.sharing import Sharing, run_shared
from lightreasoner.runs.stage import StageFolder, open_stage, settle
from lightreasoner.runs.work import Commit
from lightreasoner.samples import folder
from lightreasoner.samples.folder import PER_LABEL, PER_STEP, PER_TOP, Ragged, Shard
from lightreasoner.samples.statistics import JUDGED, SampleFigures, figures_of, sample_warnings

LARGEST_NONFINITE_SHARE = 0.01  # of steps whose distributions hold NaN or infinity

SAME_MODEL = 1e-6  # nats; the rounding of float32 stays below it

# Both models at the N response tokens of a batch, one rollout after another, by column:
#   PER_STEP      [N]
#   PER_TOP       [N, k]
#   kept_rows     [S]              index of each kept step among the N
#   label_sizes   [S]              tokens in its label
#   PER_LABEL     [sum of sizes]   one label after another
Scores = dict[str, Tensor]


class TooManyNonfinite(ModelError):
    """Too many distributions hold NaN or infinity."""


@dataclass(frozen=True)
class Prompted:
    """A problem and its prompt."""

    problem: Problem
    prompt_ids: list[int]


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
        dtype=dtype_name(config),
    )
    record = made.model_dump(mode="json")
    with open_stage(config.out, "sample", made.fingerprint(), say, record, asked_at, sharing) as stage:
        if stage.result is not None:
            return stage.result
        check_finite(stage.counts)  # refused again, if it was refused before
        vocabulary, context = _shared_by(found, tokenizer, of_amateur)
        prompted = [Prompted(problem, template.encode(problem.question)) for problem in problems.problems]
        fitting = _fitting(prompted, context, config)
        longest = max(len(item.prompt_ids) for item in fitting) + config.max_new_tokens
        sampler = LazySampler(lambda: Sampler.of(found.load(), template, stops, config))

        def size() -> int:
            rows = fitting_rows(sampler.made.pair.expert, longest, sharing.on_device)
            return min(rows, math.ceil(len(fitting) / sharing.workers))

        try:
            settle(stage, fitting, config.batch_size or size, sampler, total=len(fitting))
        except TooManyNonfinite:
            stage.release()
            raise
        if sharing.joins:
            return {}
        if not stage.counts["kept_steps"]:
            stage.release()
            raise DataError(_why_none_is_kept(stage, config, made.asked))
        return stage.finish(
            {
                **stage.counts,
                "duplicate_questions": problems.duplicates,
                "too_long_questions": len(prompted) - len(fitting),
                "stop_ids": list(stops.ids),
                "tokens_left_out": vocabulary.left_out,
                **_judged(stage, config, problems.duplicates, len(prompted) - len(fitting), warned),
            }
        )


def _shared_by(
    found: FoundPair, tokenizer: PreTrainedTokenizerBase, of_amateur: PreTrainedTokenizerBase
) -> tuple[SharedVocabulary, float]:
    """The tokens that both models share, and the tokens that both were made for, without their weights."""
    empty = [empty_model(source, found.config) for source in (found.expert, found.amateur)]
    widths = (logit_width(empty[0]), logit_width(empty[1]))
    vocabulary = share_vocabulary(tokenizer, of_amateur, widths, found.config.vocabulary)
    return vocabulary, min(map(context_length, empty))


def _fitting(prompted: Sequence[Prompted], context: float, config: SampleConfig) -> list[Prompted]:
    """The prompts that fit in the context together with a rollout.

    Raises:
        DataError: there are none.
    """
    rollout = config.max_new_tokens
    lengths = [len(item.prompt_ids) for item in prompted]
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
    stage: StageFolder, config: SampleConfig, duplicates: int, too_long: int, warned: Sequence[str]
) -> dict[str, Any]:
    """Means over all steps, and what they say about questions, prompt and pair."""
    kept = stage.counts["kept_steps"] if config.divergence_beta is not None else None
    figures = figures_of(stage.tables("rollouts", JUDGED), kept, duplicates=duplicates, too_long=too_long)
    return {
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
            say(f"warning: {text}")
    return texts


class Sampler(ModelWork[Prompted, Shard]):
    """Makes and scores rollouts with one pair of models.

    `engine` generates the expert's responses; `decoding` says how tokens are chosen, and when a response ends;
    `tokenizer` finds stop texts, and is needed only if there are any.
    """

    label = "sampling"

    def __init__(
        self,
        pair: Pair,
        engine: Engine,
        decoding: Decoding,
        config: SampleConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.pair = pair
        self.decoding = decoding
        self._tokenizer = tokenizer
        self._engine = engine
        self._config = config

    @classmethod
    def of(cls, pair: Pair, template: PromptTemplate, stops: Stops, config: SampleConfig) -> "Sampler":
        """A sampler with the fastest engine that the expert can use."""
        if left_out := pair.vocabulary.left_out:
            say(
                f"{left_out} token ids mean different things to the two models: left out of both distributions. "
                "Where a prompt holds one, the amateur reads another token there"
            )
        decoding = Decoding(
            max_new_tokens=config.max_new_tokens,
            stop_ids=stops.ids,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
            stop_strings=stops.strings,
        )
        engine = engine_for(pair.expert, template.tokenizer, keep_states=True)
        return cls(pair, engine, decoding, config, template.tokenizer)

    def key(self, item: Prompted) -> str:
        """The question's id."""
        return item.problem.id

    def order(self, item: Prompted) -> int:
        """Prompts of like length share a batch."""
        return len(item.prompt_ids)

    def run(self, batch: Sequence[Prompted]) -> list[Shard]:
        """Rollouts, scores and labels of a batch, as one shard."""
        prompts = [item.prompt_ids for item in batch]
        generation, finished = self._answers(self._engine.generate(prompts, self.decoding))
        return [self._shard(batch, generation.responses, finished, self.score(prompts, generation))]

    def _answers(self, generation: Generation) -> tuple[Generation, list[bool]]:
        """The responses up to a stop text, which no label is made of, and whether each one ended by itself."""
        stop_ids, responses = self.decoding.stop_ids, generation.responses
        lengths = list(map(len, responses))
        if self.decoding.stop_strings and self._tokenizer is not None:
            stops = Stops(stop_ids, self.decoding.stop_strings)
            lengths = [stops.answer_length(ids, self._tokenizer) for ids in responses]
        finished = [
            length < len(ids) or (bool(ids) and ids[-1] in stop_ids)
            for ids, length in zip(responses, lengths, strict=True)
        ]
        answers = [ids[:length] for ids, length in zip(responses, lengths, strict=True)]
        states = generation.states
        if states is not None and answers != responses:
            kept = [place < length for ids, length in zip(responses, lengths, strict=True) for place in range(len(ids))]
            states = replace(states, hidden=states.hidden[torch.tensor(kept, device=states.hidden.device)])
        return Generation(answers, states), finished

    def commit(self, batch: Sequence[Prompted], results: list[Shard]) -> Commit:
        """The shards of a batch as one, and its counts."""
        rollouts = pa.concat_tables(shard.rollouts for shard in results)
        labels = pa.concat_tables(shard.labels for shard in results)
        kl = Ragged.of(rollouts["kl"]).values
        counts = {
            "questions": len(rollouts),
            "finished_rollouts": sum(rollouts["finished"].to_pylist()),
            "steps": len(kl),
            "nonfinite_steps": int((~np.isfinite(kl)).sum()),
            "kept_steps": len(labels),
            "single_token_labels": int((Ragged.of(labels["token_ids"]).lengths == 1).sum()),
            "halved_batches": 0,
        }
        return Commit({"rollouts": rollouts, "steps": labels}, counts)

    def note(self, counts: Mapping[str, int]) -> str:
        """Kept steps so far; raises where too many are not finite."""
        check_finite(counts)
        return f"{counts['kept_steps']} steps kept"

    def score(self, prompts: Sequence[list[int]], generation: Generation) -> Scores:
        """Both models on identical prefixes, then the contrast in row chunks.

        The amateur takes one teacher-forced pass over the texts. So does the expert, unless the engine kept the states
        that chose the tokens.
        """
        responses = generation.responses
        expert = generation.states or response_states(self.pair.expert, prompts, responses)
        amateur = response_states(self.pair.amateur, prompts, responses)
        device = expert.hidden.device
        tokens = [token for response in responses for token in response]
        taken = torch.tensor(tokens, dtype=torch.long, device=device)
        width = len(self.pair.vocabulary.token_ids)
        chunks = []
        # The LM head is fastest on large chunks, the contrast on chunks that fit the processor's cache.
        for head_chunk in row_chunks(len(taken), width, device, for_head=True):
            expert_logits, amateur_logits = expert.logits(head_chunk), amateur.logits(head_chunk).to(device)
            for chunk in row_chunks(head_chunk.stop - head_chunk.start, width, device):
                rows = slice(head_chunk.start + chunk.start, head_chunk.start + chunk.stop)
                chunks.append(self._contrast(expert_logits[chunk], amateur_logits[chunk], taken[rows], rows.start))
        return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}

    @torch.inference_mode()
    def _contrast(self, expert_logits: Tensor, amateur_logits: Tensor, taken: Tensor, first: int) -> Scores:
        """Eq 2–6 for some response tokens; `first` is the index of the first one."""
        vocabulary, config = self.pair.vocabulary, self._config
        log_expert, log_amateur = vocabulary.log_softmax(expert_logits), vocabulary.log_softmax(amateur_logits)
        kl = contrast.kl_divergence(log_expert, log_amateur)
        beta = config.divergence_beta
        kept = contrast.select_steps(kl, -torch.inf if beta is None else beta) & kl.isfinite()
        kept &= vocabulary.holds(taken)
        # Once: the host waits for the device wherever a mask becomes rows.
        kept_rows = kept.nonzero()[:, 0]
        count = min(config.top_tokens, log_expert.shape[1])
        expert_top, amateur_top = log_expert.topk(count), log_amateur.topk(count)
        return {
            "kl": kl,
            "expert_entropy": contrast.entropy(log_expert),
            "amateur_entropy": contrast.entropy(log_amateur),
            "expert_logprob": vocabulary.log_of(log_expert, taken),
            "amateur_logprob": vocabulary.log_of(log_amateur, taken),
            "expert_top_ids": vocabulary.ids_of(expert_top.indices),
            "expert_top_logprobs": expert_top.values,
            "amateur_top_ids": vocabulary.ids_of(amateur_top.indices),
            "amateur_top_logprobs": amateur_top.values,
            "kept_rows": kept_rows + first,
            **_labels(log_expert[kept_rows], log_amateur[kept_rows], config.plausibility_alpha, vocabulary),
        }

    def _shard(
        self, batch: Sequence[Prompted], responses: Sequence[list[int]], finished: list[bool], scores: Scores
    ) -> Shard:
        columns = {name: values.cpu().numpy() for name, values in scores.items()}
        lengths = [len(response) for response in responses]
        rollouts = folder.table_of(
            folder.Rollout,
            {
                "question_id": [item.problem.id for item in batch],
                "question": [item.problem.question for item in batch],
                "prompt_ids": [item.prompt_ids for item in batch],
                "response_ids": list(responses),
                "finished": finished,
                **{name: Ragged.of_lengths(columns[name], lengths) for name in (*PER_STEP, *PER_TOP)},
            },
        )
        starts = np.cumsum([0, *lengths])
        rollout_of = np.searchsorted(starts[1:], columns["kept_rows"], side="right")
        labels = folder.table_of(
            folder.Label,
            {
                "question_id": rollouts["question_id"].take(pa.array(rollout_of)).combine_chunks(),
                "position": columns["kept_rows"] - starts[rollout_of],
                **{name: Ragged.of_lengths(columns[name], columns["label_sizes"]) for name in PER_LABEL},
            },
        )
        return Shard(rollouts, labels)


class LazySampler(Sampler):
    """A sampler that loads its models with the first batch; the owner of workers never runs one."""

    def __init__(self, make: Callable[[], Sampler]) -> None:
        self._make = make

    @cached_property
    def made(self) -> Sampler:
        """The sampler with its models."""
        return self._make()

    def run(self, batch: Sequence[Prompted]) -> list[Shard]:
        """See `Sampler.run`."""
        return self.made.run(batch)


def _labels(log_expert: Tensor, log_amateur: Tensor, alpha: float, vocabulary: SharedVocabulary) -> Scores:
    """Eq 4–6 for kept rows, [S, V] each."""
    plausible = contrast.plausible_tokens(log_expert, alpha)
    sizes = plausible.sum(1)
    # Plausible tokens are among the K most probable ones: only those columns are kept, in the order of their ids.
    columns = log_expert.topk(int(sizes.max()) if len(sizes) else 0).indices.sort(1).values
    log_expert, log_amateur, plausible = (every.gather(1, columns) for every in (log_expert, log_amateur, plausible))
    weights = contrast.contrastive_labels(log_expert, log_amateur, plausible)
    chosen = plausible.nonzero(as_tuple=True)
    return {
        "label_sizes": sizes,
        "token_ids": vocabulary.ids_of(columns)[chosen],
        "weights": weights[chosen],
        "expert_logprobs": log_expert[chosen],
        "amateur_logprobs": log_amateur[chosen],
    }


def check_finite(counts: Mapping[str, int]) -> None:
    """Refuse samples of which too many steps are not finite.

    Raises:
        TooManyNonfinite: a distribution of more than 1 % of the steps holds NaN or infinity.
    """
    if counts.get("nonfinite_steps", 0) > LARGEST_NONFINITE_SHARE * counts.get("steps", 0):
        raise TooManyNonfinite(
            f"{counts['nonfinite_steps']} of {counts['steps']} steps have NaN or infinite logits; "
            "the models do not work in this precision. Try --dtype float32"
        )
