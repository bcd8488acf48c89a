"""The sections that configs are made of: every setting once, with its help text and its role; see `config`."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lightreasoner.config.base import Config, Decides, DecidesIfSet, Input, InputIfSet, Place, Speed, nearest

C = TypeVar("C", bound=Config)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
StopStrings = tuple[Annotated[str, Field(min_length=1)], ...]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes

DType = Literal["auto", "float32", "bfloat16", "float16"]
# The keys of the benchmarks' file, read as text: parsing YAML would slow every command down.
_BENCHMARKS = (Path(__file__).parents[1] / "data/benchmarks.yaml").read_text(encoding="utf-8")
if TYPE_CHECKING:
    BenchmarkName = str
else:
    BenchmarkName = Literal[tuple(re.findall(r"^(\w+):", _BENCHMARKS, re.MULTILINE))]
PAPER = "paper"  # stands for the seven benchmarks of Table 1


def _benchmark_or_file(value: Any) -> Any:
    """A benchmark's name, or a path as text: one that exists, or that has a slash or a dot, as no name has."""
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str) or name in (*get_args(BenchmarkName), PAPER):
        return name
    if re.search(r"[./\\~]", name) or os.path.lexists(name):
        return name
    known = nearest(name, (*get_args(BenchmarkName), PAPER), "benchmarks")
    raise ValueError(f"no benchmark and no file here is called {name!r}: {known}")


BenchmarkOrFile = Annotated[str, BeforeValidator(_benchmark_or_file)]
Residency = Literal["auto", "together", "sequential"]
AnswerKind = Literal["number", "expression", "choice", "text", "literal"]  # as in grading.verdicts
Contrast = Literal["amateur", "own_token", "own_distribution"]
BaselineKind = Literal[
    "rejection-sft", "ground-truth", "self-training", "sept", "majority-vote", "u-opsd", "entropy-minimisation"
]
Objective = Literal["label", "entropy"]
VocabularyRule = Literal["strict", "shared", "aligned"]
JudgeName = Literal["math-verify", "toolkit"]
PromptKind = Literal["chat", "plain"]
EngineName = Literal["own", "vllm"]  # as in inference.engines
# Responses in a batch, where the settings name no number. vLLM forms its own batches of what it is given: fewer at a
# time would let it wait for the longest. A batch is also what an interruption can lose.
BATCH_SIZES: Mapping[EngineName, int] = {"own": 32, "vllm": 256}
ExportFormat = Literal["lm-eval", "hub"]
SampleFormat = Literal["jsonl", "axolotl", "distillkit", "trl", "messages"]
TeacherFormat = Literal["jsonl", "axolotl", "distillkit"]

SELECTION = "select"  # subfolder of a run folder: steps and labels that were selected from the samples beside it
# The baselines that use no gold answers, with their settings of `BaselineConfig` and the values of their sources; other
# settings of `LABEL_FREE_SETTINGS` mean nothing to them.
LABEL_FREE: Mapping[str, Mapping[str, Any]] = {
    "self-training": {"temperature": 1.5, "top_p": 0.8},
    "sept": {"temperature": 0.6, "top_p": 1.0},
    "majority-vote": {"temperature": 1.0, "top_p": 1.0, "samples_per_problem": 8, "consensus": 0.0},
    "u-opsd": {
        "temperature": 1.1,
        "top_p": 0.95,
        "samples_per_problem": 8,
        "consensus": 0.5,
        "label_tokens": 100,
        "hint": "{question}\n\nOne solution of this problem is:\n{solution}\n\nNow solve it in your own way.",
    },
    "entropy-minimisation": {"temperature": 1.0, "top_p": 1.0},
}
LABEL_FREE_SETTINGS = tuple(LABEL_FREE["u-opsd"])

DEFAULT_CUE = r"Please reason step by step, and put your final answer within \boxed{}."  # Eq 36


