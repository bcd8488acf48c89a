"""A worker of a shared stage: it claims batches (`runs.leases`) and delivers them; see `runs.sharing`."""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lightreasoner.errors import Interrupted, LightReasonerError, RunCorrupted, RunError, RunMismatch
from lightreasoner.runs.leases import (
    DELIVERIES,
    LEASES,
    Leases,
    deliveries,
    is_fresh,
    settled_in,
)
from lightreasoner.runs.locks import HOLDER
from lightreasoner.runs.manifest import read_manifest
from lightreasoner.runs.progress import PLAIN_LINE_EVERY, progress, say, tokens_counted
from lightreasoner.runs.signals import StopRequest, stop_signals
from lightreasoner.runs.work import Item, Work, batches_of, run_batch

if TYPE_CHECKING:
    from lightreasoner.runs.stage import StageFolder

from lightreasoner.runs.sharing import Beating, C, Size

WAIT_FOR = 0.25  # seconds that a worker waits for others
OWNER_WITHIN = 600.0  # seconds that a joining process waits for an owner


class Joined(Beating):
    """A worker: it claims batches and delivers them.

    Args:
        run: the run folder.
        name: of this worker; no other has it.
        on_device: workers that share its device, itself included.
        workers: workers that were started together with it, itself included.
        parent: process id of the owner that started it; None if it came by itself.
    """

    joins = True

    def __init__(self, run: Path, name: str, on_device: int = 1, workers: int = 1, parent: int | None = None) -> None:
        self._run = run
        self._name = name
        self.on_device = on_device
        self.workers = workers
        self.linger = True  # `settle` waits for the batches of others, which may have to be done again
        self.stopped = False  # set by a launcher that cannot send signals
        self._parent = parent
        self._held: tuple[Leases, int, int] | None = None

    def beat(self) -> None:
        """Renew the lease."""
        if (held := self._held) is not None:
            leases, place, before = held
            leases.renew(place, tokens_counted() - before)

    def prompts_time(self, run: Path, stage: str, now: datetime | None = None) -> str:
        """The time that the owner chose."""
        return str(self.manifest(run / stage)["asked_at"])

    def with_precision(self, config: C, stage: str) -> C:
        """See `Sharing.with_precision`: machines differ, and the rows of one stage must not."""
        if config.dtype != "auto":
            return config
        return config.model_copy(update={"dtype": _dtype_in(self.manifest(self._run / stage)["fingerprint"])})

    def manifest(self, stage: Path) -> dict[str, Any]:
        """The manifest, once an owner has begun the stage.

        Raises:
            RunError: nobody did within ten minutes.
        """
        waiting = self._waiting(f"the same command without --join and with --workers 2 or more, to begin {stage}")
        while True:
            if (stage / LEASES).is_dir() or (stage / "result.json").exists():
                with suppress(RunCorrupted):  # it is being written
                    return read_manifest(stage)
            seconds = waiting()
            if seconds > OWNER_WITHIN and not self._owner_lives():
                raise RunError(
                    f"no process shares {stage}: waited {seconds:.0f} s for one. Start the same command without --join "
                    "and with --workers 2 or more, or auto, and join it then"
                )

    def agree(self, stage: "StageFolder", name: str, find: Callable[[], str]) -> str:
        """See `Sharing.agree`."""
        wait = self._waiting(f"the owner of {stage.path} to say its {name}")
        while (value := self.manifest(stage.path).get(name)) is None:
            wait()
            self._refuse_without_owner(stage)
        return str(value)

    def await_commits(self, stage: "StageFolder", ids: Collection[str]) -> None:
        """See `Sharing.await_commits`."""
        wait = self._waiting(f"the owner of {stage.path} to commit what was delivered")
        stage.read_ledger()
        while not stage.settled_ids.issuperset(ids):
            wait()
            self._refuse_without_owner(stage)
            stage.read_ledger()

    def _refuse_without_owner(self, stage: "StageFolder") -> None:
        if not self._owner_lives():
            raise RunError(f"the process that shares {stage.path} has ended. Run its command again, and join it then")

    def settle(
        self,
        stage: "StageFolder",
        items: Iterable[Item],
        size: Size,
        work: Work[Item, Any],
        total: int,
        settled: Collection[str],
    ) -> None:
        """Claim, run and deliver batches until none is left that nobody works on; then see `linger`."""
        leases = Leases(stage.path, self._name)
        items = list(items)
        batches = list(batches_of(items, self._size(stage, size, leases), work))
        done = _Done(stage.path, settled)
        shown = (
            progress(work.label, total, done.count({work.key(item) for item in items}))
            if self._parent is None
            else nullcontext(_silent)
        )
        waiting = self._waiting(f"the batches that others hold in {stage.path}")
        with shown as advance, stop_signals() as stop:
            while self._claim_all(stage, leases, batches, done, work, stop, advance):
                if not self.linger:
                    return
                waiting(stop)
        if self._parent is None and not self._owner_lives():
            say(f"all batches of {stage.path} are done, and its owner is gone. Run the same command without --join")

    def _claim_all(
        self,
        stage: "StageFolder",
        leases: Leases,
        batches: Sequence[tuple[int, Sequence[Item]]],
        done: "_Done",
        work: Work[Item, Any],
        stop: StopRequest,
        advance: Callable[..., None],
    ) -> int:
        """Do every batch that is free; returns how many others hold."""
        held = 0
        done.read()
        for place, whole in batches:
            self._check(stop)
            if not done.open_items(whole, work):
                continue
            if not leases.claim(place):
                held += 1
                continue
            self._held = (leases, place, tokens_counted())
            done.read()  # it may have been delivered just now
            if batch := done.open_items(whole, work):
                ids, rows = run_batch(batch, work)
                if read_manifest(stage.path)["fingerprint"] != stage.manifest["fingerprint"]:
                    raise RunMismatch(
                        f"{stage.path} was taken over with other settings meanwhile; nothing was delivered"
                    )
                done.read()
                if done.open_items(batch, work):
                    stage.deliver(ids, rows.tables, rows.counts, place, self._name)
                advance(len(ids))
            self._held = None
            leases.release(place)  # after an error it stays, and shows where this worker ended
        return held

    def _size(self, stage: "StageFolder", size: Size, leases: Leases) -> int:
        """Items per batch: those of the manifest, or the first proposal."""
        known = read_manifest(stage.path).get("batch_size") or leases.proposed_size()
        if known is None:
            known = leases.propose_size(size if isinstance(size, int) else size())
        return int(known)

    def _owner_lives(self) -> bool:
        return is_fresh(self._run / HOLDER, self._name)

    def _check(self, stop: StopRequest | None = None) -> None:
        """Stop between two batches, on a signal or where the owner that started this worker has ended."""
        if stop is not None:
            stop.check()
        if self.stopped:
            raise Interrupted(signal.SIGTERM)
        if self._parent is not None and (os.getppid() != self._parent or not psutil.pid_exists(self._parent)):
            raise LightReasonerError("the process that started this worker has ended; what it has done is delivered")

    def _waiting(self, what: str) -> Callable[..., float]:
        """A function that waits a moment, says after 15 s what for, and returns the seconds waited since its last use.

        Seconds of work between two waits do not count.
        """
        waited, told = 0.0, False

        def wait(stop: StopRequest | None = None) -> float:
            nonlocal waited, told
            self._check(stop)
            time.sleep(WAIT_FOR)
            waited += WAIT_FOR
            if waited > PLAIN_LINE_EVERY and not told and self._parent is None:
                say(f"waiting for {what}")
                told = True
            return waited

        return wait


