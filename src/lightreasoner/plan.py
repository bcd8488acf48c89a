"""`lightr plan`: estimate the cost of a run from its settings and the sizes of its two models. Loads no weights.

Time: measurements of this machine on models of the same widths (`inference.speed`, some seconds), times the passes that
the stages make. With a rate of another machine it is FLOP over that rate: a forward pass takes 2N FLOP per token, and a
LoRA step 4N (the backward pass goes through the weights but computes no gradients for them).

FLOP, disk and memory assume that every response has its maximum length. Time assumes a share of it. What is unknown
before the run, such as the length of the prompts and the share of kept steps, is assumed too; the result says how.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lightreasoner.config import RunConfig
from lightreasoner.config.sections import BATCH_SIZES
from lightreasoner.data.own import chosen_benchmarks
from lightreasoner.errors import ConfigError, ModelError
from lightreasoner.inference.footprint import BATCH, TRAINED, TRAINED_ON_ACCELERATORS, Memory, footprint, setting
from lightreasoner.inference.memory import free_memory
from lightreasoner.inference.speed import Passes, measure
from lightreasoner.models.loading import pick_device
from lightreasoner.models.precision import Precision, precision
from lightreasoner.models.shape import Shape, read_config
from lightreasoner.models.sides import Side, check_own, layer_count
from lightreasoner.runs.files import nearest_folder
from lightreasoner.runs.progress import say
from lightreasoner.runs.terminal import duration, size
from lightreasoner.samples.sampling import read_problems

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

STAGES = ("sample", "finetune", "merge", "evaluate")

QUESTIONS = 1000  # assumed size of a data set that is used whole

KEPT_SHARE = 0.5  # of steps; the paper keeps some 20 %, the miniature 48 %

# Mean length of a response as a share of the maximum, and so the share of a batch that is still running at a step. The
# miniature's rollouts have 0.35, SmolLM2's on GSM8K with 128 tokens 0.9.
LENGTH_SHARE = 0.6

TEXT_BYTES = 4  # per token of text

SHARD_OVERHEAD = 12_000  # bytes of schema and statistics in the two files of a shard

MODEL_FILES = 20 << 20  # most bytes of tokenizer and configuration next to the weights

# Seconds to load a model: its tokenizer and Python; a byte of safetensors, read and checked; a weight of a GGUF file,
# which is de-quantised.
LOAD, LOAD_BYTE, LOAD_GGUF_WEIGHT = 0.7, 1 / 1.5e9, 30e-9

ITEM = 0.002  # seconds to judge and store an answer, spread over the judges


def check_flops(flops: float | None) -> None:
    """Refuse a rate that no machine has.

    Raises:
        ConfigError: it is not above 0, or not finite.
    """
    if flops is not None and not 0 < flops < math.inf:
        raise ConfigError(f"--flops {flops:g} must be above 0 and finite: operations per second, such as 1e14")


def plan(config: RunConfig, *, flops: float | None = None, prompt_tokens: int = 128, rounds: int = 0) -> dict[str, Any]:
    """Estimate the FLOP, time, memory and disk of `lightr run` with these settings. Loads no weights.

    Args:
        flops: sustained floating-point operations per second of another machine; typically 10 to 50 % of the peak on
            its data sheet. Default: this machine is measured.
        prompt_tokens: mean length of the prompts in tokens.
        rounds: plan `lightr rounds` with this many rounds instead, under the recipe's other settings of rounds.

    Returns:
        `models`, `precision`, `stages` (FLOP, tokens and seconds of each), `memory` and `disk` in bytes by part with
        their peak or sum, `push` in bytes by what is sent to the Hub, `choices` (memory with other settings),
        `available` (its memory is None for a device that is not there), `assumptions` and `warnings`.

    Raises:
        ConfigError: a rate of 0, a negative length or number of rounds.
        ModelError: a config.json is missing or incomplete, or the device is not there.
        HubUnreachable: it is on the Hub, and the Hub does not answer.
    """
    check_flops(flops)
    if prompt_tokens < 0:
        raise ConfigError(f"--prompt-tokens {prompt_tokens}: a prompt has no fewer than 0 tokens")
    if rounds < 0:
        raise ConfigError(f"--rounds {rounds}: give the number of rounds, or leave it out to plan a run")
    config = _counted(config)
    side, found = _configs(config)
    expert, amateur = Shape.of(found[0], config.expert), Shape.of(found[1], config.amateur)
    if side.kind == "layers":
        amateur = replace(expert, layers=side.layers)
    device, is_here = _device(config, flops)
    pair, own = _precision(config, device, flops, expert, amateur), _precision(config, device, flops, expert)
    answers = _items(config) * config.evaluate.samples_per_problem
    work = _work(config, expert, amateur, prompt_tokens, answers)
    if flops is None:
        say("measuring the speed of this machine")
        timing = _Timing(config, max(prompt_tokens, 1), answers, device)
        seconds = timing.seconds(expert, amateur, pair, own, found)
    else:
        seconds = {name: flop / flops for name, (_, flop) in work.items()}
    alarms = _alarm_share(config, prompt_tokens)
    if rounds:
        work, seconds = _in_rounds(alarms, work, seconds, rounds)
    width = {"sample": BYTES[pair.name], "finetune": BYTES[own.name]}
    memory = footprint(config, expert, amateur, prompt_tokens, width, device.type)
    free = free_memory(device) if is_here else None
    if free is not None and setting(config, "residency", "") == "auto" and memory.stages["sample"] > free:
        memory.stages["sample"] = memory.choices["residency = sequential"]
    peak = max(memory.stages.values())
    disk = _disk(config, expert, prompt_tokens, answers)
    sent = {what: disk[what] for what in config.push.what} if config.push_to else {}
    if rounds:
        disk = _disk_in_rounds(alarms, disk, rounds)
    free_disk = shutil.disk_usage(nearest_folder(config.out)).free
    assumed = {"flop_per_second": flops, "device": device.type, "prompt_tokens": prompt_tokens, "dtype": pair.name}
    return {
        "models": {
            "expert_parameters": expert.parameters,
            "amateur_parameters": amateur.parameters,
            "amateur_is": None if side.kind == "model" else str(side),
            "expert_file": _file(found[0]),
            "amateur_file": _file(found[1]) if side.has_own_files else None,
        },
        "precision": str(pair),
        "stages": {
            name: {"tokens": tokens, "flop": flop, "seconds": round(seconds[name], 1)}
            for name, (tokens, flop) in work.items()
        },
        "seconds": round(sum(seconds.values()), 1),
        "memory": {**memory.parts, **memory.stages, "peak": peak},
        "choices": memory.choices,
        "disk": {**disk, "sum": sum(disk.values())},
        "push": sent,
        "available": {"disk": free_disk, "memory": free},
        "assumptions": {**assumed, **_assumptions(config)},
        "warnings": _disk_warnings(free_disk, sum(disk.values())) + _memory_warnings(config, free, memory, device),
    }


def _counted(config: RunConfig) -> RunConfig:
    """The config with no more questions than a file of this machine has; a data set of the Hub is not read."""
    if not Path(config.dataset).expanduser().exists():
        return config
    there = len(read_problems(config.for_sample()).problems)
    return config.model_copy(update={"sample": config.sample.model_copy(update={"max_questions": there})})


def _assumptions(config: RunConfig) -> dict[str, Any]:
    """What is not known before the run."""
    return {
        "questions": config.sample.max_questions or QUESTIONS,
        "kept_share": _kept_share(config),
        "length_share": LENGTH_SHARE,
        "vocabulary": config.vocabulary,
    }


def _configs(config: RunConfig) -> tuple[Side, list[dict[str, Any]]]:
    """What the amateur is, and the configurations of expert and amateur, which is the expert's where it is made of it.

    Raises:
        ConfigError: it cannot be made of this expert.
    """
    expert, side = read_config(config.expert, config.expert_revision), Side.of(config.amateur)
    if side.kind == "model":
        return side, [expert, read_config(config.amateur, config.amateur_revision)]
    check_own(side, config, layer_count(expert), has_adapter=False)
    return side, [expert, read_config(side.value, None) if side.has_own_files else expert]


def _device(config: RunConfig, flops: float | None) -> tuple[torch.device, bool]:
    """The device that a run would use, and whether it is here; the rate of another machine is given where it is not."""
    try:
        return pick_device(config.device), True
    except ModelError:
        if flops is None:
            raise
        return torch.device(config.device.partition(":")[0]), False


def _precision(config: RunConfig, device: torch.device, flops: float | None, *shapes: Shape) -> Precision:
    if flops is not None and config.dtype == "auto":
        return Precision(torch.bfloat16, "assumed of the machine with the given rate")
    return precision(config.dtype, device, [shape.hidden for shape in shapes])


def _file(found: Mapping[str, Any]) -> str | None:
    """A GGUF file in words."""
    if "gguf_bytes" not in found:
        return None
    return f"GGUF {found['gguf_quantisation']}, {size(found['gguf_bytes'])}"


def _work(config: RunConfig, expert: Shape, amateur: Shape, prompt: int, answers: int) -> dict[str, tuple[int, int]]:
    """Tokens and FLOP of each stage."""
    questions = config.sample.max_questions or QUESTIONS
    texts = questions * (prompt + config.sample.max_new_tokens)
    _, tokens = _trained_texts(config, prompt, config.sample.max_new_tokens)
    trained = config.finetune.steps * tokens
    answered = 2 * answers * (prompt + config.evaluate.max_answer_tokens)  # before and after
    return {
        "sample": (texts, 2 * texts * (expert.parameters + amateur.parameters)),
        "finetune": (trained, 4 * trained * expert.parameters),
        "merge": (0, 0),
        "evaluate": (answered, 2 * answered * expert.parameters),
    }


def _trained_texts(config: RunConfig, prompt: int, rollout: int) -> tuple[int, int]:
    """Texts and their tokens in a step of fine-tuning, if the kept steps of a rollout are spread evenly.

    A text with several labels of a rollout is read to the last of them, and has no more labels than the rollout.
    """
    labels = min(config.finetune.labels_per_forward, max(1, round(_kept_share(config) * rollout)))
    texts = math.ceil(config.finetune.labels_per_step / labels)
    return texts, texts * (prompt + round(rollout * labels / (labels + 1)))


def _kept_share(config: RunConfig) -> float:
    """Share of the steps that are trained on."""
    rule, steps = config.rule, (config.sample.max_questions or QUESTIONS) * config.sample.max_new_tokens
    if rule.keep_labels is not None:
        return min(1.0, rule.keep_labels / steps)
    return rule.keep_share or (1.0 if rule.selection == "none" else KEPT_SHARE)


def _alarm_share(config: RunConfig, prompt: int) -> float:
    """The alarms of one round, as a share of its sampling: two greedy rollouts of each prompt, and several answers."""
    rounds = config.rounds
    answer = (prompt + config.evaluate.max_answer_tokens) / (prompt + config.sample.max_new_tokens)
    return rounds.held_back * (2 + rounds.answers * answer) / (config.sample.max_questions or QUESTIONS)


def _in_rounds(
    alarm_share: float, work: Mapping[str, tuple[int, int]], seconds: Mapping[str, float], rounds: int
) -> tuple[dict[str, tuple[int, int]], dict[str, float]]:
    """Tokens, FLOP and seconds of rounds: sampling and fine-tuning in each, its alarms, one merge, no evaluation."""
    alarms = (rounds + 1) * alarm_share
    tokens, flop = work["sample"]
    found = {name: (rounds * work[name][0], rounds * work[name][1]) for name in ("sample", "finetune")}
    times = {name: rounds * seconds[name] for name in found}
    return (
        {**found, "alarms": (round(alarms * tokens), round(alarms * flop)), "merge": work["merge"]},
        {**times, "alarms": alarms * seconds["sample"], "merge": seconds["merge"]},
    )


def _disk_in_rounds(alarm_share: float, disk: Mapping[str, int], rounds: int) -> dict[str, int]:
    """Bytes in the folder of rounds; the kept round's samples and adapter are copied."""
    found = {name: (rounds + 1) * disk[name] for name in ("samples", "adapter")}
    alarms = round((rounds + 1) * disk["samples"] * alarm_share)
    return {**found, "checkpoints": rounds * disk["checkpoints"], "merged": disk["merged"], "alarms": alarms}


