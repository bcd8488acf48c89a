"""Checkpoints: a resumed training gives what an uninterrupted one gives."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from lightreasoner.errors import Interrupted
from lightreasoner.training.checkpoints import newest_complete_checkpoint
from lightreasoner.training.finetuning import finetune

from ..faults.harness import ranks, script, start, wait_for
from .conftest import adapter_of, config_for


def test_interrupted_and_resumed_equals_uninterrupted(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    settings = {"steps": 80, "save_steps": 30, "logging_steps": 1}
    finetune(config_for(samples, random_expert, tmp_path / "whole", **settings))
    # A real process: stopped by SIGTERM once it has logged a step, then started again.
    config = config_for(samples, random_expert, tmp_path / "parts", **settings)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "from lightreasoner.config import FinetuneConfig\n"
        "from lightreasoner.errors import LightReasonerError\n"
        "from lightreasoner.training.finetuning import finetune\n"
        "try: finetune(FinetuneConfig.model_validate_json(open(sys.argv[1]).read()))\n"
        "except LightReasonerError as error: sys.exit(error.exit_code)\n"
    )
    command = start(patch=script(tmp_path / "script.py", tmp_path / "config.json"))
    wait_for((tmp_path / "parts" / "finetune" / "log.json").exists, command)
    command.send(signal.SIGTERM)
    assert command.end(60).code == 143
    assert not (tmp_path / "parts" / "finetune" / "result.json").exists()
    finetune(config)
    whole, parts = adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-7)
    logs = [json.loads((tmp_path / part / "finetune" / "log.json").read_text()) for part in ("whole", "parts")]
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_damaged_checkpoint_is_skipped(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    finetune(config_for(samples, random_expert, tmp_path))
    folder = tmp_path / "finetune"
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-6"
    weights = folder / "checkpoint-6" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-4"
    (folder / "checkpoint-4" / "complete.json").unlink()
    assert newest_complete_checkpoint(folder) is None


def test_interrupted_carries_the_exit_code_of_its_signal() -> None:
    assert Interrupted(signal.SIGINT).exit_code == 130
    assert Interrupted(signal.SIGTERM).exit_code == 143


def test_a_training_resumed_from_any_checkpoint_is_bit_identical(
    random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    """With dropout, and checkpoints between two log entries."""
    settings = {"steps": 12, "save_steps": 4, "logging_steps": 5, "keep_checkpoints": 3}
    whole = tmp_path / "whole"
    finetune(config_for(samples, random_expert, whole, **settings))
    for kept in (4, 8, 12):
        parts = tmp_path / str(kept)
        shutil.copytree(whole, parts)
        shutil.rmtree(parts / "finetune" / "adapter")
        (parts / "finetune" / "result.json").unlink()
        for step in range(kept + 4, 13, 4):
            shutil.rmtree(parts / "finetune" / f"checkpoint-{step}")
        finetune(config_for(samples, random_expert, parts, **settings))
        first, second = adapter_of(whole), adapter_of(parts)
        assert all(torch.equal(first[name], second[name]) for name in first)
        logs = [json.loads((out / "finetune" / "log.json").read_text()) for out in (whole, parts)]
        for entry in (entry for log in logs for entry in log):
            del entry["labels_per_second"]
        assert logs[0] == logs[1]


SIGNAL_TO_ONE = """
import os, signal, sys, torch
from lightreasoner.config import FinetuneConfig
from lightreasoner.errors import LightReasonerError
from lightreasoner.training import finetuning
torch.set_num_threads(1)
original, calls = finetuning._add_gradients, 0
def signalled(*arguments):
    global calls
    calls += 1
    if calls == 3 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    original(*arguments)
finetuning._add_gradients = signalled
try: finetuning.finetune(FinetuneConfig.model_validate_json(open(sys.argv[1]).read()))
except LightReasonerError as error: sys.exit(error.exit_code)
"""


def test_a_signal_to_one_process_stops_all_after_the_same_step(
    random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    settings = {"steps": 6, "save_steps": 100, "logging_steps": 2, "lora_dropout": 0.0, "device": "cpu"}
    finetune(config_for(samples, random_expert, tmp_path / "one", **settings))
    config = config_for(samples, random_expert, tmp_path / "two", **settings)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "script.py").write_text(SIGNAL_TO_ONE)
    both = script(tmp_path / "script.py", tmp_path / "config.json")
    commands = [start(patch=both, **environment) for environment in ranks(2)]
    assert [command.end(300).code for command in commands] == [143, 143]
    folder = tmp_path / "two" / "finetune"
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-3"]
    assert newest_complete_checkpoint(folder) == folder / "checkpoint-3"
    finetune(config)  # on one process
    one, two = adapter_of(tmp_path / "one"), adapter_of(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
    logs = [json.loads((tmp_path / out / "finetune" / "log.json").read_text()) for out in ("one", "two")]
    assert [entry["loss"] for entry in logs[0]] == pytest.approx([entry["loss"] for entry in logs[1]], rel=1e-4)
