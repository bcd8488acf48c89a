"""Which settings to run: chosen on some kinds of problem and seeds, judged on others that chose nothing.

`choose` trains every combination of label, mask, selection rule and LoRA layers. Its ranking uses one half of the kinds
of problem. `judge` trains a few settings again with new seeds, and compares them on the other half.
"""

from collections.abc import Mapping
from itertools import product
from statistics import fmean, stdev
from typing import Any

from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies.grids import CONTRAST_ALPHAS, Plan, Scope
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


def choose(scope: Scope, seeds: int) -> Plan:
    """Every combination."""
    chosen = settings(scope)
    if scope.quick:
        chosen = dict(list(chosen.items())[::9])
    return {"base": scope.base(scope.main), **scope.methods(seeds, chosen)}


def ranking(groups: Mapping[str, Group]) -> list[tuple[float, str]]:
    """Mean accuracy on the kinds of problem that choose, best first, of every trained setting."""
    found = ((fmean(group.by_seed(CHOOSING)), name) for name, group in groups.items() if name != "base")
    return sorted(found, reverse=True)


def choices(scope: Scope, groups: Mapping[str, Group]) -> Report:
    """All combinations, best first."""
    rows: list[Row] = [{"setting": "base", "choosing kinds": fmean(groups["base"].by_seed(CHOOSING)), "sd": None}]
    for accuracy, name in ranking(groups):
        by_seed = groups[name].by_seed(CHOOSING)
        rows.append({"setting": name, "choosing kinds": accuracy, "sd": stdev(by_seed) if len(by_seed) > 1 else None})
    notes = [
        f"Mean accuracy on {', '.join(CHOOSING)}; the other kinds of problem are not read here.",
        "a, b: powers of expert and amateur in the label. Layers: those that LoRA adapts.",
    ]
    return Report("Choosing settings", rows, notes=notes)


def judge(scope: Scope, seeds: int) -> Plan:
    """The recipe, the settings that were chosen for it, and contrastive decoding, with seeds that chose nothing."""
    main = scope.main
    new = range(FIRST_JUDGING_SEED, FIRST_JUDGING_SEED + seeds)
    contrast = {"contrast_with": main.amateur, "contrast_with_revision": main.amateur_revision}
    plan: Plan = {
        "base": scope.base(main),
        **{f"contrastive decoding, α = {a:g}": scope.base(main, contrast_alpha=a, **contrast) for a in CONTRAST_ALPHAS},
        "recipe": scope.method(main, new),
    }
    known = settings(scope)
    for name in CHOSEN.get(main.expert, ()):
        plan[name] = scope.method(main, new, **known[name])
    return plan


# The settings that `choose` ranked first for an expert, and its best one without the amateur (b = 0).
CHOSEN: Mapping[str, tuple[str, ...]] = {}


def judgement(scope: Scope, groups: Mapping[str, Group]) -> Report:
    """Accuracy on the kinds of problem that chose nothing."""
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
