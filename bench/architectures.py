"""Every causal language model that transformers knows, small and random, against a pass over each text alone.

    python bench/architectures.py [TYPE …]

For each `model_type`: greedy decoding of a batch (the token must be the most probable one after the text so far),
scores of a batch, and the gradients of all weights through the layout of tuning. One line each; FAIL is a wrong result,
`error` one of transformers with these generic sizes, `not built` a configuration that they do not fit. Exit status 1
if a result is wrong.
"""

import argparse
import dataclasses
import logging
import sys
import warnings
from collections import Counter
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from lightreasoner.errors import ModelError
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.packing import attention_by, lay_out, packs
from lightreasoner.inference.padded_engine import ignores_padding
from lightreasoner.inference.scoring import head_rows, response_states
from lightreasoner.training.batches import pad_texts

WIDTH = 96
LARGEST = 60e6  # weights; larger ones ignore the sizes below
SCALE = 0.2  # standard deviation of the random weights: distributions with a clear favourite
TOLERANCE = 1e-3
# Every name under which some configuration has a size. Windows and chunks are shorter than the texts.
SIZES: dict[str, Any] = {
    **dict.fromkeys("hidden_size n_embd d_model embedding_size attention_hidden_size word_embed_proj_dim".split(), 32),
    **dict.fromkeys("num_hidden_layers n_layer n_layers".split(), 4),
    **dict.fromkeys("decoder_layers encoder_layers num_key_value_heads num_attention_groups".split(), 2),
    **dict.fromkeys("num_attention_heads n_head n_heads decoder_attention_heads encoder_attention_heads".split(), 4),
    **dict.fromkeys("intermediate_size n_inner ffn_dim hidden_dim decoder_ffn_dim encoder_ffn_dim".split(), 64),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts linear_num_value_heads".split(), 4),
    **dict.fromkeys("num_experts_per_tok mamba_expand linear_num_key_heads num_global_key_value_heads".split(), 2),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size".split(), 32),
    **dict.fromkeys("n_shared_experts n_group topk_group first_k_dense_replace mamba_n_groups".split(), 1),
    **dict.fromkeys("q_lora_rank kv_lora_rank".split(), 16),
    **dict.fromkeys("head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim rotary_dim global_head_dim".split(), 8),
    **dict.fromkeys("state_size mamba_d_state mamba_n_heads mamba_d_head mamba_num_heads mamba_head_dim".split(), 8),
    **dict.fromkeys("linear_key_head_dim linear_value_head_dim hidden_size_per_layer_input".split(), 8),
    **dict.fromkeys("sliding_window attention_chunk_size".split(), 8),
    **dict.fromkeys("vocab_size vocab_size_per_layer_input".split(), WIDTH),
    **dict.fromkeys("max_position_embeddings n_positions".split(), 256),
    **dict.fromkeys("bos_token_id eos_token_id pad_token_id".split()),
    "mamba_d_ssm": 64,
    # What happens to logits, away from values that change nothing.
    **dict.fromkeys("logit_scale lm_head_multiplier".split(), 0.5),
    **dict.fromkeys("final_logit_softcapping logits_soft_cap".split(), 5.0),
    "logits_scaling": 2.0,
    "attn_layer_indices": [1, 3],
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
}
# What a type needs besides, or the kinds of layers that its published models have.
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
CONVOLUTION = {"layer_types": ["conv", "full_attention"] * 2}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 2}
OF_TYPE: dict[str, dict[str, Any]] = {
    **dict.fromkeys("bailing_hybrid kimi_linear qwen3_next qwen3_5_text".split(), LINEAR),
    **dict.fromkeys("lfm2 lfm2_moe".split(), CONVOLUTION),
    **dict.fromkeys("cohere2 exaone4 gpt_oss".split(), SLIDING),
    "cwm": {"bos_token_id": 0, "eos_token_id": [1]},
    "gemma3n_text": {**SLIDING, "num_kv_shared_layers": 0},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "llama4_text": {"layer_types": ["chunked_attention", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
    # With a window, `generate` and a pass without a cache differ in transformers.
    "minimax": {**LINEAR, "sliding_window": None},
    "modernbert-decoder": dict.fromkeys("pad_token_id bos_token_id eos_token_id cls_token_id sep_token_id".split(), 0),
    "moshi": {"sliding_window": 256},
    "mpt": {"logit_scale": None},  # transformers ignores it
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe", "mamba"]},
}
PROMPTS = [[9, 8, 7, 1, 12, 33], [9, 8, 7], [9, 8, 2, 3, 4, 5, 6, 30, 31, 32, 40, *range(41, 60)]]
RESPONSES = [[10, 11, 12, 13] * 5, [3, 4, 5], [7]]


def configuration(kind: str, **other: Any) -> PreTrainedConfig:
    """A small configuration of this type."""
    made = CONFIG_MAPPING[kind]
    renamed = dict(made.attribute_map or {})
    known = {field.name for field in dataclasses.fields(made)} | renamed.keys()
    sizes = {name: value for name, value in (SIZES | OF_TYPE.get(kind, {}) | other).items() if name in known}
    return made(**{name: value for name, value in sizes.items() if renamed.get(name) not in sizes})


def small_model(kind: str) -> PreTrainedModel:
    """A model of this type with random weights."""
    for other in ({}, {"num_key_value_heads": 4}):  # latent attention has no fewer key heads
        config = configuration(kind, **other)
        with torch.device("meta"):
            size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
        if size > LARGEST:
            raise ValueError(f"{size / 1e6:,.0f} M weights")
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config).float().eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.copy_(torch.randn(weight.shape, generator=generator) * SCALE)
        try:
            with torch.inference_mode():
                alone(model, PROMPTS[0], RESPONSES[0])
            break
        except RuntimeError:
            if other:
                raise
    return model


def alone(model: Any, prompt: list[int], response: list[int]) -> Tensor:
    """Logits before each token of the response, from a pass over this text alone."""
    logits: Tensor = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits
    return logits[0, len(prompt) - 1 : -1].float()


@torch.inference_mode()
def of_decoding(model: Any) -> float:
    """How far a decoded token is behind the most probable one, at most."""
    worst = 0.0
    responses = engine_for(model).generate(PROMPTS, Decoding(24, ())).responses
    for prompt, response in zip(PROMPTS, responses, strict=True):
        logits = alone(model, prompt, response)
        taken = logits.gather(1, torch.tensor(response)[:, None])[:, 0]
        worst = max(worst, float((logits.amax(1) - taken).max()))
    return worst


@torch.inference_mode()
def of_scoring(model: Any) -> float:
    """Largest difference of a logit."""
    expected = torch.cat([alone(model, *text) for text in zip(PROMPTS, RESPONSES, strict=True)])
    found = response_states(model, PROMPTS, RESPONSES).logits(slice(None)).float()
    return float((found - expected).abs().max())


def of_gradients(model: Any) -> float:
    """Largest difference of a weight's gradient, relative to its norm; weights with hardly any count little."""
    texts = [prompt + response for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    layout = lay_out(texts, torch.device("cpu")) if packs(model) else None
    lengths = torch.tensor([len(response) for response in RESPONSES])
    text_of = torch.arange(len(texts)).repeat_interleave(lengths)
    starts = [len(prompt) - 1 for prompt in PROMPTS]
    places = torch.cat([start + torch.arange(length) for start, length in zip(starts, lengths.tolist(), strict=True)])
    rows = layout.rows(text_of, places) if layout else text_of * max(map(len, texts)) + places
    inputs = layout.inputs if layout else pad_texts(texts)
    weights = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(2))

    def gradients(logits: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        (logits.float() * weights).sum().backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    expected = gradients(torch.cat([alone(model, *text) for text in zip(PROMPTS, RESPONSES, strict=True)]))
    attending = attention_by(model, layout.attend) if layout else nullcontext()
    with head_rows(model.get_output_embeddings(), rows), attending:
        found = gradients(model(**inputs, use_cache=False).logits[0])
    largest = max(float(gradient.norm()) for gradient in expected.values())
    return max(
        float((found.get(name, torch.zeros_like(gradient)) - gradient).norm() / (1e-4 * largest + gradient.norm()))
        for name, gradient in expected.items()
    )


def line(kind: str) -> str:
    """What was found about one type."""
    torch.manual_seed(0)
    try:
        model = small_model(kind)
    except Exception as error:  # whatever a configuration of generic sizes brings about
        return f"{kind}: not built: {type(error).__name__} {' '.join(str(error).split())[:100]}"
    texts = []
    try:
        texts.append("packed" if packs(model) else "padded" if ignores_padding(model) else "by length")
    except ModelError as error:
        return f"{kind}: refused: {error}"
    except Exception as error:
        return f"{kind}: error {type(error).__name__} {' '.join(str(error).split())[:100]}"
    for what, measure in (("decoding", of_decoding), ("scores", of_scoring), ("gradients", of_gradients)):
        try:
            off = measure(model)
            texts.append(f"{what} {off:.0e}" if off <= TOLERANCE else f"{what} FAIL {off:.1e}")
        except ModelError as error:
            texts.append(f"{what} refused: {error}")
        except Exception as error:
            texts.append(f"{what} error {type(error).__name__} {' '.join(str(error).split())[:100]}")
    return f"{kind}: {', '.join(texts)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="default: all")
    kinds = parser.parse_args().types or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    counts = Counter[str]()
    for kind in kinds:
        found = line(kind)
        counts[next((word for word in ("not built", "FAIL", "error", "refused") if word in found), "right")] += 1
        print(found, flush=True)
    print(dict(counts))
    return int(counts["FAIL"] > 0)


if __name__ == "__main__":
    sys.exit(main())