def _items(config: RunConfig) -> int:
    """Number of questions of an evaluation, over all benchmarks and prompt kinds."""
    sizes = [max(0, benchmark.size - config.evaluate.skip_items) for benchmark in chosen_benchmarks(config.evaluate)]
    limit = config.evaluate.max_items
    return sum(min(size, limit or size) for size in sizes) * (2 if config.evaluate.prompts == "both" else 1)


class _Timing:
    """Seconds of the stages on this machine."""

    def __init__(self, config: RunConfig, prompt: int, answers: int, device: torch.device) -> None:
        self._config, self._prompt, self._answers, self._device = config, prompt, answers, device
        sample, tuning, evaluate = config.sample, config.finetune, config.evaluate
        self._questions = sample.max_questions or QUESTIONS
        self._rollout = max(1, round(LENGTH_SHARE * sample.max_new_tokens))
        rows = min(self._questions, sample.batch_size or BATCH)
        self._batches = math.ceil(self._questions / rows)
        at_once = max(1, min(answers, evaluate.answer_batch_size or BATCH_SIZES[config.engine]))
        self._answer_batches = math.ceil(answers / at_once)
        texts, tokens = _trained_texts(config, prompt, self._rollout)
        cap = tuning.tokens_per_micro_batch or TRAINED.get(device.type, TRAINED_ON_ACCELERATORS)
        self._trained_passes = math.ceil(tokens / max(cap, tokens // texts))
        # Half of the maximum is the mean length over the steps of decoding, of those that still run.
        self.passes = Passes(
            text=prompt + self._rollout,
            decoded=(
                (max(1, round(LENGTH_SHARE * rows)), prompt + sample.max_new_tokens // 2),
                (max(1, round(LENGTH_SHARE * at_once)), prompt + evaluate.max_answer_tokens // 2),
            ),
            trained=math.ceil(tokens / self._trained_passes),
            lora=(tuning.lora_rank, tuning.lora_targets),
        )

    def seconds(
        self, expert: Shape, amateur: Shape, pair: Precision, own: Precision, found: list[dict[str, Any]]
    ) -> dict[str, float]:
        """Seconds of each stage: its passes, and loading its models."""
        config, questions, prompt = self._config, self._questions, self._prompt
        ours = measure(expert, own.dtype, self._device, self.passes)
        theirs = measure(amateur, pair.dtype, self._device, Passes(text=self.passes.text))
        load, load_amateur = (_load(one, shape) for one, shape in zip(found, (expert, amateur), strict=True))
        if Side.of(config.amateur).shares_weights:
            load_amateur = 0.0
        load_merged = LOAD + expert.parameters * BYTES.get(expert.dtype, 4) * LOAD_BYTE
        scored = questions * self._rollout
        sampling = self._batches * config.sample.max_new_tokens * ours.decode[0]
        sampling += questions * prompt * ours.token + questions * (prompt + self._rollout) * theirs.token
        sampling += scored * (ours.row + theirs.row + ours.contrast)
        answering = self._answer_batches * config.evaluate.max_answer_tokens * ours.decode[1]
        answering += self._answers * (prompt * ours.token + ITEM)
        checkpointed = setting(config, "gradient_checkpointing", False)
        training = config.finetune.steps * self._trained_passes * ours.train * (4 / 3 if checkpointed else 1)
        return {
            "sample": load + load_amateur + sampling,
            "finetune": load + training,
            "merge": load + 2 * load_merged + 4 * expert.parameters * LOAD_BYTE,
            "evaluate": load + load_merged + 2 * answering,
        }


def _load(found: Mapping[str, Any], shape: Shape) -> float:
    """Seconds to load a model."""
    if "gguf_bytes" in found:
        return LOAD + shape.parameters * LOAD_GGUF_WEIGHT
    return LOAD + shape.parameters * BYTES.get(shape.dtype, 4) * LOAD_BYTE


def _disk(config: RunConfig, expert: Shape, prompt: int, answers: int) -> dict[str, int]:
    """Bytes in the run folder, including temporary checkpoints."""
    questions, length = config.sample.max_questions or QUESTIONS, config.sample.max_new_tokens
    # A response token has five measures and the top log-probabilities of two models, which do not compress, and ids,
    # which do. A label has about three tokens.
    top = 2 * config.sample.top_tokens
    rollouts = questions * ((20 + 4 * top) * length + (2 + 2 * top) * length + 2 * prompt + 200)
    kept = _kept_share(config)
    sampled = 1.0 if config.for_sample().divergence_beta is None else kept
    steps = int(questions * length * sampled * 70)
    selected = rollouts + int(questions * length * kept * 70) if config.selects else 0
    lora = expert.lora(config.finetune.lora_rank, config.finetune.lora_targets)
    merged = expert.dtype if config.merge.merge_dtype == "auto" else config.merge.merge_dtype
    return {
        "samples": rollouts
        + steps
        + selected
        + math.ceil(questions / (config.sample.batch_size or BATCH)) * SHARD_OVERHEAD,
        "checkpoints": config.finetune.keep_checkpoints * (12 * lora + 100_000),
        "adapter": 4 * lora + 10_000,
        "merged": expert.parameters * BYTES.get(merged, 4) + min(MODEL_FILES, 150 * expert.vocabulary),
        "answers": answers * (config.evaluate.max_answer_tokens * TEXT_BYTES + 2 * prompt + 200),
    }


def _disk_warnings(free: int, needed: int) -> list[str]:
    return [f"disk: needs about {size(needed)}, {size(free)} are free"] if needed > free else []


def _memory_warnings(config: RunConfig, free: int | None, memory: Memory, device: torch.device) -> list[str]:
    """The stages that need more than the free memory, where it is known."""
    found = []
    for stage, needed in memory.stages.items():
        if free is not None and needed > free:
            where = "main memory" if device.type == "cpu" else f"the memory of {device.type}"
            advice = _advice(config, stage, memory, free)
            found.append(f"memory: {stage} needs about {size(needed)}, {size(free)} of {where} are free. {advice}")
    return found


def _advice(config: RunConfig, stage: str, memory: Memory, free: int) -> str:
    """The first setting with which a stage fits; of those that this version has."""
    settings = {"sample": ("residency",), "finetune": ("gradient_checkpointing", "load_in_4bit")}.get(stage, ())
    for choice, needed in memory.choices.items():
        names = [part.partition(" = ")[0] for part in choice.split(", ")]
        if needed <= free and set(names) <= set(settings) and all(setting(config, n, None) is not None for n in names):
            return f"With {choice} it needs {size(needed)}"
    if stage == "merge" and config.device != "cpu":
        return "`lightr merge --device cpu` takes main memory instead"
    return "A batch that does not fit is halved" if stage != "finetune" else "Lower --finetune.tokens-per-micro-batch"


def memory_table() -> list[str]:
    """The memory of each stage for the experts of the bundled recipes on a GPU: the table of docs/recipes.md."""
    from lightreasoner.recipes import load_recipe

    rows = [
        "| expert, with Qwen2.5-0.5B | sample | one after the other | fine-tune | with checkpointing "
        "| and a 4-bit base | merge | evaluate |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ("qwen2.5-math-1.5b", "qwen2.5-math-7b"):
        config = RunConfig.checked(load_recipe(name))
        expert, amateur = (Shape.of(read_config(one, None), one) for one in (config.expert, config.amateur))
        memory = footprint(config, expert, amateur, 128, {"sample": 2, "finetune": 2}, "cuda")
        stages, choices = memory.stages, memory.choices
        needed = (
            choices["residency = together"],
            choices["residency = sequential"],
            stages["finetune"],
            choices["gradient_checkpointing = true"],
            choices["load_in_4bit = true, gradient_checkpointing = true"],
            stages["merge"],
            stages["evaluate"],
        )
        cells = " | ".join(size(one) for one in needed)
        rows.append(f"| {config.expert.partition('/')[2]} ({expert.parameters / 1e9:.1f} B) | {cells} |")
    return rows


def plan_lines(result: Mapping[str, Any]) -> list[str]:
    """The plan as lines for people."""
    models, stages, assumed = result["models"], result["stages"], result["assumptions"]
    memory = ", ".join(f"{name} {size(result['memory'][name])}" for name in STAGES)
    disk = ", ".join(f"{name} {size(part)}" for name, part in result["disk"].items() if name != "sum")
    files = [f"{who}: {models[f'{who}_file']}" for who in ("expert", "amateur") if models[f"{who}_file"]]
    rate, free = assumed["flop_per_second"], result["available"]["memory"]
    where = "main memory" if assumed["device"] == "cpu" else assumed["device"]
    timed = f"{rate:.3g} FLOP per second (--flops)" if rate else f"measured on this machine ({assumed['device']})"
    lines = [
        f"expert {models['expert_parameters'] / 1e6:.1f} M parameters, "
        f"amateur {models['amateur_parameters'] / 1e6:.1f} M"
        + (f" ({models['amateur_is']})" if models["amateur_is"] else ""),
        *files,
        f"precision: {result['precision']}",
        *(
            f"{name}: {'about' if name == 'finetune' else 'at most'} {stage['tokens']:,} tokens, "
            f"{stage['flop']:.2g} FLOP, {duration(stage['seconds'])}"
            for name, stage in stages.items()
            if stage["tokens"]
        ),
        f"merge: {duration(stages['merge']['seconds'])}",
        f"all stages: {duration(result['seconds'])}, {timed}",
        f"memory at the peak: {size(result['memory']['peak'])} ({memory}), "
        + (f"no {assumed['device']} here" if free is None else f"free: {size(free)} of {where}"),
        f"disk: {size(result['disk']['sum'])} ({disk}), free: {size(result['available']['disk'])}",
        f"assumed: {assumed['questions']} questions with prompts of {assumed['prompt_tokens']} tokens, "
        f"{assumed['kept_share']:.0%} of the steps kept, responses of maximum length for FLOP, memory and disk, and of "
        f"{assumed['length_share']:.0%} of it for the time",
    ]
    if result["push"]:
        sent = ", ".join(f"{what} {size(part)}" for what, part in result["push"].items())
        lines.append(f"to send to the Hub when the run is finished (--push-to): {sent}")
    if assumed["vocabulary"] == "aligned":
        lines.append("assumed: a text has as many tokens to the amateur as to the expert, and every step is aligned")
    return [*lines, *(f"warning: {warning}" for warning in result["warnings"])]
