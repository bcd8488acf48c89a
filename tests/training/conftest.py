"""Samples of a tiny expert, and the settings to fine-tune it on them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lightreasoner.config import FinetuneConfig, SampleConfig
from lightreasoner.samples.sampling import sample
from lightreasoner.training.batches import LabelSet, load_labels


@pytest.fixture(scope="package")
def samples(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("samples")
    sample(
        SampleConfig(
            expert=str(random_expert),
            amateur=str(random_amateur),
            dataset="arithmetic",
            max_questions=12,
            max_new_tokens=10,
            out=out,
            dtype="float32",
        )
    )
    return out


@pytest.fixture(scope="package")
def labels(samples: Path) -> LabelSet:
    return load_labels(samples, max_length=4096)[1]


def config_for(samples: Path, expert: Path, out: Path, **settings: object) -> FinetuneConfig:
    common = {"steps": 6, "learning_rate": 1e-3, "dtype": "float32", "save_steps": 2}
    return FinetuneConfig(model=str(expert), data=samples, out=out, **{**common, **settings})  # type: ignore[arg-type]


def adapter_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "finetune" / "adapter" / "adapter_model.safetensors")
