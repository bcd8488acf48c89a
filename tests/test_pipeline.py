"""All stages through the command line, on the bundled pair and on a real small model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightreasoner import pipeline
from lightreasoner.config import RunConfig
from lightreasoner.errors import ConfigError, DataError, HubUnreachable, ModelError, RunMismatch
from lightreasoner.miniature import model_path
from lightreasoner.pipeline import run
from lightreasoner.recipes import load_recipe
from lightreasoner.report import write
from lightreasoner.runs.locks import HOLDER
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout

from .faults.harness import completed as lightr
from .kept import kept_steps

ROOT = Path(__file__).parents[1]
RECIPE = load_recipe("miniature")


SMALL = ("--sample.max-questions", 24, "--finetune.steps", 6, "--evaluate.max-items", 24)
Made = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a whole run in a new process, and what it printed."""
    out = tmp_path_factory.mktemp("pipeline") / "run"
    return out, lightr("run", *SMALL, "--out", out, "--json", cold=True)


def test_one_command_runs_all_stages_and_a_second_has_nothing_left_to_do(made: Made) -> None:
    out, first = made
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert summary["sample"]["questions"] == 24
    assert summary["finetune"]["labels_trained"] == 6 * 16
    assert summary["comparison"]["benchmarks"][0]["total"] == 24
    assert RunConfig.checked(yaml.safe_load((out / "config.yaml").read_text())).sample.max_questions == 24
    assert json.loads((out / "environment.json").read_text())["torch"] == torch.__version__
    AutoModelForCausalLM.from_pretrained(out / "merged")
    assert (out / "report.html").is_file()

    def stamps() -> dict[Path, int]:
        """Modification times of all files except the name of the lock holder."""
        return {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != HOLDER}

    before = stamps()

    second = lightr("run", *SMALL, "--out", out)
    assert second.returncode == 0, second.stderr
    assert "| chat   | Arithmetic | 24 |" in second.stdout
    assert "gain (95 %)" in second.stdout
    assert stamps() == before  # including the summary with its times

    recipe = lightr("run", "--config", out / "config.yaml", "--json")
    assert {**json.loads(recipe.stdout), "seconds": 0} == {**summary, "seconds": 0}

    other = lightr("run", *SMALL, "--out", out, "--sample.divergence-beta", 0.5)
    assert other.returncode == 1
    assert other.stderr.splitlines()[-1].startswith("lightr: ")
    assert "divergence_beta: 0.4 there, 0.5 now" in other.stderr


def test_a_run_selects_its_labels_from_samples_that_hold_what_the_rule_needs(tmp_path: Path) -> None:
    sizes = {"sample": {"max_questions": 12}, "finetune": {"steps": 2}, "evaluate": {"max_items": 4}}
    recipe = {name: {**values, **sizes.get(name, {})} if name in sizes else values for name, values in RECIPE.items()}
    rule = {"selection": "label_surprise", "keep_share": 0.25, "plausibility_alpha": 0.1, "expert_power": 1.5}
    config = RunConfig.checked({**recipe, "select": {**rule, "amateur_power": 0.5}, "out": tmp_path / "run"})
    summary = run(config)
    assert list(summary)[3:6] == ["sample", "select", "finetune"]
    assert summary["sample"]["kept_steps"] == summary["sample"]["steps"] == summary["select"]["steps"]
    assert summary["select"]["kept_steps"] == round(0.25 * summary["sample"]["steps"]) == summary["finetune"]["labels"]
    everything = {(step.question_id, step.position): step for step in kept_steps(config.out)}
    for step in kept_steps(config.out / "select"):
        sampled = everything[step.question_id, step.position]
        scores = torch.tensor(sampled.expert_logprobs) * 1.5 - torch.tensor(sampled.amateur_logprobs) * 0.5
        assert step.weights == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)

    assert RunConfig.checked(yaml.safe_load((config.out / "config.yaml").read_text())) == config
    before = (config.out / "summary.json").read_text()
    assert {**run(config), "seconds": 0} == {**json.loads(before), "seconds": 0}
    (config.out / "select" / "result.json").unlink()  # as if it had been stopped
    assert {**run(config), "seconds": 0} == {**json.loads(before), "seconds": 0}
    with pytest.raises(RunMismatch, match=r"select was made with other settings \(keep_share: 0.25 there, 0.5 now"):
        run(config.model_copy(update={"select": config.select.model_copy(update={"keep_share": 0.5})}))
    with pytest.raises(RunMismatch, match="exists and is not this merge"):
        run(config.model_copy(update={"merge": config.merge.model_copy(update={"merge_dtype": "float32"})}))
    assert RunConfig.checked(yaml.safe_load((config.out / "config.yaml").read_text())) == config, "settings of no stage"

    words = "label_surprise, keep_share 0.25; labels π_E^1.5 · π_A^-0.5, α 0.1"
    page = (config.out / "report.html").read_text(encoding="utf-8")
    assert f"% were kept, by {words}." in page
    assert words in str(write([config.out], as_markdown=True))


