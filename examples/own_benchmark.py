"""A benchmark of your own: a file of questions with answers, asked of two models, and compared item by item.

    python examples/own_benchmark.py [OUT] [FILE] [MODEL ...]

The same from the command line:

    lightr evaluate --model miniature/base   --benchmarks examples/own_benchmark.jsonl --out runs/own_benchmark/base
    lightr evaluate --model miniature/expert --benchmarks examples/own_benchmark.jsonl --out runs/own_benchmark/expert
    lightr compare runs/own_benchmark/base runs/own_benchmark/expert

A row needs a question and its right answer, bare or at the end of a solution (after ####, or in \\boxed{}). How answers
are compared follows from the right ones; `answer_kind` sets it. docs/data.md has the formats.
"""

import sys
from pathlib import Path

from lightreasoner import EvaluateConfig, compare, evaluate

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own_benchmark")
FILE = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_suffix(".jsonl")
MODELS = sys.argv[3:] or ["miniature/base", "miniature/expert"]

if __name__ == "__main__":
    folders = [OUT / Path(model).name for model in MODELS]
    for model, folder in zip(MODELS, folders, strict=True):
        found = evaluate(EvaluateConfig(model=model, benchmarks=FILE, max_answer_tokens=64, out=folder))
        for name, figures in found.items():
            print(f"{model} on {name}: {figures['correct']} of {figures['total']} right")
    if len(folders) == 2:
        for row in compare(*folders)["benchmarks"]:
            low, high = row["low"], row["high"]
            print(f"difference {row['gain']:+.1%}, 95 % interval {low:+.1%} to {high:+.1%}, p = {row['p_value']:.2g}")
