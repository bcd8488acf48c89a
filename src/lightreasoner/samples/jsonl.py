"""Samples to and from other tools: files as a whole.

`jsonl_lines` says what a line of JSONL holds, `training_rows` what rows for other trainers hold, and `teacher_rows` how
stored log-probabilities of a teacher become labels. A .jsonl file may stand in a .zip, see `archives`.
"""

import hashlib
import json
import math
import os
import shutil
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from lightreasoner.config.sections import DEFAULT_CUE, Count, MachineSettings, SampleFormat, TeacherFormat
from lightreasoner.data.fields import question_of
from lightreasoner.data.files import read_file, read_path
from lightreasoner.data.lines import short
from lightreasoner.errors import DataError, RunError, SampleFormatError
from lightreasoner.models.loading import load_generation_config, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import content_hash, find_model
from lightreasoner.runs.differences import changed_files
from lightreasoner.runs.files import file_hash, publish_folder
from lightreasoner.runs.progress import busy, progress, warn
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples import folder
from lightreasoner.samples.archives import SUFFIXES, TextFile, open_archive, open_text
from lightreasoner.samples.card import open_samples
from lightreasoner.samples.distillkit import read_settings
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Label, Rollout
from lightreasoner.samples.jsonl_lines import LONGEST_LINE, ImportedStep, LineReader, write_line
from lightreasoner.samples.statistics import HIGH_ENTROPY, is_scattered, label_entropy
from lightreasoner.samples.teacher_rows import TeacherReader
from lightreasoner.samples.training_rows import RowForm, row_form

Fill = Callable[[StageFolder], dict[str, Any]]  # puts rows into a stage, and gives its result

ROWS_PER_SHARD = 4096
ROWS_PER_GROUP = 64  # of a Parquet file for other trainers, whose rows are long


