"""Leases on batches, and deliveries of finished ones: how the workers on one stage share it through its folder.

    RUN/sample/
      leases/000032.json            a worker runs the batch that begins with item 32; renewed while it lives
      leases/batch-size.json        what the first worker that knew the memory proposed
      rollouts-000032-5f0c.parquet  shards of a worker, named after batch and worker
      deliveries/000032-5f0c.json   a finished batch: what its ledger line needs

A lease only saves double work. Workers never write the ledger: its one writer takes each delivery, or drops it if its
items are settled. So a lease that is lost, stolen or held twice costs time and nothing else. The age of a lease is
measured against the clock of the file system that both files are on, since the clocks of machines differ.
"""

import json
import os
import platform
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lightreasoner.runs.files import write_atomically
from lightreasoner.runs.ledger import commit_of, line_of

STALE_AFTER = 30.0  # seconds without renewal after which a lease is free
RENEW_EVERY = 2.0

LEASES, DELIVERIES = "leases", "deliveries"
_SIZE = "batch-size.json"


@dataclass(frozen=True)
class Lease:
    """A claim on a batch.

    Attributes:
        place: index of the batch's first item among all items.
        worker: name of the worker.
        host: its machine.
        pid: its process there.
        tokens: tokens that it has counted in this batch.
        age: seconds since its last renewal.
    """

    path: Path
    worker: str
    host: str
    pid: int
    tokens: int
    age: float

    @property
    def place(self) -> int:
        """Index of the batch's first item among all items."""
        return int(self.path.stem)

    @property
    def is_free(self) -> bool:
        """Whether its holder is gone: a process of this machine that has ended, or one that renews no more."""
        return self.age > STALE_AFTER or (self.host == platform.node() and not psutil.pid_exists(self.pid))


class Leases:
    """The leases of one stage, as one worker or the owner of the run folder sees them.

    Args:
        stage: folder of the stage.
        worker: name of this worker, which no other has; letters and digits.
    """

    def __init__(self, stage: Path, worker: str) -> None:
        self._folder = stage / LEASES
        self._worker = worker
        self._folder.mkdir(exist_ok=True)

    def claim(self, place: int) -> bool:
        """Take the batch, unless another worker holds it."""
        path = self._path(place)
        for _ in range(2):
            try:
                with path.open("x") as file:
                    file.write(self._content(0))
                return True
            except FileNotFoundError:  # the owner has finished the stage
                return False
            except FileExistsError:
                held = self._read(path, self._clock())
                if held is None or not held.is_free:
                    return False
                self._remove(path)
        return False

    def renew(self, place: int, tokens: int) -> None:
        """Show that this worker lives, and how many tokens it has counted in the batch."""
        temporary = self._folder / f".{place}-{self._worker}.tmp"
        with suppress(OSError):  # a disk that is full for a moment; the lease only saves double work
            temporary.write_text(self._content(tokens))
            temporary.replace(self._path(place))

    def release(self, place: int) -> None:
        """Give the batch back, or mark the end of its work."""
        held = self._read(self._path(place), 0.0)
        if held is not None and held.worker == self._worker:
            held.path.unlink(missing_ok=True)

    def held(self) -> list[Lease]:
        """All leases."""
        now = self._clock()
        found = (self._read(path, now) for path in sorted(self._folder.glob("[0-9]*.json")))
        return [lease for lease in found if lease is not None]

    def free(self, workers: Collection[str]) -> list[int]:
        """Remove the leases of workers that have ended; returns their places."""
        freed = [lease for lease in self.held() if lease.worker in workers]
        for lease in freed:
            self._remove(lease.path)
        return [lease.place for lease in freed]

    def propose_size(self, size: int) -> int:
        """Propose a batch size; returns the one that was proposed first."""
        with suppress(FileExistsError), (self._folder / _SIZE).open("x") as file:
            json.dump(size, file)
        return self.proposed_size() or size

    def proposed_size(self) -> int | None:
        """The proposed batch size; None while there is none."""
        with suppress(OSError, ValueError):
            return int(json.loads((self._folder / _SIZE).read_text()))
        return None

    def _path(self, place: int) -> Path:
        return self._folder / f"{place:06d}.json"

    def _content(self, tokens: int) -> str:
        return json.dumps({"worker": self._worker, "host": platform.node(), "pid": os.getpid(), "tokens": tokens})

    def _read(self, path: Path, now: float) -> Lease | None:
        """A lease; None if there is none. A torn one has no holder that can be named, and becomes free by its age."""
        try:
            age = now - path.stat().st_mtime
            text = path.read_text()
        except OSError:
            return None
        try:
            facts = json.loads(text)
            return Lease(path, str(facts["worker"]), str(facts["host"]), int(facts["pid"]), int(facts["tokens"]), age)
        except (ValueError, KeyError, TypeError):
            return Lease(path, "", "", 0, 0, age)

    def _remove(self, path: Path) -> None:
        """Remove a lease; of several that try, one succeeds."""
        aside = self._folder / f".free-{path.stem}-{self._worker}"
        with suppress(FileNotFoundError):
            path.replace(aside)
            aside.unlink()

    def _clock(self) -> float:
        """Now, on the file system's clock; 0 where the folder is gone, since then nothing is free."""
        try:
            return clock(self._folder, self._worker)
        except OSError:
            return 0.0


def clock(folder: Path, worker: str) -> float:
    """Now, on the clock of the file system that holds the folder."""
    probe = folder / f".clock-{worker}"
    with probe.open("wb") as file:
        now = os.fstat(file.fileno()).st_mtime
    probe.unlink(missing_ok=True)
    return now


def is_fresh(path: Path, worker: str) -> bool:
    """Whether a file was changed within the time that a lease lasts."""
    try:
        return clock(path.parent, worker) - path.stat().st_mtime <= STALE_AFTER
    except OSError:
        return False


def deliver(stage: Path, delivery: dict[str, Any]) -> None:
    """Hand in a finished batch, whose shards are written.

    Args:
        stage: folder of the stage.
        delivery: `place`, `worker`, `of` (hash of the settings that it was made with), and of its ledger line `ids`,
            `files` and `counts`.
    """
    folder = stage / DELIVERIES
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{delivery['place']:06d}-{delivery['worker']}.json", line_of(delivery))


def deliveries(stage: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Deliveries that nobody has taken yet, by place; None for a damaged one."""
    for path in sorted((stage / DELIVERIES).glob("[0-9]*.json")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # taken meanwhile
            continue
        yield path, commit_of(content, "place")


def settled_in(ledger: Path) -> set[str]:
    """Ids that a ledger settles which another process may be writing."""
    try:
        lines = ledger.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return set()
    return {item for line in lines if (entry := commit_of(line)) for item in entry["ids"]}


def delivered_files(stage: Path, of: str) -> Mapping[str, str]:
    """Hash of each file of the sound deliveries that were made with these settings, by name."""
    return {
        name: facts["sha256"]
        for _, delivery in deliveries(stage)
        if delivery is not None and delivery.get("of") == of
        for name, facts in delivery["files"].items()
    }
