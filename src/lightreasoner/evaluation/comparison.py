"""Compare two evaluations item by item: what changed, and how likely chance explains it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc

from lightreasoner.config.sections import JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, ChoiceBenchmark
from lightreasoner.errors import DataError, LightReasonerError
from lightreasoner.evaluation.folder import Evaluated, read_evaluation
from lightreasoner.evaluation.judging import judged_by_item, share_correct
from lightreasoner.evaluation.statistics import ScorePair, compare_overall, compare_pairs, holm
from lightreasoner.runs.records import ScoredChoices
from lightreasoner.runs.stage import StageFolder

MOST_CUT_OFF = 0.05  # share of cut-off answers above which a gain may be an effect of the limit


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
        items_sha256: hash of questions and gold answers; None if another tool wrote the gold answers in its own form.
        samples: answers to each item.
        lengths: of the answers to each item; empty for choices, and where another tool made the answers.
    """

    prompt: str
    benchmark: str
    how: Mapping[str, Mapping[str, Any]]
    scores: Mapping[str, float]
    items_sha256: str | None = None
    samples: int = 1
    lengths: Mapping[str, "Lengths"] = field(default_factory=dict)


@dataclass
class Lengths:
    """The lengths of some answers: how many were cut off at the limit, and their tokens in all."""

    answers: int = 0
    cut_off: int = 0
    tokens: int = 0

    def add(self, other: "Lengths") -> None:
        """Add the lengths of further answers."""
        self.answers += other.answers
        self.cut_off += other.cut_off
        self.tokens += other.tokens


def compare(before: Path | str, after: Path | str, *, judge: JudgeName | None = None) -> dict[str, Any]:
    """Compare two evaluations item by item: gains with intervals, exact McNemar tests with Holm's correction.

    A benchmark is compared under the same kind of prompt. If the two evaluations share no kind for it, different
    kinds are compared, with a warning: the prompt may be part of the difference.

    Args:
        before: --out folder of the first evaluation.
        after: --out folder of the second evaluation.
        judge: judge whose verdicts are compared; by default math-verify where it has judged, else the toolkit.

    Returns:
        `benchmarks`: one row each, with the prompts of both sides (`prompt` is their common kind, null if they
        differ), n, accuracies, gain, its 95 % interval, items gained and lost, McNemar's p, Holm's correction of it
        over all rows, the minimum detectable effect, and `lengths`: before and after, the share of answers that were
        cut off at the limit, and the mean tokens of an answer (null where that is not known);
        `overall`: the mean over the benchmarks of each kind of prompt that has several; `warnings`.

    Raises:
        DataError: the evaluations have no benchmark or no item of one in common.
        RunCorrupted: an evaluation is unfinished or damaged.
    """
    before, after = Path(before), Path(after)
    return _compared(before, after, read_sides(before, judge), read_sides(after, judge))


def compare_several(folders: Sequence[Path | str], *, judge: JudgeName | None = None) -> list[dict[str, Any]]:
    """Compare evaluations with the first of them, item by item.

    `p_holm` is corrected over all comparisons together: over the benchmarks of all of them, and apart from these over
    their means (Holm, as in `compare`).

    Args:
        folders: --out folders of evaluations; the first is what the others are compared with.
        judge: see `compare`.

    Returns:
        For each folder but the first, the result of `compare`; rows of `overall` have a `p_holm` too. One that cannot
        be compared has no rows, and the reason among its `warnings`.

    Raises:
        DataError, RunCorrupted: the first evaluation cannot be read, see `compare`.
    """
    first, *others = map(Path, folders)
    of_first = read_sides(first, judge)
    found: list[dict[str, Any]] = []
    for other in others:
        try:
            found.append(_compared(first, other, of_first, read_sides(other, judge)))
        except LightReasonerError as error:
            nothing: dict[str, Any] = {"benchmarks": [], "overall": [], "warnings": [str(error)]}
            found.append({"before": str(first), "after": str(other), **nothing})
    for kind in ("benchmarks", "overall"):
        rows = [row for result in found for row in result[kind]]
        for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_holm"] = p_value
    return found