def with_temperature(settings: C, temperature: float, top_p: float) -> C:
    """These settings, after a check that a nucleus has a temperature."""
    if top_p < 1 and temperature == 0:
        raise ValueError(f"top_p = {top_p} needs a temperature above 0; at 0, decoding is greedy")
    return settings


class PairSettings(Config):
    """The two models."""

    expert: Decides[str]
    """Model to improve: a Hub id, a local folder, a .gguf file, or miniature/NAME."""
    expert_revision: Decides[str | None] = None
    """Branch, tag or commit of an expert on the Hub."""
    amateur: Decides[str]
    """Weaker model with the expert's vocabulary, or any with --vocabulary aligned, named like the expert; or the expert
    with less: self (with another prompt), self:base (without its adapter), self:checkpoint=PATH (an earlier state:
    adapter or model), self:layers=K (the first K layers), self:4bit, self:dropout=P. Sources: arXiv 2309.03883,
    2402.14874, 2602.08222."""
    amateur_revision: Decides[str | None] = None
    """Branch, tag or commit of an amateur on the Hub."""
    vocabulary: Decides[VocabularyRule] = "strict"
    """strict: every token id must mean the same to both models. shared: ids that differ are left out of both
    distributions, which are renormalised; steps where the rollout took such a token are never kept. aligned: the
    amateur has another tokenizer, and reads the same text in its own prompt and tokens; steps are scored where a token
    of both begins, over the tokens that are the same bytes in both, renormalised."""
    min_aligned_share: Speed[Share] = 0.5
    """With vocabulary aligned: refuse the pair if a smaller share of the steps can be scored."""
    min_common_mass: Speed[Share] = 0.5
    """With vocabulary aligned: refuse the pair if the expert's tokens that the amateur has too get less of its
    probability, in the mean over the scored steps."""

    @model_validator(mode="after")
    def _limits_are_of_aligned_pairs(self) -> Self:
        for name in ("min_aligned_share", "min_common_mass"):
            value = getattr(self, name)
            if self.vocabulary != "aligned" and value != PairSettings.model_fields[name].default:
                raise ValueError(f"{name} = {value:g} means nothing for vocabulary = {self.vocabulary}; omit it")
        return self


class ContextSettings(Config):
    """What the amateur reads before the response, where it is not what the expert reads."""

    amateur_cue: DecidesIfSet[str | None] = None
    """Instruction that the amateur reads in the place of --cue; '' is none. Responses are the same for both."""
    amateur_template: InputIfSet[Path | None] = None
    """Jinja file with the chat template of the amateur's prompts. Default: that of the expert's; with --vocabulary
    aligned, that of the amateur's own tokenizer."""

    @property
    def has_other_prompt(self) -> bool:
        """The settings may give the amateur another prompt than the expert."""
        names = ("amateur_cue", "amateur_template", "expert_hint", "amateur_hint")
        return any(getattr(self, name, None) is not None for name in names)


class HintSettings(Config):
    """Fields of a problem that one side reads and the other does not."""

    expert_hint: DecidesIfSet[str | None] = None
    """Field of a problem's row that the expert reads below the question, as "Hint: …". The expert is trained on the
    prompt without it."""
    amateur_hint: DecidesIfSet[str | None] = None
    """Field of a problem's row that the amateur reads below the question, as "Hint: …"."""


class ModelSettings(Config):
    """One model."""

    model: Decides[str]
    """Model to work on: a Hub id, a local folder, a .gguf file, or miniature/NAME."""
    model_revision: Input[str | None] = None
    """Branch, tag or commit of a model on the Hub."""


class AdapterSettings(Config):
    """An adapter on a model, unmerged."""

    adapter: Input[Path | None] = None
    """Run folder of `lightr finetune`, or a folder with a PEFT adapter, to put on the model (of a pair: on the expert)
    without merging."""


