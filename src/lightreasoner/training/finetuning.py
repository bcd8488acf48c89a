"""Stage 2, the update of Algorithm 1: LoRA fine-tuning of the expert on the stored labels (Eq 7 and 8).

Writes `RUN/finetune/`: `adapter/` (a PEFT adapter), `checkpoint-*/`, `log.json`, `result.json`.
"""

import gc
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from lightreasoner import contrast
from lightreasoner.config import FinetuneConfig
from lightreasoner.errors import DataError, Interrupted, ModelError, RunCorrupted, TrainingDiverged
from lightreasoner.inference.packing import attention_by, packs
from lightreasoner.inference.scoring import head_rows
from lightreasoner.models.loading import (
    ModelSource,
    dtype_name,
    find_model,
    load_model,
    load_tokenizer,
    pick_device,
    pick_dtype,
)
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, vocabulary_of
from lightreasoner.runs.faults import reach
from lightreasoner.runs.files import file_hash, publish_folder, room_for, write_json
from lightreasoner.runs.progress import Advance, progress, say
from lightreasoner.runs.records import ADAPTER_FILES
from lightreasoner.runs.signals import StopRequest, stop_signals
from lightreasoner.runs.stage import open_stage
from lightreasoner.training.batches import (
    Collator,
    LabelSchedule,
    LabelSet,
    MicroBatch,
    epochs,
    load_labels,
    share_of_step,
)
from lightreasoner.training.model_card import Tuned

ADAPTER = "adapter"
COMPLETE = "complete.json"  # written into a checkpoint after everything else
OTHER_CHECKPOINT_BYTES = 100_000  # what a checkpoint holds beside weights and moments, about


def finetune(config: FinetuneConfig) -> dict[str, Any]:
    """Run stage 2, or what is left of it, and give its result: losses, counts, time.

    Raises:
        LightReasonerError: see `errors`; the newest complete checkpoint stays.
    """
    source = find_model(config.model, config.model_revision)
    made, labels = load_labels(config.data, config.max_length)
    expert_sha256 = source.fingerprint()
    if made.expert_sha256 != expert_sha256:
        raise DataError(
            f"the labels in {config.data} were sampled from {made.expert}, which is not {config.model} "
            "(their files differ). A label tells one expert how to change, and would mislead another: "
            "fine-tune the expert that was sampled"
        )
    if labels.skipped:
        say(f"{labels.skipped} labels skipped: their prefix is longer than {config.max_length} tokens")
    tuned = Tuned(settings=config, expert_sha256=expert_sha256, dtype=dtype_name(config), samples=made)
    if int(os.environ.get("RANK", "0")) > 0:
        return _train_as_worker(config, source, labels)
    with open_stage(config.out, "finetune", tuned.fingerprint(), say, tuned.model_dump(mode="json")) as stage:
        if stage.result is not None:
            _check_adapter(stage.path / ADAPTER, stage.result)
            return stage.result
        result = _train(config, source, labels, stage.path)
        _leave_group()
        return stage.finish(result)


def _check_adapter(adapter: Path, result: Mapping[str, Any]) -> None:
    for name, file in ADAPTER_FILES.items():
        path = adapter / file
        if name in result and (not path.is_file() or file_hash(path) != result[name]):
            raise RunCorrupted(
                f"{path} is not the file that fine-tuning wrote (missing or damaged), and is not silently made again. "
                f"Remove {adapter.parent} and fine-tune again"
            )


def _train_as_worker(config: FinetuneConfig, source: ModelSource, labels: LabelSet) -> dict[str, Any]:
    """Every process of `torchrun` but the first: the first holds the lock and does all the writing."""
    folder = config.out / "finetune"
    if not (folder / "result.json").exists():
        _train(config, source, labels, folder)
        _leave_group()
    return {}


