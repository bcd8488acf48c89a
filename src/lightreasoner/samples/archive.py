"""The one text file that is wanted of a .zip from anywhere, unpacked within limits and under a name of our own."""

import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lightreasoner.errors import SampleFormatError
from lightreasoner.runs.files import naming_full_disk

LARGEST = 8 << 30  # bytes unpacked
LARGEST_RATIO = 200  # of unpacked to packed; sample files, which repeat themselves, come to some 30
RATIO_FROM = 16 << 20  # bytes; what stays below does no harm whatever its ratio
MOST_MEMBERS = 1000
CHUNK = 1 << 20


@contextmanager
def unpacked(archive: Path, member: str | None, suffixes: Sequence[str], target: Path) -> Iterator[tuple[Path, str]]:
    """Within this context `target` is the wanted file of the archive; gives it and a name for messages.

    Args:
        archive: .zip file.
        member: name of the wanted file; None takes the only one that ends like a sample file.
        suffixes: how sample files end.
        target: file to write.

    Raises:
        SampleFormatError: it is no sound .zip, has names that lead elsewhere, links, locked or too many files, or
            unpacks to more than it may; or it is not clear which file is meant.
    """
    try:
        yield target, f"{archive}: {_take_out(archive, member, suffixes, target)}"
    finally:
        target.unlink(missing_ok=True)


def _take_out(archive: Path, member: str | None, suffixes: Sequence[str], target: Path) -> str:
    try:
        with zipfile.ZipFile(archive) as file:
            _check_members(archive, file.infolist())
            chosen = _choose(archive, file.infolist(), member, suffixes)
            _unpack(archive, file, chosen, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError) as error:  # zipfile's
        raise SampleFormatError(f"{archive} is no sound .zip file ({error}). Fetch it again") from None
    return chosen.filename


def _check_members(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse the whole archive for one hostile member, though only one file is taken and none under its own name."""
    if len(members) > MOST_MEMBERS:
        raise SampleFormatError(f"{archive} holds {len(members)} files, more than {MOST_MEMBERS}. It is not used")
    for member in members:
        name = member.orig_filename.replace("\\", "/")
        reason = None
        if name.startswith("/") or ":" in name or "\0" in name or ".." in PurePosixPath(name).parts:
            reason = "leads out of the folder that it is unpacked in"
        elif stat.S_ISLNK(member.external_attr >> 16):
            reason = "is a link"
        elif member.flag_bits & 1:
            reason = "is locked with a password"
        if reason:
            raise SampleFormatError(f"{archive}: its file {name[:80]!r} {reason}. The archive is not used")


def _choose(
    archive: Path, members: Sequence[zipfile.ZipInfo], name: str | None, suffixes: Sequence[str]
) -> zipfile.ZipInfo:
    paths = {info.filename: PurePosixPath(info.filename) for info in members if not info.is_dir()}
    candidates = [
        info
        for info in members
        if (path := paths.get(info.filename))
        and path.suffix.lower() in suffixes
        and "__MACOSX" not in path.parts
        and (name is None or info.filename == name)
    ]
    if len(candidates) != 1:
        listed = ", ".join(sorted(paths)[:10]) or "none"
        wanted = f"no file {name!r}" if name else f"{len(candidates)} files that end in {', '.join(suffixes)}"
        raise SampleFormatError(f"{archive}: {wanted} among {listed}. Say which one with --member")
    return candidates[0]


def _unpack(archive: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Counts what really comes out; what the archive says of itself can be a lie."""
    size = 0
    with naming_full_disk(target, member.file_size), file.open(member) as packed, target.open("xb") as unpacked_file:
        while chunk := packed.read(CHUNK):
            size += len(chunk)
            if size > LARGEST or (size > RATIO_FROM and size > LARGEST_RATIO * member.compress_size):
                raise SampleFormatError(
                    f"{archive}: {member.filename} has {member.compress_size} bytes and unpacks to {size} or more; at "
                    f"most {LARGEST_RATIO} times its size and {LARGEST} bytes are unpacked. Unpack it yourself if you "
                    "trust it"
                )
            unpacked_file.write(chunk)
