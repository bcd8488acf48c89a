"""The bytes that each token stands for, read from a tokenizer file; needs no model and no torch."""

import json
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

SPACE = "▁"  # a space in the tokens of SentencePiece
NO_SPACE_BEFORE: Mapping[str, Mapping[str, Any]] = {
    "ByteLevel": {"add_prefix_space": False},
    "Metaspace": {"prepend_scheme": "never"},
}


def _byte_alphabet() -> Mapping[str, int]:
    """GPT-2's alphabet of byte-level tokenizers: letter → byte; printable characters are their own byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()


def single_byte(piece: str) -> bytes | None:
    """The byte of a token such as `<0xF0>`, with which SentencePiece writes what it has no token for."""
    found = re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)
    return bytes.fromhex(found[1]) if found else None


class TokenBytes:
    """The bytes of the tokens of one tokenizer.

    Byte-level tokenizers (GPT-2, Llama 3, Qwen, SmolLM2) write bytes as letters. SentencePiece (Llama 2, Gemma) writes
    a space as `▁`, and bytes as `<0xF0>`. Any other kind has tokens that are their own text.

    Attributes:
        texts: bytes of each token that is text, by id.
        controls: name of each control token, such as `<|im_end|>`, by id. It stands for no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        parts = json.loads(tokenizer.to_str())
        kinds = json.dumps([parts[name] for name in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False)
        self._bytewise, self._with_spaces = "ByteLevel" in kinds, SPACE in kinds
        added = tokenizer.get_added_tokens_decoder()
        self.controls = {index: token.content for index, token in added.items() if token.special}
        self.texts = {index: token.content.encode() for index, token in added.items() if not token.special}
        pieces = tokenizer.get_vocab(with_added_tokens=False).items()
        self.texts |= {index: self._of(piece) for piece, index in pieces if index not in added}
        self._single = {index for piece, index in pieces if self._with_spaces and single_byte(piece)}
        self._tokenizer = without_space_before(parts)
        self._tokenizer.encode_special_tokens = True  # the text of a control token is text

    def _of(self, piece: str) -> bytes:
        if self._bytewise and BYTE_OF.keys() >= set(piece):
            return bytes(BYTE_OF[letter] for letter in piece)
        if not self._with_spaces:
            return piece.encode()
        return single_byte(piece) or piece.replace(SPACE, " ").encode()

    def ids_by_text(self) -> dict[bytes, int]:
        """The id of each text. Of several ids, the token is taken rather than the single byte, then the lowest id."""
        order = sorted(self.texts, key=lambda index: (index in self._single, index), reverse=True)
        return {self.texts[index]: index for index in order if self.texts[index]}

    def encode(self, text: str) -> list[int]:
        """Ids of a text that follows another one: without a beginning of text, and without a space put before it."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def without_space_before(parts: dict[str, Any]) -> Tokenizer:
    """The tokenizer without the space that some put before a text."""
    whole = {"truncation": None, "padding": None}
    changed = {
        **parts,
        **whole,
        "normalizer": _plain(parts["normalizer"]),
        "pre_tokenizer": _plain(parts["pre_tokenizer"]),
    }
    return Tokenizer.from_str(json.dumps(changed))


def _plain(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre-tokenizer that puts no space before a text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        name = "normalizers" if "normalizers" in part else "pretokenizers"
        return {**part, name: [kept for one in part[name] if (kept := _plain(one)) is not None]}
    return {**part, **NO_SPACE_BEFORE.get(part["type"], {})}
