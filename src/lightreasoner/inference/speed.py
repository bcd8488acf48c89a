"""The speed of this machine on a model of given sizes: a second or two, without the model's weights.

Runs the passes of the stages (a step of decoding, teacher forcing, a step of fine-tuning) on a Llama of the right
widths with a layer or two and constant weights. The time of its layers, times the number of layers, and the time of the
rest give that of the model: products, memory bandwidth, attention and Python as they are here.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lightreasoner import contrast
from lightreasoner.inference.packed_engine import DecodeAttention, SlotCache
from lightreasoner.inference.packing import attention_by, lay_out
from lightreasoner.inference.scoring import CONTRAST_ELEMENTS, ON_ACCELERATORS, head_rows
from lightreasoner.models.shape import Shape

WIDEST_HEAD = 1 << 15  # rows of the LM head that are measured; the time of wider ones is proportional
LARGE_LAYER = 20_000_000  # weights; of smaller ones two are measured
FLOP_BUDGET = 1e11  # of a measured pass; longer passes are proportional
SECONDS = 0.15  # for the repetitions of one measurement
SCORED = 64  # positions whose LM head is measured
TOP = 5  # most probable tokens that sampling stores


@dataclass(frozen=True)
class Passes:
    """What the stages run at a time.

    Attributes:
        text: mean tokens of a whole text.
        decoded: texts that are decoded together and their mean tokens meanwhile, for each stage that decodes.
        trained: tokens in a forward and backward pass of fine-tuning; 0: not measured.
        lora: rank and modules of the adapter.
    """

    text: int
    decoded: tuple[tuple[int, int], ...] = ()
    trained: int = 0
    lora: tuple[int, tuple[str, ...]] = (8, ("q_proj", "v_proj"))


@dataclass(frozen=True)
class Speed:
    """Seconds of the parts of the stages.

    Attributes:
        decode: one step of decoding of all rows, for each entry of `Passes.decoded`.
        token: a token in a pass of teacher forcing, without the LM head.
        train: one forward and backward pass of fine-tuning, with its share of the optimizer.
        row: LM head and log-probabilities of one position.
        contrast: divergence, entropies, top tokens and label of one position.
    """

    decode: tuple[float, ...]
    token: float
    train: float
    row: float
    contrast: float


def measure(shape: Shape, dtype: torch.dtype, device: torch.device, passes: Passes) -> Speed:
    """Time a model of these sizes on this device."""
    probe = _Probe(shape, dtype, device, passes)
    layers = 1 if probe.layer_weights > LARGE_LAYER else 2

    def whole(run: Callable[..., None], *sizes: int) -> tuple[float, float]:
        """Seconds of all layers, and of the rest."""
        rest, some = (_seconds(partial(run, model, *sizes), device) for model in (probe.headed, probe.layered))
        return max(some - rest, 0.05 * some) / layers * shape.layers, rest

    probe.build(layers)
    decode = []
    for rows, context in passes.decoded:
        decoding, choosing = whole(probe.decode, rows, context)
        decode.append(decoding + choosing * probe.head_share)
    reading, reading_rest = whole(probe.read)
    row = _seconds(partial(probe.rows, probe.headed), device) * probe.head_share / SCORED
    contrasted = _seconds(probe.contrast, device) / probe.contrasted
    training, training_rest = whole(probe.train) if passes.trained else (0.0, 0.0)
    return Speed(
        decode=tuple(decode),
        token=(reading + reading_rest) / probe.tokens,
        train=(training + training_rest) * passes.trained / probe.trained,
        row=row,
        contrast=contrasted,
    )


class _Probe:
    """A model without layers and one with a few, and the passes that are timed on them."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device, passes: Passes) -> None:
        self._shape, self._dtype, self._device, self._passes = shape, dtype, device, passes
        self._caches: dict[tuple[Any, int, int], SlotCache] = {}
        self._trained: dict[Any, tuple[Any, torch.optim.Optimizer | None]] = {}
        self._vocabulary = min(shape.vocabulary, WIDEST_HEAD)
        self.head_share = shape.vocabulary / self._vocabulary
        self.layer_weights = (shape.parameters - shape.head_weights) // shape.layers
        fitting = int(FLOP_BUDGET // (2 * self.layer_weights))
        text = min(passes.text, max(16, fitting))
        self._texts = [[number + 1] * text for number in range(max(1, min(2048, fitting) // text))]
        self.tokens = sum(map(len, self._texts))
        self.trained = max(1, min(passes.trained, fitting // 2))
        self.contrasted = max(1, CONTRAST_ELEMENTS.get(device.type, ON_ACCELERATORS) // shape.vocabulary)
        logits = torch.randn(2, self.contrasted, shape.vocabulary, generator=torch.Generator().manual_seed(0))
        self._logs = logits.mul_(3).log_softmax(-1).to(device)

    def build(self, layers: int) -> None:
        """Make the two models."""
        self.headed, self.layered = self._model(0), self._model(layers)

    def _model(self, layers: int) -> Any:
        shape = self._shape
        config = LlamaConfig(
            vocab_size=self._vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_value_heads,
            head_dim=shape.head,
            tie_word_embeddings=True,
            max_position_embeddings=1 << 17,
        )
        with torch.device("meta"):  # initial values would take longer than the measurement
            model: Any = LlamaForCausalLM(config)
        model = model.to(self._dtype).to_empty(device=self._device)
        model.tie_weights()
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(self._device)  # its frequencies are no weights
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1 / shape.hidden).requires_grad_(False)
        return model.eval()

    @torch.inference_mode()
    def decode(self, model: Any, rows: int, length: int) -> None:
        """One step of decoding, at the mean length."""
        cache = self._caches.setdefault((model, rows, length), SlotCache(rows, length))
        positions = torch.full((rows,), length - 1, device=self._device)
        mask = torch.zeros(rows, 1, 1, length, dtype=self._dtype, device=self._device)
        ids = torch.ones(1, rows, dtype=torch.long, device=self._device)
        with attention_by(model, DecodeAttention(cache, positions, mask)):
            logits = model(input_ids=ids, position_ids=positions[None], use_cache=False).logits[0]
        logits.max(-1)

    @torch.inference_mode()
    def read(self, model: Any) -> None:
        """Teacher forcing of whole texts."""
        layout = lay_out(self._texts, self._device)
        first = torch.zeros(1, dtype=torch.long, device=self._device)
        with attention_by(model, layout.attend), head_rows(model.lm_head, first):
            model(**layout.inputs, use_cache=False)

    @torch.inference_mode()
    def rows(self, model: Any) -> None:
        """LM head and log-probabilities of some positions."""
        hidden = torch.ones(SCORED, self._shape.hidden, dtype=self._dtype, device=self._device)
        model.lm_head(hidden).float().log_softmax(-1)

    @torch.inference_mode()
    def contrast(self) -> None:
        """The measures of sampling."""
        expert, amateur = self._logs
        contrast.kl_divergence(expert, amateur)
        contrast.entropy(expert), contrast.entropy(amateur)
        expert.topk(min(TOP, expert.shape[1])), amateur.topk(min(TOP, expert.shape[1]))
        contrast.plausible_tokens(expert, 0.2)

    def train(self, model: Any) -> None:
        """A forward and backward pass with LoRA, and a step of the optimizer."""
        if model not in self._trained:
            self._trained[model] = self._adapted(model)
        adapted, optimizer = self._trained[model]
        count = max(1, self.trained // self._passes.text)
        layout = lay_out([[number + 1] * max(2, self.trained // count) for number in range(count)], self._device)
        rows = torch.zeros(8, dtype=torch.long, device=self._device)
        half = self._dtype != torch.float32
        with attention_by(model, layout.attend), head_rows(model.lm_head, rows):
            with torch.autocast(self._device.type, self._dtype, enabled=half):
                logits: Tensor = adapted(**layout.inputs, use_cache=False).logits
            if optimizer is not None:
                logits.float().log_softmax(-1).sum().backward()
                torch.nn.utils.clip_grad_norm_(adapted.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    def _adapted(self, model: Any) -> tuple[Any, torch.optim.Optimizer | None]:
        """The model with LoRA and its optimizer; a model without layers trains nothing."""
        if not len(model.model.layers):
            return model, None
        from peft import LoraConfig, get_peft_model

        rank, targets = self._passes.lora
        usual = [name for name in targets if name.endswith("_proj")] or "all-linear"
        adapted: Any = get_peft_model(model, LoraConfig(r=rank, target_modules=usual, lora_dropout=0.05))
        adapted.train()
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        return adapted, torch.optim.AdamW(trained, 1e-5)


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    """Median time of some runs, after one that is not counted."""
    found: list[float] = []
    started = time.perf_counter()
    for turn in range(12):
        before = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        if turn:
            found.append(time.perf_counter() - before)
        if len(found) >= 2 and time.perf_counter() - started > SECONDS:
            break
    return statistics.median(found)
