"""What grids consist of: jobs with a folder of their own, named by what decides their content.

Two studies that need the same job find it in the same folder, and a folder that is finished is never made again.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from lightreasoner.config import (
    BaselineConfig,
    BaselineKind,
    BenchmarkName,
    EvaluateConfig,
    FinetuneConfig,
    MergeConfig,
    RunConfig,
    SampleConfig,
    SelectConfig,
    SelectSettings,
)
from lightreasoner.config_base import Config

POOL_ALPHA = 0.05  # the smallest α of the studies; larger ones are taken from the same samples
HELD_OUT_PROBLEMS = 200


class Mixture(Config):
    """A model whose weights lie between those of two others of one shape."""

    start: str
    end: str
    share: float
    """0 is `start`, 1 is `end`."""


class HeldOut(Config):
    """Labels of written solutions to problems that no sample of a recipe holds."""

    model: str
    model_revision: str | None
    trust_remote_code: bool
    chat_template: Path | None
    dataset: str
    data_dir: Path | None
    question_field: str | None
    cue: str
    skip: int
    """Problems at the beginning of the data set that may have been sampled."""
    seed: int


class Themes(Config):
    """Generated problems of some kinds only."""

    themes: tuple[str, ...]
    count: int
    seed: int


class Train(Config):
    """One expert, trained in one way with one seed, and asked."""

    recipe: RunConfig
    """Models, problems, and the settings of every stage; its seed and nothing of its `out`."""
    select: SelectSettings | None = None
    """The rule and the labels; without, a rival's data."""
    baseline: BaselineKind | None = None


class Losses(Config):
    """Cross-entropy of held-out solutions at every checkpoint of a training."""

    train: Train


class Elsewhere(Config):
    """A trained expert, asked on benchmarks other than those of its recipe."""

    train: Train
    benchmarks: tuple[BenchmarkName, ...]


Subject = SampleConfig | BaselineConfig | EvaluateConfig | Mixture | HeldOut | Themes | Train | Losses | Elsewhere
# Folder of each kind of job, and its wave: jobs need those of earlier waves only.
KINDS: dict[type[Config], tuple[str, int]] = {
    Mixture: ("mixtures", 0),
    HeldOut: ("held-out", 0),
    Themes: ("themes", 0),
    SampleConfig: ("samples", 1),
    BaselineConfig: ("baselines", 1),
    EvaluateConfig: ("evaluations", 1),
    Train: ("trainings", 2),
    Losses: ("losses", 3),
    Elsewhere: ("elsewhere", 3),
}
# What changes speed, place or memory, never the result.
_NOT_IN_KEY = {"out", "device", "batch_size", "answer_batch_size", "grading_workers", "tokens_per_micro_batch"}


@dataclass(frozen=True)
class Job:
    """Something to be made in a folder of its own below the study's.

    Attributes:
        root: folder of all studies.
        subject: what decides its content.
    """

    root: Path
    subject: Subject

    @property
    def kind(self) -> str:
        """Name of the folder for jobs like this."""
        return KINDS[type(self.subject)][0]

    @property
    def wave(self) -> int:
        """Jobs of earlier waves come first."""
        return KINDS[type(self.subject)][1]

    @property
    def folder(self) -> Path:
        """Where it is made: a word for people and a hash of the content."""
        content = _without(self.subject.model_dump(mode="json"), str(self.root))
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return self.root / self.kind / f"{_word(self.subject)}-{digest[:10]}"

    @property
    def done(self) -> dict[str, Any] | None:
        """Results and times of its stages; None while it is not finished."""
        path = self.folder / "done.json"
        return json.loads(path.read_text()) if path.exists() else None

    def to_json(self) -> str:
        """The job as one line, for another process."""
        subject = self.subject.model_dump(mode="json")
        return json.dumps({"root": str(self.root), "kind": self.kind, "subject": subject})

    @classmethod
    def from_json(cls, line: str) -> "Job":
        """The job that `to_json` wrote."""
        content = json.loads(line)
        kind = next(kind for kind, (folder, _) in KINDS.items() if folder == content["kind"])
        return cls(Path(content["root"]), cast(Subject, kind.model_validate(content["subject"])))

    def of(self, subject: Subject) -> "Job":
        """Another job of the same studies."""
        return replace(self, subject=subject)

    def needs(self) -> list["Job"]:
        """The jobs whose folders this one reads."""
        subject = self.subject
        if isinstance(subject, Train):
            return [self.of(self.data(subject))]
        if isinstance(subject, Elsewhere):
            return [self.of(subject.train)]
        if isinstance(subject, Losses):
            return [self.of(subject.train), self.of(held_out(subject.train.recipe))]
        return []

    def data(self, train: Train) -> SampleConfig | BaselineConfig:
        """Where a training has its labels from."""
        return rival(train.recipe, train.baseline) if train.baseline else pool(train.recipe)


