"""How responses are generated: token ids in, token ids out."""

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from lightreasoner.inference.scoring import ResponseStates

TokenIds = list[int]


@dataclass(frozen=True)
class Decoding:
    """How the next token is chosen. Nothing else has a say: a model's own generation settings are ignored.

    Attributes:
        max_new_tokens: length at which a response is cut off.
        stop_ids: tokens that end a response; the response keeps the one that ended it.
        stop_strings: texts that end a response; the response keeps the token that completed it.
        temperature: 0 is greedy.
        top_p: nucleus, with a temperature only.
        seed: with a temperature only; each prompt list has its own stream of it.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What an engine made of a batch of prompts.

    Attributes:
        responses: token ids of each response, in the order of the prompts; stop token included, nothing after it.
        states: what the model computed on the way, which saves a pass of scoring; None where an engine cannot say.
    """

    responses: list[TokenIds]
    states: ResponseStates | None = None


class Engine(Protocol):
    """Generates responses to a batch of prompts."""

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """A response to each prompt."""
        ...


def until_stop(ids: TokenIds, decoding: Decoding, tokenizer: PreTrainedTokenizerBase | None) -> TokenIds:
    """The response up to its stop token, or to the token that completes a stop string; else all of it."""
    end = next((place + 1 for place, token in enumerate(ids) if token in decoding.stop_ids), len(ids))
    if not decoding.stop_strings:
        return ids[:end]
    assert tokenizer is not None

    def spells_one(length: int) -> bool:
        text = str(tokenizer.decode(ids[:length], skip_special_tokens=True))
        return any(stop in text for stop in decoding.stop_strings)

    lengths = range(1, end + 1)
    place = bisect_left(lengths, True, key=spells_one)  # longer beginnings spell out what shorter ones do
    return ids[: lengths[place]] if place < end else ids[:end]


def stream_seed(seed: int, prompts: Sequence[TokenIds]) -> int:
    """A seed of its own for each batch, so that a resumed run draws what the uninterrupted one would have."""
    digest = hashlib.sha256(f"{seed} {list(prompts)}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
