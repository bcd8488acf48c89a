"""The first sentence of a report: what was run, and its result."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report.model import Accuracy, Report
from lightreasoner.report.tables import p_value

LEVEL = 0.05  # significance level: a difference with a smaller p-value counts as found


def verdict_of(report: Report) -> str:
    """The verdict on a run as one sentence; with several kinds of prompt, on the first of them."""
    name, trained, sampled = report.expert or report.run, report.cost.tuned_tokens, report.cost.problems
    if report.main_test is not None:
        contrast = f" from its contrast with {report.amateur}" if report.amateur and report.objective == "label" else ""
        return f"Fine-tuning {name}{_trained_on(report)}{contrast} {_effect(report.main_test, report.accuracies)}"
    if trained is not None:
        return f"{name} was fine-tuned{_trained_on(report)}; there is no evaluation before and after to compare."
    if sampled is not None:
        against = f" and {report.amateur}" if report.amateur else ""
        source = f" of {report.dataset}" if report.dataset else ""
        return f"{sampled:,} problems{source} were sampled from {name}{against}; no model was trained on them yet."
    return f"{name} was evaluated; there is nothing to compare it with."


def _trained_on(report: Report) -> str:
    trained = report.cost.tuned_tokens
    if report.objective == "entropy":
        return " on the entropy of its own predictions" + (f" at {trained:,} steps" if trained is not None else "")
    return f" on {trained:,} labels" if trained is not None else ""


def _effect(row: Mapping[str, Any], accuracies: Sequence[Accuracy]) -> str:
    where = (
        f"the mean of {row['benchmarks']} benchmarks"
        if "benchmarks" in row
        else next((one.title for one in accuracies if one.benchmark == row["benchmark"]), row["benchmark"])
    )
    gain = Interval.of(row, "gain").percent
    chance = "p < 0.001" if row["p_value"] < 0.001 else f"p = {p_value(row['p_value'])}"
    change = f"{gain.value:+.1f} points, 95 % interval {gain.ends('+.1f')}, {chance}"
    before, after = 100 * row["before"], 100 * row["after"]
    if row["p_value"] >= LEVEL:
        return (
            f"made no detectable difference on {where} with {row['total']:,} items: "
            f"{before:.1f} % before, {after:.1f} % after ({change})."
        )
    verb = "raised" if gain.value > 0 else "lowered"
    return f"{verb} accuracy on {where} from {before:.1f} % to {after:.1f} % ({change})."
