"""Models of other families than Llama's decode, score and contrast as one text at a time does.

State-space models and hybrids have no attention heads in some or all layers, and some models do not heed padding masks.
"""

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    DeepseekV4Config,
    DiffLlamaConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3Config,
    GenerationConfig,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    HyperCLOVAXConfig,
    JambaConfig,
    MambaConfig,
    MiniCPM3Config,
    MiniMaxConfig,
    OpenAIGPTConfig,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from lightreasoner.config import EvaluateConfig, FinetuneConfig, MergeConfig, SampleConfig
from lightreasoner.contrast import contrastive_labels, plausible_tokens
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.memory import cache_bytes, fitting_rows
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.packing import packs
from lightreasoner.inference.padded_engine import ignores_padding
from lightreasoner.inference.scoring import response_states
from lightreasoner.models.pairs import Pair
from lightreasoner.models.vocabulary import SharedVocabulary
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge

WIDTH = 96
IDS: dict[str, Any] = {"vocab_size": WIDTH, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SMALL: dict[str, Any] = {**IDS, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}
HEADS: dict[str, Any] = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
MAMBA: dict[str, Any] = {"mamba_d_state": 8, "mamba_expand": 2}
H1: dict[str, Any] = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 28,
}
GPT: dict[str, Any] = {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}

FAMILIES: dict[str, Callable[[], Any]] = {
    "state space": lambda: MambaConfig(**SMALL, state_size=8),
    "recurrent, without a mask": lambda: RwkvConfig(**SMALL, attention_hidden_size=32, intermediate_size=64),
    "its state in the module": lambda: RecurrentGemmaConfig(
        **SMALL | {"num_hidden_layers": 3}, intermediate_size=64, num_attention_heads=4, attention_window_size=16
    ),
    "without a cache": lambda: OpenAIGPTConfig(**GPT),
    "attention in every other layer": lambda: JambaConfig(
        **SMALL, **HEADS, **MAMBA, mamba_dt_rank=4, num_experts=2, attn_layer_period=2, attn_layer_offset=1
    ),
    "attention beside a state": lambda: FalconH1Config(**SMALL, **HEADS, **MAMBA, **H1, lm_head_multiplier=0.5),
    "linear attention": lambda: MiniMaxConfig(
        **SMALL, **HEADS, head_dim=8, num_local_experts=2, layer_types=["linear_attention", "full_attention"]
    ),
    "two attentions in a layer": lambda: DiffLlamaConfig(**SMALL, **HEADS, head_dim=8),
    "a window in the mask alone": lambda: PhimoeConfig(
        **SMALL | {"num_hidden_layers": 1}, **HEADS, num_local_experts=2, sliding_window=8, attention_bias=True
    ),
    "a window in some layers": lambda: GPTNeoConfig(
        **{key: SMALL[key] for key in SMALL if key != "num_hidden_layers"},
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
    ),
    "compressed blocks": lambda: DeepseekV4Config(
        **SMALL,
        **HEADS | {"num_key_value_heads": 1},
        head_dim=8,
        qk_rope_head_dim=4,
        q_lora_rank=16,
        o_lora_rank=16,
        o_groups=2,
        index_n_heads=2,
        index_head_dim=8,
        n_routed_experts=2,
        moe_intermediate_size=32,
        sliding_window=8,
    ),
    "learned positions": lambda: GPT2Config(**GPT),
    "distances instead of positions": lambda: BloomConfig(**IDS, hidden_size=32, n_layer=2, n_head=4),
    "text within more": lambda: Gemma3Config(
        text_config={**SMALL, **HEADS, "head_dim": 8, "sliding_window": 4}, vision_config=VISION, mm_tokens_per_image=4
    ),
}
PACKED = {"learned positions"}
NEEDS_EQUAL_LENGTHS = {
    "recurrent, without a mask", "its state in the module", "linear attention", "compressed blocks"
}  # fmt: skip
PROMPTS = [[9, 8, 7, 1, 12, 33], [9, 8, 7], [9, 8, 2, 3, 4, 5, 6, 30, 31, 32, 40]]
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def model_of(family: str) -> Any:
    torch.manual_seed(0)
    config = FAMILIES[family]()
    return AutoModelForCausalLM.from_config(config).eval()


