"""Stop requests: a signal is recorded, and the stage stops at its next safe point."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lightreasoner.errors import STOP_SIGNALS, Interrupted

PATIENCE = 15.0  # seconds for the current batch to end after a signal, before it is aborted


class StopRequest:
    """Records a signal, so a stage can stop at its next safe point; created by `stop_signals`."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def check(self) -> None:
        """Stop if a signal was received.

        Raises:
            Interrupted: carries the exit code 128 + signal number.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: records the first signal; a second signal, or the end of `PATIENCE`, stops immediately."""
        if self.signal_number is not None:
            raise Interrupted(self.signal_number)
        self.signal_number = number
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within this context, `STOP_SIGNALS` are recorded and do not kill the process; main thread only.

    Raises:
        Interrupted: at the end of the context, if a signal was recorded that nobody has checked.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handled = (*STOP_SIGNALS, signal.SIGALRM) if hasattr(signal, "setitimer") else STOP_SIGNALS
    previous = {number: signal.signal(number, request.note) for number in handled}
    try:
        yield request
    finally:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)
    request.check()  # a signal during the last batch stops what would come next
