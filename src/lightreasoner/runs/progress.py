"""Messages and progress on stderr.

Messages are records of Python's logger `lightreasoner`. The command line prints them (`printed_messages`); a program
that imports this package configures logging as it likes. Progress is a bar in terminals and notebooks, and elsewhere a
message when work begins and every 15 seconds. A level above INFO of the logger switches both off.
"""

import html
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from lightreasoner.runs.terminal import visible

if TYPE_CHECKING:
    from lightreasoner.runs.eta import Batch, Estimate

PLAIN_LINE_EVERY = 15.0  # seconds
NOTEBOOK_EVERY = 1.0  # seconds
SILENT_FOR = 10.0  # seconds of work without a known length, before its first message

logger = logging.getLogger("lightreasoner")
_tokens = 0
_busy: list[tuple[str, float]] = []  # works without a known length, and when they began
_shown: list["_Meter"] = []  # the progress that is shown; the last one is that of the innermost work


class Advance(Protocol):
    """Advances the progress, with an optional note such as a count."""

    def __call__(self, steps: int, note: str = "", tokens: int | None = None) -> None:
        """Count `steps` more units as done, which is the next batch of the plan if there is one.

        Args:
            steps: units.
            note: text for people.
            tokens: tokens counted for these units; None for all since the last call. Needed where several batches are
                in work at a time.
        """
        ...


# --- Messages ---


def say(line: str) -> None:
    """Log a line of information."""
    logger.info("%s", line)


def warn(line: str) -> None:
    """Log a warning. The command line prints `warning:` before it."""
    logger.warning("%s", line)


@cache
def say_once(line: str) -> None:
    """Log a line of information, unless this process has done so before."""
    say(line)


@cache
def warn_once(line: str) -> None:
    """Log a warning, unless this process has done so before."""
    warn(line)


class _ToStderr(logging.Handler):
    """Prints messages to stderr, escaped. Looks stderr up each time, since it may be redirected meanwhile."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        if sys.stderr is not None:  # it was closed before Python started
            prefix = "warning: " if record.levelno == logging.WARNING else ""
            print(visible(prefix + record.getMessage()), file=sys.stderr, flush=True)


@contextmanager
def printed_messages() -> Iterator[None]:
    """Within this context messages are printed to stderr, unless the logger is set to warnings or errors only."""
    if any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        yield
        return
    handler, level = _ToStderr(), logger.level
    logger.addHandler(handler)
    logger.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def only_warnings() -> None:
    """Show no progress and no information from now on, also none of tqdm's bars in libraries."""
    logger.setLevel(logging.WARNING)
    os.environ["TQDM_DISABLE"] = "1"


# --- Tokens ---


@contextmanager
def without_messages() -> Iterator[None]:
    """Without information and warnings, for work whose messages would mislead."""
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def count_tokens(count: int) -> None:
    """Count tokens that a model has just generated or read; engines call this at every step."""
    global _tokens
    _tokens += count
    if _shown:
        _shown[-1].tokens(count)


def count_step(rows: int) -> None:
    """Count one decoding step of this process: a token for each of the `rows` running texts; 0 after the last step.

    An engine calls `count_tokens` for the prompts first. Rows that have ended are left out as soon as this is known
    without a wait for the device.
    """
    global _tokens
    _tokens += rows
    if _shown:
        _shown[-1].step(rows)


def tokens_counted() -> int:
    """All tokens that this process has counted so far."""
    return _tokens


# --- Progress ---


@contextmanager
def progress(
    label: str, total: int, done: int = 0, plan: Sequence["Batch"] = (), shown: bool = True
) -> Iterator[Advance]:
    """Show the progress of `total` units of work, of which `done` were finished earlier.

    Args:
        label: what is done.
        total: all units.
        done: units that were finished earlier.
        plan: the batches to come, for the time left; see `eta.Estimate`.
        shown: False shows nothing, such as in all processes of `torchrun` but the first.
    """
    from lightreasoner.runs.eta import Estimate  # not for `--help`, which NumPy would slow down

    meter = _Meter(label, Estimate(total, done, plan, time.monotonic()))
    display = _display(meter) if shown else nullcontext(lambda: None)
    _shown.append(meter)
    try:
        with display as update:

            def advance(steps: int, note: str = "", tokens: int | None = None) -> None:
                meter.finish(steps, note, tokens)
                update()

            yield advance
    finally:
        _shown.remove(meter)


