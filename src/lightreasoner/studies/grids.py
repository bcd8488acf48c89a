"""Which jobs each study needs: settings by name, each under several seeds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightreasoner.config import BaselineKind, Contrast, RunConfig, SelectSettings, StudySettings
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies.jobs import Elsewhere, Job, Losses, Mixture, Themes, Train, base_evaluation, pool

Plan = dict[str, list[Job]]  # jobs by setting, one a seed
FRUGAL = "LightReasoner, half the problems, an eighth of the steps"
EXTRA = "extra"  # setting that nobody reports: what others need before them

# Seeds of each study, where the user names no number.
SEEDS = {"table6": 5, "table1": 5, "table7": 4, "selection": 4, "sweeps": 1}
DEFAULT_SEEDS = 2  # all studies of the miniature together are to fit into an hour on two cores
CHECKPOINTS = 10
CONTRAST_ALPHAS = (0.1, 0.2)  # of contrastive decoding
SHARES = (0.24,)  # of all steps that the compared selection rules keep: half of what the paper's rule keeps here
RULES = ("divergence", "label_surprise", "top1_flip", "expert_entropy", "random")
ALPHAS = (0.05, 0.1, 0.4, 0.8)
# Amateurs between the bundled ones: start, end, share of the way. Nearer to the expert hardly a step exceeds β.
MIXTURES = (
    ("miniature/base", "miniature/expert", 0.85),
    ("miniature/base", "miniature/expert", 0.9),
    ("miniature/expert", "miniature/instruct", 0.5),
)
MINIATURE = "miniature/"
QUICK: Mapping[str, Mapping[str, int]] = {
    "sample": {"max_questions": 160},
    "finetune": {"steps": 40},
    "evaluate": {"max_items": 160},
    "study": {"sft_questions": 320},
}


@dataclass(frozen=True)
class Scope:
    """What the studies are about.

    Attributes:
        recipes: the first one is the subject of most studies; the others are further rows of Table 1.
        root: folder of all studies.
        seeds: of every setting; None takes `SEEDS`.
        quick: everything smaller, to see that it works.
    """

    recipes: tuple[RunConfig, ...]
    root: Path
    seeds: int | None = None
    quick: bool = False

    @classmethod
    def of(cls, recipes: list[RunConfig], root: Path, seeds: int | None, quick: bool) -> "Scope":
        """The scope with recipes as the studies run them."""
        return cls(tuple(_prepared(recipe, quick) for recipe in recipes), root, seeds, quick)

    @property
    def main(self) -> RunConfig:
        """The first recipe."""
        return self.recipes[0]

    def seeds_of(self, study: str) -> int:
        """How many seeds each setting of a study has."""
        return self.seeds or (1 if self.quick else SEEDS.get(study, DEFAULT_SEEDS))

    def base(self, recipe: RunConfig, model: str | None = None, **contrast: Any) -> list[Job]:
        """A model as it is; the recipe's expert by default."""
        return [Job(self.root, base_evaluation(recipe, model or recipe.expert, **contrast))]

    def method(
        self, recipe: RunConfig, seeds: int, rule: Mapping[str, Any] | None = None, **changes: Mapping[str, Any]
    ) -> list[Job]:
        """The method with another rule or label, or with other settings of its stages, by section."""
        recipe = _changed(recipe, changes)
        paper = {"threshold": recipe.sample.divergence_beta, "plausibility_alpha": recipe.sample.plausibility_alpha}
        select = SelectSettings.checked({**paper, **(rule or {})})
        return [Job(self.root, Train(recipe=_of_seed(recipe, seed), select=select)) for seed in range(seeds)]

    def rival(self, recipe: RunConfig, kind: BaselineKind, seeds: int) -> list[Job]:
        """A rival of the method."""
        questions = recipe.study.sft_questions
        return [Job(self.root, Train(recipe=_of_seed(recipe, seed, questions), baseline=kind)) for seed in range(seeds)]