class ProblemSettings(Config):
    """The problems."""

    dataset: Decides[str]
    """gsm8k, arithmetic or programs (generated), a file or folder of yours (JSON Lines, JSON, CSV, TSV, Parquet, Arrow,
    text), or a Hub id such as owner/name:configuration."""
    data_dir: Input[Path | None] = None
    """Folder with NAME/SPLIT.jsonl files to read instead of the Hub."""
    question_field: Input[str | None] = None
    """Field with the question, as in meta.question or messages.0.content. Default: the first of question, problem,
    prompt, query, messages, conversations."""


class PromptSettings(Config):
    """How a question becomes a prompt; the same for every model and stage, but for an amateur with its own context."""

    cue: Decides[str] = DEFAULT_CUE
    """Instruction before every question (the paper's Eq 36), sent as the system message."""
    chat_template: Input[Path | None] = None
    """Jinja file to use instead of the tokenizer's chat template."""

    @field_validator("cue")
    @classmethod
    def _cue_is_read(cls, value: str) -> str:
        if value.strip().casefold() == "none":
            raise ValueError("the models would read this word; '' asks without an instruction")
        return value


class MachineSettings(Config):
    """Device and precision of the models."""

    dtype: Decides[DType] = "auto"
    """Precision of the weights. auto: bfloat16 on a GPU that supports it, and on a CPU that multiplies it natively if
    the model's hidden size is 256 or more; float32 elsewhere. `lightr doctor` says which and why."""
    device: Place[str] = "auto"
    """cuda, cuda:1, mps or cpu. auto: the first that is available."""
    trust_remote_code: Place[bool] = False
    """Run Python code from a model repository, with all your rights. Off: such a model is refused. Code from the Hub
    runs only at a commit given as revision."""


class EngineSettings(MachineSettings):
    """Device, precision and the engine that generates."""

    engine: Decides[EngineName] = "own"
    """Engine that generates responses: own, or vllm in a process of its own (meant for GPUs). Distributions are always
    computed here."""
    engine_python: Place[Path | None] = None
    """Python of another environment that has vLLM, such as venv/bin/python. Default: this one (extra vllm)."""

    @model_validator(mode="after")
    def _python_is_of_another_engine(self) -> Self:
        if self.engine == "own" and self.engine_python is not None:
            raise ValueError(f"engine_python = {self.engine_python} means nothing for engine = own; give engine = vllm")
        return self

    def identity(self, *parts: type[Config], inputs: bool = False) -> dict[str, Any]:
        """See `Config.identity`; the own engine is not named, as in folders that are older than the choice."""
        found = super().identity(*parts, inputs=inputs)
        return {name: value for name, value in found.items() if (name, value) != ("engine", "own")}


class WorkerSettings(Config):
    """Processes that share the work of a stage."""

    workers: Speed[Count | Literal["auto"]] = 1
    """Processes that sample and answer together in one run folder. auto: one a GPU; on a CPU by cores and memory. With
    --ray, the default is auto."""
    ray: Place[str | None] = None
    """Run the workers on a Ray cluster: its address; auto on one of its nodes; or local, for a cluster on this machine
    that ends with the command. Needs the extra ray."""

    @model_validator(mode="before")
    @classmethod
    def _all_of_a_cluster(cls, values: Any) -> Any:
        return {"workers": "auto", **values} if isinstance(values, dict) and values.get("ray") else values


class JoinSettings(WorkerSettings):
    """Workers, also those that another process did not start."""

    join: Place[bool] = False
    """Help the process that works on this run folder, also from another machine on a shared file system. It must have
    been started with --workers 2 or more, or auto."""


class TrackerSettings(Config):
    """Where figures are sent."""

    report_to: Speed[tuple[str, ...]] = ()
    """Experiment trackers for the figures of all stages: tensorboard, trackio, wandb, or another of accelerate. Nothing
    becomes public by itself, and wandb without a login works offline."""


