"""Checkpoints of stage 2: save, rotate, find the newest complete one, resume.

A checkpoint counts once it has `complete.json` with the hash of every other file in it.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, recursively_apply
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightreasoner.errors import RunCorrupted
from lightreasoner.models.adapters import ADAPTER_WEIGHTS, weight_difference
from lightreasoner.runs.faults import fault_point
from lightreasoner.runs.files import file_hash, naming_full_disk, write_json
from lightreasoner.runs.progress import say

COMPLETE = "complete.json"
OTHER_BYTES = 100_000  # rough size of a checkpoint without weights and moments


@dataclass
class TrainingState:
    """Everything that a training step changes; a checkpoint holds all of it.

    Attributes:
        accelerator: of the processes and the gradient scaler.
        model: the model with its LoRA, not wrapped for several processes; perhaps shared out over them.
        sums: `LabelObjective.sums`.
        log: entries of `log.json`.
    """

    accelerator: Accelerator
    model: PeftModel
    optimizer: Optimizer
    lr_scheduler: LRScheduler
    sums: dict[str, float]
    step: int = 0
    log: list[dict[str, float]] = field(default_factory=list)

    @property
    def parts(self) -> dict[str, Any]:
        """Objects with a `state_dict`, by file name."""
        scaler = self.accelerator.scaler
        parts = {"optimizer.pt": self.optimizer, "scheduler.pt": self.lr_scheduler, "scaler.pt": scaler}
        return {name: part for name, part in parts.items() if part is not None}


def save_checkpoint(state: TrainingState, folder: Path, keep: int) -> None:
    """Save `checkpoint-STEP`, mark it complete, then remove all but the newest `keep`.

    All processes must call this; the first one writes.

    Raises:
        DiskFull: names the bytes needed and free; the torn checkpoint is removed.
    """
    random_states = gather_object([_random_state(state.accelerator.device)])
    sums = gather_object([state.sums])
    adapter = adapter_weights(state.model)
    parts = {name: whole(part.state_dict()) for name, part in state.parts.items()}
    if state.accelerator.is_main_process:
        _write_checkpoint(state, folder, keep, adapter, {**parts, "rng_state.pth": random_states}, sums)
    # `torchrun` stops the first process when another one leaves, which must not happen while it writes.
    state.accelerator.wait_for_everyone()


def adapter_weights(model: PeftModel) -> dict[str, Tensor]:
    """The trained weights by name, for `PeftModel.save_pretrained`. All processes must call this."""
    return {name: whole(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}


def whole(value: Any) -> Any:
    """Tensors that are shared out over processes become whole ones, in nested dicts and lists too."""
    return recursively_apply(DTensor.full_tensor, value, test_type=lambda part: isinstance(part, DTensor))


def _shared_out(state: Any, optimizer: Optimizer) -> Any:
    """The reverse of `whole` for the optimizer's moments: each as its parameter is shared out."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in state["state"].items():
        weight = parameters[index]
        for name, moment in moments.items():
            if isinstance(weight, DTensor) and moment.shape == weight.shape:
                moments[name] = distribute_tensor(moment.to(weight.device), weight.device_mesh, weight.placements)
    return state


def _write_checkpoint(
    state: TrainingState,
    folder: Path,
    keep: int,
    adapter: dict[str, Tensor],
    parts: dict[str, Any],
    sums: list[dict[str, float]],
) -> None:
    path = folder / f"checkpoint-{state.step}"
    shutil.rmtree(path, ignore_errors=True)  # an incomplete one
    trained = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    with naming_full_disk(path, 12 * trained + OTHER_BYTES, path):  # float32, with Adam's two moments
        state.model.save_pretrained(str(path), save_embedding_layers=False, state_dict=adapter)
        fault_point("in-checkpoint")
        for name, part in parts.items():
            torch.save(part, path / name)
        totals = {name: sum(each[name] for each in sums) for name in state.sums}
        (path / "trainer_state.json").write_text(json.dumps({"log_history": state.log, "sums": totals}))
        fault_point("before-checkpoint-complete")
        write_json(path / COMPLETE, {file.name: file_hash(file) for file in sorted(path.iterdir()) if file.is_file()})
    checkpoints = _checkpoints(folder)
    newest = checkpoints.index(path)
    for old in checkpoints[:newest] + checkpoints[newest + keep :]:
        shutil.rmtree(old)


def resume_adapter(model: PeftModel, checkpoint: Path) -> None:
    """Restore the adapter's weights, before the model is wrapped for several processes or shared out over them.

    Raises:
        RunCorrupted: weights are missing.
    """
    weights = load_file(checkpoint / ADAPTER_WEIGHTS)
    if difference := weight_difference(model, weights):
        raise RunCorrupted(
            f"{checkpoint / ADAPTER_WEIGHTS} is not the adapter of this training: {difference}. Remove {checkpoint}; "
            "training then resumes from the one before, if there is one"
        )
    set_peft_model_state_dict(model, weights)


def resume(state: TrainingState, checkpoint: Path) -> None:
    """Restore all but the adapter's weights as they were when the checkpoint was saved, by any number of processes.

    Raises:
        RunCorrupted: a file holds pickled objects other than tensors and numbers; they are not run.
    """

    def load(name: str) -> Any:
        return torch.load(checkpoint / name, map_location="cpu", weights_only=True)

    try:
        for name, part in state.parts.items():
            part.load_state_dict(_shared_out(load(name), part) if part is state.optimizer else load(name))
        random_states = load("rng_state.pth")
    except UnpicklingError:
        raise RunCorrupted(
            f"{checkpoint} holds pickled objects other than numbers, which were not run: it is not a checkpoint of "
            "`lightr finetune`. Remove it; training then resumes from the one before, if there is one"
        ) from None
    saved = json.loads((checkpoint / "trainer_state.json").read_text())
    state.step, state.log = step_of(checkpoint), saved["log_history"]
    if state.accelerator.is_main_process:
        state.sums.update(saved["sums"])
    # Processes that the checkpoint does not know keep the random state of the seed.
    for device, random_state in dict(enumerate(random_states)).get(state.accelerator.process_index, {}).items():
        _generator_of(device).set_rng_state(random_state)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all there and intact."""
    for path in _checkpoints(folder):
        if _is_complete(path):
            return path
        say(f"{path}: torn by an earlier stop, or damaged; passed over")
    return None


def step_of(checkpoint: Path) -> int:
    """Number of steps taken before it was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    numbered = (path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal())
    return sorted(numbered, key=step_of, reverse=True)


def _is_complete(checkpoint: Path) -> bool:
    try:
        hashes = json.loads((checkpoint / COMPLETE).read_text())
        return bool(hashes) and all(file_hash(checkpoint / name) == sha256 for name, sha256 in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the random generators of the CPU and the device, for dropout."""
    return {name: _generator_of(name).get_rng_state() for name in {"cpu", device.type}}


def _generator_of(device: str) -> Any:
    return torch if device == "cpu" else torch.get_device_module(device)
