"""Scores of both models at every token of a rollout, and the labels of Eq 4 to 6."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from lightreasoner import contrast
from lightreasoner.config import SampleConfig
from lightreasoner.errors import ModelError
from lightreasoner.inference.generation import Generation
from lightreasoner.inference.residency import LazyPair
from lightreasoner.inference.scoring import response_states, row_chunks
from lightreasoner.models.pairs import Pair
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.models.vocabulary import AlignedVocabulary, SharedVocabulary
from lightreasoner.runs.progress import say
from lightreasoner.runs.work import Commit
from lightreasoner.samples import folder
from lightreasoner.samples.aligning import (
    JUDGED_FROM,
    Scored,
    aligned_counts,
    at_all_steps,
    check_alignment,
    read_by_amateur,
)
from lightreasoner.samples.folder import PER_LABEL, PER_STEP, PER_TOP, Ragged
from lightreasoner.samples.responses import Generated, Prompted, PromptWork, ResponseSource
from lightreasoner.samples.statistics import MASSES

LARGEST_NONFINITE_SHARE = 0.01  # of steps whose distributions hold NaN or infinity


# Both models at the N response tokens of a batch, one rollout after another, by column:
#   PER_STEP      [N]
#   PER_TOP       [N, k]
#   kept_rows     [S]              index of each kept step among the N
#   label_sizes   [S]              tokens in its label
#   PER_LABEL     [sum of sizes]   one label after another
Scores = dict[str, Tensor]


class TooManyNonfinite(ModelError):
    """Too many distributions hold NaN or infinity."""


class Sampler(PromptWork[Scored]):
    """Scores the expert's responses with both models, and makes labels of the steps that are kept."""

    label = "sampling"
    passes = 1.0  # of the amateur

    def __init__(self, pair: Pair | LazyPair, responses: ResponseSource, config: SampleConfig) -> None:
        self.longest = config.max_new_tokens
        self.pair = pair
        self._responses = responses
        self._config = config
        left_out = pair.vocabulary.left_out
        if pair.alignment is not None:
            say(
                f"the amateur has another tokenizer: {len(pair.vocabulary.token_ids):,} of the expert's tokens are the "
                "same bytes to it, and steps are scored where a token of both begins"
            )
        elif left_out:
            say(
                f"{left_out} token ids mean different things to the two models: left out of both distributions. "
                "Where a prompt holds one, the amateur reads another token there"
            )

    @classmethod
    def of(cls, pair: Pair, template: PromptTemplate, stops: Stops, config: SampleConfig) -> "Sampler":
        """A sampler of responses that the fastest engine for the expert generates."""
        return cls(pair, Generated.of(pair, template, stops, config), config)

    def run(self, batch: Sequence[Prompted]) -> list[Scored]:
        """Rollouts, scores and labels of a batch, as one shard."""
        made = self._responses(batch)
        others = [item.prompt_ids if item.amateur_ids is None else item.amateur_ids for item in batch]
        keys = [f"{self._config.seed} {item.problem.id}" for item in batch]
        scores = self.score([item.prompt_ids for item in batch], made.generation, others, keys)
        return [self._shard(batch, made.generation.responses, made.finished, scores)]

    def commit(self, batch: Sequence[Prompted], results: list[Scored]) -> Commit:
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
        if self.pair.alignment is not None:
            counts |= aligned_counts(results)
            counts["steps"] -= counts["unaligned_steps"]
            counts["nonfinite_steps"] -= counts["unaligned_steps"]
        return Commit({"rollouts": rollouts, "steps": labels}, counts)

    def note(self, counts: Mapping[str, int]) -> str:
        """Kept steps so far; raises where too many are not finite, or too few are aligned."""
        check_finite(counts)
        if counts["steps"] + counts.get("unaligned_steps", 0) >= JUDGED_FROM:
            check_alignment(counts, self._config)
        return f"{counts['kept_steps']} steps kept"

    def score(
        self,
        prompts: Sequence[list[int]],
        generation: Generation,
        others: Sequence[list[int]] | None = None,
        keys: Sequence[str] | None = None,
    ) -> Scores:
        """Both models on the same responses, then the contrast in row chunks.

        The amateur takes one teacher-forced pass over the texts. So does the expert, unless the engine kept the states
        that chose the tokens.

        Args:
            prompts: what the expert reads before each response.
            generation: the responses.
            others: what the amateur reads there; None: the same.
            keys: see `response_states`.
        """
        responses, others = generation.responses, prompts if others is None else others
        expert = generation.states or response_states(self.pair.expert, prompts, responses)
        device = expert.hidden.device
        tokens = [token for response in responses for token in response]
        taken = torch.tensor(tokens, dtype=torch.long, device=device)
        aligned, alignment = None, self.pair.alignment
        if alignment is None:
            amateur = response_states(self.pair.amateur, others, responses, keys)
        else:
            context = self.pair.context_length
            readings = [alignment.read(*texts, context) for texts in zip(others, responses, strict=True)]
            amateur, aligned = read_by_amateur(self.pair.amateur, readings)
            aligned = aligned.to(device)
            expert, taken = replace(expert, hidden=expert.hidden[aligned]), taken[aligned]
        width = self.pair.vocabulary.widest
        chunks = []
        # The LM head is fastest on large chunks, the contrast on chunks that fit the processor's cache.
        for head_chunk in row_chunks(len(taken), width, device, for_head=True):
            expert_logits, amateur_logits = expert.logits(head_chunk), amateur.logits(head_chunk).to(device)
            for chunk in row_chunks(head_chunk.stop - head_chunk.start, width, device):
                rows = slice(head_chunk.start + chunk.start, head_chunk.start + chunk.stop)
                chunks.append(self._contrast(expert_logits[chunk], amateur_logits[chunk], taken[rows], rows.start))
        scores = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        return scores if aligned is None else at_all_steps(scores, aligned, len(tokens))

    @torch.inference_mode()
    def _contrast(self, expert_logits: Tensor, amateur_logits: Tensor, taken: Tensor, first: int) -> Scores:
        """Eq 2–6 for some response tokens; `first` is the index of the first one."""
        vocabulary, config = self.pair.vocabulary, self._config
        log_expert = vocabulary.log_softmax(expert_logits)
        log_amateur = vocabulary.amateur_log_softmax(amateur_logits)
        kl = contrast.kl_divergence(log_expert, log_amateur)
        beta = config.divergence_beta
        kept = contrast.select_steps(kl, -torch.inf if beta is None else beta) & kl.isfinite()
        kept &= vocabulary.holds(taken)
        # Once: the host waits for the device wherever a mask becomes rows.
        kept_rows = kept.nonzero()[:, 0]
        count = min(config.top_tokens, log_expert.shape[1])
        masses = {}
        if isinstance(vocabulary, AlignedVocabulary):
            masses = dict(zip(MASSES, vocabulary.masses(expert_logits, amateur_logits), strict=True))
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
            **masses,
            "kept_rows": kept_rows + first,
            **_labels(log_expert[kept_rows], log_amateur[kept_rows], config.plausibility_alpha, vocabulary),
        }

    def _shard(
        self, batch: Sequence[Prompted], responses: Sequence[list[int]], finished: list[bool], scores: Scores
    ) -> Scored:
        columns = {name: values.cpu().numpy() for name, values in scores.items()}
        lengths = [len(response) for response in responses]
        rollouts = folder.table_of(
            folder.Rollout,
            {
                "question_id": [item.problem.id for item in batch],
                "question": [item.problem.question for item in batch],
                "prompt_ids": [item.trained_ids or item.prompt_ids for item in batch],
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
        masses = [float(np.nansum(columns[name], dtype=np.float64)) for name in MASSES if name in columns]
        return Scored(rollouts, labels, (masses[0], masses[1]) if masses else None)


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
