"""Every setting once: frozen models whose attribute docstrings are the help texts of the flags.

`RunConfig` is the whole job and the form of a recipe. The configs of the stages (`SampleConfig`, …) hold the same
settings flat, for the commands that run one stage; `RunConfig.for_sample()` and its siblings make them.

Each annotation says what a setting changes: `Decides`, `Input`, `Speed` or `Place`, see `config_base`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from lightreasoner.config_base import IF_SET, Config, Decides, DecidesIfSet, Input, Place, Speed
from lightreasoner.config_push import HubName, PushSettings
from lightreasoner.config_sections import (
    LABEL_FREE,
    LABEL_FREE_SETTINGS,
    SELECTION,
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
    Positive,
    PositiveShare,
    ProblemSettings,
    PromptSettings,
    SampleSettings,
    SelectSettings,
    Share,
    StopStrings,
    StudySettings,
    TrackerSettings,
    VocabularyRule,
    WorkerSettings,
    with_temperature,
)

C = TypeVar("C", bound=Config)
Labeller = Literal["current", "base"]


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
    seed: Decides[int] = 42
    """Seed of sampling with a temperature, and of generated problems."""
    skip_questions: Input[Annotated[int, Field(ge=0)]] = 0
    """Leave out the first N problems; --max-questions counts from there."""
    labeller: DecidesIfSet[Labeller] = "current"
    """Whose distribution labels are made of. current: that of the expert with --adapter, which samples. base: that of
    the expert without it."""


class SelectConfig(SelectSettings):
    """`lightr samples select`."""

    source: Input[Path]
    """Run folder of `lightr sample`; sampled with --divergence-beta none it holds every step."""
    out: Place[Path]
    """Run folder for the selection; it goes to its subfolder sample, or beside the samples to its subfolder select."""
    seed: Decides[int] = 42
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
    seed: Decides[int] = 42
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
    """Field with the written solution and its final answer. Default: the first of solution, answer."""
    max_questions: Input[Count | None] = None
    """Use the first N problems in file order. Default: all (paper: all of GSM8K train)."""
    max_new_tokens: Decides[Count] = 2048
    """Cap on an answer, in tokens; longer ones are not kept (the paper does not say)."""
    stop_strings: Decides[StopStrings] = ()
    """More texts that end an answer; nothing from where one begins is trained on."""
    batch_size: Speed[Count | None] = None
    """Questions per batch. Default: 32, or 256 with vllm, divided by the samples of each. Halved on out-of-memory."""
    temperature: DecidesIfSet[NotNegative | None] = None
    """Temperature of the samples. Default: 1.5 for self-training, 0.6 for sept, 1.1 for u-opsd, 1 for the others; the
    first two kinds are greedy."""
    top_p: DecidesIfSet[PositiveShare | None] = None
    """Nucleus sampling. Default: 0.8 for self-training, 0.95 for u-opsd, 1 for the others."""
    samples_per_problem: DecidesIfSet[Count | None] = None
    """Samples of each problem that vote (majority-vote, u-opsd: 8)."""
    consensus: DecidesIfSet[Share | None] = None
    """Smallest share of the samples that must have the most frequent answer; the problem is left out below it.
    Default: 0 for majority-vote, 0.5 for u-opsd."""
    label_tokens: DecidesIfSet[Count | None] = None
    """Most probable tokens in each label of u-opsd, renormalised; 50 to 200 do as well as all in its paper (100)."""
    hint: DecidesIfSet[Annotated[str, Field(pattern=r"(?s)\{solution\}")] | None] = None
    """What u-opsd asks the model that gives the labels; {question} and {solution} stand for the problem's."""
    answer_kind: DecidesIfSet[AnswerKind | None] = None
    """How answers are compared: number, expression, choice or text. Default: number for arithmetic and gsm8k, else
    expression."""
    judge: Decides[JudgeName] = "math-verify"
    """Judge that decides whether an answer is right, and finds the answers that vote."""
    grading_workers: Speed[Count | None] = None
    """Judge processes. Default: one per processor core."""
    out: Place[Path]
    """Run folder; the labels go to its subfolder sample, like those of `lightr sample`."""
    seed: Decides[int] = 42
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
                raise ValueError(f"{name} = {getattr(self, name)} means nothing for {self.kind}; leave it away")
        if usual and self.solution_field is not None:
            raise ValueError(
                f"solution_field = {self.solution_field}, but {self.kind} reads no solutions; leave it away"
            )
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
    seed: Decides[int] = 42
    """Seed of sampling with a temperature."""

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
    """Repository on the Hub, OWNER/NAME. It is made if there is none, private."""
    save: Place[Path | None] = None
    """Write what would be sent into this new folder instead, in a subfolder for each kind; the Hub is not needed."""


