"""The reports of the paper's figures."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from lightreasoner.config import SampleConfig
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.report import figures
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout
from lightreasoner.samples.statistics import HEAD_BINS, PAPER_BETA, TAIL_BINS, Divergence
from lightreasoner.studies import grids, tables
from lightreasoner.studies.grids import Scope
from lightreasoner.studies.jobs import Samples
from lightreasoner.studies.outcomes import AVERAGE, difference
from lightreasoner.studies.reports import Claim, Report, Row
from lightreasoner.studies.tables import Groups

SEGMENT = 32  # tokens of a rollout in Figure 3


def figure1(scope: Scope, groups: Groups) -> Report:
    """Problems, time and gain of SFT and the method."""
    axes = ("problems", "time (s)", "gain")
    rows: list[Row] = []
    for recipe in scope.recipes:
        base = groups[f"{recipe.expert} base"]
        for run in ("SFT", "LightReasoner"):
            group = groups[f"{recipe.expert} {run}"]
            cost = tables.costs(group)
            numbers = (cost["problems"], cost["time"], difference(base, group).gain.value)
            rows.append({"expert": recipe.expert, "run": run, **dict(zip(axes, numbers, strict=True))})
    title = "Figure 1: problems, time and gain"
    return Report(title, rows, draw=lambda: figures.radar(axes, _panels(rows), [".0f", ".0f", "+.1f"]))


def figure2(scope: Scope, groups: Groups) -> Report:
    """The distribution of the divergence of expert from amateur."""
    config, rollouts = _samples(groups)
    found = Divergence.of(rollouts)
    shares, tail = found.histogram.shares()
    low, above = 100 * found.below_tenth_share, 100 * found.exceeding_share
    notes = [
        f"{found.histogram.total} tokens of {config.expert} with amateur {config.amateur}, seed {config.seed}. "
        f"{above:.1f} % exceed {PAPER_BETA} nats. The mean is {found.differed.value or 0:.2f} where the most probable "
        f"tokens differ and {found.agreed.value or 0:.3f} where they agree; "
        f"{100 * found.exceeding_agreed_share:.0f} % of the latter exceed {PAPER_BETA}.",
    ]
    claim = Claim(
        "most tokens have a divergence below 0.1, and about a fifth exceed 0.4",
        "holds" if low > 50 and 10 <= above <= 30 else "does not hold",
        f"{low:.0f} % below 0.1, {above:.0f} % above 0.4",
    )
    head, inset = (
        [{"KL (nats)": str(place), "% of tokens": 100 * share} for place, share in zip(bins, of, strict=True)]
        for bins, of in ((HEAD_BINS, shares), (TAIL_BINS, tail))
    )
    beta = scope.main.sample.divergence_beta
    return Report(
        "Figure 2: divergence of expert from amateur",
        head,
        [claim],
        notes,
        lambda: figures.kl_histogram(shares, tail, beta),
        [*head, *inset],
    )


def figure3(scope: Scope, groups: Groups) -> Report:
    """The divergence along two rollouts."""
    config, rollouts = _samples(groups)
    tokenizer = load_tokenizer(find_model(config.expert, config.expert_revision), config)
    # The two rollouts that fill most of the plot.
    longest = sorted(rollouts, key=lambda row: -min(len(row.kl), SEGMENT))[:2]
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
    return Report(title, [], [], notes, lambda: figures.kl_along_rollout(segments, beta), data)


def figure4(scope: Scope, groups: Groups) -> Report:
    """The inputs and outputs of each stage of the method."""
    group = groups["LightReasoner"]
    sampled, chosen, tuned = (group.result(name)[0] for name in ("sample", "select", "finetune"))
    before, after = groups["base"].accuracy(AVERAGE), group.accuracy(AVERAGE)
    stages = [
        ("sample", f"{sampled['questions']} problems", f"{sampled['steps']} steps", group.seconds("sample")),
        ("select", f"{chosen['steps']} steps", f"{chosen['kept_steps']} labels", group.seconds("select")),
        ("fine-tune", f"{tuned['labels']} labels", f"{tuned['labels_trained']} trained", group.seconds("finetune")),
        ("merge and evaluate", f"{before:.1f} % before", f"{after:.1f} % after", group.seconds("merge", "evaluate")),
    ]
    counts = {
        "sampled steps": float(sampled["steps"]),
        "kept steps": float(chosen["kept_steps"]),
        "labels trained": float(tuned["labels_trained"]),
    }
    bars = {"from rollouts to training": {"steps": list(counts.values())}}
    return Report(
        "Figure 4: the stages in numbers",
        [dict(zip(("stage", "in", "out", "seconds"), stage, strict=True)) for stage in stages],
        notes=[f"{scope.main.expert}, amateur {scope.main.amateur}, seed 0."],
        draw=lambda: figures.grouped_bars(list(counts), bars, ylabel="steps"),
        data=[{"what": name, "steps": count} for name, count in counts.items()],
    )


def figure5(scope: Scope, groups: Groups) -> Report:
    """Accuracy before and after, column by column."""
    columns = groups[f"{scope.main.expert} base"].columns
    rows = []
    for recipe in scope.recipes:
        for run in ("base", "LightReasoner"):
            group = groups[f"{recipe.expert} {run}"]
            rows.append({"expert": recipe.expert, "run": run, **{column: group.accuracy(column) for column in columns}})
    return Report("Figure 5: before and after", rows, draw=lambda: figures.grouped_bars(columns, _panels(rows)))


def figure6(scope: Scope, groups: Groups) -> Report:
    """Accuracy after training over the gap between expert and amateur."""
    table = tables.table5(scope, groups)
    columns = ("expert", "amateur", "gap", "AVG before", "AVG after", "gain (95 %)")
    points = [figures.GapPoint(row["expert"], row["amateur"], row["gap"], row["AVG after"]) for row in table.rows]
    baselines = {row["expert"]: row["AVG before"] for row in table.rows}
    return Report(
        "Figure 6: accuracy over the gap",
        [{column: row[column] for column in columns} for row in table.rows],
        table.claims,
        draw=lambda: figures.gap_scatter(points, baselines),
    )


def figure7(scope: Scope, groups: Groups) -> Report:
    """Gains of the ablations."""
    columns = [*groups["base"].columns, AVERAGE]
    series = {
        name: [groups[name].accuracy(column) - groups["base"].accuracy(column) for column in columns]
        for name in grids.ABLATIONS
    }
    return Report(
        "Figure 7: gains of the ablations over the base, in points",
        [{"setting": name, **dict(zip(columns, gains, strict=True))} for name, gains in series.items()],
        tables.table6(scope, groups).claims,
        draw=lambda: figures.radar(columns, {scope.main.expert: series}, ["+.1f"] * len(columns), one_scale=True),
    )


def figure8(scope: Scope, groups: Groups) -> Report:
    """Perplexity of written solutions along training, scaled to 0–1 as in the paper."""
    rows: list[Row] = []
    series: dict[str, tuple[list[float], list[float]]] = {}
    claims = []
    for expert, group in groups.items():
        points: Any = group.result("losses")[0]
        curve = [(point["step"], math.exp(point["loss"])) for point in points]
        steps, perplexity = map(list, zip(*curve, strict=True))
        low, span = min(perplexity), max(perplexity) - min(perplexity)
        series[expert] = (steps, [(value - low) / span if span else 0.0 for value in perplexity])
        rows += [{"expert": expert, "step": step, "perplexity": f"{value:.3f}"} for step, value in curve]
        falls = perplexity[-1] < perplexity[0]
        evidence = f"{perplexity[0]:.2f} before, {low:.2f} at best, {perplexity[-1]:.2f} at the end"
        claims.append(Claim(f"{expert}: perplexity falls", "holds" if falls else "does not hold", evidence))
    return Report(
        "Figure 8: held-out perplexity along training",
        rows,
        claims,
        ["Perplexity per token of written solutions to 200 problems that were not sampled, seed 0; one run each."],
        lambda: figures.curves(series, "step", "perplexity, scaled to 0–1"),
    )


def figure9(scope: Scope, groups: Groups) -> Report:
    """The loss of rejection SFT along training."""
    rows: list[Row] = []
    series: dict[str, tuple[list[float], list[float]]] = {}
    for expert, group in groups.items():
        log = json.loads((group.jobs[0].folder / "finetune" / "log.json").read_text())
        points = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
        series[expert] = ([step for step, _ in points], [loss for _, loss in points])
        rows += [{"expert": expert, "step": step, "cross-entropy": f"{loss:.4f}"} for step, loss in points]
    return Report(
        "Figure 9: loss of rejection SFT along training",
        rows,
        notes=["Means over the steps between two log entries, seed 0; one run each."],
        draw=lambda: figures.curves(series, "step", "cross-entropy (nats a token)"),
    )


def _samples(groups: Groups) -> tuple[SampleConfig, Iterator[Rollout]]:
    """The settings of the samples, and their rollouts."""
    (job,) = groups["samples"].jobs
    assert isinstance(job, Samples)
    _, stage = read_stage(job.folder / "sample")
    return job.config, (rollout for table in stage.tables("rollouts") for rollout in Rollout.rows(table))


def _panels(rows: Sequence[Row]) -> dict[str, dict[str, list[float]]]:
    """The numbers of each row, by expert and run."""
    panels: dict[str, dict[str, list[float]]] = {}
    for expert, run, *numbers in (row.values() for row in rows):
        panels.setdefault(expert, {})[run] = numbers
    return panels
