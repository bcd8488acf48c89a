"""False negatives and false positives of the main judge, on gold answers in many forms (`bench/judge_errors.py`)."""

from fractions import Fraction
from pathlib import Path

import pytest
from judge_errors import FORMS, NAMES, decimal, labelled, measure, value_of, written  # in bench/

MOST_FALSE_NEGATIVES = 0.04
MOST_FALSE_POSITIVES = 0.01
MOST_OF_ONE_FORM = 0.10


def assert_few_errors(data_dir: Path, limit: int) -> None:
    cases = [one for name in NAMES for one in labelled(name, data_dir, limit)]
    errors = measure(cases, "math-verify", workers=2)
    assert set(errors) == {*FORMS, "total"}
    false_negatives, false_positives = errors["total"].shares()
    assert false_negatives <= MOST_FALSE_NEGATIVES
    assert false_positives <= MOST_FALSE_POSITIVES
    assert max(max(found.shares()) for found in errors.values()) <= MOST_OF_ONE_FORM


def test_the_main_judge_reads_gold_answers_in_all_forms(data_dir: Path) -> None:
    assert_few_errors(data_dir, limit=12)


@pytest.mark.slow
def test_the_main_judge_reads_many_gold_answers_in_all_forms(data_dir: Path) -> None:
    assert_few_errors(data_dir, limit=200)


def test_the_labels_are_true(data_dir: Path) -> None:
    # By the generator's own reading of plain numbers, which shares no code with the judges.
    assert [value_of(text) for text in ("5", "-1,234.5", r"\frac{1}{2}", "3/4", "x+1", "5 km")] == [
        5, Fraction(-2469, 2), Fraction(1, 2), Fraction(3, 4), None, None
    ]  # fmt: skip
    assert [decimal(Fraction(*pair)) for pair in ((7, 1), (-7, 4), (1, 1000), (1, 3))] == ["7", "-1.75", "0.001", None]
    assert written(Fraction(-1, 3)) == r"-\frac{1}{3}"
    cases = list(labelled("gsm8k", data_dir, 50))
    assert {one.right for one in cases} == {True, False}
    assert cases == list(labelled("gsm8k", data_dir, 50))  # the seed is fixed
    for one in cases:
        if one.form == "boxed":
            gold = value_of(one.case.gold)
            assert gold is not None
            assert (written(gold) in one.case.text.replace(",", "")) or not one.right
