"""Decoding with `generate` of transformers, for models that cannot be packed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from lightreasoner.inference.generation import (
    Decoding,
    Generation,
    TokenIds,
    count_broken,
    left_padded,
    stream_seed,
    text_check,
    until_stop,
)
from lightreasoner.inference.packing import packs, same_logits
from lightreasoner.runs.progress import count_step, count_tokens


@dataclass(frozen=True)
class PaddedEngine:
    """`generate` of transformers on a left-padded batch: slower than `PackedEngine`, but works with any model.

    Attributes:
        tokenizer: used for stop strings only.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `Engine.generate`."""
        responses: list[TokenIds] = [[] for _ in prompts]
        nonfinite = 0
        for part in decoded_together(prompts, self.model):
            rows, broken = self._decode([prompts[index] for index in part], decoding)
            for index, ids in zip(part, rows, strict=True):
                responses[index] = until_stop(ids, decoding, self.tokenizer)
            nonfinite += count_broken(broken, [responses[index] for index in part])
        return Generation(responses, nonfinite=nonfinite)

    def _decode(self, prompts: Sequence[TokenIds], decoding: Decoding) -> tuple[list[TokenIds], torch.Tensor]:
        """The tokens of each row, and which of them were chosen from NaN or infinite logits, bool [B, T]."""
        pad = decoding.stop_ids[0] if decoding.stop_ids else 0
        input_ids, mask = left_padded(prompts, pad, self.model.device)
        sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
        settings = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(decoding.stop_ids) or None,
            pad_token_id=pad,
            do_sample=decoding.temperature > 0,
            **(sampling if decoding.temperature else {}),
        )
        device = self.model.device
        # The generators of the CPU and of Apple's GPUs have no number, and the first is restored anyway.
        numbered = [] if device.type in ("cpu", "mps") else [device]
        with torch.inference_mode(), torch.random.fork_rng(numbered, device_type=device.type):
            torch.manual_seed(stream_seed(decoding.seed, prompts))
            criteria = self._stopping(decoding, input_ids.shape[1])
            count_tokens(sum(map(len, prompts)))
            check = _FiniteCheck()
            output: torch.Tensor = _generate(
                self.model,
                input_ids,
                mask,
                settings,
                stopping_criteria=criteria,
                logits_processor=LogitsProcessorList([check]),
            )
        count_step(0)
        rows: list[TokenIds] = output[:, input_ids.shape[1] :].tolist()
        return rows, torch.stack(check.broken, dim=1)

    def _stopping(self, decoding: Decoding, prompt: int) -> StoppingCriteriaList:
        """Stop texts in the responses, which begin at token `prompt`; and a count of the steps, which stops nothing."""
        count = _StepCount(decoding, self.model.device)
        if not decoding.stop_strings:
            return StoppingCriteriaList([count])
        assert self.tokenizer is not None
        check = text_check(decoding.stop_strings, self.tokenizer)
        return StoppingCriteriaList([count, lambda tokens, scores, **_: check(tokens[:, prompt:], scores)])


class _FiniteCheck(LogitsProcessor):
    """Notes at each step which rows have NaN or infinite logits, without waiting for the device.

    Such a row gets equal logits: drawing from NaN is an error of the device, after which no other row can be read.
    """

    def __init__(self) -> None:
        self.broken: list[torch.Tensor] = []  # of each step, bool [B]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The logits of the other rows as they are: [B, V] → [B, V]."""
        self.broken.append(~scores.amax(-1).isfinite())
        return scores.masked_fill(self.broken[-1][:, None], 0.0)


class _StepCount:
    """Counts the tokens of running rows for the progress. A row that has ended is filled with a stop token."""

    def __init__(self, decoding: Decoding, device: torch.device) -> None:
        # On the CPU only: elsewhere the host would wait for the newest tokens.
        self._stop_ids = torch.tensor(decoding.stop_ids, dtype=torch.long) if device.type == "cpu" else None
        self._running: int | None = None

    def __call__(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Nothing is stopped: bool [B]."""
        rows = len(tokens)
        count_step(rows if self._running is None else self._running)
        if self._stop_ids is not None:
            self._running = rows - int(torch.isin(tokens[:, -1], self._stop_ids).sum())
        return torch.zeros(rows, dtype=torch.bool, device=tokens.device)


def decoded_together(prompts: Sequence[TokenIds], *models: PreTrainedModel) -> list[list[int]]:
    """Indices of the prompts that can share a left-padded batch: all, or those of equal length.

    Args:
        models: one that does not ignore padding (such as RWKV, which has no mask) needs prompts of equal length.
    """
    if all(map(ignores_padding, models)):
        return [list(range(len(prompts)))]
    parts: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        parts.setdefault(len(prompt), []).append(index)
    return list(parts.values())


def ignores_padding(model: PreTrainedModel) -> bool:
    """Whether a left-padded text gets the logits that it gets alone; tested once for each model.

    Tested with 13 tokens of padding, which move the borders of short blocks. Those of compressed layers (DeepSeek-V4)
    may be longer than the test's texts, so models with them count as not ignoring it. So do models in half precision
    that cannot be packed: the tolerance for its rounding could hide what padding does to a recurrent state.
    """
    if model not in known_results:
        kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
        if any("compressed" in kind for kind in kinds):
            known_results[model] = False
            return False
        most = (getattr(model.config.get_text_config(), "max_position_embeddings", None) or 26) - 2
        texts = [([1, 2, 3, 4, 5, 2] * 4)[:most], [2, 4, 3, 5, 1, 3, 2, 2, 4, 1, 5][: max(1, most - 13)]]
        padded, alone = (_first_logits(model, part)[:, -1] for part in (texts, texts[1:]))
        exact = model.dtype == torch.float32
        known_results[model] = same_logits(padded, alone) and (exact or packs(model))
    return known_results[model]


def _first_logits(model: PreTrainedModel, texts: Sequence[TokenIds]) -> torch.Tensor:
    """Logits of the first two tokens that greedy decoding adds: [2, B, width]."""
    input_ids, mask = left_padded(texts, 0, model.device)
    settings = GenerationConfig(max_new_tokens=2, output_logits=True, return_dict_in_generate=True, pad_token_id=0)
    with torch.inference_mode():
        output = _generate(model, input_ids, mask, settings)
    # `generate` gives float32, whatever the model computed in; `same_logits` allows for the rounding of the precision.
    return torch.stack(output.logits).to(model.dtype)


def _generate(
    model: PreTrainedModel, input_ids: torch.Tensor, mask: torch.Tensor, settings: GenerationConfig, **more: Any
) -> Any:
    """`generate` with these settings alone: it fills those that are not set from the model's own, such as a penalty."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        return model.generate(  # type: ignore[operator]
            input_ids, attention_mask=mask, generation_config=settings, **more
        )
    finally:
        model.generation_config = own


# Results of `ignores_padding`. Weak references, so that it keeps no model in memory.
known_results: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
