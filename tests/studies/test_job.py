"""A job: its folder moves with the root, and its time adds up."""

import json
from pathlib import Path

import pytest

from lightreasoner.errors import RunError
from lightreasoner.runs.stage import open_stage
from lightreasoner.studies import job as job_module
from lightreasoner.studies.jobs import Themes
from lightreasoner.studies.study import STUDIES
from tests.studies.harness import jobs_of, scope_of


@pytest.mark.parametrize("root", ["other", "/absolute/root", "é ü", "s"])
def test_the_folder_of_all_studies_can_be_moved(root: str) -> None:
    def folders(scope_root: Path) -> set[Path]:
        scope = scope_of("miniature", root=scope_root)
        jobs = [job for name in ("table5", "table8") for job in jobs_of(STUDIES[name].plan(scope)).values()]
        return {job.folder.relative_to(scope_root) for job in jobs}

    assert folders(Path(root)) == folders(Path("root"))


def test_the_time_of_a_stage_adds_up_over_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 10.0, 13.0])
    monkeypatch.setattr(job_module.time, "perf_counter", lambda: next(clock))
    job = Themes(root=tmp_path, themes=(), count=0, seed=0)
    job.folder.mkdir(parents=True)

    def fail() -> None:
        raise RunError("stopped")

    with pytest.raises(RunError):
        job.timed("sample", fail)
    assert job.timed("sample", lambda value: value + 1, 1) == 2
    assert json.loads((job.folder / "seconds.json").read_text()) == {"sample": 5.0}


def test_a_killed_attempt_keeps_the_time_of_its_commits(tmp_path: Path) -> None:
    job = Themes(root=tmp_path, themes=(), count=0, seed=0)
    with open_stage(job.folder, "sample", {}) as stage:
        stage.commit(["a"], {}, {})
    ledger = job.folder / "sample" / "ledger.jsonl"
    entry = {**json.loads(ledger.read_text()), "seconds": 30.0}  # of an attempt that a signal killed
    entry.pop("check")
    ledger.write_text(json.dumps(entry) + "\n")

    def finish() -> None:
        with open_stage(job.folder, "sample", {}) as stage:
            stage.finish({})

    job.timed("sample", finish)
    assert 30 <= job._spent()["sample"] < 40
    assert job._seconds["sample"] < 10
