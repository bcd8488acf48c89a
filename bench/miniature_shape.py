"""Measure the shape of a pair of miniature models beside the paper's: accuracies, and the divergence of Figure 2.

    python bench/miniature_shape.py miniature2/expert miniature2/base

The problems come from streams of the generator that neither the benchmark nor any recipe reads, so that a pair may be
chosen by these figures and still be judged on the others.
"""

import argparse
import json
import tempfile
from pathlib import Path

from lightreasoner.config import EvaluateConfig, SampleConfig
from lightreasoner.data.problems import load_problems
from lightreasoner.evaluation.comparison import read_sides
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.miniature.word_problems import THEMES, word_problems
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.statistics import Divergence

SEED = 770_001  # of this measurement alone
PAPER = (
    "paper: 59 % below 0.1, about 20 % above 0.4, mean 1.99 where they differ and 0.166 where they agree "
    "(10 % above 0.4)"
)


def accuracies(model: str, problems: int, out: Path) -> str:
    """Accuracy over all problems, then by theme."""
    file = out / "problems.jsonl"
    themes: dict[str, str] = {}
    stream = word_problems("test", SEED)
    chosen = load_problems("arithmetic", split="test", limit=problems, seed=SEED).problems
    file.write_text("".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in chosen))
    while not themes.keys() >= {p.question for p in chosen}:
        problem = next(stream)
        themes[problem.question] = problem.theme
    kinds = [themes[p.question] for p in chosen]
    folder = out / model.replace("/", "-")
    evaluate(
        EvaluateConfig(
            model=model,
            benchmarks=(str(file),),
            max_answer_tokens=64,
            dtype="float32",
            answer_batch_size=250,
            out=folder,
        )
    )
    (side,) = read_sides(folder, None)
    scores = [side.scores[item] for item in sorted(side.scores)]
    by_theme = {
        theme: [score for score, kind in zip(scores, kinds, strict=True) if kind == theme] for theme in sorted(THEMES)
    }
    parts = (f"{theme} {100 * sum(found) / max(1, len(found)):.0f}" for theme, found in by_theme.items())
    return f"{model}: {100 * sum(scores) / len(scores):.1f} % of {len(scores)} ({', '.join(parts)})"


def divergence(expert: str, amateur: str, problems: int, out: Path) -> str:
    """The figures of the paper's Figure 2."""
    sample(
        SampleConfig(
            expert=expert, amateur=amateur, dataset="arithmetic", seed=SEED, max_questions=problems, max_new_tokens=48,
            dtype="float32", batch_size=128, out=out,
        )
    )  # fmt: skip
    _, stage = read_stage(out / "sample")
    found = Divergence.of(row for table in stage.tables("rollouts") for row in Rollout.rows(table))
    return (
        f"{expert} and {amateur}: {found.histogram.total} steps, {100 * found.below_tenth_share:.1f} % below 0.1, "
        f"{100 * found.exceeding_share:.1f} % above 0.4, mean {found.differed.value or 0:.2f} where they differ "
        f"({found.differed.count}) and {found.agreed.value or 0:.3f} where they agree "
        f"({100 * found.exceeding_agreed_share:.0f} % above 0.4)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expert")
    parser.add_argument("amateur")
    parser.add_argument("--problems", type=int, default=800)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for model in (options.expert, options.amateur):
            print(accuracies(model, options.problems, Path(folder)), flush=True)
        print(divergence(options.expert, options.amateur, options.problems // 2, Path(folder) / "pair"))
    print(PAPER)


if __name__ == "__main__":
    main()
