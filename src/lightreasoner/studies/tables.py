"""What the studies report of finished jobs: the paper's tables, and two of ours."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import permutation_test, rankdata

from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies import grids
from lightreasoner.studies.grids import EXTRA, Plan, Scope
from lightreasoner.studies.outcomes import AVERAGE, Difference, Group, difference
from lightreasoner.studies.reports import SURE, Claim, P, Report, judged, judged_together, threshold

Groups = Mapping[str, Group]


def groups_of(plan: Plan) -> dict[str, Group]:
    """The settings of a plan, to be read."""
    return {name: Group(jobs) for name, jobs in plan.items() if name != EXTRA}


def accuracies(groups: Groups, base: str | None = "base", names: Sequence[str] = ()) -> tuple[list[str], list[Any]]:
    """Accuracy of every setting in every column, with the gain over the base."""
    names = names or list(groups)
    columns = groups[names[0]].columns
    header = ["setting", *columns, AVERAGE, "sd of seeds", "gain (95 %)", "p items", "p seeds", "seeds"]
    rows = []
    for name in names:
        group = groups[name]
        cells: list[Any] = [name, *(group.accuracy(column) for column in [*columns, AVERAGE])]
        averages = group.by_seed()
        cells.append(stdev(averages) if len(averages) > 1 else None)
        if base is None or name == base:
            rows.append([*cells, None, None, None, len(averages)])
        else:
            found = difference(groups[base], group)
            rows.append([*cells, found.gain, P(found.p_items), P(found.p_seeds), len(averages)])
    return header, rows


def size_note(group: Group) -> str:
    """How many items stand behind an accuracy."""
    sizes = ", ".join(f"{column} {len(items)}" for column, items in group.scores[0].items())
    return f"Items: {sizes}. AVG is the unweighted mean of the columns; gains and tests are paired over the same items."


def table1(scope: Scope, groups: Groups) -> Report:
    """Accuracy before and after, with the rival."""
    header: list[str] = []
    rows: list[Any] = []
    pairs = []
    for recipe in scope.recipes:
        names = [f"{recipe.expert} {run}" for run in ("base", "SFT", "LightReasoner")]
        header, mine = accuracies(groups, names[0], names)
        if recipe.evaluate.prompts == "both":
            plain = f"{names[0]}, plain prompt (the paper's base)"
            rows += accuracies({plain: groups[names[0]].asked("plain")}, None)[1]
        rows += mine
        base, sft, method = (groups[name] for name in names)
        pairs.append((f"{recipe.expert} gains by the method", difference(base, method)))
        pairs.append((f"{recipe.expert}: the method is better than rejection SFT", difference(sft, method)))
    notes = [size_note(groups[f"{scope.main.expert} base"]), "Gains and tests compare models under the same prompt."]
    return Report("Table 1: accuracy", header, rows, judged_together(pairs), notes)


def costs(group: Group) -> dict[str, float]:
    """Time, problems, tokens and labels of a setting, means over seeds."""
    trained = group.count("finetune", "labels_trained")
    return {
        "time": group.seconds("sample", "select", "finetune"),
        "problems": group.count("sample", "questions"),
        "tokens": trained,
        "labels": group.count("finetune", "labels"),
    }


def table2(scope: Scope, groups: Groups) -> Report:
    """Efficiency."""
    header = [
        "expert",
        "run",
        "time (s)",
        "of it sampling (s)",
        "problems",
        "answers kept",
        "tuned tokens",
        "gain (95 %)",
    ]
    rows: list[list[Any]] = []
    claims = []
    pairs = []
    for recipe in scope.recipes:
        base, sft = (groups[f"{recipe.expert} {run}"] for run in ("base", "SFT"))
        for run in ("SFT", "LightReasoner", grids.FRUGAL):
            group = groups[f"{recipe.expert} {run}"]
            found, cost = difference(base, group), costs(group)
            kept = round(group.count("sample", "answers_kept")) if run == "SFT" else None
            cells = [round(cost["problems"]), kept, round(cost["tokens"])]
            rows.append([recipe.expert, run, cost["time"], group.seconds("sample"), *cells, found.gain])
            if run == "SFT":
                continue
            ratio = {name: 100 * cost[name] / costs(sft)[name] for name in ("time", "problems", "tokens")}
            claims += [
                threshold(f"{recipe.expert}, {run}: time in percent of SFT's", ratio["time"], 25),
                threshold(f"{recipe.expert}, {run}: problems in percent of SFT's", ratio["problems"], 20),
                threshold(f"{recipe.expert}, {run}: tuned tokens in percent of SFT's", ratio["tokens"], 5),
            ]
        pairs.append((f"{recipe.expert}: so little of the method is better than SFT", difference(sft, group)))
    claims += judged_together(pairs)
    notes = [
        "Time is sampling, selection and fine-tuning, each as long as it took with the other workers' jobs beside it, "
        "in whichever sitting that was; "
        "means over seeds. Sampling makes labels of every step here, for several studies at once.",
        "Problems are those sampled; the paper counts SFT's kept ones. Tuned tokens are label positions trained on, "
        "each as often as it was.",
    ]
    return Report("Table 2: efficiency against rejection SFT", header, rows, claims, notes)


def table3(scope: Scope, groups: Groups) -> Report:
    """What SFT and the method use, measured."""
    header = ["expert", "run", "gold answers used", "share of rollouts that ended", "share of sampled tokens tuned"]
    rows: list[list[Any]] = []
    for recipe in scope.recipes:
        sft, method = groups[f"{recipe.expert} SFT"], groups[f"{recipe.expert} LightReasoner"]
        tokens, finished = (
            sft.count("sample", "tokens"),
            1 - sft.count("sample", "truncated") / sft.count("sample", "questions"),
        )
        kept = 100 * sft.count("sample", "labels") / tokens
        rows.append([recipe.expert, "SFT", True, f"{100 * finished:.0f} %", f"{kept:.0f} %"])
        share = method.count("sample", "finished_rollouts") / method.count("sample", "questions")
        chosen = 100 * method.count("select", "kept_steps") / method.count("select", "steps")
        rows.append([recipe.expert, "LightReasoner", False, f"{100 * share:.0f} %", f"{chosen:.0f} %"])
    notes = ["The attributes of the paper's Table 3 as shares: full or prefix sampling, all or selected tokens."]
    return Report("Table 3: what the rivals use", header, rows, (), notes)


def table4(scope: Scope, groups: Groups) -> Report:
    """The contrast at inference against the contrast in training."""
    header, rows = accuracies(groups)
    header = [*header, "models at inference", "seconds to answer"]
    for row in rows:
        group = groups[row[0]]
        row += [2 if row[0].startswith("contrastive") else 1, group.seconds("evaluate")]
    claims = judged_together(
        [
            (f"the method is better than {name}", difference(group, groups["LightReasoner"]))
            for name, group in groups.items()
            if name.startswith("contrastive")
        ]
    )
    notes = [
        "Contrastive decoding runs as our plain loop, the others through the engine: times say little beyond 2 : 1."
    ]
    return Report("Table 4: contrast at inference or in training", header, rows, claims, notes)


def table5(scope: Scope, groups: Groups) -> Report:
    """The gap between expert and amateur, and what comes of it."""
    header = [
        "expert",
        "amateur",
        "gap",
        "AVG before",
        "AVG after",
        "gain (95 %)",
        "p items",
        "p seeds",
        "seeds",
        "labels",
    ]
    rows: list[list[Any]] = []
    for recipe, amateur, name in grids.pairings(scope):
        base, tuned = groups[f"{recipe.expert} base"], groups[f"{recipe.expert} × {amateur}"]
        found = difference(base, tuned)
        before, weaker = base.accuracy(AVERAGE), groups[amateur].accuracy(AVERAGE)
        cells = [recipe.expert, name, before - weaker, before, tuned.accuracy(AVERAGE), found.gain]
        labels = round(tuned.count("select", "kept_steps"))
        rows.append([*cells, P(found.p_items), P(found.p_seeds), len(tuned.jobs), labels])
    claims = [_correlation("all pairs", rows)]
    claims += [
        _correlation(f"pairs of {recipe.expert}", [row for row in rows if row[0] == recipe.expert])
        for recipe in scope.recipes
        if sum(row[0] == recipe.expert for row in rows) >= 4
    ]
    for row in rows:
        if row[2] < 0:
            verdict = "does not hold" if row[5].low > 0 else "holds" if row[5].high <= 0 else "not decided"
            evidence = f"gap {row[2]:+.1f}, gain {row[5]:+.1f}"
            claims.append(Claim(f"{row[0]} gains nothing from the stronger {row[1]}", verdict, evidence))
    return Report(
        "Table 5: amateurs of all strengths", header, rows, claims, [size_note(groups[f"{scope.main.expert} base"])]
    )


def _correlation(of: str, rows: Sequence[Sequence[Any]]) -> Claim:
    """Whether gains grow with gaps."""
    gaps, gains = rankdata([row[2] for row in rows]), rankdata([row[5].value for row in rows])
    # So few pairs are told by permuting them: the usual approximation by Student's t needs more.
    found = permutation_test(
        (gaps,),
        lambda ranks: float(np.corrcoef(ranks, gains)[0, 1]),
        permutation_type="pairings",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    verdict = ("holds" if found.statistic > 0 else "does not hold") if found.pvalue <= SURE else "not decided"
    evidence = f"Spearman's ρ = {found.statistic:.2f}, p = {found.pvalue:.2g} by permutation, {len(rows)} pairs"
    return Claim(f"{of}: the gain grows with the gap", verdict, evidence)


def table6(scope: Scope, groups: Groups) -> Report:
    """The ablations."""
    header, rows = accuracies(groups)
    own = "no contrast (own token)"
    steps = [
        ("full is better than no selection", "no selection", "full LightReasoner"),
        ("no selection is better than no contrast", own, "no selection"),
        ("no contrast is better than neither", "neither (own token)", own),
    ]
    found = [difference(groups[worse], groups[better]) for _, worse, better in steps]
    claims = judged_together([(step[0], pair) for step, pair in zip(steps, found, strict=True)])
    order = [
        groups[name].accuracy(AVERAGE) for name in ("full LightReasoner", "no selection", own, "neither (own token)")
    ]
    is_order = all(first >= second for first, second in pairwise(order))
    means = " ≥ ".join(f"{value:.1f}" for value in order) if is_order else ", ".join(f"{value:.1f}" for value in order)
    claims.insert(0, Claim("the means are in the paper's order", "holds" if is_order else "does not hold", means))
    claims += judged_together(
        [
            (f"full is better than {name}", difference(groups[name], groups["full LightReasoner"]))
            for name in (own, "no contrast (own distribution)", "rejection SFT", "ground-truth SFT")
        ]
    )
    return Report("Table 6: ablations and rivals", header, rows, claims, [size_note(groups["base"])])


def table7(scope: Scope, groups: Groups) -> Report:
    """Rollout length."""
    header, rows = accuracies(groups)
    header = [*header, "sampling (s)", "labels"]
    for row in rows:
        group = groups[row[0]]
        of_base = row[0] == "base"
        row += [None, None] if of_base else [group.seconds("sample"), round(group.count("select", "kept_steps"))]
    default = str(scope.main.sample.max_new_tokens)
    claims = judged_together(
        [
            (f"rollouts of {default} are better than of {name}", difference(groups[name], groups[default]))
            for name in groups
            if name not in ("base", default) and default in groups
        ]
    )
    return Report("Table 7: rollout length in tokens", header, rows, claims, [size_note(groups["base"])])


def table8(scope: Scope, groups: Groups) -> Report:
    """Transfer to what was not sampled."""
    header, rows = accuracies(groups)
    if scope.main.study.transfer:
        found = difference(groups["base"], groups["LightReasoner"])
        claims = [judged("the method helps on another subject", found)]
        return Report("Table 8: transfer to commonsense", header, rows, claims, [size_note(groups["base"])])
    pairs = []
    for which, themes in (
        ("kinds that were not sampled", sorted(set(THEMES) - set(grids.sampled_themes()))),
        ("kinds that were sampled", grids.sampled_themes()),
    ):
        found = difference(groups["base"], groups["LightReasoner"], themes)
        pairs.append((f"the method helps on {which} ({', '.join(themes)})", found))
    notes = [
        size_note(groups["base"]),
        "The miniature knows no commonsense. In its place: sampled from half of the kinds of problem, asked on all.",
    ]
    title = "Table 8: transfer to kinds of problem that were not sampled"
    return Report(title, header, rows, judged_together(pairs), notes)


def selection(scope: Scope, groups: Groups) -> Report:
    """Rules of selection."""
    header, rows = accuracies(groups)
    header = [*header, "labels"]
    for row in rows:
        row.append(None if row[0] == "base" else round(groups[row[0]].count("select", "kept_steps")))
    pairs = []
    for share in grids.SHARES:
        for rule in grids.RULES[1:]:
            found = difference(groups[f"divergence {share:g}"], groups[f"{rule} {share:g}"])
            pairs.append((f"at {share:.0%} of the steps, {rule} is better than divergence", found))
        surprise = groups[f"label_surprise {share:g}"]
        fewer = surprise.count("select", "kept_steps") / groups["paper"].count("select", "kept_steps")
        text = f"label surprise with {100 * fewer:.0f} % of the paper rule's labels is better than the paper's rule"
        pairs.append((text, difference(groups["paper"], surprise)))
    notes = [
        size_note(groups["base"]),
        "A number after a rule is the share of all steps that it keeps; top-1 flips may be fewer. All are trained for "
        "the same number of steps, so fewer labels are seen more often.",
    ]
    return Report("Selection rules at equal numbers of labels", header, rows, judged_together(pairs), notes)


def sweeps(scope: Scope, groups: Groups) -> Report:
    """One setting at a time."""
    header, rows = accuracies(groups)
    header = [*header, "against the recipe (95 %)", "p", "labels", "time (s)"]
    for row in rows:
        group = groups[row[0]]
        if row[0] in ("base", "as in the recipe"):
            row += [None, None]
        else:
            found: Difference = difference(groups["as in the recipe"], group)
            row += [found.gain, P(found.p_value)]
        if row[0] == "base":
            row += [None, None]
        else:
            row += [round(group.count("select", "kept_steps")), group.seconds("sample", "select", "finetune")]
    seeds = fmean(len(group.jobs) for group in groups.values())
    notes = [size_note(groups["base"]), f"{seeds:.0f} seed(s) a setting: how seeds differ is in Table 6."]
    return Report("Sweeps: one setting at a time", header, rows, (), notes)


REPORTS: Mapping[str, Callable[[Scope, Groups], Report]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table7": table7,
    "table8": table8,
    "selection": selection,
    "sweeps": sweeps,
}