def export_samples(
    run_folder: Path | str,
    file: Path | str,
    *,
    to: SampleFormat = "jsonl",
    top_k: Count = 32,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Export the kept steps of a run: as JSONL with the authors' fields and ours, or as rows for another trainer.

    Memory holds one shard. The file gets its name when it is complete.

    Args:
        run_folder: run folder of `lightr sample`, or the sample folder in it.
        file: file to write; must not exist. JSONL is one step per line; the other forms are one rollout per row, as
            Parquet if the name ends in .parquet, else as JSON lines.
        to: jsonl for `lightr samples import` and the authors' script; axolotl and distillkit for their readers of
            teacher log-probabilities; trl for tokenised rows with one-hot labels; messages for chats, without labels.
        top_k: with axolotl and distillkit, most tokens of a label to write; a larger one is cut and renormalised.
        trust_remote_code: run Python code that the model repository ships.

    Returns:
        `rows` written, the `rollouts` of the run, and the `file`; of rows for a trainer also the `labels` in them, and
        with axolotl and distillkit the `columns` (tokens in each label, with stand-ins) and `labels_cut`.

    Raises:
        DataError: the file cannot be written, the folder holds no samples, or its expert has changed since.
        RunCorrupted: the samples are unfinished or damaged.
    """
    run_folder, file = Path(run_folder), Path(file)
    if file.exists():
        raise DataError(f"{file} exists already, and is not overwritten. Remove it, or give another name")
    made, stage = folder.read_samples(run_folder)
    source = find_model(made.expert, made.expert_revision)
    if changed := changed_files("expert", made.expert_files, source.files()):
        raise DataError(
            f"{stage.path} was sampled from {source.name}, which has changed since ({changed}): its token ids may mean "
            "other tokens. Put back the model that was sampled"
        )
    tokenizer = load_tokenizer(source, MachineSettings(trust_remote_code=trust_remote_code))
    if isinstance(made, folder.Selected) and made.settings.weigh_by:
        warn(
            f"the labels are weighed by {made.settings.weigh_by}, and the file cannot say how: in it all weigh the same"
        )
    form = None if to == "jsonl" else row_form(to, stage, tokenizer, made.cue, top_k)
    counts, labels = {"rows": 0, "rollouts": 0}, 0
    with _new_file(file) as temporary, _writer(temporary, file.suffix, form) as write, stop_signals() as stop:
        for shard in folder.read_shards(stage):
            for row in form.rows(shard) if form else _lines(shard, tokenizer):
                stop.check()
                write(row)
                counts["rows"] += 1
            labels += shard.labels.num_rows
            counts["rollouts"] += shard.rollouts.num_rows
    return {**counts, **({"labels": labels, **form.facts} if form else {}), "file": str(file)}


def _lines(shard: folder.Shard, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    for rollout in folder.scored_rollouts(shard):
        for label in rollout.labels.values():
            yield write_line(rollout, label, tokenizer)


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A temporary name beside `file`, which becomes `file` when it is complete."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as whole:
            os.fsync(whole.fileno())
        temporary.replace(file)
    except OSError as error:
        raise DataError(
            f"cannot write {file}: {error.strerror or error}. Give a file in a folder that is there"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _writer(file: Path, suffix: str, form: RowForm | None) -> Iterator[Callable[[Any], Any]]:
    """Writes rows of a form, or lines, to a file whose final name has this ending."""
    if form is None or suffix != ".parquet":
        with file.open("w", encoding="utf-8", newline="\n") as lines:
            yield lambda row: lines.write(row if form is None else json.dumps(row, ensure_ascii=False) + "\n")
        return
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, form.schema, compression="zstd") as parquet:

        def write(row: dict[str, Any], most: int = ROWS_PER_GROUP) -> None:
            waiting.append(row)
            if len(waiting) >= most:
                parquet.write_table(pa.Table.from_pylist(waiting, schema=form.schema))
                waiting.clear()

        yield write
        if waiting:
            write(waiting.pop(), most=1)


def import_samples(
    file: Path | str,
    out: Path | str,
    *,
    expert: str,
    expert_revision: str | None = None,
    source_format: TeacherFormat = "jsonl",
    member: str | None = None,
    questions: Path | str | None = None,
    question_field: str | None = None,
    cue: str | None = None,
    top_k: Count | None = None,
    compression: Path | str | None = None,
    logprobs_field: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Import samples as JSONL, or a teacher's stored log-probabilities, into a folder that `lightr finetune` reads.

    Args:
        file: JSONL file of samples, or a .zip that holds one; for axolotl and distillkit a file or folder of Parquet or
            JSON lines.
        out: folder to write; must not exist.
        expert: model that was sampled, or is to be trained; its tokenizer and chat template give the token ids.
        expert_revision: branch, tag or commit of a Hub expert.
        source_format: jsonl: the authors' format and that of `lightr samples export`. axolotl, distillkit: data with
            top-k log-probabilities of a teacher with the expert's tokenizer, for these trainers.
        member: file inside the .zip; by default the only one with the name of a text file.
        questions: file with the questions by `id`, if the samples' prompt_id is an id and not the question itself.
        question_field: field of that file that holds the question.
        cue: system message that the samples were made with, by default the paper's Eq 36; the authors' script used
            "Please reason step by step."
        top_k: with axolotl and distillkit, most tokens of a label; by default all that are stored.
        compression: with distillkit, YAML file that says how the data was compressed, by default
            compression_config.yaml beside it.
        logprobs_field: with axolotl, field of a chat with the log-probabilities; by default the first of logprobs,
            llm_text_generation_vllm_logprobs.
        trust_remote_code: run Python code that the model repository ships.

    Returns:
        Counts and statistics, see `_fill` and `_fill_with_teacher`.

    Raises:
        SampleFormatError: a line breaks the format, or an archive is damaged, hostile or ambiguous.
        DataError: a file or folder cannot be used.
    """
    file, out = Path(file), Path(out)
    _check_paths(file, out, jsonl=source_format == "jsonl")
    source = find_model(expert, expert_revision)
    tokenizer = load_tokenizer(source, MachineSettings(trust_remote_code=trust_remote_code))
    template = PromptTemplate(tokenizer, DEFAULT_CUE if cue is None else cue)
    if source_format == "jsonl":
        fill, facts = _samples(file, member, expert, template, Path(questions) if questions else None, question_field)
    else:
        settings = read_settings(file, None if compression is None else Path(compression))
        reader = TeacherReader(source_format, expert, tokenizer, top_k, settings, logprobs_field)
        fill, facts = _teacher(file, reader)
    asked = template.identity(template.stops(load_generation_config(source)))
    of_expert: dict[str, Any] = {"expert": expert, "expert_revision": expert_revision, "expert_files": source.files()}
    return _publish(file, out, folder.Imported(**of_expert, cue=template.cue, asked=asked, **facts), fill)


def _samples(
    file: Path, member: str | None, expert: str, template: PromptTemplate, questions: Path | None, field: str | None
) -> tuple[Fill, dict[str, Any]]:
    """How samples as JSONL get into a stage, and what decides them."""
    reader = LineReader(expert, template, _read_questions(questions, field) if questions else None)
    text = open_archive(file, member) if file.suffix.lower() == ".zip" else open_text(file)
    hashes = {"file_sha256": text.sha256, "questions_sha256": file_hash(questions) if questions else None}
    return lambda stage: _fill(stage, text, reader), {**hashes, "question_field": field}


def _teacher(file: Path, reader: TeacherReader) -> tuple[Fill, dict[str, Any]]:
    """How stored log-probabilities get into a stage, and what decides them."""
    facts = {"file_sha256": content_hash(_hashes(file)), "questions_sha256": None, "question_field": None}
    return lambda stage: _fill_with_teacher(stage, file, reader), {**facts, "teacher": reader.identity}


def _check_paths(file: Path, out: Path, jsonl: bool) -> None:
    if jsonl and file.suffix.lower() not in (*SUFFIXES, ".zip"):
        raise SampleFormatError(
            f"{file}: samples are read from text files ({', '.join(SUFFIXES)}) with one JSON object a line, not from "
            f"{file.suffix or 'files without an ending'}. Unpack or convert it, and give the text file"
        )
    if not file.is_file() and (jsonl or not file.is_dir()):
        raise DataError(f"no file {file}; check the path")
    if out.exists():
        raise DataError(f"{out} exists already, and an import makes a new folder. Remove it, or give another name")


def _hashes(file: Path) -> dict[str, str]:
    """The hash of each file of the data, by name."""
    files = [path for path in sorted(file.rglob("*")) if path.is_file()] if file.is_dir() else [file]
    return {path.relative_to(file if file.is_dir() else file.parent).as_posix(): file_hash(path) for path in files}


def _publish(file: Path, out: Path, made: folder.Imported, fill: Fill) -> dict[str, Any]:
    """A new folder with what `fill` puts into it, or none."""
    # In the nearest folder that is there: the same disk as `out`, and no parent to remove again after a failure.
    temporary = next(parent for parent in out.parents if parent.exists()) / f".{out.name}.{os.getpid()}.tmp"
    try:
        with open_samples(temporary, "sample", made, report=lambda line: None) as stage:
            result = stage.finish(fill(stage))
        out.parent.mkdir(parents=True, exist_ok=True)
        publish_folder(temporary, out)
    except (OSError, RunError) as error:
        raise DataError(f"cannot import {file} into {out}: {error}. Check both paths") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _read_questions(file: Path, field: str | None) -> dict[str, str]:
    """Question by id."""
    questions: dict[str, str] = {}
    for row in read_file(file):
        where, identifier = row[0], row[1].get("id")
        if type(identifier) not in (str, int):
            raise DataError(f"{where}: id is {short(identifier)}, but samples name their question by it. Mend the row")
        question = question_of(row, field)
        if questions.setdefault(str(identifier), question) != question:
            raise DataError(f"{where}: id {short(identifier)} stood for another question before. Mend the row")
    return questions


def _fill(stage: StageFolder, file: TextFile, reader: LineReader) -> dict[str, Any]:
    """Put the file's samples into the stage.

    Consecutive lines of one prompt, each prefix longer than the last and beginning with it, become one rollout, so that
    they can share a forward pass in training. The first rollout of a question has the question's id, further ones the
    line number behind it. Memory holds one shard, the questions, and some 150 bytes a line.

    Returns:
        `rows`, `rollouts`; `duplicates`: lines equal to an earlier one, dropped; `prefix_length_differs`: prefixes
        that did not become `step` ids; what `_Measures` gives; `expert`; `cue` as used, None if every line had its
        `prompt_ids`.
    """
    waiting: list[ImportedStep] = []  # the steps of one shard; the last rollout may still grow
    seen: set[bytes] = set()
    questions: set[str] = set()
    measures, differing = _Measures(), 0
    number, asked = 0, False
    with progress("importing bytes", file.size) as advance, stop_signals() as stop, file.open() as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), 1):
            stop.check()
            advance(len(line), f"{number} lines")
            digest = hashlib.blake2b(line.strip(), digest_size=16).digest()
            if digest in seen:
                continue
            seen.add(digest)
            step = reader.read(f"{file.name}, line {number}", line)
            measures.add(step.label.weights, step.line.kl)
            differing += len(step.prefix_ids) != step.line.step
            asked = asked or step.line.prompt_ids is None
            rollout_id = step.problem.id
            if waiting and step.extends(waiting[-1]):
                rollout_id = waiting[-1].label.question_id
            else:
                if len(waiting) >= ROWS_PER_SHARD:
                    _commit(stage, waiting)
                    waiting = []
                if rollout_id in questions:
                    rollout_id = f"{rollout_id}-{number}"
            questions.add(step.problem.id)
            waiting.append(replace(step, label=replace(step.label, question_id=rollout_id)))
    if not seen:
        where = f"{file.name}, line 1"
        raise SampleFormatError(f"{where}: the file is empty, there is nothing to learn from. Give another file")
    _commit(stage, waiting)
    return {
        **stage.counts,
        "duplicates": number - len(seen),
        **measures.means(),
        "prefix_length_differs": differing,
        "expert": reader.expert,
        "cue": reader.template.cue if asked else None,
    }


