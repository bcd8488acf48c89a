"""LightReasoner: make a language model reason better without labels.

    >>> from lightreasoner import SampleConfig, sample
    >>> sample(SampleConfig(expert="…", amateur="…", dataset="gsm8k", out="runs/mine"))

Names are imported when they are first used, so that `import lightreasoner` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightreasoner.config import (
    BaselineConfig,
    EvaluateConfig,
    FinetuneConfig,
    MergeConfig,
    RunConfig,
    SampleConfig,
    SelectConfig,
)

if TYPE_CHECKING:
    from lightreasoner.evaluation.comparison import compare
    from lightreasoner.evaluation.evaluate import evaluate
    from lightreasoner.pipeline import run
    from lightreasoner.samples.baselines import baseline
    from lightreasoner.samples.jsonl import export_samples, import_samples
    from lightreasoner.samples.sampling import sample
    from lightreasoner.samples.selecting import select
    from lightreasoner.studies.study import study
    from lightreasoner.training.finetuning import finetune
    from lightreasoner.training.merging import merge

_HOMES = {
    "baseline": "samples.baselines",
    "compare": "evaluation.comparison",
    "evaluate": "evaluation.evaluate",
    "export_samples": "samples.jsonl",
    "finetune": "training.finetuning",
    "import_samples": "samples.jsonl",
    "merge": "training.merging",
    "run": "pipeline",
    "sample": "samples.sampling",
    "select": "samples.selecting",
    "study": "studies.study",
}

__all__ = [
    "BaselineConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "MergeConfig",
    "RunConfig",
    "SampleConfig",
    "SelectConfig",
    "baseline",
    "compare",
    "evaluate",
    "export_samples",
    "finetune",
    "import_samples",
    "merge",
    "run",
    "sample",
    "select",
    "study",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
