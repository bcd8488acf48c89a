"""Stage 2, the update of Algorithm 1: LoRA fine-tuning of the expert on the stored labels (Eq 7 and 8).

Writes `RUN/finetune/`: `adapter/` (a PEFT adapter), `checkpoint-*/`, `log.json`, `result.json`.
"""

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import patch_environment
from accelerate.utils.memory import should_reduce_batch_size
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, get_linear_schedule_with_warmup, set_seed

from lightreasoner.config import FinetuneConfig
from lightreasoner.config.sections import SELECTION
from lightreasoner.errors import ConfigError, DataError, Interrupted, ModelError, TrainingDiverged
from lightreasoner.inference.packing import checkpoint_contexts, packs
from lightreasoner.models import loading
from lightreasoner.models.adapters import ADAPTER, ADAPTER_SETTINGS, check_adapter
from lightreasoner.models.quantising import check_4bit, check_base, load_in_4bit
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.differences import changed_files
from lightreasoner.runs.files import file_hash, new_folder, write_json
from lightreasoner.runs.locks import one_thread
from lightreasoner.runs.progress import count_tokens, progress, say, warn
from lightreasoner.runs.records import ADAPTER_FILES
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import open_stage
from lightreasoner.runs.tracking import Tracking, check_trackers, tracking
from lightreasoner.training import checkpoints
from lightreasoner.training.adapters import attach_lora, check_continued, check_targets
from lightreasoner.training.batches import Collator, LabelSchedule, LabelSet, MicroBatch, load_labels, share_of_step
from lightreasoner.training.model_card import Tuned
from lightreasoner.training.objective import LabelObjective
from lightreasoner.training.sharding import as_many_as_others, shard