class _Measures:
    """Statistics of all labels; memory holds three numbers of each."""

    def __init__(self) -> None:
        self._values = array("d")  # of each label: support, entropy, is it scattered

    def add(self, weights: Sequence[float], kl: float) -> None:
        """Add a label; its KL may be NaN."""
        self._values.extend((len(weights), label_entropy(weights), is_scattered(weights, kl)))

    def means(self) -> dict[str, Any]:
        """Counts and means over all labels.

        Returns:
            `single_token_labels`; `mean_label_entropy` in nats; `mean_support` and `max_support` in tokens;
            `high_entropy_share`: of labels above `HIGH_ENTROPY`; `junk_suspects`: labels that
            `statistics.is_scattered`.
        """
        support, entropy, scattered = np.frombuffer(self._values).reshape(-1, 3).T
        return {
            "single_token_labels": int((support == 1).sum()),
            "mean_label_entropy": float(entropy.mean()),
            "mean_support": float(support.mean()),
            "max_support": int(support.max()),
            "high_entropy_share": float((entropy > HIGH_ENTROPY).mean()),
            "junk_suspects": int(scattered.sum()),
        }


@busy("importing log-probabilities")
def _fill_with_teacher(stage: StageFolder, file: Path, reader: TeacherReader) -> dict[str, Any]:
    """Put a teacher's log-probabilities into the stage.

    Returns:
        `rows` (labels) and `rollouts`; what `_Measures` gives; how entries were `aligned` with the text, and the
        `share_of_text` that agrees; `expert`; and `cue`, which is None.
    """
    rollouts: list[Rollout] = []
    labels: list[Label] = []
    taken: set[str] = set()
    measures = _Measures()

    def commit() -> None:
        counts = {"rows": len(labels), "rollouts": len(rollouts)}
        tables = {"rollouts": Rollout.table(rollouts), "steps": Label.table(labels)}
        stage.commit([rollout.question_id for rollout in rollouts], tables, counts)
        rollouts.clear()
        labels.clear()

    with stop_signals() as stop:
        for number, (rollout, mine) in enumerate(reader.read(read_path(file, "train")), 1):
            stop.check()
            if rollout.question_id in taken:
                name = f"{rollout.question_id}-{number}"
                rollout, mine = replace(rollout, question_id=name), [replace(one, question_id=name) for one in mine]
            taken.add(rollout.question_id)
            rollouts.append(rollout)
            labels.extend(mine)
            for one in mine:
                measures.add(one.weights, math.nan)
            if len(labels) >= ROWS_PER_SHARD:
                commit()
    if not taken:
        raise SampleFormatError(f"{file}: no position with log-probabilities to learn from. Give another file")
    if labels:
        commit()
    return {**stage.counts, **measures.means(), **reader.alignment, "expert": reader.expert, "cue": None}


def _commit(stage: StageFolder, steps: list[ImportedStep]) -> None:
    """Write whole rollouts with all their labels."""
    rollouts = [_rollout(list(group)) for _, group in groupby(steps, lambda step: step.label.question_id)]
    tables = {"rollouts": Rollout.table(rollouts), "steps": Label.table(step.label for step in steps)}
    counts = {"rows": len(steps), "rollouts": len(rollouts)}
    stage.commit([rollout.question_id for rollout in rollouts], tables, counts)


def _rollout(steps: list[ImportedStep]) -> Rollout:
    """The rollout of these steps; NaN at the steps without a line."""
    last = steps[-1]
    columns: dict[str, Any] = {name: [math.nan] * (len(last.prefix_ids) + 1) for name in PER_STEP}
    for step in steps:
        for name in PER_STEP:
            if (value := getattr(step.line, name)) is not None:
                columns[name][step.label.position] = value
    columns |= {name: [] for name in PER_TOP}
    question_id, question = last.label.question_id, last.problem.question
    return Rollout(question_id, question, last.prompt_ids, last.known_ids, finished=False, **columns)
