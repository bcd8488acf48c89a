"""What of a run folder is sent: the files of an adapter, a merged model or samples, their card and licences."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightreasoner.config import PushConfig
from lightreasoner.config.base import shareable_name
from lightreasoner.config.push import PushKind
from lightreasoner.config.sections import SELECTION
from lightreasoner.data.cards import Licence
from lightreasoner.data.hub import Kind
from lightreasoner.errors import DataError, RunCorrupted
from lightreasoner.models.adapters import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, check_adapter, find_adapter
from lightreasoner.models.loading import check_weights
from lightreasoner.models.source import ModelSource, find_model, is_on_hub
from lightreasoner.push.figures import figures_of
from lightreasoner.push.licences import data_licence, model_licence
from lightreasoner.runs.files import file_hash
from lightreasoner.runs.manifest import with_schema
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import ADAPTER_FILES
from lightreasoner.runs.stage import StageFolder, read_stage
from lightreasoner.samples.card import CARD, samples_card
from lightreasoner.samples.folder import Made, Provenance, read_samples
from lightreasoner.training.merging import RESULT
from lightreasoner.training.model_card import Model, Tuned, data_rows, model_card, sampling_commands, tuned

# Files of a model that are sent; a pickle is none of them.
SENT = {".safetensors", ".json", ".jinja", ".txt", ".model", ".py"}
# Keys of JSON files that can hold a path of this machine.
PLACES = {"_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_file", "vocab_file", "merges_file"}
SMALL = 32 << 20  # bytes; larger JSON files are vocabularies or indexes of weights

Content = Mapping[str, Path | bytes]


@dataclass(frozen=True)
class Part:
    """What goes to one repository.

    Attributes:
        kind: of the repository.
        words: what it is, for people.
        files: content by name in the repository.
        sha256: hash of what was made, without the card.
        licences: the first is that of what is sent.
    """

    what: PushKind
    kind: Kind
    words: str
    files: Content
    sha256: str
    licences: Sequence[Licence]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(
            content.stat().st_size if isinstance(content, Path) else len(content) for content in self.files.values()
        )


def part_of(what: PushKind, config: PushConfig) -> Part:
    """Read and check what is to be sent.

    Raises:
        DataError: it is not in the folder.
        RunCorrupted: it is unfinished or damaged.
    """
    return {"adapter": _adapter, "merged": _merged, "samples": _samples}[what](config)


@dataclass(frozen=True)
class _Base:
    """The base of a model: its name for people, and its Hub id if it is there."""

    name: str
    hub: str | None
    licence: Licence


def _base(name: str, config: PushConfig) -> _Base:
    shown = config.base_model or shareable_name(name)
    licence = model_licence(name, config.base_model, f"base model {shown}")
    known = config.base_model or (name if is_on_hub(name) else None)
    return _Base(shown, known if licence.is_there else None, licence)


def _licences(config: PushConfig, sources: Sequence[Licence]) -> list[Licence]:
    """What the user says comes first."""
    if config.license is None:
        return list(sources)
    return [Licence("this repository", config.license, reason="says its owner"), *sources]


def _adapter(config: PushConfig) -> Part:
    folder, run = find_adapter(config.run)
    training = None
    if run is not None:
        _, stage = read_stage(run)
        check_adapter(folder, stage.result or {})
        training = tuned(stage)
    settings = _json(folder / ADAPTER_SETTINGS)
    name = training.settings.model if training else str(settings.get("base_model_name_or_path"))
    base = _base(name, config)
    revision = training.settings.model_revision if training and base.hub else None
    settings |= {"base_model_name_or_path": base.hub or base.name, "revision": revision}
    hashes = {file: file_hash(folder / file) for file in ADAPTER_FILES.values()}
    return _model_part(
        "adapter",
        config,
        Model(_title(config), base.name, _shareable(training), None, base.hub),
        base,
        {ADAPTER_WEIGHTS: folder / ADAPTER_WEIGHTS, ADAPTER_SETTINGS: _bytes(settings)},
        hashes[ADAPTER_WEIGHTS],
        adapter_files=hashes,
    )


def _merged(config: PushConfig) -> Part:
    folder = config.run if (config.run / RESULT).is_file() else config.run / "merged"
    if not (folder / RESULT).is_file():
        raise DataError(f"{config.run} holds no merged model, so none can be sent. Run `lightr merge` first")
    source = find_model(str(folder))
    check_weights(source)
    result = _json(folder / RESULT)
    training = None
    run = folder.parent / "finetune"
    if (run / "result.json").is_file():
        _, stage = read_stage(run)
        if (stage.result or {}).get("adapter_sha256") == result.get("adapter_sha256"):
            training = tuned(stage)
        else:
            say(
                f"{folder} was merged from another adapter than that in {run}, so its card says nothing of the training"
            )
    base = _base(str(result.get("base")), config)
    shared = {**result, "base": base.hub or base.name}
    files: Content = {**_files_of_model(folder), RESULT: _bytes(shared)}
    model = Model(_title(config), base.name, _shareable(training), shared, base.hub)
    return _model_part("merged", config, model, base, files, source.fingerprint(), merged=source)


def _model_part(
    what: PushKind,
    config: PushConfig,
    model: Model,
    base: _Base,
    files: Content,
    sha256: str,
    *,
    merged: ModelSource | None = None,
    adapter_files: Mapping[str, str] | None = None,
) -> Part:
    """The part of a model, with its figures and card."""
    if adapter_files is not None:  # the evaluation may be of the merged model
        merged = _merged_from(config.run / "merged", adapter_files[ADAPTER_WEIGHTS])
    run = config.run.parent if (config.run / RESULT).is_file() else config.run
    model_sha256 = merged.fingerprint() if merged else None
    figures = figures_of(run, model_sha256, adapter_files, config.to.partition("/")[2])
    sources = [base.licence]
    if model.training:
        problems = f"training problems {shareable_name(model.training.samples.dataset or 'unknown')}"
        sources.append(data_licence(model.training.samples, problems))
    licences = _licences(config, sources)
    card = model_card(model, licences=licences, metadata=figures.metadata, evaluation=figures.lines, address=config.to)
    words = f"{'adapter of' if what == 'adapter' else 'merged model, trained from'} {model.base}"
    return Part(what, "model", words, {**files, **figures.files, CARD: card.encode()}, sha256, licences)


def _merged_from(folder: Path, adapter_sha256: str) -> ModelSource | None:
    """The merged model beside an adapter, if it was made of it."""
    if not (folder / RESULT).is_file() or _json(folder / RESULT).get("adapter_sha256") != adapter_sha256:
        return None
    return find_model(str(folder))


def _samples(config: PushConfig) -> Part:
    chosen = config.run / SELECTION
    made, stage = read_samples(chosen if chosen.is_dir() else config.run)
    shared = made.shareable()
    expert = _base(made.expert, config)
    problems = f"problems {shareable_name(made.dataset or 'unknown')}"
    sources = [data_licence(made, problems), Licence(**{**vars(expert.licence), "of": f"expert {expert.name}"})]
    licences = _licences(config, sources)
    facts = data_rows(shared) | {"Cue": shared.cue}
    card = samples_card(shared, stage, facts=facts, commands=sampling_commands(shared, "RUN"), licences=licences)
    files: Content = {
        **{name: stage.path / name for name in stage.files},
        "ledger.jsonl": stage.path / "ledger.jsonl",
        "result.json": stage.path / "result.json",
        "manifest.json": _bytes(_shareable_manifest(stage, shared)),
        CARD: card.encode(),
    }
    words = f"samples of {shared.expert}: {made.questions or 'unknown'} questions"
    return Part("samples", "dataset", words, files, stage.digest, licences)


def _shareable_manifest(stage: StageFolder, shared: Provenance | Made) -> dict[str, Any]:
    """The manifest of a stage without paths: fingerprint and record are made anew."""
    fingerprint, record = with_schema(shared.fingerprint()), shared.model_dump(mode="json")
    return {**stage.manifest, "fingerprint": fingerprint, "record": record}


def _shareable(training: Tuned | None) -> Tuned | None:
    return training.shareable() if training else None


def _title(config: PushConfig) -> str:
    return config.to.partition("/")[2]


def _files_of_model(folder: Path) -> dict[str, Path | bytes]:
    """The files of a merged model, without its card.

    Raises:
        DataError: one is a link, which could lead anywhere.
    """
    files: dict[str, Path | bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise DataError(f"{path} is a link, and a push sends what is in the folder. Put the file itself there")
        if path.is_dir() or name == CARD or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.suffix.lower() not in SENT:
            say(f"{path.name} is not sent: files of a model are {', '.join(sorted(SENT))}")
            continue
        files[name] = _without_places(path) if path.suffix == ".json" and path.stat().st_size < SMALL else path
    return files


def _without_places(path: Path) -> Path | bytes:
    """A JSON file as it is, or without the paths of this machine in it."""
    content = _json(path)
    changes = {
        key: short
        for key, value in content.items()
        if key in PLACES and isinstance(value, str) and (short := shareable_name(value)) != value
    }
    return _bytes({**content, **changes}) if changes else path


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunCorrupted(f"{path} cannot be read ({error}), so it is not sent. Make it again") from None
    return dict(content) if isinstance(content, dict) else {}


def _bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
