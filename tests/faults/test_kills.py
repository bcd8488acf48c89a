"""SIGKILL at any time: the same command resumes, and its files equal those of an uninterrupted run."""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .harness import (
    LOAD,
    OBJECTIVE,
    assert_same_rows,
    assert_same_samples,
    at_call,
    commits,
    contents,
    count,
    held,
    killed,
    lightr,
    start,
    succeed,
    wait_for,
)

POINTS = ("before-shard", "after-shard", "in-ledger", "after-ledger")


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_around_a_commit_loses_and_doubles_no_row(
    point: str, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert lightr(*sampling, out, fail=f"{point}:kill@6").code == -signal.SIGKILL
    before = commits(out / "sample")
    assert 0 < len(before) < 12
    succeed(*sampling, out)
    assert commits(out / "sample")[: len(before)] == before  # so at most the current batch was redone
    assert len(commits(out / "sample")) == 12
    assert_same_samples(out, sampled)


def kill_at_random(
    arguments: tuple[object, ...],
    out: Path,
    stage: Path,
    *,
    kills: int,
    commits_in_all: int,
    compare: Callable[[], None],
) -> None:
    """Kill and re-run the command until `kills` kills have hit it; after a complete run, compare and start over.

    Half of the kills wait for a few more commits, the other half for a random time after the start.
    """
    chance = random.Random(kills)
    hits = sent = 0
    while hits < kills:
        command = start(*arguments, out)
        if hits % 2:
            wanted = len(commits(stage)) + chance.randint(0, max(1, commits_in_all // kills))
            wait_for(lambda wanted=wanted: len(commits(stage)) >= wanted, command)  # type: ignore[misc]
            time.sleep(chance.random() * 0.05)
        else:
            time.sleep(chance.random() * 1.0)
        before = commits(stage)
        sent += command.send(signal.SIGKILL)
        code = command.end().code
        assert code in (0, -signal.SIGKILL)
        assert commits(stage)[: len(before)] == before
        hits += code != 0
        if code == 0:
            compare()
            shutil.rmtree(out)
    succeed(*arguments, out)
    compare()
    count(survived=sent)


@pytest.mark.parametrize("kills", [4, pytest.param(24, marks=pytest.mark.slow)])
def test_kills_at_random_moments_of_sampling(
    kills: int, sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"

    def compare() -> None:
        assert_same_rows(out / "sample", sampled / "sample", "rollouts", ("question_id",))
        assert_same_rows(out / "sample", sampled / "sample", "steps", ("question_id", "position"))

    kill_at_random(sampling, out, out / "sample", kills=kills, commits_in_all=12, compare=compare)


@pytest.mark.parametrize(
    ("kills", "paced_by"),
    [
        (4, "answers"),
        pytest.param(24, "answers", marks=pytest.mark.slow),
        pytest.param(24, "math-verify", marks=pytest.mark.slow),
    ],
)
def test_kills_at_random_moments_of_evaluation(
    kills: int, paced_by: str, evaluating: tuple[object, ...], evaluated: Path, tmp_path: Path
) -> None:
    out, place = tmp_path / "run", Path("chat/arithmetic")

    def compare() -> None:
        answers, judged = place / "answers", place / "math-verify"
        assert assert_same_rows(out / answers, evaluated / answers, "answers", ("question_id",)) == 40
        assert_same_rows(out / judged, evaluated / judged, "verdicts", ("question_id", "sample"))
        found, expected = (json.loads((run / judged / "result.json").read_text()) for run in (out, evaluated))
        assert found == expected

    kill_at_random(evaluating, out, out / place / paced_by, kills=kills, commits_in_all=10, compare=compare)


@pytest.mark.parametrize("stage", ["sampling", "evaluating"])
def test_a_finished_stage_run_again_changes_no_file(stage: str, request: pytest.FixtureRequest) -> None:
    out = request.getfixturevalue({"sampling": "sampled", "evaluating": "evaluated"}[stage])
    before = contents(out)
    again = succeed(*request.getfixturevalue(stage), out, patch=at_call(LOAD, 1, before=killed))
    assert contents(out) == before
    assert again.out


def test_a_finished_run_of_all_stages_changes_no_file(
    random_expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    arguments = (
        "run", "--expert", random_expert, "--amateur", random_amateur, "--dataset", "arithmetic", "--dtype", "float32",
        "--sample.max-questions", 8, "--sample.max-new-tokens", 8, "--finetune.steps", 2, "--evaluate.max-items", 4,
        "--evaluate.max-answer-tokens", 4, "--evaluate.benchmarks", "arithmetic", "--out", tmp_path / "run",
    )  # fmt: skip
    first = succeed(*arguments, "--json")
    before = contents(tmp_path / "run")
    assert json.loads(succeed(*arguments, "--json", patch=at_call(LOAD, 1, before=killed)).out) == json.loads(first.out)
    assert contents(tmp_path / "run") == before


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "finetune/log.json").read_text()) if "loss" in entry]


def assert_same_adapter(parts: Path, whole: Path) -> None:
    first, second = (load_file(out / "finetune/adapter/adapter_model.safetensors") for out in (parts, whole))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-7)
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-6)
    count(survived=1)


