"""Growth of the cost of sampling with the problems, the vocabulary, the rollouts' length, and the selected steps.

    python bench/growth.py --json growth.json

Every point is the whole stage like `lightr sample`, with writing, on random models of two layers. Points are timed in
turns, after loading; memory is the peak of a separate process. Exponents are slopes in log-log. For problems there is
also a line over the whole stage, whose intercept is the loading. On a CPU the fits use processor seconds of the one
thread, because other work on the machine hardly changes them.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import models
import numpy as np
import psutil
import torch
from memory import peak_resident, reset_peak

from lightreasoner.config import SampleConfig
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples import sampling
from lightreasoner.samples.folder import Rollout

SHAPE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
BATCH = 16


@dataclass(frozen=True)
class Point:
    """A sampling job: problems, words of the vocabulary, tokens of a rollout, and share of steps to select."""

    problems: int
    words: int
    tokens: int
    kept: float


def plan_of(smoke: bool) -> dict[str, tuple[str, list[Point]]]:
    """For each curve, the field that grows along it and its points."""
    if smoke:
        small = Point(16, 200, 8, 0.25)
        return {"problems": ("problems", [small, replace(small, problems=64)])}
    base = Point(32, 2000, 128, 0.25)
    return {
        "problems": ("problems", [replace(base, problems=base.problems * times) for times in (1, 4, 16)]),
        "vocabulary": ("words", [replace(base, words=base.words * times) for times in (1, 4)]),
        "rollout length": ("tokens", [replace(base, tokens=base.tokens * times // 2) for times in (1, 2, 4)]),
        "kept steps": ("kept", [replace(base, kept=base.kept * times) for times in (1, 2, 4)]),
    }


class Bench:
    """Runs the stage on models and questions in a folder."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device

    def prepare(self, points: Sequence[Point]) -> dict[tuple[int, int], list[float]]:
        """Write models and questions; returns sorted divergences by words and tokens, from which β follows."""
        for words in {point.words for point in points}:
            for seed, name in enumerate(("expert", "amateur")):
                model = models.random_model({**SHAPE, "vocab_size": words}, torch.float32, "cpu", seed)
                models.save(model, models.word_tokenizer(words), self._folder / f"{name}-{words}")
            prompts = models.random_prompts(max(point.problems for point in points), words)
            models.save_questions(self._folder / f"questions-{words}.jsonl", prompts)
        return {
            (point.words, point.tokens): sorted(self._divergences(replace(point, problems=BATCH, kept=1.0)))
            for point in {replace(point, problems=0, kept=1.0) for point in points}
        }

    def _divergences(self, point: Point) -> list[float]:
        with tempfile.TemporaryDirectory() as out, models.word_tokenizers():
            sampling.sample(self.config(point, None, Path(out)))
            _, stage = read_stage(Path(out) / "sample")
            return [kl for table in stage.tables("rollouts") for row in Rollout.rows(table) for kl in row.kl]

    def config(self, point: Point, beta: float | None, out: Path) -> SampleConfig:
        return SampleConfig(
            expert=str(self._folder / f"expert-{point.words}"),
            amateur=str(self._folder / f"amateur-{point.words}"),
            dataset=str(self._folder / f"questions-{point.words}.jsonl"),
            cue="",
            max_questions=point.problems,
            max_new_tokens=point.tokens,
            divergence_beta=beta,
            batch_size=BATCH,
            device=self._device,
            dtype="float32",
            out=out,
        )

    def run(self, point: Point, beta: float | None) -> dict[str, float]:
        """Run the stage once; returns seconds, memory (valid in a new process only) and selected steps."""
        with tempfile.TemporaryDirectory() as out, models.word_tokenizers(), loaded() as facts:
            started, started_cpu = time.perf_counter(), time.process_time()
            result = sampling.sample(self.config(point, beta, Path(out)))
            facts["stage_seconds"] = time.perf_counter() - started
            facts["stage_cpu_seconds"] = time.process_time() - started_cpu
            return {**facts, "kept_steps": result["kept_steps"]}


@contextmanager
def loaded() -> Iterator[dict[str, float]]:
    """Seconds and peak memory, MiB, of the work after loading."""
    facts: dict[str, float] = {}
    settle = sampling.settle

    def timed_settle(*arguments: Any, **options: Any) -> None:
        before = psutil.Process().memory_info().rss
        reset_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        started, started_cpu = time.perf_counter(), time.process_time()
        settle(*arguments, **options)
        facts["seconds"] = time.perf_counter() - started
        facts["cpu_seconds"] = time.process_time() - started_cpu
        facts["peak_mib"] = peak_resident() / 2**20
        facts["above_loaded_mib"] = (peak_resident() - before) / 2**20
        if torch.cuda.is_available():
            facts["device_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20

    with mock.patch.object(sampling, "settle", timed_settle):
        yield facts


def in_own_process(folder: Path, device: str, point: Point, beta: float | None) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_alone, folder, device, point, beta).result()


