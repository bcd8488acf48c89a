"""The loss: Eq 8 at each labelled position, with equal gradients on every path."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightreasoner import contrast
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import TrainingDiverged
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.training.adapters import attach_lora
from lightreasoner.training.batches import Collator, LabelSet, MicroBatch
from lightreasoner.training.objective import LabelObjective

from .conftest import config_for

Gradients = dict[str, torch.Tensor]


def gradients(
    expert: Path, samples: Path, blocks: list[list[int]], labels: LabelSet, packed: bool, tokens: int = 4096
) -> Gradients:
    """LoRA gradients of one step over these blocks, without dropout."""
    config = config_for(samples, expert, samples, lora_dropout=0.0)
    source = find_model(str(expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), labels_per_step=16)
    with_lora = attach_lora(model, config)
    for name, parameter in with_lora.named_parameters():
        if "lora_B" in name:  # its initial zeros would hide the gradient of A
            torch.nn.init.normal_(parameter, std=0.05)
    for batch in Collator(labels, packed, tokens)([blocks]):
        objective(with_lora, batch).backward()
    return {name: p.grad for name, p in with_lora.named_parameters() if p.grad is not None}


def assert_equal(first: Gradients, second: Gradients) -> None:
    assert first
    assert first.keys() == second.keys()
    for name in first:
        difference = (first[name] - second[name]).norm() / first[name].norm()
        assert difference < 1e-5, name


def only_micro_batch(labels: LabelSet, blocks: list[list[int]], packed: bool) -> MicroBatch:
    (batch,) = Collator(labels, packed, tokens=4096)([blocks])
    return batch


def sixteen_sharing_rollouts(labels: LabelSet) -> list[int]:
    """Sixteen labels of as few rollouts as possible, so that prefixes can be shared."""
    by_text = np.argsort(labels.text_of, kind="stable")
    return [int(label) for label in by_text[:16]]


def blocks_by_rollout(labels: LabelSet, chosen: list[int]) -> list[list[int]]:
    blocks: dict[int, list[int]] = {}
    for label in chosen:
        blocks.setdefault(int(labels.text_of[label]), []).append(label)
    return list(blocks.values())


def test_every_path_gives_the_same_gradients(random_expert: Path, samples: Path, labels: LabelSet) -> None:
    chosen = sixteen_sharing_rollouts(labels)
    alone = [[label] for label in chosen]
    shared = blocks_by_rollout(labels, chosen)
    assert max(map(len, shared)) > 1
    reference = gradients(random_expert, samples, alone, labels, packed=False)
    assert_equal(reference, gradients(random_expert, samples, alone, labels, packed=True))
    assert_equal(reference, gradients(random_expert, samples, shared, labels, packed=False))
    assert_equal(reference, gradients(random_expert, samples, shared, labels, packed=True))


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_size_of_micro_batches_does_not_change_the_gradient(
    random_expert: Path, samples: Path, labels: LabelSet, packed: bool
) -> None:
    alone = [[label] for label in sixteen_sharing_rollouts(labels)]
    reference = gradients(random_expert, samples, alone, labels, packed=False)
    longest = int(labels.prefix_length.max())
    for tokens in (1, 2 * longest, 5 * longest):
        parts = Collator(labels, packed, tokens)([alone])
        assert len(parts) > 1
        assert sum(len(part.rows) for part in parts) == 16
        assert_equal(reference, gradients(random_expert, samples, alone, labels, packed, tokens))


def test_equal_factors_give_exactly_the_gradients_without_them(
    random_expert: Path, samples: Path, labels: LabelSet
) -> None:
    shared = blocks_by_rollout(labels, sixteen_sharing_rollouts(labels))
    equal = replace(labels, factors=contrast.label_factors(torch.full((len(labels),), 0.3)).numpy())
    first, second = (gradients(random_expert, samples, shared, one, packed=True) for one in (labels, equal))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weighed_labels_have_the_same_gradients_on_every_path(
    random_expert: Path, samples: Path, labels: LabelSet
) -> None:
    chosen = sixteen_sharing_rollouts(labels)
    weighed = replace(labels, factors=np.linspace(0, 2, len(labels), dtype=np.float32))
    alone, shared = [[label] for label in chosen], blocks_by_rollout(labels, chosen)
    reference = gradients(random_expert, samples, alone, weighed, packed=False)
    for blocks, packed, tokens in ((alone, True, 4096), (shared, False, 4096), (shared, True, 4096), (alone, True, 1)):
        assert_equal(reference, gradients(random_expert, samples, blocks, weighed, packed, tokens))
    unweighed = gradients(random_expert, samples, alone, labels, packed=False)
    assert any(not torch.allclose(reference[name], unweighed[name]) for name in reference)


def test_factors_multiply_the_losses_of_their_labels_and_the_step_is_divided_by_its_number_of_labels(
    random_expert: Path, labels: LabelSet
) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    vocabulary = vocabulary_of(load_tokenizer(source), logit_width(model))

    def loss(chosen: LabelSet, *label: int) -> float:
        objective = LabelObjective(model, vocabulary, labels_per_step=4)
        found = objective(model, only_micro_batch(chosen, [[one] for one in label], packed=False)).item()
        objective.settle(torch.tensor(0.0))
        assert objective.sums["cross_entropy"] == pytest.approx(4 * found, rel=1e-6)
        return found

    alone = [loss(labels, label) for label in (0, 1, 2)]
    factors = np.ones(len(labels), np.float32)
    factors[:3] = 0.5, 0.0, 2.5
    weighed = replace(labels, factors=factors)
    # (0.5 · l₀ + 0 · l₁ + 2.5 · l₂) / 4, not / (0.5 + 2.5)
    assert loss(weighed, 0, 1, 2) == pytest.approx(0.5 * alone[0] + 2.5 * alone[2], rel=1e-5)


def test_a_label_beside_longer_ones_has_the_loss_it_has_alone(random_expert: Path, labels: LabelSet) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), labels_per_step=1)
    order = np.argsort(labels.prefix_length)
    short, long = int(order[0]), int(order[-1])
    assert labels.prefix_length[short] < labels.prefix_length[long]
    losses = {}
    for name, block in {"short": [[short]], "long": [[long]], "both": [[short], [long]]}.items():
        losses[name] = objective(model, only_micro_batch(labels, block, packed=False)).item()
    assert losses["both"] == pytest.approx(losses["short"] + losses["long"], rel=1e-5)


def test_the_loss_is_equation_8_on_the_bare_prefix(random_expert: Path, labels: LabelSet) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    vocabulary = vocabulary_of(load_tokenizer(source), logit_width(model))
    objective = LabelObjective(model, vocabulary, labels_per_step=1)
    label = 3
    ids, weights = labels.label(label)
    prefix = torch.from_numpy(labels.prefix(label, int(labels.prefix_length[label])))[None]
    dense = torch.zeros(len(vocabulary.token_ids))
    dense[torch.from_numpy(ids)] = torch.from_numpy(weights)
    with torch.inference_mode():
        log_expert = model(prefix).logits[0, -1].log_softmax(-1)
        expected = contrast.label_cross_entropy(dense, log_expert).item()
        found = objective(model, only_micro_batch(labels, [[label]], packed=True)).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_nan_loss_raises_before_the_step(random_expert: Path, samples: Path, labels: LabelSet) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), labels_per_step=16)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    loss = objective(model, only_micro_batch(labels, [[0]], packed=True))
    with pytest.raises(TrainingDiverged, match="nan"):
        objective.settle(loss)


def test_the_gradient_of_the_entropy_is_the_one_worked_by_hand() -> None:
    # p = (1/2, 1/4, 1/4): H = 1.5·ln 2, and ∂H/∂z_a = −p_a·(ln p_a + H) = −p_a·(1.5 − k_a)·ln 2 with p_a = 2^−k_a.
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    entropy = contrast.entropy(logits.log_softmax(-1))
    entropy.sum().backward()
    ln2 = math.log(2)
    assert entropy.item() == pytest.approx(1.5 * ln2)
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([-0.25 * ln2, 0.125 * ln2, 0.125 * ln2])


@pytest.mark.parametrize("packed", [True, False])
def test_entropy_minimisation_has_the_gradient_of_the_whole_models_entropy(
    random_expert: Path, labels: LabelSet, packed: bool
) -> None:
    source = find_model(str(random_expert))
    chosen = sixteen_sharing_rollouts(labels)
    grads: list[torch.Tensor] = []
    values: list[float] = []
    for by_hand in (False, True):
        model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
        vocabulary = vocabulary_of(load_tokenizer(source), logit_width(model))
        head: Any = model.get_output_embeddings().weight
        for parameter in model.parameters():
            parameter.requires_grad_(parameter is head)
        if by_hand:  # the definition, prefix by prefix, with PyTorch's own distribution
            entropies = []
            for label in chosen:
                prefix = torch.from_numpy(labels.prefix(label, int(labels.prefix_length[label])))[None]
                logits = model(prefix).logits[0, -1, : len(vocabulary.token_ids)]
                entropies.append(torch.distributions.Categorical(logits=logits).entropy())
            loss = torch.stack(entropies).mean()
        else:
            objective = LabelObjective(model, vocabulary, labels_per_step=16, kind="entropy")
            loss = objective(model, only_micro_batch(labels, blocks_by_rollout(labels, chosen), packed))
            assert objective.settle(torch.zeros(())) == 0
            assert objective.flush() == {"loss": pytest.approx(loss.item(), rel=1e-6)}
        loss.backward()
        values.append(loss.item())
        grads.append(head.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert (grads[0] - grads[1]).norm() / grads[1].norm() < 1e-4


def test_a_step_against_the_gradient_lowers_the_entropy_whatever_the_labels_are(
    random_expert: Path, labels: LabelSet
) -> None:
    source = find_model(str(random_expert))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    vocabulary = vocabulary_of(load_tokenizer(source), logit_width(model))
    batch = only_micro_batch(labels, [[label] for label in range(8)], packed=True)
    objective = LabelObjective(model, vocabulary, labels_per_step=8, kind="entropy")
    other = replace(batch, label_ids=batch.label_ids.flip(0), label_weights=batch.label_weights.flip(0))
    before = objective(model, batch)
    assert objective(model, other).item() == before.item()
    head: Any = model.get_output_embeddings().weight
    (gradient,) = torch.autograd.grad(before, [head])
    with torch.no_grad():
        head -= 1e-2 * gradient / gradient.norm()
        assert objective(model, batch).item() < before.item()
