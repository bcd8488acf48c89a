"""The kinds of job of the studies, one class each.

A new kind is one class: its fields, `kind`, `wave`, `_words` and `make`, and `needs` if it reads folders of other jobs.
"""

import json
import math
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Self

import torch

from lightreasoner import config as cfg
from lightreasoner.config.base import DecidesIfSet
from lightreasoner.config.sections import BaselineKind, BenchmarkName, MachineSettings, SelectSettings
from lightreasoner.data.generated import GENERATORS
from lightreasoner.errors import RunError
from lightreasoner.evaluation.alarms import measure
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.evaluation.stopping import decide
from lightreasoner.inference.packing import packs
from lightreasoner.inference.scoring import tokens_per_pass
from lightreasoner.miniature.word_problems import THEMES, word_problems
from lightreasoner.models.adapters import load_adapter
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.rounds import trained
from lightreasoner.samples.baselines import baseline, distinct, solved_problems
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.selecting import select
from lightreasoner.studies.job import Job
from lightreasoner.training.batches import Collator, load_labels
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge
from lightreasoner.training.objective import LabelObjective

POOL_ALPHA = 0.05  # the smallest α of the studies; labels of a larger α are selected from the same samples
HELD_OUT_PROBLEMS = 200
CHECKPOINTS = 10  # of every training, for Figure 8
LOG_EVERY = 10  # steps, for Figure 9; a shorter training has two entries


def from_json(content: dict[str, Any]) -> Job:
    """The job that `Job.to_json` wrote."""
    kind = next(kind for kind in Job.__subclasses__() if kind.kind == content["kind"])
    return kind.model_validate(content["job"])


# --- Inputs ---


class Mixture(Job):
    """A model whose weights lie between those of two others of one shape."""

    kind = "mixtures"
    wave = 0

    start: str
    end: str
    share: float
    """0 is `start`, 1 is `end`."""

    def _words(self) -> list[str]:
        return [self.start, self.end, f"{self.share:g}"]

    def make(self) -> dict[str, Any]:
        """Mix the weights."""
        sources = [find_model(name) for name in (self.start, self.end)]
        start, end = (load_model(source, MachineSettings(dtype="float32", device="cpu")) for source in sources)
        weights = dict(end.named_parameters())
        for name, parameter in start.named_parameters():
            parameter.data.lerp_(weights[name].data, self.share)
        start.save_pretrained(self.folder)
        load_tokenizer(sources[0]).save_pretrained(self.folder)
        return {}


class Themes(Job):
    """Generated problems of some kinds only."""

    kind = "themes"
    wave = 0

    themes: tuple[str, ...]
    count: int
    seed: int

    def _words(self) -> list[str]:
        return [*self.themes, f"seed{self.seed}"]

    @property
    def file(self) -> Path:
        """The problems."""
        return self.folder / "problems.jsonl"

    def make(self) -> dict[str, Any]:
        """Write the problems, each once."""
        assert set(self.themes) <= set(THEMES)
        chosen = (problem.question for problem in word_problems("train", self.seed) if problem.theme in self.themes)
        questions: dict[str, None] = {}
        while len(questions) < self.count:
            questions.setdefault(next(chosen))
        lines = (json.dumps({"question": question}) + "\n" for question in questions)
        self.file.write_text("".join(lines), encoding="utf-8")
        return {}


class HeldOut(Job):
    """Labels of written solutions to problems that no sample of a recipe contains."""

    kind = "held-out"
    wave = 0

    config: cfg.BaselineConfig
    skip: int
    """Problems at the beginning of the data set that may have been sampled."""

    @classmethod
    def of(cls, root: Path, recipe: cfg.RunConfig) -> Self:
        """Problems after those that the recipe samples; generated ones come from another stream."""
        generated = recipe.dataset in GENERATORS
        seed = recipe.seed + 10_000 if generated else 0
        config = recipe.for_baseline("ground-truth", seed=seed, dtype="float32", max_questions=None)
        return cls(root=root, config=config, skip=0 if generated else recipe.sample.max_questions or 0)

    def _words(self) -> list[str]:
        return [self.config.dataset, self.config.model]

    def make(self) -> dict[str, Any]:
        """Write the problems and the labels of their solutions."""
        problems = distinct(solved_problems(self.config), None)
        chosen = islice(problems, self.skip, self.skip + HELD_OUT_PROBLEMS)
        rows = [{"question": item.problem.question, "solution": item.solution} for item in chosen]
        if not rows:
            raise RunError(
                f"{self.config.dataset} has no problems after the first {self.skip}, which are sampled, so none can be "
                "held out. Sample fewer with --max-questions"
            )
        file = self.folder / "problems.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        changes = {"out": self.folder, "dataset": str(file), "data_dir": None}
        return {"sample": baseline(self.config.model_copy(update=changes))}


