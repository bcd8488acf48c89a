"""The sizes of a model, from its config.json, without loading it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lightreasoner.data import hub
from lightreasoner.errors import HubUnreachable, ModelError
from lightreasoner.miniature import BUNDLED, model_path
from lightreasoner.models.gguf_header import gguf_config

KNOWN_SHAPES = Path(__file__).parent / "known_shapes.yaml"
SIZES = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads".split()
EXPERTS = "num_experts num_local_experts n_routed_experts moe_num_experts".split()
ATTENTION = {"attention", "full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder with Llama's architecture, like most models."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    tied: bool
    dtype: str
    gguf: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str) -> "Shape":
        """Read the content of a config.json.

        Raises:
            ModelError: a size is missing, or the model has another architecture.
        """
        text = config.get("text_config") or config
        if not isinstance(text, Mapping):
            text = {}
        if unlike := _unlike_llama(text):
            raise ModelError(f"{name} {unlike}, which `plan` does not support; time a small run instead")
        try:
            heads = int(text["num_attention_heads"])
            return cls(
                vocabulary=int(text["vocab_size"]),
                hidden=int(text["hidden_size"]),
                intermediate=int(text["intermediate_size"]),
                layers=int(text["num_hidden_layers"]),
                heads=heads,
                key_value_heads=int(text.get("num_key_value_heads") or heads),
                head=int(text.get("head_dim") or text["hidden_size"] // heads),
                tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
                dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
                gguf="gguf_bytes" in config,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            missing = [size for size in SIZES if not isinstance(text.get(size), int) or not text[size]]
            raise ModelError(
                f"the config.json of {name} lacks a size (no number for {', '.join(missing or ['head_dim'])}), so "
                "`plan` cannot estimate it; time a small run instead"
            ) from None

    @property
    def _linear_layers(self) -> dict[str, tuple[int, int]]:
        """Input and output width of the linear layers, by their usual names."""
        queries, keys = self.heads * self.head, self.key_value_heads * self.head
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def head_weights(self) -> int:
        """Number of weights of the embedding and the LM head."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Number of weights, without biases and norms (about 0.1 %)."""
        return self.layers * sum(map(math.prod, self._linear_layers.values())) + self.head_weights

    def lora(self, rank: int, targets: tuple[str, ...]) -> int:
        """Number of weights of a LoRA adapter."""
        square = (self.hidden, self.hidden)
        return self.layers * sum(rank * sum(self._linear_layers.get(name, square)) for name in targets)

    def cache(self, tokens: int, width: int) -> int:
        """Bytes of the KV cache for `tokens` tokens of `width` bytes a value."""
        return 2 * self.layers * self.key_value_heads * self.head * tokens * width


def known_parameters(config: Mapping[str, Any], name: str) -> int | None:
    """`Shape.parameters` of the model with this config.json; None of an architecture that `Shape` does not know."""
    try:
        return Shape.of(config, name).parameters
    except ModelError:
        return None


def _unlike_llama(config: Mapping[str, Any]) -> str | None:
    """What a model has that `Shape` leaves out, as a predicate; None if there is nothing."""
    if any(config.get(key) for key in EXPERTS):
        return "is a mixture of experts"
    kinds = {kind for key in ("layer_types", "layers_block_type", "block_types") for kind in config.get(key) or ()}
    if kinds - ATTENTION or any("mamba" in key or key == "state_size" for key in config):
        return "has layers without attention"
    return "stores compressed keys and values" if config.get("kv_lora_rank") else None


def read_config(name: str, revision: str | None) -> dict[str, Any]:
    """Read the config.json of a model, or the sizes in the header of its GGUF file.

    Of a model on the Hub only config.json is downloaded, and nothing at all of those in known_shapes.yaml.

    Raises:
        ModelError: there is no readable config.json or header.
        HubUnreachable: the Hub does not answer.
    """
    folder = model_path(name) if name in BUNDLED else Path(name).expanduser()
    if folder.suffix == ".gguf":
        return gguf_config(folder)
    file = folder / "config.json"
    if revision is None and not folder.exists() and name in (known := known_shapes()):
        return dict(known[name])
    if not folder.exists() and hub.is_repository(name):
        file = _fetch(name, revision)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name}: no readable config.json ({error}); give a folder with one, a .gguf file or a Hub id"
        ) from None
    return dict(content) if isinstance(content, dict) else {}


@cache
def known_shapes() -> Mapping[str, Mapping[str, Any]]:
    """The sizes of the models of the bundled recipes, by Hub id."""
    import yaml

    entries = yaml.safe_load(KNOWN_SHAPES.read_text(encoding="utf-8"))
    return {name: entry["config"] for entry in entries for name in entry["models"]}


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        if hub.is_offline():
            return Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=True))
        return Path(hub.download(name, revision, lambda commit: hf_hub_download(name, "config.json", revision=commit)))
    except Exception as error:  # each client library raises its own type for "no connection"
        raise HubUnreachable(
            f"cannot download the config.json of {name} from the Hub ({type(error).__name__}). Check the name and the "
            "network, or give a folder"
        ) from None
