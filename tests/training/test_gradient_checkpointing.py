"""Gradient checkpointing: the same gradients, dropout included, within less memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

from lightreasoner.config import RunConfig
from lightreasoner.training import finetuning
from lightreasoner.training.finetuning import finetune

from .conftest import config_for

# Peak memory of a forward and backward pass of 24 layers over 2048 tokens, above what the process had before, in MiB.
SCRIPT = """
import sys, torch
from pathlib import Path
from accelerate import Accelerator
from transformers import Qwen2Config, Qwen2ForCausalLM
from lightreasoner.config import FinetuneConfig
from lightreasoner.models.source import find_model
from lightreasoner.training import finetuning
from lightreasoner.training.adapters import attach_lora
folder = Path(sys.argv[1])
torch.set_num_threads(1)
Qwen2ForCausalLM(
    Qwen2Config(
        vocab_size=64, hidden_size=128, intermediate_size=512, num_hidden_layers=24, num_attention_heads=4,
        num_key_value_heads=4
    )
).save_pretrained(folder)
config = FinetuneConfig(
    model=str(folder), data=folder, out=folder, dtype="float32", device="cpu",
    gradient_checkpointing=sys.argv[2] == "with"
)
base = finetuning._load_base(config, find_model(str(folder)), Accelerator(cpu=True), False)
model = attach_lora(base, config).train()
# Not `ru_maxrss`, which a child takes over from the process that started it.
status = Path("/proc/self/status")
peak = lambda: int(next(line for line in status.open() if line.startswith("VmHWM:")).split()[1]) / 1024
before = peak()
model(torch.randint(64, (4, 512))).logits.sum().backward()
print(peak() - before)
"""


def gradients(monkeypatch: pytest.MonkeyPatch, config: finetuning.FinetuneConfig, packed: bool) -> list[Tensor]:
    clip, found = finetuning._clipped_norm, []

    def recorded(accelerator, model, objective, most):  # type: ignore[no-untyped-def]
        found.extend(one.grad.clone() for one in model.parameters() if one.requires_grad)
        return clip(accelerator, model, objective, most)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "_clipped_norm", recorded)
        patch.setattr(finetuning, "packs", lambda model: packed)
        finetune(config)
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("packed", [True, False])
def test_gradients_are_those_without_it(
    packed: bool, dropout: float, random_expert: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 3, "lora_dropout": dropout, "device": "cpu"}
    plain = config_for(samples, random_expert, tmp_path / "plain", **settings)
    expected = gradients(monkeypatch, plain, packed)
    settings["gradient_checkpointing"] = True
    found = gradients(monkeypatch, config_for(samples, random_expert, tmp_path / "with", **settings), packed)
    assert len(found) == len(expected) > 0
    assert any(one.norm() > 0 for one in expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-6 * other.norm()


def test_it_is_a_key_of_recipes_and_a_flag_that_changes_no_result(samples: Path, tmp_path: Path) -> None:
    run = RunConfig(
        expert="a/b", amateur="a/c", dataset="arithmetic", out=tmp_path, finetune={"gradient_checkpointing": True}
    )
    config = run.for_finetune()
    assert config.gradient_checkpointing
    shown = [sys.executable, "-m", "lightreasoner.cli", "finetune", "--help"]
    assert "--gradient-checkpointing" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert "gradient_checkpointing" not in config.identity()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_it_takes_less_memory(tmp_path: Path) -> None:
    peaks = {}
    for kind in ("with", "without"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / kind), kind]
        found = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert found.returncode == 0, found.stderr
        peaks[kind] = float(found.stdout.split()[-1])
    assert peaks["with"] < peaks["without"] / 3, peaks