# --- Samples and evaluations of models as they are ---


class Samples(Job):
    """Samples of a recipe with every step in them; each selection rule chooses from these."""

    kind = "samples"
    wave = 1

    config: cfg.SampleConfig

    @classmethod
    def of(cls, root: Path, recipe: cfg.RunConfig) -> Self:
        """The samples that all selections of a recipe share.

        If α is 0 the recipe's β stays: every step over the whole vocabulary would need too much space.
        """
        config = recipe.for_sample()
        alpha = config.plausibility_alpha
        changes = {"divergence_beta": None, "plausibility_alpha": min(POOL_ALPHA, alpha)} if alpha > 0 else {}
        config = config.model_copy(update={**changes, "seed": _data_seed(recipe)})
        return cls(root=root, config=config)

    def _words(self) -> list[str]:
        return [self.config.expert, self.config.amateur, f"seed{self.config.seed}"]

    def make(self) -> dict[str, Any]:
        """Sample."""
        return {"sample": self.timed("sample", sample, self.config.model_copy(update={"out": self.folder}))}


class Baseline(Job):
    """Training data of a baseline, for the models and problems of a recipe."""

    kind = "baselines"
    wave = 1

    config: cfg.BaselineConfig

    @classmethod
    def of(cls, root: Path, recipe: cfg.RunConfig, kind: BaselineKind) -> Self:
        """The data of a recipe; its answers may be as long as in an evaluation."""
        config = recipe.for_baseline(kind, seed=recipe.seed, grading_workers=1)
        if not config.temperature:
            config = config.model_copy(update={"seed": _data_seed(recipe)})
        return cls(root=root, config=config)

    def _words(self) -> list[str]:
        return [self.config.kind, self.config.model, f"seed{self.config.seed}"]

    def make(self) -> dict[str, Any]:
        """Make the labels."""
        return {"sample": self.timed("sample", baseline, self.config.model_copy(update={"out": self.folder}))}


class Evaluation(Job):
    """Accuracy of a model as it is."""

    kind = "evaluations"
    wave = 1

    config: cfg.EvaluateConfig

    @classmethod
    def of(cls, root: Path, recipe: cfg.RunConfig, model: str, **contrast: Any) -> Self:
        """A model under the evaluation settings of a recipe, with settings of contrastive decoding if given."""
        revisions = {recipe.amateur: recipe.amateur_revision, recipe.expert: recipe.expert_revision}
        config = recipe.for_evaluate(model, revisions.get(model), "base")
        return cls(root=root, config=config.model_copy(update=contrast))

    def _words(self) -> list[str]:
        return [self.config.model, "contrast" if self.config.contrast_with else ""]

    def make(self) -> dict[str, Any]:
        """Evaluate."""
        return {"evaluate": _evaluate(self, self.config)}


class TunedTemperature(Job):
    """Accuracy of a model as it is, at the temperature that is best on problems held out from the benchmarks.

    The choice uses their gold answers; the lower of two equally good temperatures wins, and 0 is greedy.
    """

    kind = "temperatures"
    wave = 1

    config: cfg.EvaluateConfig
    held_out: HeldOut
    temperatures: tuple[float, ...]

    @classmethod
    def of(cls, root: Path, recipe: cfg.RunConfig, temperatures: tuple[float, ...]) -> Self:
        """The expert of a recipe."""
        config = recipe.for_evaluate(recipe.expert, recipe.expert_revision, "base")
        return cls(root=root, config=config, held_out=HeldOut.of(root, recipe), temperatures=temperatures)

    def _words(self) -> list[str]:
        return [self.config.model, f"seed{self.config.seed}"]

    def make(self) -> dict[str, Any]:
        """Choose on the held-out problems, then evaluate."""
        accuracies = {f"{temperature:g}": self._held_out(temperature) for temperature in sorted(self.temperatures)}
        best = float(max(accuracies, key=lambda name: accuracies[name]))  # the first of the best
        chosen = self.config.model_copy(update={"temperature": best})
        return {"choice": {"temperature": best, "accuracies": accuracies}, "evaluate": _evaluate(self, chosen)}

    def _held_out(self, temperature: float) -> float:
        """Accuracy on the held-out problems, 0 … 1."""
        file = self.held_out.folder / "problems.jsonl"
        changes = {"benchmarks": (str(file),), "prompts": "chat", "temperature": temperature, "data_dir": None}
        config = self.config.model_copy(update={**changes, "out": self.folder / "choice" / f"{temperature:g}"})
        (found,) = self.timed("choice", evaluate, config.model_copy(update={"grading_workers": 1})).values()
        return float(found["accuracy"])