def _leave_group() -> None:
    """End what connects the processes of `torchrun`: threads of a group that is left to the exit can abort it."""
    if torch.distributed.is_initialized():
        # The wrapped model goes first. Its hold on the group, if it were the last, would be given up under the
        # interpreter's lock, which the group's threads may be waiting for.
        gc.collect()
        torch.distributed.destroy_process_group()


def _train(config: FinetuneConfig, source: ModelSource, labels: LabelSet, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    arguments = _training_arguments(config, folder)
    share = share_of_step(config.labels_per_step, arguments.world_size)
    tokenizer = load_tokenizer(source, config)
    model = load_model(source, config.machine(device=str(arguments.device)))
    vocabulary = vocabulary_of(tokenizer, logit_width(model))
    count = config.steps * arguments.world_size
    schedule = LabelSchedule(labels, share, count, config.labels_per_forward, config.seed)
    tokens = config.tokens_per_micro_batch or tokens_per_micro_batch(arguments.device)
    checkpoint = newest_complete_checkpoint(folder)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    with progress("fine-tuning", config.steps, done) as advance, stop_signals() as stop:
        trainer = LabelTrainer(
            model=attach_lora(model, config),
            args=arguments,
            train_dataset=schedule,
            data_collator=Collator(labels, packs(model), tokens),
            callbacks=[_Watcher(folder, advance, stop, config.keep_checkpoints)],
            objective=LabelObjective(model, vocabulary, config.labels_per_step, arguments.world_size),
        )
        trainer.remove_callback(PrinterCallback)  # stdout is for data
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except UnpicklingError:
            raise RunCorrupted(
                f"{checkpoint} holds more than numbers, and what it holds was not run: it is not a checkpoint of "
                f"`lightr finetune`. Remove it; the one before it is taken, if there is one"
            ) from None
    if trainer.state.global_step < config.steps:
        raise Interrupted(stop.signal_number or signal.SIGTERM)  # another process may have had the signal
    if not trainer.is_world_process_zero():
        return {}
    _save_adapter(trainer.model, folder, config.model)
    losses = [entry for entry in trainer.state.log_history if "kl_to_target" in entry]
    return {
        "steps": config.steps,
        "labels": len(labels),
        "labels_skipped": labels.skipped,
        "labels_trained": config.steps * config.labels_per_step,
        "epochs": epochs(labels, config.steps, config.labels_per_step),
        "first_loss": losses[0]["loss"] if losses else None,
        "last_loss": losses[-1]["loss"] if losses else None,
        **{name: file_hash(folder / ADAPTER / file) for name, file in ADAPTER_FILES.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }


def tokens_per_micro_batch(device: torch.device) -> int:
    """Tokens of a forward and backward pass, whose activations take memory; a CPU is busy with few."""
    return 768 if device.type == "cpu" else 16384


def attach_lora(model: PreTrainedModel, config: FinetuneConfig) -> nn.Module:
    """Put a fresh LoRA on the model (Table 9); its start depends on the seed alone.

    Raises:
        ModelError: the model has no module of the given names.
    """
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
        bias="none",
    )
    set_seed(config.seed)
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        raise ModelError(
            f"no LoRA on {', '.join(config.lora_targets)}: {str(error).partition('.')[0]}. "
            "Name modules that this model has with --lora-targets"
        ) from None


@dataclass
class LabelObjective:
    """The loss at the labelled positions of a micro-batch, and running sums for the log.

    Attributes:
        model: the model whose LM head is steered; its LoRA layers may have been attached since.
        vocabulary: the real tokens, over which π_E is normalised as it was in sampling.
        labels_per_step: every label weighs 1/labels_per_step in the gradient of its step.
        processes: DDP averages gradients over processes; the loss makes up for it.
    """

    model: PreTrainedModel
    vocabulary: SharedVocabulary
    labels_per_step: int
    processes: int = 1
    sums: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 0.0, "entropy": 0.0, "labels": 0.0})

    def __call__(self, forward: nn.Module, batch: MicroBatch) -> Tensor:
        """This micro-batch's share of its step's mean loss (Eq 8).

        Args:
            forward: the model, perhaps wrapped for several processes.
            batch: texts and labels.

        Raises:
            TrainingDiverged: the loss is NaN or infinite.
        """
        head: Any = self.model.get_output_embeddings()
        attending = attention_by(self.model, batch.layout.attend) if batch.layout else nullcontext()
        reach("in-batch")
        with head_rows(head, batch.rows), attending:
            logits = forward(**batch.inputs, use_cache=False).logits[0]
        log_expert = self.vocabulary.log_softmax(logits).gather(1, self.vocabulary.column_of(batch.label_ids))
        weights = batch.label_weights
        cross_entropy = contrast.label_cross_entropy(weights, log_expert)
        if reach("loss"):
            cross_entropy = cross_entropy * math.nan
        total = cross_entropy.sum()
        # One transfer for all figures: each costs a wait for the GPU.
        cross_entropy_sum, entropy_sum = torch.stack([total.detach(), contrast.entropy(weights.log()).sum()]).tolist()
        if not math.isfinite(cross_entropy_sum):
            raise TrainingDiverged(
                f"the loss is {cross_entropy_sum}; the step was not taken and earlier checkpoints are intact. "
                "Lower --learning-rate, or use --dtype bfloat16 or float32 instead of float16"
            )
        self.sums["cross_entropy"] += cross_entropy_sum
        self.sums["entropy"] += entropy_sum
        self.sums["labels"] += len(batch.rows)
        return total / self.labels_per_step * self.processes

    def flush(self) -> Tensor:
        """Sums over this process's labels since the last flush: cross-entropy, label entropy, labels; float64 [3]."""
        sums = torch.tensor(list(self.sums.values()), dtype=torch.float64)
        self.sums.update(dict.fromkeys(self.sums, 0.0))
        return sums


