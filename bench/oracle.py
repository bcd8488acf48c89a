"""A slow check of sampled labels: every step again, from the equations, with transformers and NumPy alone.

    lightr sample --expert EXPERT --amateur AMATEUR --dataset gsm8k --data-dir DIR --max-questions 8 --dtype float32 \
        --out RUN
    python bench/oracle.py RUN

The settings are read from the samples. One text at a time, without packing, KV cache or batches; both models in
float32, all distributions in float64 over the tokens that both know. Exit status 1 if a divergence or a label differs
by more than `--tolerance`, if another step is kept, or if a token is not the expert's most probable one. A tie, where
two tokens or a step and β are closer than the tolerance, counts for neither.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightreasoner.config.sections import MachineSettings
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.samples.folder import Label, Rollout, Sampled, read_samples


def log_distributions(model: Any, prompt: list[int], response: list[int], width: int) -> np.ndarray:
    """log π(· | s_t) before each response token, [T, width], in float64."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0, len(prompt) - 1 : -1, :width]
    wide = logits.double().numpy()
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def checked(rollout: Rollout, labels: dict[int, Label], models: list[Any], width: int, settings: Any) -> Iterator[Any]:
    """For each step: differences of KL and label, and what is wrong with it, if anything."""
    expert, amateur = (log_distributions(model, rollout.prompt_ids, rollout.response_ids, width) for model in models)
    for place, (log_e, log_a) in enumerate(zip(expert, amateur, strict=True)):
        divergence = float((np.exp(log_e) * (log_e - log_a)).sum())  # Eq 3
        plausible = np.flatnonzero(log_e >= np.log(settings.plausibility_alpha) + log_e.max())  # Eq 4
        ratio = (log_e - log_a)[plausible]
        weights = np.exp(ratio - ratio.max())
        weights /= weights.sum()  # Eq 5 and 6
        label = labels.get(place)
        step = {"kl": abs(divergence - rollout.kl[place]), "label": 0.0, "margin": abs(divergence - settings.beta)}
        step["behind_top"] = float(log_e.max() - log_e[rollout.response_ids[place]])
        step["kept_here"], step["kept_there"] = divergence > settings.beta, label is not None
        if label is not None:
            found, expected = (dict(zip(ids, values, strict=True)) for ids, values in
                               ((label.token_ids, label.weights), (plausible.tolist(), weights.tolist())))  # fmt: skip
            step["label"] = max(abs(found.get(token, 0) - expected.get(token, 0)) for token in {*found, *expected})
        yield step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder with samples")
    parser.add_argument("--questions", type=int, help="check only the first N")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of KL (nats) and of label weights")
    options = parser.parse_args()
    made, stage = read_samples(options.run)
    if not isinstance(made, Sampled) or made.settings.temperature or made.settings.divergence_beta is None:
        parser.error(f"{options.run} holds no greedy samples of lightr sample with a β")
    settings = argparse.Namespace(
        beta=made.settings.divergence_beta, plausibility_alpha=made.settings.plausibility_alpha
    )
    machine = MachineSettings(dtype="float32", device="cpu")
    sources = [
        find_model(made.settings.expert, made.settings.expert_revision),
        find_model(made.settings.amateur, made.settings.amateur_revision),
    ]
    width = min(len(load_tokenizer(source, machine)) for source in sources)
    models = [load_model(source, machine) for source in sources]
    rollouts = [row for table in stage.tables("rollouts") for row in Rollout.rows(table)][: options.questions]
    labels: dict[str, dict[int, Label]] = {}
    for table in stage.tables("steps"):
        for row in Label.rows(table):
            labels.setdefault(row.question_id, {})[row.position] = row
    steps = []
    for rollout in rollouts:
        steps += checked(rollout, labels.get(rollout.question_id, {}), models, width, settings)
    far = [step for step in steps if step["margin"] > options.tolerance]
    result = {
        "questions": len(rollouts),
        "steps": len(steps),
        "kept": sum(step["kept_there"] for step in steps),
        "largest_difference_of_kl": max(step["kl"] for step in steps),
        "largest_difference_of_a_label": max(step["label"] for step in steps),
        "kept_by_one_only": sum(step["kept_here"] != step["kept_there"] for step in far),
        "steps_at_beta": len(steps) - len(far),
        "tokens_not_the_most_probable": sum(step["behind_top"] > options.tolerance for step in steps),
    }
    print(json.dumps(result, indent=1))
    wrong = max(result["largest_difference_of_kl"], result["largest_difference_of_a_label"]) > options.tolerance
    return int(wrong or result["kept_by_one_only"] > 0 or result["tokens_not_the_most_probable"] > 0)


if __name__ == "__main__":
    sys.exit(main())
