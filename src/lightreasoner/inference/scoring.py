"""Next-token distributions of one model at chosen positions of given texts, without a [B, T, V] tensor.

Scoring and training run the LM head on chosen rows only. A hook before the head selects them from the hidden states, so
the model's forward (including later steps on the logits, such as Gemma's soft cap) runs unchanged around it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightreasoner.errors import ModelError
from lightreasoner.inference.packing import attention_by, cut_by_tokens, lay_out, moved, packs
from lightreasoner.models.own_amateurs import dropout_of
from lightreasoner.runs.progress import count_tokens

# Logits in memory at a time, per model: 32 MiB in float32 on a CPU, 256 MiB on accelerators.
HEAD_ELEMENTS = {"cpu": 1 << 23}
# Logits per step of the contrast; on a CPU, as many as fit in its cache.
CONTRAST_ELEMENTS = {"cpu": 1 << 19}
ON_ACCELERATORS = 1 << 26


@contextmanager
def head_rows(head: nn.Module, rows: Tensor, seen: list[Tensor] | None = None) -> Iterator[None]:
    """Within this context the LM head computes only the given rows of its input.

    Args:
        head: the model's output embedding module.
        rows: indices into the [B·T, H] hidden states, int64 [N]; the logits become [1, N, V].
        seen: receives all hidden states, [B·T, H], if given.
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
class Head:
    """The LM head of a model, and the steps that some architectures add after it. Keeps no other part of the model.

    Attributes:
        module: the output embeddings, hidden states [N, H] → logits [N, width].
        config: the model's text configuration, which says what follows.
    """

    module: nn.Module
    config: Any

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Head":
        """The head of this model."""
        return cls(model.get_output_embeddings(), model.config.get_text_config())

    @property
    def weight(self) -> Tensor:
        """The head's matrix, [width, H]."""
        matrix: Any = self.module.weight
        return cast(Tensor, matrix)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits of these hidden states: [N, H] → [N, width]."""
        logits: Tensor = self.module(hidden)
        for name in ("logit_scale", "lm_head_multiplier"):  # Cohere, Falcon-H1
            if scale := getattr(self.config, name, None):
                logits = logits * scale
        scaling = getattr(self.config, "logits_scaling", None)
        if scaling and self.config.model_type == "hyperclovax":
            logits = logits * scaling
        elif scaling and self.config.model_type != "minicpm3":  # Granite; MiniCPM3 divides what enters the head
            logits = logits / scaling
        for name in ("final_logit_softcapping", "logits_soft_cap"):  # Gemma 2 and 3, RecurrentGemma
            if cap := getattr(self.config, name, None):
                logits = torch.tanh(logits / cap) * cap
        return logits


@dataclass(frozen=True)
class ResponseStates:
    """Hidden states of one model that predict the response tokens of a batch.

    Attributes:
        head: the head of the model that computed them.
        hidden: [N, H], all responses concatenated; row n predicts the n-th response token.
    """

    head: Head
    hidden: Tensor

    @torch.inference_mode()
    def logits(self, rows: slice) -> Tensor:
        """Logits of some response tokens: [n, width]."""
        return self.head(self.hidden[rows])


def response_states(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    keys: Sequence[str] | None = None,
) -> ResponseStates:
    """Run the model on prompt + response (teacher forcing), in passes of several texts.

    With prompt length P, position P − 1 + t predicts response token t (0-based), so the prompt's last position predicts
    the first one.

    Args:
        prompts: prompt ids of each text, at least one id each.
        responses: response ids of each text, at least one id each.
        keys: what decides the random numbers of each text, for a model with dropout.

    Raises:
        ModelError: the model changes its logits in a way that this module does not support.
    """
    texts = [[*prompt, *response[:-1]] for prompt, response in zip(prompts, responses, strict=True)]
    per_text: list[Tensor] = [torch.empty(0)] * len(texts)
    for part in cut_by_tokens([len(text) for text in texts], tokens_per_pass(model)):
        lengths = [len(responses[index]) for index in part]
        starts = [len(prompts[index]) - 1 for index in part]
        chosen = None if keys is None else [keys[index] for index in part]
        states = _states(model, [texts[index] for index in part], starts, lengths, chosen)
        for index, text_states in zip(part, states.split(lengths), strict=True):
            per_text[index] = text_states
        count_tokens(sum(len(texts[index]) for index in part))
    return ResponseStates(Head.of(model), torch.cat(per_text))


def row_chunks(rows: int, width: int, device: torch.device, for_head: bool = False) -> Iterator[slice]:
    """Cut N rows of logits, [N, width], into chunks that suit the device; 0 rows give one empty chunk."""
    elements = (HEAD_ELEMENTS if for_head else CONTRAST_ELEMENTS).get(device.type, ON_ACCELERATORS)
    chunk = max(1, elements // width)
    return (slice(start, min(start + chunk, rows)) for start in range(0, max(1, rows), chunk))


def tokens_per_pass(model: PreTrainedModel) -> int:
    """Tokens in a forward pass: enough to keep the device busy, few enough to keep activations small."""
    return 2048 if model.device.type == "cpu" else 16384


@torch.inference_mode()
def _states(
    model: PreTrainedModel,
    texts: Sequence[list[int]],
    starts: Sequence[int],
    lengths: Sequence[int],
    keys: Sequence[str] | None = None,
) -> Tensor:
    """Hidden states of each text from its start, for its length; packed if the model packs, else right-padded."""
    text_of = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor(lengths))
    spans = zip(starts, lengths, strict=True)
    positions = torch.cat([torch.arange(start, start + length) for start, length in spans])
    text_of, positions = moved([text_of, positions], model.device)
    dropout = dropout_of(model) if keys is not None else None
    keyed = [(key, len(text)) for key, text in zip(keys or (), texts, strict=False)]
    if packs(model):
        layout = lay_out(texts, model.device, share=dropout is None)  # texts under dropout share no hidden state
        with attention_by(model, layout.attend), dropout.on(keyed, None) if dropout else nullcontext():
            return _checked_states(model, layout.rows(text_of, positions), **layout.inputs)
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=model.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=model.device)
    with dropout.on(keyed, width) if dropout else nullcontext():
        return _checked_states(model, text_of * width + positions, input_ids=ids, attention_mask=mask)


def _checked_states(model: PreTrainedModel, rows: Tensor, **inputs: Tensor) -> Tensor:
    """Hidden states at these rows; checks on one of them that `Head` gives the model's logits."""
    seen: list[Tensor] = []
    head = Head.of(model)
    with head_rows(head.module, rows[:1], seen):
        reference = model(**inputs, use_cache=False).logits[0]
    hidden = seen[0].index_select(0, rows)
    tolerance = 1e-3 if reference.dtype == torch.float32 else 5e-2  # a unit of bfloat16 is up to 1/128 of a value
    if not torch.allclose(head(hidden[:1]), reference, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ModelError(
            f"{type(model).__name__} changes its logits after the LM head in an unsupported way, so its distributions "
            "cannot be scored row by row; use another model"
        )
    return hidden
