"""FSDP2: two processes train what one trains, whatever their number of passes, and resume each other's runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lightreasoner.config import FinetuneConfig
from lightreasoner.errors import ConfigError
from lightreasoner.training.finetuning import check_machine

from ..faults.harness import ranks, script, start
from .conftest import adapter_of, config_for

# Trains, and records each step's gradients, norm and number of passes of the first process.
SCRIPT = """
import json, os, sys, torch
from safetensors.torch import save_file
from lightreasoner.config import FinetuneConfig
from lightreasoner.training import checkpoints, finetuning
torch.set_num_threads(1)
config = FinetuneConfig.model_validate_json(open(sys.argv[1]).read())
if sys.argv[2] == "padded":
    finetuning.packs = lambda model: False
clip, add, attach, seen, passes = finetuning._clipped_norm, finetuning._add_gradients, finetuning.attach_lora, {}, []
def attached(base, config, adapter):
    model = attach(base, config, adapter)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # its initial zeros would hide the gradient of A
            torch.nn.init.normal_(weight, std=0.05)
    return model
def recorded(accelerator, model, objective, most):
    for name, one in model.named_parameters():
        if one.requires_grad:
            seen[f"{len(passes)} {name.removeprefix('module.')}"] = checkpoints.whole(one.grad.clone()).contiguous()
    norm = clip(accelerator, model, objective, most)
    seen[f"{len(passes)} norm"] = torch.tensor(norm)
    return norm
def counted(accelerator, model, objective, batches):
    passes.append([len(batches), sum(not len(batch.rows) for batch in batches)])
    add(accelerator, model, objective, batches)
finetuning.attach_lora, finetuning._clipped_norm, finetuning._add_gradients = attached, recorded, counted
finetuning.finetune(config)
rank = os.environ.get("RANK", "0")
if rank == "0":
    save_file(seen, config.out / "gradients.safetensors")
(config.out / f"passes-{rank}.json").write_text(json.dumps(passes))
"""


def train(config: FinetuneConfig, processes: int, layout: str = "packed") -> None:
    config.out.mkdir(exist_ok=True)
    (config.out / "config.json").write_text(config.model_dump_json())
    (config.out / "script.py").write_text(SCRIPT)
    work = script(config.out / "script.py", config.out / "config.json", layout)
    commands = [start(patch=work, **environment) for environment in (ranks(processes) if processes > 1 else [{}])]
    for command in commands:
        ended = command.end(300)
        assert ended.code == 0, ended.error


def unfinished(stage: Path, out: Path) -> Path:
    """A run folder whose fine-tuning stopped after its second step."""
    copied = shutil.copytree(stage, out / "finetune")
    for name in ("adapter", "checkpoint-4"):
        shutil.rmtree(copied / name)
    (copied / "result.json").unlink()
    return out


def settings_for(samples: Path, expert: Path, out: Path, **settings: Any) -> FinetuneConfig:
    common = {"steps": 4, "logging_steps": 1, "lora_dropout": 0.0, "device": "cpu", "tokens_per_micro_batch": 40}
    return config_for(samples, expert, out, **{**common, **settings})


def assert_same(first: Path, second: Path) -> None:
    gradients = [load_file(out / "gradients.safetensors") for out in (first, second)]
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        assert (gradients[0][name] - gradients[1][name]).norm() <= 1e-5 * gradients[0][name].norm(), name
    one, two = adapter_of(first), adapter_of(second)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-5, atol=1e-5)
    logs = [json.loads((out / "finetune" / "log.json").read_text()) for out in (first, second)]
    for log in logs:
        for entry in log:
            del entry["labels_per_second"]
    assert logs[0] == [pytest.approx(entry, rel=1e-4, abs=1e-5) for entry in logs[1]]


def passes(out: Path) -> list[list[list[int]]]:
    return [json.loads(file.read_text()) for file in sorted(out.glob("passes-*.json"))]


def test_two_processes_share_the_weights_of_a_step(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    train(settings_for(samples, random_expert, tmp_path / "two", steps=1, fsdp=True), 2)
    first, second = passes(tmp_path / "two")
    assert first[0][0] == second[0][0]
    gradients = load_file(tmp_path / "two" / "gradients.safetensors")
    assert gradients["1 norm"] > 0
    whole = sum(one.norm() ** 2 for name, one in gradients.items() if name != "1 norm") ** 0.5
    torch.testing.assert_close(gradients["1 norm"], whole, rtol=1e-5, atol=0)


@pytest.mark.slow
def test_two_processes_that_share_the_weights_train_what_one_trains_and_resume_from_it(
    random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    one = settings_for(samples, random_expert, tmp_path / "one")
    two = one.model_copy(update={"out": tmp_path / "two", "fsdp": True, "gradient_checkpointing": True})
    train(one, 1)
    train(two, 2)
    assert_same(tmp_path / "one", tmp_path / "two")
    first, second = passes(tmp_path / "two")
    assert [number for number, _ in first] == [number for number, _ in second], "a process more would wait forever"
    assert any(empty for _, empty in [*first, *second]), "no process had fewer passes, so this test is void"
    for made_by, processes in (("two", 1), ("one", 2)):
        out = unfinished(tmp_path / made_by / "finetune", tmp_path / f"from-{made_by}")
        train(one.model_copy(update={"out": out, "fsdp": processes > 1}), processes)
        assert len(passes(out)[0]) == 2, "it began anew"
        expected, found = adapter_of(tmp_path / "one"), adapter_of(out)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_padded_texts_and_bfloat16_can_be_shared_out(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    one = settings_for(samples, random_expert, tmp_path / "one", steps=2, dtype="bfloat16")
    train(one, 1, "padded")
    train(one.model_copy(update={"out": tmp_path / "two", "fsdp": True}), 2, "padded")
    one_grads, two_grads = (load_file(tmp_path / out / "gradients.safetensors") for out in ("one", "two"))
    first_step = [name for name in one_grads if name.startswith("1 ")]
    for name in first_step:
        assert (one_grads[name] - two_grads[name]).norm() <= 0.05 * one_grads[name].norm(), name
    assert {weight.dtype for weight in adapter_of(tmp_path / "two").values()} == {torch.float32}


@pytest.mark.parametrize(("settings", "said"), [({"load_in_4bit": True}, "4 bits"), ({"dtype": "float16"}, "scaling")])
def test_what_cannot_be_shared_out_is_refused(
    settings: dict[str, Any], said: str, random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"--fsdp .*{said}"):
        check_machine(config_for(samples, random_expert, tmp_path, fsdp=True, **settings))


def test_one_process_is_told_that_sharing_out_means_nothing(
    random_expert: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_machine(config_for(samples, random_expert, tmp_path, fsdp=True))
    assert "one process" in capsys.readouterr().err
