"""Stage 1, Algorithm 1 of the paper: rollouts, KL at every step, contrastive labels where it exceeds β.

Writes `RUN/sample/`: `rollouts-*.parquet` (`runs.records.Rollout`) and `steps-*.parquet` (`runs.records.StepSample`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightreasoner import contrast
from lightreasoner.config import SampleConfig
from lightreasoner.data.problems import load_problems
from lightreasoner.errors import DataError, ModelError
from lightreasoner.inference.generation import Decoding, Engine, Generation
from lightreasoner.inference.memory import fitting_rows, in_halves
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.scoring import response_states, row_chunks
from lightreasoner.models.loading import Pair, dtype_name, find_model, load_pair, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.vocabulary import SharedVocabulary
from lightreasoner.runs.progress import progress, say
from lightreasoner.runs.records import Problem, Rollout, StepSample
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder, open_stage

LARGEST_NONFINITE_SHARE = 0.01  # of steps whose distributions hold NaN or infinity


@dataclass(frozen=True)
class Prompted:
    """A problem and its prompt."""

    problem: Problem
    prompt_ids: list[int]


def sample(config: SampleConfig) -> dict[str, Any]:
    """Run stage 1, or what is left of it, and give its result: counts, and what was sampled.

    Raises:
        LightReasonerError: see `errors`; everything that was committed before stays.
    """
    expert = find_model(config.expert, config.expert_revision)
    amateur = find_model(config.amateur, config.amateur_revision)
    problems = load_problems(
        config.dataset,
        limit=config.max_questions,
        seed=config.seed,
        data_dir=config.data_dir,
        question_field=config.question_field,
    )
    tokenizer = load_tokenizer(expert, trust_remote_code=config.trust_remote_code)
    template = PromptTemplate(tokenizer, config.cue, config.chat_template)
    fingerprint = {
        "expert": config.expert,
        "expert_revision": config.expert_revision,
        "expert_sha256": expert.fingerprint(),
        "amateur": config.amateur,
        "amateur_revision": config.amateur_revision,
        "amateur_sha256": amateur.fingerprint(),
        "dataset": config.dataset,
        "questions": len(problems.problems),
        "questions_sha256": problems.fingerprint,
        "cue": config.cue,
        "template_sha256": template.fingerprint,
        "dtype": dtype_name(config.dtype, config.device),
        **config.model_dump(
            include={"max_new_tokens", "divergence_beta", "plausibility_alpha", "temperature", "top_p", "top_tokens"}
            | {"vocabulary", "seed"}
        ),
    }
    with open_stage(config.out, "sample", fingerprint, report=say) as stage:
        if stage.result is not None:
            return stage.result
        prompted = [Prompted(problem, template.encode(problem.question)) for problem in problems.problems]
        pair = load_pair(
            expert,
            amateur,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            rule=config.vocabulary,
        )
        if pair.vocabulary.left_out:
            say(
                f"{pair.vocabulary.left_out} token ids mean different things to the two models: left out of both "
                "distributions. Where a prompt holds one, the amateur reads it as a token of its own"
            )
        decoding = Decoding(
            max_new_tokens=config.max_new_tokens,
            stop_ids=template.stop_ids(pair.expert.generation_config),
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
        )
        sampler = Sampler(pair, engine_for(pair.expert, keep_states=True), decoding, config)
        fitting = [item for item in prompted if len(item.prompt_ids) + config.max_new_tokens <= pair.context_length]
        if too_long := len(prompted) - len(fitting):
            say(f"{too_long} questions skipped: with the rollout they are longer than {pair.context_length} tokens")
        sampler.fill(stage, fitting)
        counts = stage.counts
        if not counts.get("kept_steps"):
            raise DataError(
                f"none of {counts.get('steps', 0)} steps exceeds β; there is nothing to learn from. "
                "Lower --divergence-beta, or choose an amateur that differs more from the expert"
            )
        result = {
            **counts,
            "duplicate_questions": problems.duplicates,
            "too_long_questions": too_long,
            "stop_ids": list(decoding.stop_ids),
            "tokens_left_out": pair.vocabulary.left_out,
        }
        stage.finish(result)
        return result


class Sampler:
    """Makes and scores rollouts with one pair of models."""

    def __init__(self, pair: Pair, engine: Engine, decoding: Decoding, config: SampleConfig) -> None:
        self._pair = pair
        self._engine = engine
        self._decoding = decoding
        self._config = config

    def fill(self, stage: StageFolder, prompted: Sequence[Prompted]) -> None:
        """Sample every problem that the stage has not settled yet, batch by batch."""
        _check_finite(stage.counts)  # what was refused before is refused again
        settled = stage.settled_ids
        # Prompts of like length share a batch. The order depends on the problems alone, and a stop falls between
        # two batches: so a resumed run forms the very batches that an uninterrupted one would have.
        waiting = sorted((p for p in prompted if p.problem.id not in settled), key=lambda p: len(p.prompt_ids))
        size = self._config.batch_size or len(stage.first_ids) or self._fitting(waiting)
        with progress("sampling", len(prompted), len(settled)) as advance, stop_signals() as stop:
            for start in range(0, len(waiting), size):
                stop.check()
                batch = waiting[start : start + size]
                halved: list[int] = []
                scored = in_halves(batch, self.sample_batch, halved)
                rollouts = [rollout for rollout, _ in scored]
                steps = [step for _, kept in scored for step in kept]
                stage.commit(
                    [rollout.question_id for rollout in rollouts],
                    {"rollouts": Rollout.table(rollouts), "steps": StepSample.table(steps)},
                    _counts(rollouts, steps) | {"halved_batches": len(halved)},
                )
                _check_finite(stage.counts)
                advance(len(batch), f"{stage.counts['kept_steps']} steps kept")

    def sample_batch(self, batch: Sequence[Prompted]) -> list[tuple[Rollout, list[StepSample]]]:
        """Rollout, scores and labels of each problem."""
        prompts = [item.prompt_ids for item in batch]
        generation = self._engine.generate(prompts, self._decoding)
        responses = generation.responses
        scores = self.score(prompts, generation)
        results = []
        first = 0
        for item, response in zip(batch, responses, strict=True):
            mine = slice(first, first + len(response))
            first += len(response)
            results.append((self._rollout(item, response, scores, mine), scores.samples(item.problem.id, mine)))
        return results

    def score(self, prompts: Sequence[list[int]], generation: Generation) -> "Scores":
        """Both models on identical prefixes, then the contrast in row chunks.

        The amateur takes one teacher-forced pass over the texts. So does the expert, unless the engine kept the states
        that chose the tokens.
        """
        responses = generation.responses
        expert = generation.states or response_states(self._pair.expert, prompts, responses)
        amateur = response_states(self._pair.amateur, prompts, responses)
        device = expert.hidden.device
        tokens = [token for response in responses for token in response]
        taken = torch.tensor(tokens, dtype=torch.long, device=device)
        width = len(self._pair.vocabulary.token_ids)
        chunks = []
        # The LM head is fastest on many rows at once, what follows on as few as fit the processor's cache.
        for some in row_chunks(len(taken), width, device, for_head=True):
            expert_logits, amateur_logits = expert.logits(some), amateur.logits(some).to(device)
            for part in row_chunks(some.stop - some.start, width, device):
                rows = slice(some.start + part.start, some.start + part.stop)
                chunks.append(self._contrast(expert_logits[part], amateur_logits[part], taken[rows], rows.start))
        return Scores.concatenated(chunks)

    @torch.inference_mode()
    def _contrast(self, expert_logits: Tensor, amateur_logits: Tensor, taken: Tensor, first: int) -> "Scores":
        vocabulary = self._pair.vocabulary
        log_expert, log_amateur = vocabulary.log_softmax(expert_logits), vocabulary.log_softmax(amateur_logits)
        kl = contrast.kl_divergence(log_expert, log_amateur)
        beta = self._config.divergence_beta
        kept = contrast.select_steps(kl, -torch.inf if beta is None else beta) & kl.isfinite()
        kept &= vocabulary.holds(taken)
        expert_top, amateur_top = (
            log_probs.topk(min(self._config.top_tokens, log_probs.shape[1])) for log_probs in (log_expert, log_amateur)
        )
        return Scores(
            per_step={
                "kl": kl.tolist(),
                "expert_entropy": contrast.entropy(log_expert).tolist(),
                "amateur_entropy": contrast.entropy(log_amateur).tolist(),
                "expert_logprob": vocabulary.log_of(log_expert, taken).tolist(),
                "amateur_logprob": vocabulary.log_of(log_amateur, taken).tolist(),
                "expert_top_ids": vocabulary.ids_of(expert_top.indices).tolist(),
                "expert_top_logprobs": expert_top.values.tolist(),
                "amateur_top_ids": vocabulary.ids_of(amateur_top.indices).tolist(),
                "amateur_top_logprobs": amateur_top.values.tolist(),
                "taken_id": taken.tolist(),
            },
            labels=_labels(
                log_expert[kept],
                log_amateur[kept],
                self._config.plausibility_alpha,
                vocabulary,
                (kept.nonzero()[:, 0] + first).tolist(),
            ),
        )

    def _fitting(self, prompted: Sequence[Prompted]) -> int:
        longest = max((len(item.prompt_ids) for item in prompted), default=1) + self._config.max_new_tokens
        return fitting_rows(self._pair.expert, longest)

    def _rollout(self, item: Prompted, response: list[int], scores: "Scores", mine: slice) -> Rollout:
        columns = {name: values[mine] for name, values in scores.per_step.items() if name != "taken_id"}
        return Rollout(
            question_id=item.problem.id,
            question=item.problem.question,
            prompt_ids=item.prompt_ids,
            response_ids=response,
            finished=bool(response) and response[-1] in self._decoding.stop_ids,
            **columns,
        )


@dataclass(frozen=True)
class Label:
    """A contrastive label and the log-probabilities it came from, over the K plausible tokens."""

    token_ids: list[int]
    weights: list[float]
    expert_logprobs: list[float]
    amateur_logprobs: list[float]


@dataclass(frozen=True)
class Scores:
    """What both models say at every response token of a batch, responses laid end to end.

    Attributes:
        per_step: columns of `Rollout` (and `taken_id`), one value a response token.
        labels: label of each kept step, by its index among all response tokens.
    """

    per_step: dict[str, list[Any]]
    labels: dict[int, Label]

    @classmethod
    def concatenated(cls, chunks: Sequence["Scores"]) -> "Scores":
        """The chunks as one, in order."""
        names = chunks[0].per_step
        return cls(
            {name: [value for chunk in chunks for value in chunk.per_step[name]] for name in names},
            {row: label for chunk in chunks for row, label in chunk.labels.items()},
        )

    def samples(self, question_id: str, rows: slice) -> list[StepSample]:
        """The kept steps of one response, which stands at these rows."""
        at = self.per_step
        return [
            StepSample(
                question_id=question_id,
                position=row - rows.start,
                token_ids=label.token_ids,
                weights=label.weights,
                expert_logprobs=label.expert_logprobs,
                amateur_logprobs=label.amateur_logprobs,
                kl=at["kl"][row],
                expert_entropy=at["expert_entropy"][row],
                amateur_entropy=at["amateur_entropy"][row],
                taken_id=at["taken_id"][row],
                taken_expert_logprob=at["expert_logprob"][row],
                taken_amateur_logprob=at["amateur_logprob"][row],
            )
            for row in range(rows.start, rows.stop)
            if (label := self.labels.get(row)) is not None
        ]


def _labels(
    log_expert: Tensor, log_amateur: Tensor, alpha: float, vocabulary: SharedVocabulary, rows: list[int]
) -> dict[int, Label]:
    """Eq 4–6 for the kept rows, as lists of the plausible tokens only."""
    plausible = contrast.plausible_tokens(log_expert, alpha)
    sizes = plausible.sum(1)
    # Few tokens are plausible: the label is made of the most probable K alone, in the order of their ids.
    columns = log_expert.topk(int(sizes.max()) if rows else 0).indices.sort(1).values
    log_expert, log_amateur, plausible = (every.gather(1, columns) for every in (log_expert, log_amateur, plausible))
    weights = contrast.contrastive_labels(log_expert, log_amateur, plausible)
    values = (vocabulary.ids_of(columns), weights, log_expert, log_amateur)
    per_row = zip(*(part[plausible].cpu().split(sizes.tolist()) for part in values), strict=True)
    return {row: Label(*(part.tolist() for part in parts)) for row, parts in zip(rows, per_row, strict=True)}


def _counts(rollouts: Sequence[Rollout], steps: Sequence[StepSample]) -> dict[str, int]:
    return {
        "questions": len(rollouts),
        "finished_rollouts": sum(rollout.finished for rollout in rollouts),
        "steps": sum(len(rollout.kl) for rollout in rollouts),
        "nonfinite_steps": sum(not _is_finite(value) for rollout in rollouts for value in rollout.kl),
        "kept_steps": len(steps),
        "single_token_labels": sum(len(step.token_ids) == 1 for step in steps),
    }


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")  # False for NaN too


def _check_finite(counts: Mapping[str, int]) -> None:
    if counts.get("nonfinite_steps", 0) > LARGEST_NONFINITE_SHARE * counts.get("steps", 0):
        raise ModelError(
            f"{counts['nonfinite_steps']} of {counts['steps']} steps have NaN or infinite logits; "
            "the models do not work in this precision. Try --dtype float32"
        )
