"""Two evaluations side by side, item by item: what changed, and whether that could be chance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightreasoner.config import JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, ChoiceBenchmark
from lightreasoner.errors import DataError
from lightreasoner.evaluation.folder import Evaluated, read_evaluation
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.evaluation.statistics import compare_overall, compare_pairs, holm
from lightreasoner.runs.records import ScoredChoices


@dataclass(frozen=True)
class Side:
    """One benchmark under one kind of prompt, as one of the two evaluations left it.

    Attributes:
        prompt: chat, plain or likelihood.
        benchmark: its name.
        how: by subject (prompt, decoding, judge, …), the settings that decided answers and verdicts.
        scores: of each item, the share of its samples that are correct.
    """

    prompt: str
    benchmark: str
    how: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, float]


def compare(before: Path, after: Path, *, judge: JudgeName | None = None) -> dict[str, Any]:
    """Compare two evaluations on the items that both answered.

    Benchmarks are compared under the same kind of prompt. Where the two have none in common, the kinds that there
    are are compared, with a warning: part of a difference is then due to the prompt.

    Args:
        before: `--out` folder of the first evaluation.
        after: the same of the second.
        judge: whose verdicts; by default those of math-verify where they exist, else those of the other judge.

    Returns:
        `benchmarks`: one row each, with n, accuracies, gain, its 95 % bootstrap interval, items gained and lost,
        McNemar's p and Holm's correction of it over all rows, and the difference that n items can show;
        `overall`: the mean over the benchmarks of each kind of prompt; `warnings`.

    Raises:
        DataError: nothing in common.
        RunCorrupted: one of them is unfinished or damaged.
    """
    pairs = list(_pairs(read_sides(before, judge), read_sides(after, judge)))
    if not pairs:
        raise DataError(f"{before} and {after} have no benchmark in common, so there is nothing to compare")
    rows: list[dict[str, Any]] = []
    scores = []
    for first, second in pairs:
        common = [item for item in first.scores if item in second.scores]
        if not common:
            raise DataError(
                f"{before} and {after} did not answer the same items of {first.benchmark}; a paired test needs some"
            )
        mine = [first.scores[item] for item in common], [second.scores[item] for item in common]
        scores.append(mine)
        test = compare_pairs(*mine)
        prompt = first.prompt if first.prompt == second.prompt else f"{first.prompt} → {second.prompt}"
        rows.append(
            {"prompt": prompt, "benchmark": first.benchmark, **asdict(test), "gain": test.gain}
            | {"warnings": _differences(first, second, len(common))}
        )
    for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p_value
    return {
        "before": str(before),
        "after": str(after),
        "benchmarks": rows,
        "overall": list(_overall(rows, scores)),
        "warnings": sorted({f"{row['benchmark']}: {text}" for row in rows for text in row["warnings"]}),
    }


def _overall(rows: Sequence[Mapping[str, Any]], scores: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Means over the benchmarks of each kind of prompt that has several."""
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        group = [pair for row, pair in zip(rows, scores, strict=True) if row["prompt"] == prompt]
        if len(group) > 1:
            test = compare_overall(group)
            yield {"prompt": prompt, "benchmarks": len(group), **asdict(test), "gain": test.gain}


def read_sides(folder: Path, judge: JudgeName | None) -> list[Side]:
    """Every benchmark of an evaluation, with the score of each item.

    Raises:
        DataError: there are none, or none judged by this judge.
        RunCorrupted: some stage is unfinished or damaged.
    """
    return [_side(folder, evaluated, judge) for evaluated in read_evaluation(folder)]


def _side(folder: Path, evaluated: Evaluated, judge: JudgeName | None) -> Side:
    prompt, benchmark = evaluated.prompt, evaluated.benchmark
    if isinstance(benchmark, ChoiceBenchmark):
        rows = (row for table in evaluated.stage.tables("choices") for row in ScoredChoices.rows(table))
        scores = {row.question_id: float(row.is_right(benchmark.metric)) for row in rows}
        return Side(prompt, benchmark.name, evaluated.how, scores)
    chosen = next(iter(evaluated.judged)) if judge is None else judge
    if chosen not in evaluated.judged:
        raise DataError(
            f"{folder / prompt / benchmark.name} has no verdicts of {chosen}; make them with `lightr evaluate --judge`"
        )
    how, verdicts = evaluated.judged[chosen]
    by_item: dict[str, list[bool]] = {}
    for row in read_judged(verdicts):
        by_item.setdefault(row.question_id, []).append(row.verdict == "correct")
    scores = {item: sum(right) / len(right) for item, right in by_item.items()}
    return Side(prompt, benchmark.name, {**evaluated.how, **how}, scores)


def _pairs(before: Sequence[Side], after: Sequence[Side]) -> Iterator[tuple[Side, Side]]:
    """What to compare with what: the same prompts first, others only where there is no such pair."""
    order = {name: place for place, name in enumerate(BENCHMARKS)}
    both = [(first, second) for first in before for second in after if first.benchmark == second.benchmark]
    same = [pair for pair in both if pair[0].prompt == pair[1].prompt]
    covered = {first.benchmark for first, _ in same}
    across = [pair for pair in both if pair[0].benchmark not in covered]
    for group in (same, across):
        yield from sorted(group, key=lambda pair: (pair[0].prompt, order.get(pair[0].benchmark, len(order))))


def _differences(first: Side, second: Side, common: int) -> list[str]:
    """What the two differ in beside the model, as sentences."""
    texts = []
    if first.scores.keys() != second.scores.keys():
        counts = f"{len(first.scores)} and {len(second.scores)}"
        texts.append(f"different items: {counts}, compared on the {common} common ones")
    for subject in {**first.how, **second.how}:
        mine, theirs = first.how.get(subject, {}), second.how.get(subject, {})
        if differing := [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]:
            texts.append(f"different {subject} ({', '.join(differing)}), which may be part of the difference")
    return texts
