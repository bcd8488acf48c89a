"""LoRA adapters: put a fresh one on a model, load a saved one, and check that it is whole and fits."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from lightreasoner.config import FinetuneConfig
from lightreasoner.config_base import nearest
from lightreasoner.errors import ConfigError, DataError, ModelError
from lightreasoner.models.loading import empty_model
from lightreasoner.models.source import find_model
from lightreasoner.models.weights import refuse_pointers
from lightreasoner.runs.progress import say

ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the head
LORA_TYPES = (nn.Linear, nn.Embedding, Conv1D)

# The beginnings of warnings of PEFT about what is checked or said here: tied matrices, missing weights, shapes, and
# the linear layers of GPT-2; and about merged layers, when the model is unloaded.
CHECKED_HERE = "|".join(
    [
        "Model (has|with) `tie_word_embeddings",
        "Input and output embeddings are no longer tied",
        "Found missing adapter keys",
        "Some weights of",
        "Adapter '.*LoRA tensor",
        "fan_in_fan_out is set to False",
        "All adapters are already merged",
    ]
)


def check_targets(config: FinetuneConfig, targets: Sequence[str], *, to_merge: bool = False) -> None:
    """Check that LoRA can be put on every target. Reads the model's configuration alone, in about a second.

    Args:
        config: names the model.
        targets: names of modules (the last parts of their paths), or one regular expression, or `all-linear`.
        to_merge: the adapter will be merged, so that an update of one of two tied matrices alone is refused.

    Raises:
        ConfigError: no target, or one that only stands alone beside others.
        ModelError: a target matches no module or one that LoRA cannot be put on; names the nearest module.
    """
    if not targets:
        raise ConfigError("--lora-targets names no module to put LoRA on")
    if len(targets) > 1 and ALL_LINEAR in targets:
        raise ConfigError(f"--lora-targets {ALL_LINEAR} stands for every linear layer; give it alone")
    empty = empty_model(find_model(config.model, config.model_revision), config)
    for target in targets:
        one = _as_peft_takes(targets) if len(targets) == 1 else [target]
        model = deepcopy(empty)  # PEFT changes it
        tied = {name.removesuffix(".weight") for pair in model.all_tied_weights_keys.items() for name in pair}
        try:
            with without_warnings():
                settings = LoraConfig(task_type="CAUSAL_LM", target_modules=one)
                adapted: Any = get_peft_model(model, settings, low_cpu_mem_usage=True)
        except re.error as error:
            raise ModelError(f"no LoRA on {target!r}: not a regular expression ({error}), nor a name") from None
        except ValueError:
            raise ModelError(_no_lora_on(target, config.model, empty)) from None
        _refuse_tied(sorted(tied & set(adapted.base_model.targeted_module_names)), to_merge=to_merge)


def _no_lora_on(target: str, name: str, model: nn.Module) -> str:
    modules = dict(model.named_modules())
    usable = {path.rpartition(".")[2] for path, module in modules.items() if isinstance(module, LORA_TYPES)}
    near = nearest(target.rpartition(".")[2], usable, "modules").removesuffix("?")
    if "known modules" not in near:  # "did you mean c_proj" alone would mislead where q_proj is part of c_attn
        near = f"{near}? Known modules: {', '.join(sorted(usable))}"
    for path, module in modules.items():
        if path == target or path.endswith(f".{target}"):
            return f"no LoRA on {target}: {path} is a {type(module).__name__}, no linear layer or embedding; {near}"
    return f"no LoRA on {target}: {name} has no such module, and it would be left out; {near}"


def _refuse_tied(tied: Sequence[str], *, to_merge: bool) -> None:
    """An adapter on one of two tied matrices changes one use of the matrix; merged, it would change both."""
    if not tied:
        return
    problem = f"LoRA on {', '.join(tied)}: embeddings and head of this model are one matrix"
    if to_merge:
        raise ModelError(f"{problem}, so the adapter cannot be merged. Choose other --lora-targets")
    say(f"warning: {problem}; the adapter changes one of its two uses, and `lightr merge` will refuse it")


def _as_peft_takes(targets: Sequence[str]) -> str | list[str]:
    """PEFT takes names as a list, and its own word or a regular expression as text."""
    first, *others = targets
    is_name = re.fullmatch(r"[\w.]+", first) is not None
    return first if not others and not is_name else list(targets)


def attach_lora(model: PreTrainedModel, config: FinetuneConfig) -> PeftModel:
    """Put a fresh LoRA on the model (Table 9); its start depends on the seed alone. See `check_targets`."""
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=_as_peft_takes(config.lora_targets),
        bias="none",
    )
    set_seed(config.seed)
    with without_warnings():
        adapted = get_peft_model(model, settings)
    adapted.active_peft_config.base_model_name_or_path = config.model
    return adapted


def load_adapter(base: PreTrainedModel, folder: Path, name: str) -> PeftModel:
    """Base + saved adapter.

    Args:
        base: stays on its device.
        folder: a PEFT adapter in safetensors.
        name: of the base, for messages.

    Raises:
        DataError: the adapter's files are damaged.
        ModelError: weights are missing, have no place or another shape, or its kind cannot be merged.
    """
    files = [folder / ADAPTER_SETTINGS, folder / ADAPTER_WEIGHTS]
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"no {missing[0]} in {folder}; copy the whole adapter again")
    refuse_pointers("adapter", files)
    try:
        found = load_file(folder / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / ADAPTER_WEIGHTS} cannot be read ({error}); copy it again") from None
    if wrong := [key for key, weight in found.items() if not weight.isfinite().all()]:
        raise DataError(f"{folder / ADAPTER_WEIGHTS}: NaN or infinite numbers in {wrong[0]}; its training diverged")
    try:
        with _said_in_one_line(folder), without_warnings():
            # Read on the CPU, and moved from there. Weights that are missing or have another shape stay fresh, and are
            # refused below.
            adapted = PeftModel.from_pretrained(base, folder, torch_device="cpu", ignore_mismatched_sizes=True)
    except Exception as error:  # a damaged or foreign configuration makes PEFT raise all kinds
        line = str(error).strip().partition("\n")[0]
        raise ModelError(f"the adapter in {folder} cannot be put on {name}: {type(error).__name__}: {line}") from error
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ModelError(f"the adapter in {folder} is of the kind {adapted.peft_type}, which has no merged form")
    if difference := weight_difference(adapted, found, in_base=_saved_of_base(adapted, found)):
        raise ModelError(f"the adapter in {folder} does not fit {name}: {difference}; use the base it was made for")
    return adapted.eval()


def _saved_of_base(adapted: PeftModel, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices of the base that the adapter's file holds, as PEFT has put them into the model.

    PEFT saves embeddings and head beside an adapter that changes them, or whose training added tokens.
    """
    base = adapted.state_dict()
    return {key: base[key] for key in found if key in base}