@one_thread
def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Stage 2: fine-tune the expert on the stored labels with LoRA.

    Returns:
        Losses, counts and time.

    Raises:
        LightReasonerError: see `errors`; the newest complete checkpoint stays.
    """
    source = find_model(config.model, config.model_revision)
    continued = loading.with_adapter(source, config.adapter)
    made, labels = load_labels(config.data, config.max_length)
    tuned = Tuned(
        settings=config,
        expert_files=source.files(),
        adapter_files=continued.adapter_files(),
        dtype=loading.dtype_name(config, source),
        samples=made,
        labels_sha256=labels.sha256,
    )
    if changed := changed_files("model", made.expert_files, tuned.expert_files):
        raise DataError(
            f"the labels in {config.data} were sampled from {made.expert}, which is not {config.model} as it is now "
            f"({changed}). Labels are made for one expert and would mislead another: fine-tune the expert that was "
            "sampled, or sample again"
        )
    if (config.data / "sample").is_dir() and (config.data / SELECTION / "manifest.json").is_file():
        warn(
            f"{config.data} holds a selection too, and its samples are trained on, with the steps that sampling kept; "
            f"--data {config.data / SELECTION} trains on the selection"
        )
    check_targets(config, config.lora_targets)
    resolved = config.model_copy(update={"objective": config.objective or made.objective})
    if continued.adapter is not None:
        check_continued(config, continued.adapter)
    if made.adapter_files not in (None, tuned.adapter_files):
        trained = "another one" if continued.adapter else "a fresh one"
        warn(
            f"the labels in {config.data} were sampled from {made.expert} with an adapter, and {trained} is trained on "
            "them; --adapter continues an adapter"
        )
    elif continued.adapter and made.amateur and made.adapter_files is None:
        warn(
            f"the labels in {config.data} were sampled from {made.expert} without an adapter, so they say where it "
            f"beats the amateur, and not where it does with {config.adapter}; sample --adapter takes an adapter too"
        )
    if config.load_in_4bit:
        check_base(source, config)
    if labels.skipped:
        say(f"{labels.skipped} labels skipped: their prefix is longer than {config.max_length} tokens")
    if int(os.environ.get("RANK", "0")) > 0:  # of `torchrun`: the first process holds the lock and writes all files
        if not (config.out / "finetune" / "result.json").exists():
            with _own_accelerator():
                _train(resolved, continued, labels, config.out / "finetune", lambda: None)
                _leave_group()
        return {}
    with open_stage(config.out, "finetune", tuned.fingerprint(), say, tuned.model_dump(mode="json")) as stage:
        if stage.result is not None:
            check_adapter(stage.path / ADAPTER, stage.result)
            with tracking(config.report_to, config.out) as trackers:  # to a tracker that is new
                _send(trackers, stage.path, json.loads((stage.path / "log.json").read_text(encoding="utf-8")))
            return stage.result
        with _own_accelerator():
            try:
                result = _train(resolved, continued, labels, stage.path, stage.keep_time)
            except TrainingDiverged:
                stage.release()  # it diverges again under these settings
                raise
            _leave_group()
        stage.keep_time()
        return stage.finish({**result, "seconds": round(stage.seconds or 0.0, 1)})


def _leave_group() -> None:
    """Disconnect the processes of `torchrun`: the threads of a group that is still open at exit can abort it."""
    if torch.distributed.is_initialized():
        # Free the wrapped model first: its destructor would close the group while it holds the GIL, and the group's
        # threads may be waiting for the GIL.
        gc.collect()
        torch.distributed.destroy_process_group()


def _train(
    config: FinetuneConfig, source: ModelSource, labels: LabelSet, folder: Path, saved: Callable[[], None]
) -> dict[str, Any]:
    """Train and save the adapter; returns the stage's result, empty on all processes but the first.

    The adapter of `source`, if it has one, is continued. `saved` is called after each checkpoint.
    """
    accelerator = _accelerator(config, loading.pick_dtype(config, source))
    processes = accelerator.num_processes
    share = share_of_step(config.labels_per_step, processes)
    tokenizer = loading.load_tokenizer(source, config)
    shards = config.fsdp and processes > 1
    base = _load_base(config, source, accelerator, shards)
    vocabulary = vocabulary_of(tokenizer, logit_width(base))
    objective = LabelObjective(base, vocabulary, config.labels_per_step, processes, config.objective or "label")
    order = LabelSchedule(labels, share, config.steps * processes, config.labels_per_forward, config.seed)
    tokens = config.tokens_per_micro_batch or tokens_per_micro_batch(accelerator.device)
    collator = Collator(labels, packs(base), tokens)

    adapted = attach_lora(base, config, source.adapter)
    if checkpoint := checkpoints.newest_complete_checkpoint(folder):
        checkpoints.resume_adapter(adapted, checkpoint)
    if shards:
        shard(adapted, base, accelerator)
    # `shard` replaced DDP. The parameters below are those after it.
    model = accelerator.prepare_model(adapted, device_placement=not shards, evaluation_mode=shards)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(torch.optim.AdamW(trained, config.learning_rate, weight_decay=0.0))
    lr_scheduler = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=config.steps)
    state = checkpoints.TrainingState(accelerator, adapted, optimizer, lr_scheduler, objective.sums)

    done = checkpoints.step_of(checkpoint) if checkpoint else 0
    items = range(done * processes + accelerator.process_index, len(order), processes)
    set_seed(config.seed)  # of dropout
    # Making the iterator draws from the global generator, so it is made before `resume` restores that generator.
    batches = iter(DataLoader(order, sampler=items, collate_fn=collator))
    if checkpoint:
        checkpoints.resume(state, checkpoint)
    with tracking(config.report_to if accelerator.is_main_process else (), config.out) as trackers:
        trackers.start()
        trackers.settings("finetune", config.model_dump(mode="json"))
        _send(trackers, folder, state.log)  # of earlier sessions, to a tracker that is new
        _run_steps(config, state, model, objective, batches, folder, saved, trackers)
    weights = checkpoints.adapter_weights(adapted)
    if not accelerator.is_main_process:
        return {}
    _save_adapter(adapted, weights, folder)
    return {
        "steps": config.steps,
        "labels": len(labels),
        "labels_skipped": labels.skipped,
        "labels_trained": config.steps * config.labels_per_step,
        "epochs": math.ceil(config.steps * config.labels_per_step / len(labels)),
        "first_loss": state.log[0]["loss"],
        "last_loss": state.log[-1]["loss"],
        **{name: file_hash(folder / ADAPTER / file) for name, file in ADAPTER_FILES.items()},
    }


def _load_base(config: FinetuneConfig, source: ModelSource, accelerator: Accelerator, shards: bool) -> PreTrainedModel:
    """The model to tune, on the device of this process; on the CPU if `shard` will take it from there.

    Raises:
        ModelError: see `load_model`; or the model has no gradient checkpointing.
    """
    machine = config.model_copy(update={"device": "cpu" if shards else str(accelerator.device)})
    machine = machine.model_copy(update={"dtype": loading.dtype_name(config, source)})
    plain = replace(source, adapter=None)
    base = load_in_4bit(plain, machine) if config.load_in_4bit else loading.load_model(plain, machine)
    if config.gradient_checkpointing:
        if not base.supports_gradient_checkpointing:
            raise ModelError(f"--gradient-checkpointing: {type(base).__name__} does not support it; omit it")
        contexts = partial(checkpoint_contexts, base)
        base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": contexts})
    return base


def _run_steps(
    config: FinetuneConfig,
    state: checkpoints.TrainingState,
    model: nn.Module,
    objective: LabelObjective,
    batches: Iterable[list[MicroBatch]],
    folder: Path,
    saved: Callable[[], None],
    trackers: Tracking,
) -> None:
    """Forward, backward, clip, step; then log, save a checkpoint, or stop on request.

    Raises:
        Interrupted: one of the processes had a signal; all stop after the same step and its checkpoint.
    """
    accelerator, optimizer = state.accelerator, state.optimizer
    pace, note, every = _Pace(state.step), "", _logging_steps(config)
    model.train()
    shown = accelerator.is_main_process
    with progress("fine-tuning", config.steps, state.step, shown=shown) as advance, stop_signals() as stop:
        for micro_batches in batches:
            if config.fsdp and accelerator.num_processes > 1:
                micro_batches = as_many_as_others(micro_batches)
            _add_gradients(accelerator, model, objective, micro_batches)
            norm = _clipped_norm(accelerator, model, objective, config.max_grad_norm)
            learning_rate = float(state.lr_scheduler.get_last_lr()[0])
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:
                state.lr_scheduler.step()
            optimizer.zero_grad()
            state.step += 1

            if state.step % every == 0 or state.step == config.steps:
                speed = round(pace.since_last(state.step) * config.labels_per_step, 2)
                entry = {**objective.flush(), "labels_per_second": speed, "epoch": state.step / config.steps}
                _log(state, folder, {**entry, "grad_norm": norm, "learning_rate": learning_rate}, trackers)
                note = f"loss {entry['loss']:.4f}"
            advance(1, note)
            stopping = stop.signal_number is not None
            if accelerator.num_processes > 1:
                if stopping:
                    accelerator.set_trigger()
                # True on all processes once one had a signal: one that stopped alone would leave the others waiting.
                stopping = accelerator.check_trigger()
            if stopping or state.step % config.save_steps == 0 or state.step == config.steps:
                checkpoints.save_checkpoint(state, folder, config.keep_checkpoints)
                saved()
            if stopping:
                raise Interrupted(stop.signal_number or signal.SIGTERM)


def _logging_steps(config: FinetuneConfig) -> int:
    """Steps between two log entries; a short training has two, so that its first and last loss can be compared."""
    return min(config.logging_steps, math.ceil(config.steps / 2))


class _Pace:
    """Steps per second between two log entries."""

    def __init__(self, step: int) -> None:
        self._step, self._at = step, time.perf_counter()

    def since_last(self, step: int) -> float:
        """Steps per second since the last call."""
        (before, then), now = (self._step, self._at), time.perf_counter()
        self._step, self._at = step, now
        return (step - before) / (now - then)


def _add_gradients(
    accelerator: Accelerator, model: nn.Module, objective: LabelObjective, batches: Sequence[MicroBatch]
) -> None:
    """Forward and backward of one step's labels, micro-batch by micro-batch; DDP reduces gradients in the last one.

    Raises:
        ModelError: memory runs out.
    """
    for batch in batches:
        try:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(model):
                accelerator.backward(objective(model, batch.to(accelerator.device)))
            count_tokens(batch.inputs["input_ids"].numel())
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
                raise
            raise ModelError(
                f"out of memory with a micro-batch of {batch.inputs['input_ids'].numel()} tokens; the step was not "
                "taken and earlier checkpoints are intact. Lower --tokens-per-micro-batch, which changes memory "
                "and speed only, or use --dtype bfloat16"
            ) from None


def _clipped_norm(accelerator: Accelerator, model: nn.Module, objective: LabelObjective, most: float) -> float:
    """Clip the gradient to the norm `most` (0: no clipping); returns the norm before.

    Raises:
        TrainingDiverged: the loss or the norm is NaN or infinite. In float16 the gradient scaler skips a step of
            infinite norm instead.
    """
    found = accelerator.clip_grad_norm_(model.parameters(), most or math.inf)
    norm = objective.settle(found.full_tensor() if isinstance(found, DTensor) else found)
    if not math.isfinite(norm) and accelerator.mixed_precision != "fp16":
        raise TrainingDiverged(
            f"the gradient's norm is {norm}, though the loss is finite; the step was not taken and earlier "
            "checkpoints are intact. Lower --learning-rate, or use --dtype float32"
        )
    return norm


def _log(state: checkpoints.TrainingState, folder: Path, entry: Mapping[str, float], trackers: Tracking) -> None:
    """Add an entry to `log.json` and send it to the trackers."""
    state.log.append({**entry, "step": state.step})
    if state.accelerator.is_main_process:
        write_json(folder / "log.json", state.log)
        _send(trackers, folder, state.log[-1:])


def _send(trackers: Tracking, folder: Path, log: Iterable[Mapping[str, float]]) -> None:
    """Send entries of the log to the trackers; those that were sent before are left out."""
    for entry in log if trackers.names else ():
        figures = {f"train/{name}": value for name, value in entry.items() if name != "step"}
        trackers.curve(_training_key(folder), figures, int(entry["step"]))


def _training_key(folder: Path) -> str:
    """Names a training by what decides it: another one in this folder has curves of its own."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return f"train-{hashlib.sha256(json.dumps(manifest['fingerprint'], sort_keys=True).encode()).hexdigest()[:16]}"


