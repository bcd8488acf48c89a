"""Files in a run folder that no command of this package wrote are never deleted or replaced."""

import os
import signal
from pathlib import Path

import pytest

from lightreasoner.config import RoundsConfig, RunConfig
from lightreasoner.errors import ConfigError, DataError, Interrupted, RunError
from lightreasoner.pipeline import check
from lightreasoner.rounds import _begin
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import open_stage
from lightreasoner.studies.study import study

SMALL = {"expert": "miniature/expert", "amateur": "miniature/base", "dataset": "arithmetic"}
SMALL |= {"sample": {"max_questions": 4}, "evaluate": {"benchmarks": ["arithmetic"]}}


@pytest.mark.parametrize("name", ["train.parquet", "README.md", "notes.txt", "data.json"])
def test_a_stage_refuses_a_folder_with_files_of_the_user(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "sample" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(RunError, match=f"holds {name}, which no stage wrote"), open_stage(tmp_path, "sample", {}):
        pass
    assert mine.read_text() == "mine"
    assert not (mine.parent / "manifest.json").exists()


def test_a_stage_that_has_begun_leaves_files_beside_its_own_alone(tmp_path: Path) -> None:
    with open_stage(tmp_path, "sample", {"x": 1}):
        pass
    mine = tmp_path / "sample" / "train-questions.parquet"
    mine.write_text("mine")
    with open_stage(tmp_path, "sample", {"x": 2}):  # nothing is claimed, so it begins anew
        pass
    assert mine.read_text() == "mine"


def test_a_run_does_not_replace_settings_that_no_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("# my recipe\n")
    with pytest.raises(DataError, match=r"config\.yaml was not written by a run"):
        check(RunConfig.checked({**SMALL, "out": tmp_path}))
    assert (tmp_path / "config.yaml").read_text() == "# my recipe\n"


def test_a_run_and_rounds_do_not_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "round-0").mkdir()
    with pytest.raises(DataError, match="holds rounds of `lightr rounds`"):
        check(RunConfig.checked({**SMALL, "out": tmp_path}))
    (tmp_path / "finetune").mkdir()
    (tmp_path / "finetune" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="holds finetune of another run"):
        _begin(RoundsConfig.checked({**SMALL, "out": tmp_path}))
    assert (tmp_path / "finetune" / "manifest.json").exists()


def test_a_signal_in_the_last_batch_stops_what_would_come_next() -> None:
    with pytest.raises(Interrupted), stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    with stop_signals():
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": {"amateur": "previous", "labeller": "base"}}, "both sides would be the expert"),
        ({"rounds": {"amateur": "previous"}, "vocabulary": "aligned"}, "with its own tokenizer"),
        ({"evaluate": {"benchmarks": []}}, "evaluate.benchmarks"),
    ],
)
def test_settings_that_could_only_fail_later_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RoundsConfig.checked({**SMALL, **changes})


@pytest.mark.parametrize("seeds", [0, -3])
def test_a_study_needs_a_seed(seeds: int) -> None:
    with pytest.raises(ConfigError, match="needs at least one seed"):
        study("table6", seeds=seeds)
