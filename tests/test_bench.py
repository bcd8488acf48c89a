"""The measuring scripts still run, and their reports agree with themselves. What they measured here means nothing."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from lightreasoner.config import FinetuneSettings

DEFAULT = f"m={FinetuneSettings().labels_per_forward}"
Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Measure:
    """Runs a script and gives its report; in this process, since loading PyTorch takes longer than the work."""

    def run(script: str, arguments: str) -> dict[str, Any]:
        out = tmp_path / "report.json"
        monkeypatch.setattr(sys, "argv", [script, "--json", str(out), *arguments.split()])
        importlib.import_module(script).main()
        assert "|--:|" in capsys.readouterr().out
        return json.loads(out.read_text())

    return run


def test_growth_is_fitted_to_what_was_measured(measure: Measure) -> None:
    report = measure("growth", "--smoke --runs 2")
    curve = report["curves"]["problems"]
    small, large = curve["points"]
    assert (small["problems"], large["problems"]) == (16, 64)
    assert len(small["seconds"]) == len(large["seconds"]) == 2
    cost = report["cost"]
    assert 4 ** curve["exponent"] == pytest.approx(median(large[cost]) / median(small[cost]))
    for point in (small, large):
        assert all(stage > fill > 0 for stage, fill in zip(point["stage_seconds"], point["seconds"], strict=True))
        assert 0 < point["above_loaded_mib"] < point["peak_mib"]
        assert 0 < point["kept_per_rollout"] < point["tokens"]
    assert 0 < curve["line"]["r_squared"] <= 1
    middle = curve["line"]["slope"] * 40 + curve["line"]["intercept"]
    measured = small[f"stage_{cost}"] + large[f"stage_{cost}"]
    assert middle == pytest.approx(sum(measured) / len(measured))


def test_the_job_on_a_gpu_adds_up(measure: Measure) -> None:
    report = measure("gpu", "--smoke")
    found = report["pairs"]["tiny"]
    plan, job = found["plan"], found["job"]
    sampled = job["sampling"]
    assert sampled["steps_scored"] == plan["questions"] * plan["tokens"]
    assert 0 < sampled["steps_kept"] < sampled["steps_scored"]
    for block, tuned in job["finetuning"].items():
        whole = job["whole"][block]
        assert whole["extrapolated"]
        assert whole["seconds_without_loading"] == pytest.approx(
            (sampled["seconds"] - sampled["loading_seconds"]) * plan["whole_questions"] / plan["questions"]
            + (tuned["seconds"] - tuned["loading_seconds"]) * plan["whole_steps"] / plan["steps"]
        )
        loading = sampled["loading_seconds"] + tuned["loading_seconds"]
        assert 0 < loading == pytest.approx(whole["seconds"] - whole["seconds_without_loading"])
    stages = {name: row for name, row in found["stages"].items() if isinstance(row, dict)}
    assert stages.keys() == {"decoding", "scoring", "scoring and contrast", "step, m=1", f"step, {DEFAULT}"}
    for row in stages.values():
        assert row["of_gemm"] == pytest.approx(row["tflops"] / row["gemm_tflops"])
        assert row["mfu"] == pytest.approx(row["tflops"] / report["machine"]["peak_tflops"])
    plain = found["naive"]
    assert plain["whole_seconds_extrapolated"] == pytest.approx(
        plan["whole_questions"] * median(plain["seconds_per_question"])
        + plan["whole_steps"] * median(plain["seconds_per_step"])
    )


def test_our_way_is_held_against_the_naive_one(measure: Measure) -> None:
    report = measure("speed", "--pair miniature --runs 1 --batch 4 --steps 1 --threads 1 --no-memory")
    sampled, tuned = report["sampling"], report["finetuning"]
    assert sampled["largest_kl_difference"] < 1e-4
    assert sampled["kept_differently"] == 0
    ours, plain = median(sampled["our_seconds_per_question"]), median(sampled["naive_seconds_per_question"])
    assert sampled["ratio"] == pytest.approx(plain / ours)
    for name in ("m=1", DEFAULT, "m=all"):
        step = median(tuned[name]["seconds_per_step"])
        assert tuned[name]["ratio"] == pytest.approx(median(tuned["naive_seconds_per_step"]) / step)
    whole = report["whole_job_seconds_extrapolated"]
    assert whole[DEFAULT] == pytest.approx(1000 * (ours + median(tuned[DEFAULT]["seconds_per_step"])))
    assert tuned["m=all"]["tokens_per_label"] <= tuned["m=1"]["tokens_per_label"]
