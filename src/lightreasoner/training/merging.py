"""Stage 3: merge base + adapter into a folder that `from_pretrained` loads, and compare the two on disk."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner import contrast
from lightreasoner.config import DEFAULT_CUE, MergeConfig
from lightreasoner.errors import DataError, MergeMismatch, ModelError
from lightreasoner.models.loading import ModelSource, find_model, load_model, load_tokenizer, weights_dtype
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.environment import now
from lightreasoner.runs.files import file_hash, new_folder, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.stage import read_stage
from lightreasoner.training.finetuning import ADAPTER, check_adapter
from lightreasoner.training.model_card import Tuned, model_card, tuned

RESULT = "lightreasoner.json"  # within the merged folder
WEIGHTS = "adapter_model.safetensors"
PROBE_QUESTIONS = (
    "A farm keeps 12 hens. 7 are born. How many hens are there?",
    "What is the sum of the first ten odd numbers?",
)
# Largest mean KL(base + adapter ‖ merged model read back), nats. In float32 the two do the same arithmetic in another
# order; in 16 bits every weight is rounded once, which needs the larger figure.
LARGEST_KL = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def merge(config: MergeConfig) -> dict[str, Any]:
    """Stage 3: merge base and adapter into a plain model folder, then read it back and check it.

    Raises:
        DataError: there is no adapter, or the output folder holds something else.
        RunCorrupted: a file of the adapter is not the one that fine-tuning wrote.
        ModelError: the adapter does not fit the base.
        MergeMismatch: the model on disk does not compute what base + adapter computes.
    """
    source = find_model(config.model, config.model_revision)
    adapter, training = _find_adapter(config.adapter)
    if training and training.expert_sha256 != source.fingerprint():
        raise ModelError(
            f"the adapter was trained on {training.settings.model}, which is not {config.model} (their files differ); "
            "an adapter fits its own base only"
        )
    dtype_name = weights_dtype(source) if config.merge_dtype == "auto" else config.merge_dtype
    request = {
        "base": config.model,
        "base_sha256": source.fingerprint(),
        "adapter_sha256": file_hash(adapter / WEIGHTS),
        "dtype": dtype_name,
    }
    with locked(config.out.parent):
        if config.out.exists():
            return _earlier_merge(config.out, request)
        tokenizer = load_tokenizer(source, config)
        # Merged in float32 whatever the target: adding a small update to 16-bit weights would lose most of it.
        in_float32 = config.model_copy(update={"dtype": "float32"})
        base = load_model(source, in_float32)
        with_adapter = _load_adapter(base, adapter, config)
        expected = _log_probabilities(with_adapter, tokenizer)
        merged: PreTrainedModel = with_adapter.merge_and_unload()
        merged.to(getattr(torch, dtype_name))
        _set_stop_tokens(merged, tokenizer)
        with new_folder(config.out, sum(parameter.nbytes for parameter in merged.parameters())) as folder:
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            reloaded = load_model(ModelSource(str(folder), folder), in_float32)
            difference = _small_difference(expected, _log_probabilities(reloaded, tokenizer), dtype_name, config.out)
            result = {**request, **difference, "created": now()}
            (folder / "README.md").write_text(model_card(config, result, training), encoding="utf-8")
            write_json(folder / RESULT, result)
        return result


def _find_adapter(path: Path) -> tuple[Path, Tuned | None]:
    """The adapter's folder, and how it was trained if it is in a run folder."""
    is_in_run = path.name == ADAPTER and (path.parent / "manifest.json").is_file()
    run = path.parent if is_in_run else path / "finetune"
    folder = run / ADAPTER if run.is_dir() else path
    if not (folder / WEIGHTS).is_file():
        raise DataError(f"no {WEIGHTS} in {folder}; finish `lightr finetune` first, or check the path")
    if not run.is_dir():
        return folder, None
    _, stage = read_stage(run)
    assert stage.result is not None
    check_adapter(folder, stage.result)
    return folder, tuned(stage)


def _load_adapter(base: PreTrainedModel, adapter: Path, config: MergeConfig) -> PeftModel:
    """Base + adapter. PEFT only warns about missing weights and fills in fresh ones; here this is an error."""
    with_adapter = PeftModel.from_pretrained(base, adapter, torch_device="cpu")  # and from there to the base's device
    with safe_open(adapter / WEIGHTS, framework="pt") as file:
        found = set(file.keys())
    # Otherwise PEFT asks the Hub for the base, to look for changed embeddings.
    wanted = set(get_peft_model_state_dict(with_adapter, save_embedding_layers=False))
    if found != wanted:
        raise ModelError(
            f"the adapter in {adapter} does not fit {config.model}: {len(wanted - found)} weights are missing and "
            f"{len(found - wanted)} are unknown ({', '.join(sorted(found ^ wanted)[:2])}); "
            "use the base it was made for"
        )
    return with_adapter


def _earlier_merge(out: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads((out / RESULT).read_text())
    except (OSError, ValueError):
        found = {}
    differing = [name for name in request if found.get(name) != request[name]]
    if differing:
        raise DataError(
            f"{out} exists and is not this merge ({', '.join(differing)} differ); it is left alone. Give another --out"
        )
    return dict(found)


@torch.inference_mode()
def _log_probabilities(model: Any, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Log π of every token after every prefix of the probes, [T, V]."""
    template, vocabulary = PromptTemplate(tokenizer, DEFAULT_CUE), vocabulary_of(tokenizer, logit_width(model))
    prompts = [torch.tensor([template.encode(question)], device=model.device) for question in PROBE_QUESTIONS]
    return torch.cat([vocabulary.log_softmax(model(ids).logits[0]) for ids in prompts])


def _small_difference(expected: Tensor, found: Tensor, dtype_name: str, out: Path) -> dict[str, float]:
    """How much the merged model differs from base + adapter; raises `MergeMismatch` where it is too much."""
    mean_kl = contrast.kl_divergence(expected, found).clamp(min=0).mean().item()
    largest = LARGEST_KL[getattr(torch, dtype_name)]
    if not mean_kl <= largest:  # NaN too
        raise MergeMismatch(
            f"the merged model is not base + adapter: mean KL {mean_kl:.3g} nats on {len(PROBE_QUESTIONS)} probes, "
            f"allowed {largest:.0e} for {dtype_name}. It was removed, and {out} was not made; "
            "merging in float32 shows whether the precision is at fault"
        )
    return {"mean_kl": mean_kl, "top1_agreement": (expected.argmax(-1) == found.argmax(-1)).float().mean().item()}


def _set_stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the merged model stop where its training data stopped: at the chat template's end of turn too."""
    settings = model.generation_config
    assert settings is not None
    settings.eos_token_id = list(PromptTemplate(tokenizer, DEFAULT_CUE).stop_ids(settings))
    settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else settings.eos_token_id[0]