@contextmanager
def _own_accelerator() -> Iterator[None]:
    """Within this context accelerate knows no accelerator, and gradients are computed; then all is as before."""
    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    before = [dict(state) for state in states]
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for state, content in zip(states, before, strict=True):
            state.clear()
            state.update(content)


def _accelerator(config: FinetuneConfig, dtype: torch.dtype) -> Accelerator:
    """The device, precision and processes of this training.

    Raises:
        LightReasonerError: see `check_machine`.
    """
    check_machine(config)
    device = loading.pick_device(config.device)
    # Accelerate would take the first device of the machine. `torchrun` gives each process a device of its own.
    chosen = {} if "LOCAL_RANK" in os.environ else {"accelerate_torch_device": device}
    if chosen and device.index is not None and device.type not in ("cpu", "mps"):
        torch.get_device_module(device).set_device(device)  # whose random generator checkpoints save
    with patch_environment(**chosen):
        return Accelerator(
            mixed_precision={torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "no"),
            cpu=device.type == "cpu",
            # In a mixture-of-experts model, the LoRA on parts that no token was routed to gets no gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )


def check_machine(config: FinetuneConfig) -> None:
    """Check that this machine has what a training with these settings needs.

    Raises:
        ConfigError: see `check_trackers`; or --fsdp with 4 bits or float16.
        ModelError: the device is not there, float16 without a CUDA device, or see `check_4bit`.
    """
    check_trackers(config.report_to)
    device = loading.pick_device(config.device)
    if config.load_in_4bit:
        check_4bit(config)
    if config.fsdp:
        _check_sharding(config)
    if config.dtype == "float16" and device.type != "cuda":
        raise ModelError(
            "training in float16 needs a CUDA device for its loss scaling; use --dtype bfloat16 or float32"
        )


def _check_sharding(config: FinetuneConfig) -> None:
    if config.load_in_4bit:
        raise ConfigError("--fsdp cannot share out a base in 4 bits; leave out --fsdp or --load-in-4bit")
    if config.dtype == "float16":
        raise ConfigError("--fsdp has no loss scaling, which float16 needs; use --dtype bfloat16 or float32")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        say("--fsdp: one process has nobody to share the base with; start several: torchrun --nproc-per-node N")


def tokens_per_micro_batch(device: torch.device) -> int:
    """Default cap on the tokens of a forward and backward pass, whose activations take memory."""
    return 768 if device.type == "cpu" else 16384


def _save_adapter(model: PeftModel, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Save the adapter; its folder appears only once it is whole."""
    trained = sum(weight.nbytes for weight in weights.values())
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)  # left by a process that died before writing its result
    with new_folder(folder / ADAPTER, trained) as temporary:
        # Otherwise PEFT asks the Hub for the base, to look for changed embeddings.
        model.save_pretrained(str(temporary), save_embedding_layers=False, state_dict=weights)
        settings = json.loads((temporary / ADAPTER_SETTINGS).read_text(encoding="utf-8"))
        # PEFT writes a set of names in an order that differs between processes, and with it the file's hash.
        if isinstance(settings["target_modules"], list):
            write_json(temporary / ADAPTER_SETTINGS, {**settings, "target_modules": sorted(settings["target_modules"])})
