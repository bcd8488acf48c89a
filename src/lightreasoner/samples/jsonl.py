"""Samples as JSONL, to and from other tools. `jsonl_lines` says what a line holds.

An import reads a .jsonl file, or one inside a .zip, within limits on what an archive may do.
"""

import hashlib
import math
import os
import shutil
import stat
import zipfile
import zlib
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np

from lightreasoner.config_sections import DEFAULT_CUE, MachineSettings
from lightreasoner.data.fields import question_of
from lightreasoner.data.files import read_file
from lightreasoner.data.lines import short
from lightreasoner.errors import DataError, RunError, SampleFormatError
from lightreasoner.models.loading import load_generation_config, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.runs.differences import changed_files
from lightreasoner.runs.files import file_hash, publish_folder
from lightreasoner.runs.progress import progress, warn
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples import folder
from lightreasoner.samples.card import open_samples
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Label, Rollout
from lightreasoner.samples.jsonl_lines import LONGEST_LINE, ImportedStep, LineReader, write_line
from lightreasoner.samples.statistics import HIGH_ENTROPY, is_scattered, label_entropy

SUFFIXES = (".jsonl", ".json", ".txt")  # or a .zip with one of them
ROWS_PER_SHARD = 4096

# Limits on archives
LARGEST = 8 << 30  # bytes unpacked
LARGEST_RATIO = 200  # of unpacked to packed; sample files, which repeat themselves, come to some 30
RATIO_FROM = 16 << 20  # bytes; a smaller file does no harm whatever its ratio
MOST_MEMBERS = 1000
CHUNK = 1 << 20


