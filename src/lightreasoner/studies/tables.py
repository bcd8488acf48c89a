"""The reports of the paper's tables, and three of ours."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev

import numpy as np
from scipy.stats import permutation_test, rankdata

from lightreasoner.config.sections import LABEL_FREE
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.report import figures
from lightreasoner.studies import grids
from lightreasoner.studies.grids import Scope
from lightreasoner.studies.jobs import Training, TunedTemperature
from lightreasoner.studies.outcomes import AVERAGE, Difference, Group, difference
from lightreasoner.studies.reports import SIGNIFICANCE, Claim, P, Report, Row, at_most, decide_all

Groups = Mapping[str, Group]


def accuracies(groups: Groups, base: str = "base") -> list[Row]:
    """Accuracy of every setting in every column, with the gain over the base."""
    rows = []
    for name, group in groups.items():
        averages = group.by_seed()
        row: Row = {"setting": name}
        row |= {column: group.accuracy(column) for column in [*groups[base].columns, AVERAGE]}
        row["sd of seeds"] = stdev(averages) if len(averages) > 1 else None
        row |= _gain(None if name == base else difference(groups[base], group))
        rows.append({**row, "seeds": len(averages)})
    return rows


def _gain(found: Difference | None) -> Row:
    """The columns of a difference; empty for the base itself."""
    if found is None:
        return dict.fromkeys(("gain (95 %)", "p items", "p seeds"))
    return {"gain (95 %)": found.gain, "p items": P(found.p_items), "p seeds": P(found.p_seeds)}


def _labels(group: Group) -> int:
    return round(group.count("select", "kept_steps"))


def size_note(group: Group) -> str:
    """The number of items of an accuracy."""
    sizes = ", ".join(f"{column} {len(items)}" for column, items in group.scores[0].items())
    return f"Items: {sizes}. AVG is the unweighted mean of the columns; gains and tests are paired over the same items."


def table1(scope: Scope, groups: Groups) -> Report:
    """Accuracy before and after, and after rejection SFT."""
    rows: list[Row] = []
    pairs = []
    for recipe in scope.recipes:
        names = [f"{recipe.expert} {run}" for run in ("base", "SFT", "LightReasoner")]
        base, sft, method = (groups[name] for name in names)
        if recipe.evaluate.prompts == "both":
            plain = f"{names[0]}, plain prompt (the paper's base)"
            rows += accuracies({plain: Group(base.jobs, "plain")}, plain)
        rows += accuracies({name: groups[name] for name in names}, names[0])
        pairs.append((f"{recipe.expert} gains by the method", difference(base, method)))
        pairs.append((f"{recipe.expert}: the method is better than rejection SFT", difference(sft, method)))
    notes = [size_note(groups[f"{scope.main.expert} base"]), "Gains and tests compare models under the same prompt."]
    return Report("Table 1: accuracy", rows, decide_all(pairs), notes)


def costs(group: Group) -> dict[str, float]:
    """Time, problems and tuned tokens of a setting, means over seeds."""
    return {
        "time": group.seconds("sample", "select", "finetune"),
        "problems": group.count("sample", "questions"),
        "tuned tokens": group.count("finetune", "labels_trained"),
    }


def table2(scope: Scope, groups: Groups) -> Report:
    """Efficiency."""
    rows: list[Row] = []
    claims = []
    pairs = []
    for recipe in scope.recipes:
        base, sft = (groups[f"{recipe.expert} {run}"] for run in ("base", "SFT"))
        for run in ("SFT", "LightReasoner", grids.FRUGAL):
            group = groups[f"{recipe.expert} {run}"]
            cost = costs(group)
            rows.append(
                {
                    "expert": recipe.expert,
                    "run": run,
                    "time (s)": cost["time"],
                    "of it sampling (s)": group.seconds("sample"),
                    "problems": round(cost["problems"]),
                    "answers kept": round(group.count("sample", "answers_kept")) if run == "SFT" else None,
                    "tuned tokens": round(cost["tuned tokens"]),
                    "gain (95 %)": difference(base, group).gain,
                }
            )
            if run == "SFT":
                continue
            for name, limit in (("time", 25), ("problems", 20), ("tuned tokens", 5)):
                text = f"{recipe.expert}, {run}: {name} in percent of SFT's"
                claims.append(at_most(text, 100 * cost[name] / costs(sft)[name], limit))
        text = f"{recipe.expert}: the method with fewer problems and steps is better than SFT"
        pairs.append((text, difference(sft, group)))
    claims += decide_all(pairs)
    notes = [
        "Time is that of sampling, selection and fine-tuning while other workers ran; means over seeds. Sampling makes "
        "labels of every step here, which several studies share.",
        "Problems are those sampled; the paper counts SFT's kept ones. Tuned tokens are the labels of all training "
        "steps, repetitions included.",
    ]
    return Report("Table 2: efficiency against rejection SFT", rows, claims, notes)


def table3(scope: Scope, groups: Groups) -> Report:
    """What SFT and the method use, measured."""
    rows: list[Row] = []
    for recipe in scope.recipes:
        sft, method = groups[f"{recipe.expert} SFT"], groups[f"{recipe.expert} LightReasoner"]
        ended = {
            "SFT": 1 - sft.count("sample", "truncated") / sft.count("sample", "questions"),
            "LightReasoner": method.count("sample", "finished_rollouts") / method.count("sample", "questions"),
        }
        tuned = {
            "SFT": sft.count("sample", "labels") / sft.count("sample", "tokens"),
            "LightReasoner": method.count("select", "kept_steps") / method.count("select", "steps"),
        }
        rows += [
            {
                "expert": recipe.expert,
                "run": run,
                "gold answers used": run == "SFT",
                "share of rollouts that ended": f"{100 * ended[run]:.0f} %",
                "share of sampled tokens tuned": f"{100 * tuned[run]:.0f} %",
            }
            for run in ended
        ]
    notes = ["The attributes of the paper's Table 3 as shares: full or prefix sampling, all or selected tokens."]
    return Report("Table 3: what SFT and the method use", rows, notes=notes)


def table4(scope: Scope, groups: Groups) -> Report:
    """The contrast at inference against the contrast in training."""
    rows = accuracies(groups)
    contrastive = [name for name in groups if name.startswith("contrastive")]
    for row in rows:
        row["models at inference"] = 2 if row["setting"] in contrastive else 1
        row["seconds to answer"] = groups[row["setting"]].seconds("evaluate")
    method = groups["LightReasoner"]
    claims = decide_all((f"the method is better than {name}", difference(groups[name], method)) for name in contrastive)
    notes = [
        "Contrastive decoding runs in a plain loop, the others in the packed engine, so the times show little more "
        "than two models against one."
    ]
    return Report("Table 4: contrast at inference or in training", rows, claims, notes)


def table5(scope: Scope, groups: Groups) -> Report:
    """The gap between expert and amateur, and the gain."""
    rows: list[Row] = []
    for recipe, amateur, name in grids.pairings(scope):
        base, tuned = groups[f"{recipe.expert} base"], groups[f"{recipe.expert} × {amateur}"]
        before = base.accuracy(AVERAGE)
        row: Row = {"expert": recipe.expert, "amateur": name, "gap": before - groups[amateur].accuracy(AVERAGE)}
        row |= {"AVG before": before, "AVG after": tuned.accuracy(AVERAGE), **_gain(difference(base, tuned))}
        rows.append({**row, "seeds": len(tuned.jobs), "labels": _labels(tuned)})
    claims = [_correlation("all pairs", rows)]
    for recipe in scope.recipes:
        own = [row for row in rows if row["expert"] == recipe.expert]
        if len(own) >= 4:
            claims.append(_correlation(f"pairs of {recipe.expert}", own))
    for row in rows:
        gap, gain = row["gap"], row["gain (95 %)"]
        if gap < 0:
            verdict = "does not hold" if gain.low > 0 else "holds" if gain.high <= 0 else "not decided"
            text = f"{row['expert']} gains nothing from the stronger {row['amateur']}"
            claims.append(Claim(text, verdict, f"gap {gap:+.1f}, gain {gain:+.1f}"))
    notes = [size_note(groups[f"{scope.main.expert} base"])]
    return Report("Table 5: amateurs of different strengths", rows, claims, notes)


def _correlation(of: str, rows: Sequence[Row]) -> Claim:
    """A claim that gains grow with gaps."""
    gaps, gains = rankdata([row["gap"] for row in rows]), rankdata([row["gain (95 %)"].value for row in rows])
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
    in_order = [groups[name] for name in grids.ABLATIONS]
    means = [group.accuracy(AVERAGE) for group in in_order]
    holds = all(first >= second for first, second in pairwise(means))
    evidence = (" ≥ " if holds else ", ").join(f"{value:.1f}" for value in means)
    claims = [Claim("the means are in the paper's order", "holds" if holds else "does not hold", evidence)]
    names = ("full", "no selection", "no contrast", "neither")
    claims += decide_all(
        (f"{better} is better than {worse}", difference(second, first))
        for (better, worse), (first, second) in zip(pairwise(names), pairwise(in_order), strict=True)
    )
    others = ("no contrast (own token)", "no contrast (own distribution)", "rejection SFT", "ground-truth SFT")
    claims += decide_all((f"full is better than {name}", difference(groups[name], in_order[0])) for name in others)
    return Report("Table 6: ablations and baselines", accuracies(groups), claims, [size_note(groups["base"])])


def table7(scope: Scope, groups: Groups) -> Report:
    """Rollout length."""
    rows = accuracies(groups)
    for row in rows:
        group = None if row["setting"] == "base" else groups[row["setting"]]
        row |= {"sampling (s)": group and group.seconds("sample"), "labels": group and _labels(group)}
    default = str(scope.main.sample.max_new_tokens)
    claims = decide_all(
        (f"rollouts of {default} are better than of {name}", difference(group, groups[default]))
        for name, group in groups.items()
        if name not in ("base", default) and default in groups
    )
    return Report("Table 7: rollout length in tokens", rows, claims, [size_note(groups["base"])])


def table8(scope: Scope, groups: Groups) -> Report:
    """Transfer to another subject, or to kinds of problem that were not sampled."""
    rows, base, trained = accuracies(groups), groups["base"], groups["LightReasoner"]
    notes = [size_note(base)]
    if scope.main.study.transfer:
        claims = decide_all([("the method helps on another subject", difference(base, trained))])
        return Report("Table 8: transfer to commonsense", rows, claims, notes)
    sampled = grids.sampled_themes()
    kinds = {"not sampled": sorted(set(THEMES) - set(sampled)), "sampled": sampled}
    claims = decide_all(
        (f"the method helps on kinds that were {which} ({', '.join(themes)})", difference(base, trained, themes))
        for which, themes in kinds.items()
    )
    notes.append(
        "Miniature models know no commonsense. Instead, half of the kinds of problem are sampled, and all evaluated."
    )
    return Report("Table 8: transfer to kinds of problem that were not sampled", rows, claims, notes)


def selection(scope: Scope, groups: Groups) -> Report:
    """The selection rules."""
    rows = accuracies(groups)
    for row in rows:
        row["labels"] = None if row["setting"] == "base" else _labels(groups[row["setting"]])
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
    return Report("Selection rules at equal numbers of labels", rows, decide_all(pairs), notes)


def sweeps(scope: Scope, groups: Groups) -> Report:
    """One setting at a time."""
    rows = accuracies(groups)
    recipe = groups["as in the recipe"]
    for row in rows:
        group = groups[row["setting"]]
        trained = row["setting"] != "base"
        found = difference(recipe, group) if trained and group is not recipe else None
        row |= {"against the recipe (95 %)": found and found.gain, "p": found and P(found.p_value)}
        row["labels"] = _labels(group) if trained else None
        row["time (s)"] = group.seconds("sample", "select", "finetune") if trained else None
    seeds = fmean(len(group.jobs) for group in groups.values())
    notes = [size_note(groups["base"]), f"{seeds:.0f} seed(s) per setting; Table 6 shows the spread over seeds."]
    return Report("Sweeps: one setting at a time", rows, notes=notes)


def baselines(scope: Scope, groups: Groups) -> Report:
    """The method and its baselines, best first."""
    rows = accuracies(groups)
    for row in rows:
        row |= _budget(groups[row["setting"]])
    rows.sort(key=lambda row: -row[AVERAGE])
    method, base = groups[grids.METHOD], groups["base"]
    others = {name: group for name, group in groups.items() if name not in ("base", grids.METHOD)}
    pairs = [(f"the method is better than {name}", difference(group, method)) for name, group in others.items()]
    pairs.append(("the method is better than the base", difference(base, method)))
    pairs += [(f"{name} is better than the base", difference(base, group)) for name, group in others.items()]
    choices = groups[grids.TUNED].result("choice")
    chosen = ", ".join(f"{choice['temperature']:g}" for choice in choices)
    tried = {name: fmean(100 * choice["accuracies"][name] for choice in choices) for name in choices[0]["accuracies"]}
    found = ", ".join(f"{value:.1f} at {name}" for name, value in tried.items())
    notes = [
        size_note(base),
        "Best mean first. All train with the recipe's learning rate and LoRA and, but for the SFT of one epoch, with "
        "its steps and labels; no setting was tuned for any row. Tokens generated are those of all samples, kept or "
        "not; labels trained count repetitions.",
        "Rejection SFT trains on right answers only. The temperature of the base was chosen by gold answers of "
        f"held-out problems: {chosen} by seed (mean accuracy there: {found}).",
        "Contrastive decoding needs both models at inference. SePT and U-OPSD refresh their samples while they train; "
        "here each has one round.",
    ]
    gains = {row["setting"]: row["gain (95 %)"] for row in rows if row["gain (95 %)"] is not None}
    return Report(
        "Baselines on the same problems",
        rows,
        decide_all(pairs),
        notes,
        lambda: figures.grouped_bars(list(gains), {scope.main.expert: {"gain": list(gains.values())}}, "gain (points)"),
        [{"setting": name, "gain": gain.value, "low": gain.low, "high": gain.high} for name, gain in gains.items()],
    )


def _budget(group: Group) -> Row:
    """What a setting used: gold answers, samples generated, labels trained, and their time."""
    job = group.jobs[0]
    if not isinstance(job, Training):
        uses_gold = isinstance(job, TunedTemperature)
        return {"gold answers": uses_gold, "tokens generated": None, "labels trained": None, "time (s)": None}
    return {
        "gold answers": job.baseline is not None and job.baseline not in LABEL_FREE,
        "tokens generated": round(group.count("sample", "tokens" if job.baseline else "steps")),
        "labels trained": round(group.count("finetune", "labels_trained")),
        "time (s)": group.seconds("sample", *(() if job.baseline else ("select",)), "finetune"),
    }
