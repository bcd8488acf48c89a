"""Causal attention of right-padded texts, softmax(Q·Kᵀ·scale + M)·V with M = −∞ where a key follows its query."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

LONGEST = 384  # tokens of a text up to which plain products are faster, forward and backward together


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of [B, Hq, T, D] to [B, Hkv, T, D]; several query heads may share a key head.

    PyTorch's fused kernel, except for the gradient of short texts in bfloat16 on a CPU, where its backward pass is
    slow: plain products make a whole step of tuning faster (docs/speed.md), and take a few MB for the weights.
    """
    trained = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    in_bfloat16 = {query.dtype, key.dtype, value.dtype} == {torch.bfloat16}
    if trained and query.device.type == "cpu" and in_bfloat16 and query.shape[2] <= LONGEST:
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        # Autocast, which training runs under, would round the scores to bfloat16: to multiples of 4 where they are
        # 1000, as in Qwen2.5.
        with torch.autocast("cpu", enabled=False):
            found: Tensor = _Products.apply(query, key, value, scale)  # type: ignore[no-untyped-call]
        return found
    return nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )


class _Products(Function):
    """The same by matrix products. Scores and softmax are float32, as in the fused kernel.

    The queries of all heads that share a key head are rows of one matrix, [B·Hkv, Hq/Hkv·T, D].
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        length, group = query.shape[2], query.shape[1] // key.shape[1]
        rows, keys, values = (part.reshape(-1, count * length, part.shape[-1]) for part, count in
                              ((query, group), (key, 1), (value, 1)))  # fmt: skip
        mask = torch.full((length, length), -torch.inf).triu_(1).repeat(group, 1)
        scores = torch.baddbmm(mask, rows.float(), keys.float().transpose(1, 2), alpha=scale)
        weights = scores.softmax(-1).to(query.dtype)
        ctx.save_for_backward(rows, keys, values, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape, value.shape)
        return torch.bmm(weights, values).view(*query.shape[:-1], value.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients dV = Pᵀ·dO, dQ = dS·K·scale, dK = dSᵀ·Q·scale; P: weights, dP = dO·Vᵀ, dS = P∘(dP − Σ P∘dP)."""
        rows, keys, values, weights = ctx.saved_tensors
        gradient = gradient.reshape(*rows.shape[:2], -1)
        of_values = torch.bmm(weights.transpose(1, 2), gradient)
        of_weights = torch.bmm(gradient, values.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(ctx.scale)
        of_rows, of_keys = torch.bmm(of_scores, keys), torch.bmm(of_scores.transpose(1, 2), rows)
        found = (part.view(shape) for part, shape in zip((of_rows, of_keys, of_values), ctx.shapes, strict=True))
        return (*found, None)  # type: ignore[return-value]
