"""Contrastive decoding (arXiv 2210.15097, 2309.09117): the contrast at inference, a baseline without training.

Expert and amateur decode the same tokens. Among the expert's plausible tokens (Eq 4), the one with the highest
log-ratio log π_E − log π_A is next: the most probable token of the label that fine-tuning learns.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightreasoner import contrast
from lightreasoner.inference.generation import Decoding, Generation, TokenIds, left_padded
from lightreasoner.models.loading import Pair

TAIL = 32  # tokens at the end of a response in which stop strings are searched


class ContrastiveEngine:
    """Greedy contrastive decoding of one left-padded batch, with a KV cache for each model.

    Args:
        pair: expert and amateur.
        alpha: α of Eq 4, the least share of the expert's top probability for a plausible token.
        tokenizer: the expert's; used for stop strings only.
    """

    def __init__(self, pair: Pair, alpha: float, tokenizer: PreTrainedTokenizerBase) -> None:
        self._pair = pair
        self._alpha = alpha
        self._tokenizer = tokenizer

    @torch.inference_mode()
    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `inference.generation.Engine.generate`; temperature, top_p and seed are not used."""
        input_ids, mask = left_padded(prompts, 0, self._pair.expert.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        caches: list[Any] = [None, None]
        responses: list[TokenIds] = [[] for _ in prompts]
        running = list(range(len(prompts)))
        for _ in range(decoding.max_new_tokens):
            chosen = self._next(input_ids, mask, positions, caches)
            for row, token in enumerate(chosen.tolist()):
                if row in running:
                    responses[row].append(token)
            running = [row for row in running if not self._has_ended(responses[row], decoding)]
            if not running:
                break
            input_ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(chosen)[:, None]], dim=1)
        return Generation(responses)

    def _next(self, input_ids: Tensor, mask: Tensor, positions: Tensor, caches: list[Any]) -> Tensor:
        """The next token of each row, [B]; updates the caches."""
        log_probs: list[Tensor] = []
        for index, model in enumerate((self._pair.expert, self._pair.amateur)):
            output = model(
                input_ids=input_ids.to(model.device),
                attention_mask=mask.to(model.device),
                position_ids=positions.to(model.device),
                past_key_values=caches[index],
                use_cache=True,
                logits_to_keep=1,
            )
            caches[index] = output.past_key_values
            log_probs.append(self._pair.vocabulary.log_softmax(output.logits[:, -1]).to(input_ids.device))
        log_expert, log_amateur = log_probs
        plausible = contrast.plausible_tokens(log_expert, self._alpha)
        label = contrast.contrastive_labels(log_expert, log_amateur, plausible)
        return self._pair.vocabulary.ids_of(label.argmax(-1))

    def _has_ended(self, response: TokenIds, decoding: Decoding) -> bool:
        if response[-1] in decoding.stop_ids:
            return True
        if not decoding.stop_strings:
            return False
        tail = str(self._tokenizer.decode(response[-TAIL:], skip_special_tokens=True))
        return any(stop in tail for stop in decoding.stop_strings)