def pool(recipe: RunConfig) -> SampleConfig:
    """Samples with every step in them, from which all selections of a recipe are made.

    Only where α is 0 they are as the recipe says: every step with the whole vocabulary would be too much.
    """
    alpha = recipe.sample.plausibility_alpha
    changes = {"divergence_beta": None, "plausibility_alpha": min(POOL_ALPHA, alpha)} if alpha > 0 else {}
    return recipe.for_sample().model_copy(update={**changes, "seed": _data_seed(recipe)})


def rival(recipe: RunConfig, kind: BaselineKind) -> BaselineConfig:
    """Training data of a rival with the models and problems of a recipe, answers as long as in an evaluation."""
    shared = {name: getattr(recipe, name) for name in BaselineConfig.model_fields if name in RunConfig.model_fields}
    return BaselineConfig(
        **shared,
        kind=kind,
        model=recipe.expert,
        model_revision=recipe.expert_revision,
        max_questions=recipe.study.sft_questions,
        max_new_tokens=recipe.evaluate.max_answer_tokens,
        batch_size=recipe.evaluate.answer_batch_size,
        grading_workers=1,
    ).model_copy(update={"seed": _data_seed(recipe)})


def _data_seed(recipe: RunConfig) -> int:
    """Greedy rollouts of given problems are the same under every seed, and made once for all."""
    drawn = recipe.dataset == "arithmetic" or recipe.sample.temperature > 0
    return recipe.seed if drawn else 0


def held_out(recipe: RunConfig) -> HeldOut:
    """Problems after those that the recipe samples; generated ones are from another stream."""
    generated = recipe.dataset == "arithmetic"
    shared = set(HeldOut.model_fields) & set(RunConfig.model_fields) - {"seed"}
    return HeldOut(
        model=recipe.expert,
        model_revision=recipe.expert_revision,
        **{name: getattr(recipe, name) for name in shared},
        skip=0 if generated else recipe.sample.max_questions or 0,
        seed=recipe.seed + 10_000 if generated else 0,
    )


def base_evaluation(recipe: RunConfig, model: str, **contrast: Any) -> EvaluateConfig:
    """A model as it is, under the evaluation of a recipe."""
    revisions = {recipe.amateur: recipe.amateur_revision, recipe.expert: recipe.expert_revision}
    config = recipe.for_evaluate(model, revisions.get(model), "base")
    return config.model_copy(update={"out": Path(), "grading_workers": 1, **contrast})


def stages(job: Job, train: Train, finetune: dict[str, Any]) -> dict[str, Config]:
    """The stages of a training in order, each with its config.

    Args:
        job: the training's job.
        train: its subject.
        finetune: settings that its data bring along, such as those of one epoch of SFT.
    """
    recipe, folder = train.recipe.model_copy(update={"out": job.folder}), job.folder
    data = job.of(job.data(train)).folder
    configs: dict[str, Config] = {}
    if train.select is not None:
        configs["select"] = SelectConfig(**train.select.model_dump(), source=data, out=folder, seed=recipe.seed)
        data = folder
    settings: FinetuneConfig = recipe.for_finetune()
    configs["finetune"] = FinetuneConfig.model_validate({**settings.model_dump(), "data": data, **finetune})
    merge: MergeConfig = recipe.for_merge()
    configs["merge"] = merge
    configs["evaluate"] = evaluation_of(merge.out, train, folder)
    return configs


def evaluation_of(model: Path, train: Train, folder: Path) -> EvaluateConfig:
    """The evaluation of a training's merged model into a job's folder."""
    config = train.recipe.for_evaluate(str(model), None, "merged")
    return config.model_copy(update={"out": folder / "evaluate", "grading_workers": 1})


def _without(content: Any, root: str) -> Any:
    """The content without what says nothing, and with paths below the root in a form that survives a move."""
    if isinstance(content, dict):
        return {name: _without(value, root) for name, value in content.items() if name not in _NOT_IN_KEY}
    if isinstance(content, str):
        return content.replace(root, ".")
    return [_without(value, root) for value in content] if isinstance(content, list) else content


def _word(subject: Subject) -> str:
    """A few words about a job for whoever looks at its folder."""
    if isinstance(subject, Losses | Elsewhere):
        return _word(subject.train)
    if isinstance(subject, Train):
        rule = f"{subject.select.selection}-{subject.select.contrast}" if subject.select else subject.baseline
        words = [subject.recipe.expert, rule or "", f"seed{subject.recipe.seed}"]
    elif isinstance(subject, SampleConfig):
        words = [subject.expert, subject.amateur, f"seed{subject.seed}"]
    elif isinstance(subject, BaselineConfig):
        words = [subject.kind, subject.model, f"seed{subject.seed}"]
    elif isinstance(subject, EvaluateConfig):
        words = [subject.model, "contrast" if subject.contrast_with else ""]
    elif isinstance(subject, Mixture):
        words = [subject.start, subject.end, f"{subject.share:g}"]
    elif isinstance(subject, Themes):
        words = [*subject.themes, f"seed{subject.seed}"]
    else:
        words = [subject.dataset, subject.model]
    text = "-".join(word.rpartition("/")[2] for word in words if word)
    return "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in text)[:60]
