"""Packed texts give the logits of each text alone; packed decoding gives the tokens of `generate`."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    masking_utils,
)

from lightreasoner.errors import ModelError
from lightreasoner.inference import packing
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.memory import fitting_rows
from lightreasoner.inference.packed_engine import PackedEngine, engine_for
from lightreasoner.inference.packing import attention_by, cut_by_tokens, lay_out, packs, shared_prefix
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.inference.scoring import response_states

SMALL: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


@pytest.fixture(scope="module")
def model(random_expert: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32).eval()


def windowed() -> Any:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)).eval()


def soft_capped() -> Any:
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=4)).eval()


@pytest.mark.parametrize("window", [256, 8])
def test_a_window_as_long_as_the_longest_text_is_none(window: int) -> None:
    config = Phi3Config(**SMALL, max_position_embeddings=256, sliding_window=window, layer_types=None)
    assert packs(Phi3ForCausalLM(config).eval()) == (window == 256)


@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_model_that_reads_ahead_is_refused(is_decoder: bool) -> None:
    sizes = {name: SMALL[name] for name in SMALL if name != "head_dim"}
    torch.manual_seed(0)
    model = BertLMHeadModel(BertConfig(**sizes, is_decoder=is_decoder)).eval()
    if is_decoder:
        model.train()  # with dropout, two passes differ
        packs(model)
        assert model.training
    else:
        with pytest.raises(ModelError, match="no causal language model"):
            packs(model)


TEXTS = {
    "one text": [[5, 6, 7]],
    "nothing in common": [[1, 2, 3, 4], [5], [6, 7]],
    "a shared prefix": [[9, 8, 7, 1, 2], [9, 8, 7, 3], [9, 8, 7, 1, 2, 3, 4]],
    "one is a prefix of the others": [[9, 8], [9, 8, 7], [9, 8, 6, 5]],
    "all equal": [[4, 5, 6], [4, 5, 6]],
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS.keys())
def test_packed_logits_equal_those_of_each_text_alone(model: Any, texts: list[list[int]]) -> None:
    layout = lay_out(texts, model.device)
    shared = shared_prefix(texts)
    assert layout.input_ids.shape[1] == sum(map(len, texts)) - shared * (len(texts) - 1)
    with torch.inference_mode(), attention_by(model, layout.attend):
        packed = model(input_ids=layout.input_ids, position_ids=layout.position_ids, use_cache=False).logits[0]
    for index, text in enumerate(texts):
        steps = torch.arange(len(text))
        with torch.inference_mode():
            alone = model(torch.tensor([text])).logits[0]
        torch.testing.assert_close(packed[layout.rows(torch.full_like(steps, index), steps)], alone)


def test_the_shared_prefix_is_the_longest_common_one() -> None:
    assert shared_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert shared_prefix([[1], [2]]) == 0
    assert shared_prefix([[1, 2, 3]]) == 0


def test_every_text_is_in_one_pass_within_the_budget() -> None:
    lengths = [3, 10, 4, 4, 1, 9, 25]
    parts = cut_by_tokens(lengths, 20)
    assert sorted(index for part in parts for index in part) == list(range(7))
    for part in parts:
        assert len(part) == 1 or max(lengths[index] for index in part) * len(part) <= 20
    assert parts[0] == [6]


def test_the_packing_test_restores_the_model(model: Any) -> None:
    before = model.config._attn_implementation
    model.train()
    packing.known_results.clear()
    assert packs(model)
    assert model.training
    assert model.config._attn_implementation == before
    model.eval()


@pytest.mark.parametrize("make", [windowed, soft_capped])
def test_a_model_that_cannot_be_packed_is_detected_and_scored_padded(make: Any) -> None:
    unusual = make()
    assert not packs(unusual)
    assert isinstance(engine_for(unusual), PaddedEngine)
    prompts, responses = [[5, 6, 7, 8, 9], [1, 2]], [[10, 11, 12, 13], [3, 4, 5]]
    states = response_states(unusual, prompts, responses)
    with torch.inference_mode():
        expected = [
            unusual(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
    torch.testing.assert_close(states.logits(slice(0, 7)), torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_the_packing_test_does_not_keep_the_model_in_memory() -> None:
    model = half_precision(96)
    assert packs(model)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_llama_can_be_packed() -> None:
    torch.manual_seed(0)
    assert packs(LlamaForCausalLM(LlamaConfig(**SMALL)))


def half_precision(vocabulary: int) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL | {"vocab_size": vocabulary, "num_hidden_layers": 8})
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


def test_the_packing_test_tolerates_rounding_but_not_wrong_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = packing.causal_attention

    def rounded(*inputs: Any) -> torch.Tensor:
        noise = torch.Generator().manual_seed(1)
        attended = exact(*inputs)
        return attended + attended * torch.randn(attended.shape, generator=noise).to(attended) / 128

    def wrong(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
        return exact(query, key.flip(2), value, scale)

    model = half_precision(20_000)
    monkeypatch.setattr(packing, "causal_attention", rounded)
    assert packs(model)
    packing.known_results.clear()
    monkeypatch.setattr(packing, "causal_attention", wrong)
    assert not packs(model)
    packing.known_results.clear()


def test_transformers_builds_no_mask_and_reads_no_positions(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading values on a device makes the host wait for all its work."""
    monkeypatch.setattr(
        masking_utils, "find_packed_sequence_indices", lambda positions: pytest.fail("positions were read")
    )
    assert len(PackedEngine(model).generate([[1, 2, 3], [1, 2]], Decoding(3, ())).responses) == 2


