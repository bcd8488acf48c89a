"""Samples as JSONL, to and from other tools. What a line holds is in `sample_lines`."""

import hashlib
import math
import os
import shutil
from array import array
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import DEFAULT_CUE, MachineSettings
from lightreasoner.data.problems import READERS, question_of, read_dataset
from lightreasoner.errors import DataError, RunError, SampleFormatError
from lightreasoner.models.loading import find_model, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.files import file_hash, publish_folder
from lightreasoner.runs.progress import progress
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder, open_stage
from lightreasoner.samples.archive import unpacked
from lightreasoner.samples.folder import (
    PER_STEP,
    PER_TOP,
    Imported,
    Label,
    Made,
    Rollout,
    read_samples,
    read_shards,
    scored_rollouts,
)
from lightreasoner.samples.jsonl_lines import LONGEST_LINE, Line, LineReader, short, write_line
from lightreasoner.samples.statistics import HIGH_ENTROPY, JUNK_KL, label_entropy

SUFFIXES = (".jsonl", ".json", ".txt")  # or a .zip with one of them
ROWS_PER_SHARD = 4096


def export_samples(run_folder: Path, file: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Export the kept steps of a run as JSONL, one step per line, with the authors' fields and ours.

    Holds one shard at a time. The file gets its name when it is complete.

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
    if file.exists():
        raise DataError(f"{file} exists already, and is not overwritten. Remove it, or give another name")
    made, stage = read_samples(run_folder)
    tokenizer = _sampled_tokenizer(stage.path, made, trust_remote_code)
    counts = {"rows": 0, "rollouts": 0}
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as lines, stop_signals() as stop:
            for shard in read_shards(stage):
                for rollout in scored_rollouts(shard):
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
    file: Path,
    out: Path,
    *,
    expert: str,
    expert_revision: str | None = None,
    member: str | None = None,
    questions: Path | None = None,
    question_field: str | None = None,
    cue: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Import samples in the authors' JSONL format into a folder that `lightr finetune --data` reads.

    Token ids: `prompt_ids` and `response_ids` are used as they are. Without the former, the expert's chat template
    asks the question under `cue`. Without the latter, the `prefix` is tokenised again, and its ids decide the
    position, as in the authors' training: where tokens merge or split, that is not `step`.

    Rollouts: consecutive lines of one prompt, each prefix longer than the last and beginning with it, become one
    rollout, so that they can share a forward pass in training; any other line begins a new one. The first rollout
    of a question has the question's id, further ones the line number behind it. The response is the longest
    prefix, `finished` is False, statistics are empty lists. What a line does not tell of its step is NaN, an empty
    list, or −1 for `taken_id`. Memory holds one shard, the questions, and some 150 bytes a line.

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
        `max_support` in tokens; `high_entropy_share`: of labels above `HIGH_ENTROPY`; `junk_suspects`: those of
        them at a KL above `JUNK_KL`, as come from rollouts that went astray (an echoed system message); `expert`;
        `cue` as it was used, None if every line brought its `prompt_ids`.

    Raises:
        SampleFormatError: a line breaks the format.
        DataError: a file or folder cannot be used.
    """
    _check_paths(file, out)
    source = find_model(expert, expert_revision)
    tokenizer = load_tokenizer(source, MachineSettings(trust_remote_code=trust_remote_code))
    template = PromptTemplate(tokenizer, DEFAULT_CUE if cue is None else cue)
    reader = LineReader(expert, template, _read_questions(questions, question_field) if questions else None)
    # In the nearest folder that is there: the same disk as `out`, and no parent to remove again after a failure.
    temporary = next(parent for parent in out.parents if parent.exists()) / f".{out.name}.{os.getpid()}.tmp"
    is_archive = file.suffix.lower() == ".zip"
    unpacking = unpacked(file, member, SUFFIXES, temporary.with_suffix(".unpacked"))
    try:
        with unpacking if is_archive else nullcontext((file, str(file))) as (text, name):
            made = Imported(
                expert=expert,
                expert_revision=expert_revision,
                expert_sha256=source.fingerprint(),
                cue=template.cue,
                template_sha256=template.fingerprint,
                file_sha256=file_hash(text),
                questions_sha256=file_hash(questions) if questions else None,
                question_field=question_field,
            )
            with open_stage(temporary, "sample", made.fingerprint(), record=made.model_dump(mode="json")) as stage:
                result = {**_fill(stage, text, name, reader), **reader.facts}
                stage.finish(result)
        out.parent.mkdir(parents=True, exist_ok=True)
        publish_folder(temporary, out)
    except (OSError, RunError) as error:
        raise DataError(f"cannot import {file} into {out}: {error}. Check both paths") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _sampled_tokenizer(folder: Path, made: Made, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that made the ids of a sample folder."""
    source = find_model(made.expert, made.expert_revision)
    then, now = made.expert_sha256, source.fingerprint()
    if then != now:
        raise DataError(
            f"{folder} was sampled from {source.name} with SHA-256 {then[:12]}…, and that is {now[:12]}… now: another "
            "model, whose token ids may mean other tokens. Put back the one that was sampled"
        )
    return load_tokenizer(source, MachineSettings(trust_remote_code=trust_remote_code))


def _check_paths(file: Path, out: Path) -> None:
    if file.suffix.lower() not in (*SUFFIXES, ".zip"):
        raise SampleFormatError(
            f"{file}: samples are read from text files ({', '.join(SUFFIXES)}) with one JSON object a line, not from "
            f"{file.suffix or 'files without an ending'}. Unpack or convert it, and give the text file"
        )
    if not file.is_file():
        raise DataError(f"no file {file}; check the path")
    if out.exists():
        raise DataError(f"{out} exists already, and an import makes a new folder. Remove it, or give another name")


def _read_questions(file: Path, field: str | None) -> dict[str, str]:
    """Question by id."""
    if file.suffix not in READERS:
        raise DataError(f"{file}: questions are read from {', '.join(READERS)} files. Convert it, or give another one")
    questions: dict[str, str] = {}
    for row in read_dataset(str(file), "train", None):
        where, identifier = row[0], row[1].get("id")
        if type(identifier) not in (str, int):
            raise DataError(f"{where}: id is {short(identifier)}, but samples name their question by it. Mend the row")
        question = question_of(row, field)
        if questions.setdefault(str(identifier), question) != question:
            raise DataError(f"{where}: id {short(identifier)} stood for another question before. Mend the row")
    return questions


def _fill(stage: StageFolder, file: Path, name: str, reader: LineReader) -> dict[str, Any]:
    """Put the file's samples into the stage, and say what they are like."""
    rollouts = _Rollouts(stage)
    seen: set[bytes] = set()
    measures = array("d")  # support, entropy and KL of each label
    number = 0
    with progress("importing bytes", file.stat().st_size) as advance, stop_signals() as stop:
        for number, line in _lines(file, name):
            stop.check()
            digest = hashlib.blake2b(line.strip(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                found = reader.read(f"{name}, line {number}", line)
                rollouts.add(found, number)
                measures.extend((len(found.label.weights), label_entropy(found.label.weights), found.per_step["kl"]))
            advance(len(line), f"{number} lines")
    if not seen:
        raise SampleFormatError(f"{name}, line 1: the file is empty, there is nothing to learn from. Give another file")
    rollouts.commit()
    support, entropy, kl = np.frombuffer(measures).reshape(-1, 3).T
    return {
        **stage.counts,
        "duplicates": number - len(seen),
        "single_token_labels": int((support == 1).sum()),
        "mean_label_entropy": float(entropy.mean()),
        "mean_support": float(support.mean()),
        "max_support": int(support.max()),
        "high_entropy_share": float((entropy > HIGH_ENTROPY).mean()),
        "junk_suspects": int(((entropy > HIGH_ENTROPY) & (kl > JUNK_KL)).sum()),
    }


def _lines(file: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """Lines and their numbers; never reads more of a line than it may have."""
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LONGEST_LINE + 1), b""), 1):
            if len(line) > LONGEST_LINE:
                raise SampleFormatError(
                    f"{name}, line {number}: more than {LONGEST_LINE} bytes, far beyond what a sample needs. "
                    "Put one JSON object on each line"
                )
            yield number, line


class _Rollouts:
    """Puts lines together to rollouts, and commits these with all their labels."""

    def __init__(self, stage: StageFolder) -> None:
        self._stage = stage
        self._rollouts: list[_Growing] = []  # the last one may still grow
        self._questions: set[str] = set()
        self._lines = 0

    def add(self, line: Line, number: int) -> None:
        """Take the line of this number."""
        if not self._rollouts or not self._rollouts[-1].goes_on(line):
            if self._lines >= ROWS_PER_SHARD:
                self.commit()
            known = line.problem.id in self._questions
            self._questions.add(line.problem.id)
            self._rollouts.append(_Growing(f"{line.problem.id}-{number}" if known else line.problem.id, []))
        self._rollouts[-1].lines.append(line)
        self._lines += 1

    def commit(self) -> None:
        """Write what has come together."""
        labels = [
            replace(line.label, question_id=rollout.question_id) for rollout in self._rollouts for line in rollout.lines
        ]
        self._stage.commit(
            [rollout.question_id for rollout in self._rollouts],
            {
                "rollouts": Rollout.table(rollout.row() for rollout in self._rollouts),
                "steps": Label.table(labels),
            },
            {"rows": self._lines, "rollouts": len(self._rollouts)},
        )
        self._rollouts, self._lines = [], 0


@dataclass
class _Growing:
    """A rollout of which lines still come."""

    question_id: str
    lines: list[Line]

    def goes_on(self, line: Line) -> bool:
        """The line has the same prompt, and a longer response that begins with what is known of this one."""
        last, known = self.lines[-1], self._response_ids()
        return (
            (last.problem, last.prompt_ids) == (line.problem, line.prompt_ids)
            and len(last.prefix_ids) < len(line.prefix_ids)
            and known == line.prefix_ids[: len(known)]
        )

    def row(self) -> Rollout:
        """The rollout; NaN at the steps without a line."""
        last = self.lines[-1]
        columns: dict[str, Any] = {name: [math.nan] * (len(last.prefix_ids) + 1) for name in PER_STEP}
        for line in self.lines:
            for name, value in line.per_step.items():
                columns[name][line.label.position] = value
        columns |= {name: [] for name in PER_TOP}
        return Rollout(
            self.question_id,
            last.problem.question,
            last.prompt_ids,
            self._response_ids(),
            finished=False,
            **columns,
        )

    def _response_ids(self) -> list[int]:
        last = self.lines[-1]
        return last.prefix_ids if last.taken_id is None else [*last.prefix_ids, last.taken_id]