def _alone(folder: Path, device: str, point: Point, beta: float | None) -> dict[str, float]:
    torch.set_num_threads(1)
    return Bench(folder, device).run(point, beta)


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def line(values: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    slope, intercept = np.polyfit(values, costs, 1)
    left = np.asarray(costs) - (slope * np.asarray(values) + intercept)
    around = np.asarray(costs) - np.mean(costs)
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "r_squared": float(1 - left @ left / (around @ around)),
    }


def measure(options: argparse.Namespace, folder: Path, cost: str) -> dict[str, Any]:
    plan = plan_of(options.smoke)
    points = list(dict.fromkeys(point for _, some in plan.values() for point in some))
    bench = Bench(folder, options.device)
    divergences = bench.prepare(points)

    def beta(point: Point) -> float | None:
        found = divergences[point.words, point.tokens]
        return None if point.kept == 1 else found[int(len(found) * (1 - point.kept))]

    memory = {point: in_own_process(folder, options.device, point, beta(point)) for point in points}
    runs: dict[Point, list[dict[str, float]]] = {point: [] for point in points}
    for _ in range(options.runs):
        for point in points:
            runs[point].append(bench.run(point, beta(point)))
    report: dict[str, Any] = {}
    for name, (field, some) in plan.items():
        rows = [
            {
                **asdict(point),
                **{key: [run[key] for run in runs[point]] for key in memory[point] if key.endswith("seconds")},
                "kept_per_rollout": memory[point]["kept_steps"] / point.problems,
                **{key: value for key, value in memory[point].items() if key.endswith("mib")},
            }
            for point in some
        ]
        grown = [row[field] for row in rows]
        report[name] = {
            "grows": field,
            "points": rows,
            "exponent": exponent(grown, [statistics.median(row[cost]) for row in rows]),
            "exponent_above_loaded": exponent(grown, [max(row["above_loaded_mib"], 1e-3) for row in rows]),
        }
    rows = report["problems"]["points"]
    report["problems"]["line"] = line(
        [row["problems"] for row in rows for _ in row[f"stage_{cost}"]],
        [seconds for row in rows for seconds in row[f"stage_{cost}"]],
    )
    return report


def show(report: dict[str, Any]) -> None:
    cost = report["cost"]
    for name, curve in report["curves"].items():
        points, what = curve["points"], name if curve["grows"] != "kept" else "share of the steps kept"
        device = "device_peak_mib" in points[0]
        print(
            f"\n| {what} | {cost.replace('_', ' ')}, median of {len(points[0][cost])} | kept a rollout | peak, MiB "
            f"| of it after loading |{' device peak, MiB |' if device else ''}"
        )
        print(f"|--:|--:|--:|--:|--:|{'--:|' if device else ''}")
        for row in points:
            print(
                f"| {row[curve['grows']]:g} | {statistics.median(row[cost]):.2f} | {row['kept_per_rollout']:.1f} "
                f"| {row['peak_mib']:.0f} | {row['above_loaded_mib']:.0f} |"
                + (f" {row['device_peak_mib']:.0f} |" if device else "")
            )
        print(f"\nExponents: time {curve['exponent']:.2f}, memory after loading "
              f"{curve['exponent_above_loaded']:.2f}.")  # fmt: skip
        if fit := curve.get("line"):
            print(
                f"Whole stage: {fit['intercept']:.2f} s + {1000 * fit['slope']:.1f} ms a problem, "
                f"R² {fit['r_squared']:.4f}."
            )


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="turns of each point")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, as a smoke test")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed(sys.argv[1:])
    torch.set_num_threads(1)  # small products: a second thread is slower and adds noise
    machine = {"cores": os.cpu_count(), "threads": 1, "device": options.device, "torch": torch.__version__,
               "python": platform.python_version()}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        cost = "cpu_seconds" if options.device == "cpu" else "seconds"
        curves = measure(options, Path(folder), cost)
        report = {"machine": machine, "smoke": options.smoke, "cost": cost, "curves": curves}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    show(report)


if __name__ == "__main__":
    main()
