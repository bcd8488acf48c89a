"""`lightr doctor`: check this machine, and that two models share a vocabulary. Changes nothing."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import psutil
import torch
from huggingface_hub import constants

from lightreasoner.config import MachineSettings
from lightreasoner.data import hub
from lightreasoner.errors import ConfigError, LightReasonerError, ModelError
from lightreasoner.models.loading import (
    ModelSource,
    check_weights,
    dtype_name,
    find_model,
    load_generation_config,
    load_tokenizer,
    pick_device,
)
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.shape import Shape, read_config
from lightreasoner.models.vocabulary import share_vocabulary
from lightreasoner.runs.environment import environment
from lightreasoner.runs.terminal import size

Verdict = Literal["ok", "warning", "wrong"]


class Finding(NamedTuple):
    """One check."""

    what: str
    verdict: Verdict
    seen: str


def examine(
    *, expert: str | None = None, amateur: str | None = None, expert_revision: str | None = None
) -> dict[str, Any]:
    """Check this machine, and that two models share a vocabulary. Exit code 1 if a check fails.

    Args:
        expert: model to check: a Hub id, a local folder, a .gguf file, or miniature/NAME.
        amateur: weaker model that should share its vocabulary.
        expert_revision: branch, tag or commit of a Hub expert.

    Returns:
        `findings`, and `fit`: no check failed.

    Raises:
        ConfigError: an amateur without an expert.
    """
    if amateur and not expert:
        raise ConfigError("--amateur is compared with an expert; give --expert too")
    versions = ", ".join(f"{name} {value}" for name, value in environment().items())
    findings = [Finding("versions", "ok", versions), _device(), _threads(), _disk(), _hub()]
    if expert:
        findings += _checked("expert", lambda: _model(expert, expert_revision))
        if amateur:
            findings += _checked("pair", lambda: _pair(expert, expert_revision, amateur))
    return {
        "findings": [finding._asdict() for finding in findings],
        "fit": all(finding.verdict != "wrong" for finding in findings),
    }


def _checked(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except LightReasonerError as error:
        return [Finding(what, "wrong", str(error))]


def _device() -> Finding:
    device = pick_device("auto")
    dtype = dtype_name(MachineSettings())
    if device.type == "cpu":
        return Finding("device", "warning", f"cpu in {dtype}; models of a billion parameters need a GPU")
    seen = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Finding("device", "ok" if dtype == "bfloat16" or device.type != "cuda" else "warning", f"{seen} in {dtype}")


def _threads() -> Finding:
    threads, cores = torch.get_num_threads(), psutil.cpu_count(logical=False) or os.cpu_count() or 1
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    seen = f"{threads} threads on {cores} physical cores{load}"
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
    return Finding("hub", "ok", f"{constants.ENDPOINT} can be reached")


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
    if not source.gguf_file:
        config = read_config(str(source.folder), None)
        context = (config.get("text_config") or config).get("max_position_embeddings")
        findings.append(Finding("context", "ok" if context else "warning", f"{context or 'unknown'} tokens"))
    return findings


def _weights(role: str, source: ModelSource) -> list[Finding]:
    """Whether the model's files hold all its weights, by their names and shapes."""

    def compared() -> list[Finding]:
        count = check_weights(source)
        seen = "compared when the model is loaded" if count is None else f"{count}, all in place"
        return [Finding(f"weights of the {role}", "ok", seen)]

    return _checked(f"weights of the {role}", compared)


def _pair(expert: str, revision: str | None, amateur: str) -> list[Finding]:
    sources = find_model(expert, revision), find_model(amateur)
    first, second = (load_tokenizer(source) for source in sources)
    shared = share_vocabulary(first, second)
    findings = [
        Finding("vocabulary", "ok", f"{len(shared.token_ids)} tokens, the same in both models"),
        *_weights("amateur", sources[1]),
    ]
    if not any(source.gguf_file for source in sources):
        try:
            counts = [Shape.of(read_config(str(source.folder), None), source.name).parameters for source in sources]
        except ModelError as error:
            return [*findings, Finding("sizes", "warning", str(error))]
        seen = f"expert {counts[0] / 1e6:.1f} M parameters, amateur {counts[1] / 1e6:.1f} M"
        is_smaller = counts[1] < counts[0]
        findings.append(Finding("sizes", "ok" if is_smaller else "warning", seen + ", not smaller" * (not is_smaller)))
    return findings


def finding_lines(result: Mapping[str, Any]) -> list[str]:
    """The findings as lines for people."""
    return [f"{finding['verdict']:8}{finding['what']}: {finding['seen']}" for finding in result["findings"]]
