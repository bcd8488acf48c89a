"""`lightr doctor`: check this machine, and that two models are a pair to learn from. Changes nothing."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import psutil
import torch
from huggingface_hub import constants, get_token
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import DoctorConfig
from lightreasoner.data import hub
from lightreasoner.errors import LightReasonerError, ModelError, VocabularyMismatch
from lightreasoner.inference.footprint import footprint
from lightreasoner.inference.memory import free_memory
from lightreasoner.inference.vllm_engine import engine_version, python_of
from lightreasoner.models.alignment import Alignment
from lightreasoner.models.loading import (
    check_weights,
    load_generation_config,
    load_tokenizer,
    pick_device,
    pick_dtype,
    pick_precision,
)
from lightreasoner.models.pairs import find_pair
from lightreasoner.models.precision import precision
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.shape import Shape
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.models.vocabulary import share_vocabulary
from lightreasoner.runs.environment import environment
from lightreasoner.runs.locks import one_thread
from lightreasoner.runs.terminal import size
from lightreasoner.samples.calibration import OTHER_LABELS, unlike_measured
from lightreasoner.samples.contexts import Contexts, refuse_same_prompts
from lightreasoner.samples.sampler import Sampler
from lightreasoner.samples.sampling import read_problems
from lightreasoner.samples.statistics import AlignedShares, figures_of
from lightreasoner.samples.warnings import sample_warnings

PROMPT = 128  # assumed tokens of a prompt

TRIAL_QUESTIONS, TRIAL_TOKENS = 8, 48

Verdict = Literal["ok", "warning", "wrong"]


class Finding(NamedTuple):
    """One check."""

    what: str
    verdict: Verdict
    seen: str


@one_thread
def examine(config: DoctorConfig, *, no_trial: bool = False) -> dict[str, Any]:
    """Check this machine, and that two models are a pair to learn from. Exit code 1 if a check fails.

    With a pair, both models are loaded and sampled on a few problems, if they fit into memory.

    Args:
        config: the settings of the run; without an expert, only the machine is checked.
        no_trial: do not load the models.

    Returns:
        `findings`, and `fit`: no check failed.
    """
    versions = ", ".join(f"{name} {value}" for name, value in environment().items())
    findings = [
        Finding("versions", "ok", versions),
        *_checked("device", lambda: [_device(config), _precision(config)]),
        _threads(),
        _disk(config.out),
        _hub(),
    ]
    if config.engine != "own":
        findings += _checked(config.engine, lambda: _engine(config))
    if config.expert:
        findings += _checked("expert", lambda: _model(config))
        if config.amateur:
            findings += _checked("pair", lambda: _pair(config))
            if not no_trial and all(finding.verdict != "wrong" for finding in findings):
                findings += _checked("trial", lambda: _trial(config))
    return {
        "findings": [finding._asdict() for finding in findings],
        "fit": all(finding.verdict != "wrong" for finding in findings),
    }


def _checked(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except LightReasonerError as error:
        return [Finding(what, "wrong", str(error))]


def _engine(config: DoctorConfig) -> list[Finding]:
    version, python = engine_version(config.engine_python), python_of(config.engine_python)
    return [Finding(config.engine, "ok", f"{version} in {python}; generates for sample, baseline and evaluate")]


def _device(config: DoctorConfig) -> Finding:
    device = pick_device(config.device)
    free_memory(device)  # raises if it is not there
    if device.type == "cpu":
        return Finding("device", "warning", "cpu; models of a billion parameters need a GPU")
    return Finding("device", "ok", torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)


def _precision(config: DoctorConfig, *sources: ModelSource) -> Finding:
    """What `--dtype` means for these models; without any, for models that are large enough to gain."""
    device = pick_device(config.device)
    found = pick_precision(config, *sources) if sources else precision(config.dtype, device, [4096])
    is_slow_gpu = device.type == "cuda" and found.name != "bfloat16"
    return Finding("precision", "warning" if is_slow_gpu else "ok", str(found))


def _threads() -> Finding:
    threads, cores = torch.get_num_threads(), psutil.cpu_count(logical=False) or os.cpu_count() or 1
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    seen = f"{threads} {'thread' if threads == 1 else 'threads'} on {cores} physical cores{load}"
    if threads > cores:
        seen += f"; set OMP_NUM_THREADS={cores}; more threads than cores slow each other down"
    return Finding("threads", "warning" if threads > cores else "ok", seen)


def _disk(out: Path) -> Finding:
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    seen = f"{size(free)} free at {there}; `lightr plan` says what a run needs"
    return Finding("disk", "ok" if free > 20e9 else "warning", seen)


def _hub() -> Finding:
    if hub.is_offline():
        return Finding("hub", "ok", "HF_HUB_OFFLINE is set: cached copies only")
    where = urlsplit(constants.ENDPOINT)
    port = where.port or (443 if where.scheme == "https" else 80)
    try:
        socket.create_connection((where.hostname or "", port), timeout=hub.TIMEOUT).close()
    except OSError as error:
        return Finding("hub", "warning", f"{constants.ENDPOINT} cannot be reached ({error}); local models only")
    login = "a token is there" if get_token() else "no token: enough to read what is public, not for `lightr push`"
    return Finding("hub", "ok", f"{constants.ENDPOINT} can be reached; {login}")


def _model(config: DoctorConfig) -> list[Finding]:
    source = find_model(str(config.expert), config.expert_revision)
    tokenizer = load_tokenizer(source, config)
    template = PromptTemplate(tokenizer, config.cue, config.chat_template)
    stops = ", ".join(
        str(tokenizer.convert_ids_to_tokens(id_)) for id_ in template.stop_ids(load_generation_config(source))
    )
    has_template = config.chat_template is not None or tokenizer.chat_template is not None
    findings = [
        Finding("expert", "ok", f"{source.name} at {source.folder}, SHA-256 {source.fingerprint()[:12]}…"),
        *_weights("expert", source, config),
        Finding("chat template", "ok", "present, and it renders a question")
        if has_template
        else Finding("chat template", "warning", "none: prompts are plain text after the cue"),
        Finding("stop tokens", "ok", stops)
        if stops
        else Finding("stop tokens", "warning", "none: every response runs to its length limit"),
        Finding("prompt", "ok", f"{len(template.encode('What is 2 + 3?'))} tokens around a short question"),
    ]
    of_model = source.config()
    context = (of_model.get("text_config") or of_model).get("max_position_embeddings")
    return [*findings, Finding("context", "ok" if context else "warning", f"{context or 'unknown'} tokens")]


def _weights(role: str, source: ModelSource, config: DoctorConfig) -> list[Finding]:
    """Whether the model's files hold all its weights, by their names and shapes."""

    def compared() -> list[Finding]:
        count = check_weights(source, config)
        seen = "compared when the model is loaded" if count is None else f"{count}, all in place"
        return [Finding(f"weights of the {role}", "ok", seen)]

    return _checked(f"weights of the {role}", compared)


