"""One uninterrupted run of each stage, as the reference for interrupted ones."""

from pathlib import Path

import pytest

from .harness import succeed


@pytest.fixture(scope="session")
def sampling(random_expert: Path, random_amateur: Path) -> tuple[object, ...]:
    """`lightr sample` on tiny models: 48 questions in 12 batches."""
    return (
        "sample", "--expert", random_expert, "--amateur", random_amateur, "--dataset", "arithmetic",
        "--dtype", "float32", "--max-questions", 48, "--max-new-tokens", 10, "--batch-size", 4, "--out",
    )  # fmt: skip


@pytest.fixture(scope="session")
def sampled(sampling: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "whole"
    succeed(*sampling, out)
    return out


@pytest.fixture(scope="session")
def tuning(random_expert: Path, sampled: Path) -> tuple[object, ...]:
    """`lightr finetune` on them: 12 steps of one micro-batch, with a checkpoint every 4 steps."""
    return (
        "finetune", "--model", random_expert, "--data", sampled, "--steps", 12, "--save-steps", 4, "--logging-steps", 1,
        "--learning-rate", 1e-3, "--dtype", "float32", "--tokens-per-micro-batch", 100000, "--out",
    )  # fmt: skip


@pytest.fixture(scope="session")
def tuned(tuning: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "tuned"
    succeed(*tuning, out)
    return out


@pytest.fixture(scope="session")
def merging(random_expert: Path, tuned: Path) -> tuple[object, ...]:
    return ("merge", "--model", random_expert, "--adapter", tuned, "--out")


@pytest.fixture(scope="session")
def evaluating(random_expert: Path) -> tuple[object, ...]:
    """`lightr evaluate` on tiny models: 40 items in 10 batches."""
    return (
        "evaluate", "--model", random_expert, "--benchmarks", "arithmetic", "--max-items", 40,
        "--max-answer-tokens", 10, "--answer-batch-size", 4, "--dtype", "float32", "--grading-workers", 1, "--out",
    )  # fmt: skip


@pytest.fixture(scope="session")
def evaluated(evaluating: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "evaluated"
    succeed(*evaluating, out)
    return out
