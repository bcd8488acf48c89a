"""Compare two evaluations item by item: what changed, and how likely chance explains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lightreasoner.config import JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, ChoiceBenchmark
from lightreasoner.errors import DataError
from lightreasoner.evaluation.folder import Evaluated, read_evaluation
from lightreasoner.evaluation.judging import judged_by_item, share_correct
from lightreasoner.evaluation.statistics import ScorePair, compare_overall, compare_pairs, holm
from lightreasoner.runs.records import ScoredChoices


class Prompts(NamedTuple):
    """The kinds of prompt of the two sides of a comparison: chat, plain or likelihood."""

    before: str
    after: str

    @property
    def shared(self) -> str | None:
        """The kind of both sides; None if they differ."""
        return self.before if self.before == self.after else None

    def __str__(self) -> str:
        return self.shared or f"{self.before} → {self.after}"


@dataclass(frozen=True)
class Side:
    """One benchmark under one kind of prompt in one evaluation.

    Attributes:
        prompt: chat, plain or likelihood.
        how: by subject (prompt, decoding, judge, …), the settings that decided answers and verdicts.
        scores: share of correct samples of each item.
    """

    prompt: str
    benchmark: str
    how: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, float]


def compare(before: Path, after: Path, *, judge: JudgeName | None = None) -> dict[str, Any]:
    """Compare two evaluations item by item: gains with intervals, exact McNemar tests with Holm's correction.

    A benchmark is compared under the same kind of prompt. If the two evaluations share no kind for it, different
    kinds are compared, with a warning: the prompt may be part of the difference.

    Args:
        before: --out folder of the first evaluation.
        after: --out folder of the second evaluation.
        judge: judge whose verdicts are compared; by default math-verify where it has judged, else the toolkit.

    Returns:
        `benchmarks`: one row each, with the prompts of both sides (`prompt` is their common kind, null if they
        differ), n, accuracies, gain, its 95 % bootstrap interval, items gained and lost, McNemar's p, Holm's
        correction of it over all rows, and the minimum detectable effect;
        `overall`: the mean over the benchmarks of each kind of prompt that has several; `warnings`.

    Raises:
        DataError: the evaluations have no benchmark or no item of one in common.
        RunCorrupted: an evaluation is unfinished or damaged.
    """
    sides = _pairs(read_sides(before, judge), read_sides(after, judge))
    if not sides:
        raise DataError(
            f"{before} and {after} have no benchmark in common, so there is nothing to compare. Evaluate both on one"
        )
    rows: list[dict[str, Any]] = []
    groups: dict[Prompts, list[ScorePair]] = {}
    for first, second in sides:
        common = [item for item in first.scores if item in second.scores]
        if not common:
            raise DataError(
                f"{before} and {after} have no item of {first.benchmark} in common, and a paired test needs some. "
                "Evaluate both on the same items"
            )
        scores = [first.scores[item] for item in common], [second.scores[item] for item in common]
        prompts = Prompts(first.prompt, second.prompt)
        groups.setdefault(prompts, []).append(scores)
        rows.append(
            {"prompt": prompts.shared, "prompts": prompts, "benchmark": first.benchmark}
            | compare_pairs(*scores).as_row()
            | {"warnings": _differences(first, second, len(common))}
        )
    for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p_value
    return {
        "before": str(before),
        "after": str(after),
        "benchmarks": rows,
        "overall": [
            {"prompt": prompts.shared, "prompts": prompts, "benchmarks": len(pairs)} | compare_overall(pairs).as_row()
            for prompts, pairs in groups.items()
            if len(pairs) > 1
        ],
        "warnings": sorted({f"{row['benchmark']}: {text}" for row in rows for text in row["warnings"]}),
    }


def read_sides(folder: Path, judge: JudgeName | None) -> list[Side]:
    """Every benchmark of an evaluation, with the score of each item.

    Raises:
        DataError: there is no benchmark, or one that this judge has not judged.
        RunCorrupted: a stage is unfinished or damaged.
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
            f"{folder / prompt / benchmark.name} has no verdicts of {chosen}. "
            f"Make them with `lightr evaluate --judge {chosen}`"
        )
    how, verdicts = evaluated.judged[chosen]
    scores = {item: share_correct(rows) for item, rows in judged_by_item(verdicts).items()}
    return Side(prompt, benchmark.name, {**evaluated.how, **how}, scores)


def _pairs(before: Sequence[Side], after: Sequence[Side]) -> list[tuple[Side, Side]]:
    """The sides to compare: equal prompts first, different ones only for benchmarks without such a pair."""
    order = list(BENCHMARKS)
    both = [(first, second) for first in before for second in after if first.benchmark == second.benchmark]
    both.sort(key=lambda pair: (pair[0].prompt, order.index(pair[0].benchmark)))
    same = [pair for pair in both if pair[0].prompt == pair[1].prompt]
    covered = {first.benchmark for first, _ in same}
    return same + [pair for pair in both if pair[0].benchmark not in covered]


def _undated(how: Mapping[str, Any]) -> Mapping[str, Any]:
    """A prompt whose text shows the form of each date that the chat template wrote, so that `dates` alone differ.

    Its tokens say no more than the text, unless the tokenizers differ, which is no difference of the prompt.
    """
    if (text := how.get("prompt_text")) is None:
        return how
    for form, date in how["dates"].items():
        text = text.replace(date, form)
    return {**how, "prompt_text": text, "prompt_tokens": None}


def _differences(first: Side, second: Side, common: int) -> list[str]:
    """The differences of the two sides other than the model, one sentence each."""
    texts = []
    if first.scores.keys() != second.scores.keys():
        counts = f"{len(first.scores)} and {len(second.scores)}"
        texts.append(f"different items: {counts}, compared on the {common} common ones")
    for subject in {**first.how, **second.how}:
        mine, theirs = _undated(first.how.get(subject, {})), _undated(second.how.get(subject, {}))
        if differing := [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]:
            texts.append(f"different {subject} ({', '.join(differing)}), which may be part of the difference")
    return texts
