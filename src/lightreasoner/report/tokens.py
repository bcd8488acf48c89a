"""Texts of token ids, read from the tokenizer file of the expert or the merged model; no model is loaded."""

import codecs
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from tokenizers import Tokenizer

from lightreasoner.miniature import BUNDLED, model_path
from lightreasoner.models.token_bytes import BYTE_OF, single_byte


@dataclass(frozen=True)
class Token:
    """A token as printable text, and whether it is a control token, such as the end of a turn.

    The text has no characters that act on a terminal or on the direction of writing. Bytes of an incomplete character
    are in hex, such as ⟨F0 9F⟩.
    """

    text: str
    control: bool = False


class TokenTexts:
    """Texts of token ids; without a tokenizer, the ids themselves."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._added = dict(tokenizer.get_added_tokens_decoder()) if tokenizer else {}
        decoder = json.loads(tokenizer.to_str())["decoder"] if tokenizer else None
        self._bytewise = "ByteLevel" in json.dumps(decoder)
        self.control_ids = frozenset(index for index, token in self._added.items() if token.special)
        self._token = lru_cache(maxsize=1 << 16)(self._find)

    @property
    def known(self) -> bool:
        """There is a tokenizer."""
        return self._tokenizer is not None

    def token(self, index: int) -> Token:
        """The text of an id."""
        return self._token(int(index))

    def join(self, ids: Iterable[int]) -> str:
        """The text of several ids; characters made of several tokens are whole."""
        if not self._bytewise:
            return "".join(self.token(index).text for index in ids)
        return _show_bytes(b"".join(self._bytes(index) for index in ids))

    def _bytes(self, index: int) -> bytes:
        """The bytes of an id of a byte-level tokenizer."""
        assert self._tokenizer is not None
        piece = None if index in self._added or index < 0 else self._tokenizer.id_to_token(index)
        if piece is None or not BYTE_OF.keys() >= set(piece):
            return self.token(index).text.encode()
        return bytes(BYTE_OF[letter] for letter in piece)

    def _find(self, index: int) -> Token:
        if index < 0:  # an imported sample may lack a token
            return Token("⟨?⟩")
        if index in self._added:
            return Token(visible(self._added[index].content), self._added[index].special)
        piece = self._tokenizer.id_to_token(index) if self._tokenizer else None
        if piece is None:
            return Token(f"⟨{index}⟩")
        if self._bytewise and BYTE_OF.keys() >= set(piece):
            return Token(_show_bytes(self._bytes(index)))
        if (byte := single_byte(piece)) is not None:
            return Token(_show_bytes(byte))
        return Token(visible(piece if self._bytewise else piece.replace("▁", " ")))


def visible(text: str) -> str:
    """The text with all invisible characters replaced, except line breaks and tabs.

    Control characters (as in ANSI escapes), marks of the direction of writing, and Unicode's line separators become
    texts such as ⟨U+202E⟩.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter in "\n\t" or letter.isprintable() or unicodedata.category(letter) == "Zs"  # Zs: blanks of all widths
        else f"⟨U+{ord(letter):04X}⟩"
        for letter in text
    )


def find_texts(places: Iterable[tuple[str, str | None]]) -> TokenTexts:
    """The texts of the first of these models that has a tokenizer file on this machine.

    Args:
        places: names and revisions of models: `miniature/NAME`, a folder, or a Hub id in the cache. A GGUF file has
            no tokenizer file.
    """
    for name, revision in places:
        path = _tokenizer_file(name, revision)
        if path is not None:
            try:
                return TokenTexts(Tokenizer.from_file(str(path)))
            except Exception:  # noqa: S112  (the library raises bare exceptions; the report then shows ids)
                continue
    return TokenTexts(None)


def _tokenizer_file(name: str, revision: str | None) -> Path | None:
    folder = Path(name).expanduser()
    if name in BUNDLED and not folder.exists():
        folder = model_path(name)
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    cached = try_to_load_from_cache(name, "tokenizer.json", revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def _hex(error: UnicodeError) -> tuple[str, int]:
    """Bytes of an incomplete character in hex."""
    assert isinstance(error, UnicodeDecodeError)
    return f"⟨{error.object[error.start : error.end].hex(' ').upper()}⟩", error.end


codecs.register_error("lightreasoner.hex", _hex)


def _show_bytes(content: bytes) -> str:
    return visible(content.decode(errors="lightreasoner.hex"))