@torch.inference_mode()
def logits_alone(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Logits before each token of the response, from a pass over this text alone."""
    ids = torch.tensor([prompt + response])
    return torch.as_tensor(model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1])


@every_family
def test_a_batch_of_prompts_decodes_as_each_alone(family: str) -> None:
    model = model_of(family)
    for prompt, response in zip(PROMPTS, engine_for(model).generate(PROMPTS, Decoding(12, ())).responses, strict=True):
        assert len(response) == 12
        logits = logits_alone(model, prompt, response)
        taken = logits.gather(1, torch.tensor(response)[:, None])[:, 0]
        assert (logits.amax(1) - taken).max() < 1e-4  # the most probable token, or one within rounding of it


@every_family
def test_scores_are_those_of_each_text_alone(family: str) -> None:
    model, responses = model_of(family), [[10, 11, 12, 13], [3, 4, 5], [7]]
    expected = torch.cat([logits_alone(model, *pair) for pair in zip(PROMPTS, responses, strict=True)])
    found = response_states(model, PROMPTS, responses).logits(slice(None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}


@pytest.mark.parametrize(
    "config",
    [
        GraniteConfig(**SMALL, **HEADS, logits_scaling=2.0),
        HyperCLOVAXConfig(**SMALL, **HEADS, logits_scaling=2.0),
        MiniCPM3Config(**SMALL, **HEADS | {"num_key_value_heads": 4}, **LATENT, dim_model_base=16),
        CohereConfig(**SMALL, **HEADS, logit_scale=0.5),
        Gemma2Config(**SMALL, **HEADS, head_dim=8, final_logit_softcapping=2.0),
    ],
    ids=lambda config: config.model_type,
)
def test_logits_that_are_scaled_or_capped_are_scored_as_the_model_gives_them(config: PreTrainedConfig) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    expected = logits_alone(model, PROMPTS[0], [10, 11, 12])
    found = response_states(model, PROMPTS[:1], [[10, 11, 12]]).logits(slice(None))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    bare = model.get_output_embeddings()(response_states(model, PROMPTS[:1], [[10, 11, 12]]).hidden)
    assert torch.allclose(bare, expected, atol=1e-4) == (config.model_type == "minicpm3")


@every_family
def test_contrastive_decoding_takes_the_highest_ratio_of_each_text_alone(family: str) -> None:
    expert, amateur = (
        model_of(family),
        model_of("learned positions" if family != "learned positions" else "state space"),
    )
    vocabulary = SharedVocabulary(torch.arange(WIDTH))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # of what transformers will take away
        engine = ContrastiveEngine(Pair(expert, amateur, vocabulary), 0.1, None)  # type: ignore[arg-type]
        found = engine.generate(PROMPTS, Decoding(6, ())).responses
    for prompt, response in zip(PROMPTS, found, strict=True):
        logits = (logits_alone(model, prompt, response) for model in (expert, amateur))
        log_expert, log_amateur = map(vocabulary.log_softmax, logits)
        label = contrastive_labels(log_expert, log_amateur, plausible_tokens(log_expert, 0.1))
        taken = label.gather(1, torch.tensor(response)[:, None])[:, 0]
        assert (label.amax(1) - taken).max() < 1e-4


@every_family
def test_only_models_whose_packed_logits_are_right_are_packed(family: str) -> None:
    assert packs(model_of(family)) == (family in PACKED)
    half = AutoModelForCausalLM.from_config(FAMILIES[family]()).to(torch.bfloat16).eval()
    assert packs(half) == (family in PACKED)


@every_family
def test_prompts_of_other_lengths_share_a_batch_where_padding_is_ignored(family: str) -> None:
    assert ignores_padding(model_of(family)) == (family not in NEEDS_EQUAL_LENGTHS)
    half = AutoModelForCausalLM.from_config(FAMILIES[family]()).to(torch.bfloat16).eval()
    assert ignores_padding(half) == (family in PACKED)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize(
    "setting",
    [
        {"repetition_penalty": 1.8},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(WIDTH // 2))},
        {"eos_token_id": list(range(WIDTH))},
        {"num_beams": 3},
        {"top_k": 1, "do_sample": True, "min_p": 0.9},
        {"return_dict_in_generate": True},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_the_models_own_settings_of_decoding_are_ignored(setting: dict[str, Any], temperature: float) -> None:
    model = AutoModelForCausalLM.from_config(FAMILIES["state space"]()).eval()
    decoding = Decoding(12, (), temperature=temperature)
    expected = engine_for(model).generate(PROMPTS, decoding).responses
    model.generation_config = GenerationConfig(**setting)
    assert engine_for(model).generate(PROMPTS, decoding).responses == expected
    assert model.generation_config.to_diff_dict().items() >= setting.items()


def test_the_cache_is_measured_in_every_family() -> None:
    keys_and_values = 2 * 4 * 8 * 4  # two of 4 heads of 8 float32 numbers
    assert cache_bytes(model_of("learned positions")) == (0, 2 * keys_and_values)
    assert cache_bytes(model_of("distances instead of positions")) == (0, 2 * keys_and_values)
    assert cache_bytes(model_of("attention in every other layer"))[1] == keys_and_values // 2  # half as many key heads
    state, token = cache_bytes(model_of("state space"))
    assert token == 0
    assert state == 2 * 64 * (8 + 4) * 4  # layers × width × (state + convolution) × bytes
    assert all(fitting_rows(model_of(family), 100) == 64 for family in FAMILIES)


def test_a_state_space_model_goes_through_all_stages(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    ends: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for seed, name in enumerate(("expert", "amateur")):
        torch.manual_seed(seed)
        config = MambaConfig(**SMALL | ends | {"vocab_size": len(tokenizer)}, state_size=8)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    expert, out = str(tmp_path / "expert"), tmp_path / "run"
    machine: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    sampling = {"dataset": "arithmetic", "max_questions": 3, "max_new_tokens": 8, "divergence_beta": 0.01}
    assert sample(SampleConfig(expert=expert, amateur=str(tmp_path / "amateur"), out=out, **sampling, **machine))
    tuned = finetune(FinetuneConfig(model=expert, data=out, out=out, steps=2, lora_targets=("in_proj",), **machine))
    assert tuned["labels_trained"] == 32
    assert merge(MergeConfig(model=expert, adapter=out, out=out / "merged", device="cpu"))["mean_kl"] < 1e-6
    answers = {"benchmarks": ["arithmetic"], "max_items": 2, "max_answer_tokens": 8, "out": out / "after", **machine}
    assert evaluate(EvaluateConfig.checked({"model": str(out / "merged"), **answers}))["chat/arithmetic"]["total"] == 2
