"""A text in the tokens of two models: where both begin a token, their next-token distributions can be compared.

The amateur reads the question in its own prompt, and the expert's response in its own tokens. Before the expert's token
t, the response so far is a string of bytes. If a token of the amateur begins at the same byte, both models predict what
follows the same text, and the step is *aligned*. Elsewhere the amateur is in the middle of a token and the step is not
scored. The distributions are restricted to the tokens that are the same bytes in both models, and renormalised:
see `models.vocabulary.AlignedVocabulary`.

The amateur's tokens are those of the whole response, as it would read it in training. So where a token of it ends tells
a little of what follows: a boundary before `th` says that no token with the letters before it continues so (the
tokenisation bias of arXiv 2410.09303). Both models are conditioned on their own tokens in this way.

A control token has no text. The same name in both models is the same token, and so are the two ends of an answer (the
expert's end of turn and the amateur's), whatever their names. At any other control token the amateur stops reading; so
it does at bytes that are no UTF-8, and where its tokenizer changes the text (such as a normaliser that composes é).

Where one prompt leaves a space to the response and the other does not (`[/INST]` of Llama 2, "Answer:" of the plain
form), each model reads its own form. A first token with the space in it has no counterpart then and is not scored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from os.path import commonprefix

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lightreasoner.errors import VocabularyMismatch
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.token_bytes import TokenBytes
from lightreasoner.models.vocabulary import AlignedVocabulary

# A response as models write it, to judge a pair of tokenizers before a model is loaded.
PROBE = """To find the total cost, we first work out the price of one ticket: $12.50 - $3.75 = $8.75.

1. The family buys 4 adult tickets, so 4 \\times 8.75 = 35.00.
2. Children's tickets cost half as much: 3 \\times \\frac{8.75}{2} = 13.125.

Therefore the total is 35 + 13.125 = 48.125, which rounds to \\$48.13. Since x^2 - 5x + 6 = (x - 2)(x - 3), the roots \
are x = 2 and x = 3 (approximately 100% of the cases).

The final answer is \\boxed{48.13}."""


@dataclass(frozen=True)
class Reading:
    """What the amateur reads in the place of the expert's tokens.

    Attributes:
        prompt_ids: its own prompt.
        response_ids: the response in its tokens, with one more id behind, which no step reads.
        places: for each of the expert's tokens, the one of `response_ids` that begins at the same byte; −1 where none
            does.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    places: list[int]


