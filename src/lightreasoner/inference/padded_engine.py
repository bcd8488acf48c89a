"""Decoding with transformers' own `generate`, for models that cannot be packed."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.inference.generation import Decoding, Generation, TokenIds, stream_seed, until_stop


class PaddedEngine:
    """`generate` of transformers, all prompts as one left-padded batch: slower than `decoding`, works with any model.

    Args:
        model: the model.
        tokenizer: its tokenizer; needed for stop strings only.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `Engine.generate`."""
        width = max(map(len, prompts))
        # What a pad position holds does not matter, since the attention mask says which positions are real; the
        # mask is never guessed from the ids, where a pad token may well be a real one.
        pad = decoding.stop_ids[0] if decoding.stop_ids else 0
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        settings = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(decoding.stop_ids) or None,
            pad_token_id=pad,
            stop_strings=list(decoding.stop_strings) or None,
            do_sample=decoding.temperature > 0,
            **(
                {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
                if decoding.temperature
                else {}
            ),
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(stream_seed(decoding.seed, prompts))
            output: torch.Tensor = self._model.generate(  # type: ignore[operator]
                input_ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                generation_config=settings,
                **({"tokenizer": self._tokenizer} if decoding.stop_strings else {}),
            )
        rows = output[:, width:].tolist()
        return Generation([until_stop(ids, decoding, self._tokenizer) for ids in rows])