class InspectConfig(SampleSettings, PromptSettings, AdapterSettings, PairConfig):
    """`lightr inspect`."""

    question: Decides[str]
    """Question to ask."""
    html: Place[Path | None] = None
    """File for the token browser, instead of a heat map in the terminal."""
    seed: Decides[int] = 42
    """Seed of sampling with a temperature."""


class RunConfig(
    PromptSettings, HintSettings, ProblemSettings, EngineSettings, WorkerSettings, TrackerSettings, PairConfig
):
    """`lightr run`, and the form of a recipe."""

    out: Place[Path] = Path("runs/default")
    """Run folder."""
    seed: Decides[int] = 42
    """Seed of everything random."""
    sample: SampleSettings = SampleSettings()
    select: Annotated[SelectSettings, IF_SET] = SelectSettings()
    """Other labels or steps than the paper's: a stage of its own, between sample and finetune."""
    finetune: FinetuneSettings = FinetuneSettings()
    merge: MergeSettings = MergeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    push_to: Place[HubName | None] = None
    """Send the result to this repository on the Hub, OWNER/NAME, when it is finished; see `lightr push`."""
    push: Place[PushSettings] = PushSettings()
    study: StudySettings = StudySettings()

    @model_validator(mode="before")
    @classmethod
    def _trackers_of_all_stages(cls, values: Any) -> Any:
        """Take `finetune.report_to`, which recipes before 0.4 have, as `report_to`."""
        section = values.get("finetune") if isinstance(values, dict) else None
        if not isinstance(section, dict) or "report_to" not in section:
            return values
        rest = {name: value for name, value in section.items() if name != "report_to"}
        return {"report_to": section["report_to"], **values, "finetune": rest}

    @property
    def selects(self) -> bool:
        """Whether steps and labels are selected from the samples."""
        return self.select != SelectSettings()

    @property
    def rule(self) -> SelectSettings:
        """The rule and labels of this run; β and α of `sample` stand for a cut of the divergence and an α not given."""
        rule, sample = self.select, self.sample
        alpha = sample.plausibility_alpha if rule.plausibility_alpha is None else rule.plausibility_alpha
        changes: dict[str, Any] = {"plausibility_alpha": alpha}
        if rule.selection == "divergence" and {rule.threshold, rule.keep_share, rule.keep_labels} == {None}:
            has_beta = sample.divergence_beta is not None
            changes |= {"threshold": sample.divergence_beta} if has_beta else {"selection": "none"}
        return rule.model_copy(update=changes)

    def for_sample(self) -> SampleConfig:
        """Stage 1 of this run; a selection has all steps and tokens that its rule may keep."""
        return SampleConfig(**self._shared_with(SampleConfig), **self.sample.model_dump() | self._sampled_to_select())

    def _sampled_to_select(self) -> dict[str, Any]:
        if not self.selects:
            return {}
        rule = self.rule
        # A share is one of all steps.
        beta = rule.threshold if rule.selection == "divergence" and rule.keep_share is None else None
        alpha = min(self.sample.plausibility_alpha, rule.plausibility_alpha or 0.0)
        return {"divergence_beta": beta, "plausibility_alpha": alpha}

    def for_select(self) -> SelectConfig:
        """The selection of this run, from the samples in the run folder."""
        return SelectConfig(**self.rule.model_dump(), source=self.out, out=self.out, seed=self.seed)

    def for_finetune(self) -> FinetuneConfig:
        """Stage 2 of this run: the expert, on the samples or the selection in the run folder."""
        return self._for_model(FinetuneConfig, self.finetune, data=self.out / SELECTION if self.selects else self.out)

    def for_merge(self) -> MergeConfig:
        """Stage 3 of this run."""
        return self._for_model(MergeConfig, self.merge, adapter=self.out, out=self.out / "merged")

    def for_evaluate(self, model: str, revision: str | None, name: str) -> EvaluateConfig:
        """Stage 4 of this run, for one model; `name` is its folder below `evaluate/`."""
        out = self.out / "evaluate" / name
        return self._for_model(EvaluateConfig, self.evaluate, model=model, model_revision=revision, out=out)

    def for_push(self) -> "PushConfig":
        """The push of this run; `push_to` is set."""
        return PushConfig(**self.push.model_dump(), run=self.out, to=self.push_to)

    def for_baseline(self, kind: BaselineKind, **changes: Any) -> BaselineConfig:
        """A baseline on the data of this run: its answers may be as long as in an evaluation."""
        asked = {"kind": kind, "max_questions": self.study.sft_questions}
        answered = {"max_new_tokens": self.evaluate.max_answer_tokens, "batch_size": self.evaluate.answer_batch_size}
        judged = {"judge": self.evaluate.judge, "grading_workers": self.evaluate.grading_workers}
        return self._for_model(BaselineConfig, Config(), **asked | answered | judged | changes)

    def _for_model(self, stage: type[C], section: Config, **changes: Any) -> C:
        expert = {"model": self.expert, "model_revision": self.expert_revision}
        return stage(**expert | self._shared_with(stage) | section.model_dump() | changes)

    def _shared_with(self, stage: type[Config]) -> dict[str, Any]:
        return {name: getattr(self, name) for name in RunConfig.model_fields if name in stage.model_fields}


