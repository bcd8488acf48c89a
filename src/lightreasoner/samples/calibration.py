"""The gain of a pair of models, predicted from figures of its samples, without training.

`calibration.json` holds pairs whose gain was measured (`lightr study calibration`). The prediction is a ridge
regression of the gain on `FEATURES`. Each pair is also predicted from the others: the errors of these left-out
predictions give the error that is stated, and the chance of a gain,

    chance = (1 + |{i : ŷ + e_i > 0}|) / (n + 2),   e_i = y_i − ŷ_(−i) of the n measured pairs.

Outside of what was measured the gain is unknown, and the reason is said.

The features are ours: how much more certain the expert is than the amateur, and how certain it is at all. An expert
that is certain has little to gain and much to lose. They were chosen among about 20 figures after a look at the first
pairs, so the error of new pairs may be larger. The overlap of arXiv 2604.13016 was one of the others: with contrastive
labels it points the other way, since pairs that overlap most lost most. The chance is the share of errors of the
jackknife+ (arXiv 1905.02928) around one prediction, with a count of 1 for each side; not checked at its source.
"""

import json
import math
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from lightreasoner.config import SampleConfig
from lightreasoner.errors import DataError
from lightreasoner.models.sides import ANOTHER_MODEL, Side
from lightreasoner.samples.statistics import FEWEST, SampleFigures

# Properties of `SampleFigures`.
FEATURES = ("entropy_gap", "log_expert_entropy")
RIDGE = 1.0  # on features with mean 0 and standard deviation 1
FEWEST_PAIRS = 12  # for a prediction
COVERED = 0.9  # share of the left-out pairs inside the stated error
MARGIN = 0.5  # standard deviations that a feature may lie outside of those measured
LARGEST_FACTOR = 10.0  # of the largest measured expert
SURE = 0.8  # chance of a gain, or of a loss, that is said
# Of all measured pairs.
MEASURED_WITH: Mapping[str, object] = {
    "divergence_beta": 0.4,
    "plausibility_alpha": 0.2,
    "temperature": 0.0,
    "amateur_cue": None,
    "amateur_template": None,
    "expert_hint": None,
    "amateur_hint": None,
    "labeller": "current",
}

OTHER_LABELS = "the run selects other steps or labels than the paper's, which were measured"

Sign = Literal["gain", "loss", "not decided", "unknown"]

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
        decided, right_signs: pairs whose measured gain excludes 0, and those of them with a prediction of its sign.
        said, said_right: pairs of which a gain or a loss was said, and those that gained or lost so.
        rank_correlation: Spearman's, over all pairs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    error: float
    decided: int
    right_signs: int
    said: int
    said_right: int
    rank_correlation: float


class Prediction(NamedTuple):
    """A gain in points, its error and chance; or the reason why it is unknown. Both where only the models differ."""

    gain: float | None
    error: float | None
    chance: float | None
    """That the gain is above 0, 0 … 1."""
    why_unknown: str | None

    @property
    def sign(self) -> Sign:
        """What is said: a gain or a loss of a chance of at least `SURE`."""
        if self.why_unknown is not None or self.chance is None:
            return "unknown"
        return "gain" if self.chance >= SURE else "loss" if 1 - self.chance >= SURE else "not decided"


