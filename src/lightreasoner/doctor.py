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

from lightreasoner.config import RunConfig, SampleConfig
from lightreasoner.config.sections import EngineName, MachineSettings, PairSettings, VocabularyRule
from lightreasoner.data import hub
from lightreasoner.data.problems import load_problems
from lightreasoner.errors import ConfigError, LightReasonerError, ModelError, VocabularyMismatch
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
from lightreasoner.runs.terminal import size
from lightreasoner.samples.calibration import unlike_measured
from lightreasoner.samples.contexts import Contexts, refuse_same_prompts
from lightreasoner.samples.sampler import Sampler
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


def examine(
    *,
    expert: str | None = None,
    amateur: str | None = None,
    expert_revision: str | None = None,
    adapter: Path | None = None,
    amateur_cue: str | None = None,
    no_trial: bool = False,
    engine: EngineName = "own",
    engine_python: Path | None = None,
    vocabulary: VocabularyRule = "strict",
) -> dict[str, Any]:
    """Check this machine, and that two models are a pair to learn from. Exit code 1 if a check fails.

    With a pair, both models are loaded and sampled on a few bundled questions, if they fit into memory.

    Args:
        expert: model to check: a Hub id, a local folder, a .gguf file, or miniature/NAME.
        amateur: weaker model that should share its vocabulary, or be comparable under another --vocabulary; or what is
            left of the expert, such as self:layers=4.
        adapter: run folder of `lightr finetune` or PEFT adapter on the expert, which self:base is without.
        amateur_cue: instruction that the amateur reads in the place of the expert's; for the amateur self.
        expert_revision: branch, tag or commit of a Hub expert.
        no_trial: do not load the models.
        engine: engine to look for: vllm.
        engine_python: Python of the environment that should have it. Default: this one.
        vocabulary: rule for the two vocabularies, see `lightr sample`: strict, shared or aligned.

    Returns:
        `findings`, and `fit`: no check failed.

    Raises:
        ConfigError: an amateur without an expert.
    """
    if amateur and not expert:
        raise ConfigError("--amateur is compared with an expert; give --expert too")
    versions = ", ".join(f"{name} {value}" for name, value in environment().items())
    findings = [Finding("versions", "ok", versions), _device(), _precision(), _threads(), _disk(), _hub()]
    if engine != "own":
        findings += _checked(engine, lambda: _engine(engine, engine_python))
    if expert:
        findings += _checked("expert", lambda: _model(expert, expert_revision))
        if amateur:
            pair = {
                "expert": expert,
                "expert_revision": expert_revision,
                "amateur": amateur,
                "amateur_cue": amateur_cue,
                "vocabulary": vocabulary,
            }
            findings += _checked("pair", lambda: _pair(pair, adapter))
            if not no_trial and all(finding.verdict != "wrong" for finding in findings):
                findings += _checked("trial", lambda: _trial(pair, adapter))
    return {
        "findings": [finding._asdict() for finding in findings],
        "fit": all(finding.verdict != "wrong" for finding in findings),
    }


