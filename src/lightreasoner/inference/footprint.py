"""The memory that each stage takes, from the sizes of the models and the settings of a run. Loads nothing.

Bytes on the device that runs the models. On a CPU the process itself is added, as the operating system counts it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightreasoner.config import RunConfig
from lightreasoner.config.sections import BATCH_SIZES
from lightreasoner.models.pair_memory import FOUR_BITS
from lightreasoner.models.shape import Shape
from lightreasoner.models.sides import Side

# Python with torch, transformers, peft and pyarrow, measured in runs of the miniature and of SmolLM2; on an accelerator
# the context and the workspaces of its libraries.
PROCESS = {"cpu": 720 << 20}
PROCESS_ON_ACCELERATORS = 700 << 20

BATCH = 64  # assumed automatic batch size; a GPU with enough memory uses up to 512

PASS = {"cpu": 2048}  # tokens in a pass of teacher forcing, as in inference.scoring
PASS_ON_ACCELERATORS = 16384
TRAINED = {"cpu": 768}  # tokens in a pass of fine-tuning, as in training.finetuning
TRAINED_ON_ACCELERATORS = 16384
LOGITS = {"cpu": 1 << 23}  # at a time, of each model, as in inference.scoring
LOGITS_ON_ACCELERATORS = 1 << 26

PROBES = 300  # tokens on which `merge` compares whole distributions, in float64


@dataclass(frozen=True)
class Memory:
    """Peak bytes of each stage, and their parts.

    Attributes:
        parts: weights, cache, logits and activations.
        stages: sample, finetune, merge and evaluate with these settings.
        choices: what other settings of a stage would take, by `setting = value`.
    """

    parts: dict[str, int]
    stages: dict[str, int]
    choices: dict[str, int]


def setting(config: RunConfig, name: str, default: Any) -> Any:
    """A setting of a run or of one of its sections; the default where there is none of that name."""
    sections = (config, config.sample, config.finetune, config.merge)
    return next((getattr(section, name) for section in sections if hasattr(section, name)), default)


def footprint(
    config: RunConfig, expert: Shape, amateur: Shape, prompt: int, width: Mapping[str, int], device: str
) -> Memory:
    """The memory of a run.

    Args:
        config: the run.
        expert: its sizes.
        amateur: its sizes.
        prompt: tokens of a prompt.
        width: bytes of a value in the stages `sample` and `finetune` (and `evaluate`).
        device: kind of the device, such as cuda.
    """
    of_pair, own = width["sample"], width["finetune"]
    process = PROCESS.get(device, PROCESS_ON_ACCELERATORS)
    rows, new = config.sample.batch_size or BATCH, config.sample.max_new_tokens
    side = Side.of(config.amateur)
    weights = expert.parameters * of_pair, _amateur_bytes(side, amateur, of_pair)
    cache = expert.cache(rows * (prompt + new), of_pair)
    states = rows * new * expert.hidden * of_pair
    # Logits in the model's precision, log-probabilities in float32 and what the contrast makes of them, of both models.
    widest = max(expert.vocabulary, amateur.vocabulary) if config.vocabulary == "aligned" else expert.vocabulary
    scored = min(LOGITS.get(device, LOGITS_ON_ACCELERATORS), rows * new * widest)
    logits = max(scored * 2 * (of_pair + 8), rows * expert.vocabulary * (of_pair + 4))
    reading = [_pass(shape, device, of_pair) for shape in (expert, amateur)]
    decoding = weights[0] + cache + states + max(rows * expert.vocabulary * of_pair, reading[0])
    together = weights[1] + decoding + max(0, max(logits, reading[1]) - rows * expert.vocabulary * of_pair)
    left = weights[0] if side.shares_weights else expert.vocabulary * expert.hidden * of_pair  # of the expert
    scoring = weights[1] + left + states + max(logits, reading[1])
    loading = _loading(expert, of_pair, device), 0 if side.shares_weights else _loading(amateur, of_pair, device)
    together = max(together, loading[0], weights[0] + loading[1])
    sequential = max(decoding, scoring, *loading)
    tuning = _Tuning.of(config, expert, prompt, own, device)
    tuned = max(
        tuning.bytes(setting(config, "load_in_4bit", False), tuning.checkpointed), _loading(expert, own, device)
    )
    at_once = config.evaluate.answer_batch_size or BATCH_SIZES[config.engine]
    answers = at_once * (prompt + config.evaluate.max_answer_tokens)
    answering = expert.cache(answers, own) + at_once * expert.vocabulary * own
    answering = max(answering, _pass(expert, device, own), _loading(expert, 0, device))
    # Converted on a CPU to another precision, the mapped file of the merged model is in memory beside the new weights.
    merged = 4 if _merged_dtype(config, expert) == "float32" else 2
    converted = merged * expert.parameters if device == "cpu" and merged != own else 0
    stages = {
        "sample": process + (sequential if config.sample.residency == "sequential" else together),
        "finetune": process + tuned,
        "merge": process + _merging(config, expert, device),
        "evaluate": process + expert.parameters * own + max(answering, converted),
    }
    return Memory(
        parts={
            "process": process,
            "weights_expert": weights[0],
            "weights_amateur": weights[1],
            "cache": cache,
            "logits": logits,
            "activations": tuning.activations(tuning.checkpointed),
        },
        stages=stages,
        choices={
            "residency = together": process + together,
            "residency = sequential": process + sequential,
            "gradient_checkpointing = true": process + tuning.bytes(False, True),
            "load_in_4bit = true": process + tuning.bytes(True, False),
            "load_in_4bit = true, gradient_checkpointing = true": process + tuning.bytes(True, True),
        },
    )


def _loading(shape: Shape, width: int, device: str) -> int:
    """What a model takes while it is read: a GGUF file is de-quantised to float32 as a whole, in main memory."""
    return shape.parameters * (width + (4 if shape.gguf and device == "cpu" else 0))


def _amateur_bytes(side: Side, amateur: Shape, width: int) -> int:
    """Weights that the amateur adds to the expert's."""
    if side.shares_weights:
        return 0
    body = amateur.parameters - amateur.head_weights
    return int(body * (FOUR_BITS if side.kind == "4bit" else width)) + amateur.head_weights * width


