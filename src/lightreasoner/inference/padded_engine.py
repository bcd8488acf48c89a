"""Decoding with `generate` of transformers, for models that cannot be packed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.inference.generation import Decoding, Generation, TokenIds, left_padded, stream_seed, until_stop


@dataclass(frozen=True)
class PaddedEngine:
    """`generate` of transformers on one left-padded batch: slower than `PackedEngine`, but works with any model.

    Attributes:
        tokenizer: used for stop strings only.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `Engine.generate`."""
        pad = decoding.stop_ids[0] if decoding.stop_ids else 0
        input_ids, mask = left_padded(prompts, pad, self.model.device)
        sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(decoding.stop_ids) or None,
            pad_token_id=pad,
            stop_strings=list(decoding.stop_strings) or None,
            do_sample=decoding.temperature > 0,
            **(sampling if decoding.temperature else {}),
        )
        device = self.model.device
        numbered = (
            [] if device.type in ("cpu", "mps") else [device]
        )  # Apple's GPUs have one generator, without a number
        forked = torch.random.fork_rng(numbered, device_type=device.type)
        with torch.inference_mode(), forked, without_own_settings(self.model):
            torch.manual_seed(stream_seed(decoding.seed, prompts))
            output: torch.Tensor = self.model.generate(  # type: ignore[operator]
                input_ids,
                attention_mask=mask,
                generation_config=settings,
                **({"tokenizer": self.tokenizer} if decoding.stop_strings else {}),
            )
        rows = output[:, input_ids.shape[1] :].tolist()
        return Generation([until_stop(ids, decoding, self.tokenizer) for ids in rows])


@contextmanager
def without_own_settings(model: PreTrainedModel) -> Iterator[None]:
    """Within this context `generate` sees no setting that comes with the model, such as a penalty or an EOS.

    `generate` fills what a given config leaves open from the model's own, which `Decoding` promises to ignore.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
