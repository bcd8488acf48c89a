"""Compute in float32 with a model whose weights stay in 16 bits: each part is cast while it runs.

A 16-bit weight is exact in float32, so that the results are those of the whole model in float32 but for the order of
sums, within the memory of the 16-bit model and one decoder layer in float32. Embeddings and LM head, which can be
larger than that, are cast a few rows at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn.functional import linear

ROWS = 8192  # of the head that are in float32 at a time


def parts(model: nn.Module) -> list[nn.Module]:
    """Decoder layers and all other modules with weights of their own, each weight in one of them (tied ones in two)."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())

    def below(module: nn.Module) -> Iterator[nn.Module]:
        whole = type(module).__name__ in kinds or isinstance(module, BaseTunerLayer)
        if whole or next(module.parameters(recurse=False), None) is not None:
            yield module
        else:
            for child in module.children():
                yield from below(child)

    return list(below(model))


@contextmanager
def in_float32(model: nn.Module, *, merged: bool = False) -> Iterator[None]:
    """Within this context each part's weights are float32 while it runs, and the stored ones afterwards.

    Args:
        model: its weights may have any precision; perhaps with an adapter of PEFT.
        merged: run with the adapter merged into the weights.
    """
    running: list[list[tuple[nn.Parameter, Tensor]]] = []
    adapters = _adapters_by_weight(model) if merged else {}

    def widen(part: nn.Module, *_: Any) -> None:
        running.append([(weight, weight.data) for weight in part.parameters()])
        _to_float32(part, copy=merged)  # merging changes the weights in place
        _merge(part, adapters)

    def restore(part: nn.Module, *_: Any) -> None:
        for weight, stored in running.pop():
            weight.data = stored
        for layer in _layers(part, adapters):
            layer.merged_adapters.clear()

    handles: list[Any] = []
    forwards: list[tuple[nn.Module, Any]] = []
    for part in parts(model):
        if type(part) in BY_ROWS and not _layers(part, adapters):
            forwards.append((part, vars(part).get("forward")))  # accelerate may have put one there
            vars(part)["forward"] = partial(BY_ROWS[type(part)], part)
        else:
            handles.append(part.register_forward_pre_hook(widen))
            handles.append(part.register_forward_hook(restore))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for part, forward in forwards:
            vars(part).pop("forward") if forward is None else vars(part).update(forward=forward)


def _embeddings(part: Any, ids: Tensor) -> Tensor:
    return nn.Embedding.forward(part, ids).float()


def _head(part: Any, states: Tensor) -> Tensor:
    found = states.new_empty(*states.shape[:-1], len(part.weight))
    for rows, weight in zip(found.split(ROWS, -1), part.weight.split(ROWS), strict=True):
        rows.copy_(linear(states, weight.float()))
    return found if part.bias is None else found.add_(part.bias)


BY_ROWS: Mapping[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {nn.Embedding: _embeddings, nn.Linear: _head}


def merge_parts(model: nn.Module, dtype: torch.dtype) -> None:
    """Merge the adapter into the weights, layer by layer in float32, then round each layer to this precision.

    A weight without an adapter that has this precision is not copied: it may be a part of a file in memory, which
    counts as long as one of its weights is used.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            _to_float32(layer, copy=False)
            layer.merge()
            for weight in layer.parameters():
                weight.data = weight.data.to(dtype)
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def _to_float32(part: nn.Module, *, copy: bool) -> None:
    for weight in part.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(torch.float32, copy=copy)


def _adapters_by_weight(model: nn.Module) -> dict[nn.Parameter, BaseTunerLayer]:
    """The layer of PEFT that adapts each weight: that of the embeddings adapts the head too, if the two are tied."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return {weight: layer for layer in layers for weight in layer.get_base_layer().parameters()}


def _layers(part: nn.Module, adapters: dict[nn.Parameter, BaseTunerLayer]) -> list[BaseTunerLayer]:
    return list(dict.fromkeys(adapters[weight] for weight in part.parameters() if weight in adapters))


def _merge(part: nn.Module, adapters: dict[nn.Parameter, BaseTunerLayer]) -> None:
    for layer in _layers(part, adapters):
        layer.merge()
