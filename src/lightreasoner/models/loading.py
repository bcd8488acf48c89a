"""Models and tokenizers: load them, on a device and in a precision of this machine."""

import ctypes
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from accelerate.utils.memory import clear_device_cache
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar
from transformers.utils.quantization_config import QuantizationConfigMixin

from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import LightReasonerError, ModelError
from lightreasoner.models.generation_config import generation_settings, quiet
from lightreasoner.models.gguf_reading import reading_gguf
from lightreasoner.models.precision import Precision, hidden_size, precision
from lightreasoner.models.shape import read_config
from lightreasoner.models.source import ModelSource, first_line
from lightreasoner.models.tokenizer_file import as_written
from lightreasoner.models.weights import (
    refuse_nonfinite,
    refuse_wrong_weights,
    weights_in_files,
    without_bar,
)
from lightreasoner.runs.progress import busy, say

ANY_MACHINE = MachineSettings()


def load_tokenizer(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        ModelError: there is none, or it needs code that may not run.
    """
    _check_code(source, machine)
    with _loading(f"the tokenizer of {source.name}"), reading_gguf():
        loaded = AutoTokenizer.from_pretrained(
            source.folder, gguf_file=source.gguf_file, trust_remote_code=machine.trust_remote_code
        )
        tokenizer = as_written(loaded, source)
    # transformers makes an empty one if the files are missing.
    if tokenizer.get_vocab().keys() <= tokenizer.get_added_vocab().keys():
        raise ModelError(
            f"{source.name}: no tokenizer in {source.folder} (tokenizer.json, or the files of an older kind); copy it "
            "from the model that this one was made from"
        )
    return tokenizer


def load_generation_config(source: ModelSource) -> GenerationConfig | None:
    """The generation settings that `load_model` gives the model, for its stop tokens; None for a lone GGUF file.

    Raises:
        ModelError: see `generation_settings`.
    """
    settings, _ = generation_settings(source.name, source.folder)
    if settings is None and not source.gguf_file:
        with suppress(OSError):  # config.json may hold none
            return GenerationConfig.from_pretrained(
                source.folder, config_file_name="config.json", _from_model_config=True
            )
    return settings  # the tokenizer of a GGUF file has the same stop token


@busy("loading a model")
def load_model(
    source: ModelSource, machine: MachineSettings = ANY_MACHINE, quantise: QuantizationConfigMixin | None = None
) -> PreTrainedModel:
    """The model in evaluation mode, in the machine's precision and on its device.

    A GGUF model is de-quantised, and is an ordinary model from then on. The adapter of the source is put on it.

    Args:
        source: the model.
        machine: device and precision.
        quantise: how its weights are quantised as they are read; for models in safetensors.

    Raises:
        ModelError: it cannot be loaded, its files lack weights or hold weights without a place (see
            `refuse_wrong_weights`), it needs code that may not run, or its adapter does not fit (see `load_adapter`).
    """
    _check_code(source, machine)
    release_memory()  # of models that are used no more
    device = pick_device(machine.device)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Two threads of one core share its arithmetic units: more threads than cores make matrix products slower.
        torch.set_num_threads(min(torch.get_num_threads(), psutil.cpu_count(logical=False) or torch.get_num_threads()))
    if not sys.stderr.isatty():
        disable_progress_bar()  # of loading weights: a log file wants lines
    if source.gguf_file is None:
        weights_in_files(source.name, source.folder)  # says more about a damaged file than the loader
    else:
        quantise = GgufConfig(dequantize=True)
    generation, _ = generation_settings(source.name, source.folder) if source.gguf_file is None else (None, [])
    with _loading(f"{source.name} ({source.folder})"), reading_gguf():
        read: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            gguf_file=source.gguf_file,
            dtype=pick_dtype(machine, source),
            device_map={"": device},
            trust_remote_code=machine.trust_remote_code,
            use_safetensors=source.gguf_file is None,
            generation_config=generation,
            ignore_mismatched_sizes=True,  # so that `loaded` names them
            output_loading_info=True,
            # None would replace what config.json says about quantised weights.
            **({"quantization_config": quantise} if quantise else {}),
        )
    model, loaded = read
    refuse_wrong_weights(source.name, model, loaded, source.config().get("gguf_parameters"))
    refuse_nonfinite(source.name, model)
    model.eval()
    if source.adapter is not None:
        from lightreasoner.models.adapters import load_adapter  # PEFT takes a second to import

        load_adapter(model, source.adapter, source.name)  # puts its layers into the model itself
    return cast(PreTrainedModel, model)


def release_memory() -> None:
    """Give unused memory back: of objects that refer to one another, of the device, and of the heap."""
    clear_device_cache(garbage_collection=True)
    with suppress(AttributeError, OSError, TypeError):  # no glibc
        # It keeps what was freed in small parts, such as the layers of a model, for this process.
        ctypes.CDLL(None).malloc_trim(0)


def with_adapter(source: ModelSource, adapter: Path | None) -> ModelSource:
    """The model with an adapter on it, unmerged; the model itself without one.

    Args:
        source: the model.
        adapter: run folder of `lightr finetune`, or a folder with a PEFT adapter.

    Raises:
        DataError, RunCorrupted, ModelError: see `usable_adapter`.
    """
    if adapter is None:
        return source
    from lightreasoner.models.adapters import usable_adapter

    return replace(source, adapter=usable_adapter(adapter, source.name, source))


def empty_model(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> PreTrainedModel:
    """The model without its weights: the modules and shapes that its configuration asks for, on the device `meta`.

    Raises:
        ModelError: its configuration is not one of a language model, or needs code that may not run.
    """
    _check_code(source, machine)
    with _loading(f"the configuration of {source.name}"), torch.device("meta"):
        if source.gguf_file:
            modified = (source.folder / source.gguf_file).stat().st_mtime_ns
            config = deepcopy(_gguf_config(source.folder, source.gguf_file, modified))
        else:
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=machine.trust_remote_code)
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=machine.trust_remote_code
        )
    return cast(PreTrainedModel, model)


@cache
def _gguf_config(folder: Path, file: str, modified: int) -> PreTrainedConfig:
    """The configuration in a GGUF file, which takes a second to read; `modified` is the time of its last change."""
    with reading_gguf():
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, gguf_file=file)
    return config


def weight_bytes(sources: Sequence[ModelSource], machine: MachineSettings) -> int:
    """Bytes that the weights of these models take in memory."""
    count = sum(part.numel() for source in sources for part in empty_model(source, machine).parameters())
    return count * pick_dtype(machine, *sources).itemsize


def check_weights(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> int | None:
    """Compare the names and shapes in the weight files with those that the configuration asks for.

    Reads the files' headers only, which takes milliseconds; `load_model` makes the same comparison.

    Returns:
        Number of weights; None where the headers do not tell: GGUF, quantised models, and code that may not run.

    Raises:
        ModelError: see `load_model`.
    """
    if source.gguf_file:
        return None
    config = read_config(str(source.folder), None)
    needs_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    if "quantization_config" in config or (needs_code and not machine.trust_remote_code):
        return None
    found = weights_in_files(source.name, source.folder)
    generation_settings(source.name, source.folder)
    empty = empty_model(source, machine)
    with _loading(source.name), without_bar():
        # The loader itself, since it renames weights of many architectures.
        read: Any = type(empty).from_pretrained(
            None,
            config=empty.config,
            state_dict=found,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    refuse_wrong_weights(source.name, *read)
    return len(found)


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Name what is being loaded in any error of the libraries; a damaged file makes them raise all kinds."""
    try:
        with quiet():
            yield
    except (MemoryError, LightReasonerError):
        raise
    except Exception as error:
        line = first_line(error)
        kind = "" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: "
        raise ModelError(f"cannot load {what}: {kind}{line}") from error


def _check_code(source: ModelSource, machine: MachineSettings) -> None:
    """Code from the Hub runs only at a commit that the user has named, and so can have read."""
    if not machine.trust_remote_code:
        return
    if source.commit is not None and source.revision != source.commit:
        raise ModelError(
            f"--trust-remote-code runs Python code of {source.name}, which its owner can change at any time. Read the "
            f"code at commit {source.commit}, and pin it: --model-revision, --expert-revision "
            f"or --amateur-revision {source.commit}"
        )
    _say_code(source.name, source.folder)


@cache
def _say_code(name: str, folder: Path) -> None:
    if code := sorted(path.name for path in folder.glob("*.py")):
        say(f"running code of {name}: {', '.join(code)}")


def pick_device(device: str) -> torch.device:
    """`auto` becomes cuda, mps, another accelerator that PyTorch knows (such as xpu) or cpu, the first that is there.

    Raises:
        ModelError: the named device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if (other := torch.accelerator.current_accelerator()) is not None:
        there.setdefault(other.type, torch.accelerator.is_available())
    there["cpu"] = True
    if device == "auto":
        return torch.device(next(kind for kind in there if there[kind]))
    kind, colon, number = device.partition(":")
    if kind not in there or (colon and not number.isdecimal()):
        raise ModelError(f"device {device} is not known; use auto, cpu, cuda, cuda:N or mps")
    usable = ", ".join(name for name in there if there[name])
    if not there[kind]:
        raise ModelError(f"device {device} is not usable here: PyTorch {torch.__version__} finds {usable} only")
    count = torch.accelerator.device_count() if other is not None and kind == other.type else 1
    if int(number or 0) >= count:
        raise ModelError(f"device {device} is not usable here: PyTorch finds {count} of the kind {kind}, from {kind}:0")
    return torch.device(kind, int(number)) if number else torch.device(kind)


def pick_precision(machine: MachineSettings, *sources: ModelSource) -> Precision:
    """The precision of models that work together, and why; see `models.precision`."""
    sizes = [hidden_size(source.config()) for source in sources] if machine.dtype == "auto" else []
    return precision(machine.dtype, pick_device(machine.device), sizes)


def pick_dtype(machine: MachineSettings, *sources: ModelSource) -> torch.dtype:
    """The precision of models that work together."""
    return pick_precision(machine, *sources).dtype


def dtype_name(machine: MachineSettings, *sources: ModelSource) -> str:
    """The precision that `pick_dtype` picks, for fingerprints: `auto` differs between machines."""
    return pick_precision(machine, *sources).name


def context_length(model: PreTrainedModel) -> float:
    """Tokens that the model was made for; infinite where it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


def weights_dtype(source: ModelSource) -> str:
    """Precision that the model's configuration states for its weights; float32 for GGUF, which mixes several."""
    if source.gguf_file:
        return "float32"
    stated = read_config(str(source.folder), None)
    return str(stated.get("dtype") or stated.get("torch_dtype") or "float32")
