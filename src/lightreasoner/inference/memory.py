"""Batches that fit in memory: the number of rows to decode together, and halving on out-of-memory."""

from collections.abc import Callable, Sequence

import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import PreTrainedModel

from lightreasoner.errors import ModelError
from lightreasoner.runs.progress import say
from lightreasoner.runs.stage import Item, Result, Work

MEMORY_SHARE = 0.5  # share of the free memory for the KV cache
MOST_ROWS = {"cpu": 64}  # more rows hardly speed up a CPU's matrix products
MOST_ROWS_ON_ACCELERATORS = 512


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


def fitting_rows(model: PreTrainedModel, tokens: int) -> int:
    """Number of rows of `tokens` tokens to decode together: as many as fit in memory, up to the device's cap."""
    device = model.device
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = tokens * 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    return max(1, min(MOST_ROWS.get(device.type, MOST_ROWS_ON_ACCELERATORS), int(free * MEMORY_SHARE // row)))
