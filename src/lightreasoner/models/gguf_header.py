"""The header of a GGUF file: its sizes under the names of a config.json, without the weights.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` reads an array value by value
through NumPy, which takes seconds for a vocabulary; this steps over long arrays.
"""

import math
import mmap
import struct
from functools import cache
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType

from lightreasoner.errors import ModelError

# Values by type number: u8, i8, u16, i16, u32, i32, f32, bool, text, array, u64, i64, f64.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
MOST_SIDES = 4  # of a tensor, in the format
LONGEST_ARRAY = 1024  # values; longer arrays are vocabularies, of which only the length matters

# Keys behind the architecture's name, and what config.json calls them.
SIZES = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.kv_lora_rank": "kv_lora_rank",
    "context_length": "max_position_embeddings",
    "expert_count": "num_experts",
    "ssm.state_size": "state_size",
}
TOKENS = "tokenizer.ggml.tokens"
ROPE_FACTORS = ("rope_freqs.", "rope_factors_")  # tensors: one factor for each angle


class _Reader:
    """Reads little-endian values from a buffer, one after another."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at = content, 4  # behind the magic number

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._content, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        start, self._at = self._at, self._at + length
        if self._at > len(self._content):
            raise ValueError("a text is longer than the file")
        return self._content[start : self._at].decode("utf-8", "replace")

    def skip_text(self) -> None:
        self._at += 8 + struct.unpack_from("<Q", self._content, self._at)[0]

    def value(self) -> Any:
        """A value with its type; of a long array the length."""
        return self._of_type(self.number("I"))

    def _of_type(self, kind: int) -> Any:
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.number(NUMBERS[kind])
        inner, length = self.number("I"), self.number("Q")
        if length <= LONGEST_ARRAY:
            return [self._of_type(inner) for _ in range(length)]
        if inner == TEXT:
            for _ in range(length):
                self.skip_text()
        else:
            self._at += length * struct.calcsize(f"<{NUMBERS[inner]}")
        return length


def gguf_config(path: Path) -> dict[str, Any]:
    """The sizes in the header of a GGUF file, by the names of a config.json.

    Besides, `gguf_split` names how a byte-level tokenizer cuts texts before it merges, `gguf_scaling` how the angles of
    rotary positions are scaled, `gguf_parameters` is the number of weights, `gguf_quantisation` the form of most of
    them, `gguf_bytes` the size of the file, and `gguf_licence` the licence. What the header does not give has no key.

    Raises:
        ModelError: the file cannot be read, or is not a GGUF file.
    """
    try:
        stat = path.stat()
        return dict(_read(path, stat.st_mtime_ns, stat.st_size))
    except (OSError, ValueError, KeyError, struct.error, MemoryError, RecursionError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelError(f"{path}: no readable header of a GGUF file ({why}); download it again") from None


@cache
def _read(path: Path, modified: int, size: int) -> dict[str, Any]:
    """`modified` and `size` are those of the file: a changed file is read again."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        reader = _Reader(content)
        if (version := reader.number("I")) not in (2, 3):
            raise ValueError(f"version {version}; versions 2 and 3 are known")
        tensors, entries = reader.number("Q"), reader.number("Q")
        keys: dict[str, Any] = {}
        for _ in range(entries):
            name = reader.text()
            keys[name] = reader.value()
        shapes: dict[str, list[int]] = {}
        weights: dict[int, int] = {}
        for _ in range(tensors):
            name = reader.text()
            if (sides := reader.number("I")) > MOST_SIDES:
                raise ValueError(f"{name} has {sides} dimensions")
            shapes[name] = [reader.number("Q") for _ in range(sides)]
            kind, _ = reader.number("I"), reader.number("Q")  # and the place of its weights
            weights[kind] = weights.get(kind, 0) + math.prod(shapes[name])
    kinds = {kind: GGMLQuantizationType(kind).name for kind in sorted(weights, key=lambda kind: -weights[kind])}
    return _as_config(keys, shapes) | {
        "gguf_bytes": size,
        "gguf_parameters": sum(weights.values()),
        "gguf_quantisation": next(iter(kinds.values()), None),
    }


def _as_config(keys: dict[str, Any], shapes: dict[str, list[int]]) -> dict[str, Any]:
    architecture = keys.get("general.architecture")
    found = {name: keys[f"{architecture}.{key}"] for key, name in SIZES.items() if f"{architecture}.{key}" in keys}
    embedding = shapes.get("token_embd.weight")
    tokens = keys.get(TOKENS)
    vocabulary = embedding[1] if embedding and len(embedding) == 2 else tokens
    licence = keys.get("general.license")
    split = keys.get("tokenizer.ggml.pre") if keys.get("tokenizer.ggml.model") == "gpt2" else None
    scaling = next((name for name in sorted(shapes) if name.startswith(ROPE_FACTORS)), None)
    if scaling is None and keys.get(f"{architecture}.rope.scaling.factor", 0) != 1:
        scaling = keys.get(f"{architecture}.rope.scaling.type")
    return {
        **found,
        **({"gguf_scaling": scaling} if scaling not in (None, "none") else {}),
        **({"gguf_split": split} if isinstance(split, str) else {}),
        **({"gguf_licence": licence} if isinstance(licence, str) else {}),
        "model_type": architecture,
        "vocab_size": len(vocabulary) if isinstance(vocabulary, list) else vocabulary,
        "tie_word_embeddings": "output.weight" not in shapes,
    }
