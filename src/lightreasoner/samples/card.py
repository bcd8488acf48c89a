"""The card of a sample folder: with it, `datasets.load_dataset(RUN/sample)` and the Hub read rollouts and labels.

    load_dataset(FOLDER)             the rollouts
    load_dataset(FOLDER, "labels")   the labels; both have one split, train

The card is written when the stage is finished. It is no part of what decides the samples, so older folders stay as they
are, and get one when their command is repeated.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightreasoner.config.base import shareable_name
from lightreasoner.data import hub
from lightreasoner.data.cards import PAPER, TAG, Licence, card, escaped, fenced, licence_lines, rows
from lightreasoner.data.problems import HUB_DATASETS
from lightreasoner.runs.files import write_atomically
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Record
from lightreasoner.runs.sharing import ALONE, Sharing
from lightreasoner.runs.stage import StageFolder, open_stage
from lightreasoner.samples.folder import FACTOR, Imported, Label, Made, Rollout

CARD = "README.md"
CONFIGURATIONS = {"rollouts": "rollouts-*.parquet", "labels": "steps-*.parquet"}
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


@contextmanager
def open_samples(
    out: Path,
    stage: str,
    made: Made,
    report: Callable[[str], None] = say,
    asked_at: str | None = None,
    sharing: Sharing = ALONE,
) -> Iterator[StageFolder]:
    """`open_stage` for samples that are made in this way; a finished stage gets its card.

    Args:
        out: run folder.
        stage: name of the subfolder.
        made: how the samples are made: fingerprint and record of the stage.
        report, asked_at, sharing: see `open_stage`.
    """
    record = made.model_dump(mode="json")
    with open_stage(out, stage, made.fingerprint(), report, record, asked_at, sharing) as folder:
        yield folder
        if folder.result is not None and not sharing.joins:
            content = samples_card(made, folder).encode()
            if not (folder.path / CARD).is_file() or (folder.path / CARD).read_bytes() != content:
                write_atomically(folder.path / CARD, content)


def data_set_of(made: Made) -> str | None:
    """Hub id of the data set that the problems came from; None where they came from elsewhere."""
    name = shareable_name(made.dataset or "")
    name = HUB_DATASETS[name][0] if name in HUB_DATASETS else name.partition(":")[0]
    is_file = Path(name).suffix.lower() in {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt"}
    return name if hub.is_repository(name) and not is_file else None


def samples_card(
    made: Made,
    stage: StageFolder,
    *,
    facts: Mapping[str, Any] | None = None,
    commands: Sequence[str] = (),
    licences: Sequence[Licence] = (),
) -> str:
    """README of a data set of samples: what is in it, how it was made, and how to make it again.

    Args:
        made: how the samples were made.
        stage: the samples, finished.
        facts: settings to show.
        commands: that make the samples again.
        licences: the first is that of the data set itself; without any, the card says nothing of them.
    """
    result = stage.result or {}
    labels = result.get("kept_steps", result.get("labels"))
    counted = {"questions": made.questions, "labels": labels, **(facts or {})}
    source, count = data_set_of(made), labels or 0
    metadata = {
        **(licences[0].metadata() if licences else {}),
        "pretty_name": f"Contrastive labels for {shareable_name(made.expert)}",
        "task_categories": ["text-generation"],
        "size_categories": [SIZES[min(max(len(str(count)) - 3, 0), len(SIZES) - 1)]],
        "source_datasets": [source] if source else [],
        "tags": [TAG, "contrastive-labels", "self-distillation", made.__class__.__name__.lower()],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": path}], "default": name == "rollouts"}
            for name, path in CONFIGURATIONS.items()
        ],
    }
    lines = [
        f"# Rollouts and labels of {escaped(shareable_name(made.expert))}",
        "",
        *_about(made),
        "",
        *rows(["", ""], ((name, value) for name, value in counted.items() if value is not None)),
        "",
        "## Use",
        "",
        *fenced(_use(), "python"),
        "",
        "The files are also a stage of a run folder: `lightr finetune --data FOLDER` trains on a copy of them.",
        "",
        *_features("rollouts", Rollout, {}),
        *_features("labels", Label, {FACTOR: ("float", "of the label's loss; only where labels were weighed")}),
        *licence_lines(licences),
        *(["## Made by these commands", "", *fenced(commands), ""] if commands else []),
    ]
    return card(metadata, lines)


def _about(made: Made) -> list[str]:
    expert = escaped(shareable_name(made.expert))
    tokens = f"Token ids are those of the tokenizer of {expert}."
    if made.amateur:
        against = escaped(shareable_name(made.amateur))
        return [
            f"Responses of {expert} to problems, both models' numbers at every token, and labels of the steps where it "
            f"differs most from a weaker model, {against}: the method LightReasoner, {PAPER}. {tokens}"
        ]
    what = "with labels of single steps" if isinstance(made, Imported) else "to fine-tune it on: a baseline"
    return [f"Responses of {expert} to problems, {what} for LightReasoner, {PAPER}. {tokens}"]


def _use() -> list[str]:
    return [
        "from datasets import load_dataset",
        "",
        'rollouts = load_dataset("OWNER/NAME", split="train")  # or the path of this folder',
        'labels = load_dataset("OWNER/NAME", "labels", split="train")',
    ]


def _features(name: str, record: type[Record], more: Mapping[str, tuple[str, str]]) -> list[str]:
    """The columns of a configuration: name, type, and the comment of its field."""
    comments = dict(re.findall(r"^    (\w+): .*?  # (.+)$", inspect.getsource(record), re.MULTILINE))
    columns = [(field.name, str(field.type).replace("item: ", ""), comments[field.name]) for field in record.schema]
    columns += [(column, *facts) for column, facts in more.items()]
    lines = (f"| `{column}` | `{kind}` | {meaning} |" for column, kind, meaning in columns)
    return [f"## Features of {name}", "", "| column | type | meaning |", "|---|---|---|", *lines, ""]