def _checked(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except LightReasonerError as error:
        return [Finding(what, "wrong", str(error))]


def _engine(engine: EngineName, python: Path | None) -> list[Finding]:
    seen = f"{engine_version(python)} in {python_of(python)}; generates for sample, baseline and evaluate"
    return [Finding(engine, "ok", seen)]


def _device() -> Finding:
    device = pick_device("auto")
    if device.type == "cpu":
        return Finding("device", "warning", "cpu; models of a billion parameters need a GPU")
    return Finding("device", "ok", torch.cuda.get_device_name(device) if device.type == "cuda" else device.type)


def _precision(*sources: ModelSource) -> Finding:
    """What `--dtype auto` picks for these models; without any, for models that are large enough to gain."""
    found = pick_precision(MachineSettings(), *sources) if sources else precision("auto", pick_device("auto"), [4096])
    is_slow_gpu = pick_device("auto").type == "cuda" and found.name != "bfloat16"
    return Finding("precision", "warning" if is_slow_gpu else "ok", str(found))


def _threads() -> Finding:
    threads, cores = torch.get_num_threads(), psutil.cpu_count(logical=False) or os.cpu_count() or 1
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    seen = f"{threads} {'thread' if threads == 1 else 'threads'} on {cores} physical cores{load}"
    if threads > cores:
        seen += f"; set OMP_NUM_THREADS={cores}; more threads than cores slow each other down"
    return Finding("threads", "warning" if threads > cores else "ok", seen)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    seen = f"{size(free)} free here; `lightr plan` says what a run needs"
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


def _model(name: str, revision: str | None) -> list[Finding]:
    source = find_model(name, revision)
    tokenizer = load_tokenizer(source)
    template = PromptTemplate(tokenizer)
    stops = ", ".join(
        str(tokenizer.convert_ids_to_tokens(id_)) for id_ in template.stop_ids(load_generation_config(source))
    )
    has_template = tokenizer.chat_template is not None
    findings = [
        Finding("expert", "ok", f"{name} at {source.folder}, SHA-256 {source.fingerprint()[:12]}…"),
        *_weights("expert", source),
        Finding("chat template", "ok", "present, and it renders a question")
        if has_template
        else Finding("chat template", "warning", "none: prompts are plain text after the cue"),
        Finding("stop tokens", "ok", stops)
        if stops
        else Finding("stop tokens", "warning", "none: every response runs to its length limit"),
        Finding("prompt", "ok", f"{len(template.encode('What is 2 + 3?'))} tokens around a short question"),
    ]
    config = source.config()
    context = (config.get("text_config") or config).get("max_position_embeddings")
    return [*findings, Finding("context", "ok" if context else "warning", f"{context or 'unknown'} tokens")]


def _weights(role: str, source: ModelSource) -> list[Finding]:
    """Whether the model's files hold all its weights, by their names and shapes."""

    def compared() -> list[Finding]:
        count = check_weights(source)
        seen = "compared when the model is loaded" if count is None else f"{count}, all in place"
        return [Finding(f"weights of the {role}", "ok", seen)]

    return _checked(f"weights of the {role}", compared)


def _pair(pair: dict[str, Any], adapter: Path | None) -> list[Finding]:
    config = RunConfig(**pair, dataset="arithmetic")  # with the default settings
    found = find_pair(config, adapter)
    sources = found.expert, found.amateur
    vocabulary = _vocabulary(config.vocabulary, *(load_tokenizer(source) for source in sources))
    if vocabulary.verdict == "wrong":
        return [vocabulary]
    findings = [
        vocabulary,
        *(_weights("amateur", found.amateur) if found.side.has_own_files else []),
        _precision(*sources),
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


def _vocabulary(rule: VocabularyRule, expert: PreTrainedTokenizerBase, amateur: PreTrainedTokenizerBase) -> Finding:
    """Whether two tokenizers are a pair under this rule, and how much of a probe text they share where they differ."""
    if rule == "aligned":
        alignment = _alignment(expert, amateur)
        common = f"{len(alignment.vocabulary.token_ids):,} of the expert's tokens are the same bytes to the amateur"
        verdict: Verdict = "ok" if _is_enough(alignment.shares()) else "warning"
        return Finding("vocabulary", verdict, f"{common}; {_shares(alignment)}")
    try:
        shared = share_vocabulary(expert, amateur, rule=rule)
    except VocabularyMismatch as error:
        try:
            alignment = _alignment(expert, amateur)
        except LightReasonerError:
            raise error from None
        if not _is_enough(alignment.shares()):
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


def _is_enough(shares: tuple[float, float]) -> bool:
    """Whether the shares of a probe text reach the limits that sampling puts on those of the rollouts."""
    limits = (PairSettings.model_fields[name].default for name in ("min_aligned_share", "min_common_mass"))
    return all(share >= limit for share, limit in zip(shares, limits, strict=True))


def _memory(config: RunConfig, expert: Shape, amateur: Shape, sources: tuple[ModelSource, ModelSource]) -> Finding:
    """Whether both models fit together with the default settings, and what helps if not."""
    device, free = pick_device("auto"), _free_memory()
    width = {
        "sample": pick_dtype(MachineSettings(), *sources).itemsize,
        "finetune": pick_dtype(MachineSettings(), sources[0]).itemsize,
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


def _trial(pair: dict[str, Any], adapter: Path | None) -> list[Finding]:
    """Sample a few bundled questions as `lightr sample` does, and judge the figures as it does."""
    config = SampleConfig(
        **pair,
        dataset="arithmetic",
        max_questions=TRIAL_QUESTIONS,
        max_new_tokens=TRIAL_TOKENS,
        out=Path(),  # nothing is written
    )
    found = find_pair(config, adapter)
    width = pick_dtype(config, found.expert, found.amateur).itemsize
    needed = sum(_parameters(source) for source in found.own_weights) * width
    if needed > (free := _free_memory()):
        return [Finding("trial", "warning", f"not made: the weights need {size(needed)}, and {size(free)} are free")]
    contexts = Contexts.of(config, *found.tokenizers())
    problems = load_problems("arithmetic", limit=TRIAL_QUESTIONS, seed=config.seed).problems
    prompted = [contexts.prompted(problem) for problem in problems]
    refuse_same_prompts(found, prompted)
    stops = contexts.expert.stops(load_generation_config(found.expert), config.stop_strings)
    sampler = Sampler.of(found.load(contexts.alignment), contexts.expert, stops, config)
    (shard,) = sampler.run(prompted)
    shares = AlignedShares.of(sampler.commit(prompted, [shard]).counts)
    figures = replace(
        figures_of([shard.rollouts], len(shard.labels)),
        aligned=shares,
        parameters=_parameters(found.expert),
        unlike=unlike_measured(config),
    )
    seen = (
        f"{TRIAL_QUESTIONS} arithmetic problems, {figures.steps} steps: {100 * (figures.kept_share or 0):.0f} % kept "
        f"at β = {config.divergence_beta} (paper: 20 %, bundled miniature: 48 %), "
        f"mean KL {figures.mean_kl or 0:.2f} nats (usual: 0.3 to 1.5)"
    )
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


def _free_memory() -> int:
    return free_memory(pick_device("auto"))


def finding_lines(result: Mapping[str, Any]) -> list[str]:
    """The findings as lines for people."""
    return [f"{finding['verdict']:8}{finding['what']}: {finding['seen']}" for finding in result["findings"]]
