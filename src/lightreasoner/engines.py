"""How responses are generated: token ids in, token ids out."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.errors import ModelError
from lightreasoner.runs.faults import reach
from lightreasoner.runs.progress import say
from lightreasoner.scoring import ResponseStates

TokenIds = list[int]
Item = TypeVar("Item")
Result = TypeVar("Result")


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


class PaddedEngine:
    """`generate` of transformers, all prompts as one left-padded batch: slower than `decoding`, works with any model.

    Args:
        model: the model.
        tokenizer: its tokenizer; needed for stop strings only.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `Engine.generate`."""
        width = max(map(len, prompts))
        # What a pad position holds does not matter, since the attention mask says which positions are real; the
        # mask is never guessed from the ids, where a pad token may well be a real one.
        pad = decoding.stop_ids[0] if decoding.stop_ids else 0
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
        settings = GenerationConfig(
            max_new_tokens=decoding.max_new_tokens,
            eos_token_id=list(decoding.stop_ids) or None,
            pad_token_id=pad,
            stop_strings=list(decoding.stop_strings) or None,
            do_sample=decoding.temperature > 0,
            **(
                {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": 0}
                if decoding.temperature
                else {}
            ),
        )
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(stream_seed(decoding.seed, prompts))
            output: torch.Tensor = self._model.generate(  # type: ignore[operator]
                input_ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                generation_config=settings,
                **({"tokenizer": self._tokenizer} if decoding.stop_strings else {}),
            )
        rows = output[:, width:].tolist()
        return Generation([until_stop(ids, decoding, self._tokenizer) for ids in rows])


def in_halves(
    items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]], halved: list[int] | None = None
) -> list[Result]:
    """`work(items)`; when memory runs out, the two halves one after the other, and so on.

    Args:
        items: a batch.
        work: what is done with it.
        halved: gets the size of each batch that did not fit.

    Raises:
        ModelError: memory runs out with a single item.
    """
    try:
        reach("in-batch")
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        if len(items) == 1:
            raise ModelError(
                f"out of memory with a batch of one ({str(error).partition(chr(10))[0]}); "
                "use a smaller dtype, shorter texts or a larger machine"
            ) from None
    # Outside the except block: there the traceback would keep the failed batch's tensors alive.
    clear_device_cache(garbage_collection=True)
    say(f"out of memory with a batch of {len(items)}: done again in halves")
    if halved is not None:
        halved.append(len(items))
    middle = len(items) // 2
    return in_halves(items[:middle], work, halved) + in_halves(items[middle:], work, halved)


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
