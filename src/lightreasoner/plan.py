"""`lightr plan`: estimate the cost of a run from its settings and the two config.json files. Loads no weights.

The cost model: a forward pass takes 2N FLOP per token, a LoRA step 4N (the backward pass goes through the weights but
computes no gradients for them). It assumes that every response has its maximum length, so the results are upper bounds.
They depend on stated assumptions about what is unknown before the run: prompt length and the share of kept steps.
"""

import math
import shutil
from collections.abc import Mapping
from typing import Any

import psutil

from lightreasoner.config import BATCH_SIZES, RunConfig
from lightreasoner.data.own import chosen_benchmarks
from lightreasoner.errors import ConfigError
from lightreasoner.models.shape import Shape, read_config
from lightreasoner.runs.files import nearest_folder
from lightreasoner.runs.terminal import size

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

STAGES = ("sample", "finetune", "merge", "evaluate")

QUESTIONS = 1000  # assumed size of a data set that is used whole

BATCH = 64  # assumed automatic batch size; a GPU with enough memory uses up to 512

KEPT_SHARE = 0.5  # of steps; the paper keeps some 20 %, the miniature 48 %

TEXT_BYTES = 4  # per token of text

SHARD_OVERHEAD = 12_000  # bytes of schema and statistics in the two files of a shard

MODEL_FILES = 20 << 20  # most bytes of tokenizer and configuration next to the weights

ROW_CHUNK_BYTES = 4 * (1 << 28)  # float32 logits of a chunk of rows and their intermediates


def plan(config: RunConfig, *, flops: float = 50e12, prompt_tokens: int = 128) -> dict[str, Any]:
    """Estimate the FLOP, time, memory and disk of `lightr run` with these settings. Loads no weights.

    Args:
        flops: sustained floating-point operations per second; typically 10 to 50 % of the peak on the data sheet.
        prompt_tokens: mean length of the prompts in tokens.

    Returns:
        `models`, `stages` (FLOP, tokens and seconds of each), `memory` and `disk` in bytes by part with their peak or
        sum, `available`, `assumptions` and `warnings`.

    Raises:
        ConfigError: a rate of 0 or a negative length.
        ModelError: a config.json is missing or incomplete.
        HubUnreachable: it is on the Hub, and the Hub does not answer.
    """
    if flops <= 0 or prompt_tokens < 0:
        raise ConfigError(f"--flops {flops} must be above 0, and --prompt-tokens {prompt_tokens} not below 0")
    expert = Shape.of(read_config(config.expert, config.expert_revision), config.expert)
    amateur = Shape.of(read_config(config.amateur, config.amateur_revision), config.amateur)
    dtype = "bfloat16" if config.dtype == "auto" else config.dtype
    width = BYTES[dtype]
    answers = _items(config) * config.evaluate.samples_per_problem
    work = _work(config, expert, amateur, prompt_tokens, answers)
    memory = _memory(config, expert, amateur, prompt_tokens, width)
    peak = max(memory[stage] for stage in STAGES)
    disk = _disk(config, expert, prompt_tokens, answers)
    available = {
        "disk": shutil.disk_usage(nearest_folder(config.out)).free,
        "memory": psutil.virtual_memory().available,
    }
    return {
        "models": {"expert_parameters": expert.parameters, "amateur_parameters": amateur.parameters},
        "stages": {
            name: {"tokens": tokens, "flop": flop, "seconds": round(flop / flops, 1)}
            for name, (tokens, flop) in work.items()
        },
        "seconds": round(sum(flop for _, flop in work.values()) / flops, 1),
        "memory": {**memory, "peak": peak},
        "disk": {**disk, "sum": sum(disk.values())},
        "available": available,
        "assumptions": {
            "flop_per_second": flops,
            "questions": config.sample.max_questions or QUESTIONS,
            "prompt_tokens": prompt_tokens,
            "kept_share": KEPT_SHARE,
            "dtype": dtype,
        },
        "warnings": _warnings(available, sum(disk.values()), peak),
    }


