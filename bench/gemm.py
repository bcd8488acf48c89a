"""Decoding and other passes held against the speed of the model's own linear layers, run alone on as many rows."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import models
import torch

from lightreasoner.config.sections import MachineSettings
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.packing import cut_by_tokens, shared_prefix
from lightreasoner.inference.scoring import tokens_per_pass
from lightreasoner.models.loading import pick_dtype


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=models.QWEN, default="qwen2.5-math-1.5b", help="of the part decoding")
    parser.add_argument("--layers", type=int, help="layers of that shape; by default all")
    parser.add_argument("--tokens", type=int, default=64, help="tokens a row in the parts decoding and throughput")


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def linear_weights(model: Any) -> tuple[int, int]:
    """Weights of the linear layers of the body, and of the LM head."""
    body = sum(
        m.weight.numel() for n, m in model.model.named_modules() if isinstance(m, torch.nn.Linear) and "lora" not in n
    )
    return body, model.get_output_embeddings().weight.numel()


BLOCKS = 4  # of the model, which `gemm_rate` times for many rows; the others are like them


def gemm_rate(model: Any, rows: int, head_rows: int, backward: bool = False, runs: int = 5) -> float:
    """FLOP/s of the model's linear layers, run in sequence on this many rows; without the head, of its first blocks."""
    blocks = model.model.layers[: None if head_rows else BLOCKS]
    layers = [m for n, m in blocks.named_modules() if isinstance(m, torch.nn.Linear) and "lora" not in n]
    work = [(layer, rows) for layer in layers] + ([(model.get_output_embeddings(), head_rows)] if head_rows else [])
    inputs = {
        (layer.in_features, n): torch.randn(n, layer.in_features, dtype=model.dtype, device=model.device)
        for layer, n in work
    }
    flop = sum(2 * layer.weight.numel() * n for layer, n in work) * (2 if backward else 1)

    @torch.inference_mode()
    def once() -> None:
        for layer, n in work:
            out = torch.nn.functional.linear(inputs[layer.in_features, n], layer.weight)
            if backward:
                out @ layer.weight

    once()
    return flop / statistics.median(timed(once)[0] for _ in range(runs))


def tokens_computed(texts: Sequence[list[int]], model: Any) -> int:
    """Tokens computed in the passes over these texts, with the shared prefix of a pass counted once."""
    parts = [[texts[i] for i in part] for part in cut_by_tokens([len(text) for text in texts], tokens_per_pass(model))]
    return sum(sum(map(len, part)) - shared_prefix(part) * (len(part) - 1) for part in parts)


def measure_decoding(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Decoding of a model of this shape with random weights, against its own linear layers on as many rows."""
    torch.set_num_threads(options.threads)
    shape = models.QWEN[options.shape]
    layers = min(options.layers or shape["num_hidden_layers"], shape["num_hidden_layers"])
    dtype = pick_dtype(MachineSettings(dtype=options.dtype, device="cpu"))
    model = models.random_model({**shape, "num_hidden_layers": layers}, dtype, "cpu", seed=1)
    engine, rows, new = engine_for(model), options.batch, options.tokens
    prompts = models.random_prompts(rows)
    engine.generate(prompts, Decoding(2, ()))
    body, head = linear_weights(model)
    seconds, rates = [], []
    for _ in range(options.runs):
        reading, _ = timed(lambda: engine.generate(prompts, Decoding(1, ())))  # prompts, and the first tokens
        rates.append(gemm_rate(model, rows, rows, runs=3))
        whole, _ = timed(lambda: engine.generate(prompts, Decoding(new, ())))
        seconds.append(whole - reading)
    flop = 2 * (body + head) * rows * (new - 1)
    shares = [flop / rate / spent for rate, spent in zip(rates, seconds, strict=True)]
    return {
        "shape": options.shape,
        "layers": [layers, shape["num_hidden_layers"]],
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "tokens": new,
        "seconds": seconds,
        "tokens_per_second": rows * (new - 1) / statistics.median(seconds),
        "gemm_gflops": [rate / 1e9 for rate in rates],
        "of_gemm": shares,
    }


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    layers, of = found["layers"]
    print("\n| decoding | tokens/s | GEMM, GFLOP/s | of GEMM | n |\n|---|--:|--:|--:|--:|")
    print(
        f"| {found['shape']}, {layers} of {of} layers, {found['dtype']}, {found['rows']} rows "
        f"| {found['tokens_per_second']:.0f} | {statistics.median(found['gemm_gflops']):.0f} "
        f"| {statistics.median(found['of_gemm']):.0%} | {len(found['seconds'])} |"
    )
