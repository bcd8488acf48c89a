"""Which pairs of models are worth a run: the gains that `lightr advise` predicts from, measured on the miniatures.

`calibration` samples every pair, trains the recipe in a smaller form, and evaluates. Its report holds the figures that
`lightr advise` takes of a pair, with the measured gain; `samples/calibration.json` is its copy, with
`--seeds 1`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lightreasoner.config import RunConfig
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.models.shape import Shape
from lightreasoner.models.source import find_model
from lightreasoner.runs.files import write_json
from lightreasoner.samples.calibration import (
    FEATURES,
    FEWEST_PAIRS,
    Calibration,
    LeftOut,
    MeasuredPair,
    known_figures,
)
from lightreasoner.samples.folder import read_samples
from lightreasoner.samples.statistics import JUDGED, figures_of
from lightreasoner.studies.grids import EXTRA, Plan, Scope, changed, pairings
from lightreasoner.studies.jobs import Mixture, Training
from lightreasoner.studies.outcomes import Group, difference
from lightreasoner.studies.reports import Claim, Report, Row

# Smaller than the recipe's, so that many pairs can be measured.
SIZES: Mapping[str, Mapping[str, Any]] = {
    "sample": {"max_questions": 160},
    "finetune": {"steps": 60},
    "evaluate": {"max_items": 256},
}

RIGHT_SIGNS = 0.9  # share of the decided pairs whose sign should be right

# Models by the name in the pairs; those between two others: start, end, share of the way.
BASE, SMALL, EXPERT, INSTRUCT = (f"miniature/{name}" for name in ("base", "small", "expert", "instruct"))
BASE2, EXPERT2, INSTRUCT2 = (f"miniature2/{name}" for name in ("base", "expert", "instruct"))
MIXED: Mapping[str, tuple[str, str, float]] = {
    f"{start}, {share:.0%} of the way to {end}": (start, end, share)
    for start, end, share in (
        (BASE, EXPERT, 0.5),
        (BASE, EXPERT, 0.85),
        (BASE, EXPERT, 0.9),
        (EXPERT, INSTRUCT, 0.25),
        (EXPERT, INSTRUCT, 0.5),
    )
}
HALF, NEAR, NEARER, QUARTER, MIDDLE = MIXED
# Expert and amateur: weaker, equal and stronger ones. Closer pairs have no step above β and cannot be trained.
PAIRS: tuple[tuple[str, str], ...] = (
    (EXPERT, BASE),
    (EXPERT, INSTRUCT),
    (INSTRUCT, BASE),
    (INSTRUCT, EXPERT),
    (MIDDLE, BASE),
    (MIDDLE, EXPERT),
    (MIDDLE, INSTRUCT),
    (EXPERT, NEAR),
    (EXPERT, MIDDLE),
    (INSTRUCT, MIDDLE),
    (NEARER, BASE),
    (SMALL, BASE),
    (EXPERT, SMALL),
    (INSTRUCT, SMALL),
    (MIDDLE, SMALL),
    (NEARER, INSTRUCT),
    (BASE, INSTRUCT),
    (SMALL, EXPERT),
    (NEARER, EXPERT),
    (QUARTER, BASE),
    (QUARTER, INSTRUCT),
    (EXPERT, HALF),
    (INSTRUCT, NEAR),
    (BASE, EXPERT),
    (QUARTER, EXPERT),
    (SMALL, INSTRUCT),
    # The second set has the first one's tokenizer and problems, so sides of both sets are pairs too.
    (EXPERT2, BASE2),
    (INSTRUCT2, BASE2),
    (EXPERT2, INSTRUCT2),
    (INSTRUCT2, EXPERT2),
    (BASE2, EXPERT2),
    (EXPERT2, BASE),
    (INSTRUCT, BASE2),
    (EXPERT, BASE2),
    (EXPERT2, SMALL),
    (BASE2, BASE),
)


def calibration(scope: Scope, seeds: int) -> Plan:
    """Every pair: its expert as it is, and trained."""
    plan: Plan = {EXTRA: list(_mixtures(scope).values())}
    for paired, expert, amateur in pairs(scope):
        plan[expert] = scope.base(paired)
        plan[f"{expert} × {amateur}"] = scope.method(paired, seeds)
    return plan


def pairs(scope: Scope) -> list[tuple[RunConfig, str, str]]:
    """The recipe of every pair, with the names of its models: those of `PAIRS`, or of Table 5 for other recipes."""
    if not scope.main.expert.startswith("miniature/"):
        chosen = [(recipe, recipe.expert, amateur) for recipe, amateur, _ in pairings(scope)]
        return [(recipe.model_copy(update={"amateur": amateur}), expert, amateur) for recipe, expert, amateur in chosen]
    places = {name: str(mixture.folder) for name, mixture in _mixtures(scope).items()}
    recipe = scope.main if scope.quick else changed(scope.main, SIZES)
    return [
        (
            recipe.model_copy(update={"expert": places.get(expert, expert), "amateur": places.get(amateur, amateur)}),
            expert,
            amateur,
        )
        for expert, amateur in (PAIRS[:FEWEST_PAIRS] if scope.quick else PAIRS)
    ]


def _mixtures(scope: Scope) -> dict[str, Mixture]:
    if not scope.main.expert.startswith("miniature/"):
        return {}
    return {
        name: Mixture(root=scope.root, start=start, end=end, share=share) for name, (start, end, share) in MIXED.items()
    }


def calibrated(scope: Scope, groups: Mapping[str, Group]) -> Report:
    """Predicted and measured gain of every pair. Writes `calibration.json` beside the folder of the reports."""
    found = [_measured(recipe, expert, amateur, groups) for recipe, expert, amateur in pairs(scope)]
    sizes, seeds = pairs(scope)[0][0], max(pair.seeds for pair in found)
    models = "miniatures and mixtures of them" if _mixtures(scope) else "the recipes' pairs"
    measured = (
        f"{models}, {sizes.dataset}, the recipe with {sizes.sample.max_questions} problems, "
        f"{sizes.finetune.steps} steps, {found[0].items} items, {seeds} seed{'s' * (seeds > 1)}"
    )
    return _report(scope, measured, found)


def _report(scope: Scope, measured: str, pairs: Sequence[MeasuredPair]) -> Report:
    found = Calibration(measured=measured, left_out=None, pairs=tuple(pairs))
    found = found.model_copy(update={"left_out": found.compare()})
    write_json(scope.root / "calibration.json", found.model_dump(mode="json"))
    rows: list[Row] = [
        {
            "expert": pair.expert,
            "amateur": pair.amateur,
            **{name.replace("_", " "): pair.figures[name] for name in FEATURES},
            "gain (95 %)": Interval(pair.gain, pair.low, pair.high),
            "predicted from the others": float(predicted),
        }
        for pair, predicted in zip(found.pairs, found.left_out_predictions, strict=True)
    ]
    return Report("Predicted gain of a pair", rows, _claims(found.left_out), [f"Gains in points: {measured}."])


def _claims(found: LeftOut | None) -> list[Claim]:
    if found is None:
        return []
    share = found.right_signs / max(found.decided, 1)
    evidence = f"{found.right_signs} of {found.decided}; rank correlation over all pairs {found.rank_correlation:.2f}"
    verdict = "holds" if share >= RIGHT_SIGNS else "does not hold"
    return [
        Claim(f"the sign is right in {RIGHT_SIGNS:.0%} of the pairs whose gain is decided, left out", verdict, evidence)
    ]


def _measured(recipe: RunConfig, expert: str, amateur: str, groups: Mapping[str, Group]) -> MeasuredPair:
    """Figures of the samples, and the gain, of a pair whose jobs are done."""
    before, after = groups[expert], groups[f"{expert} × {amateur}"]
    first = after.jobs[0]
    assert isinstance(first, Training)
    figures = known_figures(figures_of(read_samples(first.data.folder)[1].tables("rollouts", JUDGED), None))
    source = find_model(recipe.expert, recipe.expert_revision)
    gain = difference(before, after).gain
    return MeasuredPair(
        expert=expert,
        amateur=amateur,
        parameters=Shape.of(source.config(), source.name).parameters,
        figures={name: round(value, 4) for name, value in figures.items()},
        gain=round(gain.value, 1),
        low=round(gain.low, 1),
        high=round(gain.high, 1),
        items=sum(len(items) for items in before.scores[0].values()),
        seeds=len(after.jobs),
    )
