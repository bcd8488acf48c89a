"""A selection rule of your own: train on the steps where the amateur is less sure than the expert.

    python examples/own_rule.py [RUN_FOLDER] [QUESTIONS] [STEPS]

A rule gives each step a score, and the steps with the highest scores are kept. `Steps` says what is known about a step:
numbers of the whole distributions (`steps.of("kl")`, `"expert_entropy"`, …, see `samples.folder.Rollout`), and the
tokens, log-probabilities and weights of its label. Samples of every step are made once; each rule selects from them
without running a model. The rule is known where it was registered, so select with it from Python.
"""

import sys
from pathlib import Path

from torch import Tensor

from lightreasoner import FinetuneConfig, Rule, SampleConfig, SelectConfig, finetune, register_rule, sample, select
from lightreasoner.samples.selecting import Steps

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/own_rule")
QUESTIONS = int(sys.argv[2]) if len(sys.argv) > 2 else 200
STEPS = int(sys.argv[3]) if len(sys.argv) > 3 else 100


def surer(steps: Steps) -> Tensor:
    """H(π_A) − H(π_E) in nats: by how much the expert is surer than the amateur, [N]."""
    return steps.of("amateur_entropy") - steps.of("expert_entropy")


register_rule("surer", Rule(surer))

if __name__ == "__main__":
    every_step = SampleConfig(
        expert="miniature/expert",
        amateur="miniature/base",
        dataset="arithmetic",
        max_questions=QUESTIONS,
        max_new_tokens=48,
        divergence_beta=None,
        out=OUT / "every_step",
    )
    sample(every_step)
    for rule in ("divergence", "surer"):
        kept = select(SelectConfig(source=every_step.out, out=OUT / rule, selection=rule, keep_share=0.25))
        training = FinetuneConfig(
            model="miniature/expert", data=OUT / rule, out=OUT / rule, steps=STEPS, learning_rate=4e-3
        )
        trained = finetune(training)
        print(
            f"{rule}: {kept['kept_steps']} of {kept['steps']} steps kept, scores from {kept['lowest_score']:.3f} nats; "
            f"trained on {trained['labels_trained']} labels"
        )
