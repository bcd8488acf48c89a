"""Many texts in one forward pass, packed without padding, with their shared prefix computed once.

All parts of a transformer except attention treat each token alone, so they get the texts as one row of N tokens
(`Layout`). Attention gathers queries, keys and values as [B, T] right-padded texts, where plain causal attention is
exact (a real token never attends to the padding after it), and scatters the result back. A prefix that all texts share
is computed once and gathered B times. Gradients flow through both index operations, so scoring and training use the
same layout.

`packs(model)` tests whether a model can run packed. Other models (sliding windows, custom attention) run padded.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import inf
from os.path import commonprefix
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from lightreasoner.errors import ModelError
from lightreasoner.inference.attention import causal_attention

ATTENTION = "lightreasoner_packed"
TOLERANCE = 1e-3  # relative difference between packed and unpacked logits of a text


# Replaces a model's attention while it runs on a layout. Takes the layer, queries [1, Hq, N, D], keys and values
# [1, Hkv, N, D] of the packed tokens after rotary embedding, and the scale; gives [1, N, Hq, D].
Attention = Callable[[int, Tensor, Tensor, Tensor, float | None], Tensor]


@dataclass(frozen=True)
class Layout:
    """Packed texts, with their shared prefix stored once.

    Attributes:
        input_ids: [1, N].
        position_ids: [1, N]; each text counts from 0.
        packed_index: packed row of token t of text b, [B, T]; any row for padding.
        padded_index: position of each packed row in the flattened padded texts [B·T], [N].
        offsets: token t of text b has packed row offsets[b] + t, for t after the shared prefix, [B].
        shared: length of the shared prefix, in tokens.
    """

    input_ids: Tensor
    position_ids: Tensor
    packed_index: Tensor
    padded_index: Tensor
    offsets: Tensor
    shared: int

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs."""
        return {"input_ids": self.input_ids, "position_ids": self.position_ids}

    def to(self, device: torch.device) -> "Layout":
        """Copy the layout to a device."""
        names = ("input_ids", "position_ids", "packed_index", "padded_index", "offsets")
        copies: dict[str, Any] = dict(zip(names, moved([getattr(self, name) for name in names], device), strict=True))
        return replace(self, **copies)

    def rows(self, texts: Tensor, positions: Tensor) -> Tensor:
        """Packed rows of the tokens at given positions of given texts, [n] each → [n]."""
        return torch.where(positions < self.shared, positions, self.offsets[texts] + positions)

    def gather(self, packed: Tensor) -> Tensor:
        """[1, H, N, D] → right-padded texts [B, H, T, D]."""
        texts, length = self.packed_index.shape
        rows = packed[0].transpose(0, 1).index_select(0, self.packed_index.flatten())
        return rows.view(texts, length, *rows.shape[1:]).transpose(1, 2)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Causal attention within each text; see `Attention`."""
        return self.scatter(causal_attention(self.gather(query), self.gather(key), self.gather(value), scale))

    def scatter(self, padded: Tensor) -> Tensor:
        """[B, H, T, D] → [1, N, H, D], the reverse of `gather`."""
        return padded.transpose(1, 2).flatten(0, 1).index_select(0, self.padded_index)[None]


def moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of one dtype, copied to a device at once: each copy from the host waits for the device."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(device)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def lay_out(texts: Sequence[list[int]], device: torch.device, *, share: bool = True) -> Layout:
    """Pack texts of at least one token each; `share` stores their common prefix once."""
    shared = shared_prefix(texts) if share else 0
    lengths = torch.tensor([len(text) for text in texts])
    ends = shared + torch.cumsum(lengths - shared, 0)
    offsets = ends - lengths
    ids = [*texts[0][:shared], *(token for text in texts for token in text[shared:])]
    columns = torch.arange(int(lengths.max()))
    within = columns < lengths[:, None]
    packed_index = torch.where(columns < shared, columns, offsets[:, None] + columns) * within
    padded_index = torch.zeros(len(ids), dtype=torch.long)
    stored = within & ((columns >= shared) | (torch.arange(len(texts)) == 0)[:, None])
    padded_index[packed_index[stored]] = stored.flatten().nonzero()[:, 0]
    positions = columns.expand(len(texts), -1)[stored]
    return Layout(torch.tensor([ids]), positions[None], packed_index, padded_index, offsets, shared).to(device)


def shared_prefix(texts: Sequence[list[int]]) -> int:
    """Length of the longest common prefix in tokens; 0 for a single text."""
    return len(commonprefix(texts)) if len(texts) > 1 else 0  # noqa: RUF071 - of lists, not of paths


def cut_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group texts into passes of at most `budget` tokens, with the padding of attention counted, longest first.

    Args:
        lengths: tokens of each text.
        budget: tokens of a pass; a longer text is a pass by itself.

    Returns:
        Indices into `lengths`, each once.
    """
    parts: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= budget:
            parts[-1].append(index)
        else:
            parts.append([index])
    return parts


