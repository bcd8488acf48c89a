"""A saved LoRA adapter: find it, put it on its base, and check that it is whole and fits."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer, set_adapter
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from lightreasoner.errors import DataError, ModelError, RunCorrupted
from lightreasoner.models.source import ModelSource
from lightreasoner.models.weights import refuse_pointers
from lightreasoner.runs.differences import changed_files
from lightreasoner.runs.files import file_hash
from lightreasoner.runs.progress import warn
from lightreasoner.runs.records import ADAPTER_FILES
from lightreasoner.runs.stage import read_stage

ADAPTER = "adapter"  # folder within that of fine-tuning
ADAPTER_SETTINGS = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# The beginnings of warnings of PEFT about what is checked or said here: tied matrices, missing weights, shapes, and
# the linear layers of GPT-2.
CHECKED_HERE = "|".join(
    [
        "Model (has|with) `tie_word_embeddings",
        "Input and output embeddings are no longer tied",
        "Found missing adapter keys",
        "Some weights of",
        "Adapter '.*LoRA tensor",
        "fan_in_fan_out is set to False",
        "All adapters are already merged",
        "Already found a `peft_config` attribute",
    ]
)


def find_adapter(path: Path) -> tuple[Path, Path | None]:
    """The adapter's folder, and that of its fine-tuning if it is in a run folder.

    Args:
        path: run folder of `lightr finetune`, or a folder with a PEFT adapter.

    Raises:
        DataError: there is no adapter, or only a pickled one.
    """
    is_in_run = path.name == ADAPTER and (path.parent / "manifest.json").is_file()
    run = path.parent if is_in_run else path / "finetune"
    folder = run / ADAPTER if run.is_dir() else path
    if not (folder / ADAPTER_WEIGHTS).is_file() and (folder / "adapter_model.bin").is_file():
        raise DataError(
            f"{folder}: the adapter needs safetensors, and there is only adapter_model.bin: a pickle, which can run "
            "code when it is read. Convert it first"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise DataError(f"no {ADAPTER_WEIGHTS} in {folder}; finish `lightr finetune` first, or check the path")
    return folder, run if run.is_dir() else None


def usable_adapter(path: Path, name: str, base: ModelSource) -> Path:
    """The folder of an adapter that is whole, and that was trained on this base as far as it says.

    Args:
        path: see `find_adapter`.
        name: of the base, for messages.
        base: the model that it is put on.

    Raises:
        DataError, RunCorrupted: see `find_adapter` and `check_adapter`.
        ModelError: it was trained on another model.
    """
    folder, run = find_adapter(path)
    if not (folder / ADAPTER_SETTINGS).is_file():
        raise DataError(f"no {ADAPTER_SETTINGS} in {folder}; copy the whole adapter again")
    if run is not None:
        made, stage = read_stage(run)
        check_adapter(folder, stage.result or {})
        refuse_other_base(made.get("expert_files", {}), str(made.get("model")), name, base.files())
    else:
        warn_of_other_base(folder, name)
    return folder


def warn_of_other_base(adapter: Path, name: str) -> None:
    """Warn if the adapter's own settings name another base; models of equal shapes take each other's adapters."""
    try:
        stated = json.loads((adapter / ADAPTER_SETTINGS).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):  # found where the adapter is read
        return
    if isinstance(stated, str) and stated and _last_part(stated) != _last_part(name):
        warn(
            f"{adapter} says that it was trained on {stated} (base_model_name_or_path in {ADAPTER_SETTINGS}), and it "
            f"is put on {name}. On another model it would do anything; check that they are the same"
        )


def _last_part(name: str) -> str:
    """The name of a model without its owner or folders; of a snapshot of the Hub's cache that of the repository."""
    path = Path(name).expanduser()
    parts = path.resolve().parts if path.exists() else path.parts
    snapshot = next((part for part in parts if part.startswith("models--")), None)
    return (snapshot.rpartition("--")[2] if snapshot else parts[-1]).casefold() if parts else ""


def check_adapter(adapter: Path, result: Mapping[str, Any]) -> None:
    """Compare the adapter's files with the hashes in the stage's result.

    Raises:
        RunCorrupted: a file is missing or differs.
    """
    for name, file in ADAPTER_FILES.items():
        path = adapter / file
        if name in result and (not path.is_file() or file_hash(path) != result[name]):
            raise RunCorrupted(
                f"{path} is not the file that fine-tuning wrote (missing or damaged), so the adapter is not used. "
                f"Remove {adapter.parent} and fine-tune again"
            )


def refuse_other_base(trained_files: Mapping[str, str], trained_on: str, name: str, files: Mapping[str, str]) -> None:
    """Refuse a base that the adapter was not trained on, by the hashes of their files.

    Raises:
        ModelError: names the files that differ.
    """
    if changed := changed_files("model", trained_files, files):
        raise ModelError(
            f"the adapter was trained on {trained_on}, which is not {name} as it is now ({changed}); an adapter fits "
            "its own base only"
        )


def load_adapter(base: PreTrainedModel, folder: Path, name: str, slot: str = "default") -> PeftModel:
    """Base + saved adapter.

    Args:
        base: stays on its device.
        folder: a PEFT adapter in safetensors.
        name: of the base, for messages.
        slot: name of the adapter on the base, which may have others.

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
            adapted = PeftModel.from_pretrained(base, folder, slot, torch_device="cpu", ignore_mismatched_sizes=True)
    except Exception as error:  # a damaged or foreign configuration makes PEFT raise all kinds
        line = str(error).strip().partition("\n")[0]
        raise ModelError(f"the adapter in {folder} cannot be put on {name}: {type(error).__name__}: {line}") from error
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ModelError(f"the adapter in {folder} is of the kind {adapted.peft_type}, which has no merged form")
    if difference := weight_difference(adapted, found, in_base=_saved_of_base(adapted, found)):
        raise ModelError(f"the adapter in {folder} does not fit {name}: {difference}; use the base it was made for")
    return adapted.eval()


def use_adapter(model: PreTrainedModel, slot: str | None) -> None:
    """Switch to this adapter of a model, or switch all off, as `PeftModel.disable_adapter` does; nothing is trained."""
    if slot is not None:
        set_adapter(model, slot, inference_mode=True)
    for module in model.modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            module.enable_adapters(slot is not None)


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
        needed = get_peft_model_state_dict(adapted, save_embedding_layers=False, adapter_name=adapted.active_adapter)
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
        warn(f"the adapter in {folder}: {line}")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without PEFT's warnings of what is checked here, in other words, and of its own calls to transformers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", CHECKED_HERE, UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield
