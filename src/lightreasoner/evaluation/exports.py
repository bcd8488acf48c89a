"""Export an evaluation for other tools: lm-evaluation-harness (`lm_eval`), or the Hub.

Files for the repository of a model on the Hub:

    .eval_results/gsm8k_chat.yaml    one file for each benchmark that is a data set on the Hub. The Hub shows those
                                     whose data set has an eval.yaml with our `task_id`, the name of the benchmark
    model-index.yaml                 all figures in the older form, for the head of README.md
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightreasoner.config.base import shareable_name
from lightreasoner.config.sections import ExportFormat
from lightreasoner.data.benchmarks import HubSource
from lightreasoner.errors import DataError
from lightreasoner.evaluation.folder import Evaluated, read_evaluation
from lightreasoner.evaluation.lm_eval import harness_files
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.runs.files import write_atomically
from lightreasoner.runs.progress import say


def export_answers(evaluation: Path, out: Path, *, to: ExportFormat) -> dict[str, Any]:
    """Export an evaluation in the format of another tool.

    Args:
        evaluation: --out folder of `lightr evaluate` or `lightr answers import`.
        out: folder to write into; existing files are never overwritten.
        to: lm-eval for the logs of lm-evaluation-harness, hub for the evaluation results of a model repository.

    Returns:
        Numbers of `benchmarks` (one for each kind of prompt) and of `items` in them, and the `files` written.

    Raises:
        DataError: there is no evaluation, it is of several models, or a file exists or cannot be written.
        RunCorrupted: the evaluation is unfinished or damaged.
    """
    tasks = read_evaluation(evaluation)
    models = {(task.model, task.settings.get("model_sha256")): task.stage.path.parent for task in tasks}
    if len(models) > 1:
        named = ", ".join(f"{model} in {place}" for (model, _), place in models.items())
        raise DataError(
            f"{evaluation} has answers of several models ({named}), and an export describes one. Evaluate each model "
            "into a folder of its own"
        )
    files = []
    for name, content in harness_files(tasks) if to == "lm-eval" else hub_files(tasks):
        file = out / name
        if file.exists():
            raise DataError(f"{file} exists already and is not overwritten. Remove it, or give another folder")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content)
        except OSError as error:
            raise DataError(f"cannot write {file}: {error.strerror or error}. Give another folder") from None
        files.append(str(file))
    return {"benchmarks": len(tasks), "items": sum(task.figures["total"] for task in tasks), "files": files}


def hub_files(tasks: Sequence[Evaluated], name: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, the model index first.

    Args:
        tasks: of one model.
        name: of the model. Default: that of the evaluation, without the folders of a path.
    """
    # Imported here because it is slow.
    from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.repocard_data import eval_results_to_model_index

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task.data_set.path,
            dataset_name=task.benchmark.title,
            dataset_config=task.data_set.configuration,
            dataset_split=task.data_set.split,
            dataset_revision=task.data_set.revision,
            metric_type="accuracy" if task.benchmark.metric == "acc" else task.benchmark.metric,
            metric_value=_percent(task),
            metric_name=_notes(task),
        )
        for task in tasks
    ]
    yield (
        "model-index.yaml",
        _yaml({"model-index": eval_results_to_model_index(name or shareable_name(tasks[0].model), results)}),
    )
    for task in tasks:
        if not isinstance(task.benchmark.source, HubSource):
            say(f"{task.label}: {task.benchmark.title} is no data set on the Hub, so it is in model-index.yaml only")
            continue
        entry = EvalResultEntry(
            dataset_id=task.data_set.path,
            task_id=task.benchmark.name,
            value=_percent(task),
            dataset_revision=task.data_set.revision,
            date=None if task.is_imported else task.time.isoformat(),
            notes=_notes(task),
        )
        yield f".eval_results/{task.label}.yaml", _yaml(eval_result_entries_to_yaml([entry]))


def _percent(task: Evaluated) -> float:
    return round(100 * float(task.figures["accuracy"]), 2)


def _notes(task: Evaluated) -> str:
    """How the figure was made: metric and prompt, decoding, judge, items and interval."""
    settings, figures = task.settings, task.figures
    parts = [f"{figures['metric']}, {task.prompt}" + (" prompt" if task.judged else " of the choices")]
    if task.is_imported:
        parts.append(f"answers from {settings['imported_from']['file']}")
    elif task.judged:
        temperature = settings["temperature"]
        how = f"temperature {temperature:g}, top_p {settings['top_p']:g}" if temperature else "greedy decoding"
        parts.append(f"{how}, at most {settings['max_answer_tokens']} tokens")
    parts += [f"judged by {judge}" for judge in list(task.judged)[:1]]
    interval = Interval.of(figures, "accuracy").percent.ends(".1f")
    parts.append(f"{figures['total']} of {task.benchmark.size} items, 95 % interval {interval}")
    return "; ".join(parts)


def _yaml(content: Any) -> bytes:
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)).encode()
