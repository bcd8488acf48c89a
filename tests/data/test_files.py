"""Local files and folders as data sets: every format gives the same rows, and a fault is named with file and line."""

import bz2
import csv
import gzip
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightreasoner.data.files import is_path, read_path, stem_of
from lightreasoner.data.problems import load_problems, read_dataset
from lightreasoner.errors import DataError

from .test_problems import questions_of, refusal

ROWS = [{"question": "One, two?", "answer": "3"}, {"question": 'Say "é"\nnow?', "answer": "5.0"}]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that goes to the Hub fails the test."""

    def refuse(name: str, *_: object) -> None:
        raise AssertionError(f"{name} was looked up on the Hub")

    monkeypatch.setattr("lightreasoner.data.problems.read_hub", refuse)


# --- Formats ---


def as_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def as_list(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=2))


def as_csv(path: Path, separator: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=separator)
        writer.writeheader()
        writer.writerows(ROWS)


def as_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def as_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


FORMATS: list[tuple[str, Callable[[Path], None]]] = [
    ("rows.jsonl", as_lines),
    ("rows.json", as_lines),
    ("rows.ndjson", as_lines),
    ("ROWS.JSONL", as_lines),
    ("rows", as_lines),
    ("rows.json", as_list),
    ("rows.jsonl", as_list),
    ("rows.data", as_list),
    ("rows.csv", as_csv),
    ("rows.csv", lambda path: as_csv(path, ";")),
    ("rows.csv", lambda path: as_csv(path, "\t")),
    ("rows.csv", lambda path: as_csv(path, encoding="utf-8-sig")),
    ("rows.tsv", lambda path: as_csv(path, "\t")),
    ("rows.parquet", lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path)),
    ("rows", lambda path: pq.write_table(pa.Table.from_pylist(ROWS), path)),
    ("rows.arrow", as_arrow_stream),
    ("rows.arrow", as_arrow_file),
]


@pytest.mark.parametrize(("name", "write"), FORMATS)
def test_every_format_gives_the_same_questions_and_answers(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path / name)
    assert [dict(fields) for _, fields in read_path(tmp_path / name, "train")] == ROWS
    assert questions_of(tmp_path / name) == ["One, two?", 'Say "é"\nnow?']


def zstd(content: bytes) -> bytes:
    return pa.Codec("zstd").compress(content, asbytes=True)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)]
)
@pytest.mark.parametrize(("name", "write"), [("rows.jsonl", as_lines), ("rows.json", as_list), ("rows.csv", as_csv)])
def test_compressed_files_are_read(
    name: str, write: Callable[[Path], None], suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    write(tmp_path / name)
    packed = tmp_path / f"{name}{suffix}"
    packed.write_bytes(compress((tmp_path / name).read_bytes()))
    assert questions_of(packed) == questions_of(tmp_path / name)
    assert stem_of(packed) == "rows"


def test_several_gzip_members_are_read_to_the_end(tmp_path: Path) -> None:
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"question": "1?"}\n') + gzip.compress(b'{"question": "2?"}\n'))
    assert questions_of(packed) == ["1?", "2?"]


def test_a_text_file_holds_a_question_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("One?\n\nTwo?\r\n")
    (tmp_path / "rows.json").write_text('["One?", "Two?"]')
    assert questions_of(tmp_path / "rows.txt") == questions_of(tmp_path / "rows.json") == ["One?", "Two?"]
    assert questions_of(tmp_path / "rows.txt", question_field="text") == ["One?", "Two?"]


def test_json_lines_in_a_text_file_are_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text('{"question": "One?", "answer": "1"}\n{"question": "Two?", "answer": "2"}\n')
    assert questions_of(tmp_path / "rows.txt") == ["One?", "Two?"]
    (tmp_path / "braces.txt").write_text("{1, 2} has how many elements?\n")
    assert questions_of(tmp_path / "braces.txt") == ["{1, 2} has how many elements?"]


def test_blank_lines_at_the_end_of_json_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "One?"}\n\n  \n')
    assert questions_of(tmp_path / "rows.jsonl") == ["One?"]


def test_short_floats_keep_their_decimal_form(tmp_path: Path) -> None:
    answers = pa.array([0.1, None, 2.5], pa.float32())
    pq.write_table(pa.table({"answer": answers, "half": answers.cast(pa.float16())}), tmp_path / "rows.parquet")
    rows = [fields["answer"] for _, fields in read_path(tmp_path / "rows.parquet", "train")]
    assert rows == [0.1, None, 2.5]


def test_short_floats_in_nested_columns_keep_their_decimal_form(tmp_path: Path) -> None:
    nested = [{"truth": 0.1, "kind": "a"}, None, {"truth": 2.7, "kind": None}]
    several = [[0.1], None, [0.2, 0.3]]
    kind = pa.struct([("truth", pa.float32()), ("kind", pa.string())])
    columns = {"nested": pa.array(nested, kind), "several": pa.array(several, pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    rows = [fields for _, fields in read_path(tmp_path / "rows.parquet", "train")]
    assert rows == [{"nested": one, "several": other} for one, other in zip(nested, several, strict=True)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"question,answer\nOne?,1\nHow many, and why?,2\n", "line 3: 3 cells, and the header has 2"),
        ("rows.csv", b"question,answer\nOne?,1\n\nTwo?\n", "line 4: 1 cells, and the header has 2"),
        ("rows.csv", b'question,answer\n"a\nb",1\n"open,2\n', "line 4: not CSV"),
        ("rows.csv", b"question,answer\nOne?,1\ncaf\xe9?,2\n", "line 3: not UTF-8"),
        ("rows.csv", b"question,question\nOne?,1\n", "line 1: the header names question twice"),
        ("rows.csv", b"question,answer\n,1\n", "line 2: question is '', not a text"),
        ("rows.tsv", b"frage\tanswer\nOne?\t1\n", "line 2: no field question"),
        ("rows.csv", b"", "holds no problem"),
        ("rows.csv", b"question,answer\n", "holds no problem"),
        ("rows.json", b'{\n  "data": []\n}\n', "holds one object with data"),
        ("rows.json", b'[{"question": "One?"},\n {"question": ]\n', "line 2: not JSON"),
        ("rows.xlsx", b"PK\x03\x04", "the name does not end in .jsonl, "),
        ("rows", b"One?\n", "the name does not end in .jsonl, "),
        ("rows.jsonl.gz", gzip.compress(mtime=0, data=b'{"question": "One?"}\n' * 9)[:25], "damaged after line"),
        ("rows.csv.xz", lzma.compress(b"question\nOne?\n" * 9)[:40], "damaged after line"),
        ("rows.arrow", b"ARROW1 not really", "damaged after row 0"),
    ],
)
def test_a_fault_is_named_with_file_and_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = refusal(tmp_path / name)
    assert message in found
    assert name in found or "holds no problem" in found


# --- Folders ---


def test_the_files_of_a_folder_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "part-1.jsonl").write_text('{"question": "2?"}\n')
    (tmp_path / "part-0.jsonl").write_text('{"question": "1?"}\n')
    (tmp_path / "README.md").write_text("A data set.")
    assert questions_of(tmp_path) == ["1?", "2?"]
    assert [row[0] for row in read_path(tmp_path, "test")] == [f"{tmp_path}/part-{n}.jsonl, line 1" for n in (0, 1)]


def test_the_splits_of_a_folder_of_files_are_those_of_the_library(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        pq.write_table(pa.table({"question": [f"{split}?"]}), tmp_path / split / "rows.parquet")
    assert questions_of(tmp_path) == ["train?"]
    assert questions_of(tmp_path, split="test") == ["test?"]


def test_folders_of_save_to_disk_are_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    data = {name: Dataset.from_list([{"question": f"{name}?"}]) for name in ("train", "validation")}
    data["train"].save_to_disk(str(tmp_path / "one"))
    DatasetDict(data).save_to_disk(str(tmp_path / "dict"))
    assert questions_of(tmp_path / "one") == questions_of(tmp_path / "dict") == ["train?"]
    assert questions_of(tmp_path / "dict", split="test") == questions_of(tmp_path / "dict" / "validation")
    assert questions_of(tmp_path / "dict" / "validation") == ["validation?"]
    assert [where for where, _ in read_path(tmp_path / "dict", "train")] == [f"{tmp_path}/dict/train, row 1"]


def test_a_folder_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    as_csv(tmp_path / "data" / "rows.csv")
    assert questions_of(tmp_path / "data") == ["One, two?", 'Say "é"\nnow?']
    assert not (tmp_path / "cache").exists()


def test_a_folder_without_data_or_without_the_split_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}: no data in this folder" in refusal(tmp_path)
    for split in ("test", "validation"):
        (tmp_path / f"{split}.jsonl").write_text('{"question": "One?"}\n')
    assert f"{tmp_path} has no split train, but validation, test" in refusal(tmp_path)


def test_a_loading_script_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    as_csv(folder / "rows.csv")
    (folder / "rows.pkl").write_bytes(b"never read")
    assert questions_of(folder)[0] == "One, two?"
    (folder / "data.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert f"{folder}: no data in this folder (Dataset scripts are no longer supported" in refusal(folder)
    assert not (tmp_path / "ran").exists()


# --- Names ---


@pytest.mark.parametrize("form", ["absolute", "relative", "dotted", "home", "link"])
def test_a_file_that_exists_is_read_however_it_is_named(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    as_csv(tmp_path / "data" / "my.csv")
    (tmp_path / "data" / "link").symlink_to("my.csv")
    (tmp_path / "data" / "plain").write_text('{"question": "One, two?"}')
    names = {
        "absolute": str(tmp_path / "data/my.csv"),
        "relative": "data/my.csv",
        "dotted": "./data/my.csv",
        "home": "~/data/my.csv",
        "link": "data/plain",
    }
    assert questions_of(names[form])[0] == "One, two?"


@pytest.mark.parametrize(
    "name",
    [
        "data/mz.csv",
        "data/my.jsonl.gz",
        "data/my.xlsx",
        "./mz",
        "~/mz",
        "/mz",
        "a/b/c",
        "data/broken",
        "data/new",
        "x.tsv",
    ],
)
def test_a_misspelt_path_is_never_sent_to_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken").symlink_to("nowhere")
    message = refusal(name)
    assert message.startswith("no file")
    assert "\n" not in message


def test_a_misspelt_path_suggests_the_file_that_is_there(tmp_path: Path) -> None:
    as_csv(tmp_path / "questions.csv")
    assert f"did you mean {tmp_path / 'questions.csv'}?" in refusal(tmp_path / "qestions.csv")


def test_a_name_of_the_hub_is_still_one_beside_a_folder_of_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("lightreasoner.data.problems.read_hub", lambda *names: asked.append(names) or [])
    assert not is_path("openai/gsm8k")
    read_dataset("openai/gsm8k", "train", None)
    (tmp_path / "openai").mkdir()
    assert "write openai/gsm8k:" in refusal("openai/gsm8k")
    read_dataset("openai/gsm8k:", "train", None)
    read_dataset("gsm8k", "train", None)
    assert asked == [("openai/gsm8k", None, "train")] * 2 + [("openai/gsm8k", "main", "train")]


def test_a_split_in_a_data_folder_may_have_any_format(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    as_csv(tmp_path / "gsm8k" / "train.csv")
    assert questions_of("gsm8k", data_dir=tmp_path)[0] == "One, two?"


def test_a_changed_file_of_any_format_changes_the_fingerprint(tmp_path: Path) -> None:
    as_csv(tmp_path / "rows.csv")
    before = load_problems(str(tmp_path / "rows.csv")).fingerprint
    as_csv(tmp_path / "rows.tsv", "\t")
    assert load_problems(str(tmp_path / "rows.tsv")).fingerprint == before
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text.replace("One, two?", "One, three?"))
    assert load_problems(str(tmp_path / "rows.csv")).fingerprint != before


def test_an_arrow_file_with_damaged_offsets_is_refused_and_does_not_crash(tmp_path: Path) -> None:
    file = tmp_path / "rows.arrow"
    table = pa.table({"question": ["x" * 1234]})
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    before, offsets, after = file.read_bytes().rpartition(struct.pack("<2i", 0, 1234))
    assert offsets
    file.write_bytes(before + struct.pack("<2i", 0, 10**9) + after)
    assert "rows.arrow: damaged after row 0" in refusal(file)


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('"question, asked";answer\nOne?;5\n', {"question, asked": "One?", "answer": "5"}),
        ('question, answer\n"One, two?", "5"\n', {"question": "One, two?", "answer": "5"}),
    ],
    ids=["comma in quotation marks in the header", "space before quotation marks"],
)
def test_csv_with_quotation_marks_in_unusual_places(content: str, row: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(content)
    assert [fields for _, fields in read_path(tmp_path / "rows.csv", "test")] == [row]


# --- What would be left out in silence ---


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "doubled.parquet"
    table = pa.Table.from_arrays([pa.array(["One?"]), pa.array(["Two?"])], names=["question", "question"])
    pq.write_table(table, path)
    with pytest.raises(DataError, match="several columns are called question; rename all but one"):
        list(read_path(path, "train"))


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        as_lines(tmp_path / name)
    as_csv(tmp_path / "c.csv")
    with caplog.at_level("INFO"):
        rows = list(read_path(tmp_path, "train"))
    (line,) = (message for message in caplog.messages if "split train of" in message)
    assert len(rows) == 2 * len(ROWS)
    assert line.endswith("; not read: c.csv")
    (tmp_path / "c.csv").unlink()
    caplog.clear()
    with caplog.at_level("INFO"):
        list(read_path(tmp_path, "train"))
    assert not any("not read" in message for message in caplog.messages)
