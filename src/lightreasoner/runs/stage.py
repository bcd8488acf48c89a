"""Run folders: what a stage has done stays done, and nobody else works in the folder meanwhile.

A stage writes *shards* (Parquet files) and one *ledger* line per shard group. A shard is written to a temporary
name, flushed to disk, renamed, and the folder flushed; the ledger line, with the ids it settles and the hash of
every file, is the commit. What is not in the ledger never happened.

    RUN/
      .lock, .holder            one process at a time
      config.yaml               the resolved settings
      environment.json          versions and machine
      sample/ finetune/ …       one folder per stage:
        manifest.json             fingerprint of everything that decides the stage's content
        ledger.jsonl              the commits
        rollouts-00000.parquet    shards
        result.json               written last: the stage is finished
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightreasoner.errors import (
    RunCorrupted,
    RunMismatch,
)
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.faults import reach
from lightreasoner.runs.files import file_hash, room_for, write_atomically, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.records import SCHEMA_VERSION


class StageFolder:
    """The folder of one stage: what it has committed, and a way to commit more. Made by `open_stage`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ledger = path / "ledger.jsonl"
        self._entries: list[dict[str, Any]] = []
        self._finished: dict[str, Any] | None = None

    @property
    def result(self) -> dict[str, Any] | None:
        """What the finished stage reported; None while it is not finished."""
        return self._finished["result"] if self._finished else None

    @property
    def settled_ids(self) -> set[str]:
        """Ids of the items that are done, whether or not they gave rows."""
        return {item for entry in self._entries for item in entry["ids"]}

    @property
    def first_ids(self) -> list[str]:
        """Ids of the first commit: as many as the size of a batch, if there were so many."""
        return list(self._entries[0]["ids"]) if self._entries else []

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
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            content = sink.getvalue().to_pybytes()
            with room_for(path, len(content)):
                reach("before-shard")
                write_atomically(path, content)
            reach("after-shard")
            files[path.name] = {"rows": table.num_rows, "sha256": hashlib.sha256(content).hexdigest()}
        entry = {"shard": number, "ids": ids, "files": files, "counts": dict(counts)}
        entry["check"] = _check_of(entry)
        self._append(json.dumps(entry).encode() + b"\n")
        self._entries.append(entry)
        reach("after-ledger")

    def _append(self, line: bytes) -> None:
        """Add a line to the ledger; where that fails the ledger is as it was."""
        with room_for(self._ledger, len(line)), self._ledger.open("ab", buffering=0) as ledger:
            before = ledger.tell()
            try:
                reach("in-ledger")
                if ledger.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(ledger.fileno())
            except OSError:
                ledger.truncate(before)
                raise

    def tables(self, kind: str) -> Iterator[pa.Table]:
        """The committed shards of one kind, in order of commit."""
        for entry in self._entries:
            name = f"{kind}-{entry['shard']:05d}.parquet"
            if name in entry["files"]:
                yield pq.read_table(self.path / name)

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the stage as finished; the last thing that a stage writes."""
        self._finished = {"commits": len(self._entries), "result": json.loads(json.dumps(result))}
        write_json(self.path / "result.json", self._finished)

    def load(self) -> list[str]:
        """Read what is there. What is torn or damaged is left out, and said so, one line each."""
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
        return complaints or self._load_result()

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
    run: Path, stage: str, fingerprint: Mapping[str, Any], report: Callable[[str], None] = lambda line: None
) -> Iterator[StageFolder]:
    """Open or continue a stage of a run folder, locked for as long as the context lasts.

    Args:
        run: run folder; made if absent.
        stage: name of its subfolder.
        fingerprint: everything that decides what the stage writes, JSON values.
        report: called with a line about damage that was found and set aside.

    Raises:
        RunLocked: another process works in the run folder.
        RunMismatch: the stage was begun with another fingerprint; lists the fields that differ.
    """
    with locked(run):
        folder = run / stage
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / "manifest.json"
        wanted = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, **fingerprint}))
        if manifest.exists():
            _compare(folder, _read_manifest(manifest)["fingerprint"], wanted)
        else:
            facts = {"stage": stage, "fingerprint": wanted, "created": now(), "environment": environment()}
            write_json(manifest, facts)
        stage_folder = StageFolder(folder)
        complaints = stage_folder.load()
        if complaints:
            stage_folder.repair()
            for complaint in complaints:
                report(f"{complaint}; set aside, its items are done again")
        yield stage_folder


def sample_folder(path: Path) -> Path:
    """The samples of a run folder, or the folder itself where it is one of samples."""
    return path / "sample" if (path / "sample").is_dir() else path


def read_stage(folder: Path) -> tuple[dict[str, Any], StageFolder]:
    """The fingerprint and content of a stage that some earlier process finished, for reading.

    Raises:
        RunCorrupted: there is no readable manifest, the stage is not finished, or a file is damaged.
    """
    fingerprint = _read_manifest(folder / "manifest.json")["fingerprint"]
    stage_folder = StageFolder(folder)
    complaints = stage_folder.load()
    if complaints:
        raise RunCorrupted(
            f"{'; '.join(complaints)}. Run the command that made {folder} again: it redoes what is missing"
        )
    if stage_folder.result is None:
        raise RunCorrupted(f"{folder} is not finished. Run the command that made it again: it continues")
    return fingerprint, stage_folder


def _read_manifest(manifest: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(manifest.read_text())
        assert isinstance(facts["fingerprint"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise RunCorrupted(
            f"{manifest} is missing or unreadable; it says what the folder holds. Give another folder"
        ) from None
    return facts


def _check_of(entry: Mapping[str, Any]) -> str:
    """Hash of a ledger line's other fields: a digit that flipped in a number would else pass for another number."""
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
    sound = sound and entry.get("check", _check_of(entry)) == _check_of(entry)  # run folders of before had none
    return entry if sound and "ids" in entry and "counts" in entry else None


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if differing:
        lines = "; ".join(f"{name}: {_both(found.get(name), wanted.get(name))}" for name in differing)
        raise RunMismatch(
            f"{folder} was made with other settings ({lines}); mixing them would make its content mean nothing. "
            "Use the same settings to continue it, or give another folder with --out"
        )


def _both(found: Any, wanted: Any) -> str:
    """Two values that differ, long ones from shortly before their first difference."""
    there, now = json.dumps(found, ensure_ascii=False), json.dumps(wanted, ensure_ascii=False)
    same = next((place for place, pair in enumerate(zip(there, now, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, same - 20)
    return f"{_excerpt(there, start)} there, {_excerpt(now, start)} now"


def _excerpt(text: str, start: int) -> str:
    if len(text) <= 80:
        return text
    return f"{'…' * (start > 0)}{text[start : start + 80]}{'…' * (len(text) > start + 80)}"
