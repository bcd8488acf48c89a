"""The first sentence of a report: what was run, and what came of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightreasoner.report.model import Accuracy

SURE = 0.05  # p-value below which a difference is taken for real


def verdict_of(
    *,
    run: str,
    expert: str | None,
    amateur: str | None,
    dataset: str | None,
    questions: int | None,
    trained: int | None,
    accuracies: Sequence[Accuracy],
    comparison: Mapping[str, Any],
) -> str:
    """One sentence; of several kinds of prompt the first one counts.

    Args:
        run: the folder.
        expert: name of the model.
        amateur: name of the weaker one.
        dataset: where the problems are from.
        questions: problems sampled.
        trained: labels trained on.
        accuracies: by benchmark.
        comparison: what `evaluation.comparison.compare` says.
    """
    name = expert or run
    rows = [*comparison.get("overall", ()), *comparison.get("benchmarks", ())]
    if rows:
        return f"{_what(name, amateur, trained)} {_effect(rows[0], accuracies)}"
    if trained is not None:
        return f"{name} was fine-tuned on {trained:,} labels; there is no evaluation before and after to judge it by."
    if questions is not None:
        against = f" and {amateur}" if amateur else ""
        source = f" of {dataset}" if dataset else ""
        return f"{questions:,} problems{source} were sampled from {name}{against}; nothing was trained on them yet."
    return f"{name} was evaluated; there is nothing to compare it with."


def _what(name: str, amateur: str | None, trained: int | None) -> str:
    labels = f" on {trained:,} labels" if trained is not None else ""
    contrast = f" from its contrast with {amateur}" if amateur else ""
    return f"Fine-tuning {name}{labels}{contrast}"


def _effect(row: Mapping[str, Any], accuracies: Sequence[Accuracy]) -> str:
    where = (
        f"the mean of {row['benchmarks']} benchmarks"
        if "benchmarks" in row
        else next((one.title for one in accuracies if one.benchmark == row["benchmark"]), row["benchmark"])
    )
    before, after, gain, low, high = (100 * row[key] for key in ("before", "after", "gain", "low", "high"))
    change = f"{gain:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}, {_chance(row['p_value'])}"
    if row["p_value"] >= SURE:
        return (
            f"made no difference on {where} that {row['total']:,} items can show: "
            f"{before:.1f} % before, {after:.1f} % after ({change})."
        )
    verb = "raised" if gain > 0 else "lowered"
    return f"{verb} accuracy on {where} from {before:.1f} % to {after:.1f} % ({change})."


def _chance(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p_value(p)}"


def p_value(value: float) -> str:
    """A p-value with two digits, 0.034, or one where it is tiny, 2e-96; below what a float holds, <1e-300."""
    if value < 1e-300:
        return "<1e-300"
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"
