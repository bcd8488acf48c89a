"""The equations of the paper (arXiv 2510.07962), in its order, on log-probabilities.

`log_expert` and `log_amateur` are the next-token log-probabilities log π_E(·|s_t) and log π_A(·|s_t) after the same
prefix s_t, natural logarithm, [..., V], normalised over the last axis. Every function keeps the leading axes, needs no
epsilon, and computes in the dtype of its input; callers pass float32.
"""

import torch
from torch import Tensor


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """D_KL(p‖q) = Σ_a p(a) · log(p(a)/q(a)), Eq 2 with p = π_E and q = π_A: expectation under the *expert*.

    Args:
        log_p: log-probabilities of the distribution that weights the sum, [..., V].
        log_q: log-probabilities of the other distribution, [..., V].

    Returns:
        The divergence in nats, [...]. A token with p = 0 adds 0 (0·log 0 = 0); a token with p > 0 and q = 0 makes it
        infinite.
    """
    terms = log_p.exp() * (log_p - log_q)
    return torch.where(log_p == -torch.inf, 0.0, terms).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """H(p) = −Σ_a p(a) · log p(a), in nats: [..., V] → [...]."""
    return -torch.where(log_p == -torch.inf, 0.0, log_p.exp() * log_p).sum(-1)


def select_steps(divergence: Tensor, beta: float) -> Tensor:
    """Eq 3: keep step t iff D_t > β. A NaN divergence is never kept. [...] → bool [...]."""
    return divergence > beta


def select_highest(scores: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Keep the `count` steps with the highest scores, ties at random. [S] → bool [S].

    The quantile form of Eq 3, for any score. Steps with score −∞ or NaN are never kept, so the result may have fewer.
    """
    shuffled = torch.randperm(len(scores), generator=generator)
    possible = scores > -torch.inf
    ranked = torch.where(possible, scores, -torch.inf)[shuffled].sort(descending=True, stable=True).indices
    kept = torch.zeros(len(scores), dtype=torch.bool)
    kept[shuffled[ranked[:count]]] = True
    return kept & possible


def soft_or(entropies: Tensor, divergences: Tensor) -> Tensor:
    """ĥ + d̂ − ĥ·d̂, high where the entropy or the divergence is: [S], [S] → [S], from 0 to 1. Beyond the paper.

    ĥ and d̂ are scaled by their smallest and largest value over all steps to 0 … 1, the entropies after a cut at their
    98th percentile. It is the Soft-OR of TIP (arXiv 2604.14084), whose formula was checked in an implementation of
    others, not in its text. There the entropy is that of the student and the divergence that between student and
    teacher, over a batch; here both are of the expert, which is the model that is trained, and over all steps.

    A step whose entropy or divergence is NaN has a score of NaN; an infinite divergence counts as the largest finite.
    """

    def scaled(values: Tensor, share: float) -> Tensor:
        finite = values[values.isfinite()].sort().values
        if not len(finite):
            return torch.full_like(values, torch.nan)
        lowest, highest = finite[0], finite[round(share * (len(finite) - 1))]
        return (values.clamp(max=highest) - lowest) / (highest - lowest).clamp(min=torch.finfo(values.dtype).tiny)

    h, d = scaled(entropies, 0.98), scaled(divergences, 1.0)
    return h + d - h * d


def label_factors(scores: Tensor) -> Tensor:
    """Factors of the loss of each label, proportional to its score, mean 1: [S] → float32 [S]. Beyond the paper.

    w_i = max(s_i, 0) / mean_j max(s_j, 0), over the labels that are trained on. So the expected gradient of a label
    keeps its size, and with equal scores each factor is exactly 1. NaN if all scores are 0 or one is not finite.
    """
    positive = scores.double().clamp(min=0)
    return (positive / positive.mean()).float()


def plausible_tokens(log_expert: Tensor, alpha: float) -> Tensor:
    """A_mask, Eq 4: tokens with π_E(a) ≥ α · max_b π_E(b). [..., V] → bool [..., V].

    Always contains the expert's most probable token, and its ties, also at α = 1.
    """
    return (log_expert - log_expert.amax(-1, keepdim=True)).exp() >= alpha


def contrastive_labels(
    log_expert: Tensor,
    log_amateur: Tensor,
    plausible: Tensor,
    temperature: float = 1.0,
    expert_power: float = 1.0,
    amateur_power: float = 1.0,
) -> Tensor:
    """v_C, Eq 5–6, and the family around it: v(a) ∝ (π_E(a)^p / π_A(a)^q)^(1/T) over A_mask, zero outside the mask.

    With p = q = T = 1 it is Eq 5–6, the softmax of v'_C(a) = log(π_E(a)/π_A(a)). The softmax of a log-ratio is the
    normalised ratio: v_C(a) = r(a) / Σ_mask r with r = π_E/π_A. So the label can rank a plausible token above the
    expert's most probable one, and a mask of one token gives a one-hot label.

    Other (p, q) are the labels of other methods, beyond the paper:
        (1, 0): the expert's own distribution over the mask, without contrast; (1/τ, 0): sharpened by τ < 1.
        (λ, λ − 1): the maximum of E_v[λ · log(π_E/π_A)] − D_KL(v‖π_A) at each step, which is the objective of G-OPD
            (arXiv 2602.12125) with π_E as teacher and π_A as reference. λ = 1 is distillation, λ > 1 extrapolates
            (ExOPD), λ < 1 lies between the two models. Theirs has no mask and samples from the trained model.
        (1 + β, β): the scores of contrastive decoding, (1 + β) · log π_E − β · log π_A (arXiv 2309.09117, β = 0.5), as
            probabilities; (1, 1) are those of arXiv 2210.15097.

    Args:
        log_expert: [..., V].
        log_amateur: [..., V]; −∞ is allowed where q = 0. Where q > 0, a plausible token of π_A = 0 gives a row of NaN.
        plausible: A_mask, bool [..., V]; at least one token in each row.
        temperature: T, divides the scores before the softmax; 1 in the paper.
        expert_power: p; 1 in the paper. With q = 0, p = 0 is the uniform distribution over the mask.
        amateur_power: q; 1 in the paper. Below 0 the label moves towards the amateur.

    Returns:
        Label probabilities, [..., V], each row sums to 1.
    """
    possible = plausible & (log_expert > -torch.inf)  # at α = 0 the mask holds tokens of probability 0
    scores = expert_power * log_expert
    if amateur_power:  # 0 · −∞ would be NaN
        scores = scores - amateur_power * log_amateur
    return torch.where(possible, scores / temperature, -torch.inf).softmax(-1)


def label_cross_entropy(labels: Tensor, log_expert: Tensor) -> Tensor:
    """L̃ = −Σ_a v_C(a) · log π_E(a), Eq 8: the fine-tuning loss; π_E is the *trainable* expert.

    The sum may run over the whole vocabulary or over the labelled tokens only, since v_C is zero elsewhere:
    [..., V] or [..., K] → [...]. `log_expert` is normalised over the whole vocabulary in both cases.
    """
    return -torch.where(labels == 0, 0.0, labels * log_expert).sum(-1)


def label_kl(labels: Tensor, log_expert: Tensor) -> Tensor:
    """L = D_KL(v_C‖π_E) = Σ_a v_C(a) · log(v_C(a)/π_E(a)), Eq 7 = Eq 8 − H(v_C). Shapes as in Eq 8.

    The label is frozen, so the gradient is that of Eq 8: ∂L/∂logits = π_E − v_C.
    """
    return label_cross_entropy(labels, log_expert) - entropy(labels.log())
