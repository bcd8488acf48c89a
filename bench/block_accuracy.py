"""Accuracy by labels per forward pass: the miniature with several seeds and block sizes.

    python bench/block_accuracy.py --seeds 0 1 2 --sizes 1 4 16

All sizes of a seed train on the same samples. Seed noise is the spread of m = 1 over seeds; differences are paired by
seed, and by item within a seed. Existing folders are resumed.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from lightreasoner.config import RunConfig
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.recipes import load_recipe
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge


def accuracy(root: Path, seed: int, size: int) -> dict[str, Any]:
    """Sample, fine-tune, merge and evaluate; resumes a folder."""
    recipe = {**load_recipe("miniature"), "seed": seed, "out": root / f"seed-{seed}"}
    base = RunConfig.checked(recipe)
    sample(base.for_sample())
    block = RunConfig.checked(
        {
            **recipe,
            "out": root / f"seed-{seed}-m-{size}",
            "finetune": {**recipe["finetune"], "labels_per_forward": size},
        }
    )
    tuned = finetune(block.for_finetune().model_copy(update={"data": base.out}))
    merge(block.for_merge())
    result = evaluate(block.for_evaluate(str(block.out / "merged"), None, "merged"))
    return {"seed": seed, "m": size, "seconds": tuned["seconds"], **result["chat/arithmetic"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--out", type=Path, default=Path("runs/block-accuracy"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [accuracy(options.out, seed, size) for seed in options.seeds for size in options.sizes]
    at = {(row["seed"], row["m"]): row for row in rows}
    heading = [f"seed {seed}" for seed in options.seeds]
    print(f"| m | {' | '.join(heading)} | mean | SD | mean difference to m = {options.sizes[0]} | p by seed |")
    print("|--:|" + "--:|" * (len(options.seeds) + 4))
    for size in options.sizes:
        found = [100 * at[seed, size]["accuracy"] for seed in options.seeds]
        first = [100 * at[seed, options.sizes[0]]["accuracy"] for seed in options.seeds]
        pairs = [
            compare(*(options.out / f"seed-{seed}-m-{m}" / "evaluate" / "merged" for m in (options.sizes[0], size)))
            for seed in options.seeds
        ]
        p_values = [f"{pair['benchmarks'][0]['p_value']:.2g}" if size != options.sizes[0] else "" for pair in pairs]
        difference = statistics.fmean(b - a for a, b in zip(first, found, strict=True))
        deviation = statistics.stdev(found) if len(found) > 1 else float("nan")
        figures = " | ".join(f"{value:.1f}" for value in found)
        print(
            f"| {size} | {figures} | {statistics.fmean(found):.1f} | {deviation:.1f} | {difference:+.1f} "
            f"| {', '.join(p_values)} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
