"""Samples as JSONL, to and from other tools. What a line holds is in `sample_lines`."""

import hashlib
import os
import shutil
from array import array
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import DEFAULT_CUE
from lightreasoner.data.problems import READERS, question_of, read_dataset
from lightreasoner.errors import DataError, RunError, SampleFormatError
from lightreasoner.models.loading import find_model, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.files import file_hash, publish_folder
from lightreasoner.runs.progress import progress
from lightreasoner.runs.records import IMPORTED, Rollout, StepSample
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder, open_stage, read_stage, sample_folder
from lightreasoner.samples.archive import unpacked
from lightreasoner.samples.jsonl_lines import LONGEST_LINE, LineReader, short, write_line
from lightreasoner.samples.statistics import HIGH_ENTROPY, JUNK_KL, label_entropy

SUFFIXES = (".jsonl", ".json", ".txt")  # or a .zip with one of them
ROWS_PER_SHARD = 4096


def export_samples(run_folder: Path, file: Path, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Write the kept steps of a finished run as JSONL, one line a step in the order of the run.

    Holds one shard at a time. The file gets its name when it is complete.

    Args:
        run_folder: run folder with a `sample` folder in it, or the sample folder itself.
        file: file to write; must not exist.
        trust_remote_code: run Python code that the model repository ships.

    Returns:
        `rows` written, the `rollouts` of the run, and the `file`.

    Raises:
        DataError: the file cannot be written, the folder holds no samples, or its expert has changed since.
        RunCorrupted: the samples are unfinished or damaged.
    """
    if file.exists():
        raise DataError(f"{file} exists already, and is not overwritten. Remove it, or give another name")
    folder = sample_folder(run_folder)
    fingerprint, stage = read_stage(folder)
    tokenizer = _sampled_tokenizer(folder, fingerprint, trust_remote_code)
    counts = {"rows": 0, "rollouts": 0}
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as lines, stop_signals() as stop:
            for rollout_table, step_table in zip(stage.tables("rollouts"), stage.tables("steps"), strict=True):
                rollouts = {rollout.question_id: rollout for rollout in Rollout.rows(rollout_table)}
                for step in StepSample.rows(step_table):
                    stop.check()
                    lines.write(write_line(rollouts[step.question_id], step, tokenizer))
                counts["rows"] += step_table.num_rows
                counts["rollouts"] += len(rollouts)
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
    """Turn a JSONL file of samples into a folder that fine-tuning takes, or refuse it and leave nothing behind.

    Token ids: `prompt_ids` and `response_ids` are used as they are. Without the former, the expert's chat template
    asks the question under `cue`. Without the latter, the `prefix` is tokenised again, and its ids decide the
    position, as in the authors' training: where tokens merge or split, that is not `step`.

    Rollouts: consecutive lines of one prompt, each prefix longer than the last and beginning with it, become one
    rollout, so that they can share a forward pass in training; any other line begins a new one. The first rollout
    of a question has the question's id, further ones the line number behind it. The response is the longest
    prefix, `finished` is False, statistics are empty lists. What a line does not tell of its step is NaN, an empty
    list, or −1 for `taken_id`. Memory holds one shard, the questions, and some 150 bytes a line.

    Args:
        file: text file with one JSON object a line, or a .zip that holds one.
        out: folder to write; must not exist.
        expert: model that was sampled; its tokenizer and chat template make the token ids.
        expert_revision: branch, tag or commit of a Hub expert.
        member: which file of a .zip; None takes the only one that ends like a text file.
        questions: file whose rows have a question, and the `id` that is its `prompt_id`.
        question_field: field of that file that holds the question.
        cue: system message that the samples were made with; None is the paper's Eq 36. The authors' script used
            `Please reason step by step.`
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
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    template = PromptTemplate(tokenizer, DEFAULT_CUE if cue is None else cue)
    reader = LineReader(expert, template, _read_questions(questions, question_field) if questions else None)
    # In the nearest folder that is there: the same disk as `out`, and no parent to remove again after a failure.
    temporary = next(parent for parent in out.parents if parent.exists()) / f".{out.name}.{os.getpid()}.tmp"
    is_archive = file.suffix.lower() == ".zip"
    unpacking = unpacked(file, member, SUFFIXES, temporary.with_suffix(".unpacked"))
    try:
        with unpacking if is_archive else nullcontext((file, str(file))) as (text, name):
            fingerprint = {
                IMPORTED: True,
                "file_sha256": file_hash(text),
                "expert": expert,
                "expert_revision": expert_revision,
                "expert_sha256": source.fingerprint(),
                "questions_sha256": file_hash(questions) if questions else None,
                "question_field": question_field,
                "cue": template.cue,
                "template_sha256": template.fingerprint,
            }
            with open_stage(temporary, "sample", fingerprint) as stage:
                result = {**_fill(stage, text, name, reader), **reader.facts}
                stage.finish(result)
        out.parent.mkdir(parents=True, exist_ok=True)
        publish_folder(temporary, out)
    except (OSError, RunError) as error:
        raise DataError(f"cannot import {file} into {out}: {error}. Check both paths") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _sampled_tokenizer(folder: Path, fingerprint: Mapping[str, Any], remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer that made the ids of a sample folder."""
    if "expert_sha256" not in fingerprint:
        raise DataError(f"{folder} holds no samples, its manifest names no expert. Give the --out of `lightr sample`")
    source = find_model(fingerprint["expert"], fingerprint.get("expert_revision"))
    then, now = fingerprint["expert_sha256"], source.fingerprint()
    if then != now:
        raise DataError(
            f"{folder} was sampled from {source.name} with SHA-256 {then[:12]}…, and that is {now[:12]}… now: another "
            "model, whose token ids may mean other tokens. Put back the one that was sampled"
        )
    return load_tokenizer(source, trust_remote_code=remote_code)


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
                rollout, step = reader.read(f"{name}, line {number}", line)
                rollouts.add(rollout, step, number)
                measures.extend((len(step.weights), label_entropy(step.weights), step.kl))
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
    """Puts steps together to rollouts, and commits them with all their steps."""

    def __init__(self, stage: StageFolder) -> None:
        self._stage = stage
        self._rollouts: list[Rollout] = []  # the last one may still grow
        self._steps: list[StepSample] = []
        self._questions: set[str] = set()

    def add(self, rollout: Rollout, step: StepSample, number: int) -> None:
        """Take the step of line `number`; `rollout` goes as far as its prefix."""
        if self._rollouts and _goes_on(self._rollouts[-1], rollout):
            self._rollouts[-1] = replace(self._rollouts[-1], response_ids=rollout.response_ids)
        else:
            if len(self._steps) >= ROWS_PER_SHARD:
                self.commit()
            known = rollout.question_id in self._questions
            self._questions.add(rollout.question_id)
            name = f"{rollout.question_id}-{number}" if known else rollout.question_id
            self._rollouts.append(replace(rollout, question_id=name))
        self._steps.append(replace(step, question_id=self._rollouts[-1].question_id))

    def commit(self) -> None:
        """Write what has come together."""
        self._stage.commit(
            [rollout.question_id for rollout in self._rollouts],
            {"rollouts": Rollout.table(self._rollouts), "steps": StepSample.table(self._steps)},
            {"rows": len(self._steps), "rollouts": len(self._rollouts)},
        )
        self._rollouts, self._steps = [], []


def _goes_on(before: Rollout, after: Rollout) -> bool:
    """The same prompt, and a response that is longer and begins with the earlier one."""
    length = len(before.response_ids)
    return (
        (before.question, before.prompt_ids) == (after.question, after.prompt_ids)
        and length < len(after.response_ids)
        and before.response_ids == after.response_ids[:length]
    )
