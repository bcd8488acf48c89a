"""Every setting, once: frozen models whose attribute docstrings are the help text of the flags.

`RunConfig` is the whole job and the form of a recipe. The stages' own configs (`SampleConfig`, …) hold the same
settings flat, for the commands that run one stage; `RunConfig.for_sample()` and its siblings make them.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from lightreasoner.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16", "float16"]
BenchmarkName = Literal[
    "arithmetic",
    "gsm8k",
    "math",
    "math500",
    "svamp",
    "asdiv",
    "minerva_math",
    "olympiadbench",
    "mmlu_stem",
    "commonsense_qa",
    "hellaswag",
    "arc_challenge",
]
Selection = Literal["divergence", "label_surprise", "top1_flip", "expert_entropy", "random", "none"]
Contrast = Literal["amateur", "own_token", "own_distribution"]
BaselineKind = Literal["rejection-sft", "ground-truth"]
VocabularyRule = Literal["strict", "shared"]
JudgeName = Literal["math-verify", "toolkit"]
PromptKind = Literal["chat", "plain"]

DEFAULT_CUE = r"Please reason step by step, and put your final answer within \boxed{}."  # Eq 36


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def checked(cls, values: dict[str, Any]) -> Self:
        """Validate values from files and flags.

        Raises:
            ConfigError: names each offending key, its value, and the nearest known key for an unknown one.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(cls, error)) from None

    @field_validator("*")
    @classmethod
    def _path_without_nul(cls, value: Any) -> Any:
        if isinstance(value, Path) and "\0" in str(value):
            raise ValueError("a path cannot hold a NUL character")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any, info: ValidationInfo) -> Any:
        """`--max-questions none` on a command line."""
        assert info.field_name is not None
        kinds = get_args(cls.model_fields[info.field_name].annotation)
        return None if value == "none" and type(None) in kinds and str not in kinds else value


class PairSettings(Config):
    """The two models."""

    expert: str
    """Model to improve: a Hub id, a local folder, a .gguf file, or miniature/NAME."""
    expert_revision: str | None = None
    """Branch, tag or commit of a Hub expert."""
    amateur: str
    """Weaker model that shares the expert's vocabulary; named like the expert."""
    amateur_revision: str | None = None
    """Branch, tag or commit of a Hub amateur."""
    vocabulary: VocabularyRule = "strict"
    """strict: every token id must mean the same to both models; shared: ids that do not are left out of both
    distributions, which are renormalised, and steps where the rollout took such a token are never kept."""


class ProblemSettings(Config):
    """The problems."""

    dataset: str
    """gsm8k, arithmetic (generated), a .jsonl, .json or .parquet file, or a Hub id such as owner/name:configuration."""
    data_dir: Path | None = None
    """Folder with NAME/SPLIT.jsonl files to use instead of the Hub."""
    question_field: str | None = None
    """Field that holds the question; by default the first of question, problem, prompt."""


class PromptSettings(Config):
    """How a question becomes a prompt; the same for every model and stage."""

    cue: str = DEFAULT_CUE
    """Instruction before every question (the paper's Eq 36), sent as system message."""
    chat_template: Path | None = None
    """Jinja file to use instead of the tokenizer's own chat template."""


class MachineSettings(Config):
    """Where and in which precision models run."""

    dtype: DType = "auto"
    """Precision of the weights; auto is bfloat16 on a GPU that has it and float32 elsewhere."""
    device: str = "auto"
    """cuda, cuda:1, mps, cpu; auto takes the first that is there."""
    trust_remote_code: bool = False
    """Run Python code that a model repository ships, with all your rights. Off: such a model is refused. From the Hub
    only at a commit that is given as revision."""


class SampleSettings(Config):
    """Stage 1: what is sampled and what is kept."""

    max_questions: Annotated[int, Field(ge=1)] | None = 1000
    """Use the first N problems in file order (paper: 1000); none uses all."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """Length at which a rollout is stopped (paper: 128)."""
    divergence_beta: float | None = 0.4
    """β of Eq 3: keep steps whose KL divergence exceeds it, in nats (paper: 0.4); none keeps every step."""
    plausibility_alpha: Annotated[float, Field(ge=0, le=1)] = 0.2
    """α of Eq 4: share of the top probability that a token needs to enter the label (paper: 0.2)."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the rollout's decoding, never of the scored distributions; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of the rollout's decoding; needs a temperature."""
    top_tokens: Annotated[int, Field(ge=1)] = 5
    """Most probable tokens of each model that are kept at every step, for the report."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Questions at a time; none takes what fits into memory, up to 64 on a CPU and 512 elsewhere. Halved by itself when
    memory runs out."""

    @model_validator(mode="after")
    def _nucleus_needs_temperature(self) -> Self:
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError(f"top_p = {self.top_p} needs a temperature above 0; at 0, decoding is greedy")
        return self