@pytest.mark.slow
def test_a_run_takes_the_selection_that_its_recipe_made_by_hand(tmp_path: Path) -> None:
    """`sample`, `samples select` and `finetune` with a recipe make the folders that `run` makes with it."""
    sizes = {"sample": {"max_questions": 12}, "finetune": {"steps": 2}, "evaluate": {"max_items": 4}}
    recipe = {name: {**values, **sizes.get(name, {})} if name in sizes else values for name, values in RECIPE.items()}
    out, file = tmp_path / "run", tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**recipe, "select": {"keep_share": 0.2}, "out": str(out)}))
    for words in (["sample"], ["samples", "select", out, out], ["finetune"]):
        ended = lightr(*words, "--config", file)
        assert ended.returncode == 0, ended.stderr
    made = {path: path.read_bytes() for path in out.glob("*/manifest.json")}
    assert {path.parent.name for path in made} == {"sample", "select", "finetune"}
    whole = lightr("run", "--config", file)
    assert whole.returncode == 0, whole.stderr
    assert {path: path.read_bytes() for path in made} == made


def test_the_stages_one_by_one_give_the_same_as_run(made: Made, tmp_path: Path) -> None:
    whole, hand = made[0], tmp_path / "hand"
    settings = load_recipe("miniature")
    pair = ("--expert", settings["expert"], "--amateur", settings["amateur"], "--dataset", "arithmetic")
    sampled = lightr(
        "sample", *pair, "--max-questions", 24, "--max-new-tokens", 48, "--batch-size", 128, "--dtype", "float32",
        "--out", hand,
    )  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    tuned = lightr("finetune", "--config", "miniature", "--steps", 6, "--data", hand, "--out", hand)
    assert tuned.returncode == 0, tuned.stderr
    merged = lightr("merge", "--model", settings["expert"], "--adapter", hand, "--out", hand / "merged")
    assert merged.returncode == 0, merged.stderr
    evaluated = lightr(
        "evaluate", "--model", hand / "merged", "--benchmarks", "arithmetic", "--max-items", 24,
        "--max-answer-tokens", 64, "--out", hand / "evaluate", "--json",
    )  # fmt: skip
    assert evaluated.returncode == 0, evaluated.stderr
    weights = [(folder / "merged" / "model.safetensors").read_bytes() for folder in (whole, hand)]
    assert weights[0] == weights[1]
    found = json.loads(evaluated.stdout)["chat/arithmetic"]
    expected = json.loads((whole / "summary.json").read_text())["evaluate_after"]["chat/arithmetic"]
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample", "--config", "miniature", "--dataset", "absent.jsonl"), "no file absent.jsonl"),
        (("sample", "--config", "miniature", "--expert", "nobody/nothing"), "the Hub does not answer"),
        (("finetune", "--config", "miniature", "--data", "absent"), "holds no samples"),
        (("merge", "--config", "miniature", "--adapter", "absent"), "no adapter_model.safetensors"),
        (("evaluate", "--config", "miniature", "--benchmarks", "gsm8k", "--data-dir", "absent"), "no file absent"),
        (("samples", "import", "absent.jsonl", "OUT", "--expert", "miniature/expert"), "no file absent.jsonl"),
    ],
)
def test_bad_input_gives_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    given = [str(out) if argument == "OUT" else argument for argument in arguments]
    found = lightr(*given, *(("--out", out) if "OUT" not in arguments else ()))
    assert found.returncode == 1
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    assert message in found.stderr.splitlines()[-1]
    assert not any(path.is_file() and not path.name.startswith(".") for path in out.rglob("*"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"finetune": {"report_to": "wnadb"}}, ConfigError, "did you mean wandb"),
        ({"report_to": "comet_ml"}, ConfigError, "comet_ml: not installed here"),
        (
            {"evaluate": {"benchmarks": ["arithmetic", "svamp"]}, "data_dir": "absent"},
            DataError,
            "no file absent/svamp",
        ),
        ({"dataset": "absent.jsonl"}, DataError, "no file absent.jsonl"),
        ({"expert": "nobody/nothing"}, HubUnreachable, "nobody/nothing"),
        ({"amateur": "absent.gguf"}, ModelError, "no file absent.gguf"),
        ({"device": "cuda:9"}, ModelError, "cuda:9"),
        ({"chat_template": "absent.jinja"}, ConfigError, "absent.jinja"),
        ({"finetune": {"lora_targets": ["q_proj", "v_porj"]}}, ModelError, "v_proj"),
        ({"finetune": {"max_length": 16}}, DataError, "no label could be trained on. Raise it above"),
        ({"sample": {"max_new_tokens": 500}}, DataError, "Lower --max-new-tokens to 4"),
        ({"dtype": "float16", "device": "cpu"}, ModelError, "float16 needs a CUDA device"),
    ],
)
def test_a_run_finds_what_it_will_need_before_it_samples(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    settings = {**load_recipe("miniature"), **changes, "out": "run"}
    with pytest.raises(error, match=message):
        run(RunConfig.checked(settings))
    assert list(tmp_path.iterdir()) == []


def test_a_run_finds_a_precision_that_cannot_be_merged_before_it_samples(tmp_path: Path) -> None:
    expert = shutil.copytree(model_path("expert"), tmp_path / "expert")
    settings = json.loads((expert / "config.json").read_text())
    (expert / "config.json").write_text(json.dumps({**settings, "dtype": "float64"}))
    config = RunConfig.checked({**load_recipe("miniature"), "expert": str(expert), "out": tmp_path / "run"})
    with pytest.raises(ModelError, match="float64, in which nothing can be merged; give --merge-dtype"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_settings_and_then_what_is_missing() -> None:
    found = lightr("run", "--config", "miniature", "--report-to", "comet_ml", "--dry-run")
    assert found.returncode == 2
    assert json.loads(found.stdout)["report_to"] == ["comet_ml"]
    assert found.stderr.count("\n") == 1
    assert "comet_ml: not installed here" in found.stderr


def test_a_dry_run_of_models_on_the_hub_reads_their_configuration_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(pipeline, "read_config", lambda name, revision: read.append(name))
    monkeypatch.setattr(pipeline, "find_pair", lambda config: pytest.fail("this would download the weights"))
    config = RunConfig.checked({**load_recipe("miniature"), "expert": "owner/big", "out": tmp_path})
    pipeline.check(config, download=False)
    assert read == ["owner/big", config.amateur]


@pytest.mark.slow
def test_a_stage_started_by_torchrun_works_in_one_process(tmp_path: Path) -> None:
    """Its processes would hold one folder, and all but the first be refused."""
    stage = ("sample", "--config", "miniature", "--max-questions", 4, "--max-new-tokens", 8, "--out", tmp_path / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    command += [sys.executable, "-m", "lightreasoner.cli", *map(str, stage)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("works in one process") == 1
    assert read_stage(tmp_path / "run" / "sample")[1].counts["questions"] == 4


@pytest.mark.slow
def test_three_seeds_gain(tmp_path: Path) -> None:
    """The miniature gains with each of three seeds, and p < 0.01 over all of them."""
    gained = lost = 0
    for seed in (0, 1, 2):
        found = lightr("run", "--seed", seed, "--out", tmp_path / str(seed), "--json", cold=True, seconds=900)
        assert found.returncode == 0, found.stderr
        test = json.loads(found.stdout)["comparison"]["benchmarks"][0]
        assert test["gain"] > 0
        gained, lost = gained + test["gained"], lost + test["lost"]
    from scipy.stats import binomtest

    assert binomtest(gained, gained + lost).pvalue < 0.01


@pytest.mark.slow
def test_a_real_small_model_on_real_problems(
    smollm2_gguf: Path, smollm2_amateur: Path, data_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = lightr(
        "run", "--expert", smollm2_gguf, "--amateur", smollm2_amateur, "--dataset", "gsm8k", "--data-dir", data_dir,
        "--out", out, "--sample.max-questions", 20, "--sample.max-new-tokens", 64, "--finetune.steps", 20,
        "--finetune.labels-per-forward", 4, "--evaluate.benchmarks", "gsm8k", "svamp", "--evaluate.max-items", 8,
        "--evaluate.max-answer-tokens", 128, "--json", cold=True, seconds=1500,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    summary = json.loads(found.stdout)
    assert summary["sample"]["questions"] == 20
    _, stage = read_stage(out / "sample")
    tokenizer = AutoTokenizer.from_pretrained(out / "merged")
    rollouts = {row.question_id: row for table in stage.tables("rollouts") for row in Rollout.rows(table)}
    steps = kept_steps(out)
    for rollout in rollouts.values():
        assert rollout.question in tokenizer.decode(rollout.prompt_ids)
        assert all(0 <= token < 49152 for token in rollout.response_ids)
        assert all(kl > -1e-4 for kl in rollout.kl)
    for step in steps:
        assert step.kl > 0.4
        assert sum(step.weights) == pytest.approx(1, abs=1e-5)
    assert len(steps) == summary["sample"]["kept_steps"] > 20
    merged = AutoModelForCausalLM.from_pretrained(out / "merged")
    assert not getattr(merged.config, "quantization_config", None)
    assert summary["merge"]["mean_kl"] < 1e-6
    assert summary["finetune"]["last_loss"] < summary["finetune"]["first_loss"] * 1.5
