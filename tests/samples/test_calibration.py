"""The predicted gain of a pair: the shipped pairs, leave-one-out by hand, and what is unknown."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightreasoner.config import SampleConfig
from lightreasoner.errors import DataError
from lightreasoner.samples import calibration
from lightreasoner.samples.calibration import (
    FEATURES,
    FEWEST_PAIRS,
    RIDGE,
    Calibration,
    MeasuredPair,
    Prediction,
    read_calibration,
    unlike_measured,
)
from lightreasoner.samples.statistics import SampleFigures

SHIPPED = read_calibration()
ROWS = np.array([[pair.figures[name] for name in FEATURES] for pair in SHIPPED.pairs])
GAINS = np.array([pair.gain for pair in SHIPPED.pairs])


def figures(gap: float | None, log_entropy: float | None, **changes: Any) -> SampleFigures:
    """Figures of samples with these features."""
    expert = None if log_entropy is None else math.exp(log_entropy)
    amateur = None if expert is None or gap is None else expert * (1 + gap) / (1 - gap)
    known = {"rollouts": 64, "parameters": 10**6, "expert_entropy": expert, "amateur_entropy": amateur}
    return SampleFigures(**{**known, **changes})


def by_hand(rows: np.ndarray, gains: np.ndarray, row: np.ndarray) -> float:
    """Ridge as least squares with one row √λ for each feature, and an intercept that is not penalised."""
    mean, deviation = rows.mean(0), rows.std(0)
    scaled, intercept = (rows - mean) / deviation, np.ones((len(rows), 1))
    penalty = np.sqrt(RIDGE) * np.eye(len(FEATURES))
    design = np.block([[scaled, intercept], [penalty, np.zeros((len(FEATURES), 1))]])
    weights = np.linalg.lstsq(design, np.concatenate([gains, np.zeros(len(FEATURES))]))[0]
    return float((row - mean) / deviation @ weights[:-1] + weights[-1])


def left_out_by_hand(rows: np.ndarray, gains: np.ndarray) -> np.ndarray:
    places = range(len(gains))
    return np.array([by_hand(np.delete(rows, place, 0), np.delete(gains, place), rows[place]) for place in places])


def said_by_hand(rows: np.ndarray, gains: np.ndarray, row: np.ndarray) -> int:
    """1 where a gain is said, −1 where a loss is, 0 where neither."""
    errors = gains - left_out_by_hand(rows, gains)
    above = int((by_hand(rows, gains, row) + errors > 0).sum())
    chance = (above + 1) / (len(gains) + 2)
    return int(chance >= 0.8) - int(chance <= 0.2)


def made(count: int, **changes: Any) -> Calibration:
    """Pairs whose gain is ten times the first feature, which decides it alone."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.uniform(-0.9, 0.9, count), rng.normal(size=count)])
    pairs = [
        MeasuredPair(
            expert="e", amateur="a", parameters=1000, figures=dict(zip(FEATURES, row, strict=True)),
            gain=10 * row[0], low=10 * row[0] - 1, high=10 * row[0] + 1, items=100, seeds=1,
        )
        for row in rows.tolist()
    ]  # fmt: skip
    found = Calibration(measured="here", left_out=None, pairs=tuple(pairs))
    return found.model_copy(update={"left_out": found.compare(), **changes})


def test_the_shipped_file_holds_each_pair_once_with_its_gain_inside_its_interval() -> None:
    assert len(SHIPPED.pairs) >= 20
    assert len({(pair.expert, pair.amateur) for pair in SHIPPED.pairs}) == len(SHIPPED.pairs)
    assert all(pair.low <= pair.gain <= pair.high for pair in SHIPPED.pairs)
    assert Calibration.model_validate(json.loads(json.dumps(SHIPPED.model_dump(mode="json")))) == SHIPPED


def test_leave_one_out_is_a_ridge_regression_on_the_other_pairs() -> None:
    assert SHIPPED.left_out_predictions == pytest.approx(left_out_by_hand(ROWS, GAINS))


def test_the_stated_figures_follow_from_the_pairs_of_the_shipped_file() -> None:
    stated = SHIPPED.left_out
    assert stated is not None
    assert stated == SHIPPED.compare()
    predicted = left_out_by_hand(ROWS, GAINS)
    errors = np.abs(predicted - GAINS)
    decided = np.array([pair.low > 0 or pair.high < 0 for pair in SHIPPED.pairs])
    assert stated.decided == decided.sum()
    assert stated.right_signs == (predicted * GAINS > 0)[decided].sum()
    assert stated.rank_correlation == pytest.approx(spearmanr(predicted, GAINS).statistic, abs=0.005)
    assert stated.error == pytest.approx(np.sort(errors)[math.ceil(0.9 * (len(errors) + 1)) - 1], abs=0.05)
    assert (errors <= stated.error + 0.05).mean() >= calibration.COVERED
    places = range(len(GAINS))
    said = [said_by_hand(np.delete(ROWS, place, 0), np.delete(GAINS, place), ROWS[place]) for place in places]
    assert stated.said == np.count_nonzero(said)
    assert stated.said_right == sum(sign * gain > 0 for sign, gain in zip(said, GAINS, strict=True))


def test_the_stated_figures_reach_what_is_promised() -> None:
    stated = SHIPPED.left_out
    assert stated is not None
    assert stated.right_signs >= 0.9 * stated.decided
    assert stated.said_right >= 0.9 * stated.said
    assert stated.rank_correlation > 0.7