class SampleSettings(Config):
    """Stage 1: rollouts, and the steps and labels that are kept."""

    max_questions: Input[Count | None] = 1000
    """Use the first N problems in file order (paper: 1000). none: all."""
    max_new_tokens: Decides[Count] = 128
    """Cap on a rollout, in tokens (paper: 128)."""
    divergence_beta: Decides[NotNegative | None] = 0.4
    """β of Eq 3: keep steps with a KL divergence above it, in nats (paper: 0.4). none: keep every step."""
    plausibility_alpha: Decides[Share] = 0.2
    """α of Eq 4: share of the top probability that a token needs to enter the label (paper: 0.2)."""
    temperature: Decides[NotNegative] = 0.0
    """Temperature of the rollouts, not of the scored distributions. 0: greedy."""
    top_p: Decides[PositiveShare] = 1.0
    """Nucleus sampling of the rollouts; needs a temperature."""
    stop_strings: Decides[StopStrings] = ()
    """More texts that end a rollout; no label is made from where one begins."""
    top_tokens: Decides[Count] = 5
    """Most probable tokens of each model to store at every step, for the report."""
    batch_size: Speed[Count | None] = None
    """Questions per batch. Default: as many as fit in memory, up to 64 on CPU, 512 on GPU. Halved on out-of-memory."""
    residency: Speed[Residency] = "auto"
    """together: both models in memory. sequential: the expert generates and leaves its hidden states on disk, then the
    amateur is loaded; the same results in less memory. auto: together if both models fit."""

    @model_validator(mode="after")
    def _nucleus_needs_temperature(self) -> Self:
        return with_temperature(self, self.temperature, self.top_p)


class SelectSettings(Config):
    """Steps to keep and labels to make: the paper's rule and its alternatives."""

    selection: Decides[str] = "divergence"
    """Rule that scores steps: divergence (D_KL(π_E‖π_A), the paper's), label_surprise (D_KL(v_C‖π_E), how much the
    label would change the expert), top1_flip (the models' top tokens differ), expert_entropy, uncertain_or_contradicted
    (high entropy or high divergence: the Soft-OR of TIP, arXiv 2604.14084), excess_loss (log π_E − log π_A of the token
    taken, after Rho-1, arXiv 2404.07965), later (place in the rollout, 0 to 1), random, none (every step), or one that
    lightreasoner.register_rule added."""
    threshold: Decides[float | None] = None
    """Keep steps with a score above it, in nats; with divergence this is β (paper: 0.4), and in a run its default."""
    keep_share: Decides[PositiveShare | None] = None
    """Keep this share of all steps, highest scores first; needs no threshold."""
    keep_labels: Decides[Count | None] = None
    """Keep this many steps, highest scores first; compares rules at equal numbers of labels."""
    weigh_by: DecidesIfSet[str | None] = None
    """Rule whose score weighs the loss of each kept label, scaled to a mean of 1; negative scores count as 0. Default:
    all labels weigh the same, as in the paper."""
    contrast: Decides[Contrast] = "amateur"
    """Label: amateur (Eq 5 and 6, with the powers below), own_token (one-hot on the token of the rollout),
    own_distribution (the expert's own distribution over the plausible tokens: powers 1 and 0)."""
    expert_power: DecidesIfSet[NotNegative] = 1.0
    """Power a of the label π_E^a · π_A^−b over the plausible tokens (paper: 1). With b: 1 and 0 own distribution, 1/τ
    and 0 sharpened, λ and λ−1 extrapolated (G-OPD, arXiv 2602.12125), 1+β and β contrastive decoding (2309.09117)."""
    amateur_power: DecidesIfSet[float] = 1.0
    """Power b of the same label (paper: 1). 0: without the amateur. Below 0: towards it."""
    plausibility_alpha: Decides[Share | None] = None
    """α of Eq 4, at least that of the samples. Default: theirs; with a recipe, that of its section sample."""
    label_temperature: Decides[Positive] = 1.0
    """Divides the log-ratio of Eq 5 before the softmax; below 1, labels are sharper (paper: 1)."""

    @model_validator(mode="after")
    def _powers_are_of_a_contrast(self) -> Self:
        powers = f"expert_power = {self.expert_power:g} and amateur_power = {self.amateur_power:g}"
        if self.contrast != "amateur" and (self.expert_power, self.amateur_power) != (1, 1):
            why = "is one token" if self.contrast == "own_token" else "is expert_power = 1 and amateur_power = 0"
            raise ValueError(f"contrast = {self.contrast} {why}, so {powers} contradict it. Leave out the contrast")
        if self.contrast == "own_token" and self.label_temperature != 1:
            raise ValueError(
                f"label_temperature = {self.label_temperature:g} means nothing for contrast = own_token, whose label "
                "is one token; omit it"
            )
        return self


