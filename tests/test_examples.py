"""The examples run as they are; the notebook is in test_notebook.py."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightreasoner.cli import app
from lightreasoner.inference import vllm_engine
from lightreasoner.miniature import model_path
from lightreasoner.report import report
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Selected, read_samples

from .faults.harness import commits, script, start
from .inference.vllm_helpers import FakeVllm

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
LONG = 500  # seconds; a job of seconds on a machine with other work
SMALL = shlex.split(
    "--sample.max-questions 12 --sample.max-new-tokens 24 --finetune.steps 2 --evaluate.max-items 6 "
    "--evaluate.max-answer-tokens 24 --evaluate.grading-workers 1"
)


def program(folder: Path, name: str, body: str) -> Path:
    """A command for the search path of a shell script."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def run_by(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a shell script that finds these programs."""
    known = {"PATH": f"{folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **known, **variables}


@pytest.mark.slow
def test_the_whole_method_flat() -> None:
    ended = start(patch=script(ROOT / "examples" / "whole_method_flat.py", 20, 3)).end(LONG)
    assert ended.code == 0, ended.error
    assert int(re.search(r"(\d+) labels from 20 questions", ended.out).group(1)) > 20
    assert "accuracy on 100 new problems" in ended.out


def test_the_loss_in_a_trainer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    few = ["--max-questions", "6", "--max-new-tokens", "24"]
    app(["sample", "--config", "miniature", *few, "--out", str(tmp_path / "run")], result_action="return_value")
    example = script(ROOT / "examples" / "trl_trainer.py", tmp_path / "run", tmp_path / "out", model_path("expert"), 10)
    ended = start(patch=example).end(300)
    assert ended.code == 0, ended.error
    first, last = map(float, re.search(r"loss ([\d.]+) → ([\d.]+)", ended.out).groups())
    assert last < first
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_selection_rule_of_ones_own(tmp_path: Path) -> None:
    ended = start(patch=script(EXAMPLES / "own_rule.py", tmp_path, 20, 2)).end(LONG)
    assert ended.code == 0, ended.error
    kept = dict(re.findall(r"(\w+): (\d+) of \d+ steps kept", ended.out))
    assert kept.keys() == {"divergence", "surer"}
    assert kept["divergence"] == kept["surer"] != "0"
    (by_divergence, _), (by_own, _) = (read_samples(tmp_path / name) for name in kept)
    assert isinstance(by_divergence, Selected)
    assert isinstance(by_own, Selected)
    assert by_divergence.chosen_steps_sha256 is None
    assert by_own.chosen_steps_sha256 is not None


def test_a_benchmark_of_ones_own(tmp_path: Path) -> None:
    ended = start(patch=script(EXAMPLES / "own_benchmark.py", tmp_path)).end(LONG)
    assert ended.code == 0, ended.error
    right = re.findall(r"miniature/(\w+) on chat/own_benchmark: (\d) of 6 right", ended.out)
    assert [name for name, _ in right] == ["base", "expert"]
    difference = re.search(r"difference ([+-][\d.]+)%, 95 % interval ", ended.out)
    assert difference is not None
    assert float(difference[1]) == pytest.approx((int(right[1][1]) - int(right[0][1])) / 6 * 100, abs=0.1)
    # The commands in its docstring give the same folders.
    text = (EXAMPLES / "own_benchmark.py").read_text()
    commands = [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("    lightr ")]
    assert [words[0] for words in commands] == ["evaluate", "evaluate", "compare"]
    for words in commands:
        app.parse_args(words, exit_on_error=False, print_error=False)


# --- Slurm ---


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with Slurm's programs: a step runs here, and requeue requests are written down."""
    folder = tmp_path / "bin"
    program(folder, "srun", f'echo $$ > {folder}/step\nexec "$@"')
    program(folder, "scontrol", f'echo "$@" >> {folder}/asked')
    return folder


def asked_of(slurm: Path) -> list[str]:
    file = slurm / "asked"
    return file.read_text().splitlines() if file.exists() else []


def options_of(file: Path) -> dict[str, str]:
    """The options of a batch script, as `sbatch` reads them: the lines before the first command."""
    lines = file.read_text().partition("\nset ")[0].splitlines()
    found = [line.removeprefix("#SBATCH --").partition("=") for line in lines if line.startswith("#SBATCH --")]
    return {name: value for name, _, value in found}


def test_the_slurm_job_is_warned_in_time_and_may_be_requeued() -> None:
    options = options_of(EXAMPLES / "slurm.sh")
    number, _, seconds = options["signal"].partition("@")
    assert f"SIG{number}" == signal.SIGUSR1.name  # to the steps; with B: the shell alone would get it
    assert int(seconds) >= 60 + 25  # Slurm may be 60 s late, and `lightr` takes up to 25 s
    assert {"requeue", "open-mode"} <= options.keys()


@pytest.mark.slow
def test_the_slurm_job_is_requeued_after_the_warning_and_goes_on_to_its_end(slurm: Path, tmp_path: Path) -> None:
    program(slurm, "lightr", f'exec {sys.executable} -m lightreasoner.cli "$@"')
    out, go = tmp_path / "run", tmp_path / "go"
    words = ["bash", str(EXAMPLES / "slurm.sh"), "--config", "miniature", "--sample.batch-size", "4", *SMALL, "--out"]
    first = run_by(slurm, SLURM_JOB_ID="7", LIGHTREASONER_FAILPOINTS=f"in-batch:hang={go}@2")
    job = subprocess.Popen([*words, str(out)], env=first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + LONG
    while not go.with_name("go.reached").exists() and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(int((slurm / "step").read_text()), signal.SIGUSR1)  # as Slurm does
    go.touch()
    said, error = job.communicate(timeout=LONG)
    assert job.returncode == 128 + signal.SIGUSR1, error
    assert "requeued after sitting 1" in said
    assert asked_of(slurm) == ["requeue 7"]
    committed = commits(out / "sample")
    assert len(committed) == 2  # with the batch that was running
    again = run_by(slurm, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
    done = subprocess.run([*words, str(out)], env=again, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    assert commits(out / "sample")[:2] == committed
    assert len(commits(out / "sample")) == 3
    assert (out / "summary.json").is_file()
    assert asked_of(slurm) == ["requeue 7"]


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(138, 0, True), (138, 49, True), (138, 50, False), (143, 0, False), (1, 0, False)],
)
def test_only_a_job_that_was_stopped_by_the_warning_is_requeued(
    slurm: Path, code: int, restarts: int, requeued: bool
) -> None:
    program(slurm, "lightr", f'[ "$*" = "run --out a folder" ] && exit {code}')
    words = ["bash", str(EXAMPLES / "slurm.sh"), "--out", "a folder"]
    environment = run_by(slurm, SLURM_JOB_ID="7", SLURM_RESTART_COUNT=str(restarts))
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")
    assert asked_of(slurm) == (["requeue 7"] if requeued else [])


# --- vLLM and Ray ---


def commands_with_vllm(folder: Path, python: str, *more: str) -> list[list[str]]:
    """What the example gives to `lightr`."""
    program(folder, "lightr", f'printf "%s\\0" "$@" >> {folder}/words; printf "\\n" >> {folder}/words')
    words = ["bash", str(EXAMPLES / "vllm_engine.sh"), *more]
    subprocess.run(words, env=run_by(folder, VLLM_PYTHON=python), check=True)
    return [line.removesuffix("\0").split("\0") for line in (folder / "words").read_text().splitlines()]


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    yield FakeVllm(tmp_path / "site", monkeypatch)
    vllm_engine.engine_version.cache_clear()


def test_a_run_with_vllm(fake_vllm: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package vllm, and the miniature in the place of the recipe's models."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = str(tmp_path / "run")
    python = str(program(tmp_path / "vllm", "python", f'PYTHONPATH={fake_vllm.folder} exec {sys.executable} "$@"'))
    doctor, run = commands_with_vllm(tmp_path / "bin", python, "--out", out, *SMALL)
    assert [doctor[0], run[:3]] == ["doctor", ["run", "--config", "qwen2.5-math-1.5b"]]
    for words in (doctor, run):
        assert words[words.index("--engine") + 1] == "vllm"
        assert words[words.index("--engine-python") + 1] == python
    app(doctor, exit_on_error=False, print_error=False, result_action="return_value")
    run[2] = "miniature"
    app(run, exit_on_error=False, print_error=False, result_action="return_value")
    assert len(fake_vllm.seen("arguments")) == 3  # sample, and both evaluations
    assert read_samples(Path(out))[0].engine_version is not None
    assert (tmp_path / "run" / "summary.json").is_file()


def test_the_vllm_example_says_what_it_lacks(tmp_path: Path) -> None:
    environment = run_by(tmp_path)
    environment.pop("VLLM_PYTHON", None)
    done = subprocess.run(["bash", str(EXAMPLES / "vllm_engine.sh")], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "VLLM_PYTHON: names the Python of an environment with vLLM" in done.stderr


@pytest.mark.slow
def test_a_run_with_the_real_vllm(smollm2_gguf: Path, smollm2_amateur: Path, tmp_path: Path) -> None:
    python = os.environ.get("LIGHTREASONER_VLLM_PYTHON")
    if python is None:
        pytest.skip("LIGHTREASONER_VLLM_PYTHON names no Python with vLLM; `make vllm` makes one")
    program(tmp_path / "bin", "lightr", f'exec {sys.executable} -m lightreasoner.cli "$@"')
    pair = ["--expert", str(smollm2_gguf), "--amateur", str(smollm2_amateur), "--dataset", "arithmetic"]
    here = ["--dtype", "float32", "--device", "cpu", "--evaluate.benchmarks", "arithmetic"]
    words = ["bash", str(EXAMPLES / "vllm_engine.sh"), *pair, *here, *SMALL, "--out", str(tmp_path / "run")]
    environment = run_by(tmp_path / "bin", VLLM_PYTHON=python, VLLM_CPU_KVCACHE_SPACE="1")
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    made, _ = read_samples(tmp_path / "run")
    assert made.engine_version is not None
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["finetune"]["labels_trained"] == 32


@pytest.mark.slow  # the workers of three stages import the libraries
def test_a_job_on_a_ray_cluster(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    words = [sys.executable, str(EXAMPLES / "ray_job.py"), "local", str(tmp_path), "12"]
    done = subprocess.run(words, env=run_by(tmp_path), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert re.search(r"arithmetic: [\d.]+% before, [\d.]+% after", done.stdout)
    _, stage = read_stage(tmp_path / "sample")
    assert stage.counts["questions"] == 12


def stages_of_the_readme(out: Path) -> list[str]:
    """The README's stage-by-stage commands, with small models, few problems and this run folder."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "lightr sample " in block]
    text = block[block.index("lightr sample ") :]
    small = {
        "Qwen/Qwen2.5-Math-1.5B": "miniature/expert", "Qwen/Qwen2.5-0.5B": "miniature/base", "runs/mine": str(out),
        "--dataset gsm8k": "--dataset arithmetic --max-questions 12", "--steps 1000": "--steps 2",
        "--benchmarks gsm8k svamp": "--benchmarks arithmetic --max-items 6 --max-answer-tokens 24",
    }  # fmt: skip
    for known, changed in small.items():
        assert known in text
        text = text.replace(known, changed)
    return [line.partition("#")[0].strip() for line in text.splitlines()]


def test_the_stages_of_the_readme_give_a_complete_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "mine"
    commands = stages_of_the_readme(out)
    assert [command.split()[1] for command in commands] == [
        "sample", "finetune", "merge", "evaluate", "evaluate", "report",
    ]  # fmt: skip
    for command in commands:
        app(shlex.split(command)[1:], exit_on_error=False, print_error=False, result_action="return_value")
    found = report(out)
    assert (found.missing, found.completing) == ((), ())
    assert found.main_test is not None
    assert list(found.cost.seconds) == ["sample", "finetune", "merge", "evaluate_before", "evaluate_after"]
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_a_report_names_the_commands_that_complete_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From samples alone, the named commands lead to a complete report; each is named until it is done."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "my run"
    app([*shlex.split(stages_of_the_readme(tmp_path / "mine")[0])[1:-1], str(out)], result_action="return_value")
    named = report(out).completing
    assert [shlex.split(command)[1] for command in named] == ["finetune", "merge", "evaluate", "evaluate"]
    cheap = {"finetune": ["--steps", "2"], "evaluate": ["--max-items", "6", "--max-answer-tokens", "24"]}
    asked = 0
    while todo := report(out).completing:
        words = shlex.split(todo[0])[1:]
        if words[0] == "evaluate" and asked:  # the second one is asked like the first, without being told
            assert "--max-items 6" in todo[0]
            assert "--max-answer-tokens 24" in todo[0]
        else:
            words += cheap.get(words[0], [])
        asked += words[0] == "evaluate"
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
    found = report(out)
    assert found.missing == ()
    assert found.main_test is not None
    assert found.warnings == () or "cut off" in "".join(found.warnings)
