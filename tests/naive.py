"""A slow reference for sampling, directly from the paper: one prefix at a time, no batch, no cache, float64."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class NaiveStep:
    position: int
    kl: float
    kept: bool
    label: dict[int, float]
    expert_top_id: int
    expert_top: dict[int, float]  # the five most probable tokens and their log-probabilities
    amateur_top: dict[int, float]


def naive_steps(
    expert: PreTrainedModel,
    amateur: PreTrainedModel,
    prompt: list[int],
    response: list[int],
    vocabulary_size: int,
    beta: float,
    alpha: float,
) -> list[NaiveStep]:
    """Eq 2 to 6 for every step of one rollout."""
    steps = []
    for position in range(len(response)):
        prefix = prompt + response[:position]
        p, q = (_distribution(model, prefix, vocabulary_size) for model in (expert, amateur))
        kl = math.fsum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True) if a > 0)
        mask = [token for token in range(vocabulary_size) if p[token] >= alpha * p.max()]
        ratios = {token: float(p[token] / q[token]) for token in mask}
        total = math.fsum(ratios.values())
        label = {token: ratio / total for token, ratio in ratios.items()}
        steps.append(NaiveStep(position, kl, kl > beta, label, int(p.argmax()), _top(p), _top(q)))
    return steps


def _top(probabilities: np.ndarray) -> dict[int, float]:
    return {int(token): math.log(probabilities[token]) for token in np.argsort(-probabilities)[:5]}


@torch.inference_mode()
def _distribution(model: PreTrainedModel, prefix: list[int], vocabulary_size: int) -> np.ndarray:
    logits = model(torch.tensor([prefix]), use_cache=False).logits[0, -1, :vocabulary_size].double().numpy()
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()
