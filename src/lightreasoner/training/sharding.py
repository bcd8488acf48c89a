"""FSDP2: the weights shared out over the processes of `torchrun`, gathered layer by layer while they are used.

By PyTorch's `fully_shard` itself, since accelerate has no FSDP on a CPU; see docs/decisions/0015-sharded-tuning.md.
"""

from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftModel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from lightreasoner.errors import ModelError
from lightreasoner.training.batches import MicroBatch, empty_micro_batch


def shard(adapted: PeftModel, base: PreTrainedModel, accelerator: Accelerator) -> None:
    """Share the weights out over all processes, in place: each decoder layer by itself, then all the rest.

    Each process must hold the same whole model, perhaps on the CPU; its shares go to the device. Base and LoRA keep
    their precisions, and gradients are averaged over the processes, as under DDP.

    Args:
        adapted: base + LoRA.
        base: names the classes of its decoder layers.
        accelerator: of the processes.

    Raises:
        ModelError: the model names no decoder layers, or has LoRA on experts.
    """
    kinds = set(base._no_split_modules or ())
    layers = [module for module in base.modules() if type(module).__name__ in kinds]
    if not layers:
        raise ModelError(
            f"--fsdp: {type(base).__name__} names no decoder layers (_no_split_modules) to share out; omit --fsdp"
        )
    if routed := [name for name, one in adapted.named_parameters() if one.requires_grad and ".experts." in name]:
        raise ModelError(
            f"--fsdp: LoRA on experts ({routed[0]}) gets no gradient in a process whose tokens go elsewhere, and the "
            "others would wait for it. Choose other --lora-targets, or omit --fsdp"
        )
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*layers, adapted):
        fully_shard(module, mesh=mesh)


def as_many_as_others(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """Add micro-batches without labels until each process has the same number.

    Every forward and backward pass gathers weights from all processes, so that a pass more would wait forever.
    """
    most = max(gather_object([len(batches)]))
    return [*batches, *[empty_micro_batch(batches[0])] * (most - len(batches))]