def _merged_dtype(config: RunConfig, expert: Shape) -> str:
    """The precision of the merged weights on disk."""
    return expert.dtype if config.merge.merge_dtype == "auto" else config.merge.merge_dtype


def _merging(config: RunConfig, expert: Shape, device: str) -> int:
    """Weights once: in 16 bits with a layer of them in float32, or all in float32; and what is compared."""
    merged = _merged_dtype(config, expert)
    layer = 4 * (expert.parameters - expert.head_weights) // expert.layers
    in_16_bits = merged == expert.dtype and merged != "float32"
    weights = 2 * expert.parameters + layer if in_16_bits else 4 * expert.parameters
    return weights + max(PROBES * expert.vocabulary * 8 * 3, _loading(expert, 0, device))


@dataclass(frozen=True)
class _Tuning:
    """Fine-tuning of one model: tokens of a pass, labels of a step, and values of this width."""

    shape: Shape
    tokens: int
    labels: int
    lora: int
    width: int
    checkpointed: bool

    @classmethod
    def of(cls, config: RunConfig, shape: Shape, prompt: int, width: int, device: str) -> "_Tuning":
        tuning = config.finetune
        # A text alone may be longer than the cap.
        longest = prompt + config.sample.max_new_tokens
        cap = tuning.tokens_per_micro_batch or TRAINED.get(device, TRAINED_ON_ACCELERATORS)
        return cls(
            shape,
            max(longest, min(tuning.labels_per_step * longest, cap)),
            tuning.labels_per_step,
            shape.lora(tuning.lora_rank, tuning.lora_targets),
            width,
            bool(setting(config, "gradient_checkpointing", False)),
        )

    def bytes(self, four_bits: bool, checkpointed: bool) -> int:
        """Weights, adapter with gradients and the optimizer's two moments in float32, and activations."""
        body = self.shape.parameters - self.shape.head_weights
        weights = int(body * (FOUR_BITS if four_bits else self.width)) + self.shape.head_weights * self.width
        logits = self.labels * self.shape.vocabulary * (self.width + 12)
        return weights + 16 * self.lora + logits + self.activations(checkpointed)

    def activations(self, checkpointed: bool) -> int:
        """Kept for the backward pass: inputs of linear layers, norms, rotations, attention and activation."""
        shape = self.shape
        attention = (2 * shape.heads + 2 * shape.key_value_heads) * shape.head
        layer = self.tokens * (8 * shape.hidden + 2 * attention + 4 * shape.intermediate) * self.width
        # Norms are computed in float32, whatever the precision.
        layer += self.tokens * 2 * shape.hidden * (4 if self.width < 4 else 0)
        inputs = self.tokens * shape.hidden * self.width
        return shape.layers * inputs + layer if checkpointed else shape.layers * layer


def _pass(shape: Shape, device: str, width: int) -> int:
    """What a pass of teacher forcing takes, without gradients: the widest layer, and the stream around it."""
    tokens = PASS.get(device, PASS_ON_ACCELERATORS)
    return tokens * (3 * shape.intermediate + 8 * shape.hidden) * width
