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
        leases/ deliveries/       while several workers share the stage, see `runs.leases`
        result.json               written last: the stage is finished
"""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightreasoner.errors import DiskFull, RunCorrupted, RunMismatch
from lightreasoner.runs.differences import differences, keeping_precision
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.faults import fault_point
from lightreasoner.runs.files import file_hash, naming_full_disk, write_atomically, write_json
from lightreasoner.runs.leases import DELIVERIES, LEASES, deliver, delivered_files, deliveries
from lightreasoner.runs.ledger import commit_of, line_of
from lightreasoner.runs.locks import locked
from lightreasoner.runs.manifest import claims, clear, manifest_of, read_manifest, refuse_foreign, with_schema
from lightreasoner.runs.sharing import ALONE, Sharing
from lightreasoner.runs.work import Item, Result, Work


class StageFolder:
    """The folder of one stage: its manifest, and what it has committed. Opened by `open_stage` and `read_stage`."""

    def __init__(self, path: Path, manifest: dict[str, Any], sharing: Sharing = ALONE) -> None:
        self.path = path
        self.manifest = manifest
        self._ledger = path / "ledger.jsonl"
        self._entries: list[dict[str, Any]] = []
        self._finished: dict[str, Any] | None = None
        self._since: float | None = time.perf_counter()  # time before it is in the ledger or the manifest
        self.sharing = sharing

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
        self.keep("batch_size", size)

    def keep(self, name: str, value: Any) -> None:
        """Write down how this stage is worked on, in the manifest."""
        if self.manifest.get(name) != value:
            self.manifest[name] = value
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
        """Time from opening to end over all sessions, as far as it is on disk; None if an older version wrote it."""
        parts = [part["seconds"] for part in (self.manifest, *self._entries) if "seconds" in part]
        return sum(parts) if parts else None

    def keep_time(self) -> None:
        """Write down the time since the last commit, or since this was last called: also work without commits counts.

        What a killed process did after its last commit or checkpoint is lost, and so is its time.
        """
        self.manifest["seconds"] = round(self.manifest.get("seconds", 0.0) + self._lap(), 2)
        write_json(self.path / "manifest.json", self.manifest)

    def stop_clock(self) -> None:
        """Count no time until the next `start_clock`: another stage is worked on."""
        self._since = None

    def start_clock(self) -> None:
        """Count the time from now on, if it was stopped."""
        self._since = self._since or time.perf_counter()

    def _lap(self) -> float:
        """Seconds since the last call, or since the stage was opened; 0 while the clock is stopped."""
        if self._since is None:
            return 0.0
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def commit(
        self, ids: list[str], tables: Mapping[str, pa.Table], counts: Mapping[str, int], place: int | None = None
    ) -> None:
        """Settle these ids: write one shard per table, then the ledger line.

        Args:
            ids: items that are done with this commit.
            tables: rows by kind, such as `rollouts`; the file name begins with the kind.
            counts: integers to add up over commits.
            place: index of the first item among all items, which orders the rows; None: they come after all others.
        """
        self._settle(ids, self._write(tables, f"{self._next_shard:05d}"), counts, place)

    def deliver(
        self, ids: list[str], tables: Mapping[str, pa.Table], counts: Mapping[str, int], place: int, worker: str
    ) -> None:
        """Like `commit`, for a worker: write the shards, and leave the ledger line to the owner of the run folder."""
        delivery = {"place": place, "worker": worker, "of": self.settings_sha256, "ids": ids, "counts": dict(counts)}
        deliver(self.path, {**delivery, "files": self._write(tables, f"{place:06d}-{worker}")})
        fault_point("after-delivery")

    def take_deliveries(self) -> list[list[str]]:
        """Commit what workers delivered; returns the ids of each batch. Deliveries of settled items are dropped."""
        taken = []
        for path, delivery in deliveries(self.path):
            files = delivery["files"] if delivery else {}
            if delivery is not None and self._is_new(delivery):
                self._settle(delivery["ids"], files, delivery["counts"], delivery["place"])
                taken.append(delivery["ids"])
            for name in files.keys() - self.files:
                (self.path / name).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        return taken

    def _is_new(self, delivery: Mapping[str, Any]) -> bool:
        """Whether a delivery is whole, made with these settings, and of items that are not settled."""
        return (
            delivery.get("of") == self.settings_sha256
            and self.settled_ids.isdisjoint(delivery["ids"])
            and all(self._is_intact(name, facts["sha256"]) for name, facts in delivery["files"].items())
        )

    @property
    def settings_sha256(self) -> str:
        """Hash of the fingerprint: what workers deliver counts only under the settings that it was made with."""
        return hashlib.sha256(json.dumps(self.manifest["fingerprint"], sort_keys=True).encode()).hexdigest()

    @property
    def _next_shard(self) -> int:
        return 1 + max((entry["shard"] for entry in self._entries), default=-1)

    @property
    def files(self) -> set[str]:
        """Names of the committed files."""
        return {name for entry in self._entries for name in entry["files"]}

    def _write(self, tables: Mapping[str, pa.Table], name: str) -> dict[str, dict[str, Any]]:
        """Write one shard per table; returns rows and hash of each file."""
        files = {}
        for kind, table in tables.items():
            path = self.path / f"{kind}-{name}.parquet"
            content = _parquet(table)
            with naming_full_disk(path, len(content)):
                fault_point("before-shard")
                write_atomically(path, content)
            fault_point("after-shard")
            files[path.name] = {"rows": table.num_rows, "sha256": hashlib.sha256(content).hexdigest()}
        return files

    def _settle(self, ids: list[str], files: Mapping[str, Any], counts: Mapping[str, int], place: int | None) -> None:
        """Write a ledger line: the commit."""
        entry = {"shard": self._next_shard, "ids": ids, "files": dict(files), "counts": dict(counts)}
        entry |= {"seconds": round(self._lap(), 2)} | ({} if place is None else {"place": place})
        self._append(line_of(entry))
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
        """The committed shards of one kind, with all columns or these.

        They come in the order of their items, not in that of their commits. Commits without a place (of a stream, or
        of an older version) come in order of commit. With `ids`, only shards of commits that settled one of these come.
        """
        for entry in sorted(self._entries, key=lambda entry: int(entry.get("place", -1))):
            if ids is not None and not any(item in ids for item in entry["ids"]):
                continue
            for name in entry["files"]:
                if name.partition("-")[0] == kind:
                    yield pq.read_table(self.path / name, columns=columns)

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Mark the stage as finished, with its result, which is given back; the last thing that a stage writes."""
        content: dict[str, Any] = json.loads(json.dumps(result))
        for folder in (LEASES, DELIVERIES):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        left = {*self.path.glob("*-*-*.parquet"), *self.path.glob(".*-*-*.parquet.tmp")}  # by workers that were killed
        for path in left - {self.path / name for name in self.files}:
            path.unlink(missing_ok=True)
        self.keep_time()
        self._finished = {"commits": len(self._entries), "result": content}
        write_json(self.path / "result.json", self._finished)
        return content

    def release(self) -> None:
        """Leave the folder to other settings: under these ones it can hold no result. The commits stay until then."""
        self.manifest["released"] = True
        write_json(self.path / "manifest.json", self.manifest)

    def read_ledger(self) -> None:
        """Take over what another process has committed since, for a worker: it checks no file."""
        lines = self._ledger.read_bytes().splitlines(keepends=True) if self._ledger.exists() else []
        self._entries = [entry for line in lines if (entry := commit_of(line))]

    def load(self) -> list[str]:
        """Read the sound commits and the result; returns one line about each damaged file or ledger line."""
        complaints = []
        lines = self._ledger.read_bytes().splitlines(keepends=True) if self._ledger.exists() else []
        for number, line in enumerate(lines, 1):
            entry = commit_of(line)
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
        kept = self.files | delivered_files(self.path, self.settings_sha256).keys()
        for path in self.path.glob("*.parquet"):
            if path.name not in kept:
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
    sharing: Sharing = ALONE,
) -> Iterator[StageFolder]:
    """Open or continue a stage of a run folder, locked for as long as the context lasts.

    Args:
        run: run folder; made if absent.
        stage: name of its subfolder.
        fingerprint: everything that decides what the stage writes, JSON values.
        report: called with a line about each damaged file that was set aside.
        record: how the content is made, JSON values; written down for later readers, never compared.
        asked_at: time that the prompts were rendered at, see `claims.prompts_time`; None if there are none.
        sharing: how the work is shared. A worker takes no lock, and changes nothing but by `StageFolder.deliver`.

    Raises:
        RunLocked: another process works in the run folder.
        RunMismatch: the stage was begun with another fingerprint, or by a version with another schema.
    """
    wanted = with_schema(fingerprint)
    if sharing.joins:
        yield _joined_stage(run / stage, wanted, sharing)
        return
    with locked(run):
        folder = run / stage
        folder.mkdir(parents=True, exist_ok=True)
        manifest = manifest_of(folder)
        refuse_foreign(folder)
        if manifest is None or (manifest["fingerprint"] != wanted and not claims(folder)):
            clear(folder)
            manifest = {"stage": stage, "fingerprint": wanted, "record": record, "asked_at": asked_at}
            manifest |= {"created": now(), "environment": environment()}
            write_json(folder / "manifest.json", manifest)
        elif manifest["fingerprint"] != wanted:
            raise _mismatch(folder, manifest, wanted)
        stage_folder = StageFolder(folder, manifest, sharing)
        complaints = stage_folder.load()
        if complaints:
            stage_folder.repair()
            for complaint in complaints:
                report(f"{complaint}; set aside, its items are done again")
        if stage_folder.result is None:
            stage_folder.take_deliveries()
            sharing.open(folder)
        try:
            yield stage_folder
        finally:
            if stage_folder.result is None and (folder / "manifest.json").exists():
                with suppress(OSError, DiskFull):  # they would hide the error that ended the stage
                    stage_folder.keep_time()


