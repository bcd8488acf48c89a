"""The equations against examples by hand, a slow float64 reference, and properties.

The hand examples share one pair of distributions over four tokens:

    expert   p = (1/2, 1/4, 1/8, 1/8)
    amateur  q = (1/8, 1/2, 1/4, 1/8)
    p/q        = (4,   1/2, 1/2, 1)
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from lightreasoner.contrast import (
    contrastive_labels,
    entropy,
    kl_divergence,
    label_cross_entropy,
    label_factors,
    label_kl,
    plausible_tokens,
    select_steps,
    soft_or,
)

LN2, LN3 = math.log(2), math.log(3)
EXPERT = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8], dtype=torch.float64).log()
AMATEUR = torch.tensor([1 / 8, 1 / 2, 1 / 4, 1 / 8], dtype=torch.float64).log()
FIRST_TWO = torch.tensor([True, True, False, False])


def close(found: Tensor, expected: object, tolerance: float = 1e-12) -> None:
    """Compare values and shape."""
    wanted = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- Examples by hand ---


def test_kl_of_the_hand_example_takes_the_expectation_under_its_first_argument() -> None:
    # Σ p ln(p/q) = 1/2·ln 4 + 1/4·ln 1/2 + 1/8·ln 1/2 + 1/8·ln 1 = (1 − 1/4 − 1/8 + 0)·ln 2 = 5/8·ln 2
    close(kl_divergence(EXPERT, AMATEUR), 5 / 8 * LN2)


def test_kl_of_the_hand_example_differs_when_the_arguments_are_swapped() -> None:
    # Σ q ln(q/p) = 1/8·ln 1/4 + 1/2·ln 2 + 1/4·ln 2 + 1/8·ln 1 = (−1/4 + 1/2 + 1/4 + 0)·ln 2 = 1/2·ln 2
    close(kl_divergence(AMATEUR, EXPERT), 1 / 2 * LN2)


def test_entropy_of_the_hand_example_is_in_nats() -> None:
    # 1/2·1 + 1/4·2 + 1/8·3 + 1/8·3 = 7/4 bits = 7/4·ln 2 nats
    close(entropy(EXPERT), 7 / 4 * LN2)


def test_entropy_of_a_uniform_distribution_is_the_log_of_its_size() -> None:
    # 9 tokens of 1/9: −9 · 1/9 · ln 1/9 = ln 9 = 2 ln 3
    close(entropy(torch.full((9,), 1 / 9, dtype=torch.float64).log()), 2 * LN3)


def test_a_step_exactly_at_beta_is_not_kept() -> None:
    # Eq 3 is strict: 0.5 > 0.5 is false. 0.5 is exact in binary.
    kept = select_steps(torch.tensor([0.0, 0.25, 0.5, 0.75]), 0.5)
    assert kept.tolist() == [False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_exactly_at_the_papers_beta_is_not_kept_in_either_precision(dtype: torch.dtype) -> None:
    # 0.4 is not exact in binary: float32 holds 0.4000000060, which is still "0.4" and must not count as more.
    assert select_steps(torch.tensor([0.4], dtype=dtype), 0.4).tolist() == [False]


def test_the_smallest_float_above_beta_is_kept() -> None:
    above = torch.nextafter(torch.tensor([0.4]), torch.tensor([1.0]))
    assert select_steps(above, 0.4).tolist() == [True]


def test_a_nan_divergence_is_never_kept_and_an_infinite_one_is() -> None:
    kept = select_steps(torch.tensor([math.nan, math.inf, -math.inf]), -1.0)
    assert kept.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.0, [True, True, True, True]),
        (0.2, [True, True, True, True]),  # 0.2 · 1/2 = 0.1 ≤ 1/8
        (0.3, [True, True, False, False]),  # 0.3 · 1/2 = 0.15 > 1/8
        (0.6, [True, False, False, False]),  # 0.6 · 1/2 = 0.3 > 1/4
        (1.0, [True, False, False, False]),
    ],
)
def test_the_mask_of_the_hand_example(alpha: float, expected: list[bool]) -> None:
    assert plausible_tokens(EXPERT, alpha).tolist() == expected


def test_alpha_is_a_share_of_the_top_probability() -> None:
    # Top 0.3, so α = 0.5 asks for 0.15: 0.2 is in, though 0.2 < 0.5.
    log_expert = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1]).log()
    assert plausible_tokens(log_expert, 0.5).tolist() == [True, True, True, False, False]


def test_alpha_one_keeps_the_most_probable_token_and_its_ties() -> None:
    log_expert = torch.tensor([0.2, 0.4, 0.4]).log()
    assert plausible_tokens(log_expert, 1.0).tolist() == [False, True, True]


def test_alpha_zero_keeps_also_tokens_of_probability_zero() -> None:
    # Eq 4 with α = 0 asks for π_E(a) ≥ 0, which always holds.
    log_expert = torch.tensor([1.0, 0.0]).log()
    assert plausible_tokens(log_expert, 0.0).tolist() == [True, True]


def test_any_positive_alpha_drops_tokens_of_probability_zero() -> None:
    log_expert = torch.tensor([1.0, 0.0]).log()
    assert plausible_tokens(log_expert, 1e-6).tolist() == [True, False]


def test_labels_of_the_hand_example_are_normalised_ratios() -> None:
    # Ratios 4, 1/2, 1/2, 1 sum to 6: 4/6, 1/12, 1/12, 1/6.
    labels = contrastive_labels(EXPERT, AMATEUR, torch.ones(4, dtype=torch.bool))
    close(labels, [2 / 3, 1 / 12, 1 / 12, 1 / 6])


def test_labels_of_the_hand_example_are_normalised_over_the_mask_alone() -> None:
    # Ratios 4 and 1/2 sum to 9/2: 8/9 and 1/9.
    close(contrastive_labels(EXPERT, AMATEUR, FIRST_TWO), [8 / 9, 1 / 9, 0, 0])


@pytest.mark.parametrize(
    ("powers", "expected"),
    [
        ((1, 0), [2 / 3, 1 / 3, 0, 0]),  # p = 1/2, 1/4
        ((0, 0), [1 / 2, 1 / 2, 0, 0]),
        ((0, 1), [4 / 5, 1 / 5, 0, 0]),  # 1/q = 8, 2
        ((2, 1), [16 / 17, 1 / 17, 0, 0]),  # p²/q = 1/4 · 8, 1/16 · 2 = 2, 1/8
        ((1.5, 0.5), [8 / (8 + math.sqrt(2)), math.sqrt(2) / (8 + math.sqrt(2)), 0, 0]),  # (p/q)^½ · p = 1, 2^−2.5
        ((0.5, -0.5), [1 / (1 + math.sqrt(2)), math.sqrt(2) / (1 + math.sqrt(2)), 0, 0]),  # (p·q)^½ = 1/4, 8^−½
    ],
)
def test_labels_of_the_hand_example_with_powers(powers: tuple[float, float], expected: list[float]) -> None:
    close(contrastive_labels(EXPERT, AMATEUR, FIRST_TWO, 1.0, *powers), expected)


def test_a_mask_of_one_token_gives_a_one_hot() -> None:
    labels = contrastive_labels(EXPERT, AMATEUR, torch.tensor([False, False, True, False]))
    assert labels.tolist() == [0, 0, 1, 0]


def test_a_label_can_rank_a_plausible_token_above_the_experts_most_probable_one() -> None:
    # Threshold 0.5 · 0.5 = 0.25: the first two. Ratios 0.5/0.5 = 1 and 0.4/0.1 = 4: label 1/5 and 4/5.
    log_expert, log_amateur = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.1, 0.4]], dtype=torch.float64).log()
    labels = contrastive_labels(log_expert, log_amateur, plausible_tokens(log_expert, 0.5))
    close(labels, [1 / 5, 4 / 5, 0])
    assert labels.argmax() != log_expert.argmax()


def test_label_cross_entropy_of_the_hand_example() -> None:
    # −(8/9·ln 1/2 + 1/9·ln 1/4) = (8/9 + 2/9)·ln 2 = 10/9·ln 2
    labels = torch.tensor([8 / 9, 1 / 9, 0, 0], dtype=torch.float64)
    close(label_cross_entropy(labels, EXPERT), 10 / 9 * LN2)


def test_label_kl_of_the_hand_example() -> None:
    # H(v) = 8/9·ln 9/8 + 1/9·ln 9 = ln 9 − 8/9·ln 8 = 2 ln 3 − 8/3·ln 2.
    # Eq 7 = 10/9·ln 2 − H(v) = 34/9·ln 2 − 2 ln 3 = 2.61856 − 2.19722 = 0.42133
    labels = torch.tensor([8 / 9, 1 / 9, 0, 0], dtype=torch.float64)
    close(label_kl(labels, EXPERT), 34 / 9 * LN2 - 2 * LN3)
    assert float(label_kl(labels, EXPERT)) == pytest.approx(0.42133, abs=1e-5)


def test_label_kl_is_zero_where_the_expert_equals_the_label() -> None:
    labels = torch.tensor([8 / 9, 1 / 9, 0, 0], dtype=torch.float64)
    close(label_kl(labels, labels.log()), 0.0)


def test_soft_or_of_a_hand_example() -> None:
    # Entropies 0, 1, 2 scale to 0, 1/2, 1; divergences 8, 0, 4 to 1, 0, 1/2. h + d − h·d: 1, 1/2, 1.
    found = soft_or(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([8.0, 0.0, 4.0]))
    close(found, [1.0, 0.5, 1.0], 1e-6)


def test_soft_or_cuts_the_largest_entropies_and_no_divergence() -> None:
    entropies = torch.arange(101.0)  # the 98th percentile is 98
    found = soft_or(entropies, torch.zeros(101))
    close(found[[0, 49, 98, 99, 100]], [0, 0.5, 1, 1, 1], 1e-6)
    close(soft_or(torch.zeros(101), entropies)[[50, 99, 100]], [0.5, 0.99, 1], 1e-6)


def test_soft_or_of_what_is_not_finite() -> None:
    found = soft_or(torch.tensor([0.0, 1.0, math.nan, 0.0]), torch.tensor([0.0, 0.0, 1.0, math.inf]))
    assert found.isnan().tolist() == [False, False, True, False]
    assert found[3] == 1
    assert soft_or(torch.full((2,), math.nan), torch.zeros(2)).isnan().all()
    assert soft_or(torch.ones(3), torch.ones(3)).tolist() == [0, 0, 0]


def test_factors_of_a_hand_example_and_of_equal_scores() -> None:
    # max(s, 0) = 0, 1, 2, 5 has the mean 2.
    assert label_factors(torch.tensor([-3.0, 1.0, 2.0, 5.0])).tolist() == [0, 0.5, 1, 2.5]
    assert label_factors(torch.full((777,), 0.1)).tolist() == [1.0] * 777
    assert label_factors(torch.tensor([-1.0, 0.0])).isnan().all()


# --- Probabilities of exactly zero ---


def test_a_token_with_zero_p_adds_nothing_to_the_kl() -> None:
    # p = (1/2, 1/2, 0), q = (1/4, 1/4, 1/2): 2 · 1/2 · ln 2 = ln 2
    log_p, log_q = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64).log()
    close(kl_divergence(log_p, log_q), LN2)


def test_a_token_with_zero_p_and_q_adds_nothing_to_the_kl() -> None:
    log_p, log_q = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]], dtype=torch.float64).log()
    # 1/2·ln 2 + 1/2·ln 2/3 = ln 2 − 1/2·ln 3
    close(kl_divergence(log_p, log_q), LN2 - LN3 / 2)


def test_a_token_with_only_zero_q_makes_the_kl_infinite() -> None:
    log_p, log_q = torch.tensor([[0.25, 0.75], [0.0, 1.0]]).log()
    assert kl_divergence(log_p, log_q).item() == math.inf


def test_a_token_of_probability_zero_adds_nothing_to_the_entropy() -> None:
    close(entropy(torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64).log()), LN2)


def test_the_entropy_of_a_certain_distribution_is_zero() -> None:
    assert entropy(torch.tensor([0.0, 1.0, 0.0]).log()).item() == 0


def test_an_unlabelled_token_of_probability_zero_adds_nothing_to_the_loss() -> None:
    labels = torch.tensor([1.0, 0.0])
    log_expert = torch.tensor([1.0, 0.0]).log()
    assert label_cross_entropy(labels, log_expert).item() == 0
    assert label_kl(labels, log_expert).item() == 0


def test_a_labelled_token_of_probability_zero_makes_the_loss_infinite() -> None:
    labels = torch.tensor([0.5, 0.5])
    log_expert = torch.tensor([1.0, 0.0]).log()
    assert label_cross_entropy(labels, log_expert).item() == math.inf
    assert label_kl(labels, log_expert).item() == math.inf


@pytest.mark.parametrize("loss", [label_cross_entropy, label_kl])
def test_an_unlabelled_token_of_probability_zero_leaves_the_gradient_finite(loss) -> None:
    logits = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64, requires_grad=True)
    loss(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), logits.log_softmax(-1)).backward()
    assert logits.grad is not None
    close(logits.grad, [-0.5, 0.5, 0.0])  # softmax − label = (1/2 − 1, 1/2 − 0, 0 − 0)


# --- A slow reference, directly from the equations ---

Row = NDArray[np.float64]


def slow_kl(p: Row, q: Row) -> float:
    """Eq 2."""
    total = 0.0
    for a in range(len(p)):
        total += p[a] * math.log(p[a] / q[a])
    return total


def slow_mask(p: Row, alpha: float) -> list[bool]:
    """Eq 4."""
    return [bool(p[a] >= alpha * max(p)) for a in range(len(p))]


def slow_labels(p: Row, q: Row, mask: list[bool], of_p: float = 1, of_q: float = 1) -> Row:
    """Eq 5 and 6, the softmax written out, with powers."""
    scores = {a: math.log(p[a] ** of_p / q[a] ** of_q) for a in range(len(p)) if mask[a]}
    total = sum(math.exp(score) for score in scores.values())
    return np.array([math.exp(scores[a]) / total if mask[a] else 0.0 for a in range(len(p))])


def slow_label_kl(v: Row, p: Row) -> float:
    """Eq 7."""
    total = 0.0
    for a in range(len(p)):
        if v[a] > 0:
            total += v[a] * math.log(v[a] / p[a])
    return total


def slow_label_cross_entropy(v: Row, p: Row) -> float:
    """Eq 8."""
    total = 0.0
    for a in range(len(p)):
        if v[a] > 0:
            total -= v[a] * math.log(p[a])
    return total


def slow_entropy(p: Row) -> float:
    """H(p)."""
    return -sum(x * math.log(x) for x in p)


VOCABULARIES = (7, 8, 13, 31, 50)


def random_rows(vocabulary: int) -> tuple[Row, Row]:
    """Probabilities of an expert and an amateur, 12 rows each, from flat to peaked."""
    rng = np.random.default_rng(vocabulary)
    scale = np.linspace(0.2, 4.0, 12)[:, None]
    logits = rng.normal(size=(2, 12, vocabulary)) * scale
    weights = np.exp(logits)
    expert, amateur = weights / weights.sum(-1, keepdims=True)
    return expert, amateur


def tensors(*rows: Row, dtype: torch.dtype) -> list[Tensor]:
    return [torch.from_numpy(np.log(row)).to(dtype) for row in rows]


PRECISIONS = [(torch.float64, 1e-11), (torch.float32, 2e-5)]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_kl_and_entropy_agree_with_the_slow_reference(vocabulary: int, dtype: torch.dtype, tolerance: float) -> None:
    expert, amateur = random_rows(vocabulary)
    log_expert, log_amateur = tensors(expert, amateur, dtype=dtype)
    close(kl_divergence(log_expert, log_amateur), list(map(slow_kl, expert, amateur)), tolerance)
    close(entropy(log_expert), list(map(slow_entropy, expert)), tolerance)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("beta", [0.0, 0.4, 1.5])
def test_the_selection_agrees_with_the_slow_reference(vocabulary: int, beta: float) -> None:
    expert, amateur = random_rows(vocabulary)
    kept = select_steps(kl_divergence(*tensors(expert, amateur, dtype=torch.float64)), beta)
    assert kept.tolist() == [slow_kl(p, q) > beta for p, q in zip(expert, amateur, strict=True)]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("alpha", [0.0, 0.05, 0.2, 0.7, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_mask_labels_and_losses_agree_with_the_slow_reference(
    vocabulary: int, alpha: float, dtype: torch.dtype, tolerance: float
) -> None:
    expert, amateur = random_rows(vocabulary)
    log_expert, log_amateur = tensors(expert, amateur, dtype=dtype)
    mask = plausible_tokens(log_expert, alpha)
    slow_masks = [slow_mask(p, alpha) for p in expert]
    assert mask.tolist() == slow_masks
    labels = contrastive_labels(log_expert, log_amateur, mask)
    slow = list(map(slow_labels, expert, amateur, slow_masks))
    close(labels, np.array(slow), tolerance)
    close(label_cross_entropy(labels, log_expert), list(map(slow_label_cross_entropy, slow, expert)), tolerance)
    close(label_kl(labels, log_expert), list(map(slow_label_kl, slow, expert)), tolerance)
    for powers in ((1.25, 0.25), (1.5, 0.5), (2.0, 0.0), (0.5, -0.5)):
        slow = [slow_labels(p, q, m, *powers) for p, q, m in zip(expert, amateur, slow_masks, strict=True)]
        close(contrastive_labels(log_expert, log_amateur, mask, 1.0, *powers), np.array(slow), tolerance)


# --- Properties ---

alphas = st.floats(0, 1)


@st.composite
def distributions(draw: st.DrawFn, count: int = 2) -> tuple[Tensor, ...]:
    """Log-probabilities [V] of `count` distributions over one vocabulary, float64."""
    size = draw(st.integers(1, 12))
    row = st.lists(st.floats(-20, 20), min_size=size, max_size=size)
    return tuple(torch.tensor(draw(row), dtype=torch.float64).log_softmax(-1) for _ in range(count))


@given(distributions())
def test_kl_is_at_least_half_the_squared_l1_distance(pair: tuple[Tensor, Tensor]) -> None:
    # Pinsker's inequality: D_KL ≥ ½ ‖p − q‖₁², which is more than "never negative".
    log_p, log_q = pair
    distance = (log_p.exp() - log_q.exp()).abs().sum()
    assert kl_divergence(log_p, log_q) >= distance**2 / 2 - 1e-12


@given(distributions(count=1))
def test_kl_of_a_distribution_with_itself_is_exactly_zero(only: tuple[Tensor]) -> None:
    assert kl_divergence(only[0], only[0]) == 0


@given(distributions(), st.randoms(use_true_random=False))
def test_kl_does_not_depend_on_the_order_of_the_vocabulary(pair: tuple[Tensor, Tensor], rng) -> None:
    order = list(range(len(pair[0])))
    rng.shuffle(order)
    close(kl_divergence(pair[0][order], pair[1][order]), kl_divergence(*pair), 1e-10)


@given(distributions(count=1))
def test_entropy_lies_between_zero_and_the_log_of_the_vocabulary_size(only: tuple[Tensor]) -> None:
    assert -1e-12 <= entropy(only[0]) <= math.log(len(only[0])) + 1e-12


@given(distributions(count=1))
def test_kl_to_the_uniform_distribution_is_the_log_of_the_size_minus_the_entropy(only: tuple[Tensor]) -> None:
    size = len(only[0])
    uniform = torch.full((size,), -math.log(size), dtype=torch.float64)
    close(kl_divergence(only[0], uniform), math.log(size) - entropy(only[0]), 1e-10)


@given(distributions())
def test_the_divergence_is_the_experts_expectation_of_the_contrast_score(pair: tuple[Tensor, Tensor]) -> None:
    # Eq 16: D_t = E_{π_E}[v'_C] over the full vocabulary.
    log_expert, log_amateur = pair
    scores = log_expert - log_amateur
    close(kl_divergence(log_expert, log_amateur), torch.dot(log_expert.exp(), scores), 1e-10)


@given(distributions(count=1), alphas)
def test_the_experts_most_probable_token_is_always_plausible(only: tuple[Tensor], alpha: float) -> None:
    assert plausible_tokens(only[0], alpha)[only[0].argmax()]


@given(distributions(count=1), alphas, alphas)
def test_a_larger_alpha_never_adds_a_plausible_token(only: tuple[Tensor], one: float, other: float) -> None:
    wide, narrow = plausible_tokens(only[0], min(one, other)), plausible_tokens(only[0], max(one, other))
    assert bool((wide | ~narrow).all())


@given(distributions(), alphas)
def test_labels_are_distributions_over_the_mask_and_zero_outside(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    mask = plausible_tokens(pair[0], alpha)
    labels = contrastive_labels(*pair, mask)
    close(labels.sum(), 1.0)
    assert bool((labels >= 0).all())
    assert labels[~mask].tolist() == [0.0] * int((~mask).sum())


@given(distributions(), alphas)
def test_labels_are_the_normalised_ratios_of_the_probabilities(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    mask = plausible_tokens(pair[0], alpha)
    ratios = pair[0].exp() / pair[1].exp() * mask
    close(contrastive_labels(*pair, mask), ratios / ratios.sum(), 1e-9)


powers = st.floats(0, 3)


@given(distributions(), alphas, powers, powers, st.floats(-50, 50), st.floats(-50, 50))
def test_labels_do_not_depend_on_constants(
    pair: tuple[Tensor, Tensor], alpha: float, a: float, b: float, one: float, other: float
) -> None:
    mask = plausible_tokens(pair[0], alpha)
    labels = contrastive_labels(*pair, mask, 1.0, a, b)
    close(labels.sum(), 1.0)
    close(contrastive_labels(pair[0] + one, pair[1] + other, mask, 1.0, a, b), labels, 1e-9)


@given(distributions(), alphas, st.floats(0.1, 10))
def test_equal_powers_are_a_temperature(pair: tuple[Tensor, Tensor], alpha: float, temperature: float) -> None:
    mask = plausible_tokens(pair[0], alpha)
    with_powers = contrastive_labels(*pair, mask, 1.0, 1 / temperature, 1 / temperature)
    close(with_powers, contrastive_labels(*pair, mask, temperature), 1e-9)


@given(distributions(count=3), alphas, powers)
def test_labels_without_the_amateur_do_not_depend_on_it(
    rows: tuple[Tensor, Tensor, Tensor], alpha: float, a: float
) -> None:
    mask, never = plausible_tokens(rows[0], alpha), torch.full_like(rows[0], -torch.inf)
    first, *others = (contrastive_labels(rows[0], amateur, mask, 1.0, a, 0.0) for amateur in (rows[1], rows[2], never))
    assert all(torch.equal(first, other) for other in others)


@given(distributions(), alphas)
def test_extrapolation_by_one_is_the_experts_masked_distribution(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    mask = plausible_tokens(pair[0], alpha)
    masked = pair[0].exp() * mask
    close(contrastive_labels(*pair, mask, 1.0, 1.0, 1.0 - 1), masked / masked.sum(), 1e-10)


@given(distributions(), st.floats(1, 3), st.lists(st.floats(-5, 5), min_size=12, max_size=12))
def test_extrapolated_labels_are_the_maximum_of_the_scaled_reward(
    pair: tuple[Tensor, Tensor], scale: float, other: list[float]
) -> None:
    # J(v) = E_v[λ · log(π_E/π_A)] − D_KL(v‖π_A), the objective of G-OPD at one step: no other v has a larger one.
    log_expert, log_amateur = pair

    def objective(v: Tensor) -> float:
        return float((v * scale * (log_expert - log_amateur)).sum() - label_kl(v, log_amateur))

    everything = torch.ones_like(log_expert, dtype=torch.bool)
    best = contrastive_labels(*pair, everything, 1.0, scale, scale - 1)
    another = torch.tensor(other[: len(best)], dtype=torch.float64).softmax(-1)
    for v in (another, log_expert.exp(), log_amateur.exp(), 0.9 * best + 0.1 * another):
        assert objective(best) >= objective(v) - 1e-9


def test_without_a_mask_a_token_of_probability_zero_has_no_label_under_any_powers() -> None:
    log_expert, log_amateur = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25]], dtype=torch.float64).log()
    everything = plausible_tokens(log_expert, 0.0)
    close(contrastive_labels(log_expert, log_amateur, everything, 1.0, 0.0, 0.0), [1 / 2, 1 / 2, 0])
    close(contrastive_labels(log_expert, log_amateur, everything, 1.0, 2.0, 1.0), [2 / 3, 1 / 3, 0])


@given(distributions(count=1), alphas)
def test_labels_of_a_pair_that_agrees_are_uniform_over_the_mask(only: tuple[Tensor], alpha: float) -> None:
    mask = plausible_tokens(only[0], alpha)
    close(contrastive_labels(only[0], only[0], mask), mask.double() / mask.sum())


@given(distributions())
def test_alpha_one_with_a_unique_maximum_gives_a_one_hot_label(pair: tuple[Tensor, Tensor]) -> None:
    log_expert, log_amateur = pair
    assume(int((log_expert == log_expert.max()).sum()) == 1)
    labels = contrastive_labels(log_expert, log_amateur, plausible_tokens(log_expert, 1.0))
    assert labels.tolist() == torch.nn.functional.one_hot(log_expert.argmax(), len(log_expert)).tolist()


@given(distributions(count=3), alphas)
def test_the_two_losses_differ_by_the_entropy_of_the_label(rows: tuple[Tensor, Tensor, Tensor], alpha: float) -> None:
    # Eq 7 = Eq 8 − H(v_C); the entropy is computed here without the code under test.
    sampled, log_amateur, trained = rows
    labels = contrastive_labels(sampled, log_amateur, plausible_tokens(sampled, alpha))
    label_entropy = -sum(v * math.log(v) for v in labels.tolist() if v > 0)
    close(label_kl(labels, trained), label_cross_entropy(labels, trained) - label_entropy, 1e-10)
    assert label_kl(labels, trained) >= -1e-10


@pytest.mark.parametrize("loss", [label_cross_entropy, label_kl])
@given(rows=distributions(count=3), alpha=alphas)
def test_the_gradient_of_either_loss_in_the_logits_is_softmax_minus_label(
    loss, rows: tuple[Tensor, Tensor, Tensor], alpha: float
) -> None:
    sampled, log_amateur, trained = rows
    labels = contrastive_labels(sampled, log_amateur, plausible_tokens(sampled, alpha))
    logits = trained.clone().requires_grad_()
    loss(labels, logits.log_softmax(-1)).backward()
    assert logits.grad is not None
    close(logits.grad, trained.exp() - labels, 1e-10)


@pytest.mark.parametrize("loss", [label_cross_entropy, label_kl])
@given(rows=distributions(count=3), alpha=alphas)
def test_a_sparse_label_gives_the_loss_of_the_dense_one(
    loss, rows: tuple[Tensor, Tensor, Tensor], alpha: float
) -> None:
    sampled, log_amateur, trained = rows
    mask = plausible_tokens(sampled, alpha)
    labels = contrastive_labels(sampled, log_amateur, mask)
    token_ids = mask.nonzero().squeeze(-1)
    close(loss(labels[token_ids], trained[token_ids]), loss(labels, trained), 1e-10)


@pytest.mark.parametrize("loss", [label_cross_entropy, label_kl])
def test_padding_a_sparse_label_with_zeros_changes_nothing(loss) -> None:
    labels = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64)
    log_expert = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64).log()
    close(loss(labels, log_expert), loss(labels[:, :2], log_expert[:, :2]))


# --- Shapes and dtypes ---

REDUCTIONS = {
    "kl_divergence": lambda p, q: kl_divergence(p, q),
    "entropy": lambda p, q: entropy(p),
    "label_cross_entropy": lambda p, q: label_cross_entropy(q.exp(), p),
    "label_kl": lambda p, q: label_kl(q.exp(), p),
}
MAPS = {
    "plausible_tokens": lambda p, q: plausible_tokens(p, 0.2),
    "contrastive_labels": lambda p, q: contrastive_labels(p, q, plausible_tokens(p, 0.2)),
}


@pytest.mark.parametrize("name", [*REDUCTIONS, *MAPS])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (0,)])
def test_every_function_keeps_the_leading_axes_and_treats_each_row_alone(name: str, leading: tuple[int, ...]) -> None:
    function = {**REDUCTIONS, **MAPS}[name]
    torch.manual_seed(0)
    log_p, log_q = torch.randn(2, *leading, 9, dtype=torch.float64).log_softmax(-1)
    found = function(log_p, log_q)
    assert found.shape == (leading if name in REDUCTIONS else (*leading, 9))
    rows = zip(log_p.reshape(-1, 9), log_q.reshape(-1, 9), found.reshape(-1, *found.shape[len(leading) :]), strict=True)
    for row_p, row_q, row_found in rows:
        torch.testing.assert_close(row_found, function(row_p, row_q))


def test_selection_keeps_the_shape_of_the_divergence() -> None:
    assert select_steps(torch.tensor([[0.3, 0.5], [0.7, 0.1]]), 0.4).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("name", [*REDUCTIONS, "contrastive_labels"])
def test_every_function_keeps_the_dtype_of_its_input(name: str) -> None:
    function = {**REDUCTIONS, **MAPS}[name]
    for dtype in (torch.float32, torch.float64):
        assert function(EXPERT.to(dtype), AMATEUR.to(dtype)).dtype == dtype
