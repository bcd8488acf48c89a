"""The reports of the paper's tables, and two of ours."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import permutation_test, rankdata

from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies import grids
from lightreasoner.studies.grids import Scope
from lightreasoner.studies.outcomes import AVERAGE, Group, difference
from lightreasoner.studies.reports import SIGNIFICANCE, Claim, P, Report, at_most, decide, decide_all

Groups = Mapping[str, Group]


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
    """The number of items of an accuracy."""
    sizes = ", ".join(f"{column} {len(items)}" for column, items in group.scores[0].items())
    return f"Items: {sizes}. AVG is the unweighted mean of the columns; gains and tests are paired over the same items."


def table1(scope: Scope, groups: Groups) -> Report:
    """Accuracy before and after, and after rejection SFT."""
    header: list[str] = []
    rows: list[Any] = []
    pairs = []
    for recipe in scope.recipes:
        names = [f"{recipe.expert} {run}" for run in ("base", "SFT", "LightReasoner")]
        header, own_rows = accuracies(groups, names[0], names)
        if recipe.evaluate.prompts == "both":
            plain = f"{names[0]}, plain prompt (the paper's base)"
            rows += accuracies({plain: groups[names[0]].with_prompt("plain")}, None)[1]
        rows += own_rows
        base, sft, method = (groups[name] for name in names)
        pairs.append((f"{recipe.expert} gains by the method", difference(base, method)))
        pairs.append((f"{recipe.expert}: the method is better than rejection SFT", difference(sft, method)))
    notes = [size_note(groups[f"{scope.main.expert} base"]), "Gains and tests compare models under the same prompt."]
    return Report("Table 1: accuracy", header, rows, decide_all(pairs), notes)


def costs(group: Group) -> dict[str, float]:
    """Time, problems and tuned tokens of a setting, means over seeds."""
    return {
        "time": group.seconds("sample", "select", "finetune"),
        "problems": group.count("sample", "questions"),
        "tokens": group.count("finetune", "labels_trained"),
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
            claims += [
                at_most(
                    f"{recipe.expert}, {run}: {text} in percent of SFT's", 100 * cost[name] / costs(sft)[name], limit
                )
                for name, text, limit in (
                    ("time", "time", 25),
                    ("problems", "problems", 20),
                    ("tokens", "tuned tokens", 5),
                )
            ]
        pairs.append(
            (f"{recipe.expert}: the method with fewer problems and steps is better than SFT", difference(sft, group))
        )
    claims += decide_all(pairs)
    notes = [
        "Time is that of sampling, selection and fine-tuning while other workers ran; means over seeds. Sampling makes "
        "labels of every step here, which several studies share.",
        "Problems are those sampled; the paper counts SFT's kept ones. Tuned tokens are the labels of all training "
        "steps, repetitions included.",
    ]
    return Report("Table 2: efficiency against rejection SFT", header, rows, claims, notes)


def table3(scope: Scope, groups: Groups) -> Report:
    """What SFT and the method use, measured."""
    header = ["expert", "run", "gold answers used", "share of rollouts that ended", "share of sampled tokens tuned"]
    rows: list[list[Any]] = []
    for recipe in scope.recipes:
        sft, method = groups[f"{recipe.expert} SFT"], groups[f"{recipe.expert} LightReasoner"]
        ended = 1 - sft.count("sample", "truncated") / sft.count("sample", "questions")
        tuned = sft.count("sample", "labels") / sft.count("sample", "tokens")
        rows.append([recipe.expert, "SFT", True, f"{100 * ended:.0f} %", f"{100 * tuned:.0f} %"])
        ended = method.count("sample", "finished_rollouts") / method.count("sample", "questions")
        tuned = method.count("select", "kept_steps") / method.count("select", "steps")
        rows.append([recipe.expert, "LightReasoner", False, f"{100 * ended:.0f} %", f"{100 * tuned:.0f} %"])
    notes = ["The attributes of the paper's Table 3 as shares: full or prefix sampling, all or selected tokens."]
    return Report("Table 3: what SFT and the method use", header, rows, (), notes)


def table4(scope: Scope, groups: Groups) -> Report:
    """The contrast at inference against the contrast in training."""
    header, rows = accuracies(groups)
    header = [*header, "models at inference", "seconds to answer"]
    for row in rows:
        group = groups[row[0]]
        row += [2 if row[0].startswith("contrastive") else 1, group.seconds("evaluate")]
    claims = decide_all(
        [
            (f"the method is better than {name}", difference(group, groups["LightReasoner"]))
            for name, group in groups.items()
            if name.startswith("contrastive")
        ]
    )
    notes = [
        "Contrastive decoding runs in a plain loop, the others in the packed engine, so the times show little more "
        "than two models against one."
    ]
    return Report("Table 4: contrast at inference or in training", header, rows, claims, notes)


def table5(scope: Scope, groups: Groups) -> Report:
    """The gap between expert and amateur, and the gain."""
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
        "Table 5: amateurs of different strengths",
        header,
        rows,
        claims,
        [size_note(groups[f"{scope.main.expert} base"])],
    )


def _correlation(of: str, rows: Sequence[Sequence[Any]]) -> Claim:
    """A claim that gains grow with gaps."""
    gaps, gains = rankdata([row[2] for row in rows]), rankdata([row[5].value for row in rows])
    # A permutation test: the usual approximation by Student's t needs more pairs.
    found = permutation_test(
        (gaps,),
        lambda ranks: float(np.corrcoef(ranks, gains)[0, 1]),
        permutation_type="pairings",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    verdict = ("holds" if found.statistic > 0 else "does not hold") if found.pvalue <= SIGNIFICANCE else "not decided"
    evidence = f"Spearman's ρ = {found.statistic:.2f}, p = {found.pvalue:.2g} by permutation, {len(rows)} pairs"
    return Claim(f"{of}: the gain grows with the gap", verdict, evidence)


def table6(scope: Scope, groups: Groups) -> Report:
    """The ablations."""
    header, rows = accuracies(groups)
    own = "no contrast (own token)"
    order = ("full LightReasoner", "no selection", own, "neither (own token)")
    means = [groups[name].accuracy(AVERAGE) for name in order]
    in_order = all(first >= second for first, second in pairwise(means))
    evidence = (" ≥ " if in_order else ", ").join(f"{value:.1f}" for value in means)
    claims = [Claim("the means are in the paper's order", "holds" if in_order else "does not hold", evidence)]
    texts = (
        "full is better than no selection",
        "no selection is better than no contrast",
        "no contrast is better than neither",
    )
    found = [difference(groups[worse], groups[better]) for better, worse in pairwise(order)]
    claims += decide_all(list(zip(texts, found, strict=True)))
    claims += decide_all(
        [
            (f"full is better than {name}", difference(groups[name], groups["full LightReasoner"]))
            for name in (own, "no contrast (own distribution)", "rejection SFT", "ground-truth SFT")
        ]
    )
    return Report("Table 6: ablations and baselines", header, rows, claims, [size_note(groups["base"])])


def table7(scope: Scope, groups: Groups) -> Report:
    """Rollout length."""
    header, rows = accuracies(groups)
    header = [*header, "sampling (s)", "labels"]
    for row in rows:
        group = groups[row[0]]
        of_base = row[0] == "base"
        row += [None, None] if of_base else [group.seconds("sample"), round(group.count("select", "kept_steps"))]
    default = str(scope.main.sample.max_new_tokens)
    claims = decide_all(
        [
            (f"rollouts of {default} are better than of {name}", difference(groups[name], groups[default]))
            for name in groups
            if name not in ("base", default) and default in groups
        ]
    )
    return Report("Table 7: rollout length in tokens", header, rows, claims, [size_note(groups["base"])])


def table8(scope: Scope, groups: Groups) -> Report:
    """Transfer to another subject, or to kinds of problem that were not sampled."""
    header, rows = accuracies(groups)
    if scope.main.study.transfer:
        found = difference(groups["base"], groups["LightReasoner"])
        claims = [decide("the method helps on another subject", found)]
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
        "Miniature models know no commonsense. Instead, half of the kinds of problem are sampled, and all evaluated.",
    ]
    title = "Table 8: transfer to kinds of problem that were not sampled"
    return Report(title, header, rows, decide_all(pairs), notes)


def selection(scope: Scope, groups: Groups) -> Report:
    """The selection rules."""
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
        "A number after a rule is the share of all steps that it keeps; there may be fewer top-1 flips. All settings "
        "train the same number of steps, so each of fewer labels is used more often.",
    ]
    return Report("Selection rules at equal numbers of labels", header, rows, decide_all(pairs), notes)


def sweeps(scope: Scope, groups: Groups) -> Report:
    """One setting at a time."""
    header, rows = accuracies(groups)
    header = [*header, "against the recipe (95 %)", "p", "labels", "time (s)"]
    for row in rows:
        group = groups[row[0]]
        if row[0] in ("base", "as in the recipe"):
            row += [None, None]
        else:
            found = difference(groups["as in the recipe"], group)
            row += [found.gain, P(found.p_value)]
        if row[0] == "base":
            row += [None, None]
        else:
            row += [round(group.count("select", "kept_steps")), group.seconds("sample", "select", "finetune")]
    seeds = fmean(len(group.jobs) for group in groups.values())
    notes = [size_note(groups["base"]), f"{seeds:.0f} seed(s) per setting; Table 6 shows the spread over seeds."]
    return Report("Sweeps: one setting at a time", header, rows, (), notes)
