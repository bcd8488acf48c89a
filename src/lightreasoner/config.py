"""Every setting once: frozen models whose attribute docstrings are the help texts of the flags.

`RunConfig` is the whole job and the form of a recipe. The configs of the stages (`SampleConfig`, …) hold the same
settings flat, for the commands that run one stage; `RunConfig.for_sample()` and its siblings make them.

Each annotation says what a setting changes: `Decides`, `Input`, `Speed` or `Place`, see `config_base`.
"""

from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import model_validator

from lightreasoner.config_base import Config, Decides, DecidesIfSet, Input, Place, Speed
from lightreasoner.config_sections import (
    SELECTION,
    BaselineKind,
    Count,
    EngineSettings,
    EvaluateSettings,
    FinetuneSettings,
    JoinSettings,
    JudgeName,
    MachineSettings,
    MergeSettings,
    ModelSettings,
    PairSettings,
    ProblemSettings,
    PromptSettings,
    SampleSettings,
    SelectSettings,
    Share,
    StopStrings,
    StudySettings,
    VocabularyRule,
    WorkerSettings,
)

C = TypeVar("C", bound=Config)


class PairConfig(MachineSettings, PairSettings):
    """Two models and where they run."""


class SampleConfig(SampleSettings, PromptSettings, ProblemSettings, EngineSettings, JoinSettings, PairConfig):
    """`lightr sample`."""

    out: Place[Path]
    """Run folder; the samples go to its subfolder sample."""
    seed: Decides[int] = 42
    """Seed of sampling with a temperature, and of generated problems."""


class SelectConfig(SelectSettings):
    """`lightr samples select`."""

    source: Input[Path]
    """Run folder of `lightr sample`; sampled with --divergence-beta none it holds every step."""
    out: Place[Path]
    """Run folder for the selection; it goes to its subfolder sample, or beside the samples to its subfolder select."""
    seed: Decides[int] = 42
    """Seed of the random rule, and of the choice between equal scores."""


class FinetuneConfig(FinetuneSettings, MachineSettings, ModelSettings):
    """`lightr finetune`."""

    data: Input[Path]
    """Run folder of `lightr sample`, or a folder made by `lightr samples import`."""
    out: Place[Path]
    """Run folder; the adapter goes to its subfolder finetune."""
    seed: Decides[int] = 42
    """Seed of the LoRA weights, dropout and the order of labels."""


class BaselineConfig(EngineSettings, JoinSettings, PromptSettings, ProblemSettings, ModelSettings):
    """`lightr baseline`."""

    kind: Decides[BaselineKind]
    """rejection-sft: the model's own greedy answers, where they are right. ground-truth: the written solutions."""
    solution_field: Input[str | None] = None
    """Field with the written solution and its final answer. Default: the first of solution, answer."""
    max_questions: Input[Count | None] = None
    """Use the first N problems in file order. Default: all (paper: all of GSM8K train)."""
    max_new_tokens: Decides[Count] = 2048
    """Cap on an answer, in tokens; longer ones are not kept (the paper does not say)."""
    stop_strings: Decides[StopStrings] = ()
    """More texts that end an answer; nothing from where one begins is trained on."""
    batch_size: Speed[Count | None] = None
    """Questions per batch. Default: 32, or 256 with vllm. Halved on out-of-memory."""
    judge: Decides[JudgeName] = "math-verify"
    """Judge that decides whether an answer is right."""
    grading_workers: Speed[Count | None] = None
    """Judge processes. Default: one per processor core."""
    out: Place[Path]
    """Run folder; the labels go to its subfolder sample, like those of `lightr sample`."""
    seed: Decides[int] = 42
    """Seed of generated problems."""


class MergeConfig(MergeSettings, MachineSettings, ModelSettings):
    """`lightr merge`."""

    adapter: Input[Path]
    """Run folder of `lightr finetune`, or a folder with a PEFT adapter."""
    out: Place[Path]
    """Folder for the merged model; must not exist yet, or hold this very merge."""


class EvaluateConfig(EvaluateSettings, EngineSettings, JoinSettings, PromptSettings, ModelSettings):
    """`lightr evaluate`."""

    adapter: Input[Path | None] = None
    """Run folder of `lightr finetune`, or a folder with a PEFT adapter, to put on the model without merging."""
    contrast_with: Decides[str | None] = None
    """Amateur for contrastive decoding: of the plausible tokens, take the one with the highest log-ratio."""
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
        if self.contrast_with and self.temperature:
            raise ValueError(f"contrast_with takes the best token, so temperature = {self.temperature} means nothing")
        return self


class InspectConfig(SampleSettings, PromptSettings, PairConfig):
    """`lightr inspect`."""

    question: Decides[str]
    """Question to ask."""
    html: Place[Path | None] = None
    """File for the token browser, instead of a heat map in the terminal."""
    seed: Decides[int] = 42
    """Seed of sampling with a temperature."""


class RunConfig(PromptSettings, ProblemSettings, EngineSettings, WorkerSettings, PairConfig):
    """`lightr run`, and the form of a recipe."""

    out: Place[Path] = Path("runs/default")
    """Run folder."""
    seed: Decides[int] = 42
    """Seed of everything random."""
    sample: SampleSettings = SampleSettings()
    select: DecidesIfSet[SelectSettings] = SelectSettings()
    """Other labels or steps than the paper's: a stage of its own, between sample and finetune."""
    finetune: FinetuneSettings = FinetuneSettings()
    merge: MergeSettings = MergeSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    study: StudySettings = StudySettings()

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
