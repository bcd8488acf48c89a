"""Contrastive decoding (arXiv 2210.15097, 2309.09117): the contrast at inference, a baseline without training.

Expert and amateur decode the same tokens. Among the expert's plausible tokens (Eq 4), the one with the highest
log-ratio log π_E − log π_A is next: the most probable token of the label that fine-tuning learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from lightreasoner import contrast
from lightreasoner.inference.generation import (
    Decoding,
    Generation,
    StopCheck,
    TokenIds,
    count_broken,
    left_padded,
    steps_between_checks,
    until_stop,
)
from lightreasoner.inference.packed_engine import COMPACT_AT
from lightreasoner.inference.padded_engine import decoded_together
from lightreasoner.models.pairs import Pair
from lightreasoner.runs.progress import count_step, count_tokens


@dataclass(frozen=True)
class ContrastiveEngine:
    """Greedy contrastive decoding of one left-padded batch, which finished rows leave, with a KV cache for each model.

    Attributes:
        alpha: α of Eq 4, the least share of the expert's top probability for a plausible token.
        tokenizer: the expert's; used for stop strings only.
    """

    pair: Pair
    alpha: float
    tokenizer: PreTrainedTokenizerBase

    @torch.inference_mode()
    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `inference.generation.Engine.generate`; temperature, top_p and seed are not used."""
        responses: list[TokenIds] = [[] for _ in prompts]
        nonfinite = 0
        for part in decoded_together(prompts, self.pair.expert, self.pair.amateur):
            rows, broken = self._decode([prompts[index] for index in part], decoding)
            for index, ids in zip(part, rows, strict=True):
                responses[index] = until_stop(ids, decoding, self.tokenizer)
            nonfinite += count_broken(broken, [responses[index] for index in part])
        return Generation(responses, nonfinite=nonfinite)

    def _decode(self, prompts: Sequence[TokenIds], decoding: Decoding) -> tuple[list[TokenIds], Tensor]:
        """The tokens of each row, and which of them were chosen from NaN or infinite logits, bool [B, T]."""
        input_ids, mask = left_padded(prompts, 0, self.pair.expert.device)
        decoders = [_Decoder(model, mask.to(model.device)) for model in (self.pair.expert, self.pair.amateur)]
        tokens = torch.full((len(prompts), decoding.max_new_tokens), -1, device=mask.device)
        broken = torch.zeros_like(tokens, dtype=torch.bool)
        rows = torch.arange(len(prompts), device=mask.device)  # of the prompts in the batch
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=mask.device)
        stop_check = StopCheck(decoding, self.tokenizer, mask.device)
        length, running = 0, len(prompts)  # running: as far as the host knows
        count_tokens(sum(map(len, prompts)))
        while running and length < decoding.max_new_tokens:
            chosen, finite = self._next(*(decoder.logits(input_ids).to(mask.device) for decoder in decoders))
            input_ids = chosen[:, None]
            tokens[rows, length], broken[rows, length] = chosen, ~finite
            length += 1
            count_step(running)
            finished |= stop_check(tokens[rows, :length])
            if length % steps_between_checks(mask.device):
                continue
            running = int((~finished).sum())
            if running <= COMPACT_AT * len(rows) and all(decoder.can_drop_rows for decoder in decoders):
                left = (~finished).nonzero()[:, 0]
                rows, finished, input_ids = rows[left], finished[left], input_ids[left]
                for decoder in decoders:
                    decoder.keep(left)
        count_step(0)
        return [[token for token in row if token >= 0] for row in tokens.tolist()], broken

    def _next(self, expert_logits: Tensor, amateur_logits: Tensor) -> tuple[Tensor, Tensor]:
        """The next token of each row, and whether the logits are finite: [B, width] each → [B], bool [B]."""
        vocabulary = self.pair.vocabulary
        log_expert, log_amateur = vocabulary.log_softmax(expert_logits), vocabulary.log_softmax(amateur_logits)
        plausible = contrast.plausible_tokens(log_expert, self.alpha)
        label = contrast.contrastive_labels(log_expert, log_amateur, plausible)
        finite = log_expert.amax(-1).isfinite() & log_amateur.amax(-1).isfinite()
        return vocabulary.ids_of(label.argmax(-1)), finite


class _Decoder:
    """One model on growing texts, with its cache.

    The model itself names its cache and passes it on, as in `generate` of transformers: the names differ between models
    and versions. A model that gives no cache reads the whole texts again at each step.
    """

    def __init__(self, model: PreTrainedModel, mask: Tensor) -> None:
        self._model: Any = model
        self._ids = mask[:, :0]
        self._has_cache = False  # not before the first pass
        self._inputs: dict[str, Any] = {"attention_mask": mask, "use_cache": True}
        accepted = signature(model.forward).parameters
        if "position_ids" in accepted:
            self._inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if "logits_to_keep" in accepted:
            self._inputs["logits_to_keep"] = 1
        self._without_cache = frozenset(self._inputs)

    @property
    def can_drop_rows(self) -> bool:
        """Whether rows can leave: the cache is one of attention alone, whose rows are independent."""
        caches = [value for name, value in self._inputs.items() if name not in self._without_cache]
        return len(caches) == 1 and all(type(layer) is DynamicLayer for layer in getattr(caches[0], "layers", [None]))

    def keep(self, rows: Tensor) -> None:
        """Keep only these texts."""
        rows = rows.to(self._ids.device)
        self._ids = self._ids[rows]
        for name, value in self._inputs.items():
            if name not in self._without_cache:
                value.batch_select_indices(rows)
            elif isinstance(value, Tensor):
                self._inputs[name] = value[rows]

    def logits(self, new_ids: Tensor) -> Tensor:
        """Logits after all texts so far and these tokens: [B, n] → [B, width]."""
        self._ids = torch.cat([self._ids, new_ids.to(self._ids.device)], dim=1)
        ids = self._ids[:, -new_ids.shape[1] :] if self._has_cache else self._ids
        is_first = not self._has_cache
        inputs = self._model.prepare_inputs_for_generation(ids, is_first_iteration=is_first, **self._inputs)
        output = self._model(**inputs, return_dict=True)
        self._inputs = self._model._update_model_kwargs_for_generation(output, self._inputs)
        self._has_cache = self._inputs["use_cache"] = self._inputs.keys() > self._without_cache
        logits: Tensor = output.logits[:, -1]
        return logits
