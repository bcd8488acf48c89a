"""The intra-rollout correlation ρ of label gradients: how redundant the labels of one rollout are.

    python bench/block_size.py --pair smollm2 --data-dir DIR

m labels of one rollout in a forward pass cost little more than one, but 16 labels in such blocks are worth only
B_eff = 16 / (1 + (m − 1)ρ) independent labels (the design effect of cluster sampling). ρ is the mean product of the
deviations of two gradients of one rollout, divided by the mean square of one deviation. Gradients are those of the B
matrices of a new LoRA (those of A are zero). The interval is a bootstrap over rollouts.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from speed import ALPHA, BETA, LABELS_PER_STEP, Ours, labels_of

from lightreasoner.config import FinetuneConfig
from lightreasoner.inference.packing import packs
from lightreasoner.training.batches import Collator, LabelSet
from lightreasoner.training.finetuning import attach_lora
from lightreasoner.training.objective import LabelObjective

LEAST_SHARE = 0.75  # smallest accepted B_eff, as a share of the 16 labels of a step
SIZES = (1, 2, 4, 8, 16)


def gradients(measured: models.Measured, labels: LabelSet, chosen: list[int]) -> np.ndarray:
    """Gradient of each label, [S, parameters]."""
    expert = measured.pair.expert
    with_lora = attach_lora(expert, FinetuneConfig(model="e", data=Path("unused"), out=Path("unused")))
    with_lora.eval()  # without dropout
    objective = LabelObjective(expert, measured.pair.vocabulary, labels_per_step=1)
    collator = Collator(labels, packs(expert), tokens=4096)
    parameters = [p for name, p in with_lora.named_parameters() if "lora_B" in name]
    rows = []
    for label in chosen:
        with_lora.zero_grad()
        for batch in collator([[[label]]]):
            objective(with_lora, batch.to(expert.device)).backward()
        rows.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).cpu().numpy())
    return np.stack(rows)


def pair_products(rows: np.ndarray, rollout: np.ndarray) -> tuple[np.ndarray, ...]:
    """By rollout: summed products of pairs, number of pairs, summed squares, number of labels.

    Deviations are from the overall mean of the gradients, [S, parameters], whose rollouts are [S].
    """
    deviations = rows - rows.mean(0)
    squares = (deviations**2).sum(1)
    masks = [rollout == name for name in np.unique(rollout)]
    sums = np.array([(deviations[mask].sum(0) ** 2).sum() for mask in masks])
    own = np.array([squares[mask].sum() for mask in masks])
    sizes = np.array([mask.sum() for mask in masks])
    return sums - own, sizes * (sizes - 1), own, sizes


def correlation(products: np.ndarray, pairs: np.ndarray, squares: np.ndarray, labels: np.ndarray) -> float:
    return float((products.sum() / pairs.sum()) / (squares.sum() / labels.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=models.PAIRS, default="miniature")
    parser.add_argument("--data-dir", type=Path, help="folder with gsm8k/train.jsonl")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--labels-each", type=int, default=4, help="labels of each rollout")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured = models.ready(options.pair, options.rollouts, options.data_dir, "float32", "cpu")
    labels = labels_of(Ours(measured)(measured.prompts))
    rng = np.random.default_rng(0)
    chosen = [
        int(label)
        for text in np.unique(labels.text_of)
        if (mine := np.flatnonzero(labels.text_of == text)).size >= options.labels_each
        for label in rng.choice(mine, options.labels_each, replace=False)
    ]
    parts = pair_products(gradients(measured, labels, chosen), labels.text_of[chosen])
    rho = correlation(*parts)
    rollouts = len(parts[0])
    resampled = []
    for _ in range(2000):
        picked = rng.integers(0, rollouts, rollouts)
        resampled.append(correlation(*(part[picked] for part in parts)))
    low, high = np.quantile(resampled, (0.025, 0.975))
    effective = {m: LABELS_PER_STEP / (1 + (m - 1) * max(rho, 0)) for m in SIZES}
    default = max(m for m in SIZES if effective[m] >= LEAST_SHARE * LABELS_PER_STEP)
    report: dict[str, Any] = {
        "pair": models.PAIRS[options.pair],
        "beta": BETA,
        "alpha": ALPHA,
        "rollouts": rollouts,
        "labels": len(chosen),
        "rho": rho,
        "rho_interval": [float(low), float(high)],
        "effective_labels": effective,
        "largest_block_with_three_quarters": default,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    print(f"ρ = {rho:.3f} ({low:.3f} to {high:.3f}), {len(chosen)} labels of {rollouts} rollouts\n")
    print("| m | B_eff of 16 |\n|--:|--:|")
    for m, value in effective.items():
        print(f"| {m} | {value:.1f} |")
    print(f"\nLargest block with B_eff of at least three quarters: m = {default}")


if __name__ == "__main__":
    main()