class LabelTrainer(Trainer):
    """transformers' Trainer with `LabelObjective` as its loss, steps in the order of their schedule."""

    def __init__(self, *, objective: LabelObjective, **options: Any) -> None:
        super().__init__(**options)
        self._objective = objective
        self._last_log = time.perf_counter()

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **options: Any) -> Tensor:
        """Gradients of one step's labels, micro-batch by micro-batch; processes meet at the last one."""
        model.train()
        batches: Any = self._prepare_inputs(inputs)["micro_batches"]
        losses = []
        for batch in batches:
            try:
                with nullcontext() if batch is batches[-1] else self.accelerator.no_sync(model):
                    with self.compute_loss_context_manager():
                        loss = self._objective(model, batch)
                    self.accelerator.backward(loss)
            except (RuntimeError, MemoryError) as error:
                if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
                    raise
                raise ModelError(
                    f"out of memory with a micro-batch of {batch.inputs['input_ids'].numel()} tokens; the step was not "
                    "taken and earlier checkpoints are intact. Lower --tokens-per-micro-batch, which changes nothing "
                    "but memory and speed, or use --dtype bfloat16"
                ) from None
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> Any:
        norm: Any = math.nan if reach("gradient") else super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        # In float16 the loss scaling skips such a step by itself.
        if norm is not None and not self.args.fp16 and not math.isfinite(float(norm)):
            raise TrainingDiverged(
                f"the gradient's norm is {float(norm)}, though the loss is finite; the step was not taken and earlier "
                "checkpoints are intact. Lower --learning-rate, or use --dtype float32"
            )
        return norm

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        weights = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        with room_for(folder, 12 * weights + OTHER_CHECKPOINT_BYTES, folder):  # float32, with Adam's two moments
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, *args: Any) -> None:
        reach("in-checkpoint")
        super()._save_optimizer_and_scheduler(*args)

    def _get_train_sampler(self, *args: Any) -> SequentialSampler:
        assert isinstance(self.train_dataset, LabelSchedule)
        return SequentialSampler(self.train_dataset)

    def log(self, logs: dict[str, float], *args: Any, **options: Any) -> None:
        """Add the objective's means and the speed to the regular training log."""
        if "loss" in logs:
            # float32, since not every accelerator that gathers knows float64.
            sums = self.accelerator.reduce(self._objective.flush().float().to(self.args.device), "sum").tolist()
            cross_entropy, entropy, labels = sums[0] / max(sums[2], 1), sums[1] / max(sums[2], 1), sums[2]
            now = time.perf_counter()
            logs |= {"kl_to_target": round(cross_entropy - entropy, 6), "label_entropy": round(entropy, 6)}
            logs["labels_per_second"] = round(labels / (now - self._last_log), 2)
            self._last_log = now
        super().log(logs, *args, **options)


