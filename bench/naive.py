"""A naive implementation of the method, as the baseline for speed: the equations without optimisations.

One question at a time. The amateur runs on every prefix from its first token, without a KV cache; logits are computed
at all positions, although only one is used; labels are dense vectors; fine-tuning pads single labels to micro-batches
of eight. The paper's published scripts do the same. Their known mistakes are not repeated: prefixes stay token ids, and
a label's logits are those of its prefix's last real token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREFIX_BATCH = 64
LABEL_BATCH = 8


@dataclass(frozen=True)
class NaiveStep:
    """A response position: its prefix, its divergence, and its dense label if selected."""

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
    """One rollout and its labels, over the tokens for which both models have logits."""
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
            last_logits(amateur, prefixes[start : start + PREFIX_BATCH])[:, :width]
            for start in range(0, len(prefixes), PREFIX_BATCH)
        ]
    ).to(log_expert.device)
    steps = []
    # In float64, because float32 sums over a large vocabulary change a divergence by 1e-4.
    log_expert, log_amateur = log_expert.double().log_softmax(-1), log_amateur.double().log_softmax(-1)
    for prefix, e, a in zip(prefixes, log_expert, log_amateur, strict=True):
        kl = float((e.exp() * (e - a)).sum())
        plausible = e.exp() >= alpha * e.exp().max()
        label = torch.where(plausible, e - a, -torch.inf).softmax(-1).float() if kl > beta else None
        steps.append(NaiveStep(prefix, kl, label))
    return steps


def last_logits(model: Any, prefixes: Sequence[list[int]]) -> Tensor:
    """Logits after each prefix, [B, V], from the logits of all positions, [B, T, V]."""
    width = max(map(len, prefixes))
    ids = torch.tensor([prefix + [0] * (width - len(prefix)) for prefix in prefixes], device=model.device)
    mask = torch.tensor([[1] * len(prefix) + [0] * (width - len(prefix)) for prefix in prefixes], device=model.device)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits[torch.arange(len(prefixes)), mask.sum(1) - 1]


def train_step(model: Any, optimizer: torch.optim.Optimizer, labels: Sequence[NaiveStep]) -> float:
    """One optimiser step on these labels; returns their mean loss (Eq 8)."""
    optimizer.zero_grad()
    total = 0.0
    for start in range(0, len(labels), LABEL_BATCH):
        some = labels[start : start + LABEL_BATCH]
        log_probs = last_logits(model, [step.prefix for step in some]).float().log_softmax(-1)
        targets = torch.stack([step.label for step in some if step.label is not None]).to(log_probs.device)
        loss = -(targets * log_probs).sum() / len(labels)
        loss.backward()
        total += float(loss.detach())
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return total
