"""QLoRA: the base in 4 bits while it is tuned (NF4 with double quantisation, by bitsandbytes).

Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", arXiv 2305.14314. Embeddings and LM head keep their
precision, and so do the norms. Frozen weights and gradients through them are PEFT's; unlike its
`prepare_model_for_kbit_training`, nothing is cast to float32, which the loss is computed in anyway.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from lightreasoner.config_sections import MachineSettings
from lightreasoner.errors import ModelError
from lightreasoner.models.loading import load_model, pick_device, pick_dtype
from lightreasoner.models.shape import read_config
from lightreasoner.models.source import ModelSource


def load_in_4bit(source: ModelSource, machine: MachineSettings) -> PreTrainedModel:
    """The model with its linear layers in 4 bits, all others in the machine's precision, on its device.

    Raises:
        ModelError: see `load_model`; or the model is quantised already.
    """
    if not source.gguf_file and "quantization_config" in read_config(str(source.folder), None):
        raise ModelError(
            f"{source.name} is quantised already (quantization_config in its config.json); tune it without "
            "--load-in-4bit, or give the original model"
        )
    dtype = pick_dtype(machine)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
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
    return model  # type: ignore[no-any-return]


def can_quantise() -> bool:
    """Whether bitsandbytes is installed."""
    return find_spec("bitsandbytes") is not None


def check_4bit(machine: MachineSettings) -> None:
    """Check that bitsandbytes is there and works on this device.

    Raises:
        ModelError: it is not, or does not.
    """
    if not can_quantise():
        raise ModelError("--load-in-4bit needs bitsandbytes: pip install 'lightreasoner[quant]'")
    device, dtype = pick_device(machine.device), pick_dtype(machine)
    try:
        layers: Any = import_module("bitsandbytes.nn")
        layer: nn.Module = layers.Linear4bit(64, 64, bias=False, compute_dtype=dtype, quant_type="nf4").to(device)
        rows = torch.ones(2, 64, dtype=dtype, device=device, requires_grad=True)
        layer(rows).sum().backward()
    except Exception as error:  # a library built for another device makes it raise all kinds
        line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"--load-in-4bit: bitsandbytes does not work on {device} here ({type(error).__name__}: {line}); leave it "
            "away, or choose another --device"
        ) from None