class Calibration(BaseModel):
    """The measured pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    @cached_property
    def left_out_predictions(self) -> Floats:
        """The gain of each pair, predicted from the others, [n]."""
        rows, gains = self._features, self._gains
        others = [np.arange(len(gains)) != left_out for left_out in range(len(gains))]
        return np.array([_ridge(rows[kept], gains[kept], row) for kept, row in zip(others, rows, strict=True)])

    def compare(self) -> LeftOut | None:
        """Leave-one-out predictions against the measured gains; None with fewer than `FEWEST_PAIRS`."""
        from scipy.stats import spearmanr  # takes a second, and commands that predict do not compare

        if len(self.pairs) < FEWEST_PAIRS:
            return None
        predicted, measured = self.left_out_predictions, self._gains
        errors = np.sort(np.abs(predicted - measured))
        decided = np.array([pair.is_decided for pair in self.pairs])
        said = np.array([self._without(place)._said(row) for place, row in enumerate(self._features)])
        # The smallest error that holds for the next pair with this probability, if it is one more of the same kind.
        place = min(math.ceil(COVERED * (len(errors) + 1)), len(errors)) - 1
        return LeftOut(
            error=round(float(errors[place]), 1),
            decided=int(decided.sum()),
            right_signs=int((np.sign(predicted) == np.sign(measured))[decided].sum()),
            said=int((said != 0).sum()),
            said_right=int((said == np.sign(measured))[said != 0].sum()),
            rank_correlation=round(float(spearmanr(predicted, measured).statistic), 2),
        )

    def predict(self, found: SampleFigures) -> Prediction:
        """The gain of the pair with these figures."""
        if why := self._why_nothing_is_known(found):
            return Prediction(None, None, None, why)
        assert self.left_out is not None
        row = _row(known_figures(found))
        gain, chance = self._gain(row)
        return Prediction(round(gain, 1), self.left_out.error, chance, found.unlike or self._too_large(found))

    def _gain(self, row: Floats) -> tuple[float, float]:
        """The gain at these features in points, and its chance to be above 0."""
        gain = float(_ridge(self._features, self._gains, row))
        errors = self._gains - self.left_out_predictions
        return gain, float(1 + np.count_nonzero(gain + errors > 0)) / (len(errors) + 2)

    def _said(self, row: Floats) -> int:
        """The sign that is said of the pair with these features: 1, −1, or 0 for none."""
        signs: Mapping[Sign, int] = {"gain": 1, "loss": -1}
        gain, chance = self._gain(row)
        return signs.get(Prediction(gain, None, chance, None).sign, 0)

    def _without(self, place: int) -> "Calibration":
        return Calibration(measured="", left_out=None, pairs=self.pairs[:place] + self.pairs[place + 1 :])

    def _why_nothing_is_known(self, found: SampleFigures) -> str | None:
        """Why these figures have no prediction; None if they have one."""
        if found.rollouts < FEWEST:
            return f"{found.rollouts} prompt{'s are' if found.rollouts != 1 else ' is'} too few; {FEWEST} are needed"
        if self.left_out is None:
            return f"{len(self.pairs)} pairs are measured, and {FEWEST_PAIRS} are needed"
        known = known_figures(found)
        if missing := [name for name in FEATURES if name not in known]:
            return f"{_words(missing[0])} is not known"
        low, high = self._features.min(0), self._features.max(0)
        margin = MARGIN * self._features.std(0)
        for name, value, start, end, more in zip(FEATURES, _row(known), low, high, margin, strict=True):
            if not start - more <= value <= end + more:
                return f"{_words(name)} is {value:.2f}, and {start:.2f} to {end:.2f} in the measured pairs"
        return None

    def _too_large(self, found: SampleFigures) -> str | None:
        """Why the expert is unlike those measured; None if it is like them."""
        largest = max(pair.parameters for pair in self.pairs)
        if found.parameters is not None and found.parameters <= LARGEST_FACTOR * largest:
            return None
        size = "an unknown number of" if found.parameters is None else f"{found.parameters / 1e6:,.1f} M"
        return f"the expert has {size} parameters, and at most {largest / 1e6:.1f} M in the measured pairs"


def unlike_measured(config: SampleConfig) -> str | None:
    """Why samples of these settings are unlike those of the measured pairs; None if they are like them."""
    if Side.of(config.amateur) != ANOTHER_MODEL:
        return f"the amateur is {config.amateur}, and another model in the measured pairs"
    if config.vocabulary == "aligned":
        return "vocabulary is aligned, and the measured pairs have one tokenizer"
    for name, value in MEASURED_WITH.items():
        if (given := getattr(config, name)) == value:
            continue
        if value is None:
            return f"{_words(name)} is set, and in none of the measured pairs"
        return f"{_words(name)} is {'none' if given is None else given}, and {value} in the measured pairs"
    return None


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
        raise DataError(
            f"calibration.json of this package is damaged, so no gain can be predicted ({str(error).splitlines()[0]}). "
            "Install the package again"
        ) from None


def known_figures(found: SampleFigures) -> dict[str, float]:
    """The features of these figures, without unknown ones."""
    values = {name: getattr(found, name) for name in FEATURES}
    return {name: float(value) for name, value in values.items() if value is not None}


def _row(figures: Mapping[str, float]) -> Floats:
    return np.array([figures[name] for name in FEATURES], np.float64)


def _ridge(features: Floats, gains: Floats, row: Floats) -> Floats:
    """Prediction at `row`: min_w ‖y − ȳ − Zw‖² + λ‖w‖² over standardised features Z, λ = `RIDGE`."""
    mean, deviation = features.mean(0), features.std(0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1.0)
    penalty = RIDGE * np.eye(features.shape[1])
    weights = np.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ (gains - gains.mean()))
    value: Floats = gains.mean() + (row - mean) / np.where(deviation > 0, deviation, 1.0) @ weights
    return value


def _words(name: str) -> str:
    return name.replace("_", " ")
