"""The public loss and collator give what `lightr finetune` computes, also in a trainer of transformers."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from lightreasoner.config import SampleConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.losses import LabelCollator, label_cross_entropy, label_dataset, logit_width, vocabulary_of
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.samples.sampling import sample
from lightreasoner.training import batches
from lightreasoner.training.batches import Collator, load_labels
from lightreasoner.training.objective import LabelObjective

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run_folder(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    pair = {"expert": str(random_expert), "amateur": str(random_amateur), "dtype": "float32"}
    sample(SampleConfig(**pair, dataset="arithmetic", max_questions=6, max_new_tokens=10, out=out))  # type: ignore[arg-type]
    return out


def ours(expert: Path, run_folder: Path, chosen: list[int]) -> tuple[float, Any]:
    """The mean loss of these labels as `lightr finetune` computes it, and the model."""
    source = find_model(str(expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    labels = load_labels(run_folder, 4096)[1]
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), len(chosen))
    with torch.no_grad():
        losses = [objective(model, batch) for batch in Collator(labels, True, 4096)([[[one] for one in chosen]])]
    return float(sum(losses)), model


def test_the_loss_from_logits_is_equation_8_by_hand() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 9.0]])
    ids, weights = torch.tensor([[1, 2, 0]]), torch.tensor([[0.25, 0.75, 0.0]])
    log_sum = np.log(np.exp([0.0, 1.0, 2.0, 9.0]).sum())
    expected = -(0.25 * (1 - log_sum) + 0.75 * (2 - log_sum))
    assert label_cross_entropy(logits, ids, weights).item() == pytest.approx(expected, rel=1e-6)


def test_every_label_of_a_run_is_in_its_data_set_once(run_folder: Path) -> None:
    labels = load_labels(run_folder, 4096)[1]
    rows = label_dataset(run_folder)
    found = {
        (tuple(row["input_ids"][: position + 1]), tuple(ids), tuple(weights))
        for row in rows
        for position, ids, weights in zip(row["label_positions"], row["label_ids"], row["label_weights"], strict=True)
    }
    assert found == {
        (
            tuple(labels.prefix(one, int(labels.prefix_length[one])).tolist()),
            tuple(labels.token_ids[one].tolist()),
            tuple(labels.weights[one].tolist()),
        )
        for one in range(len(labels))
    }
    assert len(rows) == len(np.unique(labels.text_of)) > 2
    assert all(len(row["input_ids"]) == max(row["label_positions"]) + 1 for row in rows)


def test_a_batch_has_the_loss_of_finetune(random_expert: Path, run_folder: Path) -> None:
    rows = label_dataset(run_folder)
    labels = load_labels(run_folder, 4096)[1]
    expected, model = ours(random_expert, run_folder, list(range(len(labels))))
    batch = LabelCollator(pad_token_id=7)(list(rows))
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 7).all()
    vocabulary = vocabulary_of(load_tokenizer(find_model(str(random_expert))), logit_width(model))
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chosen = logits.flatten(0, 1)[batch["label_rows"]]
    found = label_cross_entropy(chosen, batch["label_ids"], batch["label_weights"], vocabulary)
    assert len(found) == len(labels)
    assert found.mean().item() == pytest.approx(expected, abs=1e-5)


def test_factors_of_weighed_labels_come_with_them(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(load_labels(run_folder, 4096)[1])
    factors = np.linspace(0, 2, count)
    monkeypatch.setattr(batches.Shard, "factors", property(lambda self: factors))
    labels = load_labels(run_folder, 4096)[1]
    batch = LabelCollator()(list(label_dataset(run_folder)))
    assert labels.factors is not None
    by_rollout = np.lexsort((labels.prefix_length, labels.text_of))
    np.testing.assert_allclose(batch["label_factors"].numpy(), labels.factors[by_rollout], rtol=1e-6)


def test_the_trainer_of_the_example_has_the_loss_of_finetune_on_its_steps(
    random_expert: Path, run_folder: Path, tmp_path: Path
) -> None:
    """One step of two unequal micro-batches: every label weighs the same."""
    trainer_class = runpy.run_path(str(ROOT / "examples" / "trl_trainer.py"))["LightReasonerTrainer"]
    labels = load_labels(run_folder, 4096)[1]
    expected, model = ours(random_expert, run_folder, list(range(len(labels))))
    rows = label_dataset(run_folder)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=len(rows) - 1, gradient_accumulation_steps=2,
        remove_unused_columns=False, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
    )  # fmt: skip
    tokenizer = load_tokenizer(find_model(str(random_expert)))
    trainer = trainer_class(model, tokenizer, args=arguments, train_dataset=rows)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)
