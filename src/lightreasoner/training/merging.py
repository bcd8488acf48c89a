"""Stage 3: merge base + adapter into a folder that `from_pretrained` loads, and compare the two on disk."""

import gc
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner import contrast
from lightreasoner.config import MergeConfig
from lightreasoner.config.base import shareable_name
from lightreasoner.config.sections import DEFAULT_CUE
from lightreasoner.errors import MergeMismatch, ModelError, RunMismatch
from lightreasoner.models.adapters import (
    ADAPTER_WEIGHTS,
    check_adapter,
    find_adapter,
    load_adapter,
    refuse_other_base,
    warn_of_other_base,
    without_warnings,
)
from lightreasoner.models.generation_config import agreeing, generation_settings
from lightreasoner.models.loading import empty_model, load_model, load_tokenizer, weights_dtype
from lightreasoner.models.prompts import PromptTemplate, Stops, read_template
from lightreasoner.models.quantising import check_4bit, load_in_4bit
from lightreasoner.models.source import ModelSource, content_hash, find_model, is_on_hub
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.models.weights import weights_in_files
from lightreasoner.runs.differences import differences
from lightreasoner.runs.environment import now
from lightreasoner.runs.files import file_hash, new_folder, write_json
from lightreasoner.runs.locks import locked, one_thread
from lightreasoner.runs.progress import busy, say, warn
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Made
from lightreasoner.training.model_card import Model, Tuned, model_card, tuned
from lightreasoner.training.precision import in_float32, merge_parts

RESULT = "lightreasoner.json"  # within the merged folder
CONFIG = "adapter_config.json"
PROBE_QUESTIONS = (
    "A farm keeps 12 hens. 7 are born. How many hens are there?",
    "What is the sum of the first ten odd numbers?",
)
ROWS = 8  # of distributions over the vocabulary that are computed at a time
# Largest mean KL(base + adapter ‖ merged model), nats. In float32 the two do the same arithmetic in another order: a
# thousandth of the adapter's own effect is allowed, within these bounds.
SMALLEST_IN_FLOAT32, LARGEST_IN_FLOAT32 = 1e-8, 1e-6
# With every weight rounded once to 16 bits; checked after the merge in float32.
LARGEST_ROUNDED = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


@busy("merging")
@one_thread
def merge(config: MergeConfig) -> dict[str, Any]:
    """Stage 3: merge base and adapter into a plain model folder, then read it back and check it.

    Needs memory for the weights once: as in the files of base and merged model if these hold one 16-bit precision and
    the adapter is LoRA alone; otherwise in float32.

    Raises:
        DataError: there is no adapter.
        RunMismatch: the output folder holds something else.
        RunCorrupted: a file of the adapter is not the one that fine-tuning wrote.
        ModelError: the adapter does not fit the base.
        MergeMismatch: the model on disk does not compute what base + adapter computes.
    """
    source = find_model(config.model, config.model_revision)
    adapter, training = _find_adapter(config.adapter)
    if training is None:
        warn_of_other_base(adapter, config.model)
    files = source.files()
    if training:
        refuse_other_base(training.expert_files, training.settings.model, config.model, files)
    tokenizer = load_tokenizer(source, config)
    dtype_name = check_saving(config, source, tokenizer)
    request = {
        "base": config.model,
        "base_sha256": content_hash(files),
        "base_files": {**files, **_copied_files(source)},
        "adapter_sha256": file_hash(adapter / ADAPTER_WEIGHTS),
        "adapter_config_sha256": file_hash(adapter / CONFIG) if (adapter / CONFIG).is_file() else None,
        "dtype": dtype_name,
    }
    if config.chat_template is not None:
        tokenizer.chat_template = read_template(config.chat_template)
        request["chat_template_sha256"] = file_hash(config.chat_template)
    elif training:
        _warn_of_other_template(training.samples, tokenizer, config)
    with locked(config.out.parent):
        if config.out.exists():
            return _earlier_merge(config.out, request)
        started = time.perf_counter()
        merged, figures = _merged(config, source, adapter, tokenizer, getattr(torch, dtype_name))
        _set_generation(merged, tokenizer, source)
        with new_folder(config.out, sum(parameter.nbytes for parameter in merged.parameters())) as folder:
            with _saving(config.model):
                merged.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
            del merged
            gc.collect()  # two models at once might not fit
            logs, found = _read_back(config, folder, tokenizer, figures)
            if training and training.settings.load_in_4bit:
                found |= _quantised_difference(config, source, adapter, tokenizer, training, logs)
            del logs
            seconds = round(time.perf_counter() - started, 1)
            result = {**request, **found, "created": now(), "seconds": seconds}
            card = model_card(_described(config, result, training))
            (folder / "README.md").write_text(card, encoding="utf-8")
            write_json(folder / RESULT, result)
        return result


