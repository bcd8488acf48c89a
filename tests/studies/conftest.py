"""A recipe and a finished study that are small enough for tests."""

import json
from pathlib import Path

import pytest

from lightreasoner.recipes import load_recipe
from lightreasoner.studies.study import study


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with which a study takes seconds."""
    settings = load_recipe("miniature")
    settings["sample"] |= {"max_questions": 24, "max_new_tokens": 16}
    settings["finetune"] |= {"steps": 4, "labels_per_step": 8}
    settings["evaluate"] |= {"max_items": 24, "max_answer_tokens": 32}
    settings["study"] = {"lengths": [8, 16], "sft_questions": 48}
    file = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    file.write_text(json.dumps(settings))
    return file


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study of Figure 8."""
    out = tmp_path_factory.mktemp("studies")
    study("figure8", recipes=[str(tiny)], out=out, seeds=1, workers=1, page_file=out / "page.md")
    return out
