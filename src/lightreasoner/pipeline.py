"""`lightr run`: all stages in one run folder. Each stage finds out for itself what is left to do.

This is the one module that knows the order of the stages; they know nothing of each other.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import yaml

from lightreasoner.config import RunConfig
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.report import write_page
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.files import write_atomically, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.progress import say
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge


def run(config: RunConfig) -> dict[str, Any]:
    """Sample, fine-tune, merge, and evaluate expert and merged model; give the summary that is also written.

    Raises:
        LightReasonerError: see `errors`. The same call continues where this one ended.
    """
    with locked(config.out):
        earlier = _earlier_summary(config)
        if earlier is None:
            write_atomically(config.out / "config.yaml", to_yaml(config).encode())
            write_json(config.out / "environment.json", {"at": now(), **environment()})
        seconds: dict[str, float] = dict(earlier["seconds"]) if earlier else {}
        summary: dict[str, Any] = {"expert": config.expert, "amateur": config.amateur, "dataset": config.dataset}
        stages: dict[str, Callable[[], dict[str, Any]]] = {
            "sample": lambda: sample(config.for_sample()),
            "finetune": lambda: finetune(config.for_finetune()),
            "merge": lambda: merge(config.for_merge()),
            "evaluate_before": lambda: evaluate(config.for_evaluate(config.expert, config.expert_revision, "expert")),
            "evaluate_after": lambda: evaluate(config.for_evaluate(str(config.out / "merged"), None, "merged")),
        }
        for name, stage in stages.items():
            say(f"== {name}")
            started = time.perf_counter()
            summary[name] = stage()
            # A stage that was found done takes no time; what it took stands in the summary of before.
            seconds[name] = max(seconds.get(name, 0.0), round(time.perf_counter() - started, 1))
        folders = [config.out / "evaluate" / name for name in ("expert", "merged")]
        summary["comparison"] = compare(*folders, judge=config.evaluate.judge)
        if earlier is not None and {**earlier, "seconds": None} == json.loads(json.dumps({**summary, "seconds": None})):
            return earlier  # nothing was left to do, so nothing is written
        summary["seconds"] = seconds
        write_json(config.out / "summary.json", summary)
        say(f"report: {write_page(config.out)['file']}")
        return summary


def _earlier_summary(config: RunConfig) -> dict[str, Any] | None:
    """The summary of a run of the very same settings; None while there is none."""
    try:
        if (config.out / "config.yaml").read_text(encoding="utf-8") != to_yaml(config):
            return None
        summary: dict[str, Any] = json.loads((config.out / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary


def to_yaml(config: RunConfig) -> str:
    """The config as a recipe that gives this very config."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
