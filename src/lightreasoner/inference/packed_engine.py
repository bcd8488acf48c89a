"""Decoding with an in-place KV cache: each new key and value is written to its slot, and nothing is copied.

The cache belongs to the attention functions of this module (see `packing`), not to the model. Prefill runs on packed
prompts; each decode step then attends to the slots of its row. Finished rows leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from lightreasoner.inference.attention import causal_attention
from lightreasoner.inference.generation import (
    Decoding,
    Engine,
    Generation,
    StopCheck,
    TokenIds,
    count_broken,
    steps_between_checks,
    stream_seed,
    until_stop,
)
from lightreasoner.inference.packing import Layout, attention_by, cut_by_tokens, lay_out, packs
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.inference.scoring import Head, ResponseStates, head_rows, tokens_per_pass
from lightreasoner.runs.progress import count_step, count_tokens

GROWTH = 1.25  # factor of the cache's slots when it is full
COMPACT_AT = 0.75  # share of running rows at which finished rows leave the cache


@dataclass
class SlotCache:
    """KV cache of a batch: slot t holds token t of its row, [B, Hkv, slots, D] for each layer.

    Attributes:
        slots: capacity of a row in tokens.
        keys: buffers by layer; allocated with the first keys, which give their shape.
        values: buffers by layer.
    """

    rows: int
    slots: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)

    def buffers(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's buffers; allocated in the shape of `key` and `value`, [B, Hkv, T, D], if they are new."""
        if layer not in self.keys:
            for buffers, new in ((self.keys, key), (self.values, value)):
                buffers[layer] = new.new_zeros(self.rows, new.shape[1], self.slots, new.shape[3])
        return self.keys[layer], self.values[layer]

    def reserve(self, slots: int) -> None:
        """Grow to at least `slots` tokens a row, with a margin so that growth is rare."""
        if slots <= self.slots:
            return
        self.slots = max(slots, int(self.slots * GROWTH))
        for buffers in (self.keys, self.values):
            for layer, buffer in buffers.items():
                buffers[layer] = nn.functional.pad(buffer, (0, 0, 0, self.slots - buffer.shape[2]))

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.rows = len(rows)
        for buffers in (self.keys, self.values):
            for layer, buffer in buffers.items():
                buffers[layer] = buffer.index_select(0, rows)


@dataclass(frozen=True)
class PrefillAttention:
    """Attention of packed prompts: like `Layout.attend`, and fills the cache."""

    cache: SlotCache
    layout: Layout
    rows: Tensor

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `inference.packing.Attention`."""
        query, key, value = (self.layout.gather(part) for part in (query, key, value))
        keys, values = self.cache.buffers(layer, key, value)
        keys[self.rows, :, : key.shape[2]] = key
        values[self.rows, :, : key.shape[2]] = value
        return self.layout.scatter(causal_attention(query, key, value, scale))


@dataclass(frozen=True)
class DecodeAttention:
    """Attention of one new token in each row, at its own position.

    Query heads that share a key head become several queries of that head, so the keys are not repeated.
    """

    cache: SlotCache
    positions: Tensor
    mask: Tensor

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `inference.packing.Attention`; the tokens of all B rows are one packed row, N = B."""
        new_key, new_value = key[0].transpose(0, 1), value[0].transpose(0, 1)  # [B, Hkv, D]
        keys, values = self.cache.buffers(layer, new_key[:, :, None], new_value[:, :, None])
        rows = torch.arange(self.cache.rows, device=key.device)
        keys[rows, :, self.positions] = new_key
        values[rows, :, self.positions] = new_value
        length = self.mask.shape[-1]
        grouped = query[0].transpose(0, 1).unflatten(1, (keys.shape[1], -1))  # [B, Hkv, group, D]
        attended = nn.functional.scaled_dot_product_attention(
            grouped, keys[:, :, :length], values[:, :, :length], attn_mask=self.mask, scale=scale
        )
        return attended.flatten(1, 2)[None]


@dataclass(frozen=True)
class PackedEngine:
    """Generates with a `SlotCache`; for models that pass `inference.packing.packs`.

    Attributes:
        tokenizer: used for stop strings only.
        keep_states: also return the hidden states that predicted each response token.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    keep_states: bool = False

    @torch.inference_mode()
    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `inference.generation.Engine.generate`."""
        batch = _Batch(self, prompts, decoding)
        batch.prefill()
        while not batch.done:
            batch.decode()
        count_step(0)
        return batch.generation()


