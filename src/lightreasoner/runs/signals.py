"""Stop requests: a signal is noted, and the stage leaves at its next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightreasoner.errors import (
    STOP_SIGNALS,
    Interrupted,
)

PATIENCE = 15.0  # seconds that a batch may take to end after such a signal; then it is given up


class StopRequest:
    """Notes a signal so that a stage can leave at its next safe point. Made by `stop_signals`."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def check(self) -> None:
        """Leave if a signal has come.

        Raises:
            Interrupted: carries the exit code 128 + signal number.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: the first signal is noted; a second one stops at once, and so does `PATIENCE`."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)
        self.signal_number = number
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within this context `STOP_SIGNALS` are noted instead of killing; only the main thread can do so."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    noted = (*STOP_SIGNALS, signal.SIGALRM) if hasattr(signal, "setitimer") else STOP_SIGNALS
    previous = {number: signal.signal(number, request.note) for number in noted}
    try:
        yield request
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
