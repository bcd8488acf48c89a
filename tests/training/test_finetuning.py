"""Stage 2 as a whole: the loss falls, the adapter is saved, other settings are refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from peft import PeftModel

from lightreasoner.config import SelectConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import ConfigError, DataError, ModelError, RunMismatch, TrainingDiverged
from lightreasoner.models.loading import load_model
from lightreasoner.models.source import find_model
from lightreasoner.samples.selecting import select
from lightreasoner.training import finetuning
from lightreasoner.training.finetuning import finetune

from .conftest import adapter_of, config_for


def test_training_lowers_the_loss_logs_it_and_rotates_checkpoints(
    random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    result = finetune(config_for(samples, random_expert, tmp_path, steps=30, learning_rate=1e-2, logging_steps=5))
    assert result["labels_trained"] == 30 * 16
    assert result["last_loss"] < result["first_loss"]
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert {"loss", "kl_to_target", "label_entropy", "learning_rate", "labels_per_second"} <= log[0].keys()
    assert log[0]["loss"] == pytest.approx(log[0]["kl_to_target"] + log[0]["label_entropy"], rel=1e-4)
    kept = sorted(path.name for path in (tmp_path / "finetune").glob("checkpoint-*"))
    assert kept == ["checkpoint-28", "checkpoint-30"]
    base = load_model(find_model(str(random_expert)), MachineSettings(dtype="float32", device="cpu"))
    adapter = PeftModel.from_pretrained(base, tmp_path / "finetune" / "adapter")
    assert set(adapter.peft_config["default"].target_modules) == {"q_proj", "v_proj"}


def test_the_callers_accelerator_and_gradients_stay(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    own = Accelerator(mixed_precision="bf16", cpu=True)
    with torch.inference_mode():
        found = finetune(config_for(samples, random_expert, tmp_path / "a", steps=2))
        assert torch.is_inference_mode_enabled()
    assert own.mixed_precision == "bf16"
    assert Accelerator(mixed_precision="bf16", cpu=True).mixed_precision == "bf16"
    AcceleratorState._reset_state(reset_partial_state=True)
    again = finetune(config_for(samples, random_expert, tmp_path / "b", steps=2))
    assert again["adapter_sha256"] == found["adapter_sha256"]


@pytest.mark.parametrize(("steps", "logged"), [(1, [1]), (2, [1, 2]), (3, [2, 3]), (7, [4, 7]), (10, [5, 10])])
def test_a_short_training_has_a_first_and_a_last_loss(
    steps: int, logged: list[int], random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    result = finetune(config_for(samples, random_expert, tmp_path, steps=steps, logging_steps=10))
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert [entry["step"] for entry in log] == logged
    assert (result["first_loss"], result["last_loss"]) == (log[0]["loss"], log[-1]["loss"])


def test_the_last_steps_are_logged_too(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    result = finetune(config_for(samples, random_expert, tmp_path, steps=5, logging_steps=2))
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert [entry["step"] for entry in log] == [2, 4, 5]
    assert result["last_loss"] == log[-1]["loss"]


def test_learning_rate_falls_linearly_to_zero(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    finetune(config_for(samples, random_expert, tmp_path, steps=4, logging_steps=1))
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert [entry["learning_rate"] for entry in log if "loss" in entry] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_finished_training_does_not_run_again(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    config = config_for(samples, random_expert, tmp_path)
    first = finetune(config)
    stamp = (tmp_path / "finetune" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    assert finetune(config) == first
    assert (tmp_path / "finetune" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_labels_of_another_expert_are_refused(random_amateur: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sampled from"):
        finetune(config_for(samples, random_amateur, tmp_path))
    assert not (tmp_path / "finetune").exists()


def test_other_settings_in_the_same_folder_are_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    config = config_for(samples, random_expert, tmp_path)
    finetune(config)
    with pytest.raises(RunMismatch, match=r"learning_rate: 0.001 there, 0.002 now"):
        finetune(config.model_copy(update={"learning_rate": 2e-3}))


def test_unknown_lora_targets_are_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no_such_proj"):
        finetune(config_for(samples, random_expert, tmp_path, lora_targets=("no_such_proj",)))
    assert finetune(config_for(samples, random_expert, tmp_path))["steps"], "nothing was trained under the other name"


def test_after_a_divergence_the_advised_settings_may_use_the_folder(
    random_expert: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(samples, random_expert, tmp_path / "run", steps=4, save_steps=2)
    with monkeypatch.context() as patched:
        patched.setattr(finetuning, "_clipped_norm", _diverges_at(3))
        with pytest.raises(TrainingDiverged):
            finetune(config)
    assert (tmp_path / "run/finetune/checkpoint-2").exists(), "the same settings would go on from it"
    lower = config.model_copy(update={"learning_rate": 1e-4})
    fresh = lower.model_copy(update={"out": tmp_path / "fresh"})
    assert finetune(lower)["adapter_sha256"] == finetune(fresh)["adapter_sha256"]
    with pytest.raises(RunMismatch, match="learning_rate"):
        finetune(config)


def _diverges_at(turn: int) -> Callable[..., float]:
    turns, clip = iter(range(1, turn + 1)), finetuning._clipped_norm

    def clipped_norm(*arguments: Any) -> float:
        if next(turns) == turn:
            raise TrainingDiverged("the gradient's norm is nan")
        return clip(*arguments)

    return clipped_norm


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_adapter_is_trained_in_full_precision(
    dtype: str, random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    result = finetune(config_for(samples, random_expert, tmp_path, dtype=dtype, steps=12, learning_rate=1e-2))
    assert result["last_loss"] > 0
    assert {tensor.dtype for tensor in adapter_of(tmp_path).values()} == {torch.float32}


def test_half_precision_without_a_gpu_is_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="float16 needs a CUDA device"):
        finetune(config_for(samples, random_expert, tmp_path, dtype="float16", device="cpu"))


def test_two_processes_train_what_one_trains(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    settings = {"steps": 10, "logging_steps": 5, "lora_dropout": 0.0}
    finetune(config_for(samples, random_expert, tmp_path / "one", **settings))
    arguments = {"model": random_expert, "data": samples, "out": tmp_path / "two", "learning-rate": 1e-3}
    arguments |= {"dtype": "float32", "device": "cpu", "steps": 10, "logging-steps": 5, "save-steps": 2}
    arguments |= {"lora-dropout": 0.0, "tokens-per-micro-batch": 100}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "lightreasoner.cli", "finetune"]
    command += [str(text) for key, value in arguments.items() for text in (f"--{key}", value)]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert found.returncode == 0, found.stderr
    one, two = adapter_of(tmp_path / "one"), adapter_of(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    logs = [json.loads((tmp_path / part / "finetune" / "log.json").read_text()) for part in ("one", "two")]
    for first, second in zip(*([entry for entry in log if "loss" in entry] for log in logs), strict=True):
        for key in ("loss", "kl_to_target", "label_entropy"):
            assert first[key] == pytest.approx(second[key], rel=1e-4)


def test_trackers_get_the_settings_and_every_entry_of_the_log(
    random_expert: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {"entries": []}

    class Remembering(GeneralTracker):
        name = "remembering"
        requires_logging_directory = False
        tracker = None

        def __init__(self, run_name: str) -> None:
            super().__init__()

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            seen["settings"] = values

        def log(self, values: dict[str, Any], step: int | None = None, **others: Any) -> None:
            seen["entries"].append(
                {**{name.removeprefix("train/"): value for name, value in values.items()}, "step": step}
            )

        def finish(self) -> None:
            seen["finished"] = True

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "remembering", Remembering)
    finetune(config_for(samples, random_expert, tmp_path, logging_steps=2, report_to=("remembering",)))
    assert seen["entries"] == json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert [entry["step"] for entry in seen["entries"]] == [2, 4, 6]
    assert seen["settings"]["learning_rate"] == "0.001"
    assert seen["finished"]


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_loss(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    finetune(config_for(samples, random_expert, tmp_path, logging_steps=2, report_to=("tensorboard",)))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx([entry["loss"] for entry in log])


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        ("no-such-tracker", "known trackers: .*wandb"),
        ("tensorbord", "did you mean tensorboard"),
        ("comet_ml", "not installed"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(
    tracker: str, said: str, random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        finetune(config_for(samples, random_expert, tmp_path, report_to=(tracker,)))


def test_a_selection_beside_the_samples_is_not_passed_over_in_silence(
    random_expert: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(samples, tmp_path / "run")
    select(SelectConfig(source=run, out=run, selection="random", keep_labels=5))
    finetune(config_for(run, random_expert, tmp_path))
    assert f"--data {run / 'select'} trains on the selection" in capsys.readouterr().err
    finetune(config_for(run / "select", random_expert, tmp_path / "chosen"))
    assert "trains on the selection" not in capsys.readouterr().err