def _pair(config: DoctorConfig) -> list[Finding]:
    found = find_pair(config, config.adapter)
    sources = found.expert, found.amateur
    vocabulary = _vocabulary(config, *(load_tokenizer(source, config) for source in sources))
    if vocabulary.verdict == "wrong":
        return [vocabulary]
    findings = [
        vocabulary,
        *(_weights("amateur", found.amateur, config) if found.side.has_own_files else []),
        _precision(config, *sources),
    ]
    try:
        shapes = [Shape.of(source.config(), source.name) for source in sources]
    except ModelError as error:
        return [*findings, Finding("sizes", "warning", str(error))]
    if found.side.kind == "layers":
        shapes[1] = replace(shapes[1], layers=found.side.layers)
    counts = [shape.parameters for shape in shapes]
    if not found.side.has_own_files:
        weights = "in the same weights" if found.shares_weights else "a copy"
        findings.append(
            Finding("sizes", "ok", f"expert {counts[0] / 1e6:.1f} M parameters; amateur: {found.side}, {weights}")
        )
        return [*findings, _memory(config, shapes[0], shapes[1], sources)]
    seen = f"expert {counts[0] / 1e6:.1f} M parameters, amateur {counts[1] / 1e6:.1f} M"
    is_smaller = counts[1] < counts[0]
    findings.append(Finding("sizes", "ok" if is_smaller else "warning", seen + ", not smaller" * (not is_smaller)))
    return [*findings, _memory(config, shapes[0], shapes[1], sources)]


def _vocabulary(config: DoctorConfig, expert: PreTrainedTokenizerBase, amateur: PreTrainedTokenizerBase) -> Finding:
    """Whether two tokenizers are a pair under this rule, and how much of a probe text they share where they differ."""
    if config.vocabulary == "aligned":
        alignment = _alignment(expert, amateur)
        common = f"{len(alignment.vocabulary.token_ids):,} of the expert's tokens are the same bytes to the amateur"
        verdict: Verdict = "ok" if _is_enough(alignment.shares(), config) else "warning"
        return Finding("vocabulary", verdict, f"{common}; {_shares(alignment)}")
    try:
        shared = share_vocabulary(expert, amateur, rule=config.vocabulary)
    except VocabularyMismatch as error:
        try:
            alignment = _alignment(expert, amateur)
        except LightReasonerError:
            raise error from None
        if not _is_enough(alignment.shares(), config):
            raise VocabularyMismatch(f"{error}: but {_shares(alignment)}, which is too little") from None
        return Finding("vocabulary", "wrong", f"{error}: {_shares(alignment)}")
    left_out = f", {shared.left_out} left out" if shared.left_out else ""
    return Finding("vocabulary", "ok", f"{len(shared.token_ids)} tokens, the same in both models{left_out}")


