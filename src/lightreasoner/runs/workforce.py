"""Start the workers of a command, watch them, and replace those that end too early.

A launcher starts workers somewhere: `LocalLauncher` as processes of this machine. What they share is in the run folder
(`runs.leases`); launcher and worker exchange nothing but the request and how it ended.
"""

import os
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict

from lightreasoner import errors
from lightreasoner.errors import Interrupted, LightReasonerError, RunError
from lightreasoner.runs.leases import Leases
from lightreasoner.runs.progress import say, say_once, warn
from lightreasoner.runs.signals import PATIENCE, stop_signals
from lightreasoner.runs.workers import Worker, WorkerEnded, cores

MODULE = "lightreasoner.runs.worker_process"
MOST_DEATHS = 3  # of workers at one batch
MOST_FAILED_STARTS = 5  # workers in a row that ended without a batch
LOOK_EVERY = 0.1
DEAD_WITHIN = 10.0  # seconds within which a killed worker has ended


class Request(TypedDict):
    """What a worker needs to know: the command, "module:function", and its settings as JSON values."""

    command: str
    config: dict[str, Any]


class Reply(TypedDict):
    """How the command of a worker ended: the class and message of an error of this package, or None."""

    error: str | None
    message: str
    exit_code: int


@dataclass(frozen=True)
class End:
    """How a worker ended.

    Attributes:
        error: error that its command raised; None if there was none, or it died.
        died: how it died without a reply, such as "signal 9"; None if it replied.
        last_line: last line that it wrote to stderr.
    """

    error: LightReasonerError | None = None
    died: str | None = None
    last_line: str = ""

    @classmethod
    def of(cls, reply: Reply) -> "End":
        """The end of a worker that replied."""
        if reply["error"] is None:
            return cls()
        if reply["error"] == Interrupted.__name__:
            return cls(died="a signal that only it got")
        kind = getattr(errors, reply["error"], LightReasonerError)
        error: LightReasonerError = kind(reply["message"])
        error.exit_code = reply["exit_code"]
        return cls(error)