class SelectSettings(Config):
    """Which of the sampled steps are kept, and what their labels are: the paper's rule and its alternatives."""

    selection: Selection = "divergence"
    """What a step is kept for: divergence (D_KL(π_E‖π_A), the paper's), label_surprise (D_KL(v_C‖π_E): how much its
    label would change the expert), top1_flip (the models' favourite tokens differ), expert_entropy, random, none (every
    step)."""
    threshold: float | None = None
    """Keep steps whose score exceeds it, in nats; with divergence this is β (paper: 0.4)."""
    keep_share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Keep the steps of the highest scores, this share of all steps; no threshold needs tuning then."""
    keep_labels: Annotated[int, Field(ge=1)] | None = None
    """Keep the steps of the highest scores, this many; compares rules at equal numbers of labels."""
    contrast: Contrast = "amateur"
    """What the label is: amateur (Eq 5 and 6), own_token (the token that the rollout took, alone), own_distribution
    (the expert's own distribution over the plausible tokens)."""
    plausibility_alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    """α of Eq 4, not below that of the samples; none keeps theirs."""
    label_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the log-ratio of Eq 5 before the softmax; below 1 labels are sharper (paper: 1)."""

    @model_validator(mode="after")
    def _rule_fits_its_cut(self) -> Self:
        cuts = [name for name in ("threshold", "keep_share", "keep_labels") if getattr(self, name) is not None]
        if self.selection in ("divergence", "label_surprise", "expert_entropy") and not cuts:
            raise ValueError(f"selection = {self.selection} needs threshold, keep_share or keep_labels")
        if self.selection == "random" and not {"keep_share", "keep_labels"} & set(cuts):
            raise ValueError("selection = random needs keep_share or keep_labels")
        if self.selection in ("random", "none", "top1_flip") and "threshold" in cuts:
            raise ValueError(f"selection = {self.selection} has no score that a threshold could cut")
        if self.selection == "none" and cuts:
            raise ValueError(f"selection = none keeps every step, so {cuts[0]} means nothing; random keeps some")
        if {"keep_share", "keep_labels"} <= set(cuts):
            raise ValueError("keep_share and keep_labels both say how many; give one")
        return self


class FinetuneSettings(Config):
    """Stage 2: LoRA on the stored labels (Table 9)."""

    steps: Annotated[int, Field(ge=1)] = 1000
    """Optimiser steps (paper: 1000)."""
    labels_per_step: Annotated[int, Field(ge=1)] = 16
    """Labels in each optimiser step, exactly (paper: 16)."""
    labels_per_forward: Annotated[int, Field(ge=1)] = 8
    """Up to this many labels of one rollout share a forward pass; 1 is the paper's independent samples, several times
    slower."""
    tokens_per_micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Tokens of one forward and backward pass; none takes what suits the device. Changes speed and memory only."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Peak, reached at once, then linear to 0 (paper: 5e-5)."""
    lora_rank: Annotated[int, Field(ge=1)] = 8
    """Rank of the LoRA update (paper: 8)."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16
    """LoRA scaling numerator (paper: 16)."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the LoRA input (paper: 0.05)."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Modules that get a LoRA update (paper: q_proj v_proj)."""
    max_length: Annotated[int, Field(ge=1)] = 4096
    """Steps whose prefix is longer are skipped and counted, never truncated."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradient clipping; 0 turns it off."""
    save_steps: Annotated[int, Field(ge=1)] = 200
    """Checkpoint every N steps."""
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2
    """Checkpoints kept on disk."""
    logging_steps: Annotated[int, Field(ge=1)] = 10
    """Log every N steps."""
    report_to: tuple[str, ...] = ()
    """Trackers of accelerate, such as trackio, wandb, tensorboard."""


class MergeSettings(Config):
    """Stage 3."""

    merge_dtype: DType = "auto"
    """Precision of the merged weights on disk; auto keeps that of the base's file."""


class EvaluateSettings(Config):
    """Stage 4: accuracy on benchmarks; by default greedy pass@1."""

    benchmarks: tuple[BenchmarkName | Literal["paper"], ...] = ("gsm8k",)
    """What is asked; paper stands for the seven of its Table 1. `lightr benchmarks` lists them."""
    prompts: Literal["chat", "plain", "both"] = "chat"
    """chat: cue and chat template (the paper's Eq 36); plain: "Question: … Answer:" (its Eq 37, used there for base
    models); both evaluates and reports both, so that models can be compared under the same prompt."""
    judge: JudgeName = "math-verify"
    """math-verify compares answers as mathematics; toolkit decides as the evaluation toolkit of the paper."""
    max_items: Annotated[int, Field(ge=1)] | None = None
    """Use only the first N items of each benchmark; none uses all."""
    max_answer_tokens: Annotated[int, Field(ge=1)] = 2048
    """Length at which an answer is cut off (the Qwen toolkit's default: 2048)."""
    stop_strings: tuple[str, ...] = ()
    """Further texts that end an answer."""
    samples_per_problem: Annotated[int, Field(ge=1)] = 1
    """Answers to each question, for pass@k and majority votes; more than one needs a temperature."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the answers' decoding; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of the answers' decoding; needs a temperature."""
    answer_batch_size: Annotated[int, Field(ge=1)] = 32
    """Answers generated at a time; halved by itself when memory runs out."""
    grading_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Time that the judge has for one answer; after it the verdict is timeout."""
    grading_megabytes: Annotated[int, Field(ge=256)] = 1024
    """Memory that one of the judge's processes may take; above it the verdict is grader_error."""
    grading_workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that judge; none takes one for each processor core."""

    @model_validator(mode="after")
    def _several_samples_need_temperature(self) -> Self:
        if self.top_p < 1 and self.temperature == 0:
            raise ValueError(f"top_p = {self.top_p} needs a temperature above 0; at 0, decoding is greedy")
        if self.samples_per_problem > 1 and self.temperature == 0:
            raise ValueError(
                f"samples_per_problem = {self.samples_per_problem} needs a temperature above 0; at 0, "
                "decoding is greedy and all samples are the same"
            )
        return self


class StudySettings(Config):
    """What the studies of this expert vary; `lightr run` does not look at it."""

    amateurs: tuple[str, ...] = ()
    """Further amateurs, beside the recipe's own (the rows of Table 5)."""
    lengths: tuple[Annotated[int, Field(ge=1)], ...] = (64, 128, 256)
    """Rollout lengths (paper: 64, 128, 256)."""
    sft_questions: Annotated[int, Field(ge=1)] | None = None
    """Problems that rejection SFT samples; none takes all (paper: all of GSM8K train)."""
    transfer: tuple[BenchmarkName, ...] = ()
    """Benchmarks of another subject (Table 8); without any, kinds of arithmetic that were not sampled."""


class SampleConfig(SampleSettings, MachineSettings, PromptSettings, ProblemSettings, PairSettings):
    """`lightr sample`."""

    out: Path
    """Run folder; the samples go to its subfolder sample."""
    seed: int = 42
    """Of sampling with a temperature and of generated problems."""


class SelectConfig(SelectSettings):
    """`lightr samples select`."""

    source: Path
    """Run folder of `lightr sample`; with --divergence-beta none there it holds every step to choose from."""
    out: Path
    """Run folder for the selection; it goes to its subfolder sample."""
    seed: int = 42
    """Of what is drawn at random: the random rule, and which of equal scores are kept."""


class FinetuneConfig(FinetuneSettings, MachineSettings):
    """`lightr finetune`."""

    model: str
    """The expert that was sampled."""
    model_revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    data: Path
    """Run folder of `lightr sample`, or a folder that `lightr samples import` made."""
    out: Path
    """Run folder; the adapter goes to its subfolder finetune."""
    seed: int = 42
    """Of LoRA's start, dropout and the order of labels."""


class BaselineConfig(MachineSettings, PromptSettings, ProblemSettings):
    """`lightr baseline`."""

    kind: BaselineKind
    """rejection-sft: the model's own greedy answers, where they are right; ground-truth: the written solutions."""
    model: str
    """Model to be fine-tuned: a Hub id, a local folder, a .gguf file, or miniature/NAME."""
    model_revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    solution_field: str | None = None
    """Field that holds the written solution with its final answer; by default the first of solution, answer."""
    max_questions: Annotated[int, Field(ge=1)] | None = None
    """Use the first N problems in file order; none uses all (paper: all of GSM8K train)."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 2048
    """Length at which an answer is cut off, and then not kept (the paper does not say)."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Questions at a time; halved by itself when memory runs out."""
    judge: JudgeName = "math-verify"
    """Who decides whether an answer is right."""
    grading_workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that judge; none takes one for each processor core."""
    out: Path
    """Run folder; the labels go to its subfolder sample, as those of `lightr sample` do."""
    seed: int = 42
    """Of generated problems."""


class MergeConfig(MergeSettings, MachineSettings):
    """`lightr merge`."""

    model: str
    """The base that the adapter was trained on."""
    model_revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    adapter: Path
    """Run folder of `lightr finetune`, or a folder with a PEFT adapter."""
    out: Path
    """Folder for the merged model; must not exist yet, or hold this very merge."""


class EvaluateConfig(EvaluateSettings, MachineSettings, PromptSettings):
    """`lightr evaluate`."""

    model: str
    """Model to evaluate: a Hub id, a local folder, a .gguf file, or miniature/NAME."""
    model_revision: str | None = None
    """Branch, tag or commit of a Hub model."""
    contrast_with: str | None = None
    """Amateur for contrastive decoding: of the plausible tokens, the one with the highest log-ratio is taken."""
    contrast_with_revision: str | None = None
    """Branch, tag or commit of a Hub amateur."""
    vocabulary: VocabularyRule = "strict"
    """Of the model and that amateur: see `sample`."""
    contrast_alpha: Annotated[float, Field(ge=0, le=1)] = 0.1
    """α of Eq 4 in contrastive decoding (its papers: 0.1)."""
    data_dir: Path | None = None
    """Folder with BENCHMARK/SPLIT.jsonl files to use instead of the Hub."""
    out: Path
    """Folder for the answers and metrics."""
    seed: int = 42
    """Of sampling with a temperature."""

    @model_validator(mode="after")
    def _contrastive_decoding_is_greedy(self) -> Self:
        if self.contrast_with and self.temperature:
            raise ValueError(f"contrast_with takes the best token, so temperature = {self.temperature} means nothing")
        return self


class InspectSettings(SampleSettings, MachineSettings, PromptSettings, PairSettings):
    """Settings of `lightr inspect`."""

    html: Path | None = None
    """File to write the token browser to, instead of printing a heat map."""
    seed: int = 42
    """Of sampling with a temperature."""


class InspectConfig(InspectSettings):
    """`lightr inspect`."""

    question: str
    """What is asked."""


class RunConfig(MachineSettings, PromptSettings, ProblemSettings, PairSettings):
    """`lightr run`, and the form of a recipe."""

    out: Path = Path("runs/default")
    """Run folder."""
    seed: int = 42
    """Of everything that is drawn at random."""
    sample: SampleSettings = SampleSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    merge: MergeSettings = MergeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    study: StudySettings = StudySettings()

    def for_sample(self) -> SampleConfig:
        """Stage 1 of this run."""
        return SampleConfig(**self._shared_with(SampleConfig), **self.sample.model_dump())

    def for_finetune(self) -> FinetuneConfig:
        """Stage 2 of this run: the expert, on the samples in the run folder."""
        return FinetuneConfig(
            model=self.expert,
            model_revision=self.expert_revision,
            data=self.out,
            **self._shared_with(FinetuneConfig),
            **self.finetune.model_dump(),
        )

    def for_merge(self) -> MergeConfig:
        """Stage 3 of this run."""
        return MergeConfig(
            model=self.expert,
            model_revision=self.expert_revision,
            adapter=self.out,
            **self._shared_with(MergeConfig) | {"out": self.out / "merged"},
            **self.merge.model_dump(),
        )

    def for_evaluate(self, model: str, revision: str | None, name: str) -> EvaluateConfig:
        """Stage 4 of this run, for one model; `name` is its folder below `evaluate/`."""
        return EvaluateConfig(
            model=model,
            model_revision=revision,
            **self._shared_with(EvaluateConfig) | {"out": self.out / "evaluate" / name},
            **self.evaluate.model_dump(),
        )

    def _shared_with(self, stage: type[Config]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in RunConfig.model_fields if name in stage.model_fields}


def explain(config: type[BaseModel], error: ValidationError) -> str:
    """The findings of pydantic as one line for a person."""
    return "; ".join(_explain(config, problem) for problem in error.errors())


def _explain(config: type[BaseModel], problem: Any) -> str:
    """One clause of an error message for one finding of pydantic."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(config, path[:-1])
        nearest = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {key}: {hint}"
    if problem["type"] == "missing":
        return f"{key} is required: give --{key.replace('_', '-')} or set it in a recipe"
    if problem["type"] == "value_error":  # of several settings together
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _fields_at(config: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        section = config.model_fields[part].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        config = section
    return list(config.model_fields)
