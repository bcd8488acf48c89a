"""Progress on stderr: a bar with ETA in a terminal, a plain line every 15 seconds elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightreasoner.runs.terminal import visible

PLAIN_LINE_EVERY = 15.0  # seconds

_tokens = 0


class Advance(Protocol):
    """Advances the progress, with an optional note such as a count."""

    def __call__(self, steps: int, note: str = "") -> None:
        """Count `steps` more units as done."""
        ...


def say(line: str) -> None:
    """Print one line to stderr."""
    print(visible(line), file=sys.stderr, flush=True)


@cache
def say_once(line: str) -> None:
    """Print a line to stderr, unless this process has printed it before."""
    say(line)


def count_tokens(count: int) -> None:
    """Count tokens that a model has just generated or read; engines call this at every step."""
    global _tokens
    _tokens += count


def tokens_counted() -> int:
    """All tokens that this process has counted so far."""
    return _tokens


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Show the progress of `total` units of work, of which `done` were finished earlier."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        ) as bar:
            task = bar.add_task(visible(label), total=total, completed=done, note="")
            yield lambda steps, note="": bar.update(task, advance=steps, note=note)
    else:
        yield _PlainLines(label, total, done)


class _PlainLines:
    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._done, self._done_before = label, total, done, done
        self._started = self._last_line = time.monotonic()

    def __call__(self, steps: int, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last_line < PLAIN_LINE_EVERY and self._done < self._total:
            return
        self._last_line = now
        elapsed = now - self._started
        remaining = elapsed / max(self._done - self._done_before, 1) * (self._total - self._done)
        say(f"{self._label}: {self._done}/{self._total}, {elapsed:.0f} s, {remaining:.0f} s to go {note}".rstrip())