@pytest.mark.parametrize(
    ("fault", "resumed_from"),
    [
        ("in-checkpoint:kill@2", 4),  # during the second of three checkpoints
        ("before-checkpoint-complete:kill@2", 4),
        ("in-checkpoint:kill@1", 0),
        ("before-checkpoint-complete:kill@3", 8),  # at the last step
    ],
)
def test_a_kill_in_a_checkpoint_resumes_from_the_newest_complete_one(
    fault: str, resumed_from: int, tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert lightr(*tuning, out, fail=fault).code == -signal.SIGKILL
    again = succeed(*tuning, out)
    assert f"checkpoint-{resumed_from + 4}: torn" in again.error
    assert f"checkpoint-{resumed_from}: torn" not in again.error
    assert_same_adapter(out, tuned)


@pytest.mark.parametrize("step", [1, 6, 12])
def test_tuning_stopped_at_a_step_resumes_with_the_same_labels(
    step: int, tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    """After SIGTERM during a step, that step is completed and saved, and later steps equal those of the whole run."""
    out, go = tmp_path / "run", tmp_path / "go"
    command = start(*tuning, out, patch=at_call(OBJECTIVE, step, before=partial(held, go)))
    wait_for((tmp_path / "go.reached").exists, command)
    command.send(signal.SIGTERM)
    time.sleep(0.05)
    go.touch()
    ended = command.end()
    assert ended.code == 143, ended.error
    assert (out / f"finetune/checkpoint-{step}/complete.json").exists()
    succeed(*tuning, out)
    assert_same_adapter(out, tuned)


def test_the_only_kept_checkpoint_stays_until_the_next_is_complete(
    tuning: tuple[object, ...], tuned: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    keep_one = (*tuning[:-1], "--keep-checkpoints", 1, "--out", out)
    assert lightr(*keep_one, fail="before-checkpoint-complete:kill@2").code == -signal.SIGKILL
    assert (out / "finetune/checkpoint-4/complete.json").exists()
    succeed(*keep_one)
    assert [path.name for path in (out / "finetune").glob("checkpoint-*")] == ["checkpoint-12"]
    assert_same_adapter(out, tuned)


@pytest.mark.parametrize("point", [pytest.param("in-folder", marks=pytest.mark.slow), "before-name"])
def test_a_kill_in_a_merge_leaves_no_output_folder(point: str, merging: tuple[object, ...], tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "merged"
    assert lightr(*merging, out, fail=f"{point}:kill").code == -signal.SIGKILL
    assert not out.exists()
    succeed(*merging, out)
    succeed(*merging, whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["merged", "whole"]
    count(survived=1)