class FinetuneSettings(Config):
    """Stage 2: LoRA on the stored labels (Table 9)."""

    steps: Decides[Count] = 1000
    """Optimizer steps (paper: 1000)."""
    labels_per_step: Decides[Count] = 16
    """Labels per optimizer step, exactly (paper: 16)."""
    labels_per_forward: Decides[Count] = 8
    """Most labels of one rollout in a forward pass. 1: the paper's independent samples, several times slower."""
    tokens_per_micro_batch: Speed[Count | None] = None
    """Tokens per forward and backward pass. Default: by device. Changes speed and memory only."""
    learning_rate: Decides[Positive] = 5e-5
    """Peak learning rate, without warm-up, then linear to 0 (paper: 5e-5)."""
    lora_rank: Decides[Count] = 8
    """Rank of the LoRA update (paper: 8)."""
    lora_alpha: Decides[Positive] = 16
    """LoRA scaling numerator (paper: 16)."""
    lora_dropout: Decides[Annotated[float, Field(ge=0, lt=1)]] = 0.05
    """Dropout on the LoRA input (paper: 0.05)."""
    lora_targets: Decides[tuple[str, ...]] = ("q_proj", "v_proj")
    """Modules to put LoRA on (paper: q_proj v_proj): names, one regular expression, or all-linear."""
    max_length: Decides[Count] = 4096
    """Labels with a longer prefix are skipped and counted, never truncated."""
    max_grad_norm: Decides[NotNegative] = 1.0
    """Gradient clipping. 0: off."""
    objective: DecidesIfSet[Objective | None] = None
    """Loss at the labelled steps. label: cross-entropy to the label (Eq 8). entropy: entropy of the tuned model there,
    whatever the label (EM-FT, arXiv 2505.15134). Default: entropy for samples of `lightr baseline
    entropy-minimisation`, label for all others."""
    load_in_4bit: DecidesIfSet[bool] = False
    """Hold the base in 4 bits while it is tuned (QLoRA, NF4 of bitsandbytes); merged into the unquantised weights."""
    gradient_checkpointing: Speed[bool] = False
    """Compute activations again in the backward pass instead of storing them: less memory, about a third slower."""
    fsdp: Speed[bool] = False
    """Share the base out over the processes of torchrun (FSDP2) instead of a copy for each."""
    save_steps: Speed[Count] = 200
    """Checkpoint every N steps."""
    keep_checkpoints: Speed[Count] = 2
    """Checkpoints to keep on disk."""
    logging_steps: Speed[Count] = 10
    """Log every N steps."""


class MergeSettings(Config):
    """Stage 3."""

    merge_dtype: Decides[DType] = "auto"
    """Precision of the merged weights on disk. auto: that of the base's file."""


