"""Models and tokenizers: find them, load them, check that two of them share one vocabulary."""

import hashlib
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from lightreasoner.config import MachineSettings, PairConfig
from lightreasoner.data import hub
from lightreasoner.errors import HubUnreachable, LightReasonerError, ModelError
from lightreasoner.miniature import MODELS, model_path
from lightreasoner.models.generation_config import generation_settings, quiet
from lightreasoner.models.shape import read_config
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, share_vocabulary
from lightreasoner.models.weights import (
    refuse_nonfinite,
    refuse_pointers,
    refuse_wrong_weights,
    weights_in_files,
)
from lightreasoner.runs.progress import say

WHOLE_FILE_HASH = 256 << 20  # larger weight files are hashed in windows

HASH_WINDOWS, HASH_WINDOW = 1024, 64 << 10
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
        """Hash of the content: weights, configuration, tokenizer. Two models with equal content are the same model.

        Weight files over 256 MiB are hashed in 1024 windows spread evenly over the file, so that a 15 GB model
        costs the reading of 64 MB a file; a fine-tuned copy differs in nearly every window that holds tuned weights.
        """
        digest = hashlib.sha256()
        for path in self._content_files():
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            for block in _blocks(path):
                digest.update(block)
        return digest.hexdigest()

    def _content_files(self) -> list[Path]:
        if self.gguf_file:
            return [self.folder / self.gguf_file]
        names = "*.safetensors config.json tokenizer.json tokenizer.model vocab.json merges.txt *.py".split()
        return sorted(path for pattern in names for path in self.folder.glob(pattern))


def find_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model: `miniature/NAME`, a folder, a .gguf file, or a Hub id, which is downloaded if need be.

    Raises:
        ModelError: there is no such model, its weights are only there as pickles, or the folder holds an adapter.
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
        refuse_pointers(name, [path])
        return ModelSource(name, path.parent, gguf_file=path.name)
    if path.is_dir():
        _check_files(name, path)
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
    with _loading(f"the tokenizer of {source.name}"):
        return AutoTokenizer.from_pretrained(
            source.folder, gguf_file=source.gguf_file, trust_remote_code=machine.trust_remote_code
        )


def load_model(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> PreTrainedModel:
    """The model in evaluation mode, in the machine's precision and on its device.

    A GGUF model is de-quantised, and is an ordinary model from then on.

    Raises:
        ModelError: it cannot be loaded, its files lack weights or hold weights without a place (see
            `refuse_wrong_weights`), or it needs code that may not run.
    """
    _check_code(source, machine)
    device = pick_device(machine.device)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # Two threads of one core share its arithmetic units: more threads than cores make matrix products slower.
        torch.set_num_threads(min(torch.get_num_threads(), psutil.cpu_count(logical=False) or torch.get_num_threads()))
    if not sys.stderr.isatty():
        disable_progress_bar()  # of loading weights: a log file wants lines
    if source.gguf_file is None:
        weights_in_files(source.name, source.folder)  # says more about a damaged file than the loader
    generation, _ = generation_settings(source.name, source.folder) if source.gguf_file is None else (None, [])
    with _loading(f"{source.name} ({source.folder})"):
        read: Any = AutoModelForCausalLM.from_pretrained(
            source.folder,
            gguf_file=source.gguf_file,
            dtype=pick_dtype(machine),
            device_map={"": device},
            trust_remote_code=machine.trust_remote_code,
            use_safetensors=source.gguf_file is None,
            generation_config=generation,
            ignore_mismatched_sizes=True,  # so that `loaded` names them
            output_loading_info=True,
            # None would replace what config.json says about quantised weights.
            **({"quantization_config": GgufConfig(dequantize=True)} if source.gguf_file else {}),
        )
    model, loaded = read
    refuse_wrong_weights(source.name, model, loaded)
    refuse_nonfinite(source.name, model)
    model.eval()
    return cast(PreTrainedModel, model)


def empty_model(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> PreTrainedModel:
    """The model without its weights: the modules and shapes that its configuration asks for, on the device `meta`.

    Raises:
        ModelError: its configuration is not one of a language model, or needs code that may not run.
    """
    _check_code(source, machine)
    with _loading(f"the configuration of {source.name}"), torch.device("meta"):
        config = AutoConfig.from_pretrained(
            source.folder, gguf_file=source.gguf_file, trust_remote_code=machine.trust_remote_code
        )
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=machine.trust_remote_code
        )
    return cast(PreTrainedModel, model)


def check_weights(source: ModelSource, machine: MachineSettings = ANY_MACHINE) -> int | None:
    """Compare the names and shapes in the weight files with those that the configuration asks for.

    Reads the files' headers only, which takes milliseconds; `load_model` makes the same comparison.

    Returns:
        Number of weights; None where the headers do not tell: GGUF, quantised models, and code that may not run.

    Raises:
        ModelError: see `load_model`.
    """
    if source.gguf_file:
        return None
    config = read_config(str(source.folder), None)
    needs_code = "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING
    if "quantization_config" in config or (needs_code and not machine.trust_remote_code):
        return None
    found = weights_in_files(source.name, source.folder)
    generation_settings(source.name, source.folder)
    empty = empty_model(source, machine)
    with _loading(source.name), _without_bar():
        # The loader itself, since it renames weights of many architectures.
        read: Any = type(empty).from_pretrained(
            None,
            config=empty.config,
            state_dict=found,
            device_map={"": "meta"},
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    refuse_wrong_weights(source.name, *read)
    return len(found)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Without the progress bar of loading weights, where none are read."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Name what is being loaded in any error of the libraries; a damaged file makes them raise all kinds."""
    try:
        with quiet():
            yield
    except (MemoryError, LightReasonerError):
        raise
    except Exception as error:
        line = _first_line(error)
        kind = "" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: "
        raise ModelError(f"cannot load {what}: {kind}{line}") from error


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
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind in there if there[kind]))
    kind, colon, number = device.partition(":")
    if kind not in there or (colon and not number.isdecimal()):
        raise ModelError(f"device {device} is not known; use auto, cpu, cuda, cuda:N or mps")
    if not there[kind]:
        usable = ", ".join(name for name in there if there[name])
        raise ModelError(f"device {device} is not usable here: PyTorch {torch.__version__} finds {usable} only")
    if kind == "cuda" and int(number or 0) >= (count := torch.cuda.device_count()):
        raise ModelError(f"device {device} is not usable here: there are {count} CUDA devices, counted from cuda:0")
    return torch.device(kind, int(number)) if number else torch.device(kind)


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
        raise ModelError(f"{name}: no config.json in {folder}; a model folder is one that from_pretrained loads")
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
    with path.open("rb") as file:
        if size <= WHOLE_FILE_HASH:
            while block := file.read(1 << 20):
                yield block
            return
        for window in range(HASH_WINDOWS):
            file.seek(window * (size - HASH_WINDOW) // (HASH_WINDOWS - 1))
            yield file.read(HASH_WINDOW)


def _first_line(error: Exception) -> str:
    first, _, others = str(error).strip().partition("\n")
    if first.endswith(":"):  # the reason stands in the next line
        first = f"{first} {others.strip().partition(chr(10))[0]}"
    return first or type(error).__name__


def weights_dtype(source: ModelSource) -> str:
    """Precision that the model's configuration states for its weights; float32 for GGUF, which mixes several."""
    if source.gguf_file:
        return "float32"
    stated = read_config(str(source.folder), None)
    return str(stated.get("dtype") or stated.get("torch_dtype") or "float32")