def _work(config: RunConfig, expert: Shape, amateur: Shape, prompt: int, answers: int) -> dict[str, tuple[int, int]]:
    """Tokens and FLOP of each stage."""
    questions = config.sample.max_questions or QUESTIONS
    texts = questions * (prompt + config.sample.max_new_tokens)
    labels = config.finetune.steps * config.finetune.labels_per_step
    prefixes = math.ceil(labels / config.finetune.labels_per_forward)
    trained = prefixes * (prompt + config.sample.max_new_tokens // 2)
    answered = 2 * answers * (prompt + config.evaluate.max_answer_tokens)  # before and after
    return {
        "sample": (texts, 2 * texts * (expert.parameters + amateur.parameters)),
        "finetune": (trained, 4 * trained * expert.parameters),
        "evaluate": (answered, 2 * answered * expert.parameters),
    }


def _items(config: RunConfig) -> int:
    """Number of questions of an evaluation, over all benchmarks and prompt kinds."""
    sizes = [benchmark.size for benchmark in chosen_benchmarks(config.evaluate)]
    limit = config.evaluate.max_items
    return sum(min(size, limit or size) for size in sizes) * (2 if config.evaluate.prompts == "both" else 1)


def _memory(config: RunConfig, expert: Shape, amateur: Shape, prompt: int, width: int) -> dict[str, int]:
    """Peak bytes of each stage, and their parts."""
    questions = config.sample.batch_size or BATCH
    batch = questions * (prompt + config.sample.max_new_tokens)
    answers = (config.evaluate.answer_batch_size or BATCH_SIZES[config.engine]) * (
        prompt + config.evaluate.max_answer_tokens
    )
    rows = questions * config.sample.max_new_tokens
    step = config.finetune.labels_per_step * (prompt + config.sample.max_new_tokens // 2)
    micro = min(step, config.finetune.tokens_per_micro_batch or step)
    lora = expert.lora(config.finetune.lora_rank, config.finetune.lora_targets)
    # Kept for the backward pass in each layer: inputs of the linear layers, norms and the activation.
    activations = micro * expert.layers * (12 * expert.hidden + 4 * expert.intermediate) * width
    logits = min(ROW_CHUNK_BYTES, rows * expert.vocabulary * 16)
    return {
        "weights_expert": expert.parameters * width,
        "weights_amateur": amateur.parameters * width,
        "cache": expert.cache(batch, width),
        "logits": logits,
        "activations": activations,
        "sample": (expert.parameters + amateur.parameters) * width + expert.cache(batch, width) + logits,
        "finetune": expert.parameters * width + 16 * lora + activations,
        "merge": expert.parameters * 4 * 2,
        "evaluate": expert.parameters * width + expert.cache(answers, width),
    }


def _disk(config: RunConfig, expert: Shape, prompt: int, answers: int) -> dict[str, int]:
    """Bytes in the run folder, including temporary checkpoints."""
    questions, length = config.sample.max_questions or QUESTIONS, config.sample.max_new_tokens
    # A response token has five measures and the top log-probabilities of two models, which do not compress, and ids,
    # which do. A label has about three tokens.
    top = 2 * config.sample.top_tokens
    rollouts = questions * ((20 + 4 * top) * length + (2 + 2 * top) * length + 2 * prompt + 200)
    steps = int(questions * length * KEPT_SHARE * 70)
    lora = expert.lora(config.finetune.lora_rank, config.finetune.lora_targets)
    merged = expert.dtype if config.merge.merge_dtype == "auto" else config.merge.merge_dtype
    return {
        "samples": rollouts + steps + math.ceil(questions / (config.sample.batch_size or BATCH)) * SHARD_OVERHEAD,
        "checkpoints": config.finetune.keep_checkpoints * (12 * lora + 100_000),
        "adapter": 4 * lora + 10_000,
        "merged": expert.parameters * BYTES.get(merged, 4) + min(MODEL_FILES, 150 * expert.vocabulary),
        "answers": 2 * answers * (config.evaluate.max_answer_tokens * TEXT_BYTES + 2 * prompt + 200) // 2,
    }


def _warnings(available: Mapping[str, int], disk: int, memory: int) -> list[str]:
    found = []
    if disk > available["disk"]:
        found.append(f"disk: needs about {size(disk)}, {size(available['disk'])} are free")
    if memory > available["memory"]:
        found.append(
            f"memory: needs about {size(memory)} at the peak, {size(available['memory'])} of main memory are free "
            "(GPU memory was not checked); a batch that does not fit is halved"
        )
    return found


def plan_lines(result: Mapping[str, Any]) -> list[str]:
    """The plan as lines for people."""
    models, stages, assumed = result["models"], result["stages"], result["assumptions"]
    memory = ", ".join(f"{name} {size(result['memory'][name])}" for name in STAGES)
    disk = ", ".join(f"{name} {size(part)}" for name, part in result["disk"].items() if name != "sum")
    lines = [
        f"expert {models['expert_parameters'] / 1e6:.1f} M parameters, "
        f"amateur {models['amateur_parameters'] / 1e6:.1f} M",
        *(
            f"{name}: at most {stage['tokens']:,} tokens, {stage['flop']:.2g} FLOP, {stage['seconds']:,.0f} s"
            for name, stage in stages.items()
        ),
        f"memory at the peak: {size(result['memory']['peak'])} ({memory})",
        f"disk: {size(result['disk']['sum'])} ({disk}), free: {size(result['available']['disk'])}",
        f"assumed: {assumed['flop_per_second']:.3g} FLOP per second (--flops) in {assumed['dtype']}, "
        f"{assumed['questions']} questions with prompts of {assumed['prompt_tokens']} tokens, "
        f"{assumed['kept_share']:.0%} of the steps kept, every response of maximum length",
    ]
    return [*lines, *(f"warning: {warning}" for warning in result["warnings"])]
