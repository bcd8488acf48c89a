"""Stage 3: base + adapter → a plain folder that `from_pretrained` loads, its logits compared with base + adapter."""

import json
import shutil
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
from lightreasoner.errors import DataError, MergeMismatch, ModelError, RunCorrupted
from lightreasoner.models.loading import ModelSource, find_model, load_model, load_tokenizer, pick_device, weights_dtype
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.environment import now
from lightreasoner.runs.faults import reach
from lightreasoner.runs.files import file_hash, publish_folder, room_for, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.records import ADAPTER_FILES
from lightreasoner.runs.stage import read_stage
from lightreasoner.training.model_card import Tuned, model_card, tuned

MODEL_CARD_BYTES = 10_000  # of the card and the result, at most
RESULT = "lightreasoner.json"  # within the merged folder

PROBE_QUESTIONS = (
    "A farm keeps 12 hens. 7 are born. How many hens are there?",
    "What is the sum of the first ten odd numbers?",
)
# Largest mean KL(base + adapter ‖ merged model read back), nats. In float32 the two do the same arithmetic in another
# order; in 16 bits every weight is rounded once, which is what the larger figure allows for.
LARGEST_KL = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def merge(config: MergeConfig) -> dict[str, Any]:
    """Merge, save, read back and compare. The folder gets its name only after the comparison.

    Raises:
        DataError: there is no adapter, or the output folder holds something else.
        RunCorrupted: the adapter's file is not the one that fine-tuning wrote.
        MergeMismatch: the model on disk does not compute what base + adapter computes.
    """
    source = find_model(config.model, config.model_revision)
    adapter, training = find_adapter(config.adapter)
    _check_base(source, config, training)
    dtype_name = weights_dtype(source) if config.merge_dtype == "auto" else config.merge_dtype
    request = {
        "base": config.model,
        "base_sha256": source.fingerprint(),
        "adapter_sha256": file_hash(adapter / "adapter_model.safetensors"),
        "dtype": dtype_name,
    }
    with locked(config.out.parent):
        if config.out.exists():
            return _earlier_merge(config.out, request)
        tokenizer = load_tokenizer(source, config)
        # Merged in float32 whatever the target: adding a small update to 16-bit weights would lose most of it.
        base = load_model(source, config.machine(dtype="float32"))
        with_adapter = _load_adapter(base, adapter, config)
        probes = _probe_ids(tokenizer)
        expected = [_log_probabilities(with_adapter, tokenizer, ids) for ids in probes]
        merged: PreTrainedModel = with_adapter.merge_and_unload()
        _set_stop_tokens(merged, tokenizer)
        temporary = config.out.with_name(f".{config.out.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of a merge that died
        dtype = getattr(torch, dtype_name)
        merged.to(dtype)
        size = sum(parameter.nbytes for parameter in merged.parameters())
        with room_for(config.out, size, temporary):
            merged.save_pretrained(temporary)
            reach("in-merge")
            tokenizer.save_pretrained(temporary)
        reloaded = load_model(ModelSource(str(temporary), temporary), config.machine(dtype="float32"))
        difference = _difference(expected, [_log_probabilities(reloaded, tokenizer, ids) for ids in probes])
        if not difference["mean_kl"] <= LARGEST_KL[dtype]:
            raise MergeMismatch(
                f"the merged model in {temporary} is not base + adapter: mean KL {difference['mean_kl']:.3g} nats on "
                f"{len(probes)} probes, allowed {LARGEST_KL[dtype]:.0e} for {dtype_name}. It was not given its name "
                f"({config.out}); merging in float32 shows whether the precision is at fault"
            )
        result = {**request, **difference, "created": now()}
        with room_for(config.out, MODEL_CARD_BYTES, temporary):
            (temporary / "README.md").write_text(model_card(config, result, training), encoding="utf-8")
            write_json(temporary / RESULT, result)
            reach("before-merge-name")
            publish_folder(temporary, config.out)
        return result


def find_adapter(path: Path) -> tuple[Path, Tuned | None]:
    """The adapter's folder, and how it was trained if a run folder was given.

    Raises:
        DataError: there is no adapter.
        RunCorrupted: fine-tuning is not finished, or its file is not the one that it wrote.
    """
    is_in_run = path.name == "adapter" and (path.parent / "manifest.json").is_file()
    run = path.parent if is_in_run else path / "finetune"
    folder = run / "adapter" if run.is_dir() else path
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        raise DataError(f"no adapter_model.safetensors in {folder}; finish `lightr finetune` first, or check the path")
    if not run.is_dir():
        return folder, None
    _, stage = read_stage(run)
    assert stage.result is not None
    for name, file in ADAPTER_FILES.items():
        if name in stage.result and file_hash(folder / file) != stage.result[name]:
            raise RunCorrupted(
                f"{folder / file} is not the file that fine-tuning recorded; merging it would give some other model. "
                f"Remove {run} and fine-tune again"
            )
    return folder, tuned(stage)


def _load_adapter(base: PreTrainedModel, adapter: Path, config: MergeConfig) -> PeftModel:
    """Base + adapter. PEFT fills weights that a file lacks with fresh ones and only warns; here that is an error."""
    with_adapter = PeftModel.from_pretrained(base, adapter, torch_device=str(pick_device(config.device)))
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        found = set(file.keys())
    # Told not to look for changed embeddings, which it would do by asking the Hub for the base.
    wanted = set(get_peft_model_state_dict(with_adapter, save_embedding_layers=False))
    if found != wanted:
        raise ModelError(
            f"the adapter in {adapter} does not fit {config.model}: {len(wanted - found)} weights are missing and "
            f"{len(found - wanted)} have no place ({', '.join(sorted(found ^ wanted)[:2])}); "
            "use the base it was made for"
        )
    return with_adapter


def _check_base(source: ModelSource, config: MergeConfig, training: Tuned | None) -> None:
    if training and training.expert_sha256 != source.fingerprint():
        raise ModelError(
            f"the adapter was trained on {training.settings.model}, which is not {config.model} (their files differ); "
            "an adapter fits its own base only"
        )


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


def _probe_ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    template = PromptTemplate(tokenizer, DEFAULT_CUE)
    return [template.encode(question) for question in PROBE_QUESTIONS]


@torch.inference_mode()
def _log_probabilities(model: Any, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> Tensor:
    vocabulary = vocabulary_of(tokenizer, logit_width(model))
    return vocabulary.log_softmax(model(torch.tensor([ids], device=model.device)).logits[0])


def _difference(expected: list[Tensor], found: list[Tensor]) -> dict[str, float]:
    before, after = torch.cat(expected), torch.cat(found)
    return {
        "mean_kl": contrast.kl_divergence(before, after).clamp(min=0).mean().item(),
        "top1_agreement": (before.argmax(-1) == after.argmax(-1)).float().mean().item(),
    }


def _set_stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the merged model stop where its training data stopped: at the chat template's end of turn too."""
    settings = model.generation_config
    assert settings is not None
    settings.eos_token_id = list(PromptTemplate(tokenizer, DEFAULT_CUE).stop_ids(settings))
    settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else settings.eos_token_id[0]