def test_half_precision_states_match_a_scoring_pass(model: Any) -> None:
    half = half_precision(96)
    generation = PackedEngine(half, keep_states=True).generate(PROMPTS, Decoding(12, ()))
    assert generation.states is not None
    assert generation.states.hidden.dtype == torch.bfloat16
    again = response_states(half, PROMPTS, generation.responses).logits(slice(None)).float()
    assert (generation.states.logits(slice(None)).float() - again).norm() < 0.03 * again.norm()


PROMPTS = [[9, 8, 7, 1], [9, 8, 7], [9, 8, 2, 3, 4, 5, 6], [9, 8, 30, 31], [9, 8, 40, 41, 42]]


def test_packed_decoding_gives_the_tokens_of_generate(model: Any) -> None:
    free = PaddedEngine(model).generate(PROMPTS, Decoding(40, ())).responses
    assert PackedEngine(model).generate(PROMPTS, Decoding(40, ())).responses == free
    # Stop tokens at different positions: rows leave one by one, and the other rows continue unchanged.
    stops = tuple({free[0][5], free[2][11], free[3][23]})
    assert len({len(ids) for ids in PackedEngine(model).generate(PROMPTS, Decoding(40, stops)).responses}) > 2
    assert (
        PackedEngine(model).generate(PROMPTS, Decoding(40, stops)).responses
        == PaddedEngine(model).generate(PROMPTS, Decoding(40, stops)).responses
    )


def test_the_cache_grows_with_a_long_response(model: Any) -> None:
    for prompt, response in zip(
        PROMPTS, PackedEngine(model).generate(PROMPTS, Decoding(300, ())).responses, strict=True
    ):
        assert len(response) == 300
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        taken = logits.gather(1, torch.tensor(response)[:, None])[:, 0]
        assert (logits.amax(1) - taken).max() < 1e-3  # the most probable token, or one within rounding of it


def test_decoding_states_equal_those_of_a_scoring_pass(model: Any) -> None:
    free = PackedEngine(model).generate(PROMPTS, Decoding(24, ())).responses
    decoding = Decoding(24, (free[0][3], free[1][9]))
    generation = PackedEngine(model, keep_states=True).generate(PROMPTS, decoding)
    assert len({len(ids) for ids in generation.responses}) > 1
    assert generation.states is not None
    again = response_states(model, PROMPTS, generation.responses)
    torch.testing.assert_close(generation.states.hidden, again.hidden, rtol=1e-4, atol=1e-5)


def test_sampled_responses_depend_on_the_seed(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    def sampled(seed: int, **settings: Any) -> list[list[int]]:
        decoding = Decoding(20, (), temperature=1.5, seed=seed, **settings)
        return PackedEngine(model, tokenizer).generate(PROMPTS, decoding).responses

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    greedy = PackedEngine(model).generate(PROMPTS, Decoding(20, ())).responses
    assert sampled(1, top_p=1e-6) == greedy


def test_the_batch_size_follows_the_free_memory(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting_rows(model, 100) == 64
    row = 100 * 2 * 2 * 2 * 8 * 4  # tokens × keys and values × layers × key heads × head size × bytes
    memory = type("Memory", (), {"available": 2 * 10 * row})
    monkeypatch.setattr("lightreasoner.inference.memory.psutil.virtual_memory", lambda: memory)
    assert fitting_rows(model, 100) == 10
    assert fitting_rows(model, 10**9) == 1
