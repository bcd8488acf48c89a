"""The grids of the studies: settings by name, each with one job a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightreasoner.config import RoundsSettings, RunConfig
from lightreasoner.config.sections import BaselineKind, SelectSettings, StudySettings
from lightreasoner.miniature import is_bundled
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies.job import Job
from lightreasoner.studies.jobs import (
    Evaluation,
    Losses,
    Mixture,
    Samples,
    Themes,
    Training,
    Transfer,
    TunedTemperature,
)

Plan = dict[str, Sequence[Job]]  # jobs by setting, one a seed
FRUGAL = "LightReasoner, half the problems, an eighth of the steps"
EXTRA = "extra"  # setting without a report: inputs of the others

CONTRAST_ALPHAS = (0.1, 0.2)  # of contrastive decoding
SHARES = (0.24,)  # share of all steps that the compared rules keep: half of the share that the paper's rule keeps here
ABLATIONS = ("full LightReasoner", "no selection", "no contrast (own token)", "neither (own token)")  # the paper's
RULES = ("divergence", "label_surprise", "top1_flip", "expert_entropy", "random")
ALPHAS = (0.05, 0.1, 0.4, 0.8)
METHOD = "LightReasoner"
TUNED = "base, tuned temperature"
TEMPERATURES = (0.0, 0.3, 0.6, 1.0)  # of the base; 0 is greedy
LABEL_FREE_ARMS: Mapping[str, BaselineKind] = {
    "self-training (SSD)": "self-training",
    "SePT, one round": "sept",
    "majority vote": "majority-vote",
    "U-OPSD, offline": "u-opsd",
    "entropy minimisation": "entropy-minimisation",
}
# Amateurs between the bundled ones: start, end, share of the way. Closer to the expert, hardly any step exceeds β.
MIXTURES = (
    ("miniature/base", "miniature/expert", 0.85),
    ("miniature/base", "miniature/expert", 0.9),
    ("miniature/expert", "miniature/instruct", 0.5),
)
QUICK: Mapping[str, Mapping[str, int]] = {
    "sample": {"max_questions": 160},
    "finetune": {"steps": 40},
    "evaluate": {"max_items": 160},
    "study": {"sft_questions": 320},
}


@dataclass(frozen=True)
class Scope:
    """The subject and the size of the studies."""

    recipes: tuple[RunConfig, ...]
    """The first one is the subject of most studies; the others are further rows of Table 1."""
    root: Path
    seeds: int | None = None
    """Of every setting; None takes each study's own number."""
    quick: bool = False

    @classmethod
    def of(cls, recipes: list[RunConfig], root: Path, seeds: int | None, quick: bool) -> "Scope":
        """The scope with these recipes, smaller if quick."""
        return cls(tuple(_smaller(recipe) if quick else recipe for recipe in recipes), root, seeds, quick)

    @property
    def main(self) -> RunConfig:
        """The first recipe."""
        return self.recipes[0]

    def base(self, recipe: RunConfig, model: str | None = None, **contrast: Any) -> list[Evaluation]:
        """A model as it is, by default the recipe's expert; with settings of contrastive decoding if given."""
        return [Evaluation.of(self.root, recipe, model or recipe.expert, **contrast)]

    def method(
        self, recipe: RunConfig, seeds: int | range, rule: Mapping[str, Any] | None = None, **changes: Mapping[str, Any]
    ) -> list[Training]:
        """The method, with changes of its rule and labels, or of the settings of a stage by section."""
        recipe = changed(recipe, changes)
        select = SelectSettings.checked({**recipe.rule.model_dump(), **(rule or {})})
        chosen = seeds if isinstance(seeds, range) else range(seeds)
        return [Training(root=self.root, recipe=of_seed(recipe, seed), select=select) for seed in chosen]

    def methods(self, seeds: int, settings: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Plan:
        """The method on the main recipe under several settings: by name, the changes that `method` takes."""
        return {name: self.method(self.main, seeds, **changes) for name, changes in settings.items()}

    def baseline(self, recipe: RunConfig, kind: BaselineKind, seeds: int, like_method: bool = False) -> list[Training]:
        """A baseline, on its own number of problems for an epoch; or on the method's problems, steps and labels."""
        questions = recipe.sample.max_questions if like_method else recipe.study.sft_questions
        recipes = (of_seed(recipe, seed, questions) for seed in range(seeds))
        return [Training(root=self.root, recipe=recipe, baseline=kind, equal_labels=like_method) for recipe in recipes]


def _smaller(recipe: RunConfig) -> RunConfig:
    """A recipe with the sizes of `QUICK`, where its own are not smaller."""
    sizes = {
        section: {name: min(limit, getattr(getattr(recipe, section), name) or limit) for name, limit in limits.items()}
        for section, limits in QUICK.items()
    }
    return changed(recipe, sizes)


def changed(recipe: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """A recipe with other values, by section."""
    sections = {name: getattr(recipe, name).model_copy(update=dict(values)) for name, values in changes.items()}
    return recipe.model_copy(update=sections)


def of_seed(recipe: RunConfig, seed: int, sft_questions: int | None = None) -> RunConfig:
    """The settings that decide a training; other settings of studies are removed, so that studies share trainings.

    Only the base is evaluated with both kinds of prompt; a trained model has the prompt of its training.
    """
    kind = "chat" if recipe.evaluate.prompts == "both" else recipe.evaluate.prompts
    changes = {"seed": seed, "study": StudySettings(sft_questions=sft_questions), "rounds": RoundsSettings()}
    return changed(recipe, {"evaluate": {"prompts": kind}}).model_copy(update=changes)


# --- The grids ---


def table1(scope: Scope, seeds: int) -> Plan:
    """Every expert as it is, after rejection SFT, after the method."""
    plan: Plan = {}
    for recipe in scope.recipes:
        count = seeds if recipe is scope.main else min(3, seeds)
        plan[f"{recipe.expert} base"] = scope.base(recipe)
        plan[f"{recipe.expert} SFT"] = scope.baseline(recipe, "rejection-sft", count)
        plan[f"{recipe.expert} LightReasoner"] = scope.method(recipe, count)
    return plan


def efficiency(scope: Scope, seeds: int) -> Plan:
    """The settings of Table 1, and the method with fewer problems and steps."""
    plan = table1(scope, seeds)
    for recipe in scope.recipes:
        less = {
            "sample": {"max_questions": max(1, (recipe.sample.max_questions or 1000) // 2)},
            "finetune": {"steps": max(1, recipe.finetune.steps // 8)},
        }
        count = len(plan[f"{recipe.expert} LightReasoner"])
        plan[f"{recipe.expert} {FRUGAL}"] = scope.method(recipe, count, **less)
    return plan


def table4(scope: Scope, seeds: int) -> Plan:
    """The contrast at inference and in training."""
    main = scope.main
    amateur = {"contrast_with": main.amateur, "contrast_with_revision": main.amateur_revision}
    decoding = {
        f"contrastive decoding, α = {alpha:g}": scope.base(main, contrast_alpha=alpha, **amateur)
        for alpha in CONTRAST_ALPHAS
    }
    return {"base": scope.base(main), **decoding, "LightReasoner": scope.method(main, seeds)}


def mixtures(scope: Scope) -> list[Mixture]:
    """Amateurs between the bundled ones, if the miniature's expert is the subject."""
    mixed = MIXTURES if scope.main.expert == "miniature/expert" else ()
    return [Mixture(root=scope.root, start=start, end=end, share=share) for start, end, share in mixed]


def pairings(scope: Scope) -> list[tuple[RunConfig, str, str]]:
    """Recipe, amateur, and name of the amateur, for every pair of Table 5."""
    found = []
    for recipe in scope.recipes:
        names = {amateur: amateur for amateur in (recipe.amateur, *recipe.study.amateurs)}
        if recipe is scope.main:
            mixed = mixtures(scope)
            names |= {str(mix.folder): f"{mix.start}, {mix.share:.0%} of the way to {mix.end}" for mix in mixed}
        found += [(recipe, amateur, name) for amateur, name in names.items()]
    return found


def table5(scope: Scope, seeds: int) -> Plan:
    """Experts with amateurs of different strengths."""
    plan: Plan = {EXTRA: mixtures(scope)}
    for recipe, amateur, _ in pairings(scope):
        plan[f"{recipe.expert} base"] = scope.base(recipe)
        plan[amateur] = scope.base(recipe, amateur)
        revision = recipe.amateur_revision if amateur == recipe.amateur else None
        paired = recipe.model_copy(update={"amateur": amateur, "amateur_revision": revision})
        plan[f"{recipe.expert} × {amateur}"] = scope.method(paired, seeds)
    return plan


def table6(scope: Scope, seeds: int) -> Plan:
    """The ablations, both readings of "no contrast", and the baselines."""
    every_step = {"selection": "none", "threshold": None}
    full, no_selection, no_contrast, neither = ABLATIONS
    return {
        "base": scope.base(scope.main),
        "rejection SFT": scope.baseline(scope.main, "rejection-sft", seeds),
        "ground-truth SFT": scope.baseline(scope.main, "ground-truth", seeds),
        **scope.methods(
            seeds,
            {
                full: {},
                no_selection: {"rule": every_step},
                no_contrast: {"rule": {"contrast": "own_token"}},
                "no contrast (own distribution)": {"rule": {"contrast": "own_distribution"}},
                neither: {"rule": {**every_step, "contrast": "own_token"}},
            },
        ),
    }


def table7(scope: Scope, seeds: int) -> Plan:
    """Shorter and longer rollouts."""
    lengths = {str(length): {"sample": {"max_new_tokens": length}} for length in scope.main.study.lengths}
    return {"base": scope.base(scope.main), **scope.methods(seeds, lengths)}


def table8(scope: Scope, seeds: int) -> Plan:
    """Transfer: another subject, or kinds of problem that were not sampled."""
    main = scope.main
    if benchmarks := main.study.transfer:
        base = scope.base(changed(main, {"evaluate": {"benchmarks": benchmarks}}))
        trained = scope.method(main, seeds)
        transfers = [Transfer(root=scope.root, training=training, benchmarks=benchmarks) for training in trained]
        return {"base": base, "LightReasoner": transfers}
    count = main.sample.max_questions or 1000
    files = [Themes(root=scope.root, themes=sampled_themes(), count=count, seed=seed) for seed in range(seeds)]
    recipes = [main.model_copy(update={"dataset": str(file.file)}) for file in files]
    trained = [scope.method(recipe, seed + 1)[seed] for seed, recipe in enumerate(recipes)]
    return {"base": scope.base(main), "LightReasoner": trained, EXTRA: files}


def sampled_themes() -> tuple[str, ...]:
    """The kinds of arithmetic that Table 8 samples; the others measure transfer."""
    return tuple(sorted(THEMES)[::2])


def selection(scope: Scope, seeds: int) -> Plan:
    """The selection rules at equal numbers of labels."""
    settings = {
        f"{rule} {share:g}": {"rule": {"selection": rule, "threshold": None, "keep_share": share}}
        for share in SHARES
        for rule in RULES
    }
    return {"base": scope.base(scope.main), **scope.methods(seeds, {"paper": {}, **settings})}


def sweeps(scope: Scope, seeds: int) -> Plan:
    """One setting at a time."""
    main, tuning = scope.main, scope.main.finetune
    questions = main.sample.max_questions or 1000
    # With a real vocabulary, the labels of α = 0 would fill a disk.
    unmasked = [0.0] if is_bundled(main.expert) else []
    settings: dict[str, dict[str, dict[str, Any]]] = {"as in the recipe": {}}
    for name, section, setting, values in (
        ("α = {:g}", "rule", "plausibility_alpha", ALPHAS),
        ("mask off (α = {:g})", "sample", "plausibility_alpha", unmasked),
        ("β = {:g}", "rule", "threshold", (0.1, 0.2, 0.8, 1.6)),
        ("label temperature {:g}", "rule", "label_temperature", (0.5, 2.0)),
        ("{} problems", "sample", "max_questions", [questions // part for part in (8, 4, 2)]),
        ("{} steps", "finetune", "steps", [max(1, tuning.steps // part) for part in (8, 4, 2)]),
    ):
        settings |= {name.format(value): {section: {setting: value}} for value in values}
    for factor in (0.25, 0.5, 2.0):
        settings[f"learning rate × {factor:g}"] = {"finetune": {"learning_rate": factor * tuning.learning_rate}}
    for rank in (2, 32):
        settings[f"LoRA rank {rank}"] = {"finetune": {"lora_rank": rank, "lora_alpha": 2 * rank}}
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    settings["LoRA on all linear layers"] = {"finetune": {"lora_targets": targets}}
    return {"base": scope.base(main), **scope.methods(seeds, settings)}


def baselines(scope: Scope, seeds: int) -> Plan:
    """The method and its baselines on the same problems; all but the SFT of one epoch train equally many labels."""
    main = scope.main
    seeded = [main.model_copy(update={"seed": seed}) for seed in range(seeds)]
    decoding = {"contrast_with": main.amateur, "contrast_with_revision": main.amateur_revision}
    return {
        "base": scope.base(main),
        TUNED: [TunedTemperature.of(scope.root, recipe, TEMPERATURES) for recipe in seeded],
        f"contrastive decoding, α = {CONTRAST_ALPHAS[0]:g}": scope.base(
            main, contrast_alpha=CONTRAST_ALPHAS[0], **decoding
        ),
        "rejection SFT, one epoch": scope.baseline(main, "rejection-sft", seeds),
        "rejection SFT": scope.baseline(main, "rejection-sft", seeds, like_method=True),
        **{name: scope.baseline(main, kind, seeds, like_method=True) for name, kind in LABEL_FREE_ARMS.items()},
        **scope.methods(
            seeds,
            {
                "own token": {"rule": {"contrast": "own_token"}},
                "own distribution": {"rule": {"contrast": "own_distribution"}},
                METHOD: {},
            },
        ),
    }


def divergence(scope: Scope, seeds: int) -> Plan:
    """The samples of the main recipe, seed 0."""
    return {"samples": [Samples.of(scope.root, of_seed(scope.main, 0))]}


def losses(scope: Scope, seeds: int) -> Plan:
    """Held-out perplexity along the training of every expert, seed 0."""
    trainings = {recipe.expert: scope.method(recipe, 1)[0] for recipe in scope.recipes}
    return {expert: [Losses(root=scope.root, training=training)] for expert, training in trainings.items()}


def sft_losses(scope: Scope, seeds: int) -> Plan:
    """Rejection SFT of every expert, seed 0."""
    return {recipe.expert: scope.baseline(recipe, "rejection-sft", 1) for recipe in scope.recipes}


def pipeline(scope: Scope, seeds: int) -> Plan:
    """One run of the method."""
    return {"base": scope.base(scope.main), "LightReasoner": scope.method(scope.main, 1)}
