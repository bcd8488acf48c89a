"""Amateurs made of the expert's own weights: models that share every parameter with it and compute something else.

A view is a shallow copy of the expert's modules as far as they differ from it: its parameters are the expert's tensors,
at the same addresses, and the expert does not notice it. Whatever takes a model (packing, scoring, contrastive
decoding) takes a view.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lightreasoner.config import PairConfig
from lightreasoner.errors import ConfigError, ModelError
from lightreasoner.models.sides import Side, check_own, layer_count
from lightreasoner.models.source import ModelSource, find_model

EXPERTS, AMATEURS = "default", "amateur"  # names of the adapters on one model
HOOKS = "_forward_hooks _forward_hooks_with_kwargs _forward_hooks_always_called _forward_pre_hooks".split()
HOOKS += ["_forward_pre_hooks_with_kwargs"]


def find_amateur(config: PairConfig, expert: ModelSource, flag: str = "--amateur") -> tuple[Side, ModelSource]:
    """What the amateur is, and the model that it is made of.

    Args:
        config: the amateur, its revision, its prompt and the rule for the vocabularies.
        expert: the expert, maybe with an adapter.
        flag: the setting, for messages.

    Raises:
        ConfigError: see `Side.of`; or what is written cannot be made of this expert, or is the expert itself.
        ModelError, HubUnreachable: see `find_model`.
        DataError, RunCorrupted: see `adapters.usable_adapter`.
    """
    name, revision = config.amateur, config.amateur_revision
    side = Side.of(name, flag)
    if side.kind == "model":
        return side, find_model(name, revision)
    if revision is not None:
        raise ConfigError(f"{flag}-revision {revision} means nothing with {flag} {name}, which is made of the expert")
    check_own(side, config, layer_count(expert.config()), expert.adapter is not None, flag)
    if side.kind == "base":
        return side, replace(expert, adapter=None)
    if side.kind == "checkpoint":
        return side, _checkpoint(side, expert, config.has_other_prompt, flag)
    return side, expert


def _checkpoint(side: Side, expert: ModelSource, other_prompt: bool, flag: str) -> ModelSource:
    """An earlier state: the expert's base with another adapter, or a whole model."""
    if not side.shares_weights:
        return find_model(side.value)
    from lightreasoner.models.adapters import usable_adapter  # PEFT takes a second to import

    amateur = replace(expert, adapter=usable_adapter(Path(side.value).expanduser(), expert.name, expert))
    if amateur.adapter_files() == expert.adapter_files() and not other_prompt:
        raise ConfigError(
            f"{flag} self:checkpoint={side.value} is the very adapter of the expert ({expert.adapter}), so both would "
            "predict the same and nothing could be learnt. Name an earlier state"
        )
    return amateur


