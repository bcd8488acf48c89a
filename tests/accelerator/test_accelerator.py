"""On an accelerator, every stage gives what it gives on the CPU, and the host seldom waits for the device.

The accelerator is the pretend one of `pretend.cpp`: tensors of two devices cannot meet, and waits are counted.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lightreasoner.runs.records import Answer
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import ScoredRollout, read_samples, read_shards, scored_rollouts
from tests.kept import kept_steps

pytestmark = pytest.mark.slow  # it is compiled, and runs all stages
DEVICES = ("cpu", "pretend")


@pytest.fixture(scope="module")
def facts(runs: Path) -> dict[str, Any]:
    return dict(json.loads((runs / "facts.json").read_text()))


def test_the_pretend_device_refuses_what_a_gpu_refuses(facts: dict[str, Any]) -> None:
    refusals = facts["refusals"]
    assert "device type for generator" in refusals.pop("generator")
    assert len(refusals) == 7
    assert all("Expected all tensors to be on the same device" in message for message in refusals.values()), refusals


def test_the_pretend_device_counts_the_waits_of_a_gpu(facts: dict[str, Any]) -> None:
    assert facts["known_waits"] == {
        "item": 1,
        "tolist": 1,
        "bool": 1,
        "mask": 1,
        "nonzero": 1,
        "multinomial": 2,
        "cpu": 1,
        "matmul": 0,
        "copy within": 0,
    }


def rollouts(folder: Path) -> dict[str, ScoredRollout]:
    shards = read_shards(read_samples(folder)[1])
    return {rollout.question_id: rollout for shard in shards for rollout in scored_rollouts(shard)}


@pytest.mark.parametrize("how", ["packed", "padded", "state space"])
def test_sampling_gives_the_tokens_divergences_and_labels_of_the_cpu(runs: Path, how: str) -> None:
    on_cpu, on_device = (rollouts(runs / device / how) for device in DEVICES)
    assert len(on_cpu) == 6
    assert on_cpu.keys() == on_device.keys()
    for question, rollout in on_cpu.items():
        other = on_device[question]
        assert rollout.response_ids.tolist() == other.response_ids.tolist()
        for name, values in rollout.per_step.items():
            np.testing.assert_allclose(other.per_step[name], values, atol=1e-5, rtol=1e-5)
    for one, other in zip(*(kept_steps(runs / device / how) for device in DEVICES), strict=True):
        assert (one.question_id, one.position, one.token_ids) == (other.question_id, other.position, other.token_ids)
        assert other.weights == pytest.approx(one.weights, abs=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_drawn_tokens_depend_on_the_seed_alone(runs: Path, device: str) -> None:
    drawn, again, greedy = (
        {question: rollout.response_ids.tolist() for question, rollout in rollouts(runs / device / how).items()}
        for how in ("drawn", "drawn-again", "packed")
    )
    assert drawn == again
    assert drawn != greedy


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "finetune" / "adapter" / "adapter_model.safetensors")


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=0.0)


@pytest.mark.parametrize("how", ["packed", "padded", "state space"])
def test_tuning_gives_the_adapter_of_the_cpu(runs: Path, how: str) -> None:
    on_cpu, on_device = (adapter(runs / device / how) for device in DEVICES)
    assert any(tensor.abs().max() > 1e-4 for name, tensor in on_cpu.items() if "lora_B" in name)
    assert_close(on_cpu, on_device, 1e-5)


def test_stopped_and_resumed_tuning_gives_the_adapter_of_tuning_at_once(runs: Path) -> None:
    at_once, resumed = (adapter(runs / name) for name in ("at-once", "resumed"))
    assert_close(at_once, resumed, 0.0)
    assert (runs / "resumed" / "finetune" / "checkpoint-2").is_dir()


def test_merging_gives_the_model_of_the_cpu(runs: Path) -> None:
    on_cpu, on_device = (runs / device / "merged" for device in DEVICES)
    assert_close(*(load_file(folder / "model.safetensors") for folder in (on_cpu, on_device)), 1e-5)
    kl = json.loads((on_device / "lightreasoner.json").read_text())["mean_kl"]
    assert kl <= json.loads((on_cpu / "lightreasoner.json").read_text())["mean_kl"] + 1e-6


def answers(folder: Path) -> dict[str, list[int]]:
    _, stage = read_stage(folder / "chat" / "arithmetic" / "answers")
    rows = (row for table in stage.tables("answers") for row in Answer.rows(table))
    return {row.question_id: list(row.output_ids) for row in rows}


@pytest.mark.parametrize("how", ["evaluate", "contrasted"])
def test_evaluation_gives_the_answers_of_the_cpu(runs: Path, how: str) -> None:
    on_cpu, on_device = (answers(runs / device / how) for device in DEVICES)
    assert len(on_cpu) == 8
    assert on_cpu == on_device


# Most waits of one step: reads of a value, and copies to the device. Those of `padded`, and two of `contrastive`, are
# in transformers: its loop, and the mask of a padded batch.
MOST = {
    "packed": (0.25, 0),
    "packed, drawn": (0.25, 0),
    "padded": (2, 0),
    "padded, drawn": (4, 0),
    "contrastive": (2.25, 0),
    "scoring": (5, 5),  # of a whole batch
    "tuning": (1, 3),
}


@pytest.mark.parametrize("work", MOST)
def test_the_host_waits_no_more_than_stated(facts: dict[str, Any], work: str) -> None:
    reads, copies = MOST[work]
    assert facts["waits"].keys() == MOST.keys()
    assert 0 < facts["waits"][work]["reads"] <= reads  # none at all would mean that it ran on the CPU
    assert facts["waits"][work]["copies"] <= copies
