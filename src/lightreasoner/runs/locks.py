"""Lock a run folder to one process."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightreasoner.errors import RunError, RunLocked

LOCK, HOLDER = ".lock", ".holder"


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
