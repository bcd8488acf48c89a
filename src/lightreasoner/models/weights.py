"""The weights of a model: all that it needs are in its files, and what its files hold has a place in it.

transformers fills in missing weights at random and leaves out the others, with no more than a warning.
"""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from lightreasoner.errors import ModelError
from lightreasoner.runs.progress import warn_once

Loaded = Mapping[str, Any]  # what `from_pretrained(…, output_loading_info=True)` returns beside the model

LFS_POINTER = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
# What training code adds to the names of weights, and the code that does.
ADDED = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel and DDP",
    "_fsdp_wrapped_module.": "FSDP",
    "_forward_module.": "Lightning Fabric",
    "base_model.model.": "PEFT",
}
ADAPTER_WEIGHT = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|ia3_l|vera_lambda_\w)(\.|$)")
QUANTISED_WEIGHT = re.compile(r"\.(weight_scale(_inv)?|weight_packed|qweight|qzeros|scales|absmax)$")
LAYER = re.compile(r"(?P<stack>.*?)\.(?P<index>\d+)\.(?P<weight>.+)")


def refuse_pointers(name: str, files: Iterable[Path]) -> None:
    """Refuse files that `git clone` without Git LFS left in place of the content.

    Raises:
        ModelError: names one of them.
    """
    for path in files:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelError(
                    f"{name}: {path} is a pointer of Git LFS ({path.stat().st_size} bytes), not the file itself. "
                    "Run `git lfs pull` in its folder, or download the model again"
                )


def weights_in_files(name: str, folder: Path) -> dict[str, Tensor]:
    """The model's weights by name, without their values: tensors on the device `meta`, from the files' headers.

    Raises:
        ModelError: a file is missing, damaged or cut off.
    """
    found: dict[str, Tensor] = {}
    for path in _files(name, folder):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {key: _empty(file.get_slice(key)) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"{name}: {path} cannot be read ({error}); it is damaged or was cut off. Download it again"
            ) from None
    return found