def _silent(steps: int, note: str = "") -> None:
    """Progress that nobody sees: the owner shows it."""


class _Done:
    """What is settled or delivered in a stage, as far as it was read."""

    def __init__(self, stage: Path, skip: Collection[str]) -> None:
        self._stage = stage
        self._skip = set(skip)
        self._settled = set(skip)
        self._size = 0
        self._delivered: dict[str, set[str]] = {}

    def read(self) -> None:
        """Read again what changed. Deliveries come first: one that is gone by then stands in the ledger."""
        names = {path.name for path in (self._stage / DELIVERIES).glob("[0-9]*.json")}
        if names != self._delivered.keys():
            found = deliveries(self._stage)
            self._delivered = {path.name: set(entry["ids"]) if entry else set() for path, entry in found}
        ledger = self._stage / "ledger.jsonl"
        size = ledger.stat().st_size if ledger.exists() else 0
        if size != self._size:
            self._settled, self._size = settled_in(ledger) | self._skip, size

    def count(self, ids: set[str]) -> int:
        """How many of these are done."""
        self.read()
        return len(ids.intersection(self._settled.union(*self._delivered.values())))

    def open_items(self, batch: Sequence[Item], work: Work[Item, Any]) -> list[Item]:
        """The items of a batch that nobody has finished."""
        finished = (self._settled, *self._delivered.values())
        return [item for item in batch if not any(work.key(item) in ids for ids in finished)]


def _dtype_in(fingerprint: dict[str, Any]) -> str:
    """The precision in the fingerprint of samples or answers."""
    where = fingerprint if "dtype" in fingerprint else fingerprint["how"]["precision"]
    return str(where["dtype"])
