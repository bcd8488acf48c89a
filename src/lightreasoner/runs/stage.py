"""Run folders: crash-safe, resumable storage for one stage, locked to one process, and the loop that fills it.

A stage that works through items writes each batch as Parquet files, a *shard* of each kind, and then one line of the
*ledger*, with the ids of the finished items and the hash of every file. That line is the commit: whatever the ledger
does not list does not count. A shard is written to a temporary name, flushed to disk, renamed, and the folder flushed.
Fine-tuning uses manifest, lock and result only.

A folder without a commit (for fine-tuning: a checkpoint or an adapter) claims nothing: other settings may take it over.
So may they after `StageFolder.release`: a stage that cannot end under its settings leaves the folder to others.

    RUN/
      .lock, .holder            one process at a time
      config.yaml               the resolved settings
      environment.json          versions and machine
      sample/ finetune/ …       one folder per stage:
        manifest.json             fingerprint (what decides the content), record (how it was made), batch size,
                                  and the time that dates in its prompts were written at
        ledger.jsonl              the commits
        rollouts-00000.parquet    shards
        result.json               written last: the stage is finished
"""

import errno
import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from lightreasoner.errors import DiskFull, RunCorrupted, RunMismatch
from lightreasoner.runs.differences import differences, keeping_precision
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.eta import Batch, Load
from lightreasoner.runs.faults import fault_point
from lightreasoner.runs.files import file_hash, naming_full_disk, write_atomically, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.manifest import claims, clear, manifest_of, read_manifest, with_schema
from lightreasoner.runs.progress import progress
from lightreasoner.runs.signals import stop_signals

Item = TypeVar("Item")
Result = TypeVar("Result")