class QuestionSettings(Config):
    """What an evaluation asks."""

    benchmarks: Input[Annotated[tuple[BenchmarkOrFile, ...], Field(min_length=1)]] = ("gsm8k",)
    """Benchmarks, and files or folders of your own problems with answers, such as my.jsonl. `lightr benchmarks` lists
    the names; paper stands for the seven of its Table 1."""
    question_field: Input[str | None] = None
    """Field with the question in those files. Default: as for --dataset."""
    answer_field: Input[str | None] = None
    """Field with the right answer in those files. Default: the first of answer, final_answer, expected_answer, gold,
    ground_truth, target, solution and others. Of a solution, what #### or \\boxed{} marks."""
    answer_kind: Decides[AnswerKind | None] = None
    """How answers to those files are compared: number, expression (mathematics), choice (letters A … E), text (word for
    word) or literal (a Python value, with its type). Default: choice if all right answers are letters, number if all
    are numbers, else expression."""
    prompts: Input[Literal["chat", "plain", "both"]] = "chat"
    """chat: cue and chat template (the paper's Eq 36). plain: "Question: … Answer:" (its Eq 37, used there for base
    models). both: each of them, to compare models under the same prompt."""
    max_items: Input[Count | None] = None
    """Use only the first N items of each benchmark. Default: all."""
    skip_items: Input[Annotated[int, Field(ge=0)]] = 0
    """Leave out the first N items of each benchmark, such as those used to choose settings."""
    items_seed: Input[Seed | None] = None
    """Draw --max-items at random by this seed, instead of the first ones."""

    @model_validator(mode="after")
    def _seed_draws_some(self) -> Self:
        if self.items_seed is not None and self.max_items is None:
            raise ValueError("items_seed draws max_items of the items, and max_items is not given")
        return self


class AnswerSettings(Config):
    """How answers are generated."""

    max_answer_tokens: Decides[Count] = 2048
    """Cap on an answer, in tokens (the Qwen toolkit's default: 2048)."""
    stop_strings: Decides[StopStrings] = ()
    """More texts that end an answer."""
    samples_per_problem: Decides[Count] = 1
    """Answers to each question, for pass@k and majority votes; more than one needs a temperature."""
    temperature: Decides[NotNegative] = 0.0
    """Temperature of the answers. 0: greedy."""
    top_p: Decides[PositiveShare] = 1.0
    """Nucleus sampling of the answers; needs a temperature."""
    answer_batch_size: Speed[Count | None] = None
    """Answers per batch. Default: 32, or 256 with vllm. A batch lasts as long as its longest answer, so a larger one is
    faster where it fits. Halved on out-of-memory."""

    @model_validator(mode="after")
    def _several_samples_need_temperature(self) -> Self:
        if self.samples_per_problem > 1 and self.temperature == 0:
            raise ValueError(
                f"samples_per_problem = {self.samples_per_problem} needs a temperature above 0; at 0, "
                "decoding is greedy and all samples are the same"
            )
        return with_temperature(self, self.temperature, self.top_p)


class JudgeSettings(Config):
    """How answers are judged."""

    judge: Decides[JudgeName] = "math-verify"
    """math-verify: compare answers as mathematics. toolkit: decide as the paper's evaluation toolkit."""
    grading_seconds: Decides[Positive] = 10.0
    """Time limit of the judge for one answer; beyond it the verdict is timeout."""
    grading_megabytes: Decides[Annotated[int, Field(ge=256)]] = 1024
    """Memory limit of one judge process; beyond it the verdict is grader_error."""
    grading_workers: Speed[Count | None] = None
    """Judge processes. Default: one per processor core."""


class EvaluateSettings(JudgeSettings, AnswerSettings, QuestionSettings):
    """Stage 4: accuracy on benchmarks; by default greedy pass@1."""


class StudySettings(Config):
    """What the studies of this expert vary; `lightr run` ignores it, and has no flags for it."""

    amateurs: Decides[tuple[str, ...]] = ()
    """More amateurs, beside the recipe's own (the rows of Table 5)."""
    lengths: Decides[tuple[Count, ...]] = (64, 128, 256)
    """Rollout lengths (paper: 64, 128, 256)."""
    sft_questions: Decides[Count | None] = None
    """Problems that rejection SFT samples. Default: all (paper: all of GSM8K train)."""
    transfer: Decides[tuple[BenchmarkName, ...]] = ()
    """Benchmarks of another subject (Table 8). Default: kinds of arithmetic that were not sampled."""
