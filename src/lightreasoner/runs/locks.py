"""Lock a run folder to one process, and the models of a process to one thread."""

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from filelock import FileLock, Timeout

from lightreasoner.errors import RunError, RunLocked

LOCK, HOLDER = ".lock", ".holder"

P = ParamSpec("P")
R = TypeVar("R")
_MODELS = threading.RLock()


def one_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Let one thread at a time call such functions; the others wait.

    Loading a model, the attention that its layers use, and accelerate's state belong to the whole process.
    """

    @wraps(function)
    def locked_function(*args: P.args, **kwargs: P.kwargs) -> R:
        with _MODELS:
            return function(*args, **kwargs)

    return locked_function


def refuse_if_held(folder: Path) -> None:
    """Check early whether another process holds the folder, before slow work; `locked` checks again.

    Raises:
        RunLocked: another process holds it.
    """
    if (folder / LOCK).exists():
        _acquire(folder, timeout=0.1).release()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the folder to this process, which may nest locks. The system releases the lock when the process ends.

    Raises:
        RunLocked: another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot make the run folder {folder}: {error.strerror}. Give another folder with --out"
        ) from None
    lock = _acquire(folder, timeout=0.5)
    try:
        (folder / HOLDER).write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        lock.release()


def _acquire(folder: Path, timeout: float) -> FileLock:
    lock = FileLock(folder / LOCK, is_singleton=True)
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        holder = folder / HOLDER
        who = holder.read_text().strip() if holder.exists() else "unknown process"
        raise RunLocked(
            f"{folder} is in use by {who}; two processes would overwrite each other's work. "
            "Wait for it, stop it, or give another folder with --out"
        ) from None
    return lock