def test_the_chance_counts_the_left_out_errors_under_which_the_pair_gains() -> None:
    for pair in (SHIPPED.pairs[0], SHIPPED.pairs[-1]):
        found = SHIPPED.predict(figures(*pair.figures.values()))
        assert found.gain == pytest.approx(by_hand(ROWS, GAINS, np.array(list(pair.figures.values()))), abs=0.06)
        errors = GAINS - left_out_by_hand(ROWS, GAINS)
        assert found.gain is not None
        above = (found.gain + errors > 0).sum()
        assert found.chance == pytest.approx((1 + above) / (len(GAINS) + 2))


def test_a_gain_that_a_feature_decides_is_predicted_and_said() -> None:
    found = made(60)
    assert found.left_out is not None
    assert found.left_out.rank_correlation > 0.95
    assert found.left_out.right_signs >= 0.95 * found.left_out.decided
    assert found.left_out.said_right >= 0.95 * found.left_out.said > 40
    loses, gains, neither = (found.predict(figures(gap, 0.0, parameters=1000)) for gap in (-0.8, 0.8, 0.0))
    assert (loses.gain, loses.sign) == (pytest.approx(-8, abs=1), "loss")
    assert (gains.gain, gains.sign) == (pytest.approx(8, abs=1), "gain")
    assert neither.gain == pytest.approx(0, abs=1)


@pytest.mark.parametrize(
    ("chance", "why", "sign"),
    [
        (0.8, None, "gain"),
        (0.79, None, "not decided"),
        (0.2, None, "loss"),
        (0.21, None, "not decided"),
        (0.9, "unlike", "unknown"),
        (None, "few", "unknown"),
    ],
)
def test_a_gain_or_loss_is_said_of_a_chance_of_four_in_five(chance: float | None, why: str | None, sign: str) -> None:
    assert Prediction(1.0, 2.0, chance, why).sign == sign


MEAN = ROWS.mean(0).tolist()


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (figures(-0.9, MEAN[1]), r"entropy gap is -0.90, and -?0.\d\d to 0.\d\d in the measured pairs"),
        (figures(0.0, 3.0), r"log expert entropy is 3.00, and -3.\d\d to -?\d.\d\d in the measured pairs"),
        (figures(None, MEAN[1]), "entropy gap is not known"),
        (figures(None, None), "entropy gap is not known"),
        (SampleFigures(rollouts=64, parameters=1, expert_entropy=0.0, amateur_entropy=0.0), "entropy gap is not known"),
        (figures(*MEAN, rollouts=7), "7 prompts are too few; 8 are needed"),
        (figures(*MEAN, rollouts=1), "1 prompt is too few; 8 are needed"),
        (SampleFigures(), "0 prompts are too few; 8 are needed"),
        (figures(*MEAN, parameters=None), "an unknown number of parameters"),
        (
            figures(*MEAN, parameters=135 * 10**6),
            r"the expert has 135.0 M parameters, and at most 1.3 M in the measured pairs",
        ),
        (figures(*MEAN, unlike="no step is kept"), "no step is kept"),
    ],
)
def test_what_was_not_measured_is_unknown(found: SampleFigures, why: str) -> None:
    known = SHIPPED.predict(figures(*MEAN))
    assert known.why_unknown is None
    assert known.gain is not None
    predicted = SHIPPED.predict(found)
    assert predicted.why_unknown is not None
    assert re.search(why, predicted.why_unknown), predicted.why_unknown
    assert predicted.sign == "unknown"


def test_few_pairs_predict_nothing() -> None:
    found = made(FEWEST_PAIRS - 1)
    assert found.left_out is None
    assert found.predict(figures(0.0, 0.0)).why_unknown == "11 pairs are measured, and 12 are needed"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"vocabulary": "shared", "max_new_tokens": 7}, None),
        ({"amateur": "self:layers=2"}, "the amateur is self:layers=2, and another model in the measured pairs"),
        ({"vocabulary": "aligned"}, "vocabulary is aligned, and the measured pairs have one tokenizer"),
        ({"divergence_beta": None}, "divergence beta is none, and 0.4 in the measured pairs"),
        ({"divergence_beta": 0.3}, "divergence beta is 0.3, and 0.4 in the measured pairs"),
        ({"plausibility_alpha": 0.1}, "plausibility alpha is 0.1, and 0.2 in the measured pairs"),
        ({"temperature": 1.0}, "temperature is 1.0, and 0.0 in the measured pairs"),
        ({"amateur_cue": ""}, "amateur cue is set, and in none of the measured pairs"),
        ({"amateur_hint": "answer"}, "amateur hint is set, and in none of the measured pairs"),
    ],
)
def test_samples_of_other_settings_are_unlike_the_measured_pairs(changes: dict[str, Any], why: str | None) -> None:
    common = {"expert": "e", "amateur": "a", "dataset": "arithmetic", "out": Path("o")}
    assert unlike_measured(SampleConfig(**{**common, **changes})) == why


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pairs": []}', '{"measured": 1, "left_out": NaN, "pairs": []}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calibration.json").write_text(text)
    monkeypatch.setattr(calibration.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"^calibration.json of this package is damaged, .*Install the package again$"):
        read_calibration.__wrapped__()