def _described(config: MergeConfig, result: Mapping[str, Any], training: Tuned | None) -> Model:
    """The merged model, for its card."""
    base = shareable_name(config.model)
    title = f"{config.out.resolve().parent.name}/{config.out.name}"
    of_hub = config.model if is_on_hub(config.model) else None
    return Model(title, base, training.shareable() if training else None, result, of_hub)


def _find_adapter(path: Path) -> tuple[Path, Tuned | None]:
    """The adapter's folder, and how it was trained if it is in a run folder."""
    folder, run = find_adapter(path)
    if run is None:
        return folder, None
    _, stage = read_stage(run)
    assert stage.result is not None
    check_adapter(folder, stage.result)
    return folder, tuned(stage)


class Figures(NamedTuple):
    """What base + adapter and the merged model compute.

    Attributes:
        dtype: precision on disk.
        effect: mean KL(base + adapter ‖ base), nats.
        expected: log π of base + adapter, [T, V].
        rounded: log π of the merged model with its weights rounded to `dtype`, [T, V].
    """

    dtype: torch.dtype
    effect: float
    expected: Tensor
    rounded: Tensor


def check_saving(config: MergeConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> str:
    """Check before the work that a model like the base can be saved.

    Returns:
        The precision of the merged weights on disk.

    Raises:
        ModelError: nothing can be merged in the base's precision, or transformers refuses to save its settings.
    """
    name = weights_dtype(source) if config.merge_dtype == "auto" else config.merge_dtype
    if name not in {str(dtype).removeprefix("torch.") for dtype in LARGEST_ROUNDED}:
        raise ModelError(
            f"the weights of {config.model} are {name}, in which nothing can be merged; "
            "give --merge-dtype float32, bfloat16 or float16"
        )
    with _saving(config.model), tempfile.TemporaryDirectory() as trial:
        empty_model(source, config).config.save_pretrained(trial)
        tokenizer.save_pretrained(trial)
    return name


@contextmanager
def _saving(model: str) -> Iterator[None]:
    """Name the model in what transformers refuses to save."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        line = " ".join(str(error).split())
        raise ModelError(f"a model with the settings of {model} cannot be saved: {line}") from error


def _merged(
    config: MergeConfig,
    source: ModelSource,
    adapter: Path,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
) -> tuple[PreTrainedModel, Figures]:
    """The merged model in the precision of the disk, and what it computes.

    Merged and compared in float32 whatever the target: adding a small update to 16-bit weights would lose most of it,
    and their rounding would hide a wrong merge.

    Raises:
        MergeMismatch: the merged model does not compute what base + adapter computes.
    """
    base = load_model(source, config.model_copy(update={"dtype": _exact_dtype(source, adapter)}))
    untouched = _log_probabilities(base, tokenizer)
    with_adapter = load_adapter(base, adapter, config.model)
    try:
        expected = _log_probabilities(with_adapter, tokenizer)
        in_full = _log_probabilities(with_adapter, tokenizer, merged=True)
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:  # of PEFT's rarer kinds
        line = str(error).strip().partition("\n")[0]
        raise ModelError(f"the adapter in {adapter} cannot be merged into {config.model}: {line}") from error
    effect = _mean_kl(expected, untouched)
    del untouched
    if not effect:
        warn(f"the adapter in {adapter} changes nothing; its training had no effect, or another one was meant")
    _refuse_difference(
        _mean_kl(expected, in_full),
        min(max(effect / 1000, SMALLEST_IN_FLOAT32), LARGEST_IN_FLOAT32),
        f"merged in float32, where the adapter itself changes {effect:.3g} nats. {_tied_reason(base)}",
    )
    del in_full
    with without_warnings():
        merge_parts(with_adapter, dtype)
        merged: PreTrainedModel = with_adapter.merge_and_unload()
    if merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.get_text_config().tie_word_embeddings = False  # an adapter can hold a head of its own
    return merged, Figures(dtype, effect, expected, _log_probabilities(merged, tokenizer))


def _tied_reason(model: PreTrainedModel) -> str:
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        return "The adapter does not belong to this base, or PEFT cannot merge its kind"
    return (
        "Embeddings and head of the base are one matrix: an adapter on one of them, merged, changes both. "
        "Fine-tune with other --lora-targets"
    )


def _exact_dtype(source: ModelSource, adapter: Path) -> str:
    """The narrowest precision in memory that changes no weight of the base, nor of those that the adapter brings."""
    if source.gguf_file:
        return "float32"
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
            is_lora = all("lora_" in key for key in file.keys())  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError):  # `load_adapter` says more
        is_lora = False
    found = {weight.dtype for weight in weights_in_files(source.name, source.folder).values()}
    return next((name for name in ("bfloat16", "float16") if is_lora and found == {getattr(torch, name)}), "float32")


def _warn_of_other_template(made: Made, tokenizer: PreTrainedTokenizerBase, config: MergeConfig) -> None:
    """Warn if the samples were made with another chat template than the base's, which the merged model would have."""
    own = PromptTemplate(tokenizer, made.cue).identity(Stops((), ()))
    names = ("behind_answer",) if own["dates"] else ("prompt_text", "behind_answer")  # a date is another every day
    if any(made.asked.get(name, own[name]) != own[name] for name in names):
        warn(
            f"the samples were made with another chat template than that of {config.model}, which the merged model "
            "gets; --chat-template FILE gives it the one of the samples"
        )


def _earlier_merge(out: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = json.loads((out / RESULT).read_text())
    except (OSError, ValueError):
        found = {}
    if differing := differences({name: found.get(name) for name in request}, request):
        raise RunMismatch(
            f"{out} exists and is not this merge ({'; '.join(differing)}); it is left alone. Give another --out"
        )
    return dict(found)


def _copied_files(source: ModelSource) -> dict[str, str]:
    """Hash of each file of the base that goes into the merged folder as it is: stop tokens and chat templates."""
    names = (
        "generation_config.json",
        "*.jinja",
        "chat_templates/*.jinja",
        "chat_template.json",
        "tokenizer_config.json",
    )
    return {path.name: file_hash(path) for name in names for path in sorted(source.folder.glob(name))}


@torch.no_grad()
def _log_probabilities(model: Any, tokenizer: PreTrainedTokenizerBase, *, merged: bool = False) -> Tensor:
    """Log π of every token after every prefix of the probes, [T, V], in float32 on the CPU."""
    template, vocabulary = PromptTemplate(tokenizer, DEFAULT_CUE), vocabulary_of(tokenizer, logit_width(model))
    prompts = [torch.tensor([template.encode(question)], device=model.device) for question in PROBE_QUESTIONS]
    with in_float32(model, merged=merged):
        logits = (rows for ids in prompts for rows in model(ids).logits[0].split(ROWS))
        return torch.cat([vocabulary.log_softmax(rows).cpu() for rows in logits])


def _mean_kl(expected: Tensor, found: Tensor) -> float:
    """Mean KL(expected ‖ found), nats, of log π in float32, [T, V]; a few rows at a time in float64."""
    rows = zip(expected.split(ROWS), found.split(ROWS), strict=True)
    # Normalised again: the sum of a float32 row is 1 to some 1e-7, which would add to a divergence of this size.
    pairs = ([some.double().log_softmax(-1) for some in pair] for pair in rows)
    return torch.cat([contrast.kl_divergence(*pair) for pair in pairs]).clamp(min=0).mean().item()


def _refuse_difference(mean_kl: float, largest: float, where: str) -> None:
    if not mean_kl <= largest:  # NaN too
        raise MergeMismatch(
            f"the merged model is not base + adapter: mean KL {mean_kl:.3g} nats on {len(PROBE_QUESTIONS)} probes, "
            f"allowed {largest:.0e}, {where}. Nothing was made"
        )


def _read_back(
    config: MergeConfig, folder: Path, tokenizer: PreTrainedTokenizerBase, figures: Figures
) -> tuple[Tensor, dict[str, float]]:
    """Compare the folder with the model that was saved, and with base + adapter.

    Returns:
        Log π of the model on disk, [T, V], and the figures of the comparison.

    Raises:
        MergeMismatch: it computes something else, or rounding changes it too much.
    """
    name = str(figures.dtype).removeprefix("torch.")
    as_saved = config.model_copy(update={"dtype": name})
    found = _log_probabilities(load_model(ModelSource(str(config.out), folder), as_saved), tokenizer)
    _refuse_difference(_mean_kl(figures.rounded, found), SMALLEST_IN_FLOAT32, "read back from disk")
    mean_kl = _mean_kl(figures.expected, found)
    _refuse_difference(mean_kl, LARGEST_ROUNDED[figures.dtype], f"rounded to {name}; use --merge-dtype float32")
    if mean_kl > figures.effect / 10:
        warn(
            f"rounding to {name} changes the model by {mean_kl:.2g} nats, and the adapter by "
            f"{figures.effect:.2g}; --merge-dtype float32 keeps what was trained"
        )
    agreement = (figures.expected.argmax(-1) == found.argmax(-1)).double().mean().item()
    return found, {"mean_kl": mean_kl, "top1_agreement": agreement, "adapter_kl": figures.effect}


def _quantised_difference(
    config: MergeConfig,
    source: ModelSource,
    adapter: Path,
    tokenizer: PreTrainedTokenizerBase,
    training: Tuned,
    merged: Tensor,
) -> dict[str, float]:
    """How far the merged model is from what was tuned: the base in 4 bits + adapter. Empty where that cannot run."""
    gc.collect()
    machine = config.model_copy(update={"dtype": training.dtype})
    try:
        check_4bit(machine)
    except ModelError as error:
        say(f"the merged model was not compared with the 4-bit one that was tuned: {error}")
        return {}
    with_adapter = load_adapter(load_in_4bit(source, machine), adapter, config.model)
    return {"quantised_kl": _mean_kl(_log_probabilities(with_adapter, tokenizer), merged)}


def _set_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: ModelSource) -> None:
    """Settings that can be saved, and stop tokens where the training data stopped: at the end of a turn too."""
    assert model.generation_config is not None
    stops = list(PromptTemplate(tokenizer, DEFAULT_CUE).stop_ids(model.generation_config))
    settings, others = agreeing(model.generation_config.to_diff_dict())
    dropped = {*others, *([] if source.gguf_file else generation_settings(source.name, source.folder)[1])}
    if dropped:
        warn(
            f"generation_config.json of {source.name} has settings that contradict others or are invalid "
            f"({', '.join(sorted(dropped))}); the merged model is saved without them"
        )
    settings.eos_token_id = stops or None
    settings.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops, default=None)
    model.generation_config = settings
