"""A small run of random models in a folder whose path must not be told, and a Hub on this machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightreasoner.config import RunConfig
from lightreasoner.models import chat_templates
from lightreasoner.pipeline import run

from ..conftest import rendered_in_this_process
from ..fake_hub import FakeHub, serving, used

SECRET = "home-of-ann"  # in the path of the models and of the run, as a user's name is


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, random_expert: Path, random_amateur: Path) -> RunConfig:
    """A finished run."""
    home = tmp_path_factory.mktemp(SECRET)
    models = {"expert": random_expert, "amateur": random_amateur}
    for name, folder in models.items():
        models[name] = Path(shutil.copytree(folder, home / "models" / name))
    config = RunConfig.checked(
        {
            **{name: str(folder) for name, folder in models.items()},
            "dataset": "arithmetic",
            "out": home / "runs" / "first",
            "dtype": "float32",
            "sample": {"max_questions": 8, "max_new_tokens": 6, "batch_size": 4},
            "finetune": {"steps": 2},
            "evaluate": {"benchmarks": ["arithmetic"], "max_items": 4, "max_answer_tokens": 4},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_templates, "_ask_worker", rendered_in_this_process)
        run(config)
    return config


@pytest.fixture
def folder(config: RunConfig, tmp_path: Path) -> Path:
    """A copy of the run folder, to change; its evaluation names the model by its first path."""
    return Path(shutil.copytree(config.out, tmp_path / SECRET / "first"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with serving() as server, used(server, tmp_path / "cache"):
        yield server
