"""The precision that `--dtype auto` stands for: bfloat16 where the machine multiplies it natively, and why.

PyTorch computes in bfloat16 on every processor. Without instructions for it (AVX512-BF16, AMX, BF16 of Arm) that is
slower than float32. A trial product finds processors and builds of PyTorch that have the instructions and do not gain.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear

from lightreasoner.config.sections import DType
from lightreasoner.runs.environment import note

# A model with a smaller hidden size spends its time outside of products: the bundled miniature's whole job is only 1.2
# times as fast in bfloat16. It stays exact.
SMALLEST_HIDDEN = 256

# Native bfloat16 is 1.8 to 8 times as fast as float32, and emulated bfloat16 slower than float32. A bound between them
# is far from both, so that noise does not change the choice.
LEAST_GAIN = 1.3

ROUNDS, ROWS, WIDTH = 8, 64, 2048  # of the trial: 8 products of 0.5 GFLOP in each precision

# The hidden size in a config.json, by the names that families give it.
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")


@dataclass(frozen=True)
class Precision:
    """A precision and the reason for it."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """Its name, such as bfloat16."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Trial:
    """Seconds of the same product, the best of several rounds."""

    float32: float
    bfloat16: float

    @property
    def gain(self) -> float:
        """How many times as fast bfloat16 is."""
        return self.float32 / self.bfloat16


def hidden_size(config: Mapping[str, Any]) -> int | None:
    """The hidden size in a config.json; None if it names none."""
    text = config.get("text_config") or config
    found = [text[name] for name in HIDDEN if isinstance(text, Mapping) and isinstance(text.get(name), int)]
    return max(found, default=None)


def precision(asked: DType, device: torch.device, hidden: Sequence[int | None]) -> Precision:
    """The precision of models on a device; noted for the environment of a stage.

    Args:
        asked: the setting; anything but `auto` is the answer.
        device: where the models run.
        hidden: their hidden sizes; the largest decides for all. None: not known.
    """
    if asked != "auto":
        chosen = Precision(getattr(torch, asked), "as set by --dtype")
    elif device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 emulates it, slower than float32
        reason = "the GPU supports it" if has else "the GPU does not support bfloat16"
        chosen = Precision(torch.bfloat16 if has else torch.float32, reason)
    elif device.type != "cpu":
        # The first Apple GPUs and older systems emulate bfloat16, and PyTorch does not tell.
        chosen = Precision(torch.float32, f"the default on {device.type}; --dtype bfloat16 takes half the memory")
    else:
        chosen = _on_cpu(max((size for size in hidden if size is not None), default=None))
    note("precision", str(chosen))
    return chosen


def _on_cpu(hidden: int | None) -> Precision:
    if hidden is None:
        return Precision(torch.float32, "the hidden size of the model is not known")
    if hidden < SMALLEST_HIDDEN:
        reason = f"a hidden size of {hidden} is below {SMALLEST_HIDDEN}, where bfloat16 gains little"
        return Precision(torch.float32, reason)
    instructions = native_bfloat16()
    if instructions is None:
        return Precision(torch.float32, "the processor does not multiply bfloat16 natively")
    measured = trial()
    note("bfloat16_trial", f"{instructions}: {1e3 * measured.bfloat16:.2f} ms, float32 {1e3 * measured.float32:.2f} ms")
    has = f"the processor has {instructions}"
    if measured.gain < LEAST_GAIN:
        slow = f"{has}, but a trial product in bfloat16 ran {measured.gain:.1f} times as fast ({LEAST_GAIN} needed)"
        return Precision(torch.float32, slow)
    gained = f"{has}; a trial product ran {measured.gain:.1f} times as fast as float32"
    return Precision(torch.bfloat16, gained)


def native_bfloat16() -> str | None:
    """The processor's instructions that multiply bfloat16; None if it has none."""
    for name, check in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
        if getattr(torch.cpu, check, bool)():
            return name
    # On x86, oneDNN calls bfloat16 supported where it emulates it.
    if platform.machine().lower() in ("aarch64", "arm64"):
        with suppress(AttributeError, RuntimeError):  # PyTorch without oneDNN
            if torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return "BF16 of Arm"
    return None


@cache
def trial() -> Trial:
    """Time a product of a decoding step in both precisions, in turns; about 50 ms, once for each process."""
    best: dict[torch.dtype, float] = {}
    weights = {dtype: torch.full((WIDTH, WIDTH), 0.5, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for dtype, weight in weights.items():
                rows = torch.full((ROWS, WIDTH), 0.5, dtype=dtype)
                started = time.perf_counter()
                linear(rows, weight)
                seconds = time.perf_counter() - started
                best[dtype] = min(best.get(dtype, seconds), seconds) if turn else float("inf")  # the first warms up
    return Trial(best[torch.float32], best[torch.bfloat16])
