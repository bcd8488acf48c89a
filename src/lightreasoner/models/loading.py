"""Models and tokenizers: find them, load them, check that two of them share one vocabulary."""

import glob
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, StrictDataclassError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from lightreasoner.config import MachineSettings, PairConfig
from lightreasoner.data import hub
from lightreasoner.errors import HubUnreachable, ModelError
from lightreasoner.miniature import MODELS, model_path
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, share_vocabulary
from lightreasoner.runs.progress import say

WHOLE_FILE_HASH = 256 << 20  # larger weight files are hashed in windows

HASH_WINDOWS, HASH_WINDOW = 1024, 64 << 10

# Files that decide what a model computes and how texts are split into its tokens.
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "adapter_config.json", "*.py")
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *(TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
)
# Settings of a tokenizer that decide no token here: prompts are compared as rendered, and never padded or cut by it.
NOT_DECISIVE = {"chat_template", "model_max_length", "name_or_path", "padding_side", "truncation_side"}

ANY_MACHINE = MachineSettings()


@dataclass(frozen=True)
class ModelSource:
    """A model that is on this machine.

    Attributes:
        name: what the user called it.
        gguf_file: file name within the folder, for GGUF models.
        commit: commit of the Hub repository it came from.
        revision: what the user asked for: a branch, tag or commit of it.
    """

    name: str
    folder: Path
    gguf_file: str | None = None
    commit: str | None = None
    revision: str | None = None

    def fingerprint(self) -> str:
        """Hash of the content: weights, configuration, tokenizer. Two models with equal content are the same model."""
        return content_hash(self.files())

    def files(self) -> dict[str, str]:
        """Hash of each file that decides what the model computes and how it splits texts, by name.

        Chat templates and generation settings are not among them: prompts and stop tokens are compared as they are
        used, see `PromptTemplate.identity`.

        Weight files over 256 MiB are hashed in 1024 windows spread evenly over the file, so that a 15 GB model
        costs the reading of 64 MB a file; a fine-tuned copy differs in nearly every window that holds tuned weights.
        """
        of_model = [glob.escape(self.gguf_file)] if self.gguf_file else MODEL_FILES
        hashes = {}
        for path in sorted({path for pattern in (*of_model, *TOKENIZER_FILES) for path in self.folder.glob(pattern)}):
            digest = hashlib.sha256()
            for block in _blocks(path):
                digest.update(block)
            hashes[path.name] = digest.hexdigest()
        return hashes


def content_hash(files: Mapping[str, str]) -> str:
    """One hash for the hashes of files by name."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model: `miniature/NAME`, a folder, a .gguf file, or a Hub id, which is downloaded if need be.

    Raises:
        ModelError: there is no such model, or its weights are only there as pickles.
        HubUnreachable: it can only be on the Hub, which does not answer, and no copy is cached.
    """
    collection, _, member = name.partition("/")
    path = Path(name).expanduser()
    if collection == "miniature" and not path.exists():
        if member not in MODELS:
            raise ModelError(f"no model {name}: the bundled ones are {', '.join(f'miniature/{m}' for m in MODELS)}")
        return ModelSource(name, model_path(member))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no file {path}; check the path")
        return ModelSource(name, path.parent, gguf_file=path.name)
    if path.is_dir():
        _refuse_pickles(name, path)
        return ModelSource(name, path)
    if not hub.is_repository(name) or name.startswith((".", "/", "~")):
        raise ModelError(f"no folder {name}, and it is not a Hub id (owner/name) either; check the path or the id")
    return _download(name, revision)


