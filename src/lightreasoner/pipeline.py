"""`lightr run`: all stages in one run folder. Each stage resumes its own unfinished work.

This module knows the order of the stages, as `rounds` does for several of them. Stages do not import one another.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from lightreasoner.config import RoundsConfig, RunConfig
from lightreasoner.errors import DataError, RunMismatch
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate, read_items
from lightreasoner.inference.vllm_engine import engine_version
from lightreasoner.models.loading import check_weights, context_length, empty_model
from lightreasoner.models.pairs import find_pair
from lightreasoner.models.quantising import check_base
from lightreasoner.models.shape import read_config
from lightreasoner.models.sides import Side
from lightreasoner.models.source import is_on_hub
from lightreasoner.push import check_push, push, push_lines
from lightreasoner.report import markdown, report, write_page
from lightreasoner.report.reading import times
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.files import write_atomically, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.progress import say
from lightreasoner.runs.ray_workers import check_ray
from lightreasoner.runs.tracking import tracking
from lightreasoner.samples.contexts import Contexts, refuse_same_prompts
from lightreasoner.samples.sampling import read_problems, refuse_if_none_fits, sample
from lightreasoner.samples.selecting import rule_of, select
from lightreasoner.training.adapters import check_targets
from lightreasoner.training.finetuning import check_machine, finetune
from lightreasoner.training.merging import RESULT, check_saving, merge


def run(config: RunConfig) -> dict[str, Any]:
    """Sample, fine-tune, merge and evaluate in one run folder, resuming what is unfinished; push if that is asked for.

    Returns:
        The results of the stages, their comparison and their times in seconds, as in `summary.json`.

    Raises:
        LightReasonerError: see `errors`.
    """
    check(config)
    with locked(config.out), settings_unless_refused(config.out):
        earlier = _earlier_summary(config)
        if earlier is None:
            write_json(config.out / "environment.json", {"at": now(), **environment()})
            write_atomically(config.out / "config.yaml", to_yaml(config).encode())
        summary: dict[str, Any] = {"expert": config.expert, "amateur": config.amateur, "dataset": config.dataset}
        stages: dict[str, Callable[[], dict[str, Any]]] = {
            "sample": lambda: sample(config.for_sample()),
            **({"select": lambda: select(config.for_select())} if config.selects else {}),
            "finetune": lambda: finetune(config.for_finetune()),
            "merge": lambda: merge(config.for_merge()),
            "evaluate_before": lambda: evaluate(config.for_evaluate(config.expert, config.expert_revision, "expert")),
            "evaluate_after": lambda: evaluate(config.for_evaluate(str(config.out / "merged"), None, "merged")),
        }
        for name, stage in stages.items():
            say(f"== {name}")
            summary[name] = stage()
        folders = [config.out / "evaluate" / name for name in ("expert", "merged")]
        summary["comparison"] = compare(*folders, judge=config.evaluate.judge)
        if earlier is not None and {**earlier, "seconds": None} == json.loads(json.dumps({**summary, "seconds": None})):
            summary = earlier  # nothing was left to do
        else:
            summary["seconds"] = times(config.out)
            write_json(config.out / "summary.json", summary)
            say(f"report: {write_page(config.out)['file']}")
        track_report(config, summary["comparison"]["benchmarks"])
    if config.push_to is not None:
        for line in push_lines(push(config.for_push())):
            say(line)
    return summary


@contextmanager
def settings_unless_refused(out: Path) -> Iterator[None]:
    """Within this context a run may write its settings; finished work that was made with others keeps its own."""
    files = [out / name for name in ("config.yaml", "environment.json")]
    before = [path.read_bytes() if path.is_file() else None for path in files]
    try:
        yield
    except RunMismatch:
        for path, content in zip(files, before, strict=True):
            if content is not None:
                write_atomically(path, content)
        raise


def track_report(config: RunConfig, compared: Sequence[Mapping[str, Any]] = ()) -> None:
    """Send the report of a run folder to its trackers, and the rows of a comparison."""
    if config.report_to:
        with tracking(config.report_to, config.out) as trackers:
            trackers.result("comparison", {f"{row['prompt']}/{row['benchmark']}": row for row in compared})
            trackers.file(config.out / "report.html", markdown(report(config.out)))


def check(config: RunConfig, *, download: bool = True, evaluates: bool = True) -> None:
    """Find everything that the stages will need, in seconds: no run should fail after its sampling for a wrong name.

    Args:
        config: the run.
        download: False reads no more than the configuration of models on the Hub.
        evaluates: the benchmarks are needed too.

    Raises:
        LightReasonerError: a tracker, engine, device, benchmark, data set or model is missing or does not fit, or
            nothing could be pushed.
    """
    if download:
        check_push(config)
    if not isinstance(config, RoundsConfig) and (config.out / "round-0").is_dir():
        raise DataError(f"{config.out} holds rounds of `lightr rounds`, which a run would mix with. Give another --out")
    settings = config.out / "config.yaml"
    if settings.exists() and not (config.out / "environment.json").exists():
        raise DataError(f"{settings} was not written by a run, and this run would replace it. Give another --out")
    merged = config.out / "merged"
    if merged.exists() and not (merged / RESULT).is_file():
        raise DataError(
            f"{merged} exists and holds no merge, so this run could not write its model. Give another --out"
        )
    if config.selects:
        rule_of(config.for_select())
    check_machine(config.for_finetune())
    if config.engine != "own":
        engine_version(config.engine_python)
    if config.ray is not None:
        check_ray(config.ray)
    if evaluates:
        read_items(config.for_evaluate(config.expert, config.expert_revision, "expert"))
    problems = read_problems(config.for_sample())
    names = [(config.expert, config.expert_revision)]
    if (side := Side.of(config.amateur)).has_own_files:
        names.append((side.value or config.amateur, config.amateur_revision))
    if not download and any(is_on_hub(name) for name, _ in names):
        for name, revision in names:
            read_config(name, revision)
        return
    found = find_pair(config)
    expert, amateur = found.tokenizers()
    contexts = Contexts.of(config, expert, amateur, problems=problems)
    prompted = [contexts.prompted(problem) for problem in problems.problems]
    refuse_same_prompts(found, prompted)
    longest = min(context_length(empty_model(source, config)) for source in found.own_weights)
    refuse_if_none_fits([item.longest for item in prompted], longest, config.sample.max_new_tokens)
    if (shortest := min(len(item.trained_ids or item.prompt_ids) for item in prompted)) > config.finetune.max_length:
        raise DataError(
            f"the shortest prompt has {shortest} tokens and --finetune.max-length is {config.finetune.max_length}, so "
            f"no label could be trained on. Raise it above {shortest}"
        )
    for source in found.own_weights:
        check_weights(source, config)
    check_targets(config.for_finetune(), config.finetune.lora_targets, to_merge=True)
    if config.finetune.load_in_4bit:
        check_base(found.expert, config)
    check_saving(config.for_merge(), found.expert, expert)


def _earlier_summary(config: RunConfig) -> dict[str, Any] | None:
    """The summary of an earlier run with the same settings, or None."""
    try:
        if (config.out / "config.yaml").read_text(encoding="utf-8") != to_yaml(config):
            return None
        summary: dict[str, Any] = json.loads((config.out / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return summary


def to_yaml(config: RunConfig) -> str:
    """The config as a recipe; a run without a selection has no section of it. To push it is no part of a run."""
    left_out = {"push", "push_to", *([] if config.selects else ["select"])}
    values = config.model_dump(mode="json", exclude=left_out)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