class _Watcher(TrainerCallback):
    """Shows progress, keeps the log file, marks checkpoints complete, and stops on request."""

    def __init__(self, folder: Path, advance: Advance, stop: StopRequest, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._advance = advance
        self._stop = stop
        self._note = ""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> TrainerControl:
        if state.is_world_process_zero:
            self._advance(1, self._note)
        if _on_any_process(self._stop.signal_number is not None, args):
            control.should_save = control.should_training_stop = True
        return control

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        newest = state.log_history[-1]
        if "loss" in newest:
            self._note = f"loss {newest['loss']:.4f}"
        if state.is_world_process_zero:
            write_json(self._folder / "log.json", state.log_history)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        if state.is_world_process_zero:
            folder = self._folder / f"checkpoint-{state.global_step}"
            files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != COMPLETE)
            reach("before-checkpoint-complete")
            write_json(folder / COMPLETE, {path.name: file_hash(path) for path in files})
            # Only now that the newest is complete, which the Trainer's own rotation does not wait for.
            checkpoints = _checkpoints(self._folder)
            for old in checkpoints[checkpoints.index(folder) + self._keep :] + checkpoints[: checkpoints.index(folder)]:
                shutil.rmtree(old)


def _on_any_process(flag: bool, arguments: TrainingArguments) -> bool:
    """True on all processes if it is on one: they must leave after the same step, or the others wait forever."""
    if arguments.world_size == 1:
        return flag
    shared = torch.tensor(float(flag), device=arguments.device)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return bool(shared.item())


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The latest checkpoint whose files are all there and intact."""
    for path in _checkpoints(folder):
        if _is_complete(path):
            return path
        say(f"{path}: torn by an earlier stop, or damaged; passed over")
    return None


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    numbered = (path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal())
    return sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _is_complete(checkpoint: Path) -> bool:
    try:
        hashes = json.loads((checkpoint / COMPLETE).read_text())
        return bool(hashes) and all(file_hash(checkpoint / name) == sha256 for name, sha256 in hashes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _training_arguments(config: FinetuneConfig, folder: Path) -> TrainingArguments:
    device = pick_device(config.device)
    dtype = pick_dtype(config)
    if dtype == torch.float16 and device.type != "cuda":
        raise ModelError(
            "training in float16 needs a CUDA device for its loss scaling; use --dtype bfloat16 or float32"
        )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=1,  # one item of the schedule is a whole step, or a process's share of it
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        optim="adamw_torch",
        max_grad_norm=config.max_grad_norm,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        seed=config.seed,
        use_cpu=device.type == "cpu",
        ddp_backend="gloo" if device.type == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=config.save_steps,
        report_to=list(config.report_to) or "none",
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several visible GPUs must not turn into DataParallel
    return arguments


def _save_adapter(model: Any, folder: Path, base_name: str) -> None:
    """Save under a temporary name and publish whole, so that a half-written adapter never has the real name."""
    temporary = folder / f".{ADAPTER}.tmp"
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path = base_name
    weights = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    with room_for(folder / ADAPTER, weights, temporary):
        reach("in-adapter")
        # Told not to look for changed embeddings, which it would do by asking the Hub for the base.
        model.save_pretrained(temporary, save_embedding_layers=False)
    # An adapter that is there already was left by a process that died before it could say so.
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    publish_folder(temporary, folder / ADAPTER)
