"""Text files of samples, also inside a .zip, within limits on what an archive may do."""

import hashlib
import stat
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from lightreasoner.errors import SampleFormatError
from lightreasoner.runs.files import file_hash

SUFFIXES = (".jsonl", ".json", ".txt")  # or a .zip with one of them

# Limits on archives
LARGEST = 8 << 30  # bytes unpacked
LARGEST_RATIO = 200  # of unpacked to packed; sample files, which repeat themselves, come to some 30
RATIO_FROM = 16 << 20  # bytes; a smaller file does no harm whatever its ratio
MOST_MEMBERS = 1000
CHUNK = 1 << 20


class TextFile(NamedTuple):
    """A text file, in a folder or in an archive."""

    name: str
    open: Callable[[], IO[bytes]]
    size: int
    sha256: str


def open_text(file: Path) -> TextFile:
    """A text file in a folder."""
    return TextFile(str(file), lambda: file.open("rb"), file.stat().st_size, file_hash(file))


def open_archive(file: Path, member: str | None) -> TextFile:
    """The samples in a .zip. Reads them once, since the archive's own figures can be false."""
    size, digest = 0, hashlib.sha256()
    try:
        with zipfile.ZipFile(file) as archive:
            chosen = _chosen(file, archive.infolist(), member)
            with archive.open(chosen) as text:
                while chunk := text.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    if size > LARGEST or (size > RATIO_FROM and size > LARGEST_RATIO * chosen.compress_size):
                        raise SampleFormatError(
                            f"{file}: {chosen.filename} has {chosen.compress_size} bytes and unpacks to {size} or "
                            f"more; at most {LARGEST_RATIO} times its size and {LARGEST} bytes are unpacked. Unpack "
                            "it yourself if you trust it"
                        )
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:  # zipfile's
        raise SampleFormatError(f"{file} is no sound .zip file ({error}). Fetch it again") from None
    return TextFile(f"{file}: {chosen.filename}", lambda: zipfile.ZipFile(file).open(chosen), size, digest.hexdigest())


def _chosen(file: Path, members: Sequence[zipfile.ZipInfo], name: str | None) -> zipfile.ZipInfo:
    """The member to read. One hostile member is enough to refuse the whole archive."""
    if len(members) > MOST_MEMBERS:
        raise SampleFormatError(f"{file} holds {len(members)} files, more than {MOST_MEMBERS}. It is not used")
    candidates = []
    for member in members:
        path, original = PurePosixPath(member.filename), member.orig_filename.replace("\\", "/")
        reason = None
        if original.startswith("/") or ":" in original or "\0" in original or ".." in PurePosixPath(original).parts:
            reason = "leads out of the folder that it is unpacked in"
        elif stat.S_ISLNK(member.external_attr >> 16):
            reason = "is a link"
        elif member.flag_bits & 1:
            reason = "is locked with a password"
        if reason:
            raise SampleFormatError(f"{file}: its file {original[:80]!r} {reason}. The archive is not used")
        is_text = path.suffix.lower() in SUFFIXES and "__MACOSX" not in path.parts and not member.is_dir()
        if is_text and name in (None, member.filename):
            candidates.append(member)
    if len(candidates) != 1:
        listed = ", ".join(sorted({member.filename for member in members if not member.is_dir()})[:10]) or "none"
        wanted = f"no file {name!r}" if name else f"{len(candidates)} files that end in {', '.join(SUFFIXES)}"
        raise SampleFormatError(f"{file}: {wanted} among {listed}. Say which one with --member")
    return candidates[0]
