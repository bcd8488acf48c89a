"""Items whose verdict changed, with both answers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lightreasoner.config.sections import JudgeName
from lightreasoner.evaluation.folder import Evaluated
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.report.tokens import TokenTexts, visible
from lightreasoner.runs.records import Answer, JudgedAnswer
from lightreasoner.runs.stage import StageFolder

CASES = 6  # kept in each direction, for Markdown and JSON
PART = 128  # cases in memory at a time
LONGEST = 600  # tokens shown of an answer


@dataclass(frozen=True)
class CaseAnswer:
    """One of the two answers of a case.

    Attributes:
        shared: text before the first token that differs.
        diverging: that token; empty where this answer ended there.
        extracted: the answer that the judge found in the text.
        cut: number of tokens that are not shown, at the end.
        tokens: in the whole answer; None where that is not known.
        cut_off: the answer reached the length limit.
    """

    shared: str
    diverging: str
    rest: str
    extracted: str | None
    correct: bool
    cut: int
    tokens: int | None
    cut_off: bool


@dataclass(frozen=True)
class Case:
    """An item whose verdict changed, with the answers of expert and fine-tuned model.

    `diverges_at` is the index of the first token that differs; None if the answers have no token ids.
    """

    benchmark: str
    prompt: str
    question: str
    gold: str
    diverges_at: int | None
    before: CaseAnswer
    after: CaseAnswer


@dataclass(frozen=True)
class Cases:
    """The first `CASES` items that became right or wrong, in the order of the benchmark, and the numbers of all."""

    became_right: tuple[Case, ...]
    became_wrong: tuple[Case, ...]
    gained: int
    lost: int


def find_cases(
    before: Sequence[Evaluated],
    after: Sequence[Evaluated],
    judge: JudgeName | None,
    texts: TokenTexts,
    visit: Callable[[Case], None] = lambda case: None,
) -> Cases:
    """Cases of all benchmarks that both evaluations judged under the same prompt; first samples only.

    Memory holds the verdicts of one benchmark, its answers to the items that changed as Arrow tables, and `PART` cases.

    Args:
        before, after: the two evaluations.
        judge: whose verdicts count.
        texts: the expert's tokens.
        visit: called with every case, by benchmark and in its order.
    """
    shown: dict[bool, list[Case]] = {True: [], False: []}  # by the verdict after
    counts = {True: 0, False: 0}
    second = {(one.prompt, one.benchmark.name): one for one in after}
    for first in before:
        other = second.get((first.prompt, first.benchmark.name))
        if other is None or not (first.judged and other.judged):
            continue
        old, new = _verdicts(first, judge), _verdicts(other, judge)
        changed = [
            item
            for item, verdict in old.items()
            if item in new and (verdict.verdict == "correct") != (new[item].verdict == "correct")
        ]
        for item in changed:
            counts[new[item].verdict == "correct"] += 1
        for one, two in zip(_answers(first, changed), _answers(other, changed), strict=True):
            if one is None or two is None:
                continue
            item = one.question_id
            case = _case(one, two, (old[item], new[item]), texts, first.prompt)
            visit(case)
            if len(kept := shown[case.after.correct]) < CASES:
                kept.append(case)
    return Cases(tuple(shown[True]), tuple(shown[False]), counts[True], counts[False])


def verdicts_of(evaluated: Evaluated, judge: JudgeName | None) -> StageFolder:
    """The stage of this judge, or of the first judge if this one is None or has not judged."""
    return evaluated.judged[judge][1] if judge is not None and judge in evaluated.judged else evaluated.decisive


def _verdicts(evaluated: Evaluated, judge: JudgeName | None) -> dict[str, JudgedAnswer]:
    return {row.question_id: row for row in read_judged(verdicts_of(evaluated, judge)) if row.sample == 0}


def _answers(evaluated: Evaluated, wanted: Sequence[str]) -> Iterator[Answer | None]:
    """The first answers to these items, in their order; None where there is none."""
    if not wanted:
        return
    names = pa.array(wanted)
    tables = [
        table.filter(pc.and_(pc.is_in(table["question_id"], names), pc.equal(table["sample"], 0)))
        for table in evaluated.stage.tables("answers")
    ]
    found = pa.concat_tables(tables)
    places = pc.index_in(names, found["question_id"].combine_chunks()).to_pylist()
    for start in range(0, len(places), PART):
        part = places[start : start + PART]
        rows = Answer.rows(found.take([place for place in part if place is not None]))
        yield from (None if place is None else next(rows) for place in part)


def _case(
    before: Answer, after: Answer, verdicts: tuple[JudgedAnswer, JudgedAnswer], texts: TokenTexts, prompt: str
) -> Case:
    ids = before.output_ids, after.output_ids
    known = texts.known and all(ids)
    at = next((place for place, (one, other) in enumerate(zip(*ids, strict=False)) if one != other), min(map(len, ids)))
    return Case(
        benchmark=before.benchmark,
        prompt=prompt,
        question=visible(before.question),
        gold=visible(before.gold),
        diverges_at=at if known else None,
        before=_case_answer(before, verdicts[0], at if known else None, texts),
        after=_case_answer(after, verdicts[1], at if known else None, texts),
    )


def _case_answer(answer: Answer, verdict: JudgedAnswer, at: int | None, texts: TokenTexts) -> CaseAnswer:
    extracted = None if verdict.extracted is None else visible(verdict.extracted)
    correct, cut_off = verdict.verdict == "correct", answer.finish == "length"
    ids = answer.output_ids
    tokens = len(ids) if answer.finish != "unknown" else None
    if at is None:
        return CaseAnswer("", "", visible(answer.output), extracted, correct, 0, tokens, cut_off)
    start = max(0, at - LONGEST // 2)
    stop = start + LONGEST
    return CaseAnswer(
        shared=("… " if start else "") + texts.join(ids[start:at]),
        diverging=texts.join(ids[at : at + 1]),
        rest=texts.join(ids[at + 1 : stop]),
        extracted=extracted,
        correct=correct,
        cut=max(0, len(ids) - stop),
        tokens=tokens,
        cut_off=cut_off,
    )
