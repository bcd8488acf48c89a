"""The scheduler: finished jobs stay, a failed one stops no others, workers give the same results and can be stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lightreasoner.errors import DataError, RunError
from lightreasoner.miniature.word_problems import THEMES
from lightreasoner.studies.jobs import Evaluation, Samples, Themes
from lightreasoner.studies.scheduler import run_jobs
from tests.studies.harness import scope_of


def toy_job(root: Path, seed: int) -> Samples:
    scope = scope_of(root=root)
    return Samples.of(root, scope.main.model_copy(update={"seed": seed}))


def test_finished_jobs_are_not_run_again_and_failed_ones_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make_toy(job: Samples) -> dict[str, object]:
        made.append(job.config.seed)
        if job.config.seed == 2 and made.count(2) == 1:
            raise RunError("no luck")
        return {"seed": job.config.seed}

    monkeypatch.setattr(Samples, "make", make_toy)
    jobs = [toy_job(tmp_path, seed) for seed in (1, 2, 3, 1)]
    with pytest.raises(RunError, match="1 jobs failed: .*no luck.*tries them again"):
        run_jobs(jobs, workers=1)
    assert sorted(made) == [1, 2, 3]
    run_jobs(jobs, workers=1)
    assert sorted(made) == [1, 2, 2, 3]
    assert jobs[1].done == {"results": {"seed": 2}, "seconds": {}}


def test_a_job_that_needs_a_failed_one_fails_untried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: Samples) -> dict[str, object]:
        raise RunError("no luck")

    monkeypatch.setattr(Samples, "make", fail)
    monkeypatch.setattr(Evaluation, "make", lambda job: {})
    scope = scope_of("miniature", root=tmp_path)
    (training,) = scope.method(scope.main, 1)
    (base,) = scope.base(scope.main)
    with pytest.raises(RunError, match=r"2 jobs failed: .*no luck; .*: needs a job that failed"):
        run_jobs([training, base], workers=1)
    assert base.done is not None
    assert not training.folder.exists()


def test_jobs_that_fail_for_one_reason_are_told_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(job: Themes) -> None:
        raise DataError("the Hub does not answer. Check the network")

    monkeypatch.setattr(Themes, "make", offline)
    jobs = [Themes(root=tmp_path, themes=(theme,), count=5, seed=3) for theme in sorted(THEMES)[:3]]
    with pytest.raises(RunError) as raised:
        run_jobs(jobs, 1)
    message = str(raised.value)
    assert message.startswith("3 jobs failed: ")
    assert message.count("the Hub does not answer") == 1
    assert "and 2 more" in message


@pytest.mark.slow
def test_workers_make_the_same_and_continue_after_a_failed_job(tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    themes = sorted(THEMES)
    for root, workers in ((alone, 1), (together, 2)):
        jobs = [Themes(root=root, themes=(theme,), count=5, seed=3) for theme in themes[:3]]
        wrong = Themes(root=root, themes=("no such kind",), count=5, seed=3)
        with pytest.raises(RunError, match="1 jobs failed: .*AssertionError, see .*log.txt"):
            run_jobs([*jobs, wrong], workers)
        assert all(job.done is not None for job in jobs)
        assert wrong.done is None
    files = sorted(path.relative_to(alone) for path in alone.rglob("problems.jsonl"))
    assert len(files) == 3
    assert all((alone / file).read_bytes() == (together / file).read_bytes() for file in files)


@pytest.mark.slow
def test_a_study_that_is_stopped_stops_its_workers(tiny: Path, tmp_path: Path) -> None:
    settings = json.loads(tiny.read_text())
    settings["finetune"]["steps"] = 5000
    file = tmp_path / "long.yaml"
    file.write_text(json.dumps(settings))
    arguments = f"study table7 --recipe {file} --seeds 1 --workers 2 --out {tmp_path / 'out'}".split()
    process = subprocess.Popen([sys.executable, "-m", "lightreasoner.cli", *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    while len(list((tmp_path / "out").glob("trainings/*/finetune/log.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"interrupted; finished work is saved" in said
    assert not any(worker.is_running() for worker in workers)
    assert list((tmp_path / "out").glob("trainings/*/finetune/checkpoint-*/complete.json"))
