"""The sizes of a model, from its config.json alone; nothing is loaded."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightreasoner.data import hub
from lightreasoner.errors import HubUnreachable, ModelError
from lightreasoner.miniature import MODELS, model_path


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder of the Llama kind, which most are."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head: int
    tied: bool
    dtype: str

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str) -> "Shape":
        """From the content of a config.json.

        Raises:
            ModelError: it lacks a size, or the model is of another kind.
        """
        text = config.get("text_config") or config
        if not isinstance(text, Mapping):
            text = {}
        if text.get("num_experts") or text.get("num_local_experts"):
            raise ModelError(
                f"{name} is a mixture of experts, which a plan does not know how to count; try a small run"
            )
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
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            raise ModelError(f"the config.json of {name} does not tell its sizes, so nothing can be planned") from None

    def module(self, name: str) -> tuple[int, int]:
        """Width in and out of a linear layer, by its usual name."""
        queries, keys = self.heads * self.head, self.key_value_heads * self.head
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }.get(name, (self.hidden, self.hidden))

    @property
    def parameters(self) -> int:
        """All weights; biases and norms, some 0.1 %, are left out."""
        names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        layer = sum(math.prod(self.module(name)) for name in names)
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def lora(self, rank: int, targets: tuple[str, ...]) -> int:
        """Weights of a LoRA update."""
        return self.layers * sum(rank * sum(self.module(name)) for name in targets)

    def cache(self, tokens: int, width: int) -> int:
        """Bytes of keys and values."""
        return 2 * self.layers * self.key_value_heads * self.head * tokens * width


def read_config(name: str, revision: str | None) -> dict[str, Any]:
    """The config.json of a model, which is fetched alone where it is on the Hub.

    Raises:
        ModelError: there is none.
        HubUnreachable: the Hub does not answer.
    """
    collection, _, member = name.partition("/")
    folder = model_path(member) if collection == "miniature" and member in MODELS else Path(name).expanduser()
    file = folder / "config.json"
    if not folder.exists() and hub.is_repository(name):
        file = _fetch(name, revision)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: no readable config.json ({error}); a plan needs it, and .gguf has none") from None
    return dict(content) if isinstance(content, dict) else {}


def _fetch(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        if not hub.is_offline():
            revision = HfApi().model_info(name, revision=revision, timeout=hub.TIMEOUT).sha
        return Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=hub.is_offline()))
    except Exception as error:  # every client library has its own idea of "no connection"
        raise HubUnreachable(
            f"the config.json of {name} is on the Hub, and it cannot be had ({type(error).__name__}). Check the name "
            "and the network, or give a folder"
        ) from None
