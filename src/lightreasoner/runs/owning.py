"""The owner of a run folder with workers, and from a command to its workers; see `runs.sharing`."""

import math
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightreasoner.runs.leases import (
    LEASES,
    Leases,
)
from lightreasoner.runs.locks import HOLDER
from lightreasoner.runs.progress import count_tokens, progress
from lightreasoner.runs.ray_workers import RayLauncher, ray_launcher
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.work import Item, Work
from lightreasoner.runs.workforce import LocalLauncher, Request, Workforce

if TYPE_CHECKING:
    from lightreasoner.runs.stage import StageFolder

from lightreasoner.runs.joining import Joined
from lightreasoner.runs.sharing import ALONE, Beating, C, Sharing, Size

LOOK_EVERY = 0.1  # seconds between two looks of the owner at the folder


class Owner(Beating):
    """The process that holds the run folder, with workers of its own.

    Args:
        run: the run folder.
        workers: starts and watches them.
        on_device: most workers that share a device.
    """

    def __init__(self, run: Path, workers: Workforce, on_device: int = 1) -> None:
        self.on_device = on_device
        self._run = run
        self._workers = workers

    def beat(self) -> None:
        """See `Leases`: the age of the holder's file tells others whether the owner lives."""
        with suppress(OSError):
            os.utime(self._run / HOLDER)

    def open(self, stage: Path) -> None:
        """See `Sharing.open`: others may join."""
        (stage / LEASES).mkdir(exist_ok=True)

    def agree(self, stage: "StageFolder", name: str, find: Callable[[], str]) -> str:
        """See `Sharing.agree`."""
        value = find()
        stage.keep(name, value)
        return value

    def settle(
        self,
        stage: "StageFolder",
        items: Iterable[Item],
        size: Size,
        work: Work[Item, Any],
        total: int,
        settled: Collection[str],
    ) -> None:
        """Start workers, and commit what they and others deliver until all items are settled."""
        leases = Leases(stage.path, "owner")
        if isinstance(size, int):
            stage.keep_batch_size(size)
        items = list(items)
        left = {work.key(item) for item in items}.difference(settled)
        tokens = _Tokens()

        def take() -> None:
            for ids in stage.take_deliveries():
                left.difference_update(ids)
                self._workers.progressed()
                advance(len(ids), work.note(stage.counts))
            if stage.batch_size is None and (proposed := leases.proposed_size()):  # before the first delivery
                stage.keep_batch_size(proposed)

        with progress(work.label, total, len(settled)) as advance, stop_signals() as stop:
            while True:
                take()
                if not left:
                    return
                if stop.signal_number is not None:
                    self._workers.end(take)
                    stop.check()
                self._workers.watch(leases, math.ceil(len(left) / (stage.batch_size or 1)))
                tokens.update(leases, stage.path)
                time.sleep(LOOK_EVERY)


class _Tokens:
    """Adds what workers count to the tokens of this process."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], int] = {}

    def update(self, leases: Leases, stage: Path) -> None:
        """Count the tokens that are new in the leases."""
        for lease in leases.held():
            key = (lease.worker, lease.place)
            count_tokens(max(0, lease.tokens - self._of.get(key, 0)))
            self._of[key] = max(lease.tokens, self._of.get(key, 0))


_started: Joined | None = None  # in a process that an owner started


def run_shared(
    config: C,
    command: str,
    body: Callable[[C, Sharing], dict[str, Any]],
    devices: Callable[[], Sequence[str]],
) -> dict[str, Any]:
    """Run a command alone, with workers, or as a worker, as its settings say.

    Args:
        config: settings of the command.
        command: "module:function" of the command, which calls this function.
        body: does the work of the command.
        devices: gives the device of each worker; called if there may be several.

    Returns:
        What `body` returns; for a worker without meaning.
    """
    if _started is not None:
        return body(config, _started)
    alone = config.workers == 1 and config.ray is None
    if config.join and alone:
        with Joined(config.out, secrets.token_hex(4)) as joined:
            return body(config, joined)
    if alone:
        return body(config, ALONE)
    with ExitStack() as stack:
        launcher: LocalLauncher | RayLauncher
        if config.ray is None:
            launcher = stack.enter_context(LocalLauncher(command, list(devices())))
        else:
            launcher = stack.enter_context(ray_launcher(config.ray, config.workers, config.device))
            if launcher.on_gpus and config.dtype == "auto":  # this machine may have none
                config = config.model_copy(update={"dtype": "bfloat16"})
        settings = config.model_copy(update={"join": True, "workers": 1, "ray": None})
        request: Request = {"command": command, "config": settings.model_dump(mode="json")}
        workers = stack.enter_context(Workforce(launcher, launcher.count, request))
        if config.join:
            workers.wait()
            return {}
        return body(config, stack.enter_context(Owner(config.out, workers, launcher.on_device)))


@contextmanager
def work_for(worker: Joined) -> Iterator[None]:
    """Make this process a worker, as long as the context lasts: the command that it runs next works for an owner."""
    global _started
    with worker:
        _started = worker
        try:
            yield
        finally:
            _started = None