def first_layers(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """The first layers, final norm and head: what is left when a model is cut, without a copy of a weight.

    Equal to the bit to the model that is saved with `num_hidden_layers = count`.

    Raises:
        ModelError: its layers are not found, or they are fewer.
    """
    place, layers = _layers_of(model)
    if count >= len(layers):
        raise ModelError(f"self:layers={count}: {type(model).__name__} has {len(layers)} layers; take fewer")
    return _with_layers(model, place, nn.ModuleList(list(layers)[:count]))


@dataclass
class Dropout:
    """Dropout on what each layer adds to the hidden states: h + m ⊙ (f(h) − h) / (1 − P), m ~ Bernoulli(1 − P).

    Models of today have no dropout of their own to turn on. The place is that of the residual dropout in arXiv
    1706.03762, §5.4, once a layer in the place of once a sub-layer; h itself always passes. arXiv 2402.14874 makes its
    amateur by dropout too; its released code sets `attention_dropout` instead.

    The mask of a text depends on its key, the layer and the text's length: on no other text of its batch, and on no
    device, since it is drawn on the CPU.

    Attributes:
        share: P.
    """

    share: float
    _texts: list[tuple[str, int]] = field(default_factory=list)  # key and length of each text of the pass
    _width: int | None = None  # of right-padded texts; None where they are packed

    @contextmanager
    def on(self, texts: Sequence[tuple[str, int]], width: int | None) -> Iterator[None]:
        """Within this context the model drops out.

        Args:
            texts: key and length of each text in the pass, in its order.
            width: length that they are padded to on the right; None where they are packed end to end.
        """
        self._texts, self._width = list(texts), width
        try:
            yield
        finally:
            self._texts = []

    def applied(self, layer: int, before: Tensor, after: Tensor) -> Tensor:
        """The layer's output under dropout: hidden states [B, T, H] or packed [1, N, H]."""
        if not self._texts:
            return after
        masks = [self._mask(key, layer, length, after.shape[-1]) for key, length in self._texts]
        if self._width is not None:
            masks = [nn.functional.pad(mask, (0, 0, 0, self._width - len(mask)), value=1.0) for mask in masks]
        mask = torch.cat(masks).view(after.shape).to(after)
        return before + mask * (after - before)

    def _mask(self, key: str, layer: int, length: int, hidden: int) -> Tensor:
        """[length, hidden]: 0 with probability P, else 1 / (1 − P)."""
        seed = int.from_bytes(hashlib.sha256(f"{key} {layer}".encode()).digest()[:8], "little") >> 1
        drawn = torch.rand(length, hidden, generator=torch.Generator().manual_seed(seed))
        return (drawn >= self.share) / (1 - self.share)


# The dropout of views that have one. Weak references, so that it keeps no model in memory.
_dropouts: WeakKeyDictionary[PreTrainedModel, Dropout] = WeakKeyDictionary()


def dropout_of(model: PreTrainedModel) -> Dropout | None:
    """The dropout of a view that `with_dropout` made; None of any other model."""
    return _dropouts.get(model)


def with_dropout(model: PreTrainedModel, share: float) -> PreTrainedModel:
    """The model with dropout, which is on within `Dropout.on` alone.

    Raises:
        ModelError: its layers are not found.
    """
    dropout = Dropout(share)
    place, layers = _layers_of(model)
    dropping = []
    for number, layer in enumerate(layers):
        view = _view(layer)
        view.register_forward_hook(_dropping(dropout, number), with_kwargs=True)
        dropping.append(view)
    found = _with_layers(model, place, nn.ModuleList(dropping))
    _dropouts[found] = dropout
    return found


def _dropping(dropout: Dropout, number: int) -> Any:
    def hook(layer: nn.Module, args: tuple[Any, ...], given: dict[str, Any], output: Any) -> Any:
        before = args[0] if args else given["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        after = dropout.applied(number, before, after)
        return (after, *output[1:]) if isinstance(output, tuple) else after

    return hook


def with_adapter_of(model: PreTrainedModel, name: str, expert: Path | None, amateur: Path | None) -> PreTrainedModel:
    """The base of a model with another adapter, or with none; the model itself keeps its own.

    Adapters are switched around each pass of the view.

    Args:
        model: the expert, with its adapter if it has one.
        name: of the base, for messages.
        expert: folder of the expert's adapter, which is on the model; None without one.
        amateur: folder of the amateur's adapter, which is put on it too; None without one.

    Raises:
        DataError, ModelError: see `adapters.load_adapter`.
    """
    from lightreasoner.models.adapters import load_adapter, use_adapter  # PEFT takes a second to import

    mine, own = (AMATEURS if amateur else None), (EXPERTS if expert else None)
    if amateur is not None:
        load_adapter(model, amateur, name, AMATEURS)
    use_adapter(model, own)
    view = _view(model)
    view.register_forward_pre_hook(lambda *_: use_adapter(model, mine))
    view.register_forward_hook(lambda *_: use_adapter(model, own), always_call=True)  # after an error too
    return cast(PreTrainedModel, view)


def _view(module: Any) -> Any:
    """A shallow copy that shares parameters and children, with lists of children and hooks of its own."""
    view = copy(module)
    for name in ("_modules", *HOOKS):
        vars(view)[name] = copy(vars(module)[name])
    return view


def _layers_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Path and content of the list of layers: the first with as many members as the configuration says."""
    count = model.config.get_text_config().num_hidden_layers
    for place, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return place, module
    raise ModelError(
        f"{type(model).__name__} keeps its {count} layers in no list, so no amateur can be made of its layers; choose "
        "another amateur"
    )


def _with_layers(model: PreTrainedModel, place: str, layers: nn.ModuleList) -> PreTrainedModel:
    """A view with other layers. The configuration stays shared, since the layers look into it for their attention."""
    *path, last = place.split(".")
    view = node = _view(model)
    for name in path:
        child = _view(node._modules[name])
        node._modules[name] = child
        node = child
    node._modules[last] = layers
    return cast(PreTrainedModel, view)
