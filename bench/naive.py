"""The method done plainly, as a yardstick for speed: what the equations say, with none of the savings.

One question at a time; every prefix is a text of its own that the amateur reads from its first token, without a cache;
logits of all positions are computed where one is looked at; labels are dense vectors; fine-tuning pads single labels to
micro-batches of eight. So do the scripts that were published with the paper. The known mistakes of those are not made
here: prefixes stay token ids, and a label's logits are read at its prefix's last real token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREFIXES_AT_A_TIME = 64
LABELS_AT_A_TIME = 8


@dataclass(frozen=True)
class NaiveStep:
    """A response position: its prefix, its divergence, and its dense label if it is kept."""

    prefix: list[int]
    kl: float
    label: Tensor | None


@torch.inference_mode()
def sample_question(
    expert: Any,
    amateur: Any,
    prompt: list[int],
    max_new_tokens: int,
    stop_ids: Sequence[int],
    beta: float,
    alpha: float,
) -> list[NaiveStep]:
    """One rollout and its labels, over as many tokens as both models have logits for."""
    output = expert.generate(
        torch.tensor([prompt], device=expert.device),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long, device=expert.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    response = output.sequences[0, len(prompt) :].tolist()
    width = min(model.get_output_embeddings().weight.shape[0] for model in (expert, amateur))
    log_expert = torch.cat(output.logits)[:, :width]
    prefixes = [prompt + response[:length] for length in range(len(response))]
    log_amateur = torch.cat(
        [
            last_logits(amateur, prefixes[start : start + PREFIXES_AT_A_TIME])[:, :width]
            for start in range(0, len(prefixes), PREFIXES_AT_A_TIME)
        ]
    ).to(log_expert.device)
    steps = []
    # In float32 the sum over a large vocabulary costs a divergence 1e-4; a yardstick should not be off by that.
    log_expert, log_amateur = log_expert.double().log_softmax(-1), log_amateur.double().log_softmax(-1)
    for prefix, e, a in zip(prefixes, log_expert, log_amateur, strict=True):
        kl = float((e.exp() * (e - a)).sum())
        plausible = e.exp() >= alpha * e.exp().max()
        label = torch.where(plausible, e - a, -torch.inf).softmax(-1).float() if kl > beta else None
        steps.append(NaiveStep(prefix, kl, label))
    return steps


def last_logits(model: Any, prefixes: Sequence[list[int]]) -> Tensor:
    """Logits after each prefix, [B, V], out of the logits of all positions, [B, T, V]."""
    width = max(map(len, prefixes))
    ids = torch.tensor([prefix + [0] * (width - len(prefix)) for prefix in prefixes], device=model.device)
    mask = torch.tensor([[1] * len(prefix) + [0] * (width - len(prefix)) for prefix in prefixes], device=model.device)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[torch.arange(len(prefixes)), mask.sum(1) - 1]


def train_step(model: Any, optimizer: torch.optim.Optimizer, labels: Sequence[NaiveStep]) -> float:
    """One optimiser step on these labels; gives their mean loss (Eq 7 without the label's entropy)."""
    optimizer.zero_grad()
    total = 0.0
    for start in range(0, len(labels), LABELS_AT_A_TIME):
        some = labels[start : start + LABELS_AT_A_TIME]
        log_probs = last_logits(model, [step.prefix for step in some]).float().log_softmax(-1)
        targets = torch.stack([step.label for step in some if step.label is not None]).to(log_probs.device)
        loss = -(targets * log_probs).sum() / len(labels)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return total
