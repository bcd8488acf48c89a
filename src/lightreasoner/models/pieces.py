"""Token ids of a piece of a text, as the tokenizer gives them inside the whole text.

Tokenizers of SentencePiece (Llama 2, TinyLlama, Mistral) put a space before a text, so a piece that is encoded alone
begins with a space that the whole text does not have. Where they put it differs: before the whole text only, or behind
every control token too.
"""

import json
import re
from collections.abc import Callable
from functools import cached_property

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lightreasoner.models.token_bytes import SPACE, without_space_before

_SPACES = (SPACE, "Ġ")  # as SentencePiece and byte-level tokenizers write one


class Pieces:
    """Encodes pieces of texts with one tokenizer, without a beginning or end of text.

    Attributes:
        controls: the text of each control token, such as `<|im_end|>`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        tokens = (token.content for token in tokenizer.added_tokens_decoder.values())
        self.controls = tuple(token for token in tokens if token.strip())
        self._control = re.compile("|".join(map(re.escape, self.controls)) or r"(?!)")

    def ids(self, text: str) -> list[int]:
        """Ids of a whole text, or of its beginning."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def following(self, text: str) -> list[int]:
        """Ids of a text that follows other text, which is no control token: no space is put before it."""
        return self._without_space(text) if self.adds_space else self.ids(text)

    def behind(self, before: str, text: str) -> list[int]:
        """Ids of a text behind another one, whose own ids stay as they are.

        A token that the tokenizer would make across the border is not used.
        """
        known, whole = self.ids(before), self.ids(before + text)
        return whole[len(known) :] if whole[: len(known)] == known else self.following(text)

    def control_at(self, text: str) -> int:
        """Where the first control token begins; the end of the text if there is none."""
        found = self._control.search(text)
        return found.start() if found else len(text)

    def cut(self, text: str) -> list[str]:
        """The text in pieces without control tokens: each one is cut after its first character."""
        pieces: list[str] = []
        if not any(control in text for control in self.controls):  # faster than one search for all of thousands
            return [text]
        while (start := self.control_at(text)) < len(text):
            pieces.append(text[: start + 1])
            text = text[start + 1 :]
        return [*pieces, text]

    @cached_property
    def adds_space(self) -> bool:
        """Whether the tokenizer puts a space before a text."""
        first = self._tokenizer.convert_ids_to_tokens(self.ids("a")[:1])
        return str(first[0]).startswith(_SPACES) if first else False

    @cached_property
    def _without_space(self) -> Callable[[str], list[int]]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            return self.ids
        changed = without_space_before(json.loads(backend.to_str()))
        return lambda text: list(changed.encode(text, add_special_tokens=False).ids)
