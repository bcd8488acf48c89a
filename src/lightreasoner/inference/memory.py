"""Batches that fit in memory: the number of rows to decode together, and halving on out-of-memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, LinearAttentionCacheLayerMixin

from lightreasoner.config.sections import MachineSettings, WorkerSettings
from lightreasoner.errors import ModelError
from lightreasoner.models.loading import pick_device
from lightreasoner.runs.progress import say
from lightreasoner.runs.work import Item, Result, Work
from lightreasoner.runs.workers import cores

MEMORY_SHARE = 0.5  # share of the free memory for the KV cache
MOST_ROWS = {"cpu": 64}  # more rows hardly speed up a CPU's matrix products
MOST_ROWS_ON_ACCELERATORS = 512
CORES_PER_WORKER = 4  # of a CPU, where the number of workers is not given


class ModelWork(Work[Item, Result]):
    """Work of a model on a batch, halved on out-of-memory."""

    def attempt(
        self, batch: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]], halved: list[int]
    ) -> list[Result]:
        """See `Work.attempt`."""
        return in_halves(batch, run, halved)


def in_halves(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]], halved: list[int]) -> list[Result]:
    """Run `work(items)`; on out-of-memory, run it on each half instead, recursively.

    Args:
        halved: receives the size of each batch that did not fit.

    Raises:
        ModelError: a single item does not fit in memory.
    """
    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        if len(items) == 1:
            raise ModelError(
                f"out of memory with a batch of one ({str(error).partition(chr(10))[0]}); "
                "use a smaller dtype, shorter texts or a larger machine"
            ) from None
    # Outside the except block, where the traceback would keep the failed batch's tensors alive.
    clear_device_cache(garbage_collection=True)
    say(f"out of memory with a batch of {len(items)}: done again in halves")
    halved.append(len(items))
    middle = len(items) // 2
    return in_halves(items[:middle], work, halved) + in_halves(items[middle:], work, halved)


def free_memory(device: torch.device) -> int:
    """Free bytes of the device's memory; of the main memory on a CPU, and for devices that do not tell.

    Raises:
        ModelError: the device is not there.
    """
    module: Any = torch.get_device_module(device)
    if not getattr(module, "is_available", lambda: True)():
        raise ModelError(
            f"the free memory of {device} is unknown: PyTorch {torch.__version__} finds no such device here"
        )
    if device.type == "mps":  # shares the main memory, up to a limit
        used = torch.mps.driver_allocated_memory()
        return min(torch.mps.recommended_max_memory() - used, psutil.virtual_memory().available)
    if hasattr(module, "mem_get_info"):
        return int(module.mem_get_info(device)[0])
    return psutil.virtual_memory().available


def fitting_rows(model: PreTrainedModel, tokens: int, reserved: int = 0, workers: int = 1) -> int:
    """Number of rows of `tokens` tokens to decode together: as many as fit in memory, up to the device's cap.

    Args:
        model: the model that decodes.
        tokens: tokens of a row.
        reserved: free bytes that something else will take.
        workers: processes that share what is left of the device's memory.
    """
    device, free = model.device, free_memory(model.device) - reserved
    state, token = cache_bytes(model)
    row = max(1, state + tokens * token)
    return max(1, min(MOST_ROWS.get(device.type, MOST_ROWS_ON_ACCELERATORS), int(free * MEMORY_SHARE / workers // row)))


def worker_devices(config: WorkerSettings, machine: MachineSettings, weights: int) -> list[str]:
    """The device of each worker: the accelerators in turn, or the CPU, whose cores they share.

    Args:
        config: how many workers; with `auto` one an accelerator, or one for every four cores that finds memory.
        machine: device and precision.
        weights: bytes of the weights that each worker loads.
    """
    device = pick_device(machine.device)
    count = torch.accelerator.device_count() if device.type == "cuda" and device.index is None else 1
    devices = [f"{device.type}:{number}" for number in range(count)] if count > 1 else [str(device)]
    if config.workers != "auto":
        return [devices[number % len(devices)] for number in range(config.workers)]
    if device.type == "cpu":
        by_memory = int(psutil.virtual_memory().available * MEMORY_SHARE // max(weights, 1))
        devices *= max(1, min(cores() // CORES_PER_WORKER, by_memory))
    say(f"workers: {len(devices)} on {', '.join(dict.fromkeys(devices))}")
    return devices


@torch.inference_mode()
def cache_bytes(model: PreTrainedModel) -> tuple[int, int]:
    """Bytes of the decoding cache of one text: of its state, whatever its length, and of each token.

    Measured on two short texts. The configuration does not say it: state-space models have no attention heads, hybrid
    models have them in some layers, and others store something smaller than keys and values.
    """
    short, long = 8, 16
    sizes = []
    for length in (short, long):
        output = model(input_ids=torch.ones(1, length, dtype=torch.long, device=model.device), use_cache=True)
        found: dict[int, Tensor] = {}
        _collect_tensors([value for name, value in output.items() if name != "logits"], found)
        sizes.append(sum(tensor.nbytes for tensor in found.values()))
    token = (sizes[1] - sizes[0]) // (long - short)
    return sizes[0] - short * token, token


def _collect_tensors(value: Any, found: dict[int, Tensor]) -> None:
    """Add the tensors in a cache, by address."""
    if isinstance(value, Tensor):
        found[value.data_ptr()] = value
    elif isinstance(value, Mapping):
        _collect_tensors(list(value.values()), found)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _collect_tensors(part, found)
    elif isinstance(value, (Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin)):
        _collect_tensors(vars(value), found)