class Alignment:
    """The texts of an expert in the tokens of an amateur with another tokenizer.

    Args:
        expert: the expert's prompts.
        amateur: the amateur's prompts.

    Attributes:
        vocabulary: the tokens that are the same in both.

    Raises:
        VocabularyMismatch: a tokenizer does not say what bytes its tokens are, or no token is the same.
    """

    def __init__(self, expert: PromptTemplate, amateur: PromptTemplate) -> None:
        self._expert, self._amateur = (_bytes_of(template.tokenizer) for template in (expert, amateur))
        blanks = expert.before_answer.encode(), amateur.before_answer.encode()
        self._blanks = blanks if blanks[0] != blanks[1] else (b"", b"")
        self._end = amateur.answer_end()
        self._controls = self._common_controls(expert.answer_end())
        self._same_ids = _have_same_ids(expert.tokenizer, amateur.tokenizer)
        self.vocabulary = self._vocabulary()

    def read(self, prompt: list[int], response: Sequence[int], context: float = math.inf) -> Reading:
        """A response of the expert in the amateur's tokens.

        Args:
            prompt: what the amateur reads before it, in its own tokens.
            response: the expert's token ids.
            context: tokens that the amateur was made for; it reads no further.
        """
        ids, places = self._read(response)
        fitting = int(max(0, min(len(ids), context - len(prompt))))
        places = [place if place <= fitting else -1 for place in places]
        return Reading(prompt, [*ids[:fitting], 0], places)

    def shares(self, text: str = PROBE) -> tuple[float, float]:
        """Of the expert's tokens of a text: the share that is aligned, and the share that the amateur has too."""
        ids = self._expert.encode(text)
        _, places = self._read(ids)
        known = self.vocabulary.holds(torch.tensor(ids))
        return sum(place >= 0 for place in places) / len(ids), float(known.double().mean())

    def _common_controls(self, end: int | None) -> dict[int, int]:
        """Control tokens of both, by the expert's id. A name counts once, and the end of an answer before its name."""
        common = {} if end is None or self._end is None else {end: self._end}
        by_name = {name: index for index, name in self._amateur.controls.items()}
        for index, name in self._expert.controls.items():
            partner = by_name.get(name)
            if partner is not None and index not in common and partner not in common.values():
                common[index] = partner
        return common

    def _vocabulary(self) -> AlignedVocabulary:
        theirs, taken = self._amateur.ids_by_text(), set(self._controls.values())
        texts = ((index, theirs.get(text)) for text, index in self._expert.ids_by_text().items())
        common = {index: partner for index, partner in texts if partner is not None and partner not in taken}
        common |= self._controls
        if self._same_ids:
            common = {index: index for index in (*self._expert.texts, *self._expert.controls)}
        if not common:
            raise VocabularyMismatch(
                "no token is the same text in both models, so nothing of their distributions can be compared. Choose "
                "another amateur"
            )
        ids = sorted(common)
        expert, amateur = (torch.tensor(sorted((*one.texts, *one.controls))) for one in (self._expert, self._amateur))
        return AlignedVocabulary(
            torch.tensor(ids),
            len(expert) - len(ids),
            amateur_ids=torch.tensor([common[index] for index in ids]),
            expert_tokens=expert,
            amateur_tokens=amateur,
        )

    def _read(self, response: Sequence[int]) -> tuple[list[int], list[int]]:
        """The amateur's ids of a response, and the place among them of each of the expert's tokens, or −1."""
        if self._same_ids:  # a model can write other tokens than its tokenizer would
            return list(response), list(range(len(response)))
        ids: list[int] = []
        places: list[int] = []
        for is_text, run in groupby(response, key=self._is_text):
            if not is_text:
                for index in run:
                    places.append(len(ids))
                    if index not in self._controls:
                        return ids, [*places, *[-1] * (len(response) - len(places))]
                    ids.append(self._controls[index])
                continue
            pieces = [self._expert.texts[index] for index in run]
            text = b"".join(pieces)
            blanks, others = (b"", b"") if places else self._blanks
            dropped = len(blanks) if text.startswith(blanks) else 0
            text = others + text[dropped:]
            inside, starts, read = self._in_amateur(text)
            begins = accumulate(map(len, pieces[:-1]), initial=len(others) - dropped)
            places += [len(ids) + starts[byte] if byte in starts else -1 for byte in begins]
            ids += inside
            if read < len(text):
                break
        return ids, [*places, *[-1] * (len(response) - len(places))]

    def _is_text(self, index: int) -> bool:
        return index in self._expert.texts and index not in self._controls

    def _in_amateur(self, text: bytes) -> tuple[list[int], dict[int, int], int]:
        """The amateur's ids of a text, which of them begins at which byte, and how far they are this text."""
        try:
            readable = text.decode()
        except UnicodeDecodeError as error:
            readable = text[: error.start].decode()
        ids = self._amateur.encode(readable)
        pieces = [self._amateur.texts.get(index, b"") for index in ids]
        same = len(commonprefix([b"".join(pieces), text]))  # noqa: RUF071 - of bytes, not of paths
        begins = accumulate(map(len, pieces), initial=0)
        return ids, {byte: place for place, byte in enumerate(begins) if byte <= same}, same


def _have_same_ids(expert: PreTrainedTokenizerBase, amateur: PreTrainedTokenizerBase) -> bool:
    return bool(expert.get_vocab() == amateur.get_vocab())


def _bytes_of(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise VocabularyMismatch(
            f"the tokenizer {type(tokenizer).__name__} does not say which bytes its tokens are (it has no "
            "tokenizer.json), so no text can be aligned. Choose another model"
        )
    return TokenBytes(backend)