# --- Trainings, and jobs that read them ---


class Training(Job):
    """An expert that is trained on the labels of one rule or one baseline, and evaluated."""

    kind = "trainings"
    wave = 2

    recipe: cfg.RunConfig
    """Models, problems, seed, and the settings of every stage; `out` is not used."""
    select: SelectSettings | None = None
    """The rule and the labels."""
    baseline: BaselineKind | None = None
    """The baseline, instead of a rule."""
    equal_labels: DecidesIfSet[bool] = False
    """Train a baseline for the steps and labels of the recipe, like the method, in the place of its own epoch."""

    def _words(self) -> list[str]:
        rule = f"{self.select.selection}-{self.select.contrast}" if self.select else self.baseline or ""
        return [self.recipe.expert, rule, f"seed{self.recipe.seed}"]

    @property
    def data(self) -> Samples | Baseline:
        """The job that makes the labels."""
        if self.baseline:
            return Baseline.of(self.root, self.recipe, self.baseline)
        return Samples.of(self.root, self.recipe)

    def needs(self) -> list[Job]:
        """The labels."""
        return [self.data]

    def make(self) -> dict[str, Any]:
        """Select labels unless a baseline brings its own, fine-tune, merge, and evaluate."""
        results = {"sample": self.data.finished["results"]["sample"]}
        recipe, data = self.recipe.model_copy(update={"out": self.folder}), self.data.folder
        if self.select:
            rule = cfg.SelectConfig(**self.select.model_dump(), source=data, out=self.folder, seed=recipe.seed)
            results["select"] = self.timed("select", select, rule)
            data = self.folder
        # A baseline trains one epoch of its own number of answers; the method trains the recipe's number of steps.
        epoch = results["sample"]["finetune"] if self.baseline and not self.equal_labels else {}
        settings = {**recipe.for_finetune().model_dump(), "data": data, **epoch}
        # Studies of different recipes may share this training, so it saves and logs what any of them reads.
        steps = settings["steps"]
        settings |= {"save_steps": checkpoint_steps(steps)[0], "keep_checkpoints": steps}
        settings["logging_steps"] = max(1, min(LOG_EVERY, steps // 2))
        results["finetune"] = self.timed("finetune", finetune, cfg.FinetuneConfig.model_validate(settings))
        results["merge"] = self.timed("merge", merge, recipe.for_merge())
        results["evaluate"] = _evaluate(self, recipe.for_evaluate(str(recipe.for_merge().out), None, "merged"))
        return results


class Rounds(Job):
    """All rounds up to the limit, whatever the stop rule says, with the accuracy of each."""

    kind = "rounds"
    wave = 2

    config: cfg.RoundsConfig
    untouched: Evaluation
    """The expert before the first round, which is the same for every seed."""

    @classmethod
    def of(cls, root: Path, recipe: cfg.RunConfig, settings: cfg.RoundsSettings) -> Self:
        """Rounds under the settings of a recipe."""
        untouched = Evaluation.of(root, recipe.model_copy(update={"seed": 0}), recipe.expert)
        return cls(
            root=root, config=cfg.RoundsConfig(**{**recipe.model_dump(), "rounds": settings}), untouched=untouched
        )

    def _words(self) -> list[str]:
        return [self.config.expert, f"seed{self.config.seed}"]

    def make(self) -> dict[str, Any]:
        """Each round and its accuracy; the alarms until the rule ends. A round that cannot be made is the last one."""
        config = self.config.model_copy(update={"out": self.folder})
        series: list[dict[str, Any]] = [self.timed("rounds", measure, config, 0)]
        accuracies = [_mean_accuracy(self.untouched.finished["results"]["evaluate"])]
        for number in range(1, config.rounds.limit + 1):
            failure = self.timed("rounds", trained, config, number)
            if not decide(series, config.rounds).ends:
                series.append(failure or self.timed("rounds", measure, config, number))
            if failure:
                break
            accuracies.append(self._accuracy(config, number))
        return {"rounds": {"series": series, "accuracies": accuracies}}

    def _accuracy(self, config: cfg.RoundsConfig, number: int) -> float:
        """Accuracy of the expert after a round."""
        of_round = config.for_evaluate(config.expert, config.expert_revision, f"round-{number}")
        changes = {"adapter": config.adapter(number), "grading_workers": 1}
        return _mean_accuracy(self.timed("evaluate", evaluate, of_round.model_copy(update=changes)))


class Transfer(Job):
    """A trained expert, evaluated on benchmarks other than those of its recipe."""

    kind = "transfers"
    wave = 3

    training: Training
    benchmarks: tuple[BenchmarkName, ...]

    def _words(self) -> list[str]:
        return self.training._words()

    def make(self) -> dict[str, Any]:
        """Evaluate the merged model of the training."""
        config = self.training.recipe.for_evaluate(str(self.training.folder / "merged"), None, "merged")
        return {"evaluate": _evaluate(self, config.model_copy(update={"benchmarks": self.benchmarks}))}


class Losses(Job):
    """Cross-entropy of held-out solutions at every checkpoint of a training."""

    kind = "losses"
    wave = 3

    training: Training

    def _words(self) -> list[str]:
        return self.training._words()

    @property
    def solutions(self) -> HeldOut:
        """The held-out solutions."""
        return HeldOut.of(self.root, self.training.recipe)

    def needs(self) -> list[Job]:
        """The training, and the held-out solutions."""
        return [self.training, self.solutions]

    def make(self) -> dict[str, Any]:
        """Compute the loss of the base and of every checkpoint."""
        return {"losses": self.timed("losses", self._curve)}

    def _curve(self) -> list[dict[str, Any]]:
        """Mean cross-entropy (nats a token) of the base (step 0) and of every checkpoint, ascending."""
        config = self.training.recipe.for_finetune()
        source = find_model(config.model, config.model_revision)
        _, labels = load_labels(self.solutions.folder, config.max_length)
        tokenizer, model = load_tokenizer(source, config), load_model(source, config)
        objective = LabelObjective(model, vocabulary_of(tokenizer, logit_width(model)), labels_per_step=len(labels))
        texts = [[int(i) for i in (labels.text_of == text).nonzero()[0]] for text in range(len(labels.texts))]
        batches = Collator(labels, packs(model), tokens_per_pass(model))([texts])

        @torch.inference_mode()
        def loss(forward: Any) -> float:
            losses = [objective(forward, batch.to(model.device)) for batch in batches]
            return objective.settle(torch.stack(losses).sum())

        curve = [{"step": 0, "loss": loss(model)}]
        for step in checkpoint_steps(config.steps):
            folder = self.training.folder / "finetune" / f"checkpoint-{step}"
            if not folder.is_dir():
                raise RunError(
                    f"{folder} is missing, so the loss at step {step} cannot be computed: an earlier version of this "
                    f"package made the training. Remove {self.training.folder} and run the study again"
                )
            adapted = load_adapter(model, folder, config.model)
            curve.append({"step": step, "loss": loss(adapted)})
            model = adapted.unload()
        return curve


def checkpoint_steps(steps: int) -> list[int]:
    """The steps of a training of so many after which it saves what studies read; an interruption saves another."""
    every = math.ceil(steps / CHECKPOINTS)
    return [*range(every, steps, every), steps]


def _mean_accuracy(found: Mapping[str, Any]) -> float:
    """Mean over the benchmarks of an evaluation, 0 … 1."""
    return fmean(float(one["accuracy"]) for one in found.values())


def _evaluate(job: Job, config: cfg.EvaluateConfig) -> dict[str, Any]:
    changes = {"out": job.folder / "evaluate", "grading_workers": 1}
    return job.timed("evaluate", evaluate, config.model_copy(update=changes))


def _data_seed(recipe: cfg.RunConfig) -> int:
    """The seed of samples: greedy rollouts of given problems are equal under every seed, so all seeds share them."""
    is_random = recipe.dataset in GENERATORS or recipe.sample.temperature > 0
    return recipe.seed if is_random else 0