class Handle(Protocol):
    """A worker that was started."""

    @property
    def end(self) -> End | None:
        """How it ended; None while it lives."""
        ...

    def stop(self) -> None:
        """Ask it to finish its batch, deliver it and end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...


class Launcher(Protocol):
    """Starts workers."""

    def start(self, index: int, name: str, request: Request) -> Handle:
        """Start a worker.

        Args:
            index: number of the worker, 0 … count − 1; a replacement gets the number of its predecessor.
            name: for its leases and files; no other worker has it.
            request: see `Request`.
        """
        ...


class LocalLauncher:
    """Starts workers as processes of this machine.

    As a context manager it starts them at once: they import for seconds while the owner prepares the work.

    Args:
        command: what they run, "module:function".
        devices: device of each worker. Those on a CPU share its cores evenly, unless OMP_NUM_THREADS is set.

    Attributes:
        count: number of workers.
        on_device: most workers that share a device.
    """

    def __init__(self, command: str, devices: Sequence[str]) -> None:
        self._command = command
        self._devices = devices
        self._waiting: dict[int, LocalWorker] = {}
        self.count = len(devices)
        self.on_device = max(map(devices.count, devices))

    def __enter__(self) -> Self:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if threads.isdecimal() and int(threads) > self._cores and self._devices[0] == "cpu":
            warn(
                f"OMP_NUM_THREADS={threads} is set for each of {self.count} workers on {cores()} cores: more threads "
                f"than cores slow each other down. Unset it, or set {self._cores}"
            )
        self._waiting = {index: self._process(index) for index in range(self.count)}
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._waiting.values():
            worker.kill()

    def start(self, index: int, name: str, request: Request) -> "LocalWorker":
        """See `Launcher.start`."""
        config = {**request["config"], "device": self._devices[index]}
        if config.get("grading_workers", 0) is None:
            config["grading_workers"] = self._cores
        worker = self._waiting.pop(index, None) or self._process(index)
        worker.begin(name, config)
        return worker

    @property
    def _cores(self) -> int:
        """Cores of each worker."""
        return max(1, cores() // self.count)

    def _process(self, index: int) -> "LocalWorker":
        threads = os.environ.get("OMP_NUM_THREADS") or str(self._cores)
        on_device = self._devices.count(self._devices[index])
        return LocalWorker(self._command, on_device, self.count, {"OMP_NUM_THREADS": threads})


class LocalWorker:
    """A worker in a process of this machine.

    Args:
        command: what it runs, "module:function"; it is imported at once.
        on_device: workers that share its device, itself included.
        workers: workers that are started together with it, itself included.
        environment: variables beside those of this process.
    """

    def __init__(self, command: str, on_device: int, workers: int, environment: Mapping[str, str]) -> None:
        self._lines: deque[str] = deque(maxlen=30)
        arguments = (command, *map(str, (on_device, workers, os.getpid())))
        self._process = Worker(MODULE, *arguments, environment=environment, on_line=self._take_line)
        self._end: End | None = None

    def begin(self, name: str, config: Mapping[str, Any]) -> None:
        """Let it run the command with these settings, under a name that no other worker has."""
        threading.Thread(target=self._ask, args=({"name": name, "config": config},), daemon=True).start()

    @property
    def end(self) -> End | None:
        """See `Handle.end`."""
        return self._end

    def stop(self) -> None:
        """See `Handle.stop`."""
        self._process.terminate()

    def kill(self) -> None:
        """See `Handle.kill`."""
        self._process.kill()

    def _take_line(self, line: str) -> None:
        self._lines.append(line)
        if not line.startswith((" ", "Traceback")):
            say_once(line)  # all workers have the same to say

    def _ask(self, request: Mapping[str, Any]) -> None:
        try:
            self._process.wait_until_ready()
            end = End.of(self._process.ask(request))
        except (WorkerEnded, LightReasonerError):
            end = None
        code = self._process.close()
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        self._end = end or End(died=reason, last_line=self._lines[-1] if self._lines else "")


@dataclass
class _Member:
    index: int
    name: str
    handle: Handle


class Workforce:
    """Up to `count` workers with one request, as long as the context lasts.

    At the end they are killed; only after an interruption they may finish their batches before.
    """

    def __init__(self, launcher: Launcher, count: int, request: Request) -> None:
        self._launcher = launcher
        self._count = count
        self._request = request
        self._members: list[_Member] = []
        self._deaths_at: Counter[int] = Counter()
        self._failed_starts = 0
        self._finished = 0  # workers that did all they could

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | BaseException | None) -> None:
        try:
            if kind is not None and issubclass(kind, Interrupted):
                self.end(lambda: None)
        finally:
            for member in self._members:
                member.handle.kill()
            self._await_ends(DEAD_WITHIN, lambda: None)  # they hold memory until then

    def watch(self, leases: Leases, open_batches: int) -> None:
        """Start what is missing, and look at those that have ended.

        Args:
            leases: of the stage that is worked on; those of dead workers are freed.
            open_batches: number of batches to do; there are no more workers than that.

        Raises:
            LightReasonerError: a worker reported it, or workers ended too often.
        """
        ended = self._take_ended()
        if sum([self._is_finished(member, leases) for member in ended]):
            return  # what it delivered comes first
        if not self._members and self._finished:
            self._note_failed_start(End(last_line="nothing was left to do"))
        self._start(min(self._count, open_batches))

    def progressed(self) -> None:
        """A batch was delivered."""
        self._failed_starts = 0

    def wait(self) -> None:
        """Wait until all workers have ended by themselves.

        Raises:
            LightReasonerError: see `watch`.
        """
        self._start(self._count)
        with stop_signals() as stop:
            while self._members:
                for member in self._take_ended():
                    self._is_finished(member, None)
                self._start(self._count - self._finished)
                if stop.signal_number is not None:
                    self.end(lambda: None)
                    stop.check()
                time.sleep(LOOK_EVERY)

    def end(self, meanwhile: Callable[[], None]) -> None:
        """Stop all workers, and wait for their batches, at most `PATIENCE` seconds.

        Args:
            meanwhile: called now and then, and once after the last worker has ended.
        """
        for member in self._members:
            member.handle.stop()
        self._await_ends(PATIENCE, meanwhile)
        meanwhile()

    def _await_ends(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and any(member.handle.end is None for member in self._members):
            meanwhile()
            time.sleep(LOOK_EVERY)

    def _take_ended(self) -> list[_Member]:
        ended = [member for member in self._members if member.handle.end is not None]
        self._members = [member for member in self._members if member not in ended]
        return ended

    def _is_finished(self, member: _Member, leases: Leases | None) -> bool:
        """Whether a worker that has ended did all it could; frees what it held otherwise.

        Raises:
            LightReasonerError: see `watch`.
        """
        end = member.handle.end
        assert end is not None
        if end.error is not None:
            raise end.error
        if end.died is None:
            self._finished += 1
            return True
        places = leases.free({member.name}) if leases is not None else []
        if not places:
            self._note_failed_start(end)
        for place in places:
            self._deaths_at[place] += 1
            if self._deaths_at[place] >= MOST_DEATHS:
                raise RunError(
                    f"{MOST_DEATHS} workers ended at the batch that begins with item {place} ({_cause(end)}). Finished "
                    "work is saved. With --workers 1 the same command shows more of the cause"
                )
        say(f"worker {member.index} ended ({end.died}); another one does its work")
        return False

    def _note_failed_start(self, end: End) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise RunError(
                f"{MOST_FAILED_STARTS} workers in a row ended without a batch ({_cause(end)}). With --workers 1 the "
                "same command shows more of the cause"
            )

    def _start(self, wanted: int) -> None:
        """Start workers until there are as many as wanted."""
        taken = {member.index for member in self._members}
        for index in range(self._count):
            if index not in taken and len(self._members) < wanted:
                name = secrets.token_hex(4)
                self._members.append(_Member(index, name, self._launcher.start(index, name, self._request)))


def _cause(end: End) -> str:
    return ", ".join(filter(None, [end.died, end.last_line and f"last line: {end.last_line}"]))
