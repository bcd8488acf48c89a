"""The predicted gain of a pair: the shipped pairs, leave-one-out by hand, and what is unknown."""

import json
import re
from typing import Any

import numpy as np
import pytest

from lightreasoner.samples import calibration
from lightreasoner.samples.calibration import FEATURES, FEWEST_PAIRS, RIDGE, Calibration, MeasuredPair, read_calibration

SHIPPED = read_calibration()
INSIDE = {name: float(np.mean([pair.figures[name] for pair in SHIPPED.pairs])) for name in FEATURES}


def made(count: int, **changes: Any) -> Calibration:
    """Pairs whose gain is ten times the first feature, which decides it alone."""
    rng = np.random.default_rng(0)
    pairs = [
        MeasuredPair(
            expert="e", amateur="a", parameters=1000, figures=dict(zip(FEATURES, row, strict=True)),
            gain=10 * row[0], low=10 * row[0] - 1, high=10 * row[0] + 1, items=100, seeds=1,
        )
        for row in rng.normal(size=(count, len(FEATURES))).tolist()
    ]  # fmt: skip
    found = Calibration(version="0", measured="here", left_out=None, pairs=tuple(pairs))
    return found.model_copy(update={"left_out": found.compare(), **changes})


def test_the_shipped_file_states_the_error_of_its_pairs_and_holds_each_once() -> None:
    assert len(SHIPPED.pairs) >= 20
    assert SHIPPED.compare() == SHIPPED.left_out
    assert len({(pair.expert, pair.amateur) for pair in SHIPPED.pairs}) == len(SHIPPED.pairs)
    assert all(pair.low <= pair.gain <= pair.high for pair in SHIPPED.pairs)


def test_leave_one_out_is_a_ridge_regression_on_the_other_pairs() -> None:
    predicted = SHIPPED.leave_one_out()
    rows = np.array([[pair.figures[name] for name in FEATURES] for pair in SHIPPED.pairs])
    gains = np.array([pair.gain for pair in SHIPPED.pairs])
    for left_out in (0, len(rows) // 2, len(rows) - 1):
        others = np.delete(rows, left_out, 0)
        mean, deviation = others.mean(0), others.std(0)
        # Ridge as least squares with one row √λ for each feature, and an intercept that is not penalised.
        design = np.block(
            [
                [(others - mean) / deviation, np.ones((len(others), 1))],
                [np.sqrt(RIDGE) * np.eye(len(FEATURES)), np.zeros((len(FEATURES), 1))],
            ]
        )
        target = np.concatenate([np.delete(gains, left_out), np.zeros(len(FEATURES))])
        weights = np.linalg.lstsq(design, target)[0]
        expected = (rows[left_out] - mean) / deviation @ weights[:-1] + weights[-1]
        assert predicted[left_out] == pytest.approx(expected)


def test_a_gain_that_a_feature_decides_is_predicted() -> None:
    found = made(60)
    assert found.left_out is not None
    assert found.left_out.rank_correlation > 0.95
    assert found.left_out.right_signs >= 0.95 * found.left_out.decided
    predicted = found.predict({**dict.fromkeys(FEATURES, 0.0), FEATURES[0]: -1.5}, 1000)
    assert predicted.gain == pytest.approx(-15, abs=2)
    assert predicted.is_loss


def test_nine_of_ten_left_out_pairs_lie_within_the_stated_error() -> None:
    assert SHIPPED.left_out is not None
    errors = np.abs(SHIPPED.leave_one_out() - [pair.gain for pair in SHIPPED.pairs])
    assert (errors <= SHIPPED.left_out.error + 0.05).mean() >= calibration.COVERED


@pytest.mark.parametrize(
    ("changes", "parameters", "why"),
    [
        ({FEATURES[0]: 9.0}, 10**6, r"entropy gap is 9.00, and -?0.\d\d to 0.\d\d in the measured pairs"),
        ({FEATURES[-1]: None}, 10**6, f"{FEATURES[-1].replace('_', ' ')} is not known"),
        ({}, None, "an unknown number of parameters"),
        ({}, 135 * 10**6, r"the expert has 135.0 M parameters, and at most 1.3 M in the measured pairs"),
    ],
)
def test_what_was_not_measured_is_unknown(changes: dict[str, float], parameters: int | None, why: str) -> None:
    known = SHIPPED.predict(INSIDE, 10**6)
    assert known.why_unknown is None
    assert known.gain is not None
    found = SHIPPED.predict({**INSIDE, **changes}, parameters)
    assert found.why_unknown is not None
    assert re.search(why, found.why_unknown), found.why_unknown
    assert not found.is_loss


def test_few_pairs_predict_nothing() -> None:
    found = made(FEWEST_PAIRS - 1)
    assert found.left_out is None
    assert (
        found.predict(INSIDE, 1000).why_unknown
        == f"{FEWEST_PAIRS - 1} pairs are measured, and {FEWEST_PAIRS} are needed"
    )


def test_the_file_in_the_package_is_the_form_that_the_study_writes() -> None:
    again = Calibration.model_validate(json.loads(json.dumps(SHIPPED.model_dump(mode="json"))))
    assert again == SHIPPED