def _files(name: str, folder: Path) -> list[Path]:
    """The files that transformers would read: model.safetensors, or those that its index names."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        files = ", ".join(sorted(path.name for path in folder.glob("*.safetensors"))[:3])
        raise ModelError(f"{name}: neither model.safetensors nor {INDEX} in {folder}, only {files}")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["metadata"]  # transformers needs it
        first, *others = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        raise ModelError(f"{name}: {folder / INDEX} is not an index of weights. Download it again") from None
    names = [first, *others]
    if missing := [file for file in names if not (folder / file).is_file()]:
        raise ModelError(
            f"{name}: {INDEX} names {_few(missing)}, which {folder} does not hold ({len(missing)} of {len(names)} "
            "files). Download the model again"
        )
    return [folder / file for file in names]


def _empty(header: Any) -> Tensor:
    """A tensor of this shape and type without values. The type of formats that torch lacks does not matter here."""
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return torch.empty(header.get_shape(), dtype=types.get(header.get_dtype(), torch.uint8), device="meta")


def refuse_wrong_weights(name: str, model: PreTrainedModel, loaded: Loaded, stated: int | None = None) -> None:
    """Compare what the model needs with what was found; says which weights have no place, where that is usual.

    Heads for other tasks, vision towers and layers for multi-token prediction are left out of many good models.

    Args:
        name: of the model.
        model: the model.
        loaded: what was found.
        stated: number of weights in its GGUF file, of which transformers drops what it does not know.

    Raises:
        ModelError: weights are missing or have another shape, or trained ones would be left out: a decoder layer, or
            those of an adapter.
    """
    missing, unexpected = sorted(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    if loaded["mismatched_keys"]:
        key, found, needed = min(loaded["mismatched_keys"])
        raise ModelError(
            f"{name}: {key} is {list(found)} in the file and {list(needed)} by config.json "
            f"({_count(loaded['mismatched_keys'])} in all); the two do not belong together. Download both again"
        )
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} of {len(model.state_dict())} weights ({_few(missing)}), which would be "
            f"random numbers. {_cause(missing, unexpected)}"
        )
    if loaded["error_msgs"]:
        raise ModelError(f"{name}: {' '.join(str(loaded['error_msgs'][0]).split())}")
    if adapter := [key for key in unexpected if ADAPTER_WEIGHT.search(key)]:
        raise ModelError(
            f"{name}: the weights of an adapter in its files ({_few(adapter)}) have no place in the model and would be "
            "left out. Merge the adapter into its base first: lightr merge"
        )
    if scales := [key for key in unexpected if QUANTISED_WEIGHT.search(key)]:
        raise ModelError(
            f"{name}: its files hold quantised weights ({_few(scales)}), and config.json does not say how to read "
            "them (quantization_config). Use the original model, or correct config.json"
        )
    if layers := _layers_left_out(model, unexpected):
        raise ModelError(
            f"{name}: its files hold decoder layers that config.json leaves out ({_few(layers)}); the model would "
            "answer without them. Correct num_hidden_layers in config.json, or download it again"
        )
    if unexpected:
        warn_once(
            f"{name}: {_count(unexpected)} in its files without a place in the model, left out: {_few(unexpected)}"
        )
    if stated is not None and (left_out := stated - sum(weight.numel() for weight in model.parameters())) > 0:
        warn_once(
            f"{name}: {left_out} of the {stated} numbers in its weights have no place in the model that transformers "
            "makes of it, and are left out. Compare its answers with those of the original model"
        )
    _say_untied(name, model)


def _cause(missing: list[str], unexpected: list[str]) -> str:
    """Why weights are missing, as far as their names tell, and what to do."""
    wanted = set(missing)
    for key in unexpected:
        for added, origin in ADDED.items():
            if added in key and key.replace(added, "") in wanted:
                return f"The file's names hold {added!r}, which {origin} adds ({key}); remove it from them"
    if missing == ["lm_head.weight"]:
        return (
            "If the model shares the matrix of its embeddings, set tie_word_embeddings in config.json to true; "
            "otherwise download it again"
        )
    seen = f"The file has {_few(unexpected)} instead. " if unexpected else ""
    return f"{seen}Download the model again, or correct its config.json"


def _layers_left_out(model: PreTrainedModel, unexpected: list[str]) -> list[str]:
    """Layers that are built like those of the model, and that it does not have.

    A layer for multi-token prediction has the next number too, but also matrices that no decoder layer has.
    """
    known, others = _layers(model, model.state_dict()), _layers(model, unexpected)
    parts: dict[str, set[str]] = defaultdict(set)
    for (stack, _), weights in known.items():
        parts[stack] |= weights
    return [
        f"{stack}.{index}"
        for (stack, index), weights in sorted(others.items())
        if (stack, index) not in known
        and weights & parts[stack]
        and all(weight.endswith(("bias", "inv_freq")) for weight in weights - parts[stack])
    ]


def _layers(model: PreTrainedModel, names: Iterable[str]) -> dict[tuple[str, int], set[str]]:
    """The weights of each numbered layer, without experts, which the model and its files may name differently."""
    layers: dict[tuple[str, int], set[str]] = defaultdict(set)
    for name in names:  # files of a model without its head lack the prefix
        match = LAYER.fullmatch(name.removeprefix(f"{model.base_model_prefix}."))
        if match and "experts." not in match["weight"]:
            layers[match["stack"], int(match["index"])].add(match["weight"])
    return layers


def _say_untied(name: str, model: PreTrainedModel) -> None:
    """Say that the file has a head of its own, where config.json says that it has none."""
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    if is_tied and head is not None and head.weight is not inputs.weight and model.device.type != "meta":
        warn_once(
            f"{name}: config.json says that head and embeddings are one matrix, and the file holds two that "
            "differ; both are used. Other programs may leave one out: set tie_word_embeddings to false"
        )


def refuse_nonfinite(name: str, model: PreTrainedModel) -> None:
    """Find NaN and infinite weights, with which a model computes nothing.

    Rows of the embeddings may be so: they spoil the texts that hold their tokens, and these are counted.

    Raises:
        ModelError: names a few of them.
    """
    wrong = [key for key, weight in model.named_parameters() if not _is_finite(weight)]
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    embeddings = {key for key, weight in model.named_parameters() if weight is inputs.weight}
    if head is not None and head.weight is inputs.weight:
        embeddings = set()
    if fatal := [key for key in wrong if key not in embeddings]:
        raise ModelError(
            f"{name}: NaN or infinite numbers in {_count(fatal)} ({_few(fatal)}), so the model computes nothing. "
            "The training that made it diverged, or its file is damaged; use another one"
        )
    if wrong:
        warn_once(f"{name}: NaN or infinite numbers in {_few(wrong)}; texts with those tokens cannot be used")


def _is_finite(weight: Tensor) -> bool:
    if not weight.is_floating_point() or weight.itemsize < 2 or not weight.numel():
        return True  # quantised, or none at all
    return bool(torch.stack(weight.detach().aminmax()).isfinite().all())


def _count(weights: Collection[object]) -> str:
    return f"{len(weights)} weight{'s' * (len(weights) != 1)}"


def _few(names: Iterable[str]) -> str:
    """The first names, and whether there are more."""
    chosen = list(names)
    return ", ".join([*chosen[:3], *(["…"] if len(chosen) > 3 else [])])


@contextmanager
def without_bar() -> Iterator[None]:
    """Without the progress bar of loading weights, where none are read."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()