class RoundsSettings(Config):
    """Rounds of sampling and fine-tuning; the settings of a round are those of `sample` and `finetune`."""

    limit: Decides[Count] = 4
    """Most rounds. The stop rule mostly ends them earlier."""
    labeller: Decides[Labeller] = "current"
    """Whose distribution the labels of a round are made of. current: the expert as it is in that round, as samples are
    refreshed in SePT (arXiv 2510.18814). base: the expert without its adapter, on what the current one writes."""
    amateur: Decides[Literal["fixed", "previous"]] = "fixed"
    """Amateur of a round. fixed: --amateur. previous: the expert before the last round (--amateur in the first)."""
    problems: Decides[Literal["fresh", "same"]] = "fresh"
    """fresh: each round takes the next --sample.max-questions problems. same: all rounds take the same ones."""
    held_back: Decides[Annotated[int, Field(ge=8)]] = 256
    """First problems of the data set, which are never trained on. The alarms are measured on their prompts."""
    answers: Decides[Annotated[int, Field(ge=2)]] = 8
    """Answers to each of these prompts, of which the share of the majority is taken (a signal without labels in TTRL,
    arXiv 2504.16084)."""
    answer_temperature: Decides[Positive] = 0.7
    """Temperature of these answers."""
    evidence: Decides[NotNegative] = 2.0
    """A round is kept if the majority's share rises by more than this many standard errors over the prompts."""
    most_lost: Decides[Share] = 0.1
    """A round is refused if the share of rollouts that end by themselves falls by more than this, or if that of
    repeated 4-grams, or the label mass on format or in scattered labels, rises by more."""


