"""The whole job with its workers on a Ray cluster; needs `pip install '.[ray]'` in the clone.

    python examples/ray_job.py local runs/ray                       # on this machine alone
    ray job submit --address http://HEAD:8265 --working-dir . -- python examples/ray_job.py auto /shared/runs/ray

Each worker has a GPU, or its share of the cores, and samples and answers batches of questions. The run folder lies on a
file system that all nodes see. A lost node costs its current batches; after a stop, submit the same job again.
"""

import sys
from pathlib import Path

from lightreasoner import RunConfig, run

ADDRESS = sys.argv[1] if len(sys.argv) > 1 else "local"
OUT = Path(sys.argv[2] if len(sys.argv) > 2 else "runs/ray")
QUESTIONS = int(sys.argv[3]) if len(sys.argv) > 3 else 1000

if __name__ == "__main__":
    config = RunConfig(
        expert="miniature/expert",
        amateur="miniature/base",
        dataset="arithmetic",
        out=OUT,
        ray=ADDRESS,
        workers=2,
        sample={"max_questions": QUESTIONS, "max_new_tokens": 48},
        finetune={"steps": max(2, 2 * QUESTIONS // 5), "learning_rate": 4e-3},
        evaluate={"benchmarks": "arithmetic", "max_items": QUESTIONS, "max_answer_tokens": 64},
    )
    for row in run(config)["comparison"]["benchmarks"]:
        print(f"{row['benchmark']}: {row['before']:.1%} before, {row['after']:.1%} after")