def weight_difference(
    adapted: PeftModel, found: Mapping[str, Tensor], in_base: Mapping[str, Tensor] | None = None
) -> str | None:
    """How the names and shapes of saved weights differ from those of the adapter; None where they do not.

    PEFT only warns about missing weights and fills in fresh ones.

    Args:
        adapted: base + adapter.
        found: the saved weights.
        in_base: weights of the base that the adapter may bring along; they must be the saved ones by now.
    """
    with without_warnings():
        # Otherwise PEFT asks the Hub for the base, to look for changed embeddings.
        needed = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wanted: dict[str, Any] = {**needed, **(in_base or {})}
    if differing := sorted(wanted.keys() ^ found.keys()):
        missing = len(wanted.keys() - found.keys())
        unknown = len(differing) - missing
        return f"{missing} weights are missing and {unknown} are unknown ({', '.join(differing[:2])})"
    for key, weight in wanted.items():
        if weight.shape != found[key].shape:
            return f"{key} is {list(found[key].shape)}, and {list(weight.shape)} is needed"
    for key, weight in (in_base or {}).items():
        if not torch.equal(weight.cpu(), found[key].to(weight.dtype)):
            return f"{key} has other values than the matrix that the base uses in its place"
    return None


@contextmanager
def _said_in_one_line(folder: Path) -> Iterator[None]:
    """PEFT's other warnings, such as settings of a newer version that it leaves out, in this package's form."""
    with warnings.catch_warnings(record=True) as told:
        yield
    for line in dict.fromkeys(" ".join(str(warning.message).split()) for warning in told):
        say(f"warning: the adapter in {folder}: {line}")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without PEFT's warnings of what is checked here, in other words, and of its own calls to transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", CHECKED_HERE, UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