class StageFolder:
    """The folder of one stage: its manifest, and what it has committed. Opened by `open_stage` and `read_stage`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._ledger = path / "ledger.jsonl"
        self._entries: list[dict[str, Any]] = []
        self._finished: dict[str, Any] | None = None
        self._since = time.perf_counter()  # time before it is in the ledger or the manifest

    @property
    def result(self) -> dict[str, Any] | None:
        """What the finished stage reported; None while it is not finished."""
        return self._finished["result"] if self._finished else None

    @property
    def settled_ids(self) -> set[str]:
        """Ids of the items that are done, whether or not they gave rows."""
        return {item for entry in self._entries for item in entry["ids"]}

    @property
    def batch_size(self) -> int | None:
        """Items per batch when the stage was last worked on; None before the first time."""
        return self.manifest.get("batch_size")

    def keep_batch_size(self, size: int) -> None:
        """Write the size of the batches down, so that a resumed run forms the same ones."""
        if size != self.batch_size:
            self.manifest["batch_size"] = size
            write_json(self.path / "manifest.json", self.manifest)

    @property
    def counts(self) -> dict[str, int]:
        """Sums of the counters of all commits."""
        totals: dict[str, int] = {}
        for entry in self._entries:
            for name, count in entry["counts"].items():
                totals[name] = totals.get(name, 0) + count
        return totals

    @property
    def digest(self) -> str:
        """Hash of all committed files: two stages with the same digest hold the same rows, whatever their order."""
        hashes = sorted(facts["sha256"] for entry in self._entries for facts in entry["files"].values())
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    @property
    def seconds(self) -> float | None:
        """Time from opening to end over all sittings, as far as it is on disk; None if an older version wrote it."""
        parts = [part["seconds"] for part in (self.manifest, *self._entries) if "seconds" in part]
        return sum(parts) if parts else None

    def keep_time(self) -> None:
        """Write down the time since the last commit, or since this was last called: also work without commits counts.

        What a killed process did after its last commit or checkpoint is lost, and so is its time.
        """
        self.manifest["seconds"] = round(self.manifest.get("seconds", 0.0) + self._lap(), 2)
        write_json(self.path / "manifest.json", self.manifest)

    def _lap(self) -> float:
        """Seconds since the last call, or since the stage was opened."""
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def commit(self, ids: list[str], tables: Mapping[str, pa.Table], counts: Mapping[str, int]) -> None:
        """Settle these ids: write one shard per table, then the ledger line.

        Args:
            ids: items that are done with this commit.
            tables: rows by kind, such as `rollouts`; the kind is the file name's stem.
            counts: integers to add up over commits.
        """
        number = 1 + max((entry["shard"] for entry in self._entries), default=-1)
        files = {}
        for kind, table in tables.items():
            path = self.path / f"{kind}-{number:05d}.parquet"
            content = _parquet(table)
            with naming_full_disk(path, len(content)):
                fault_point("before-shard")
                write_atomically(path, content)
            fault_point("after-shard")
            files[path.name] = {"rows": table.num_rows, "sha256": hashlib.sha256(content).hexdigest()}
        entry = {"shard": number, "ids": ids, "files": files, "counts": dict(counts), "seconds": round(self._lap(), 2)}
        entry["check"] = _check_of(entry)
        self._append(json.dumps(entry).encode() + b"\n")
        self._entries.append(entry)
        fault_point("after-ledger")

    def _append(self, line: bytes) -> None:
        """Add a line to the ledger; where that fails the ledger is as it was."""
        with naming_full_disk(self._ledger, len(line)), self._ledger.open("ab", buffering=0) as ledger:
            before = ledger.tell()
            try:
                fault_point("in-ledger")
                if ledger.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(ledger.fileno())
            except OSError:
                ledger.truncate(before)
                raise

    def tables(
        self, kind: str, columns: list[str] | None = None, ids: Collection[str] | None = None
    ) -> Iterator[pa.Table]:
        """The committed shards of one kind, in order of commit, with all columns or these.

        With `ids`, only shards of commits that settled one of these items.
        """
        for entry in self._entries:
            if ids is not None and not any(item in ids for item in entry["ids"]):
                continue
            name = f"{kind}-{entry['shard']:05d}.parquet"
            if name in entry["files"]:
                yield pq.read_table(self.path / name, columns=columns)

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Mark the stage as finished, with its result, which is given back; the last thing that a stage writes."""
        content: dict[str, Any] = json.loads(json.dumps(result))
        self.keep_time()
        self._finished = {"commits": len(self._entries), "result": content}
        write_json(self.path / "result.json", self._finished)
        return content

    def release(self) -> None:
        """Leave the folder to other settings: under these ones it can hold no result. The commits stay until then."""
        self.manifest["released"] = True
        write_json(self.path / "manifest.json", self.manifest)

    def load(self) -> list[str]:
        """Read the sound commits and the result; returns one line about each damaged file or ledger line."""
        complaints = []
        lines = self._ledger.read_bytes().splitlines(keepends=True) if self._ledger.exists() else []
        for number, line in enumerate(lines, 1):
            entry = _commit_of(line)
            if entry is None:
                complaints.append(f"{self._ledger}, line {number}: torn by an earlier stop, or damaged")
                continue
            damaged = [name for name, facts in entry["files"].items() if not self._is_intact(name, facts["sha256"])]
            complaints += [f"{self.path / name}: missing or damaged" for name in damaged]
            if not damaged:
                self._entries.append(entry)
        if complaints:
            return complaints  # the result may count on what is damaged
        return self._load_result()

    def _load_result(self) -> list[str]:
        path = self.path / "result.json"
        if not path.exists():
            return []
        try:
            finished = json.loads(path.read_text())
            commits, _ = finished["commits"], finished["result"]
        except (ValueError, KeyError, TypeError):
            return [f"{path}: damaged"]
        if commits != len(self._entries):
            return [f"{self._ledger}: has {len(self._entries)} sound commits, and the finished stage had {commits}"]
        self._finished = finished
        return []

    def repair(self) -> None:
        """Make the folder hold exactly the sound commits: damaged and uncommitted files are set aside."""
        write_atomically(self._ledger, "".join(json.dumps(entry) + "\n" for entry in self._entries).encode())
        committed = {name for entry in self._entries for name in entry["files"]}
        for path in self.path.glob("*.parquet"):
            if path.name not in committed:
                path.replace(path.with_name(f"{path.name}.quarantined"))
        self._finished = None
        (self.path / "result.json").unlink(missing_ok=True)

    def _is_intact(self, name: str, sha256: str) -> bool:
        path = self.path / name
        return path.is_file() and file_hash(path) == sha256


