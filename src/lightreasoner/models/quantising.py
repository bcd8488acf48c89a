"""A model in 4 bits (NF4 with double quantisation, by bitsandbytes): the base of QLoRA, or an amateur.

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314. Embeddings, LM head and norms keep
their precision, and so do linear layers whose input width is no multiple of 64: a scale belongs to 64 weights, and
bitsandbytes 0.50 for the CPU restores rows of other widths wrongly (by 25 % of the weights' norm instead of 9 %). The
rule holds on every device, so that a result does not depend on it.

Frozen weights and gradients through them are PEFT's; unlike its `prepare_model_for_kbit_training`, nothing is cast to
float32, which the loss is computed in anyway.
"""

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import get_keys_to_not_convert

from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import ModelError
from lightreasoner.models.adapters import load_adapter
from lightreasoner.models.loading import empty_model, load_model, pick_device, pick_dtype
from lightreasoner.models.shape import read_config
from lightreasoner.models.source import ModelSource
from lightreasoner.runs.progress import say

BLOCK = 64  # weights that share a scale


QLORA = "--load-in-4bit"  # the setting that asks for it, in messages


def load_in_4bit(source: ModelSource, machine: MachineSettings, flag: str = QLORA) -> PreTrainedModel:
    """The model with its linear layers in 4 bits, all others in the machine's precision, on its device.

    Its adapter, if it has one, stays as it is.

    Raises:
        ModelError: see `load_model` and `check_base`.
    """
    adapter, source = source.adapter, replace(source, adapter=None)
    dtype, (kept, narrow) = pick_dtype(machine, source), _sort_layers(source, machine, flag)
    if narrow:
        name, width = next(iter(narrow.items()))
        say(f"{len(narrow)} linear layers are not in 4 bits: their width is no multiple of {BLOCK} ({name}: {width})")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[*kept, *narrow],  # of 4 bits too
    )
    if source.gguf_file:  # transformers either reads GGUF or quantises
        read = load_model(source, machine.model_copy(update={"device": "cpu"}))
        model: Any = (
            type(read)
            .from_pretrained(
                None,
                config=read.config,
                state_dict=read.state_dict(),
                quantization_config=settings,
                dtype=dtype,
                device_map={"": pick_device(machine.device)},
            )
            .eval()
        )
        model.generation_config = read.generation_config
    else:
        model = load_model(source, machine, settings)
    for module in model.modules():
        # On CPUs with AVX512-BF16, bitsandbytes would pack the weights anew for inference: scales rounded to bfloat16,
        # and an error where the width is no multiple of 64.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if adapter is not None:
        load_adapter(model, adapter, source.name)
    return model  # type: ignore[no-any-return]


def check_base(source: ModelSource, machine: MachineSettings, flag: str = QLORA) -> None:
    """Check that layers of this base can be quantised. Reads its configuration alone.

    Raises:
        ModelError: the model is quantised already, or has no layer of a suitable width.
    """
    _sort_layers(source, machine, flag)


def _sort_layers(source: ModelSource, machine: MachineSettings, flag: str) -> tuple[list[str], dict[str, int]]:
    """What keeps its precision: names of head, tied matrices, transposed layers; layers of other widths, with these."""
    if not source.gguf_file and "quantization_config" in read_config(str(source.folder), None):
        raise ModelError(
            f"{source.name} is quantised already (quantization_config in its config.json); omit {flag}, or give "
            "the original model"
        )
    model = empty_model(source, machine)
    kept: list[str] = get_keys_to_not_convert(model)
    # bitsandbytes stores those of GPT-2 transposed, and fails where they are not square.
    kept += [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear and name not in kept}
    widths = {name: layer.in_features for name, layer in linear.items()}
    narrow = {name: width for name, width in widths.items() if width % BLOCK}
    if len(narrow) == len(widths):
        found = (
            f"they are {', '.join(map(str, sorted(set(widths.values()))))} wide" if widths else "it has no such layer"
        )
        raise ModelError(
            f"{flag}: {source.name} has no linear layer whose width is a multiple of {BLOCK} ({found}), so "
            "nothing would be in 4 bits; omit it"
        )
    return kept, narrow


def can_quantise() -> bool:
    """Whether bitsandbytes is installed."""
    return find_spec("bitsandbytes") is not None


def check_4bit(machine: MachineSettings, flag: str = QLORA) -> None:
    """Check that bitsandbytes is there and works on this device.

    Raises:
        ModelError: it is not, or does not.
    """
    if not can_quantise():
        raise ModelError(f"{flag} needs bitsandbytes: pip install '.[quant]' in the clone of lightreasoner")
    device, dtype = pick_device(machine.device), pick_dtype(machine)
    try:
        layers: Any = import_module("bitsandbytes.nn")
        layer: nn.Module = layers.Linear4bit(64, 64, bias=False, compute_dtype=dtype, quant_type="nf4").to(device)
        rows = torch.ones(2, 64, dtype=dtype, device=device, requires_grad=True)
        layer(rows).sum().backward()
    except Exception as error:  # a library built for another device makes it raise all kinds
        line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{flag}: bitsandbytes does not work on {device} here ({type(error).__name__}: {line}); leave it "
            "away, or choose another --device"
        ) from None
