"""A model on this machine: its folder or GGUF file, found by name or downloaded, and the hashes of its content."""

import glob
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from lightreasoner.data import hub
from lightreasoner.errors import HubUnreachable, ModelError
from lightreasoner.miniature import BUNDLED, is_bundled, model_path
from lightreasoner.models.shape import read_config
from lightreasoner.models.weights import refuse_pointers
from lightreasoner.runs.files import file_hash
from lightreasoner.runs.progress import busy, warn_once
from lightreasoner.runs.records import ADAPTER_FILES

WHOLE_FILE_HASH = 256 << 20  # larger weight files are hashed in windows

HASH_WINDOWS, HASH_WINDOW = 1024, 64 << 10
SCALED_BY_TRANSFORMERS = ("gpt-oss", "gpt_oss")  # architectures of GGUF files whose `rope.scaling` it reads

# Files that decide what a model computes and how texts are split into its tokens.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "*.py")
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *(TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
)
# Settings of a tokenizer that decide no token here: prompts are compared as rendered, and never padded or cut by it.
NOT_DECISIVE = {"chat_template", "model_max_length", "name_or_path", "padding_side", "truncation_side"}


@dataclass(frozen=True)
class ModelSource:
    """A model that is on this machine.

    Attributes:
        name: what the user called it.
        gguf_file: file name within the folder, for GGUF models.
        commit: commit of the Hub repository it came from.
        revision: what the user asked for: a branch, tag or commit of it.
        adapter: folder of a PEFT adapter on it, which `load_model` puts there; see `loading.with_adapter`.
    """

    name: str
    folder: Path
    gguf_file: str | None = None
    commit: str | None = None
    revision: str | None = None
    adapter: Path | None = None

    def config(self) -> dict[str, Any]:
        """The content of its config.json, or the sizes in the header of its GGUF file."""
        return read_config(str(self.folder / self.gguf_file if self.gguf_file else self.folder), None)

    def fingerprint(self) -> str:
        """Hash of the content: weights, configuration, tokenizer. Two models with equal content are the same model."""
        return content_hash(self.files())

    @busy("hashing the files of a model")
    def files(self) -> dict[str, str]:
        """Hash of each file that decides what the model computes and how it splits texts, by name.

        Chat templates and generation settings are not among them: prompts and stop tokens are compared as they are
        used, see `PromptTemplate.identity`.

        Weight files over 256 MiB are hashed in 1024 windows spread evenly over the file, so that a 15 GB model
        costs the reading of 64 MB a file; a fine-tuned copy differs in nearly every window that holds tuned weights.
        An adapter is not part of them, see `adapter_files`.
        """
        of_model = [glob.escape(self.gguf_file)] if self.gguf_file else MODEL_FILES
        hashes = {}
        for path in sorted({path for pattern in (*of_model, *TOKENIZER_FILES) for path in self.folder.glob(pattern)}):
            digest = hashlib.sha256()
            for block in _blocks(path):
                digest.update(block)
            hashes[path.name] = digest.hexdigest()
        return hashes

    def adapter_files(self) -> dict[str, str] | None:
        """Hash of each file of the adapter, by name; None without one."""
        if self.adapter is None:
            return None
        return {name: file_hash(self.adapter / name) for name in ADAPTER_FILES.values()}


def content_hash(files: Mapping[str, str]) -> str:
    """One hash for the hashes of files by name."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model: `miniature/NAME`, a folder, a .gguf file, or a Hub id, which is downloaded if need be.

    Raises:
        ModelError: there is no such model, its weights are only there as pickles, or the folder holds an adapter.
        HubUnreachable: it can only be on the Hub, which does not answer, and no copy is cached.
    """
    path = Path(name).expanduser()
    if is_bundled(name) and not path.exists():
        if name not in BUNDLED:
            raise ModelError(f"no model {name}: the bundled ones are {', '.join(BUNDLED)}")
        if revision is not None:
            warn_once(f"{name} is bundled, so its revision {revision} is not looked for")
        return ModelSource(name, model_path(name))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no file {path}; check the path")
        refuse_pointers(name, [path])
        source = ModelSource(name, path.parent, gguf_file=path.name)
        _refuse_scaled_positions(source)
        return source
    if path.is_dir():
        _check_files(name, path)
        if revision is not None:
            warn_once(f"{name} is a folder, so its revision {revision} is not looked for; the files there are used")
        return ModelSource(name, path)
    if not is_on_hub(name):
        raise ModelError(f"no folder {name}, and it is not a Hub id (owner/name) either; check the path or the id")
    return _download(name, revision)