@contextmanager
def open_stage(
    run: Path,
    stage: str,
    fingerprint: Mapping[str, Any],
    report: Callable[[str], None] = lambda line: None,
    record: Any = None,
    asked_at: str | None = None,
) -> Iterator[StageFolder]:
    """Open or continue a stage of a run folder, locked for as long as the context lasts.

    Args:
        run: run folder; made if absent.
        stage: name of its subfolder.
        fingerprint: everything that decides what the stage writes, JSON values.
        report: called with a line about each damaged file that was set aside.
        record: how the content is made, JSON values; written down for later readers, never compared.
        asked_at: time that the prompts were rendered at, see `claims.prompts_time`; None if there are none.

    Raises:
        RunLocked: another process works in the run folder.
        RunMismatch: the stage was begun with another fingerprint, or by a version with another schema.
    """
    with locked(run):
        folder = run / stage
        folder.mkdir(parents=True, exist_ok=True)
        wanted = with_schema(fingerprint)
        manifest = manifest_of(folder)
        if manifest is None or (manifest["fingerprint"] != wanted and not claims(folder)):
            clear(folder)
            manifest = {"stage": stage, "fingerprint": wanted, "record": record, "asked_at": asked_at}
            manifest |= {"created": now(), "environment": environment()}
            write_json(folder / "manifest.json", manifest)
        elif manifest["fingerprint"] != wanted:
            raise RunMismatch(
                f"{folder} was made with other settings ({'; '.join(differences(manifest['fingerprint'], wanted))}); "
                "mixing them would make its content mean nothing. Use the same settings and files to continue it, or "
                f"give another folder with --out{keeping_precision(manifest['fingerprint'], wanted)}"
            )
        stage_folder = StageFolder(folder, manifest)
        complaints = stage_folder.load()
        if complaints:
            stage_folder.repair()
            for complaint in complaints:
                report(f"{complaint}; set aside, its items are done again")
        try:
            yield stage_folder
        finally:
            if stage_folder.result is None and (folder / "manifest.json").exists():
                with suppress(OSError, DiskFull):  # they would hide the error that ended the stage
                    stage_folder.keep_time()


def read_stage(folder: Path) -> tuple[dict[str, Any], StageFolder]:
    """The fingerprint and content of a finished stage, for reading.

    Raises:
        RunCorrupted: there is no readable manifest, the stage is not finished, or a file is damaged.
        RunMismatch: a version with another schema wrote it.
    """
    stage_folder = StageFolder(folder, read_manifest(folder))
    complaints = stage_folder.load()
    if complaints:
        raise RunCorrupted(
            f"{'; '.join(complaints)}. Run the command that made {folder} again: it redoes what is missing"
        )
    if stage_folder.result is None:
        raise RunCorrupted(f"{folder} is not finished. Run the command that made it again: it continues")
    return stage_folder.manifest["fingerprint"], stage_folder


@dataclass(frozen=True)
class Commit:
    """The rows of a batch by kind, and integers to add up over all batches."""

    tables: Mapping[str, pa.Table]
    counts: Mapping[str, int]


