"""Attention and its gradients by plain products are those of the fused kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightreasoner.inference import attention
from lightreasoner.inference.attention import causal_attention


def exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention written out, query by query."""
    group = query.shape[1] // key.shape[1]
    found = torch.zeros_like(query)
    for head in range(query.shape[1]):
        for place in range(query.shape[2]):
            seen = key[:, head // group, : place + 1]
            weights = (seen @ query[:, head, place, :, None])[..., 0].mul(scale).softmax(-1)
            found[:, head, place] = (weights[:, None] @ value[:, head // group, : place + 1])[:, 0]
    return found


def heads(texts: int, count: int, length: int, size: int, seed: int) -> Tensor:
    """As a layer gives them: [B, H, T, D] of a tensor [B, T, H, D]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(texts, length, count, size, generator=generator).bfloat16().transpose(1, 2)


def results(attend: Any, inputs: list[Tensor], scale: float | None) -> list[Tensor]:
    """The result and the gradients by all inputs, as float64."""
    inputs = [part.clone().requires_grad_() for part in inputs]
    found = attend(*inputs, scale)
    found.backward(heads(*found.shape, seed=9).to(found))
    return [part.double() for part in (found.detach(), *(one.grad for one in inputs))]


@pytest.mark.parametrize("shared", [1, 3], ids=["own keys", "shared keys"])
@pytest.mark.parametrize(("texts", "length"), [(1, 1), (3, 23)])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_gradients_equal_those_of_float64(
    shared: int, texts: int, length: int, scale: float | None, autocast: bool
) -> None:
    inputs = [heads(texts, count, length, 16, seed) for seed, count in enumerate((6, 6 // shared, 6 // shared))]
    expected = results(exact, [part.double() for part in inputs], scale or 0.25)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = results(causal_attention, inputs, scale)
    for ours, right in zip(found, expected, strict=True):
        assert (ours - right).norm() <= 6e-3 * right.norm()


def test_scores_of_a_thousand_are_as_exact_as_in_the_fused_kernel() -> None:
    """Keys with a large bias, as those of Qwen2.5: the bias moves all scores of a query and changes no weight."""
    query, key, value = (heads(2, 4, 30, 16, seed) for seed in range(3))
    query, key = query + 20, key + 60  # scores around 20 · 60 · 16 / 4 = 4800
    expected = results(exact, [part.double() for part in (query, key, value)], 0.25)
    fused = results(
        lambda *parts: nn.functional.scaled_dot_product_attention(*parts[:3], is_causal=True, scale=parts[3]),
        [query, key, value],
        0.25,
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = results(causal_attention, [query, key, value], 0.25)
    for ours, theirs, right in zip(found, fused, expected, strict=True):
        assert (ours - right).norm() <= 1.2 * (theirs - right).norm() + 6e-3 * right.norm()


def test_it_takes_the_gradient_of_short_texts_in_bfloat16_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    fused = nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        nn.functional, "scaled_dot_product_attention", lambda *a, **k: (used.append(a[0].shape[2]), fused(*a, **k))[1]
    )
    monkeypatch.setattr(attention, "LONGEST", 20)
    query = heads(1, 2, 20, 8, 0)
    with torch.no_grad():
        causal_attention(query.requires_grad_(), query, query, None)
    assert used.pop() == 20
    causal_attention(query, query, query, None)
    assert not used
    for other in (query.float(), heads(1, 2, 21, 8, 0).requires_grad_()):
        causal_attention(other, other, other, None)
        assert used.pop() == other.shape[2]


def test_a_later_token_changes_no_earlier_one() -> None:
    inputs = [heads(2, 2, 12, 8, seed).requires_grad_() for seed in range(3)]
    before = causal_attention(*inputs, None)
    changed = [part.detach().clone() for part in inputs]
    for part in changed:
        part[:, :, 7:] += 1
    after = causal_attention(*(part.requires_grad_() for part in changed), None)
    assert torch.equal(before[:, :, :7], after[:, :, :7])
    assert not torch.equal(before[:, :, 7:], after[:, :, 7:])
