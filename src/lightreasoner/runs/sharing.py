"""How a command shares its work: alone, as the owner of a run folder that has workers, or as one of them.

The owner holds the lock, writes manifest and ledger, shows the progress and finishes the stage; it loads no model. Its
workers, and processes with `--join` on any machine that sees the folder, run the same command in worker mode: they
wait for the manifest, claim batches (`runs.leases`), and deliver them. All form the same batches.
"""

import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lightreasoner.config import BaselineConfig, EvaluateConfig, SampleConfig
from lightreasoner.runs.eta import Batch
from lightreasoner.runs.leases import (
    LEASES,
    RENEW_EVERY,
)
from lightreasoner.runs.manifest import prompts_time
from lightreasoner.runs.progress import progress
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.work import Item, Work, batches_of, run_batch

if TYPE_CHECKING:
    from lightreasoner.runs.stage import StageFolder

C = TypeVar("C", SampleConfig, BaselineConfig, EvaluateConfig)
Size = int | Callable[[], int]


class Sharing:
    """A command that works alone; the base of the others.

    Attributes:
        joins: whether this process is a worker: it ends after `settle`, and another one finishes the stage.
        on_device: workers that share a device with this one, itself included.
        workers: workers that were started together with this one, itself included.
    """

    joins = False
    on_device = 1
    workers = 1

    def open(self, stage: Path) -> None:
        """A stage was opened, and is not finished."""
        shutil.rmtree(stage / LEASES, ignore_errors=True)  # nobody can join

    def prompts_time(self, run: Path, stage: str, now: datetime | None = None) -> str:
        """See `manifest.prompts_time`."""
        return prompts_time(run, stage, now)

    def with_precision(self, config: C, stage: str) -> C:
        """The settings with the precision that the owner of the run folder found for `auto`."""
        return config

    def manifest(self, stage: Path) -> dict[str, Any]:
        """The manifest of a stage that another process has begun; for workers."""
        raise NotImplementedError

    def agree(self, stage: "StageFolder", name: str, find: Callable[[], str]) -> str:
        """Something that all workers must do alike: the owner finds it out, and the others learn it."""
        return find()

    def await_commits(self, stage: "StageFolder", ids: Collection[str]) -> None:
        """Wait until all these items are settled, for work that reads their rows."""

    def settle(
        self,
        stage: "StageFolder",
        items: Iterable[Item],
        size: Size,
        work: Work[Item, Any],
        total: int,
        settled: Collection[str],
    ) -> None:
        """Run and commit all batches; see `stage.settle`.

        Args:
            stage: where the rows go.
            items: everything to do, in order; an iterator is taken as it comes.
            size: see `stage.settle`.
            work: what is done with a batch.
            total: number of ids, for the progress bar.
            settled: ids of items that need no work.
        """
        size = size if isinstance(size, int) else stage.batch_size or size()
        stage.keep_batch_size(size)
        stream = not isinstance(items, Sequence)
        plan: list[Batch] = []
        batches: Iterable[tuple[int, list[Item]]]
        whole_batches = batches_of(items, size, work)
        open_batches = (
            (place, [item for item in whole if work.key(item) not in settled]) for place, whole in whole_batches
        )
        batches = ((place, batch) for place, batch in open_batches if batch)
        if not stream:
            batches = list(batches)
            plan = [Batch.of(map(work.load, batch), work.passes) for _, batch in batches]
        with progress(work.label, total, len(settled), plan) as advance, stop_signals() as stop:
            for place, batch in batches:
                stop.check()
                ids, done = run_batch(batch, work)
                stage.commit(ids, done.tables, done.counts, None if stream else place)
                advance(len(ids), work.note(stage.counts))


ALONE = Sharing()


class Beating(Sharing):
    """Calls `beat` every two seconds in a thread, as long as the context lasts."""

    def __enter__(self) -> Self:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._ended.wait(RENEW_EVERY):
            self.beat()

    def beat(self) -> None:
        """Show that this process lives."""