def _refuse_scaled_positions(source: ModelSource) -> None:
    """Refuse a GGUF file whose rotary positions are scaled: transformers leaves that out without a word.

    YaRN is meant for long texts, and is left out with a warning.
    """
    try:
        config = source.config()
    except ModelError:  # the loader of its weights says more
        return
    scaling = config.get("gguf_scaling")
    if scaling is None or config["model_type"] in SCALED_BY_TRANSFORMERS:
        return
    what = f"{source.name}: the file scales the angles of rotary positions ({scaling})"
    if scaling == "yarn":
        warn_once(f"{what}, which transformers leaves out of GGUF files; long texts are read otherwise than intended")
        return
    raise ModelError(
        f"{what}, as Llama 3.1 and later models need, and transformers leaves that out of GGUF files, so the model "
        "would compute something else. Give the folder of the original model"
    )


def is_on_hub(name: str) -> bool:
    """Whether `find_model` would look for this name on the Hub."""
    path = Path(name).expanduser()
    is_here = path.exists() or is_bundled(name) or path.suffix == ".gguf"
    return hub.is_repository(name) and not is_here and not name.startswith((".", "/", "~"))


@cache
def _download(name: str, revision: str | None) -> ModelSource:
    """Fetch a model from the Hub; one process sees one commit of it."""
    wanted: dict[str, Any] = {
        "repo_id": name,
        "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py"],
        "ignore_patterns": ["*/*"],
    }
    try:
        folder = hub.download(name, revision, lambda commit: Path(snapshot_download(**wanted, revision=commit)))
    except Exception as error:  # every client library has its own idea of "no connection"
        if isinstance(error, HfHubHTTPError) and error.response.status_code not in hub.TRANSIENT:
            raise ModelError(f"the Hub refuses {name}: {first_line(error)}") from None
        try:
            folder = Path(snapshot_download(**wanted, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise HubUnreachable(
                f"{name} is no local folder, and the Hub does not answer ({first_line(error)}); no copy is cached. "
                "Check the name and the network, or give a folder or a .gguf file"
            ) from None
    _check_files(name, folder)
    return ModelSource(name, folder, commit=folder.name, revision=revision)


def _check_files(name: str, folder: Path) -> None:
    """Refuse a folder that is no model, or not wholly there."""
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{name}: {folder} holds an adapter (adapter_config.json), which is no model by itself. Merge it into its "
            f"base first: lightr merge --model BASE --adapter {folder}; if there is a whole model too, move it away"
        )
    if not (folder / "config.json").is_file():
        merged = folder / "merged"
        there = f". The merged model of this run is {merged}" if (merged / "config.json").is_file() else ""
        raise ModelError(f"{name}: no config.json in {folder}; a model folder is one that from_pretrained loads{there}")
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        what = f"only {', '.join(others)}: pickles, which can run code when they are read" if others else "none at all"
        raise ModelError(f"{name}: needs weights in safetensors, and there are {what}. Convert the model first")
    patterns = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
    refuse_pointers(name, (path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()))
    if not read_config(str(folder), None):
        raise ModelError(f"{name}: {folder / 'config.json'} is not a JSON object. Download it again")


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    if path.name == TOKENIZER_CONFIG:
        with suppress(ValueError, AttributeError):  # what is no JSON object counts as it is
            settings = json.loads(path.read_text(encoding="utf-8")).items()
            yield json.dumps(sorted((name, value) for name, value in settings if name not in NOT_DECISIVE)).encode()
            return
    yield f"{size} ".encode()
    with path.open("rb") as file:
        if size <= WHOLE_FILE_HASH:
            while block := file.read(1 << 20):
                yield block
            return
        for window in range(HASH_WINDOWS):
            file.seek(window * (size - HASH_WINDOW) // (HASH_WINDOWS - 1))
            yield file.read(HASH_WINDOW)


def first_line(error: Exception) -> str:
    """The reason in an error of another library."""
    first, _, others = str(error).strip().partition("\n")
    if first.endswith(":"):  # the reason stands in the next line
        first = f"{first} {others.strip().partition(chr(10))[0]}"
    return first or type(error).__name__
