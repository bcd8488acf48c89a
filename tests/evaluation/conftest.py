"""Evaluations of the miniature, shared by all tests of this folder."""

from pathlib import Path

import pytest

from lightreasoner.config import EvaluateConfig
from lightreasoner.evaluation.evaluate import evaluate

from .helpers import ITEMS, config_for


@pytest.fixture(scope="session")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature expert on sixty questions, under both prompts."""
    out = tmp_path_factory.mktemp("evaluation") / "expert"
    evaluate(config_for(out, prompts="both"))
    return out


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature base on the same questions, under the chat prompt."""
    out = tmp_path_factory.mktemp("evaluation") / "base"
    evaluate(config_for(out, model="miniature/base"))
    return out


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real evaluation by both judges."""
    out = tmp_path_factory.mktemp("evaluation")
    config = EvaluateConfig(
        model="miniature/expert", benchmarks=("arithmetic",), max_items=ITEMS, max_answer_tokens=48, out=out
    )
    evaluate(config)
    evaluate(config.model_copy(update={"judge": "toolkit"}))
    return out