class RoundsConfig(RunConfig):
    """`lightr rounds`."""

    rounds: RoundsSettings = RoundsSettings()

    def folder(self, number: int) -> Path:
        """The run folder of a round; number 0 holds the alarms of the untouched expert."""
        return self.out / f"round-{number}"

    def adapter(self, number: int) -> Path | None:
        """The run folder with the adapter of the expert after this round; None before the first."""
        return self.folder(number) if number else None

    def sample_of(self, number: int) -> SampleConfig:
        """The sampling of a round: the expert after the round before, on problems that are not held back."""
        questions, fresh = self.sample.max_questions, self.rounds.problems == "fresh"
        return self.for_sample().model_copy(
            update={
                "adapter": self.adapter(number - 1),
                "skip_questions": self.rounds.held_back + (number - 1) * (questions or 0) * fresh,
                "labeller": self.rounds.labeller,
                "out": self.folder(number),
                **self._amateur_of(number),
            }
        )

    def _amateur_of(self, number: int) -> dict[str, Any]:
        if self.rounds.amateur == "fixed" or number == 1:
            return {}
        before = self.adapter(number - 2)
        return {"amateur": f"self:checkpoint={before}" if before else "self:base", "amateur_revision": None}

    def select_of(self, number: int) -> SelectConfig:
        """The selection of a round."""
        return self.for_select().model_copy(update={"source": self.folder(number), "out": self.folder(number)})

    def finetune_of(self, number: int) -> FinetuneConfig:
        """The fine-tuning of a round, which continues the adapter of the round before."""
        folder = self.folder(number)
        data = folder / SELECTION if self.selects else folder
        changes = {"data": data, "out": folder, "adapter": self.adapter(number - 1)}
        return self.for_finetune().model_copy(update=changes)

    def merge_of(self, number: int) -> MergeConfig:
        """The merge of the expert with the adapter of a round."""
        return self.for_merge().model_copy(update={"adapter": self.folder(number)})

    def held_back_sample(self, number: int, **changes: Any) -> SampleConfig:
        """Greedy rollouts of the expert after a round on the prompts that are held back, with labels of all steps."""
        return self.for_sample().model_copy(
            update={
                "adapter": self.adapter(number),
                "max_questions": self.rounds.held_back,
                "report_to": (),
                "divergence_beta": None,
                "temperature": 0.0,
                "top_p": 1.0,
                "out": self.folder(number) / "held-back",
                **changes,
            }
        )

    def held_back_select(self, number: int) -> SelectConfig:
        """Labels of the rule's kind at all steps of these rollouts."""
        every_step = {"selection": "none", "threshold": None, "keep_share": None, "keep_labels": None, "weigh_by": None}
        folder = self.folder(number) / "held-back"
        return self.for_select().model_copy(update={**every_step, "source": folder, "out": folder})

    def held_back_answers(self, number: int) -> EvaluateConfig:
        """Several answers to each of these prompts."""
        config = self.for_evaluate(self.expert, self.expert_revision, "")
        return config.model_copy(
            update={
                "adapter": self.adapter(number),
                "report_to": (),
                "samples_per_problem": self.rounds.answers,
                "temperature": self.rounds.answer_temperature,
                "max_answer_tokens": self.sample.max_new_tokens,
                "stop_strings": self.sample.stop_strings,
                "out": self.folder(number) / "held-back",
            }
        )


class AdviseConfig(RunConfig):
    """`lightr advise`: a run, and how much of it is sampled to judge it."""

    # A run needs a folder, advice does not.
    out: Place[Path | None] = None  # type: ignore[assignment]
    """Folder to keep the samples in; the same command continues or reads them. Default: a temporary one."""
    prompts: Input[Count] = 64
    """Problems to sample. All figures come from these."""

    def for_run(self, out: Path) -> RunConfig:
        """The run that is judged, in this folder."""
        return RunConfig(**{name: getattr(self, name) for name in RunConfig.model_fields} | {"out": out})
