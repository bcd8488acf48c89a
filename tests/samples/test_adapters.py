"""Sampling with an adapter on the expert, unmerged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lightreasoner.config import SampleConfig
from lightreasoner.errors import DataError, ModelError, RunMismatch
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout, Sampled, read_samples
from lightreasoner.samples.sampling import sample
from lightreasoner.training.model_card import sampling_commands


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, random_expert: Path) -> Path:
    """A random adapter on the random expert, and beside it both merged."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("adapter")
    model: Any = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    targets = ["q_proj", "v_proj", "down_proj"]
    adapted = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, init_lora_weights=False)
    )
    adapted.save_pretrained(folder / "adapter")
    shutil.copytree(random_expert, folder / "merged")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "adapter"


@pytest.fixture
def config(random_expert: Path, random_amateur: Path, adapter: Path, tmp_path: Path) -> SampleConfig:
    pair = {"expert": str(random_expert), "amateur": str(random_amateur), "dataset": "arithmetic"}
    small = {"max_questions": 12, "max_new_tokens": 8, "batch_size": 4, "dtype": "float32"}
    return SampleConfig.checked({**pair, **small, "adapter": adapter, "out": tmp_path / "run"})


def rollouts(config: SampleConfig) -> list[Rollout]:
    _, stage = read_stage(config.out / "sample")
    return [row for table in stage.tables("rollouts") for row in Rollout.rows(table)]


def elsewhere(config: SampleConfig, name: str, **changes: Any) -> SampleConfig:
    return config.model_copy(update={"out": config.out.with_name(name), **changes})


def test_an_expert_with_an_adapter_samples_as_both_merged(config: SampleConfig, adapter: Path) -> None:
    merged = elsewhere(config, "merged", expert=str(adapter.parent / "merged"), adapter=None)
    base = elsewhere(config, "base", adapter=None)
    for one in (config, merged, base):
        sample(one)
    ours, theirs, without = map(rollouts, (config, merged, base))
    assert [row.response_ids for row in ours] == [row.response_ids for row in theirs]
    assert [row.response_ids for row in ours] != [row.response_ids for row in without]
    for one, other in zip(ours, theirs, strict=True):
        assert one.kl == pytest.approx(other.kl, abs=1e-4)
        assert one.expert_entropy == pytest.approx(other.expert_entropy, abs=1e-4)


@pytest.mark.slow
def test_the_adapter_gives_the_same_bits_one_after_the_other_and_with_workers(config: SampleConfig) -> None:
    sample(config)
    digests = [read_stage(config.out / "sample")[1].digest]
    for name, change in {"sequential": {"residency": "sequential"}, "workers": {"workers": 2}}.items():
        other = elsewhere(config, name, **change)
        sample(other)
        digests.append(read_stage(other.out / "sample")[1].digest)
    assert len(set(digests)) == 1


def test_the_identity_holds_the_files_of_the_adapter(config: SampleConfig, adapter: Path, tmp_path: Path) -> None:
    own = tmp_path / "adapter"
    shutil.copytree(adapter, own)
    mine = config.model_copy(update={"adapter": own})
    result = sample(mine)
    moved = own.rename(tmp_path / "moved")
    assert sample(mine.model_copy(update={"adapter": moved})) == result, "its path is no part of it"
    made, _ = read_samples(mine.out)
    assert isinstance(made, Sampled)
    assert made.adapter_files is not None
    assert set(made.adapter_files) == {"adapter_model.safetensors", "adapter_config.json"}
    assert f"--adapter {own}" in sampling_commands(made, "OUT")[0]
    content = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**content, "lora_alpha": 99}))
    with pytest.raises(RunMismatch, match="adapter_config.json of the adapter: other content now"):
        sample(mine.model_copy(update={"adapter": moved}))
    with pytest.raises(RunMismatch, match="adapter_model.safetensors of the adapter: not there now"):
        sample(mine.model_copy(update={"adapter": None}))


def test_without_an_adapter_the_identity_is_as_before(config: SampleConfig) -> None:
    sample(elsewhere(config, "plain", adapter=None))
    fingerprint, _ = read_stage(config.out.with_name("plain") / "sample")
    assert not [name for name in fingerprint if "adapter" in name]


def test_an_adapter_that_is_not_there_or_of_another_model_is_refused(
    config: SampleConfig, random_amateur: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no adapter_model\.safetensors"):
        sample(config.model_copy(update={"adapter": tmp_path / "nowhere"}))
    swapped = elsewhere(config, "swapped", expert=str(random_amateur), amateur=str(config.expert), dtype="float32")
    with pytest.raises((ModelError, DataError)):
        sample(swapped.model_copy(update={"adapter": tmp_path}))