def _joined_stage(folder: Path, wanted: dict[str, Any], sharing: Sharing) -> StageFolder:
    """The stage as a worker sees it, once the owner of the run folder has begun it."""
    manifest = sharing.manifest(folder)
    if manifest["fingerprint"] != wanted:
        raise _mismatch(folder, manifest, wanted)
    stage = StageFolder(folder, manifest, sharing)
    if (folder / "result.json").exists():
        stage.load()
    else:
        stage.read_ledger()
    return stage


def _mismatch(folder: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> RunMismatch:
    return RunMismatch(
        f"{folder} was made with other settings ({'; '.join(differences(manifest['fingerprint'], wanted))}); "
        "a mixture of both would be wrong. Use the same settings and files to continue it, or "
        f"give another folder with --out{keeping_precision(manifest['fingerprint'], wanted)}"
    )


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


def settle(
    stage: StageFolder,
    items: Iterable[Item],
    size: int | Callable[[], int],
    work: Work[Item, Result],
    *,
    total: int,
    stream: bool = False,
    skip: Collection[str] = (),
) -> None:
    """The loop of all stages that work through items: run what is not committed, batch by batch, and commit each batch.

    A stop request is answered between two batches. The batches depend on the items, their order and the size alone,
    so a resumed run forms the very batches of an uninterrupted one, and so does every worker that shares them.

    Args:
        stage: where the rows go, and how the work is shared (`StageFolder.sharing`).
        items: everything to do, finished or not.
        size: items per batch, or how to find it out if the manifest holds none; written to the manifest.
        work: what is done with a batch.
        total: number of ids, for the progress bar.
        stream: take the items as they come, so that memory does not grow with their number; never shared.
        skip: ids of items that need no work; they count when the batches are formed.
    """
    stage.start_clock()
    settled = stage.settled_ids.union(skip)
    if stream:
        waiting = (item for item in items if work.key(item) not in settled)
        ALONE.settle(stage, waiting, size, work, total, settled)
        return
    items = sorted(items, key=work.order)
    if not all(work.key(item) in settled for item in items):
        stage.sharing.settle(stage, items, size, work, total, settled)


def _parquet(table: pa.Table) -> memoryview:
    """A table as the content of a Parquet file. Raw bytes, such as hidden states, are left as they are.

    Compression would save 8 to 22 % of hidden states, and take longer than the disk.
    """
    raw = all(pa.types.is_fixed_size_binary(field.type) for field in table.schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none" if raw else "zstd", use_dictionary=not raw, write_statistics=not raw)
    return memoryview(sink.getvalue())
