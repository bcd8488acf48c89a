"""LoRA adapters to train, fresh or continued: put one on a model, and check that it can be put there."""

import json
import re
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from lightreasoner.config import FinetuneConfig
from lightreasoner.config.base import nearest
from lightreasoner.errors import ConfigError, DataError, ModelError
from lightreasoner.models.adapters import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, weight_difference, without_warnings
from lightreasoner.models.loading import empty_model
from lightreasoner.models.source import find_model
from lightreasoner.runs.progress import warn

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the head
LORA_TYPES = (nn.Linear, nn.Embedding, Conv1D)


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
    warn(f"{problem}; the adapter changes one of its two uses, and `lightr merge` will refuse it")


# Settings of a saved LoRA that a training may change, or that say nothing about its weights.
OF_TRAINING = {"lora_dropout", "inference_mode", "task_type", "target_modules", "init_lora_weights"}
OF_ORIGIN = {"auto_mapping", "base_model_name_or_path", "peft_version", "revision"}


def check_continued(config: FinetuneConfig, folder: Path) -> None:
    """Check that a saved adapter is the LoRA that these settings would make. Reads its settings and weights' names.

    Args:
        config: rank, alpha and targets, and the model.
        folder: of a PEFT adapter.

    Raises:
        DataError: its files cannot be read.
        ConfigError: it is another kind of adapter, or its rank, alpha or targets are others; names both values.
    """
    try:
        saved = json.loads((folder / ADAPTER_SETTINGS).read_text(encoding="utf-8"))
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
            names = [re.sub(r"\.lora_[^.]+(\.weight)?$", "", key) for key in file.keys()]  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"the adapter in {folder} cannot be read ({error}); copy it again") from None
    model: Any = empty_model(find_model(config.model, config.model_revision), config)
    settings = _lora(config)
    with without_warnings():
        fresh: Any = get_peft_model(model, settings, low_cpu_mem_usage=True)
    wanted = json.loads(json.dumps({**asdict(settings), "peft_type": "LORA"}, default=str))
    differing = [
        f"{name} is {saved[name]} there, and {wanted[name]} in these settings"
        for name in sorted(wanted.keys() & saved.keys() - OF_TRAINING - OF_ORIGIN)
        if (saved[name] or None) != (wanted[name] or None)
    ]
    if saved.get("init_lora_weights", True) not in (True, False, "gaussian"):  # the others change the base
        differing.append(f"init_lora_weights is {saved['init_lora_weights']}, which is for its own training only")
    there = {name.removeprefix("base_model.model.") for name in names}
    if there != (here := set(fresh.base_model.targeted_module_names)):
        differing.append(f"it is on {_modules(there)}, and --lora-targets names {_modules(here)}")
    if differing:
        raise ConfigError(
            f"the adapter in {folder} cannot be continued: {'; '.join(differing)}. Give the --lora-rank, --lora-alpha "
            "and --lora-targets that it was trained with, or omit --adapter to train a fresh one"
        )


def _modules(paths: Collection[str]) -> str:
    """Paths of modules in short: their last parts, and how many they are."""
    return f"{', '.join(sorted({path.rpartition('.')[2] for path in paths}))} ({len(paths)} modules)"


def _as_peft_takes(targets: Sequence[str]) -> str | list[str]:
    """PEFT takes names as a list, and its own word or a regular expression as text."""
    first, *others = targets
    is_name = re.fullmatch(r"[\w.]+", first) is not None
    return first if not others and not is_name else list(targets)


def _lora(config: FinetuneConfig) -> LoraConfig:
    """The settings of the LoRA for PEFT."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=_as_peft_takes(config.lora_targets),
        bias="none",
    )


def attach_lora(model: PreTrainedModel, config: FinetuneConfig, start: Path | None = None) -> PeftModel:
    """Put a LoRA on the model (Table 9); a fresh one depends on the seed alone. See `check_targets`.

    Args:
        model: the base.
        config: rank, targets and dropout.
        start: folder of an adapter that passed `check_continued`, whose weights it starts with.

    Raises:
        ModelError: the weights do not fit.
    """
    set_seed(config.seed)
    with without_warnings():
        adapted = get_peft_model(model, _lora(config))
    adapted.active_peft_config.base_model_name_or_path = config.model
    if start is not None:
        weights = load_file(start / ADAPTER_WEIGHTS)
        if difference := weight_difference(adapted, weights):
            raise ModelError(f"the adapter in {start} does not fit {config.model}: {difference}")
        set_peft_model_state_dict(adapted, weights)
    return adapted