@contextmanager
def attention_by(model: PreTrainedModel, attention: Attention) -> Iterator[None]:
    """Within this context the model's layers use the given attention, and the model builds no mask."""
    config = model.config.get_text_config()
    before, config._attn_implementation = config._attn_implementation, ATTENTION
    _active.append(attention)
    try:
        yield
    finally:
        _active.pop()
        config._attn_implementation = before


def checkpoint_contexts(model: PreTrainedModel) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `torch.utils.checkpoint(context_fn=…)`: the backward pass computes a layer under its first attention."""
    attention = _active[-1] if _active else None
    return nullcontext(), attention_by(model, attention) if attention else nullcontext()


def packs(model: PreTrainedModel) -> bool:
    """Whether the model gives the same logits packed; tested on two short texts, once for each model.

    The test detects attention with more than `Layout.attend` (sinks, soft caps, position biases) by its result. Windows
    are read from the configuration, since they are longer than the texts.

    Raises:
        ModelError: the model reads ahead.
    """
    if model not in known_results:
        training = model.training
        model.eval()  # dropout would make two passes differ
        try:
            _refuse_reading_ahead(model)
            known_results[model] = _matches_unpacked(model)
        finally:
            model.train(training)
    return known_results[model]


# Results of `packs`. Weak references, so that it keeps no model in memory.
known_results: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _refuse_reading_ahead(model: PreTrainedModel) -> None:
    """Find models such as BERT without `is_decoder`, whose logits change with the tokens after them.

    Raises:
        ModelError: no token of theirs can be predicted, or scored.
    """
    ids = torch.tensor([[1, 2, 3, 4, 5]], device=model.device)
    try:
        with torch.inference_mode():
            whole, beginning = (model(input_ids=part, use_cache=False).logits[0, :3] for part in (ids, ids[:, :3]))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):  # shows where the model is used
        return
    difference = (whole.float() - beginning.float()).nan_to_num()
    if float(difference.norm()) > 0.1 * float(beginning.float().nan_to_num().norm()):
        raise ModelError(
            f"{type(model).__name__}: its logits change with the tokens after them, so it is no causal language model "
            "and predicts no next token. Encoders such as BERT are no experts and no amateurs; use a model that "
            "generates text"
        )


def _matches_unpacked(model: PreTrainedModel) -> bool:
    if _has_windows(model.config.get_text_config()) or not getattr(model, "_supports_attention_backend", False):
        return False
    texts = [[1, 2, 3, 4, 5], [1, 2, 4, 3]]
    layout = lay_out(texts, model.device)
    layers: list[int] = []

    def attend(layer: int, *parts: Any) -> Tensor:
        layers.append(layer)
        return layout.attend(layer, *parts)

    try:
        with torch.inference_mode():
            with attention_by(model, attend):
                packed = model(**layout.inputs, use_cache=False).logits[0]
            if len(layers) > len(set(layers)):  # differential attention: two in a layer, and a cache has one for each
                return False
            for index, text in enumerate(texts):
                unpacked = model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0]
                steps = torch.arange(len(text), device=model.device)
                rows = packed[layout.rows(torch.full_like(steps, index), steps)]
                if not same_logits(rows, unpacked):
                    return False
    except (TypeError, ValueError, RuntimeError):  # the model needs its own attention
        return False
    return True


def _has_windows(config: PreTrainedConfig) -> bool:
    """Whether attention may reach fewer tokens than a text has; the texts of the test are too short to show it.

    `layer_types` says so for each layer. Without them a window or chunk counts that is shorter than the longest text,
    since some models apply it by their mask alone (Phi-3.5-MoE).
    """
    if kinds := getattr(config, "layer_types", None):
        return set(kinds) != {"full_attention"}
    longest = getattr(config, "max_position_embeddings", None) or inf
    unused = getattr(config, "use_sliding_window", True) is False
    sizes = [value for name, value in vars(config).items() if re.search("window(_size)?$|chunk_size$", name)]
    return not unused and any(type(size) is int and 0 < size < longest for size in sizes)


def same_logits(found: Tensor, expected: Tensor) -> bool:
    """Whether the logits of two computations differ by rounding only.

    By the norm over all logits: in half precision, another kernel's rounding changes a few logits of a large vocabulary
    by more than a tolerance for each logit could allow.
    """
    tolerance = TOLERANCE if expected.dtype == torch.float32 else 64 * TOLERANCE
    found, expected = found.float(), expected.float()
    return bool((found - expected).nan_to_num().norm() <= tolerance * expected.nan_to_num().norm())


_active: list[Attention] = []


def _dispatch(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **rest: Any
) -> tuple[Tensor, None]:
    """Call the active attention, with the signature that transformers expects."""
    for name in ("softcap", "s_aux", "position_bias"):
        if rest.get(name) is not None:
            raise ValueError(f"attention with {name} cannot be packed")
    longest = getattr(getattr(module, "config", None), "max_position_embeddings", None) or inf
    if (window := rest.get("sliding_window")) is not None and window < longest:
        raise ValueError("attention with windows cannot be packed")
    layer: Any = module.layer_idx
    return _active[-1](layer, query, key, value, scaling), None


# Without a mask function, transformers builds no mask and does not read the positions, which would make the host wait
# for the device in every pass.
AttentionInterface.register(ATTENTION, _dispatch)
