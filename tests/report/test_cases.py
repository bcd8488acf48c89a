"""Items whose verdict changed."""

from pathlib import Path

from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.report import report
from lightreasoner.runs.records import Answer


def test_cases_are_items_whose_verdict_changed(small_run: Path) -> None:
    sides = [read_evaluation(small_run / "evaluate" / name)[0] for name in ("expert", "merged")]
    verdicts = [{row.question_id: row.verdict == "correct" for row in read_judged(side.decisive)} for side in sides]
    answers = [
        {row.question: row for table in side.stage.tables("answers") for row in Answer.rows(table)} for side in sides
    ]
    gained = [item for item in verdicts[0] if verdicts[1][item] and not verdicts[0][item]]
    cases = report(small_run).cases
    assert (cases.gained, cases.lost) == (
        len(gained),
        sum(verdicts[0][item] and not verdicts[1][item] for item in verdicts[0]),
    )
    assert cases.became_right or cases.became_wrong
    for case in (*cases.became_right, *cases.became_wrong):
        for shown, rows in ((case.before, answers[0]), (case.after, answers[1])):
            text = shown.shared + shown.diverging + shown.rest
            assert text.removesuffix("<|im_end|>") == rows[case.question].output
        one, other = (rows[case.question].output_ids for rows in answers)
        assert case.diverges_at is not None
        assert one[: case.diverges_at] == other[: case.diverges_at]
        assert one[case.diverges_at] != other[case.diverges_at]
        assert case.before.correct != case.after.correct
