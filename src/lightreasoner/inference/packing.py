"""Many texts in one forward pass, end to end: no padding, and what all of them begin with only once.

Everything in a transformer but attention treats each token alone, so these parts see the texts as one row of N tokens
(`Layout`). Only attention needs to know the texts apart: it gathers queries, keys and values as [B, T] right-padded
texts, where plain causal attention is exact (a real token never looks at the padding behind it), and puts the result
back. A beginning that all texts share is computed once and gathered B times; gradients flow through both index
operations, so the same layout serves scoring and training.

`packs(model)` says whether a model can be run so; those that cannot (sliding windows, attention that is not
transformers' own) take the padded way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import commonprefix
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

ATTENTION = "lightreasoner_packed"
TOLERANCE = 1e-3  # relative difference of all logits of a text, in the trial run of `packs`


class Attention(Protocol):
    """What stands in for a model's attention while it runs on a layout.

    Queries [1, Hq, N, D], keys and values [1, Hkv, N, D] of the packed tokens, rotary embedding applied; gives
    [1, N, Hq, D].
    """

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """The attention's output."""
        ...


@dataclass(frozen=True)
class Layout:
    """Texts laid end to end, a shared beginning once.

    Attributes:
        input_ids: [1, N].
        position_ids: [1, N]; each text counts from 0.
        places: packed row of token t of text b, [B, T]; any row past a text's end.
        home: for each packed row, where it stands in the flattened [B·T], [N].
        offsets: packed row of text b's token t is offsets[b] + t, for t outside the shared beginning, [B].
        shared: number of tokens that all texts begin with and that are stored once.
    """

    input_ids: Tensor
    position_ids: Tensor
    places: Tensor
    home: Tensor
    offsets: Tensor
    shared: int

    def to(self, device: torch.device) -> "Layout":
        """The layout on another device."""
        ids, positions, places, home, offsets = (
            tensor.to(device) for tensor in (self.input_ids, self.position_ids, self.places, self.home, self.offsets)
        )
        return Layout(ids, positions, places, home, offsets, self.shared)

    def rows(self, texts: Tensor, positions: Tensor) -> Tensor:
        """Packed rows of the tokens at these positions of these texts, [n] each → [n]."""
        return torch.where(positions < self.shared, positions, self.offsets[texts] + positions)

    def gather(self, packed: Tensor) -> Tensor:
        """[1, H, N, D] → right-padded texts [B, H, T, D]."""
        texts, length = self.places.shape
        rows = packed[0].transpose(0, 1).index_select(0, self.places.flatten())
        return rows.view(texts, length, *rows.shape[1:]).transpose(1, 2)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Causal attention within each text; see `Attention`."""
        return self.scatter(causal_attention(self.gather(query), self.gather(key), self.gather(value), scale))

    def scatter(self, padded: Tensor) -> Tensor:
        """[B, H, T, D] → [1, N, H, D], the reverse of `gather`."""
        return padded.transpose(1, 2).flatten(0, 1).index_select(0, self.home)[None]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of right-padded texts, [B, H, T, D]; fewer key heads than query heads serve several each."""
    return nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


def lay_out(texts: Sequence[list[int]], device: torch.device) -> Layout:
    """Pack texts of at least one token each."""
    shared = shared_beginning(texts)
    lengths = torch.tensor([len(text) for text in texts])
    ends = shared + torch.cumsum(lengths - shared, 0)
    offsets = ends - lengths
    ids = [*texts[0][:shared], *(token for text in texts for token in text[shared:])]
    columns = torch.arange(int(lengths.max()))
    within = columns < lengths[:, None]
    places = torch.where(columns < shared, columns, offsets[:, None] + columns) * within
    home = torch.zeros(len(ids), dtype=torch.long)
    stored = within & ((columns >= shared) | (torch.arange(len(texts)) == 0)[:, None])
    home[places[stored]] = stored.flatten().nonzero()[:, 0]
    positions = columns.expand(len(texts), -1)[stored]
    return Layout(
        input_ids=torch.tensor([ids], device=device),
        position_ids=positions[None].to(device),
        places=places.to(device),
        home=home.to(device),
        offsets=offsets.to(device),
        shared=shared,
    )


def shared_beginning(texts: Sequence[list[int]]) -> int:
    """How many tokens all texts begin with; 0 for a single text, which shares with nobody."""
    return len(commonprefix(texts)) if len(texts) > 1 else 0  # noqa: RUF071 - of lists, not of paths


def cut_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Deal texts out to passes of at most `budget` tokens, padding of the attention included, longest first.

    Args:
        lengths: tokens of each text.
        budget: tokens of a pass; a longer text has a pass of its own.

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
    """Within this context the model's layers attend as told, and it builds no mask."""
    config = model.config.get_text_config()
    before, config._attn_implementation = config._attn_implementation, ATTENTION
    _attending.append(attention)
    try:
        yield
    finally:
        _attending.pop()
        config._attn_implementation = before


def packs(model: PreTrainedModel) -> bool:
    """Whether this model gives the same logits packed: a trial run on two short texts tells, once for each model.

    So a model whose attention does more than `Layout.attend` knows of (windows, sinks, soft caps, position biases) is
    found out by what it computes, not by its name.
    """
    if model not in trials:
        trials[model] = _stands_the_trial(model)
    return trials[model]


# What `packs` found. It keeps no model in memory that nobody else needs.
trials: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def _stands_the_trial(model: PreTrainedModel) -> bool:
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or not getattr(model, "_supports_attention_backend", False):
        return False
    texts = [[1, 2, 3, 4, 5], [1, 2, 4, 3]]
    layout = lay_out(texts, model.device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            with attention_by(model, layout.attend):
                packed = model(input_ids=layout.input_ids, position_ids=layout.position_ids, use_cache=False).logits[0]
            for index, text in enumerate(texts):
                plain = model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0]
                steps = torch.arange(len(text), device=model.device)
                mine = packed[layout.rows(torch.full_like(steps, index), steps)]
                # Of all logits together: in half precision, another kernel's rounding moves some of a large vocabulary
                # by more than anything that could be allowed to each.
                tolerance = TOLERANCE if model.dtype == torch.float32 else 64 * TOLERANCE
                difference = (mine.float() - plain.float()).nan_to_num().norm()
                if difference > tolerance * plain.float().nan_to_num().norm():
                    return False
    except (TypeError, ValueError, RuntimeError):  # it wants something that only its own attention gives it
        return False
    finally:
        model.train(training)
    return True


_attending: list[Attention] = []


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **rest: Any
) -> tuple[Tensor, None]:
    """The form in which transformers calls an attention function."""
    for name in ("sliding_window", "softcap", "s_aux", "position_bias"):
        if rest.get(name) is not None:
            raise ValueError(f"attention with {name} cannot be packed")
    layer: Any = module.layer_idx
    return _attending[-1](layer, query, key, value, scaling), None


# No mask function beside it: transformers then makes no mask, and does not look at the positions either, for which the
# host would have to wait for a device in every pass.
AttentionInterface.register(ATTENTION, _attend)
