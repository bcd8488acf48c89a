"""The measuring scripts still run, and their reports agree with themselves. What they measured here means nothing."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from lightreasoner.config.sections import FinetuneSettings

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_another_precision_of_ours_is_held_against_float32(measure: Measure) -> None:
    report = measure("speed", "--pair miniature --runs 1 --batch 4 --steps 1 --threads 1 --no-memory --dtype bfloat16")
    assert report["dtype"] == "bfloat16"
    assert 0 < report["sampling"]["steps_compared"] <= report["sampling"]["naive_steps"]
    assert 0 < report["sampling"]["largest_kl_difference"] < 0.2


def test_the_throughput_of_a_pair_of_ones_own_is_measured_without_the_naive_way(
    measure: Measure, random_expert: Path, random_amateur: Path, data_dir: Path
) -> None:
    options = f"--parts throughput --pair {random_expert},{random_amateur} --data-dir {data_dir} --tokens 8"
    found = measure("speed", f"{options} --runs 2 --batch 4 --steps 1 --threads 1")["throughput"]
    assert found["pair"] == [str(random_expert), str(random_amateur)]
    assert [row["response_tokens"] for row in found["stages"]] == [32, 32]
    assert all(row["scored_tokens"] > 32 and row["decoding"] > 0 and row["scoring"] > 0 for row in found["stages"])
    assert found["labels"] > 0
    assert len(found["seconds_per_step"]) == 1


def test_decoding_is_held_against_the_layers_alone(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {**importlib.import_module("gpu").TINY, "num_hidden_layers": 4}
    monkeypatch.setitem(importlib.import_module("models").QWEN, "tiny", shape)
    monkeypatch.setattr("models.QWEN_TOKENS", 300)
    monkeypatch.setattr("models.random_prompts.__defaults__", (300,))
    options = "--parts decoding --shape tiny --layers 2 --dtype bfloat16 --batch 3 --tokens 5 --runs 2 --threads 1"
    found = measure("speed", options)["decoding"]
    assert (found["layers"], found["dtype"]) == ([2, 4], "bfloat16")
    assert found["tokens_per_second"] == pytest.approx(3 * 4 / median(found["seconds"]))
    body, head = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64), 32 * 320
    for share, seconds, rate in zip(found["of_gemm"], found["seconds"], found["gemm_gflops"], strict=True):
        assert share == pytest.approx(2 * (body + head) * 3 * 4 / seconds / rate / 1e9)


FAKE = """
import json, sys, time
if "--help" in sys.argv:
    print("--workers --residency")
else:
    with open({log!r}, "a") as log:
        print(json.dumps(sys.argv[1:]), file=log)
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[str]]]:
    """Puts a command line in the place of ours that only notes how it is called."""
    log, script = tmp_path / "log", tmp_path / "fake.py"
    script.write_text(FAKE.format(log=str(log)))
    processes = importlib.import_module("processes")
    processes.skipped.cache_clear()
    monkeypatch.setattr(processes, "LIGHTR", (sys.executable, str(script)))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


def test_workers_are_measured_in_turns(measure: Measure, called: Callable[[], list[list[str]]]) -> None:
    report = measure("speed", "--parts workers --pair miniature --runs 2 --questions 8")["workers"]
    assert report.keys() == {"sampling", "evaluation"}
    for row in report.values():
        one, two = (row["seconds"][name] for name in ("1 workers", "2 workers"))
        assert len(one) == len(two) == 2
        assert row["ratio"] == pytest.approx(median(one) / median(two))
        assert min(row["peak_gib"]["1 workers"]) > 0
    commands = [(arguments[0], arguments[arguments.index("--workers") + 1]) for arguments in called()]
    assert commands == [(task, count) for task in ("sample", "evaluate") for _ in range(2) for count in "12"]


def test_a_part_that_this_version_lacks_is_skipped_with_a_reason(
    measure: Measure, called: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    (tmp_path / "fake.py").write_text("print('--other')")
    report = measure("speed", "--parts workers residency --pair miniature")
    assert report["workers"]["sampling"] == {"skipped": "`lightr sample` has no --workers in this version"}
    assert report["residency"]["sampling"] == {"skipped": "`lightr sample` has no --residency in this version"}


def test_a_peer_is_held_against_our_commands_without_a_shell(
    measure: Measure, called: Callable[[], list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = f"{sys.executable} -c \"import time; time.sleep(0.2)\" '; touch {tmp_path}/harm' {{out}}"
    options = ["speed", "--json", str(tmp_path / "r.json"), "--parts", "peer", "--runs", "1", "--peer-command", peer]
    ours = ["--our-command", "sample --out {out}/run", "--our-command", "finetune --data {out}/run"]
    monkeypatch.setattr(sys, "argv", [*options, *ours])
    importlib.import_module("speed").main()
    job = json.loads((tmp_path / "r.json").read_text())["peer"]["job"]
    assert job["seconds"]["peer"][0] > 0.2
    assert job["ratio"] == pytest.approx(job["seconds"]["peer"][0] / job["seconds"]["ours"][0])
    assert not (tmp_path / "harm").exists()
    sample, finetune = called()
    assert sample[2] == finetune[2] != "{out}/run"


def test_a_peer_that_fails_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = f"{sys.executable} -c \"raise SystemExit('no GPU')\""
    monkeypatch.setattr(sys, "argv", ["speed", "--parts", "peer", "--peer-command", command, "--our-command", "x"])
    with pytest.raises(SystemExit, match=r"(?s)exit code 1.*no GPU"):
        importlib.import_module("speed").main()


def test_the_peak_of_a_command_is_its_own_and_not_that_of_its_parent() -> None:
    memory, processes = (importlib.import_module(name) for name in ("memory", "processes"))
    assert memory.peak_resident() > 2e8, "this process has loaded PyTorch"
    small, large = (
        processes.run([sys.executable, "-c", f"bytearray({size})"], {}).peak_gib * 2**30 for size in (1, 10**8)
    )
    assert 0 < small < 5e7
    assert large - small == pytest.approx(1e8, rel=0.1)