def _prepared(recipe: RunConfig, quick: bool) -> RunConfig:
    """With enough checkpoints for Figures 8 and 9, and small on request."""
    if quick:
        sizes = {
            section: {
                name: min(value, getattr(getattr(recipe, section), name) or value) for name, value in most.items()
            }
            for section, most in QUICK.items()
        }
        recipe = _changed(recipe, sizes)
    save_steps = max(1, recipe.finetune.steps // CHECKPOINTS)
    return _changed(recipe, {"finetune": {"save_steps": save_steps, "keep_checkpoints": CHECKPOINTS + 1}})


def _changed(recipe: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    sections = {name: getattr(recipe, name).model_copy(update=dict(values)) for name, values in changes.items()}
    return recipe.model_copy(update=sections)


def _of_seed(recipe: RunConfig, seed: int, sft_questions: int | None = None) -> RunConfig:
    """What decides a training, and no more: what a study varies elsewhere must not give it another folder.

    Tuned models are asked as they were trained; the base alone is asked in the paper's other way, too.
    """
    kind = "chat" if recipe.evaluate.prompts == "both" else recipe.evaluate.prompts
    asked = {"evaluate": recipe.evaluate.model_copy(update={"prompts": kind})}
    return recipe.model_copy(update={"seed": seed, "study": StudySettings(sft_questions=sft_questions), **asked})


# --- The grids ---


def table1(scope: Scope) -> Plan:
    """Every expert as it is, after rejection SFT, after the method."""
    plan: Plan = {}
    for place, recipe in enumerate(scope.recipes):
        seeds = scope.seeds_of("table1") if place == 0 else min(3, scope.seeds_of("table1"))
        plan[f"{recipe.expert} base"] = scope.base(recipe)
        plan[f"{recipe.expert} SFT"] = scope.rival(recipe, "rejection-sft", seeds)
        plan[f"{recipe.expert} LightReasoner"] = scope.method(recipe, seeds)
    return plan


def efficiency(scope: Scope) -> Plan:
    """The settings of Table 1, and the method with less of everything: how little does it need?"""
    plan = table1(scope)
    for recipe in scope.recipes:
        less = {
            "sample": {"max_questions": max(1, (recipe.sample.max_questions or 1000) // 2)},
            "finetune": {"steps": max(1, recipe.finetune.steps // 8)},
        }
        seeds = len(plan[f"{recipe.expert} LightReasoner"])
        plan[f"{recipe.expert} {FRUGAL}"] = scope.method(recipe, seeds, **less)
    return plan


def table4(scope: Scope) -> Plan:
    """The contrast at inference and in training."""
    main = scope.main
    decoding = {
        f"contrastive decoding, α = {alpha:g}": scope.base(
            main, contrast_with=main.amateur, contrast_with_revision=main.amateur_revision, contrast_alpha=alpha
        )
        for alpha in CONTRAST_ALPHAS
    }
    return {"base": scope.base(main), **decoding, "LightReasoner": scope.method(main, scope.seeds_of("table1"))}


def mixtures(scope: Scope) -> list[Job]:
    """Amateurs between the bundled ones, where the miniature's expert is the subject."""
    mixed = MIXTURES if scope.main.expert == "miniature/expert" else ()
    return [Job(scope.root, Mixture(start=start, end=end, share=share)) for start, end, share in mixed]


def pairings(scope: Scope) -> list[tuple[RunConfig, str, str]]:
    """Recipe, amateur, and what to call it, for every pair of Table 5."""
    found = []
    for recipe in scope.recipes:
        names = [(recipe.amateur, recipe.amateur), *((name, name) for name in recipe.study.amateurs)]
        if recipe is scope.main:
            for job in mixtures(scope):
                mix = job.subject
                assert isinstance(mix, Mixture)
                names.append((str(job.folder), f"{mix.start}, {mix.share:.0%} of the way to {mix.end}"))
        found += [(recipe, amateur, name) for amateur, name in names]
    return found


def table5(scope: Scope) -> Plan:
    """Experts with amateurs of all strengths."""
    seeds = scope.seeds_of("table5")
    plan: Plan = {EXTRA: mixtures(scope)}
    for recipe, amateur, _ in pairings(scope):
        plan[f"{recipe.expert} base"] = scope.base(recipe)
        plan[amateur] = scope.base(recipe, amateur)
        paired = recipe.model_copy(update={"amateur": amateur})
        if amateur != recipe.amateur:
            paired = paired.model_copy(update={"amateur_revision": None})
        plan[f"{recipe.expert} × {amateur}"] = scope.method(paired, seeds)
    return plan


def table6(scope: Scope) -> Plan:
    """The ablations, both readings of "no contrast", and the rivals."""
    main, seeds = scope.main, scope.seeds_of("table6")
    every = {"selection": "none", "threshold": None}

    def label(contrast: Contrast) -> dict[str, Any]:
        return {"contrast": contrast}

    return {
        "base": scope.base(main),
        "rejection SFT": scope.rival(main, "rejection-sft", seeds),
        "ground-truth SFT": scope.rival(main, "ground-truth", seeds),
        "full LightReasoner": scope.method(main, seeds),
        "no selection": scope.method(main, seeds, every),
        "no contrast (own token)": scope.method(main, seeds, label("own_token")),
        "no contrast (own distribution)": scope.method(main, seeds, label("own_distribution")),
        "neither (own token)": scope.method(main, seeds, {**every, **label("own_token")}),
    }


def table7(scope: Scope) -> Plan:
    """Rollouts stopped earlier and later."""
    lengths, seeds = scope.main.study.lengths, scope.seeds_of("table7")
    longer = {str(n): scope.method(scope.main, seeds, sample={"max_new_tokens": n}) for n in lengths}
    return {"base": scope.base(scope.main), **longer}


def table8(scope: Scope) -> Plan:
    """What was not sampled: another subject, or other kinds of problem."""
    main, seeds = scope.main, scope.seeds_of("table8")
    if main.study.transfer:
        base = scope.base(_changed(main, {"evaluate": {"benchmarks": main.study.transfer}}))
        trained = [
            job.of(Elsewhere(train=job.subject, benchmarks=main.study.transfer))
            for job in scope.method(main, seeds)
            if isinstance(job.subject, Train)
        ]
        return {"base": base, "LightReasoner": trained}
    plan: Plan = {"base": scope.base(main), "LightReasoner": [], EXTRA: []}
    for seed in range(seeds):
        file = Job(scope.root, Themes(themes=sampled_themes(), count=main.sample.max_questions or 1000, seed=seed))
        sampled = main.model_copy(update={"dataset": str(file.folder / "problems.jsonl")})
        plan["LightReasoner"] += [scope.method(sampled, seed + 1)[seed]]
        plan[EXTRA].append(file)
    return plan


def sampled_themes() -> tuple[str, ...]:
    """The kinds of arithmetic that Table 8 samples; the others are its transfer."""
    return tuple(sorted(THEMES)[::2])


def selection(scope: Scope) -> Plan:
    """The selection rules at equal numbers of labels."""
    main, seeds = scope.main, scope.seeds_of("selection")
    plan: Plan = {
        f"{rule} {share:g}": scope.method(main, seeds, {"selection": rule, "threshold": None, "keep_share": share})
        for share in SHARES
        for rule in RULES
    }
    return {"base": scope.base(main), "paper": scope.method(main, seeds), **plan}


def sweeps(scope: Scope) -> Plan:
    """One setting at a time."""
    main, seeds = scope.main, scope.seeds_of("sweeps")
    plan: Plan = {"base": scope.base(main), "as in the recipe": scope.method(main, seeds)}
    for alpha in ALPHAS:
        plan[f"α = {alpha:g}"] = scope.method(main, seeds, {"plausibility_alpha": alpha})
    if main.expert.startswith(MINIATURE):  # every label over 150,000 tokens would fill a disk
        without = {"plausibility_alpha": 0.0}
        plan["mask off (α = 0)"] = scope.method(main, seeds, sample=without)
    for beta in (0.1, 0.2, 0.8, 1.6):
        plan[f"β = {beta:g}"] = scope.method(main, seeds, {"threshold": beta})
    for temperature in (0.5, 2.0):
        plan[f"label temperature {temperature:g}"] = scope.method(main, seeds, {"label_temperature": temperature})
    questions, steps, rate = main.sample.max_questions or 1000, main.finetune.steps, main.finetune.learning_rate
    for part in (8, 4, 2):
        plan[f"{questions // part} problems"] = scope.method(main, seeds, sample={"max_questions": questions // part})
    for part in (8, 4, 2):
        plan[f"{steps // part} steps"] = scope.method(main, seeds, finetune={"steps": max(1, steps // part)})
    for factor in (0.25, 0.5, 2.0):
        plan[f"learning rate × {factor:g}"] = scope.method(main, seeds, finetune={"learning_rate": factor * rate})
    for rank in (2, 32):
        plan[f"LoRA rank {rank}"] = scope.method(main, seeds, finetune={"lora_rank": rank, "lora_alpha": 2 * rank})
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    plan["LoRA on all linear layers"] = scope.method(main, seeds, finetune={"lora_targets": targets})
    return plan


def divergence(scope: Scope) -> Plan:
    """The samples of the main recipe, seed 0."""
    return {"samples": [Job(scope.root, pool(_of_seed(scope.main, 0)))]}


def losses(scope: Scope) -> Plan:
    """Held-out perplexity along the training of every expert."""
    return {
        recipe.expert: [
            job.of(Losses(train=job.subject)) for job in scope.method(recipe, 1) if isinstance(job.subject, Train)
        ]
        for recipe in scope.recipes
    }


def sft_losses(scope: Scope) -> Plan:
    """The rival's training of every expert."""
    return {recipe.expert: scope.rival(recipe, "rejection-sft", 1) for recipe in scope.recipes}


def pipeline(scope: Scope) -> Plan:
    """One run of the method."""
    return {"base": scope.base(scope.main), "LightReasoner": scope.method(scope.main, 1)}


GRIDS: Mapping[str, Callable[[Scope], Plan]] = {
    "table1": table1,
    "table2": efficiency,
    "table3": table1,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table7": table7,
    "table8": table8,
    "figure1": table1,
    "figure2": divergence,
    "figure3": divergence,
    "figure4": pipeline,
    "figure5": table1,
    "figure6": table5,
    "figure7": table6,
    "figure8": losses,
    "figure9": sft_losses,
    "selection": selection,
    "sweeps": sweeps,
}
