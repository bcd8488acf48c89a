"""Crash-safe files: written under a temporary name, flushed, and renamed."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightreasoner.errors import DiskFull, LightReasonerError
from lightreasoner.runs.faults import fault_point


def write_atomically(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is complete or absent, also after a power failure."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming_full_disk(path, len(content), temporary), temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _flush_folder(path.parent)


@contextmanager
def new_folder(final: Path, needed: int) -> Iterator[Path]:
    """Write a folder that gets its name only once it is whole; an error leaves nothing behind.

    Args:
        final: path of the folder, which must not exist. The caller holds a lock against other writers.
        needed: bytes to be written.

    Yields:
        A temporary folder beside `final` to write into.

    Raises:
        DiskFull: names the bytes needed and free.
    """
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that died
    with naming_full_disk(final, needed, temporary):
        temporary.mkdir()
        yield temporary
        fault_point("in-folder")
        publish_folder(temporary, final)


def publish_folder(temporary: Path, final: Path) -> None:
    """Flush a complete folder to disk, and rename it atomically."""
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    fault_point("before-name")
    temporary.replace(final)
    _flush_folder(final.parent)


@contextmanager
def naming_full_disk(path: Path, needed: int, *leftovers: Path) -> Iterator[None]:
    """Within this context, any error of a library on a full disk becomes `DiskFull`.

    Args:
        path: file or folder that is being written, for the message.
        needed: its size in bytes.
        leftovers: files or folders to remove after an error.

    Raises:
        DiskFull: names the bytes needed and free.
    """
    try:
        yield
    except Exception as error:
        free = shutil.disk_usage(nearest_folder(path)).free
        written = sum(
            file.stat().st_size for folder in leftovers for file in (folder, *folder.rglob("*")) if file.is_file()
        )
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
        # Libraries in C++ and Rust give the cause as text only, or not at all.
        named = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if isinstance(error, LightReasonerError) or not (named or written + free < needed):
            raise
        raise DiskFull(
            f"the disk is full: {path} needs {needed} bytes, and {free} bytes are free there. Committed work is "
            "intact. Free some space and run the same command to continue"
        ) from None


def write_json(path: Path, content: Any) -> None:
    """`write_atomically` for indented JSON."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def nearest_folder(path: Path) -> Path:
    """The path itself, or its nearest parent folder that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
