"""The engine contract: token ids in, token ids out."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StopStringCriteria

from lightreasoner.errors import ModelError
from lightreasoner.inference.packing import moved
from lightreasoner.inference.scoring import ResponseStates
from lightreasoner.runs.progress import warn

TokenIds = list[int]
CHECK_EVERY = 8  # on an accelerator


@dataclass(frozen=True)
class Decoding:
    """All settings of decoding; a model's own generation config is ignored.

    Attributes:
        max_new_tokens: length at which a response is cut off.
        stop_ids: tokens that end a response, and stay in it.
        stop_strings: texts that end a response; the token that completes one stays in it.
        temperature: 0 is greedy.
        top_p: nucleus sampling; used with a temperature only.
        seed: used with a temperature only; each batch of prompts has its own random stream.
    """

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 42
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """The responses to a batch of prompts.

    Attributes:
        responses: token ids of each response up to and including its stop token, in the order of the prompts.
        states: hidden states of the responses, which save a scoring pass; None if the engine does not keep them.
        nonfinite: number of responses with a token that was chosen from NaN or infinite logits; 0 from an engine that
            does not show its logits.
    """

    responses: list[TokenIds]
    states: ResponseStates | None = None
    nonfinite: int = 0

    def finite_responses(self) -> list[TokenIds]:
        """The responses, for judges; a warning says how many were chosen from NaN or infinite logits.

        Scoring has a check of its own; see `samples.sampler.check_finite`.

        Raises:
            ModelError: most of them were.
        """
        if self.nonfinite:
            found = (
                f"{self.nonfinite} of {len(self.responses)} answers of a batch have NaN or infinite logits, so they "
                "mean nothing"
            )
            if self.nonfinite > len(self.responses) / 2:
                raise ModelError(f"{found}; the model does not work in this precision. Try --dtype float32")
            warn(f"{found}; they will hardly be right. Try --dtype float32")
        return self.responses


class Engine(Protocol):
    """Generates responses to a batch of prompts."""

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """Generate a response to each prompt."""
        ...


def steps_between_checks(device: torch.device) -> int:
    """Steps between checks for finished rows; a check makes the host wait for an accelerator."""
    return 1 if device.type == "cpu" else CHECK_EVERY


class StopCheck:
    """Finds rows that end with a stop token or a stop string: response ids [B, t] → bool [B]."""

    def __init__(self, decoding: Decoding, tokenizer: PreTrainedTokenizerBase | None, device: torch.device) -> None:
        self._stop_ids = torch.tensor(decoding.stop_ids, dtype=torch.long, device=device)
        strings = decoding.stop_strings
        self._ends_text = text_check(strings, tokenizer) if strings and tokenizer else None

    def __call__(self, tokens: Tensor) -> Tensor:
        """Check the newest token of each row."""
        finished = torch.isin(tokens[:, -1], self._stop_ids)
        return finished | self._ends_text(tokens, None) if self._ends_text else finished


def text_check(strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Callable[[Tensor, Any], Tensor]:
    """A check for rows that have just completed a stop string, as transformers' `generate` takes it.

    `StopStringCriteria` looks the ends of texts up by token, without leaving the device. It refuses some tokenizers,
    such as those that join words with spaces; for them the newest tokens are decoded.
    """
    try:
        return StopStringCriteria(tokenizer, list(strings))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError):
        longest = max(map(len, strings)) + 1  # tokens; each has a character or more

        def decoded(tokens: Tensor, scores: Any) -> Tensor:
            texts = tokenizer.batch_decode(tokens[:, -longest:], skip_special_tokens=True)
            return torch.tensor([any(stop in text for stop in strings) for text in texts], device=tokens.device)

        return decoded


def until_stop(ids: TokenIds, decoding: Decoding, tokenizer: PreTrainedTokenizerBase | None) -> TokenIds:
    """Cut a response after its first stop token, or after the token that completes a stop string."""
    end = next((index + 1 for index, token in enumerate(ids) if token in decoding.stop_ids), len(ids))
    if not decoding.stop_strings:
        return ids[:end]
    assert tokenizer is not None

    def stopped(length: int) -> bool:
        return contains_stop(ids[:length], decoding.stop_strings, tokenizer)

    # A prefix contains a stop string if a shorter prefix does, so bisection finds the first one.
    return ids[: min(end, 1 + bisect_left(range(1, end + 1), True, key=stopped))]


def contains_stop(ids: TokenIds, strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the text of these tokens contains a stop string."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    return any(stop in text for stop in strings)


def count_broken(broken: Tensor, responses: Sequence[TokenIds]) -> int:
    """Number of responses with a broken token: bool [B, T] says it of each, those after the end too."""
    lengths = torch.tensor([len(response) for response in responses])
    counted = torch.arange(broken.shape[1]) < lengths[:, None]
    return int((broken.cpu() & counted).any(1).sum())


def left_padded(prompts: Sequence[TokenIds], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts as one left-padded batch: token ids and attention mask, [B, T] each.

    The content of a padding position does not matter, because the mask marks the real positions. The mask cannot be
    derived from the ids, because the padding token may also be a real one.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    ids, mask = moved([ids, mask], device)
    return ids, mask


def stream_seed(seed: int, prompts: Sequence[TokenIds]) -> int:
    """A seed for each batch, so a resumed run samples the same tokens as an uninterrupted one."""
    digest = hashlib.sha256(f"{seed} {list(prompts)}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