def load_tokenizer(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        ModelError: there is none, or it needs code that may not run.
    """
    _check_code(source, machine)
    try:
        return AutoTokenizer.from_pretrained(
            source.folder, gguf_file=source.gguf_file, trust_remote_code=machine.trust_remote_code
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the tokenizer of {source.name}: {_first_line(error)}") from None


def load_generation_config(source: ModelSource) -> GenerationConfig | None:
    """The generation settings that `load_model` gives the model, for its stop tokens; None for a lone GGUF file."""
    for name in ("generation_config.json", *(() if source.gguf_file else ("config.json",))):
        with suppress(OSError):  # what transformers cannot read counts as absent there too
            return GenerationConfig.from_pretrained(
                source.folder, config_file_name=name, _from_model_config=name == "config.json"
            )
    return None  # its tokenizer has the same stop token


def load_model(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> PreTrainedModel:
    """The model in evaluation mode, in the machine's precision and on its device.

    A GGUF model is de-quantised, and is an ordinary model from then on.

    Raises:
        ModelError: it cannot be loaded, or needs code that may not run.
    """
    _check_code(source, machine)
    device = pick_device(machine.device)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Two threads of one core share its arithmetic units: more threads than cores make matrix products slower.
        torch.set_num_threads(min(torch.get_num_threads(), psutil.cpu_count(logical=False) or torch.get_num_threads()))
    if not sys.stderr.isatty():
        disable_progress_bar()  # of loading weights: a log file wants lines
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source.folder,
            gguf_file=source.gguf_file,
            dtype=pick_dtype(machine),
            device_map={"": device},
            trust_remote_code=machine.trust_remote_code,
            use_safetensors=source.gguf_file is None,
            quantization_config=GgufConfig(dequantize=True) if source.gguf_file else None,
        )
    except (OSError, ValueError, KeyError, ImportError, StrictDataclassError) as error:
        raise ModelError(f"cannot load {source.name} ({source.folder}): {_first_line(error)}") from None
    model.eval()
    return cast(PreTrainedModel, model)


def _check_code(source: ModelSource, machine: MachineSettings) -> None:
    """Code from the Hub runs only at a commit that the user has named, and so can have read."""
    if not machine.trust_remote_code:
        return
    if source.commit is not None and source.revision != source.commit:
        raise ModelError(
            f"--trust-remote-code runs Python code of {source.name}, which its owner can change at any time. Read the "
            f"code at commit {source.commit}, and pin it: --model-revision, --expert-revision "
            f"or --amateur-revision {source.commit}"
        )
    _say_code(source.name, source.folder)


@cache
def _say_code(name: str, folder: Path) -> None:
    if code := sorted(path.name for path in folder.glob("*.py")):
        say(f"running code of {name}: {', '.join(code)}")


def pick_device(device: str) -> torch.device:
    """`auto` becomes cuda, mps or cpu, the first that is there.

    Raises:
        ModelError: the named device is not there.
    """
    if device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device} is not usable here: {_first_line(error)}") from None
    return chosen


def pick_dtype(machine: MachineSettings) -> torch.dtype:
    """`auto` becomes bfloat16 on a GPU that supports it, and float32 elsewhere."""
    if machine.dtype == "auto":
        on_gpu = pick_device(machine.device).type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if on_gpu else torch.float32
    chosen: torch.dtype = getattr(torch, machine.dtype)
    return chosen


def dtype_name(machine: MachineSettings) -> str:
    """The precision that `pick_dtype` picks, for fingerprints: `auto` differs between machines."""
    return str(pick_dtype(machine)).removeprefix("torch.")


def context_length(model: PreTrainedModel) -> float:
    """Tokens that the model was made for; infinite where it does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf


@dataclass(frozen=True)
class Pair:
    """Expert and amateur, loaded, with the tokens they share."""

    expert: PreTrainedModel
    amateur: PreTrainedModel
    vocabulary: SharedVocabulary

    @property
    def context_length(self) -> float:
        """Tokens that both models were made for; infinite where neither says."""
        return min(context_length(self.expert), context_length(self.amateur))


@dataclass(frozen=True)
class FoundPair:
    """Expert and amateur on this machine, before their weights are loaded."""

    config: PairConfig
    expert: ModelSource
    amateur: ModelSource

    def load(self) -> Pair:
        """Load both models, after a comparison of their tokenizers.

        Raises:
            VocabularyMismatch: see `share_vocabulary`.
            ModelError: see `load_model`.
        """
        sources, rule = (self.expert, self.amateur), self.config.vocabulary
        first, second = (load_tokenizer(source, self.config) for source in sources)
        share_vocabulary(first, second, rule=rule)  # before any weights are read
        expert, amateur = (load_model(source, self.config) for source in sources)
        widths = (logit_width(expert), logit_width(amateur))
        return Pair(expert, amateur, share_vocabulary(first, second, widths, rule))


def find_pair(config: PairConfig) -> FoundPair:
    """Find both models; see `find_model`."""
    expert = find_model(config.expert, config.expert_revision)
    return FoundPair(config, expert, find_model(config.amateur, config.amateur_revision))


def load_pair(config: PairConfig) -> Pair:
    """Find and load both models; see `find_pair` and `FoundPair.load`."""
    return find_pair(config).load()


@cache
def _download(name: str, revision: str | None) -> ModelSource:
    """Fetch a model from the Hub; one process sees one commit of it."""
    wanted: dict[str, Any] = {
        "repo_id": name,
        "allow_patterns": ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py"],
        "ignore_patterns": ["*/*"],
    }
    try:
        folder = Path(snapshot_download(**wanted, revision=hub.model_commit(name, revision)))
    except HfHubHTTPError as error:
        raise ModelError(f"the Hub refuses {name}: {_first_line(error)}") from None
    except Exception as error:  # every client library has its own idea of "no connection"
        try:
            folder = Path(snapshot_download(**wanted, revision=revision, local_files_only=True))
        except LocalEntryNotFoundError:
            raise HubUnreachable(
                f"{name} is no local folder, and the Hub does not answer ({_first_line(error)}); no copy is cached. "
                "Check the name and the network, or give a folder or a .gguf file"
            ) from None
    _refuse_pickles(name, folder)
    return ModelSource(name, folder, commit=folder.name, revision=revision)


def _refuse_pickles(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name}: no config.json in {folder}; a model folder is one that from_pretrained loads")
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        what = f"only {', '.join(others)}: pickles, which can run code when they are read" if others else "none at all"
        raise ModelError(f"{name}: needs weights in safetensors, and there are {what}. Convert the model first")


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def weights_dtype(source: ModelSource) -> str:
    """Precision that the model's configuration states for its weights; float32 for GGUF, which mixes several."""
    if source.gguf_file:
        return "float32"
    stated = json.loads((source.folder / "config.json").read_text())
    return str(stated.get("dtype") or stated.get("torch_dtype") or "float32")
