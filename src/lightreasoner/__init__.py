"""LightReasoner: improve a language model's reasoning without labels.

    >>> from lightreasoner import SampleConfig, sample
    >>> sample(SampleConfig(expert="…", amateur="…", dataset="gsm8k", out="runs/mine"))

Functions are imported on first use, so `import lightreasoner` loads no torch.
"""

import logging
import warnings
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from lightreasoner.config import (
    BaselineConfig,
    EvaluateConfig,
    FinetuneConfig,
    InspectConfig,
    MergeConfig,
    RunConfig,
    SampleConfig,
    SelectConfig,
)
from lightreasoner.errors import LightReasonerError

if TYPE_CHECKING:
    from lightreasoner.evaluation.comparison import compare
    from lightreasoner.evaluation.evaluate import evaluate
    from lightreasoner.inspection import inspect
    from lightreasoner.pipeline import check, run
    from lightreasoner.report.notebook import show
    from lightreasoner.samples.baselines import baseline
    from lightreasoner.samples.jsonl import export_samples, import_samples
    from lightreasoner.samples.sampling import sample
    from lightreasoner.samples.selecting import Rule, register_rule, select
    from lightreasoner.studies.study import study
    from lightreasoner.training.finetuning import finetune
    from lightreasoner.training.merging import merge

# PEFT imports bitsandbytes, which warns without the package `kernels` of inference in 4 bits, which nothing here does.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")
)

# Progress in notebooks is plain HTML. tqdm, in libraries, asks for ipywidgets there.
warnings.filterwarnings("ignore", message="IProgress not found")

_MODULES = {
    "Rule": "samples.selecting",
    "baseline": "samples.baselines",
    "check": "pipeline",
    "compare": "evaluation.comparison",
    "evaluate": "evaluation.evaluate",
    "export_samples": "samples.jsonl",
    "finetune": "training.finetuning",
    "import_samples": "samples.jsonl",
    "inspect": "inspection",
    "merge": "training.merging",
    "register_rule": "samples.selecting",
    "run": "pipeline",
    "sample": "samples.sampling",
    "select": "samples.selecting",
    "show": "report.notebook",
    "study": "studies.study",
}

__all__ = [
    "BaselineConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "InspectConfig",
    "LightReasonerError",
    "MergeConfig",
    "Rule",
    "RunConfig",
    "SampleConfig",
    "SelectConfig",
    "baseline",
    "check",
    "compare",
    "evaluate",
    "export_samples",
    "finetune",
    "import_samples",
    "inspect",
    "merge",
    "register_rule",
    "run",
    "sample",
    "select",
    "show",
    "study",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("lightreasoner")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
