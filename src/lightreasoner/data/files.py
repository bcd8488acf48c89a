"""Read the rows of local files and folders, in the formats of the `datasets` library.

Files are streamed by readers of our own, because messages name the line. The library finds the files of a split in a
folder, and reads what `save_to_disk` wrote. Nothing is copied to a cache, and no name of a path is sent to the Hub.
"""

import csv
import difflib
import io
import json
import lzma
import os
import re
import tempfile
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightreasoner.data.lines import Row, checked_row, rows_of
from lightreasoner.errors import DataError
from lightreasoner.runs.progress import say

FORMATS = "JSON Lines, JSON, CSV, TSV, Parquet, Arrow or text, the former also compressed"
ROWS_AT_ONCE = 64  # of a Parquet file; a row of log-probabilities can take megabytes
# First bytes of compressed files. xz is read by Python, the others by pyarrow.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
XZ = b"\xfd7zXZ\x00"
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".zst", ".lz4", ".xz")
# Endings that no data set on the Hub has: a name with one is a path, even if there is no such file.
OTHER_SUFFIXES = ".zip .tar .tgz .7z .xlsx .xls .ods .xml .yaml .yml .md .pkl .pickle .db .sqlite .h5 .npy .npz .pt"


def is_path(name: str) -> bool:
    """Whether a name means a file or folder: it exists, or is written like a path or a data file."""
    expanded = os.path.expanduser(name)
    if os.path.lexists(expanded):
        return True
    written = name.startswith((".", "~", "/", os.sep)) or name.count("/") > 1 or "\\" in name
    return written or Path(name).suffix.lower() in {*READERS, *COMPRESSED_SUFFIXES, *OTHER_SUFFIXES.split()}


def stem_of(path: Path) -> str:
    """Name of a file without its endings: `my` for my.jsonl.gz."""
    name = path.name
    while (suffix := Path(name).suffix.lower()) in {*READERS, *COMPRESSED_SUFFIXES}:
        name = name[: -len(suffix)]
    return name


def read_path(path: Path, split: str) -> Iterator[Row]:
    """Read the rows of a file, or of a split of a folder."""
    path = Path(os.path.expanduser(path))
    return _read_folder(path, split) if path.is_dir() else read_file(path)


def read_file(path: Path) -> Iterator[Row]:
    """Read the rows of a file.

    Raises:
        DataError: no such file, no known format, or a damaged part; names the line or row.
    """
    if not path.is_file():
        raise DataError(_missing(path))
    with path.open("rb") as file:
        start = file.read(6)
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED_SUFFIXES]
    suffix = suffixes[-1] if suffixes else ""
    if start.startswith(b"PAR1"):
        suffix = ".parquet"
    elif start == b"ARROW1":
        suffix = ".arrow"
    elif suffix not in READERS:
        first = next((line for line in _lines(path) if line.strip()), b"")
        if first.removeprefix(BOM_UTF8).lstrip()[:1] not in (b"[", b"{"):
            raise DataError(
                f"{path}: the name does not end in {', '.join(READERS)}, and the content is not JSON. Rows are read "
                f"from {FORMATS}; convert or rename the file"
            )
        suffix = ".jsonl"
    return READERS[suffix](path)


def split_file(folder: Path, split: str) -> Path:
    """The file of a split in a folder: SPLIT.jsonl, or the split in another format if only that exists."""
    names = (folder / f"{split}{suffix}{packed}" for packed in ("", *COMPRESSED_SUFFIXES) for suffix in READERS)
    return next((name for name in names if name.is_file()), folder / f"{split}.jsonl")


def _missing(path: Path) -> str:
    """Why there is no such file, and the name that may be meant."""
    if path.is_symlink() and not path.exists():
        return f"no file {path}: it is a link to {os.readlink(path)}, which does not exist. Check the link"
    if path.is_dir():
        return f"{path} is a folder, and one file is needed. Give a file in it"
    if path.exists():
        return f"{path} is not a regular file, and rows are read more than once. Save them in a file"
    there = os.listdir(path.parent) if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, there, n=1)
    return f"no file {path}; " + (f"did you mean {path.with_name(close[0])}?" if close else "check the path")


# --- Files ---


