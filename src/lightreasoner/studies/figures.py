"""The reports of the paper's figures."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.models.loading import find_model, load_tokenizer
from lightreasoner.report import figures
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS, KlHistogram, Mean
from lightreasoner.studies import tables
from lightreasoner.studies.grids import Scope
from lightreasoner.studies.jobs import Samples
from lightreasoner.studies.outcomes import AVERAGE, difference
from lightreasoner.studies.reports import Claim, Report
from lightreasoner.studies.tables import Groups

PAPER_BETA = 0.4  # nats, the threshold in the paper's text on Figure 2
SEGMENT = 32  # tokens of a rollout in Figure 3


def figure1(scope: Scope, groups: Groups) -> Report:
    """Problems, time and gain of SFT and the method."""
    names = ["problems", "time (s)", "gain"]
    panels: dict[str, dict[str, list[float]]] = {}
    for recipe in scope.recipes:
        base = groups[f"{recipe.expert} base"]
        for run in ("SFT", "LightReasoner"):
            group = groups[f"{recipe.expert} {run}"]
            cost = tables.costs(group)
            values = [cost["problems"], cost["time"], difference(base, group).gain.value]
            panels.setdefault(recipe.expert, {})[run] = values
    rows = [[expert, run, *values] for expert, series in panels.items() for run, values in series.items()]
    header = ["expert", "run", *names]
    return Report(
        "Figure 1: problems, time and gain",
        header,
        rows,
        draw=lambda: figures.radar(names, panels, [".0f", ".0f", "+.1f"]),
        data=_data(header, rows),
    )


def figure2(scope: Scope, groups: Groups) -> Report:
    """The distribution of the divergence of expert from amateur."""
    job = _samples(groups)
    histogram, agreed, differed = KlHistogram(), Mean(), Mean()
    exceeding = exceeding_agreed = 0
    for row in _rollouts(job):
        kl = np.array(row.kl, dtype=float)
        agrees = np.array([e[0] == a[0] for e, a in zip(row.expert_top_ids, row.amateur_top_ids, strict=True)], bool)
        histogram.add(kl)
        agreed.add(kl[agrees])
        differed.add(kl[~agrees])
        exceeding += int(np.count_nonzero(kl > PAPER_BETA))
        exceeding_agreed += int(np.count_nonzero(kl[agrees] > PAPER_BETA))
    shares, tail = histogram.shares()
    beta = scope.main.sample.divergence_beta
    rows = [[str(place), 100 * share] for place, share in zip(HEAD_BINS, shares, strict=True)]
    above = 100 * exceeding / max(1, histogram.total)
    notes = [
        f"{histogram.total} tokens of {job.config.expert} with amateur {job.config.amateur}, seed {job.config.seed}. "
        f"{above:.1f} % exceed {PAPER_BETA} nats. The mean is {differed.value or 0:.2f} where the most probable tokens "
        f"differ and {agreed.value or 0:.3f} where they agree; "
        f"{100 * exceeding_agreed / max(1, agreed.count):.0f} % of the latter exceed {PAPER_BETA}.",
    ]
    low = 100 * shares[0]
    claims = [
        Claim(
            "most tokens have a divergence below 0.1, and about a fifth exceed 0.4",
            "holds" if low > 50 and 10 <= above <= 30 else "does not hold",
            f"{low:.0f} % below 0.1, {above:.0f} % above 0.4",
        )
    ]
    header = ["KL (nats)", "% of tokens"]
    data = _data(header, [*rows, *([str(place), 100 * share] for place, share in zip(TAIL_BINS, tail, strict=True))])
    return Report(
        "Figure 2: divergence of expert from amateur",
        header,
        rows,
        claims,
        notes,
        lambda: figures.kl_histogram(shares, tail, beta),
        data,
    )


def figure3(scope: Scope, groups: Groups) -> Report:
    """The divergence along two rollouts."""
    job = _samples(groups)
    source = find_model(job.config.expert, job.config.expert_revision)
    tokenizer = load_tokenizer(source, job.config)
    # The two rollouts that fill most of the plot.
    longest = sorted(_rollouts(job), key=lambda row: -min(len(row.kl), SEGMENT))[:2]
    segments = [
        figures.Segment([str(tokenizer.decode([token])) for token in row.response_ids[:SEGMENT]], row.kl[:SEGMENT])
        for row in longest
    ]
    data = [
        {"rollout": place, "position": position, "token": token, "kl": kl}
        for place, segment in enumerate(segments)
        for position, (token, kl) in enumerate(zip(segment.tokens, segment.kl, strict=True))
    ]
    beta = scope.main.sample.divergence_beta
    notes = [f"Question {place + 1}: {row.question}" for place, row in enumerate(longest)]
    title = "Figure 3: divergence along two rollouts"
    return Report(title, [], [], (), notes, lambda: figures.kl_along_rollout(segments, beta), data)


def figure4(scope: Scope, groups: Groups) -> Report:
    """The inputs and outputs of each stage of the method."""
    group = groups["LightReasoner"]
    sampled, chosen, tuned = (group.result(name)[0] for name in ("sample", "select", "finetune"))
    before, after = groups["base"].accuracy(AVERAGE), group.accuracy(AVERAGE)
    rows: list[list[Any]] = [
        ["sample", f"{sampled['questions']} problems", f"{sampled['steps']} steps", group.seconds("sample")],
        ["select", f"{chosen['steps']} steps", f"{chosen['kept_steps']} labels", group.seconds("select")],
        ["fine-tune", f"{tuned['labels']} labels", f"{tuned['labels_trained']} trained", group.seconds("finetune")],
        ["merge and evaluate", f"{before:.1f} % before", f"{after:.1f} % after", group.seconds("merge", "evaluate")],
    ]
    names = ["sampled steps", "kept steps", "labels trained"]
    counts = [float(sampled["steps"]), float(chosen["kept_steps"]), float(tuned["labels_trained"])]
    header = ["stage", "in", "out", "seconds"]
    return Report(
        "Figure 4: the stages in numbers",
        header,
        rows,
        notes=[f"{scope.main.expert}, amateur {scope.main.amateur}, seed 0."],
        draw=lambda: figures.grouped_bars(names, {"from rollouts to training": {"steps": counts}}, ylabel="steps"),
        data=[{"what": name, "steps": count} for name, count in zip(names, counts, strict=True)],
    )


def figure5(scope: Scope, groups: Groups) -> Report:
    """Accuracy before and after, column by column."""
    columns = groups[f"{scope.main.expert} base"].columns
    panels = {
        recipe.expert: {
            run: [groups[f"{recipe.expert} {run}"].accuracy(column) for column in columns]
            for run in ("base", "LightReasoner")
        }
        for recipe in scope.recipes
    }
    rows = [[expert, run, *values] for expert, series in panels.items() for run, values in series.items()]
    header = ["expert", "run", *columns]
    return Report(
        "Figure 5: before and after",
        header,
        rows,
        draw=lambda: figures.grouped_bars(columns, panels),
        data=_data(header, rows),
    )


def figure6(scope: Scope, groups: Groups) -> Report:
    """Accuracy after training over the gap between expert and amateur."""
    table = tables.table5(scope, groups)
    points = [figures.GapPoint(row[0], row[1], row[2], row[4]) for row in table.rows]
    baselines = {row[0]: row[3] for row in table.rows}
    header = ["expert", "amateur", "gap", "AVG before", "AVG after", "gain (95 %)"]
    rows = [list(row[:6]) for row in table.rows]
    return Report(
        "Figure 6: accuracy over the gap",
        header,
        rows,
        table.claims,
        draw=lambda: figures.gap_scatter(points, baselines),
        data=_data(header, rows),
    )


def figure7(scope: Scope, groups: Groups) -> Report:
    """Gains of the ablations."""
    columns = [*groups["base"].columns, AVERAGE]
    names = ("full LightReasoner", "no selection", "no contrast (own token)", "neither (own token)")
    series = {
        name: [groups[name].accuracy(column) - groups["base"].accuracy(column) for column in columns] for name in names
    }
    rows = [[name, *values] for name, values in series.items()]
    header = ["setting", *columns]
    return Report(
        "Figure 7: gains of the ablations over the base, in points",
        header,
        rows,
        claims=tables.table6(scope, groups).claims,
        draw=lambda: figures.radar(columns, {scope.main.expert: series}, ["+.1f"] * len(columns), one_scale=True),
        data=_data(header, rows),
    )


def figure8(scope: Scope, groups: Groups) -> Report:
    """Perplexity of written solutions along training, scaled to 0–1 as in the paper."""
    rows: list[list[Any]] = []
    series: dict[str, tuple[list[float], list[float]]] = {}
    claims = []
    for expert, group in groups.items():
        curve: Any = group.result("losses")[0]
        steps = [float(point["step"]) for point in curve]
        perplexity = [math.exp(point["loss"]) for point in curve]
        low, span = min(perplexity), max(perplexity) - min(perplexity)
        series[expert] = (steps, [(value - low) / span if span else 0.0 for value in perplexity])
        rows += [[expert, round(step), f"{value:.3f}"] for step, value in zip(steps, perplexity, strict=True)]
        falls = perplexity[-1] < perplexity[0]
        evidence = f"{perplexity[0]:.2f} before, {low:.2f} at best, {perplexity[-1]:.2f} at the end"
        claims.append(Claim(f"{expert}: perplexity falls", "holds" if falls else "does not hold", evidence))
    notes = ["Perplexity per token of written solutions to 200 problems that were not sampled, seed 0; one run each."]
    header = ["expert", "step", "perplexity"]
    return Report(
        "Figure 8: held-out perplexity along training",
        header,
        rows,
        claims,
        notes,
        lambda: figures.curves(series, "step", "perplexity, scaled to 0–1"),
        _data(header, rows),
    )


def figure9(scope: Scope, groups: Groups) -> Report:
    """The loss of rejection SFT along training."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    rows: list[list[Any]] = []
    for expert, group in groups.items():
        log = json.loads((group.jobs[0].folder / "finetune" / "log.json").read_text())
        points = [(float(entry["step"]), float(entry["loss"])) for entry in log if "loss" in entry]
        series[expert] = ([step for step, _ in points], [loss for _, loss in points])
        rows += [[expert, round(step), f"{loss:.4f}"] for step, loss in points]
    header = ["expert", "step", "cross-entropy"]
    return Report(
        "Figure 9: loss of rejection SFT along training",
        header,
        rows,
        notes=["Means over the steps between two log entries, seed 0; one run each."],
        draw=lambda: figures.curves(series, "step", "cross-entropy (nats a token)"),
        data=_data(header, rows),
    )


def _samples(groups: Groups) -> Samples:
    (job,) = groups["samples"].jobs
    assert isinstance(job, Samples)
    return job


def _rollouts(job: Samples) -> Iterator[Rollout]:
    _, stage = read_stage(job.folder / "sample")
    for table in stage.tables("rollouts"):
        yield from Rollout.rows(table)


def _data(header: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    """Rows for the data files of a figure; an interval becomes its value."""
    return [
        {name: cell.value if isinstance(cell, Interval) else cell for name, cell in zip(header, row, strict=True)}
        for row in rows
    ]