def _alignment(expert: PreTrainedTokenizerBase, amateur: PreTrainedTokenizerBase) -> Alignment:
    return Alignment(PromptTemplate(expert), PromptTemplate(amateur))


def _shares(alignment: Alignment) -> str:
    aligned, known = alignment.shares()
    return (
        f"in a probe text, a token of the amateur begins with {100 * aligned:.0f} % of the expert's tokens, and "
        f"{100 * known:.0f} % of these are tokens of both"
    )


def _is_enough(shares: tuple[float, float], config: DoctorConfig) -> bool:
    """Whether the shares of a probe text reach the limits that sampling puts on those of the rollouts."""
    aligned, common = shares
    return aligned >= config.min_aligned_share and common >= config.min_common_mass


def _memory(config: DoctorConfig, expert: Shape, amateur: Shape, sources: tuple[ModelSource, ModelSource]) -> Finding:
    """Whether the stages of the run fit, and what helps if not."""
    device, free = pick_device(config.device), _free_memory(config)
    width = {
        "sample": pick_dtype(config, *sources).itemsize,
        "finetune": pick_dtype(config, sources[0]).itemsize,
    }
    needed = footprint(config, expert, amateur, PROMPT, width, device.type)
    together, alone = (needed.choices[f"residency = {one}"] for one in ("together", "sequential"))
    seen = (
        f"sampling needs about {size(together)}, fine-tuning {size(needed.stages['finetune'])}, {size(free)} are free"
    )
    if max(together, needed.stages["finetune"]) <= free:
        return Finding("memory", "ok", seen)
    if together > free >= alone:
        seen += f"; expert and amateur fit one after the other ({size(alone)})"
    return Finding("memory", "warning", f"{seen}; `lightr plan` says what other settings need")


def _trial(run: DoctorConfig) -> list[Finding]:
    """Sample the first problems of the run as `lightr sample` does, and judge the figures as it does."""
    config = run.for_trial(TRIAL_QUESTIONS, TRIAL_TOKENS)
    found = find_pair(config, run.adapter)
    width = pick_dtype(config, found.expert, found.amateur).itemsize
    needed = sum(_parameters(source) for source in found.own_weights) * width
    if needed > (free := _free_memory(run)):
        return [Finding("trial", "warning", f"not made: the weights need {size(needed)}, and {size(free)} are free")]
    problems = read_problems(config)
    contexts = Contexts.of(config, *found.tokenizers(), problems=problems)
    prompted = [contexts.prompted(problem) for problem in problems.problems]
    refuse_same_prompts(found, prompted)
    stops = contexts.expert.stops(load_generation_config(found.expert), config.stop_strings)
    sampler = Sampler.of(found.load(contexts.alignment), contexts.expert, stops, config)
    (shard,) = sampler.run(prompted)
    shares = AlignedShares.of(sampler.commit(prompted, [shard]).counts)
    figures = replace(
        figures_of([shard.rollouts], None if config.divergence_beta is None else len(shard.labels)),
        aligned=shares,
        parameters=_parameters(found.expert),
        unlike=OTHER_LABELS if run.selects else unlike_measured(config),
        alpha=run.rule.plausibility_alpha,
    )
    seen = f"{len(prompted)} problems of {config.dataset}, {figures.steps} steps: "
    if figures.kept_share is not None:
        kept = f"{100 * figures.kept_share:.0f} % kept at β = {config.divergence_beta}"
        seen += f"{kept} (paper: 20 %, bundled miniature: 48 %), "
    seen += f"mean KL {figures.mean_kl or 0:.2f} nats (usual: 0.3 to 1.5)"
    if shares is not None:
        seen += f"; {shares}"
    warnings = sample_warnings(figures)
    return [
        Finding("trial", "warning" if warnings else "ok", seen),
        *(Finding("trial", "warning", text) for text in warnings),
    ]


def _parameters(source: ModelSource) -> int:
    """Number of weights."""
    return Shape.of(source.config(), source.name).parameters


def _free_memory(config: DoctorConfig) -> int:
    return free_memory(pick_device(config.device))


def finding_lines(result: Mapping[str, Any]) -> list[str]:
    """The findings as lines for people."""
    return [f"{finding['verdict']:8}{finding['what']}: {finding['seen']}" for finding in result["findings"]]
