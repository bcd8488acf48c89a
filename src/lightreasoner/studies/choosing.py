"""Which settings to run: chosen on some kinds of problem and seeds, judged on held-out ones.

`choose` trains every combination of label, mask, selection rule and LoRA layers. Its ranking uses one half of the kinds
of problem. `judge` trains a few settings again with new seeds, and compares them on the other half.
"""

from collections.abc import Mapping
from itertools import product
from statistics import fmean, stdev
from typing import Any

from lightreasoner.config import RunConfig
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies.grids import CONTRAST_ALPHAS, Plan, Scope
from lightreasoner.studies.jobs import Training
from lightreasoner.studies.outcomes import Group, difference
from lightreasoner.studies.reports import P, Report, Row, decide_all

CHOOSING, JUDGING = sorted(THEMES)[::2], sorted(THEMES)[1::2]  # kinds of problem
FIRST_JUDGING_SEED = 100

# Powers of expert and amateur in the label, see `contrast.contrastive_labels`.
POWERS = ((1.0, 1.0), (1.0, 0.0), (2.0, 1.0), (1.25, 0.25))
ALPHAS = (0.05, 0.1, 0.2)
RULES: Mapping[str, Mapping[str, Any]] = {
    "KL > β": {},
    "all steps": {"selection": "none", "threshold": None},
    "surprise 24 %": {"selection": "label_surprise", "threshold": None, "keep_share": 0.24},
}
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# LoRA on all layers moves the model further at the same learning rate.
LAYERS: Mapping[str, tuple[tuple[str, ...], float]] = {"q, v": (("q_proj", "v_proj"), 1.0), "all": (ALL_LINEAR, 0.25)}

# The expert as its own amateur.
OWN_AMATEURS: Mapping[str, Mapping[str, Any]] = {
    **{f"self:layers={count}": {"amateur": f"self:layers={count}"} for count in (1, 2, 3)},
    "self:dropout=0.3": {"amateur": "self:dropout=0.3"},
    "self, no cue": {"amateur": "self", "amateur_cue": ""},
}
OWN_LABELS: Mapping[str, Mapping[str, Any]] = {
    "recipe": {},
    "α 0.1, all steps": {**RULES["all steps"], "plausibility_alpha": 0.1},
}

Changes = Mapping[str, Mapping[str, Any]]


def settings(scope: Scope) -> dict[str, Changes]:
    """All combinations, by name; the values are those that `Scope.method` takes."""
    found: dict[str, Changes] = {}
    rate = scope.main.finetune.learning_rate
    for (a, b), alpha, rule, layers in product(POWERS, ALPHAS, RULES, LAYERS):
        targets, factor = LAYERS[layers]
        label = {"expert_power": a, "amateur_power": b, "plausibility_alpha": alpha}
        found[f"a {a:g}, b {b:g}, α {alpha:g}, {rule}, {layers}"] = {
            "rule": {**RULES[rule], **label},
            "finetune": {"lora_targets": targets, "learning_rate": factor * rate},
        }
    return found


def own_amateurs(scope: Scope) -> dict[str, tuple[RunConfig, Mapping[str, Any]]]:
    """The recipe and the rule of every source of an amateur in the expert itself, by name."""
    found = {}
    for (source, changes), (label, rule) in product(OWN_AMATEURS.items(), OWN_LABELS.items()):
        found[f"{source}, {label}"] = (scope.main.model_copy(update=dict(changes)), rule)
    return found


def trainings(scope: Scope, name: str, seeds: int | range) -> list[Training]:
    """The trainings of a setting or of an own amateur, by its name."""
    if name in (own := own_amateurs(scope)):
        recipe, rule = own[name]
        return scope.method(recipe, seeds, rule)
    return scope.method(scope.main, seeds, **settings(scope)[name])


def choose(scope: Scope, seeds: int) -> Plan:
    """Every combination."""
    names = [*settings(scope), *own_amateurs(scope)]
    if scope.quick:
        names = names[::9]
    plan: Plan = {"base": scope.base(scope.main)}
    return plan | {name: trainings(scope, name, seeds) for name in names}


def ranking(groups: Mapping[str, Group]) -> list[tuple[float, str]]:
    """Mean accuracy on the kinds of problem used for the choice, best first, of every trained setting."""
    found = ((fmean(group.by_seed(CHOOSING)), name) for name, group in groups.items() if name != "base")
    return sorted(found, reverse=True)


def choices(scope: Scope, groups: Mapping[str, Group]) -> Report:
    """All combinations, best first."""
    base = fmean(groups["base"].by_seed(CHOOSING))
    rows: list[Row] = [{"setting": "base", "choosing kinds": base, "sd": None, "seeds": None}]
    for accuracy, name in ranking(groups):
        by_seed = groups[name].by_seed(CHOOSING)
        sd = stdev(by_seed) if len(by_seed) > 1 else None
        rows.append({"setting": name, "choosing kinds": accuracy, "sd": sd, "seeds": len(by_seed)})
    notes = [
        f"Mean accuracy on {', '.join(CHOOSING)}; the other kinds of problem are not read here.",
        "a, b: powers of expert and amateur in the label. Layers: those that LoRA adapts.",
    ]
    return Report("Choosing settings", rows, notes=notes)


def judge(scope: Scope, seeds: int) -> Plan:
    """The recipe, the settings that were chosen for it, and contrastive decoding, with held-out seeds."""
    main = scope.main
    new = range(FIRST_JUDGING_SEED, FIRST_JUDGING_SEED + seeds)
    contrast = {"contrast_with": main.amateur, "contrast_with_revision": main.amateur_revision}
    plan: Plan = {
        "base": scope.base(main),
        **{f"contrastive decoding, α = {a:g}": scope.base(main, contrast_alpha=a, **contrast) for a in CONTRAST_ALPHAS},
        "recipe": scope.method(main, new),
    }
    return plan | {name: trainings(scope, name, new) for name in CHOSEN}


# What `choose` ranked first on the recipe miniature, seed 0: of all, without the amateur (b = 0), and of own amateurs.
CHOSEN = ("a 1, b 1, α 0.05, KL > β, all", "a 1, b 0, α 0.1, surprise 24 %, all", "self:layers=2, recipe")


def judgement(scope: Scope, groups: Mapping[str, Group]) -> Report:
    """Accuracy on the held-out kinds of problem."""
    rows: list[Row] = []
    pairs = []
    for name, group in groups.items():
        by_seed = group.by_seed(JUDGING)
        row: Row = {"setting": name, "judging kinds": fmean(by_seed)}
        row["sd"] = stdev(by_seed) if len(by_seed) > 1 else None
        found = None if name == "recipe" else difference(groups["recipe"], group, JUDGING)
        row |= {"against the recipe (95 %)": found and found.gain, "p": found and P(found.p_value)}
        rows.append({**row, "seeds": len(by_seed)})
        if found and name != "base":
            pairs.append((f"{name} is better than the recipe", found))
    notes = [
        f"Mean accuracy on {', '.join(JUDGING)}, with seeds from {FIRST_JUDGING_SEED}. `lightr study choose` chose the "
        f"settings on {', '.join(CHOOSING)} with other seeds."
    ]
    return Report("Chosen settings against the recipe", rows, decide_all(pairs), notes)