class _Batch:
    """A batch during decoding. `_running[i]` is the prompt of row i of the cache."""

    def __init__(self, engine: PackedEngine, prompts: Sequence[TokenIds], decoding: Decoding) -> None:
        self._model = engine.model
        self._prompts = prompts
        self._decoding = decoding
        self._tokenizer = engine.tokenizer
        device = engine.model.device
        self._next_token = _NextToken(prompts, decoding, device)
        self._stop_check = StopCheck(decoding, engine.tokenizer, device)
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self._longest = max(map(len, prompts))
        self._cache = SlotCache(len(prompts), self._longest + min(decoding.max_new_tokens, 128))
        self._tokens = torch.full((len(prompts), decoding.max_new_tokens), -1, device=device)
        self._broken = torch.zeros_like(self._tokens, dtype=torch.bool)  # chosen from logits that are not finite
        self._states: list[tuple[Tensor, Tensor]] | None = [] if engine.keep_states else None
        self._running = torch.arange(len(prompts), device=device)
        self._finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        self._length = 0
        self._known_running = len(prompts)  # as far as the host knows
        self._check_every = steps_between_checks(device)

    @property
    def done(self) -> bool:
        return self._length == self._decoding.max_new_tokens or len(self._running) == 0

    def prefill(self) -> None:
        """Run all prompts and choose the first token of each response."""
        logits = self._tokens.new_zeros(0)
        for part in cut_by_tokens([len(prompt) for prompt in self._prompts], tokens_per_pass(self._model)):
            layout = lay_out([self._prompts[index] for index in part], self._model.device)
            rows = torch.tensor(part, device=self._model.device)
            last = layout.rows(torch.arange(len(part), device=rows.device), self._lengths[rows] - 1)
            seen: list[Tensor] = []
            with attention_by(self._model, PrefillAttention(self._cache, layout, rows)):
                part_logits = self._forward(layout.input_ids, layout.position_ids, last, seen)
            if not len(logits):
                logits = part_logits.new_empty(len(self._prompts), part_logits.shape[1])
            logits[rows] = part_logits
            if self._states is not None:
                self._states.append((rows, seen[0].index_select(0, last)))
            count_tokens(sum(len(self._prompts[index]) for index in part))
        self._append(logits)

    def decode(self) -> None:
        """Add one token to each running row."""
        positions = self._lengths[self._running] + self._length - 1
        slots = torch.arange(self._longest + self._length, device=positions.device)
        self._cache.reserve(len(slots))
        # An additive mask, built once a step: every layer would convert a boolean mask into one.
        mask = torch.zeros(len(positions), 1, 1, len(slots), dtype=self._model.dtype, device=positions.device)
        mask.masked_fill_((slots > positions[:, None])[:, None, None], -torch.inf)
        seen: list[Tensor] = []
        all_rows = torch.arange(len(self._running), device=positions.device)
        newest = self._tokens[self._running, self._length - 1]
        with attention_by(self._model, DecodeAttention(self._cache, positions, mask)):
            logits = self._forward(newest[None], positions[None], all_rows, seen)
        if self._states is not None:
            self._states.append((self._running, seen[0]))
        self._append(logits)

    def _forward(self, input_ids: Tensor, position_ids: Tensor, rows: Tensor, seen: list[Tensor]) -> Tensor:
        """Logits of these packed rows, [n, V]; `seen` receives the hidden states of all rows."""
        head: Any = self._model.get_output_embeddings()
        with head_rows(head, rows, seen):
            logits: Tensor = self._model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits[0]
        return logits

    def _append(self, logits: Tensor) -> None:
        """Choose the next tokens, and remove finished rows from the batch if there are many."""
        chosen, finite = self._next_token(logits)
        self._tokens[self._running, self._length] = chosen
        self._broken[self._running, self._length] = ~finite
        count_step(self._known_running)
        self._length += 1
        self._finished |= self._stop_check(self._tokens[self._running, : self._length])
        if self._length % self._check_every:
            return
        self._known_running = remaining = int((~self._finished).sum())
        if remaining == 0 or remaining <= COMPACT_AT * len(self._running):
            rows = (~self._finished).nonzero()[:, 0]
            self._running, self._finished = self._running[rows], self._finished[rows]
            self._cache.keep(rows)

    def generation(self) -> Generation:
        """The responses and their states, in the order of the prompts."""
        raw = ([token for token in row if token >= 0] for row in self._tokens.tolist())
        responses = [until_stop(row, self._decoding, self._tokenizer) for row in raw]
        states = self._response_states(responses) if self._states is not None else None
        return Generation(responses, states, count_broken(self._broken, responses))

    def _response_states(self, responses: Sequence[TokenIds]) -> ResponseStates:
        """States in the order of `ResponseStates`: response by response."""
        assert self._states is not None
        rows = torch.cat([rows for rows, _ in self._states])
        # Each step adds one entry for each running row, and prefill adds the first: entry k of a row predicts token k.
        order = torch.argsort(rows, stable=True)
        rank = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows[order], rows[order])
        lengths = torch.tensor([len(response) for response in responses], device=rows.device)
        kept = order[rank < lengths[rows[order]]]
        return ResponseStates(
            Head.of(self._model), torch.cat([states for _, states in self._states]).index_select(0, kept)
        )


class _NextToken:
    """Chooses the next token of each row, and says whether its logits are finite: [B, V] → [B], bool [B]."""

    def __init__(self, prompts: Sequence[TokenIds], decoding: Decoding, device: torch.device) -> None:
        self._generator: torch.Generator | None = None
        self._warpers = LogitsProcessorList()
        if decoding.temperature:
            self._generator = torch.Generator(device).manual_seed(stream_seed(decoding.seed, prompts))
            self._warpers.append(TemperatureLogitsWarper(decoding.temperature))
            if decoding.top_p < 1:
                self._warpers.append(TopPLogitsWarper(decoding.top_p))

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self._generator is None:
            # The first of equal logits, as `argmax`, which takes 4 times as long in bfloat16. NaN is the largest.
            largest, chosen = logits.max(-1)
            return chosen, largest.isfinite()
        warped: Tensor = self._warpers(torch.empty(0, dtype=torch.long), logits.float())  # type: ignore[arg-type]
        probabilities = warped.softmax(-1)
        # A row with NaN gets a random token: scoring drops and counts its steps later.
        finite = probabilities.isfinite().all(-1, keepdim=True)
        probabilities = torch.where(finite, probabilities, 1 / probabilities.shape[-1])
        # As `torch.multinomial` draws one token, without its checks, for which the host waits twice.
        exponential = torch.empty_like(probabilities).exponential_(generator=self._generator)
        return (probabilities / exponential).argmax(-1), finite[:, 0]


def engine_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None, keep_states: bool = False
) -> Engine:
    """The fastest engine for this model; arguments as for `PackedEngine`."""
    return PackedEngine(model, tokenizer, keep_states) if packs(model) else PaddedEngine(model, tokenizer)