@contextmanager
def busy(label: str) -> Iterator[None]:
    """Say after some seconds, and then from time to time, that work without a known length goes on.

    Also a decorator. Of nested work, only the innermost is named.
    """
    work = (label, time.monotonic())
    _busy.append(work)

    def tick() -> None:
        if _busy[-1] is work:
            say(f"{label}: {timedelta(seconds=round(time.monotonic() - work[1]))}")

    try:
        with _ticking(SILENT_FOR, tick, PLAIN_LINE_EVERY):
            yield
    finally:
        _busy.remove(work)


def _wanted() -> bool:
    """Whether progress is shown: unless the logger was set to warnings or errors only."""
    return logger.level <= logging.INFO


class _Meter:
    """What is shown of some work. Its numbers are read by a thread that displays them."""

    def __init__(self, label: str, estimate: "Estimate") -> None:
        self.label = visible(label)
        self.note = ""
        self._estimate = estimate
        self._began = time.monotonic()
        self._counted = 0
        self._lock = threading.Lock()

    def tokens(self, count: int) -> None:
        with self._lock:
            self._counted += count
            self._estimate.tokens(count)

    def step(self, rows: int) -> None:
        with self._lock:
            self._counted += rows
            self._estimate.step(rows, time.monotonic())

    def finish(self, items: int, note: str, tokens: int | None) -> None:
        with self._lock:
            self.note = note
            self._estimate.finish(items, tokens, time.monotonic())

    @property
    def done(self) -> int:
        return self._estimate.done

    @property
    def total(self) -> int:
        return self._estimate.total

    def pace(self) -> str:
        """The time left and tokens per second, as far as they are known."""
        with self._lock:
            now = time.monotonic()
            left, speed, rough = self._estimate.left(now), self._estimate.speed(now), self._estimate.is_rough
        parts = []
        if left is not None and self.done < self.total:
            parts.append(f"{'roughly ' if rough else ''}{timedelta(seconds=round(left))} left")
        if self._counted:
            parts.append(f"{speed:,.0f} tokens/s")
        return ", ".join(parts)

    def line(self) -> str:
        """All of it as one line."""
        elapsed = timedelta(seconds=round(time.monotonic() - self._began))
        parts = [f"{self.label}: {self.done}/{self.total}", str(elapsed), self.pace(), visible(self.note)]
        return ", ".join(part for part in parts if part)


# --- Displays: each gives a function that is called when units are done ---

Update = Callable[[], None]


def _display(meter: _Meter) -> AbstractContextManager[Update]:
    """The display that fits where this process runs."""
    if not _wanted():
        return nullcontext(lambda: None)
    console = Console(stderr=True)
    if console.is_jupyter:
        return _in_notebook(meter)
    return _bar(meter, console) if console.is_terminal else _plain_lines(meter)


@contextmanager
def _plain_lines(meter: _Meter) -> Iterator[Update]:
    """A message at once, every 15 seconds, and at the end."""

    def update() -> None:
        if meter.done >= meter.total:
            say(meter.line())

    say(f"{meter.label}: {meter.done}/{meter.total}")
    with _ticking(PLAIN_LINE_EVERY, lambda: say(meter.line())):
        yield update


@contextmanager
def _bar(meter: _Meter, console: Console) -> Iterator[Update]:
    """A bar in a terminal."""
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(), _Pace(meter))
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=console) as bar:
        task = bar.add_task(meter.label, total=meter.total, completed=meter.done)
        yield lambda: bar.update(task, completed=meter.done)


class _Pace(ProgressColumn):
    """Speed, time left and note."""

    max_refresh = 1.0  # seconds

    def __init__(self, meter: _Meter) -> None:
        self._meter = meter
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """See `_Meter.pace`."""
        return Text(", ".join(part for part in (self._meter.pace(), visible(self._meter.note)) if part))


@contextmanager
def _in_notebook(meter: _Meter) -> Iterator[Update]:
    """A bar below the cell. Plain HTML: it needs no widgets, and stays in the saved notebook."""
    from IPython.display import display

    def content() -> dict[str, str]:
        line = meter.line()
        bar = f'<progress value="{meter.done}" max="{meter.total}"></progress> {html.escape(line)}'
        return {"text/plain": line, "text/html": bar}

    shown = display(content(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
    with _ticking(NOTEBOOK_EVERY, lambda: shown.update(content(), raw=True)):
        yield lambda: shown.update(content(), raw=True)


@contextmanager
def _ticking(seconds: float, call: Callable[[], None], every: float | None = None) -> Iterator[None]:
    """Call a function from a thread: after some seconds, then every so many; the same by default."""
    stopped = threading.Event()

    def run() -> None:
        wait = seconds
        with suppress(OSError):  # nobody reads stderr any more
            while not stopped.wait(wait):
                call()
                wait = every or seconds

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
