"""The figures of a run on the card of its model, and as files that the Hub reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightreasoner.data.cards import escaped, rows
from lightreasoner.errors import DataError
from lightreasoner.evaluation.exports import hub_files
from lightreasoner.evaluation.folder import Evaluated
from lightreasoner.report.reading import accuracies, open_run
from lightreasoner.report.tables import gain, p_value, score
from lightreasoner.runs.progress import warn, without_messages


@dataclass(frozen=True)
class Figures:
    """Figures of a model.

    Attributes:
        lines: section of the card.
        metadata: fields of the card: metrics, and the model index.
        files: content by name, one for each benchmark that is a data set on the Hub and was answered whole.
    """

    lines: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def figures_of(run: Path, model_sha256: str | None, adapter_files: Mapping[str, str] | None, name: str) -> Figures:
    """The evaluation in a run folder, if it is one of this model.

    Args:
        run: run folder.
        model_sha256: content of the merged model; None where there is none.
        adapter_files: hash of each file of the adapter, for an evaluation of base + adapter.
        name: of the model in the model index.
    """
    try:
        found = open_run(run)
    except DataError:  # a folder of a model alone
        return Figures()
    is_mine = [_is_of(one, model_sha256, adapter_files) for one in found.after]
    if not all(is_mine):
        warn(
            f"the evaluation in {run / 'evaluate'} is of another model than the one that is sent, so its figures are "
            "left out. Evaluate this one to have them on the card"
        )
    if not found.after or not all(is_mine):
        return Figures()
    metadata, files = _hub_files(found.after, name)
    return Figures([*_table(found), "", *_how(found.after)], metadata, files)


def _is_of(task: Evaluated, model_sha256: str | None, adapter_files: Mapping[str, str] | None) -> bool:
    if task.is_imported:
        return True  # nobody can say; the figures name the file
    with_adapter = task.settings.get("adapter_files")
    if with_adapter is not None:
        return adapter_files is not None and dict(with_adapter) == dict(adapter_files)
    return model_sha256 is not None and task.settings.get("model_sha256") == model_sha256


def _hub_files(tasks: Sequence[Evaluated], name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Metadata of the card, and the files of figures; those of a part of the items are on the card alone."""
    whole = {f".eval_results/{task.label}.yaml" for task in tasks if task.figures["total"] == task.benchmark.size}
    with without_messages():
        files = dict(hub_files(tasks, name))
    index = yaml.safe_load(files.pop("model-index.yaml"))
    return {"metrics": ["accuracy"], **index}, {name: content for name, content in files.items() if name in whole}


def _table(run: Any) -> Iterator[str]:
    header = ["benchmark", "prompt", "items", "base, %", "this model, %", "gain, points", "p (Holm)"]
    cells = []
    for one in accuracies(run):
        tested = [gain(one.test), p_value(one.test["p_holm"])] if one.test else ["–", "–"]
        cells.append([one.title, one.prompts, one.total, score(one.before), score(one.after), *tested])
    yield from rows(header, cells)


def _how(tasks: Sequence[Evaluated]) -> list[str]:
    """How the answers were made and judged, in a sentence for each way."""
    ways = []
    for task in tasks:
        settings = task.settings
        if task.is_imported or not task.judged:
            continue
        decoding = f"temperature {settings['temperature']:g}" if settings["temperature"] else "greedy decoding"
        judge = next(iter(task.judged))
        ways.append(f"{decoding}, at most {settings['max_answer_tokens']} tokens an answer, judged by {judge}")
    parts = [f"Answers: {'; '.join(dict.fromkeys(ways))}." if ways else ""]
    sizes = {task.benchmark.title: task.benchmark.size for task in tasks if task.figures["total"] < task.benchmark.size}
    if sizes:
        parts.append(
            f"Of a part of the items: {', '.join(f'{escaped(title)} has {size}' for title, size in sizes.items())}."
        )
    interval = "With 95 % intervals: Wilson's of an accuracy, Tango's of a gain; p: exact McNemar, Holm's correction."
    return [" ".join(filter(None, [*parts, interval]))]
