"""The settings of the commands that run one stage, flat."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from lightreasoner.config.base import Decides, DecidesIfSet, Input, Place, Speed
from lightreasoner.config.push import HubName, PushSettings
from lightreasoner.config.sections import (
    LABEL_FREE,
    LABEL_FREE_SETTINGS,
    AdapterSettings,
    AnswerKind,
    BaselineKind,
    ContextSettings,
    Count,
    EngineSettings,
    EvaluateSettings,
    FinetuneSettings,
    HintSettings,
    JoinSettings,
    JudgeName,
    MachineSettings,
    MergeSettings,
    ModelSettings,
    NotNegative,
    PairSettings,
    PositiveShare,
    ProblemSettings,
    PromptSettings,
    SampleSettings,
    Seed,
    SelectSettings,
    Share,
    StopStrings,
    TrackerSettings,
    VocabularyRule,
    with_temperature,
)

Labeller = Literal["current", "base"]
JUDGED = ("rejection-sft", "majority-vote", "u-opsd")  # baselines that judge or compare answers


class PairConfig(MachineSettings, ContextSettings, PairSettings):
    """Two models and where they run."""


class SampleConfig(
    SampleSettings,
    PromptSettings,
    HintSettings,
    ProblemSettings,
    EngineSettings,
    JoinSettings,
    AdapterSettings,
    TrackerSettings,
    PairConfig,
):
    """`lightr sample`."""

    out: Place[Path]
    """Run folder; the samples go to its subfolder sample."""
    seed: Decides[Seed] = 42
    """Seed of sampling with a temperature, and of generated problems."""
    skip_questions: Input[Annotated[int, Field(ge=0)]] = 0
    """Leave out the first N problems; --max-questions counts from there."""
    labeller: DecidesIfSet[Labeller] = "current"
    """Whose distribution labels are made of. current: that of the expert with --adapter, which samples. base: that of
    the expert without it."""

    @model_validator(mode="after")
    def _base_is_without_an_adapter(self) -> Self:
        if self.labeller == "base" and self.adapter is None:
            raise ValueError("labeller = base is the expert without its adapter, and no adapter is given; omit it")
        return self


class SelectConfig(SelectSettings):
    """`lightr samples select`."""

    source: Input[Path]
    """Run folder of `lightr sample`; sampled with --divergence-beta none it holds every step."""
    out: Place[Path]
    """Run folder for the selection; it goes to its subfolder sample, or beside the samples to its subfolder select."""
    seed: Decides[Seed] = 42
    """Seed of the random rule, and of the choice between equal scores."""


class FinetuneConfig(FinetuneSettings, MachineSettings, TrackerSettings, ModelSettings):
    """`lightr finetune`."""

    data: Input[Path]
    """Run folder of `lightr sample`, or a folder made by `lightr samples import`."""
    adapter: Input[Path | None] = None
    """Run folder of `lightr finetune`, or a folder with a PEFT adapter, to go on training in the place of a fresh one:
    of the same rank, alpha and targets. The optimizer and the learning rate start anew."""
    out: Place[Path]
    """Run folder; the adapter goes to its subfolder finetune."""
    seed: Decides[Seed] = 42
    """Seed of the LoRA weights, dropout and the order of labels."""


class BaselineConfig(EngineSettings, JoinSettings, PromptSettings, ProblemSettings, TrackerSettings, ModelSettings):
    """`lightr baseline`."""

    kind: Decides[BaselineKind]
    """rejection-sft: the model's own greedy answers, where they are right. ground-truth: the written solutions. Without
    gold answers: self-training (SSD, arXiv 2604.01193: one sample of each problem, as it is), sept (SePT, 2510.18814:
    the same at a low temperature, one round), majority-vote (after TTRL, 2504.16084: of several samples, the shortest
    with the most frequent answer), u-opsd (2608.06296: the model's distributions on its samples against the majority,
    with a sample of the majority as a hint), entropy-minimisation (EM-FT, 2505.15134: samples to tune with --objective
    entropy)."""
    solution_field: Input[str | None] = None
    """Field with the written solution and its final answer. Default: the first of solution, answer, response, output,
    completion, messages, conversations."""
    max_questions: Input[Count | None] = None
    """Use the first N problems in file order. Default: all (paper: all of GSM8K train)."""
    max_new_tokens: Decides[Count] = 2048
    """Cap on an answer, in tokens; longer ones are not kept (the paper does not say)."""
    stop_strings: Decides[StopStrings] = ()
    """More texts that end an answer; nothing from where one begins is trained on."""
    batch_size: Speed[Count | None] = None
    """Questions per batch. Default: 32, or 256 with vllm, divided by the samples of each. Halved on out-of-memory."""
    temperature: DecidesIfSet[NotNegative | None] = None
    """Temperature of the samples. Default: 0 (greedy) for rejection-sft, 1.5 for self-training, 0.6 for sept, 1.1 for
    u-opsd, 1 for majority-vote and entropy-minimisation."""
    top_p: DecidesIfSet[PositiveShare | None] = None
    """Nucleus sampling. Default: 0.8 for self-training, 0.95 for u-opsd, 1 for the others."""
    samples_per_problem: DecidesIfSet[Count | None] = None
    """Samples of each problem that vote (majority-vote, u-opsd: 8)."""
    consensus: DecidesIfSet[Share | None] = None
    """Smallest share of the samples that must have the most frequent answer; the problem is left out below it.
    Default: 0 for majority-vote, 0.5 for u-opsd."""
    label_tokens: DecidesIfSet[Count | None] = None
    """Most probable tokens in each label of u-opsd, renormalised; 50 to 200 do as well as all in its paper (100)."""
    hint: DecidesIfSet[str | None] = None
    """What u-opsd asks the model that gives the labels; {question} and {solution} stand for the problem's."""
    answer_kind: DecidesIfSet[AnswerKind | None] = None
    """How answers are compared: number, expression, choice, text or literal. Default: number for gsm8k, else
    expression. Generated problems have a kind of their own."""
    judge: Decides[JudgeName] = "math-verify"
    """Judge that decides whether an answer is right, and finds the answers that vote."""
    grading_workers: Speed[Count | None] = None
    """Judge processes. Default: one per processor core."""
    out: Place[Path]
    """Run folder; the labels go to its subfolder sample, like those of `lightr sample`."""
    seed: Decides[Seed] = 42
    """Seed of generated problems, and of samples."""

    @model_validator(mode="before")
    @classmethod
    def _values_of_the_source(cls, values: Any) -> Any:
        """Fill in what the kind's source takes, so that the folder's identity holds it."""
        if not isinstance(values, dict):
            return values
        usual = dict(LABEL_FREE.get(str(values.get("kind")), {}))
        if str(values.get("temperature")) in ("0", "0.0"):
            usual.pop("top_p", None)  # greedy
        return {**values, **{name: value for name, value in usual.items() if values.get(name) in (None, "none")}}

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        usual = LABEL_FREE.get(self.kind, {})
        for name in LABEL_FREE_SETTINGS:
            if name not in usual and getattr(self, name) is not None:
                raise ValueError(f"{name} = {getattr(self, name)} means nothing for {self.kind}; omit it")
        if self.hint is not None and "{solution}" not in self.hint:
            raise ValueError(f"hint = {self.hint!r} lacks {{solution}}, where the sample of the majority is put in")
        if self.kind not in JUDGED and self.answer_kind is not None:
            raise ValueError(f"answer_kind = {self.answer_kind}, but {self.kind} judges no answers; omit it")
        if usual and self.solution_field is not None:
            raise ValueError(f"solution_field = {self.solution_field}, but {self.kind} reads no solutions; omit it")
        if "consensus" not in usual:
            return with_temperature(self, self.temperature or 0, self.top_p or 1)
        if self.samples_per_problem == 1:
            raise ValueError(
                f"samples_per_problem = 1 is no vote; {self.kind} needs 2 or more, self-training takes one"
            )
        if self.temperature == 0:
            raise ValueError(
                f"temperature = 0 makes all samples of a problem the same, so {self.kind} has nothing to vote on; give "
                "a temperature above 0"
            )
        return self


