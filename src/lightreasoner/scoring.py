"""Next-token distributions of one model at chosen positions of given texts, never a [B, T, V] tensor.

The trick that both scoring and training rest on: the LM head is made to see only the rows that matter. A hook in
front of it picks them from the hidden states, so the model's own forward (with whatever it does to logits
afterwards, such as Gemma's soft cap) runs unchanged around it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightreasoner.errors import ModelError

ROW_CHUNK_ELEMENTS = 1 << 26  # logits held at a time, per model: 256 MiB in float32


@contextmanager
def head_rows(head: nn.Module, rows: Tensor, seen: list[Tensor] | None = None) -> Iterator[None]:
    """Within this context the LM head sees only the given rows of its input.

    Args:
        head: the model's output embedding module.
        rows: indices into the [B·T, H] hidden states, int64 [N]; the logits come out as [1, N, V].
        seen: gets all hidden states, [B·T, H], if given.
    """

    def pick(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        hidden = inputs[0].flatten(0, 1)
        if seen is not None:
            seen.append(hidden)
        return (hidden.index_select(0, rows)[None],)

    handle = head.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class ResponseStates:
    """Hidden states of one model that predict the response tokens of a batch, and the way to their logits.

    Attributes:
        model: the model they come from.
        hidden: [N, H], all responses laid end to end; row n predicts the n-th response token.
    """

    model: PreTrainedModel
    hidden: Tensor

    @torch.inference_mode()
    def logits(self, rows: slice) -> Tensor:
        """Logits for some of the response tokens: [n, width]."""
        return _logits(self.model, self.hidden[rows])


@torch.inference_mode()
def response_states(
    model: PreTrainedModel, prompts: Sequence[list[int]], responses: Sequence[list[int]]
) -> ResponseStates:
    """Run the model once over prompt + response (teacher forcing).

    With prompt length P, response token t (0-based) is predicted by position P − 1 + t, the first by the prompt's
    last position.

    Args:
        model: expert or amateur.
        prompts: prompt ids of each text, at least one id each.
        responses: response ids of each text.

    Raises:
        ModelError: the model does something to its logits that this module does not know of.
    """
    texts = [[*prompt, *response[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    width = max(map(len, texts))
    input_ids = torch.tensor([ids + [0] * (width - len(ids)) for ids in texts], device=model.device)
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in texts], device=model.device)
    rows = torch.tensor(
        [
            text * width + len(prompt) - 1 + step
            for text, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
            for step in range(len(response))
        ],
        dtype=torch.long,
        device=model.device,
    )
    seen: list[Tensor] = []
    head: Any = model.get_output_embeddings()
    with head_rows(head, rows[:1], seen):
        reference = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits[0]
    hidden = seen[0].index_select(0, rows)
    if not torch.allclose(_logits(model, hidden[:1]), reference, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the LM head in a way that is not known here; "
            "its distributions cannot be scored row by row"
        )
    return ResponseStates(model, hidden)


def _logits(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """The LM head and what some architectures do after it."""
    head: Any = model.get_output_embeddings()
    logits: Tensor = head(hidden)
    config = model.config.get_text_config()
    if scale := getattr(config, "logit_scale", None):  # Cohere
        logits = logits * scale
    if divisor := getattr(config, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if cap := getattr(config, "final_logit_softcapping", None):  # Gemma 2 and 3
        logits = torch.tanh(logits / cap) * cap
    return logits