class Work(ABC, Generic[Item, Result]):
    """What a stage does with its items; `settle` does the rest.

    Attributes:
        label: name of the progress bar.
        passes: passes over whole texts that follow the generation of a batch; for the time left.
    """

    label: str
    passes: float = 0.0

    @abstractmethod
    def key(self, item: Item) -> str:
        """Id of the item in the ledger. Items of one id lie side by side and share a batch."""

    def order(self, item: Item) -> Any:
        """Sort key: neighbours share a batch, so items of like length save padding. The order is the same on resume."""
        return 0

    def group(self, item: Item) -> Any:
        """Items of different groups never share a batch."""
        return None

    def load(self, item: Item) -> Load:
        """Tokens of the item that are known beforehand, for the time left."""
        return Load(1)

    @abstractmethod
    def run(self, batch: Sequence[Item]) -> list[Result]:
        """Do the work; called with a part of the batch where `attempt` splits it."""

    @abstractmethod
    def commit(self, batch: Sequence[Item], results: list[Result]) -> Commit:
        """The rows of a finished batch."""

    def attempt(
        self, batch: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]], halved: list[int]
    ) -> list[Result]:
        """Run a batch; work that can run out of memory splits it here, and notes the sizes that did not fit."""
        return run(batch)

    def note(self, counts: Mapping[str, int]) -> str:
        """Text behind the progress bar, from the stage's counts after a commit. May raise to stop the stage."""
        return ""


def settle(
    stage: StageFolder, items: Iterable[Item], size: int, work: Work[Item, Result], *, total: int, stream: bool = False
) -> None:
    """The loop of all stages that work through items: run what is not committed, batch by batch, and commit each batch.

    A stop request is answered between two batches. The batches depend on the items, their order and the size alone,
    so a resumed run forms the very batches of an uninterrupted one.

    Args:
        stage: where the rows go.
        items: everything to do, finished or not.
        size: items per batch; written to the manifest.
        work: what is done with a batch.
        total: number of ids, for the progress bar.
        stream: take the items as they come, so that memory does not grow with their number.
    """
    settled = stage.settled_ids
    waiting: Iterable[Item] = (item for item in items if work.key(item) not in settled)
    if not stream:
        waiting = sorted(waiting, key=work.order)
        if not waiting:
            return

    def run(part: Sequence[Item]) -> list[Result]:
        fault_point("in-batch")
        return work.run(part)

    batches: Iterable[list[Item]] = _batches(waiting, size, work)
    plan: list[Batch] = []
    if not stream:
        batches = list(batches)
        plan = [Batch.of(map(work.load, batch), work.passes) for batch in batches]
    stage.keep_batch_size(size)
    with progress(work.label, total, len(settled), plan) as advance, stop_signals() as stop:
        for batch in batches:
            stop.check()
            halved: list[int] = []
            done = work.commit(batch, work.attempt(batch, run, halved))
            counts = {**done.counts, "halved_batches": len(halved)} if halved else done.counts
            ids = list(dict.fromkeys(map(work.key, batch)))
            stage.commit(ids, done.tables, counts)
            advance(len(ids), work.note(stage.counts))


def _batches(items: Iterable[Item], size: int, work: Work[Item, Any]) -> Iterator[list[Item]]:
    """Neighbours of one group, `size` at most."""
    for _, group in groupby(items, key=work.group):
        while batch := list(islice(group, size)):
            yield batch


def _parquet(table: pa.Table) -> memoryview:
    """A table as the content of a Parquet file. Raw bytes, such as hidden states, are left as they are.

    Compression would save 8 to 22 % of hidden states, and take longer than the disk.
    """
    raw = all(pa.types.is_fixed_size_binary(field.type) for field in table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none" if raw else "zstd", use_dictionary=not raw, write_statistics=not raw)
    return memoryview(sink.getvalue())


def _check_of(entry: Mapping[str, Any]) -> str:
    """Hash of a ledger line's other fields. It finds damage that leaves valid JSON, such as another digit."""
    facts = {name: value for name, value in entry.items() if name != "check"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _commit_of(line: bytes) -> dict[str, Any] | None:
    """A ledger line as a commit; None if it is torn or damaged, and so never happened."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry: dict[str, Any] = json.loads(line)
        hashes = [facts["sha256"] for facts in entry["files"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = isinstance(entry.get("shard"), int) and all(isinstance(value, str) for value in hashes)
    sound = sound and all(name == Path(name).name for name in entry["files"])  # nothing outside the folder
    sound = sound and entry.get("check", _check_of(entry)) == _check_of(entry)  # older versions wrote none
    return entry if sound and "ids" in entry and "counts" in entry else None