def _opened(path: Path) -> IO[bytes]:
    """The content of a file, decompressed."""
    with path.open("rb") as file:
        start = file.read(6)
    if start == XZ:
        return lzma.open(path)
    compression = next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), None)
    if compression is None:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, without blank lines at its end."""
    blank: list[bytes] = []
    number = 0
    try:
        with _opened(path) as file:
            for line in file:
                number += 1
                if line.isspace():
                    blank.append(line)
                    continue
                yield from blank
                blank = []
                yield line
    except (OSError, EOFError, lzma.LZMAError, pa.ArrowException) as error:
        if isinstance(error, PermissionError):
            raise
        raise DataError(f"{path}: damaged after line {number} ({error}). Restore the file") from None


def _read_json(path: Path) -> Iterator[Row]:
    """Read JSON Lines, or one list of objects, whatever the name of the file."""
    lines = _lines(path)
    head: list[bytes] = []
    while not head or head[-1].isspace():
        if (line := next(lines, None)) is None:
            return iter(())
        head.append(line)
    start = head[-1].removeprefix(BOM_UTF8).strip()
    is_utf16 = head[0].startswith((BOM_UTF16_LE, BOM_UTF16_BE))  # which cannot be cut into lines of bytes
    is_document = start[:1] == b"[" or start == b"{" or (is_utf16 and path.suffix == ".json")
    return (_rows_of_document if is_document else rows_of)(str(path), chain(head, lines))


def _rows_of_document(path: str, lines: Iterable[bytes]) -> Iterator[Row]:
    """The rows of a file that is one JSON value."""
    try:
        rows = json.loads(b"".join(lines))
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}, line {line}: not JSON in UTF-8 ({error}). Mend the file") from None
    if not isinstance(rows, list):
        found = f"one object with {', '.join(rows)}" if isinstance(rows, dict) else f"a {type(rows).__name__}"
        raise DataError(f"{path}: holds {found}; give one list of objects, or one object in each line")
    for number, fields in enumerate(rows, 1):
        yield checked_row(f"{path}, item {number}", _text_row(fields) if isinstance(fields, str) else fields)


def _read_csv(path: Path) -> Iterator[Row]:
    """Read a file with a header line. Its separator is a comma; a tab or semicolon if the header has no comma."""
    csv.field_size_limit(1 << 30)  # the default is too short for long chats
    lines = _text_lines(path)
    head = next(lines, "").removeprefix("\ufeff")
    bare = re.sub(r'"[^"]*"', "", head)
    separator = next((mark for mark in ",\t;" if mark in bare), ",")
    if path.name.lower().removesuffix(path.suffix).endswith(".tsv") or path.suffix.lower() == ".tsv":
        separator = "\t"
    reader = csv.reader(chain([head], lines), delimiter=separator, strict=True, skipinitialspace=True)
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where = f"{path}, line {line}"
            line = reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                if doubled := {name for name in header if name and header.count(name) > 1}:
                    raise DataError(f"{where}: the header names {', '.join(sorted(doubled))} twice. Rename a column")
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where}: {len(cells)} cells, and the header has {len(header)}. Put quotation marks around texts "
                    "with a separator in them"
                )
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: not CSV ({error}). Mend the row") from None


def _text_lines(path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        try:
            yield line.decode()
        except UnicodeDecodeError:
            raise DataError(f"{path}, line {number}: not UTF-8. Save the file as UTF-8") from None


def _read_text(path: Path) -> Iterator[Row]:
    """Read a text with one question in each line, like the `text` format of `datasets`; or JSON Lines."""
    first = next((line for line in _text_lines(path) if line.strip()), "").removeprefix("\ufeff").strip()
    with suppress(ValueError, RecursionError):
        if first.startswith("{") and isinstance(json.loads(first), dict):
            yield from _read_json(path)
            return
    for number, line in enumerate(_text_lines(path), 1):
        if line.strip():
            yield f"{path}, line {number}", _text_row(line.removeprefix("\ufeff").strip())


def _text_row(text: str) -> dict[str, str]:
    return {"question": text, "text": text}  # `datasets` calls it text


def _read_parquet(path: Path) -> Iterator[Row]:
    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROWS_AT_ONCE)

    return _rows_of_batches(str(path), batches())


def _read_arrow(path: Path) -> Iterator[Row]:
    """Read a file of the Arrow IPC format, with or without a footer."""

    def batches() -> Iterator[pa.RecordBatch]:
        with pa.memory_map(str(path)) as file:
            if file.read(6) == b"ARROW1":
                reader = pa.ipc.open_file(file)
                yield from map(reader.get_batch, range(reader.num_record_batches))
            else:
                file.seek(0)
                yield from pa.ipc.open_stream(file)

    return _rows_of_batches(str(path), batches())


def _rows_of_batches(name: str, batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    number = 0
    try:
        for batch in batches:
            batch.validate(full=True)  # damaged offsets would crash the process
            if doubled := {column for column in batch.schema.names if batch.schema.names.count(column) > 1}:
                raise DataError(f"{name}: several columns are called {', '.join(sorted(doubled))}; rename all but one")
            for fields in _with_decimal_floats(batch).to_pylist():
                number += 1
                yield f"{name}, row {number}", fields
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{name}: damaged after row {number} ({error})") from None


def _with_decimal_floats(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with 16- and 32-bit numbers as they print: 0.1, not 0.10000000149."""
    has_short = any("float" in str(field.type) for field in batch.schema)  # also within structs and lists
    if not has_short or len(set(batch.schema.names)) < len(batch.schema.names):
        return batch
    return pa.RecordBatch.from_pydict({name: _decimal_floats(batch.column(name)) for name in batch.schema.names})


