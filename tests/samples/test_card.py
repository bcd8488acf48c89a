"""The card of a sample folder: `load_dataset` reads every kind of sample stage, and each column has its meaning."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import yaml

from lightreasoner.config import SelectConfig
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.card import CARD, SIZES, open_samples, samples_card
from lightreasoner.samples.folder import FACTOR, Label, Rollout, read_samples
from lightreasoner.samples.selecting import select

from ..fake_runs import fake_rollout, write_samples


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Samples as a version without cards left them."""
    rng = np.random.default_rng(0)
    rows = [fake_rollout(number, f"question {number}?", [5, 6, 7, 8], 50, rng) for number in range(40)]
    write_samples(tmp_path / "run", rows, None)
    assert not (tmp_path / "run" / "sample" / CARD).exists()
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def reopened(run: Path) -> None:
    """What the repeated command of an older folder does."""
    made, stage = read_samples(run)
    with open_samples(run, stage.path.name, made) as again:
        assert again.result is not None


def test_an_older_folder_gets_its_card_and_keeps_its_fingerprint(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in (run / "sample").iterdir()}
    reopened(run)
    after = {path.name: path.read_bytes() for path in (run / "sample").iterdir()}
    assert after.keys() - before.keys() == {CARD}
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: content for name, content in before.items() if name != "manifest.json"
    }
    manifests = (json.loads(content["manifest.json"])["fingerprint"] for content in (before, after))
    assert next(manifests) == next(manifests)
    read_stage(run / "sample")
    written = (run / "sample" / CARD).stat().st_mtime_ns
    reopened(run)
    assert (run / "sample" / CARD).stat().st_mtime_ns == written


def test_a_selection_with_weights_is_read_with_its_column(run: Path, tmp_path: Path) -> None:
    rule = {"selection": "divergence", "keep_share": 0.5, "weigh_by": "divergence", "contrast": "own_token"}
    select(SelectConfig.checked({"source": run, "out": tmp_path / "chosen", **rule}))
    labels = datasets.load_dataset(str(tmp_path / "chosen" / "sample"), "labels", split="train")
    assert FACTOR in labels.column_names
    _, stage = read_samples(tmp_path / "chosen")
    assert len(labels) == sum(table.num_rows for table in stage.tables("steps"))


def test_quarantined_and_foreign_files_are_not_data(run: Path) -> None:
    reopened(run)
    folder = run / "sample"
    (folder / "rollouts-00007.parquet.quarantined").write_bytes(b"damaged")
    (folder / ".steps-00009.parquet.tmp").write_bytes(b"half")
    assert len(datasets.load_dataset(str(folder), split="train")) == 40


def test_every_column_has_its_type_and_meaning(run: Path) -> None:
    made, stage = read_samples(run)
    text = samples_card(made, stage)
    for record in (Rollout, Label):
        for field in record.schema:
            line = next(line for line in text.splitlines() if line.startswith(f"| `{field.name}` |"))
            _, _, kind, meaning, _ = line.split("|")
            assert kind.strip(" `")
            assert len(meaning.strip()) > 5, f"{field.name} needs a comment in samples/folder.py"


@pytest.mark.parametrize(("labels", "size"), [(0, 0), (999, 0), (1000, 1), (99_999, 2), (10**12, len(SIZES) - 1)])
def test_the_category_of_size_is_that_of_the_labels(run: Path, labels: int, size: int) -> None:
    made, stage = read_samples(run)
    assert stage.result is not None
    stage.result["kept_steps"] = labels
    metadata = yaml.safe_load(samples_card(made, stage).split("---")[1])
    assert metadata["size_categories"] == [SIZES[size]]


def test_the_card_of_a_folder_tells_no_path(run: Path, tmp_path: Path) -> None:
    made, stage = read_samples(run)
    secret = made.model_copy(update={"expert": str(tmp_path / "expert"), "dataset": "/home/ann/mine.jsonl"})
    text = samples_card(secret, stage)
    assert str(tmp_path) not in text
    assert "/home/ann" not in text
