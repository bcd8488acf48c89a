"""The settings of a whole run, which are the form of a recipe, and of the commands that repeat or precede it."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from lightreasoner.config.base import IF_SET, Config, Decides, Input, Place
from lightreasoner.config.push import HubName, PushSettings
from lightreasoner.config.sections import (
    SELECTION,
    AdapterSettings,
    BaselineKind,
    Count,
    EngineSettings,
    EvaluateSettings,
    FinetuneSettings,
    HintSettings,
    MergeSettings,
    NotNegative,
    Positive,
    ProblemSettings,
    PromptSettings,
    SampleSettings,
    Seed,
    SelectSettings,
    Share,
    StudySettings,
    TrackerSettings,
    WorkerSettings,
)
from lightreasoner.config.stages import (
    BaselineConfig,
    EvaluateConfig,
    FinetuneConfig,
    Labeller,
    MergeConfig,
    PairConfig,
    PushConfig,
    SampleConfig,
    SelectConfig,
)

C = TypeVar("C", bound=Config)


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
    held_back: Decides[Annotated[int, Field(ge=8)]] = 512
    """First problems of the data set, which are never trained on. The alarms are measured on their prompts."""
    answers: Decides[Annotated[int, Field(ge=2)]] = 8
    """Answers to each of these prompts, of --evaluate.max-answer-tokens at most, of which the share of the majority is
    taken (a signal without labels in TTRL, arXiv 2504.16084)."""
    answer_temperature: Decides[Positive] = 0.7
    """Temperature of these answers."""
    evidence: Decides[NotNegative] = 1.0
    """A round is kept if the majority's share rises by more than this many standard errors over the prompts."""
    counter_evidence: Decides[NotNegative] = 2.0
    """A round is refused if the answers that were the commonest before it become rarer by more than this many standard
    errors over the prompts."""
    most_lost: Decides[Share] = 0.1
    """A round is refused if the share of rollouts that end by themselves falls by more than this, or if that of
    repeated 4-grams, or the label mass on format or in scattered labels, rises by more."""


class RunConfig(
    PromptSettings, HintSettings, ProblemSettings, EngineSettings, WorkerSettings, TrackerSettings, PairConfig
):
    """`lightr run`, and the form of a recipe."""

    out: Place[Path] = Path("runs/default")
    """Run folder."""
    seed: Decides[Seed] = 42
    """Seed of everything random."""
    sample: SampleSettings = SampleSettings.model_construct()
    select: Annotated[SelectSettings, IF_SET] = SelectSettings.model_construct()
    """Other labels or steps than the paper's: a stage of its own, between sample and finetune."""
    finetune: FinetuneSettings = FinetuneSettings.model_construct()
    merge: MergeSettings = MergeSettings.model_construct()
    evaluate: EvaluateSettings = EvaluateSettings.model_construct()
    push_to: Place[HubName | None] = None
    """Send the result to this repository on the Hub, OWNER/NAME, when it is finished; see `lightr push`."""
    push: Place[PushSettings] = PushSettings.model_construct()
    study: StudySettings = StudySettings.model_construct()
    rounds: Annotated[RoundsSettings, IF_SET] = RoundsSettings.model_construct()
    """Of `lightr rounds` and `lightr plan --rounds`; `lightr run` uses nothing of it."""

    @model_validator(mode="before")
    @classmethod
    def _trackers_of_all_stages(cls, values: Any) -> Any:
        """Take `finetune.report_to`, which older recipes have, as `report_to`."""
        section = values.get("finetune") if isinstance(values, dict) else None
        if not isinstance(section, dict) or "report_to" not in section:
            return values
        rest = {name: value for name, value in section.items() if name != "report_to"}
        return {"report_to": section["report_to"], **values, "finetune": rest}

    @model_validator(mode="after")
    def _pushes_somewhere(self) -> Self:
        if self.push_to is None and self.push != PushSettings():
            given = ", ".join(sorted(self.push.model_dump(exclude_defaults=True)))
            raise ValueError(f"push ({given}) is given without push_to, so nothing would be sent. Give both or none")
        return self

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


class RoundsConfig(RunConfig):
    """`lightr rounds`."""

    rounds: RoundsSettings = RoundsSettings.model_construct()  # decides here, where the default does too

    @model_validator(mode="after")
    def _sides_differ_in_every_round(self) -> Self:
        if self.rounds.amateur == "previous" and self.rounds.labeller == "base":
            raise ValueError(
                "rounds.amateur = previous contradicts rounds.labeller = base: in round 2 both sides would be the "
                "expert without its adapter. Give rounds.amateur = fixed, or rounds.labeller = current"
            )
        if self.rounds.amateur == "previous" and self.vocabulary != "strict":
            raise ValueError(
                "rounds.amateur = previous is the expert itself from round 2 on, with its own tokenizer, so "
                f"vocabulary = {self.vocabulary} contradicts it. Give rounds.amateur = fixed, or leave vocabulary out"
            )
        return self

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
                "labeller": self.rounds.labeller if number > 1 else "current",  # in the first there is no adapter
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
        """Several answers to each of these prompts, as long as in an evaluation: rollouts may end before any answer."""
        config = self.for_evaluate(self.expert, self.expert_revision, "")
        return config.model_copy(
            update={
                "adapter": self.adapter(number),
                "report_to": (),
                "samples_per_problem": self.rounds.answers,
                "temperature": self.rounds.answer_temperature,
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


class DoctorConfig(AdapterSettings, RunConfig):
    """`lightr doctor`: a run; or its expert alone, or nothing but the machine."""

    expert: Decides[str | None] = None  # type: ignore[assignment]
    """Model to check: a Hub id, a local folder, a .gguf file, or miniature/NAME. Default: only the machine is
    checked."""
    amateur: Decides[str | None] = None  # type: ignore[assignment]
    """Weaker model to check with it, named like the expert, or what is left of the expert, such as self:layers=4: see
    `lightr run`."""
    dataset: Decides[str] = "arithmetic"
    """Problems for the trial: see `lightr run`."""

    @model_validator(mode="after")
    def _amateur_has_an_expert(self) -> Self:
        if self.amateur and not self.expert:
            raise ValueError(f"amateur = {self.amateur} is compared with an expert; give expert too")
        return self

    def for_trial(self, questions: int, tokens: int) -> SampleConfig:
        """The sampling of the run, on its first questions; nothing is written."""
        config, longest = self.for_sample(), min(tokens, self.sample.max_new_tokens)
        return config.model_copy(update={"max_questions": questions, "max_new_tokens": longest, "report_to": ()})
