"""The gain of a pair of models, predicted from figures of its samples, without training.

`calibration.json` holds pairs whose gain was measured (`lightr study calibration`). The prediction is a ridge
regression of the gain on `FEATURES`, and its error is that of leave-one-out predictions: each pair predicted from the
others. Outside of what was measured it is unknown, and the reason is said.

The features are ours: how much more certain the expert is than the amateur, and how certain it is at all. An expert
that is certain has little to gain and much to lose. They were chosen among about 20 figures after a look at the same
pairs, so the error of new pairs may be larger. The overlap of arXiv 2604.13016 was one of the others: with contrastive
labels it points the other way, since pairs that overlap most lost most.
"""

import json
import math
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from lightreasoner.errors import DataError

# Properties of `SampleFigures`.
FEATURES = ("entropy_gap", "log_expert_entropy")
RIDGE = 1.0  # on features with mean 0 and standard deviation 1
FEWEST_PAIRS = 12  # for a prediction
COVERED = 0.9  # share of the left-out pairs inside the stated error
MARGIN = 0.5  # standard deviations that a feature may lie outside of those measured
LARGEST_FACTOR = 10.0  # of the largest measured expert

Floats = NDArray[np.float64]


class MeasuredPair(BaseModel):
    """A pair whose gain was measured. Gains are in points, with a 95 % interval over the items."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    expert: str
    amateur: str
    parameters: int
    """Of the expert."""
    figures: dict[str, float]
    """Figures of its samples, by the names of `SampleFigures`."""
    gain: float
    low: float
    high: float
    items: int
    seeds: int

    @property
    def is_decided(self) -> bool:
        """Whether its interval excludes 0."""
        return self.low > 0 or self.high < 0


class LeftOut(BaseModel):
    """How leave-one-out predictions compare with what was measured.

    Attributes:
        error: points within which `COVERED` of the predictions lie.
        rank_correlation: Spearman's, over all pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: float
    decided: int
    right_signs: int
    rank_correlation: float


class Prediction(NamedTuple):
    """A gain in points, or the reason why it is unknown; both where figures are like those measured but models not."""

    gain: float | None
    error: float | None
    why_unknown: str | None

    @property
    def is_loss(self) -> bool:
        """A known gain whose interval lies below 0."""
        return self.why_unknown is None and self.gain is not None and self.gain + (self.error or 0.0) < 0


class Calibration(BaseModel):
    """The measured pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """Of the package that measured."""
    measured: str
    """How and where."""
    left_out: LeftOut | None
    """As `leave_one_out` computes it from the pairs; None with fewer than `FEWEST_PAIRS`."""
    pairs: tuple[MeasuredPair, ...]

    @cached_property
    def _features(self) -> Floats:
        return np.array([_row(pair.figures) for pair in self.pairs])

    @cached_property
    def _gains(self) -> Floats:
        return np.array([pair.gain for pair in self.pairs])

    def leave_one_out(self) -> Floats:
        """The gain of each pair, predicted from the others."""
        others = [np.arange(len(self.pairs)) != left_out for left_out in range(len(self.pairs))]
        return np.array(
            [
                _ridge(self._features[kept], self._gains[kept], row)
                for kept, row in zip(others, self._features, strict=True)
            ]
        )

    def compare(self) -> LeftOut | None:
        """Leave-one-out predictions against the measured gains; None with fewer than `FEWEST_PAIRS`."""
        from scipy.stats import spearmanr  # takes a second, and commands that predict do not compare

        if len(self.pairs) < FEWEST_PAIRS:
            return None
        predicted = self.leave_one_out()
        errors = np.sort(np.abs(predicted - self._gains))
        decided = np.array([pair.is_decided for pair in self.pairs])
        # The smallest error that holds for the next pair with this probability, if it is one more of the same kind.
        place = min(math.ceil(COVERED * (len(errors) + 1)), len(errors)) - 1
        return LeftOut(
            error=round(float(errors[place]), 1),
            decided=int(decided.sum()),
            right_signs=int((np.sign(predicted) == np.sign(self._gains))[decided].sum()),
            rank_correlation=round(float(spearmanr(predicted, self._gains).statistic), 2),
        )

    def predict(self, figures: Mapping[str, float | None], parameters: int | None) -> Prediction:
        """The gain of a pair.

        Args:
            figures: by the names of `SampleFigures`, at least `FEATURES`.
            parameters: of the expert.
        """
        if self.left_out is None:
            return _unknown(f"{len(self.pairs)} pairs are measured, and {FEWEST_PAIRS} are needed")
        missing = [name for name in FEATURES if figures.get(name) is None]
        if missing:
            return _unknown(f"{_words(missing[0])} is not known")
        row = _row(figures)
        low, high = self._features.min(0), self._features.max(0)
        margin = MARGIN * self._features.std(0)
        for name, value, start, end, more in zip(FEATURES, row, low, high, margin, strict=True):
            if not start - more <= value <= end + more:
                return _unknown(f"{_words(name)} is {value:.2f}, and {start:.2f} to {end:.2f} in the measured pairs")
        gain = float(_ridge(self._features, self._gains, row))
        largest = max(pair.parameters for pair in self.pairs)
        why = None
        if parameters is None or parameters > LARGEST_FACTOR * largest:
            size = "an unknown number of" if parameters is None else f"{parameters / 1e6:,.1f} M"
            why = f"the expert has {size} parameters, and at most {largest / 1e6:.1f} M in the measured pairs"
        return Prediction(round(gain, 1), self.left_out.error, why)


@cache
def read_calibration() -> Calibration:
    """The pairs in this package.

    Raises:
        DataError: the file is damaged.
    """
    text = (resources.files(__package__) / "calibration.json").read_text(encoding="utf-8")
    try:
        return Calibration.model_validate(json.loads(text))
    except (ValueError, ValidationError) as error:
        raise DataError(f"calibration.json of this package is damaged: {error}. Install it again") from None


def known_figures(found: Any) -> dict[str, float]:
    """The features of some `SampleFigures`, without unknown ones."""
    values = {name: getattr(found, name) for name in FEATURES}
    return {name: float(value) for name, value in values.items() if value is not None}


def _row(figures: Mapping[str, float | None]) -> Floats:
    return np.array([figures[name] for name in FEATURES], np.float64)


def _ridge(features: Floats, gains: Floats, row: Floats) -> Floats:
    """Prediction at `row`: min_w ‖y − ȳ − Zw‖² + λ‖w‖² over standardised features Z, λ = `RIDGE`."""
    mean, deviation = features.mean(0), features.std(0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1.0)
    penalty = RIDGE * np.eye(features.shape[1])
    weights = np.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ (gains - gains.mean()))
    value: Floats = gains.mean() + (row - mean) / np.where(deviation > 0, deviation, 1.0) @ weights
    return value


def _unknown(why: str) -> Prediction:
    return Prediction(None, None, why)


def _words(name: str) -> str:
    return name.replace("_", " ")
