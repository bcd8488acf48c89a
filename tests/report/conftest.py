"""A run that several tests report on."""

from pathlib import Path

import pytest

from lightreasoner import pipeline
from lightreasoner.config import RunConfig
from lightreasoner.recipes import load_recipe


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the miniature, cut short."""
    out = tmp_path_factory.mktemp("small") / "run"
    recipe = load_recipe("miniature")
    recipe["sample"] |= {"max_questions": 40}
    recipe["finetune"] |= {"steps": 12, "logging_steps": 2}
    recipe["evaluate"] |= {"max_items": 40}
    pipeline.run(RunConfig.checked({**recipe, "out": out}))
    return out