def _decimal_floats(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_float16(kind):
        printed = [None if one is None else str(np.float16(one)) for one in column.to_pylist()]
        return pa.array(printed, pa.string()).cast(pa.float64())
    if pa.types.is_float32(kind):
        return column.cast(pa.string()).cast(pa.float64())
    if pa.types.is_struct(kind) and kind.num_fields:
        names = [kind.field(index).name for index in range(kind.num_fields)]
        parts = [_decimal_floats(part) for part in column.flatten()]
        return pa.StructArray.from_arrays(parts, names, mask=column.is_null())
    if pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind) or (pa.types.is_list(kind) and column.offset):
        # Taking all rows copies them, so that offsets begin at 0.
        return _decimal_floats(column.cast(pa.list_(kind.value_type)).take(pa.array(range(len(column)), pa.int64())))
    if pa.types.is_list(kind):
        mask = column.is_null() if column.null_count else None
        return pa.ListArray.from_arrays(column.offsets, _decimal_floats(column.values), mask=mask)
    return column


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _read_json,
    ".json": _read_json,
    ".ndjson": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".txt": _read_text,
}


# --- Folders ---


def _read_folder(folder: Path, split: str) -> Iterator[Row]:
    """Read a split of a folder: one of `Dataset.save_to_disk`, or one of files as `datasets` finds them."""
    import datasets  # imports slowly, and most commands need no folder

    try:
        if (folder / "dataset_dict.json").is_file():
            names = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
            folder /= _chosen(folder, names, split)
        if (folder / "state.json").is_file():
            stored = datasets.load_from_disk(str(folder)).with_format("arrow")
            tables = (batch for table in stored.iter(batch_size=1000) for batch in table.to_batches())
            return _rows_of_batches(str(folder), tables)
        with tempfile.TemporaryDirectory() as cache:  # the library makes a lock file there
            found = datasets.load_dataset_builder(str(folder), cache_dir=cache).config.data_files
    except (OSError, ValueError, KeyError, RuntimeError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: no data in this folder ({' '.join(str(error).split())}). Give a file, or a folder with files "
            f"of the formats {FORMATS}"
        ) from None
    name = _chosen(folder, list(map(str, found)), split)
    files = found[name]
    read = {Path(file).resolve() for file in files}
    others = sorted(
        path.name
        for path in folder.rglob("*")
        if path.suffix.lower() in {*READERS, *COMPRESSED_SUFFIXES} and path.is_file() and path.resolve() not in read
    )
    left = f"; not read: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}" if others else ""
    say(f"{folder}: split {name} of {len(files)} files, {Path(files[0]).name} first{left}")
    return chain.from_iterable(read_file(Path(file)) for file in files)


def _chosen(folder: Path, names: Sequence[str], split: str) -> str:
    """The split to read: that of this name, for `test` else `validation`, or the only one."""
    wanted = [split, "validation"] if split == "test" else [split]
    name = next((name for name in wanted if name in names), names[0] if len(names) == 1 else None)
    if name is None:
        raise DataError(f"{folder} has no split {split}, but {', '.join(names)}. Give the file or folder of one split")
    if name != split and len(names) > 1:
        say(f"{folder}: no split {split}, so {name} is read")
    return name
