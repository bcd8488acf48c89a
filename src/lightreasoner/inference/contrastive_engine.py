"""Contrastive decoding (arXiv 2210.15097, 2309.09117): the contrast at inference, a baseline without training.

Expert and amateur decode the same tokens. Among the expert's plausible tokens (Eq 4), the one with the highest
log-ratio log π_E − log π_A is next: the most probable token of the label that fine-tuning learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightreasoner import contrast
from lightreasoner.inference.generation import Decoding, Generation, StopCheck, TokenIds, left_padded, until_stop
from lightreasoner.models.loading import Pair


@dataclass(frozen=True)
class ContrastiveEngine:
    """Greedy contrastive decoding of one left-padded batch, with a KV cache for each model.

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
        input_ids, mask = left_padded(prompts, 0, self.pair.expert.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        caches: list[Any] = [None, None]
        tokens = input_ids[:, :0]
        finished = torch.zeros(len(prompts), dtype=torch.bool, device=mask.device)
        stop_check = StopCheck(decoding, self.tokenizer, mask.device)
        while tokens.shape[1] < decoding.max_new_tokens and not finished.all():
            input_ids = self._next(input_ids, mask, positions, caches)[:, None]
            tokens, mask = torch.cat([tokens, input_ids], dim=1), torch.cat([mask, torch.ones_like(input_ids)], dim=1)
            positions = positions[:, -1:] + 1
            finished |= stop_check(tokens)
        return Generation([until_stop(row, decoding, self.tokenizer) for row in tokens.tolist()])

    def _next(self, input_ids: Tensor, mask: Tensor, positions: Tensor, caches: list[Any]) -> Tensor:
        """The next token of each row, [B]; updates the caches."""
        log_probs: list[Tensor] = []
        for index, model in enumerate((self.pair.expert, self.pair.amateur)):
            output = model(
                input_ids=input_ids.to(model.device),
                attention_mask=mask.to(model.device),
                position_ids=positions.to(model.device),
                past_key_values=caches[index],
                use_cache=True,
                logits_to_keep=1,
            )
            caches[index] = output.past_key_values
            log_probs.append(self.pair.vocabulary.log_softmax(output.logits[:, -1]).to(input_ids.device))
        log_expert, log_amateur = log_probs
        plausible = contrast.plausible_tokens(log_expert, self.alpha)
        label = contrast.contrastive_labels(log_expert, log_amateur, plausible)
        return self.pair.vocabulary.ids_of(label.argmax(-1))