def export_samples(run_folder: Path | str, file: Path | str, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Export the kept steps of a run as JSONL, one step per line, with the authors' fields and ours.

    Memory holds one shard. The file gets its name when it is complete.

    Args:
        run_folder: run folder of `lightr sample`, or the sample folder in it.
        file: JSONL file to write; must not exist.
        trust_remote_code: run Python code that the model repository ships.

    Returns:
        `rows` written, the `rollouts` of the run, and the `file`.

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
    counts = {"rows": 0, "rollouts": 0}
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as lines, stop_signals() as stop:
            for shard in folder.read_shards(stage):
                for rollout in folder.scored_rollouts(shard):
                    for label in rollout.labels.values():
                        stop.check()
                        lines.write(write_line(rollout, label, tokenizer))
                counts["rows"] += shard.labels.num_rows
                counts["rollouts"] += shard.rollouts.num_rows
            lines.flush()
            os.fsync(lines.fileno())
        temporary.replace(file)
    except OSError as error:
        raise DataError(
            f"cannot write {file}: {error.strerror or error}. Give a file in a folder that is there"
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return {**counts, "file": str(file)}


def import_samples(
    file: Path | str,
    out: Path | str,
    *,
    expert: str,
    expert_revision: str | None = None,
    member: str | None = None,
    questions: Path | str | None = None,
    question_field: str | None = None,
    cue: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Import samples in the authors' JSONL format into a folder that `lightr finetune --data` reads.

    Token ids: `prompt_ids` and `response_ids` are used as they are. Without `prompt_ids`, the expert's chat template
    asks the question under `cue`. Without `response_ids`, the `prefix` is tokenised again, and its ids decide the
    position, as in the authors' training: where tokens merge or split, that is not `step`.

    Rollouts: consecutive lines of one prompt, each prefix longer than the last and beginning with it, become one
    rollout, so that they can share a forward pass in training. The first rollout of a question has the question's id,
    further ones the line number behind it. Memory holds one shard, the questions, and some 150 bytes a line.

    Args:
        file: JSONL file of samples, or a .zip that holds one.
        out: folder to write; must not exist.
        expert: model that was sampled; its tokenizer and chat template give the token ids.
        expert_revision: branch, tag or commit of a Hub expert.
        member: file inside the .zip; by default the only one with the name of a text file.
        questions: file with the questions by `id`, if the samples' prompt_id is an id and not the question itself.
        question_field: field of that file that holds the question.
        cue: system message that the samples were made with, by default the paper's Eq 36; the authors' script used
            "Please reason step by step."
        trust_remote_code: run Python code that the model repository ships.

    Returns:
        `rows`, `rollouts`; `duplicates`: lines equal to an earlier one, dropped; `prefix_length_differs`: prefixes
        that did not become `step` ids; `single_token_labels`; `mean_label_entropy` in nats; `mean_support` and
        `max_support` in tokens; `high_entropy_share`: of labels above `HIGH_ENTROPY`; `junk_suspects`: labels
        that `statistics.is_scattered`; `expert`; `cue` as used, None if every line had its `prompt_ids`.

    Raises:
        SampleFormatError: a line breaks the format, or an archive is damaged, hostile or ambiguous.
        DataError: a file or folder cannot be used.
    """
    file, out, questions = Path(file), Path(out), Path(questions) if questions is not None else None
    if file.suffix.lower() not in (*SUFFIXES, ".zip"):
        raise SampleFormatError(
            f"{file}: samples are read from text files ({', '.join(SUFFIXES)}) with one JSON object a line, not from "
            f"{file.suffix or 'files without an ending'}. Unpack or convert it, and give the text file"
        )
    if not file.is_file():
        raise DataError(f"no file {file}; check the path")
    if out.exists():
        raise DataError(f"{out} exists already, and an import makes a new folder. Remove it, or give another name")
    source = find_model(expert, expert_revision)
    tokenizer = load_tokenizer(source, MachineSettings(trust_remote_code=trust_remote_code))
    template = PromptTemplate(tokenizer, DEFAULT_CUE if cue is None else cue)
    reader = LineReader(expert, template, _read_questions(questions, question_field) if questions else None)
    # In the nearest folder that is there: the same disk as `out`, and no parent to remove again after a failure.
    temporary = next(parent for parent in out.parents if parent.exists()) / f".{out.name}.{os.getpid()}.tmp"
    try:
        text = open_archive(file, member) if file.suffix.lower() == ".zip" else _open_text(file)
        made = folder.Imported(
            expert=expert,
            expert_revision=expert_revision,
            expert_files=source.files(),
            cue=template.cue,
            asked=template.identity(template.stops(load_generation_config(source))),
            file_sha256=text.sha256,
            questions_sha256=file_hash(questions) if questions else None,
            question_field=question_field,
        )
        with open_samples(temporary, "sample", made, report=lambda line: None) as stage:
            result = stage.finish(_fill(stage, text, reader))
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


class TextFile(NamedTuple):
    """A text file, in a folder or in an archive."""

    name: str
    open: Callable[[], IO[bytes]]
    size: int
    sha256: str


def _fill(stage: StageFolder, file: TextFile, reader: LineReader) -> dict[str, Any]:
    """Put the file's samples into the stage; gives their counts and statistics."""
    waiting: list[ImportedStep] = []  # the steps of one shard; the last rollout may still grow
    seen: set[bytes] = set()
    questions: set[str] = set()
    measures = array("d")  # of each label: support, entropy, is it scattered, differs the length of its prefix
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
            weights, differs = step.label.weights, len(step.prefix_ids) != step.line.step
            measures.extend((len(weights), label_entropy(weights), is_scattered(weights, step.line.kl), differs))
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
    support, entropy, scattered, differing = np.frombuffer(measures).reshape(-1, 4).T
    return {
        **stage.counts,
        "duplicates": number - len(seen),
        "single_token_labels": int((support == 1).sum()),
        "mean_label_entropy": float(entropy.mean()),
        "mean_support": float(support.mean()),
        "max_support": int(support.max()),
        "high_entropy_share": float((entropy > HIGH_ENTROPY).mean()),
        "junk_suspects": int(scattered.sum()),
        "prefix_length_differs": int(differing.sum()),
        "expert": reader.expert,
        "cue": reader.template.cue if asked else None,
    }


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


def _open_text(file: Path) -> TextFile:
    return TextFile(str(file), lambda: file.open("rb"), file.stat().st_size, file_hash(file))


def open_archive(file: Path, member: str | None) -> TextFile:
    """The samples in a .zip. Reads them once, since the archive's own figures can be false."""
    size, digest = 0, hashlib.sha256()
    try:
        with zipfile.ZipFile(file) as archive:
            chosen = _chosen(file, archive.infolist(), member)
            with archive.open(chosen) as text:
                while chunk := text.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > LARGEST or (size > RATIO_FROM and size > LARGEST_RATIO * chosen.compress_size):
                        raise SampleFormatError(
                            f"{file}: {chosen.filename} has {chosen.compress_size} bytes and unpacks to {size} or "
                            f"more; at most {LARGEST_RATIO} times its size and {LARGEST} bytes are unpacked. Unpack "
                            "it yourself if you trust it"
                        )
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:  # zipfile's
        raise SampleFormatError(f"{file} is no sound .zip file ({error}). Fetch it again") from None
    return TextFile(f"{file}: {chosen.filename}", lambda: zipfile.ZipFile(file).open(chosen), size, digest.hexdigest())


def _chosen(file: Path, members: Sequence[zipfile.ZipInfo], name: str | None) -> zipfile.ZipInfo:
    """The member to read. One hostile member is enough to refuse the whole archive."""
    if len(members) > MOST_MEMBERS:
        raise SampleFormatError(f"{file} holds {len(members)} files, more than {MOST_MEMBERS}. It is not used")
    candidates = []
    for member in members:
        path, original = PurePosixPath(member.filename), member.orig_filename.replace("\\", "/")
        reason = None
        if original.startswith("/") or ":" in original or "\0" in original or ".." in PurePosixPath(original).parts:
            reason = "leads out of the folder that it is unpacked in"
        elif stat.S_ISLNK(member.external_attr >> 16):
            reason = "is a link"
        elif member.flag_bits & 1:
            reason = "is locked with a password"
        if reason:
            raise SampleFormatError(f"{file}: its file {original[:80]!r} {reason}. The archive is not used")
        is_text = path.suffix.lower() in SUFFIXES and "__MACOSX" not in path.parts and not member.is_dir()
        if is_text and name in (None, member.filename):
            candidates.append(member)
    if len(candidates) != 1:
        listed = ", ".join(sorted({member.filename for member in members if not member.is_dir()})[:10]) or "none"
        wanted = f"no file {name!r}" if name else f"{len(candidates)} files that end in {', '.join(SUFFIXES)}"
        raise SampleFormatError(f"{file}: {wanted} among {listed}. Say which one with --member")
    return candidates[0]