def _compared(before: Path, after: Path, of_before: Sequence[Side], of_after: Sequence[Side]) -> dict[str, Any]:
    """See `compare`."""
    sides = _pairs(of_before, of_after)
    if not sides:
        raise DataError(
            f"{before} and {after} have no benchmark in common, so there is nothing to compare. Evaluate both on one"
        )
    rows: list[dict[str, Any]] = []
    groups: dict[Prompts, list[ScorePair]] = {}
    samples = max(side.samples for pair in sides for side in pair)
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
        row: dict[str, Any] = {"prompt": prompts.shared, "prompts": prompts, "benchmark": first.benchmark}
        row |= compare_pairs(*scores, max(first.samples, second.samples)).as_row()
        row["lengths"] = {"before": _mean_lengths(first, common), "after": _mean_lengths(second, common)}
        row["warnings"] = [*_differences(first, second, len(common)), *_length_effect(row, first, second)]
        rows.append(row)
    for row, p_value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_holm"] = p_value
    return {
        "before": str(before),
        "after": str(after),
        "benchmarks": rows,
        "overall": [
            {"prompt": prompts.shared, "prompts": prompts, "benchmarks": len(pairs)}
            | compare_overall(pairs, samples).as_row()
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
    items = None if evaluated.is_imported else evaluated.settings.get("items_sha256")
    if isinstance(benchmark, ChoiceBenchmark):
        rows = (row for table in evaluated.stage.tables("choices") for row in ScoredChoices.rows(table))
        scores = {row.question_id: float(row.is_right(benchmark.metric)) for row in rows}
        return Side(prompt, benchmark.name, evaluated.how, scores, items)
    chosen = next(iter(evaluated.judged)) if judge is None else judge
    if chosen not in evaluated.judged:
        raise DataError(
            f"{folder / prompt / benchmark.name} has no verdicts of {chosen}. "
            f"Make them with `lightr evaluate --judge {chosen}`"
        )
    how, verdicts = evaluated.judged[chosen]
    judged = judged_by_item(verdicts)
    scores = {item: share_correct(rows) for item, rows in judged.items()}
    samples = max(map(len, judged.values()), default=1)
    return Side(prompt, benchmark.name, {**evaluated.how, **how}, scores, items, samples, _lengths(evaluated.stage))


def _lengths(answers: StageFolder) -> dict[str, Lengths]:
    """The lengths of the answers to each item."""
    found: dict[str, Lengths] = {}
    for table in answers.tables("answers"):
        tokens = pc.list_value_length(table["output_ids"]).to_pylist()
        for item, finish, count in zip(
            *(table[name].to_pylist() for name in ("question_id", "finish")), tokens, strict=True
        ):
            if finish != "unknown":
                found.setdefault(item, Lengths()).add(Lengths(1, int(finish == "length"), count))
    return found


def _mean_lengths(side: Side, items: Sequence[str]) -> dict[str, float | None]:
    """Share of cut-off answers, and mean tokens of an answer."""
    sums = Lengths()
    for item in items:
        sums.add(side.lengths.get(item, Lengths()))
    n = sums.answers
    return {"cut_off": sums.cut_off / n if n else None, "mean_tokens": sums.tokens / n if n else None}


def _length_effect(row: Mapping[str, Any], first: Side, second: Side) -> list[str]:
    """A warning where cut-off answers may explain the difference: many of them, or a change of their number like it."""
    before, after = (row["lengths"][side]["cut_off"] for side in ("before", "after"))
    if before is None or after is None:
        return []
    moved = abs(after - before)
    if max(before, after) <= MOST_CUT_OFF and not (moved > 0.01 and moved >= abs(row["gain"]) / 2):
        return []
    text = f"{100 * before:.1f} % of the answers before and {100 * after:.1f} % after were cut off at the length limit"
    for moves, better, worse, when in (("gained", second, first, "before"), ("lost", first, second, "after")):
        changed = [item for item, score in better.scores.items() if item in worse.scores and score > worse.scores[item]]
        cut = sum(item in worse.lengths and worse.lengths[item].cut_off > 0 for item in changed)
        if cut:
            text += f", and {cut} of the {len(changed)} items {moves} were cut off {when}"
    return [f"{text}: the difference may be an effect of the limit. Raise --max-answer-tokens, with another --out"]


def _pairs(before: Sequence[Side], after: Sequence[Side]) -> list[tuple[Side, Side]]:
    """The sides to compare: equal prompts first, different ones only for benchmarks without such a pair."""
    order = {name: place for place, name in enumerate(BENCHMARKS)}  # files of the user's own come last
    both = [(first, second) for first in before for second in after if first.benchmark == second.benchmark]
    both.sort(key=lambda pair: (pair[0].prompt, order.get(pair[0].benchmark, len(order)), pair[0].benchmark))
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
    elif first.items_sha256 and second.items_sha256 and first.items_sha256 != second.items_sha256:
        texts.append("different gold answers to the same questions, which may be part of the difference")
    for subject in {**first.how, **second.how}:
        mine, theirs = _undated(first.how.get(subject, {})), _undated(second.how.get(subject, {}))
        if differing := [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]:
            texts.append(f"different {subject} ({', '.join(differing)}), which may be part of the difference")
    return texts
