"""Answers per second of the judges, by benchmark and form of the answers.

    python bench/grading.py --data-dir DIR

The answers are gold answers: each in a box, the next item's in a box (wrong, which is slowest for symbolic judges), and
each in a sentence. The start of the workers is not timed.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightreasoner.config.sections import BenchmarkName, JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import Case

NAMES: tuple[BenchmarkName, ...] = (
    "gsm8k",
    "svamp",
    "asdiv",
    "mmlu_stem",
    "math500",
    "minerva_math",
    "olympiadbench",
)
JUDGES: tuple[JudgeName, ...] = ("math-verify", "toolkit")
FORMS: dict[str, Callable[[str, str], str]] = {
    "gold": lambda gold, following: f"So the answer is \\boxed{{{gold}}}.",
    "neighbour": lambda gold, following: f"So the answer is \\boxed{{{following}}}.",
    "prose": lambda gold, following: f"We add these up.\nThe answer is {gold}.",
}


def cases_of(name: BenchmarkName, form: str, data_dir: Path) -> list[Case]:
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, Benchmark)
    golds = [problem.answer or "" for problem in load_benchmark(name, limit=None, data_dir=data_dir)]
    pairs = zip(golds, golds[1:] + golds[:1], strict=True)
    return [Case(FORMS[form](gold, following), gold, benchmark.kind, name) for gold, following in pairs]


def answers_per_second(pool: GradingPool, cases: list[Case], runs: int) -> list[float]:
    rates = []
    for _ in range(runs):
        started = time.perf_counter()
        for _ in pool.judge(cases):
            pass
        rates.append(len(cases) / (time.perf_counter() - started))
    return rates


def measure(name: BenchmarkName, judge: JudgeName, data_dir: Path, workers: int, runs: int) -> dict[str, Any]:
    row: dict[str, Any] = {"benchmark": name, "judge": judge, "workers": workers}
    with GradingPool(judge, workers=workers) as pool:
        for form in FORMS:
            cases = cases_of(name, form, data_dir)
            for _ in pool.judge(cases[: 8 * workers]):  # workers start and import their libraries
                pass
            rates = answers_per_second(pool, cases, runs)
            row |= {"n": len(cases), form: statistics.median(rates), f"{form}_runs": rates}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with NAME/test.jsonl")
    parser.add_argument("--benchmarks", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=JUDGES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="runs per median")
    parser.add_argument("--json", action="store_true", help="print all runs as JSON")
    options = parser.parse_args()

    rows = []
    if not options.json:
        print(
            f"Answers per second: median of {options.runs} runs, {options.workers} workers, {os.cpu_count()} cores.\n"
        )
        print("| benchmark | judge | n | " + " | ".join(FORMS) + " |")
        print("|---|---|--:|" + "--:|" * len(FORMS), flush=True)
    for name in options.benchmarks:
        for judge in options.judges:
            row = measure(name, judge, options.data_dir, options.workers, options.runs)
            rows.append(row)
            if not options.json:
                figures = " | ".join(f"{row[form]:.0f}" for form in FORMS)
                print(f"| {name} | {judge} | {row['n']} | {figures} |", flush=True)
    if options.json:
        json.dump({"cores": os.cpu_count(), "runs": options.runs, "rows": rows}, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