class MergeConfig(MergeSettings, MachineSettings, ModelSettings):
    """`lightr merge`."""

    adapter: Input[Path]
    """Run folder of `lightr finetune`, or a folder with a PEFT adapter."""
    chat_template: Input[Path | None] = None
    """Jinja file that becomes the merged model's chat template: that of the samples, if they had one of their own."""
    out: Place[Path]
    """Folder for the merged model; must not exist yet, or hold this very merge."""


class EvaluateConfig(
    EvaluateSettings, EngineSettings, JoinSettings, PromptSettings, AdapterSettings, TrackerSettings, ModelSettings
):
    """`lightr evaluate`."""

    contrast_with: Decides[str | None] = None
    """Amateur for contrastive decoding: of the plausible tokens, take the one with the highest log-ratio. A model, or
    self:base, self:checkpoint=PATH, self:layers=K, self:4bit, as for `sample`."""
    contrast_with_revision: Input[str | None] = None
    """Branch, tag or commit of an amateur on the Hub."""
    vocabulary: Decides[VocabularyRule] = "strict"
    """Rule for the vocabularies of the model and that amateur: see `sample`."""
    contrast_alpha: Decides[Share] = 0.1
    """α of Eq 4 in contrastive decoding (its papers: 0.1)."""
    data_dir: Input[Path | None] = None
    """Folder with BENCHMARK/SPLIT.jsonl files to read instead of the Hub."""
    out: Place[Path]
    """Folder for the answers and metrics."""
    seed: Decides[Seed] = 42
    """Seed of sampling with a temperature."""

    @model_validator(mode="after")
    def _has_an_amateur_to_contrast(self) -> Self:
        for name in ("contrast_with_revision", "contrast_alpha"):  # a recipe's vocabulary is that of its pair
            value = getattr(self, name)
            if self.contrast_with is None and value != EvaluateConfig.model_fields[name].default:
                raise ValueError(f"{name} = {value} means nothing without contrast_with; omit it, or give an amateur")
        return self

    @model_validator(mode="after")
    def _contrastive_decoding_is_greedy(self) -> Self:
        if self.contrast_with and self.engine != "own":
            raise ValueError(f"contrast_with needs both distributions at each token, so engine = {self.engine} cannot")
        if self.contrast_with and self.vocabulary == "aligned":
            raise ValueError(
                "contrast_with compares both models at each token, and vocabulary = aligned only at some. Choose an "
                "amateur of the model's family, with vocabulary = strict or shared"
            )
        if self.contrast_with and self.temperature:
            raise ValueError(f"contrast_with takes the best token, so temperature = {self.temperature} means nothing")
        return self


class PushConfig(PushSettings):
    """`lightr push`."""

    run: Input[Path]
    """Run folder; for samples alone, also the folder of a stage in it, such as RUN/sample."""
    to: Place[HubName]
    """Repository on the Hub, OWNER/NAME. It is made if there is none: private, or public with --public."""
    save: Place[Path | None] = None
    """Write what would be sent into this new folder instead, in a subfolder for each kind; the Hub is not needed."""


class InspectConfig(SampleSettings, PromptSettings, AdapterSettings, PairConfig):
    """`lightr inspect`."""

    question: Decides[str]
    """Question to ask."""
    html: Place[Path | None] = None
    """File for the token browser, instead of a heat map in the terminal."""
    seed: Decides[Seed] = 42
    """Seed of sampling with a temperature."""
