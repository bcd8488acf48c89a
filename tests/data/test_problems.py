"""Problems from files, the generator and the Hub."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightreasoner.data.benchmarks import load_benchmark
from lightreasoner.data.problems import load_problems, make_problem
from lightreasoner.errors import DataError, HubUnreachable
from lightreasoner.miniature.word_problems import word_problems
from lightreasoner.runs.progress import warn_once

ROWS = [{"question": "One?"}, {"question": "Two?"}, {"question": "One?"}, {"question": "Three?"}]


def write(path: Path, rows: list[Any]) -> Path:
    """Write rows in the format of the file's suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def questions_of(path: Path | str, **options: Any) -> list[str]:
    return [problem.question for problem in load_problems(str(path), **options).problems]


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_problems(str(path), **options)
    return str(caught.value)


formats = pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])


# --- Files ---


@formats
def test_questions_keep_file_order_and_repeats_are_dropped_and_counted(name: str, tmp_path: Path) -> None:
    problems = load_problems(str(write(tmp_path / name, ROWS)))
    assert [problem.question for problem in problems.problems] == ["One?", "Two?", "Three?"]
    assert problems.duplicates == 1


@formats
def test_a_limit_counts_distinct_questions(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, ROWS)
    assert questions_of(file, limit=2) == ["One?", "Two?"]
    assert questions_of(file, limit=3) == ["One?", "Two?", "Three?"]
    assert questions_of(file, limit=99) == ["One?", "Two?", "Three?"]


def test_rows_after_the_limit_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "One?"}\nnot JSON\n')
    assert questions_of(file, limit=1) == ["One?"]


@formats
def test_the_default_question_field_is_question_then_problem_then_prompt(name: str, tmp_path: Path) -> None:
    row = {"prompt": "the prompt", "problem": "the problem", "question": "the question"}
    assert questions_of(write(tmp_path / name, [row])) == ["the question"]
    del row["question"]
    assert questions_of(write(tmp_path / name, [row])) == ["the problem"]
    del row["problem"]
    assert questions_of(write(tmp_path / name, [row])) == ["the prompt"]


@formats
def test_a_named_field_overrides_the_default_fields(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, [{"question": "no", "text": "yes"}])
    assert questions_of(file, question_field="text") == ["yes"]


def test_space_around_a_question_does_not_change_its_id(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"question": "One?"}, {"question": "  One?\n"}])
    loaded = load_problems(str(file))
    assert loaded.duplicates == 1
    assert loaded.problems == [make_problem("One?")]
    assert loaded.problems[0].id == hashlib.sha256(b"One?").hexdigest()[:16]


def test_gold_answers_are_not_read(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"question": "One?", "answer": "#### 1"}])
    assert load_problems(str(file)).problems[0].answer is None


def test_the_fingerprint_depends_on_the_questions_and_their_order(tmp_path: Path) -> None:
    one, two, three = {"question": "1"}, {"question": "2"}, {"question": "1", "answer": "#### 1"}
    rows = [[one, two], [two, one], [one], [three, two]]
    prints = [load_problems(str(write(tmp_path / f"{n}.jsonl", r))).fingerprint for n, r in enumerate(rows)]
    assert len(set(prints[:3])) == 3
    assert prints[3] == prints[0]


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"question": "caf\xc3\xa9?"}\r\n{"question": "Two?"}')
    assert questions_of(file) == ["café?", "Two?"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not JSON", "not JSON"),
        (b'{"question": "cut', "not JSON"),
        (b'{"question": "\xff"}', "not JSON in UTF-8"),
        (b"", "empty"),
        (b"  ", "empty"),
        (b"[" * 100_000, "not JSON"),
        (b'["question"]', "a list, not a JSON object"),
        (b'"question"', "a str, not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "no field question or problem or prompt or query or messages or conversations among none"),
        (b'{"q": "Two?", "a": 1}', "or conversations among q, a"),
        (b'{"question": null}', "question is None, not a text"),
        (b'{"question": 3}', "question is 3, not a text"),
        (b'{"question": ["a"]}', "not a text"),
        (b'{"question": "  "}', "not a text"),
        (b'{"question": "half a \\ud83d sign"}', "question"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_line_and_reason(line: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"question": "One?"}\n' + line + b'\n{"question": "Three?"}\n')
    message = refusal(file)
    assert message.startswith(f"{file}, line 2: ")
    assert reason in message


@pytest.mark.parametrize(
    ("name", "rows", "where"),
    [
        ("rows.json", [{"question": "One?"}, {"q": "Two?"}], "item 2"),
        ("rows.json", [{"question": "One?"}, 3], "item 2"),
        ("rows.parquet", [{"question": "1"}, {"question": "2"}, {"question": None}], "row 3"),
    ],
)
def test_a_bad_row_of_other_formats_is_refused_with_its_file_and_position(
    name: str, rows: list[Any], where: str, tmp_path: Path
) -> None:
    file = write(tmp_path / name, rows)
    assert refusal(file).startswith(f"{file}, {where}: ")


def test_a_missing_named_field_is_refused_with_the_fields_of_the_row(tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "rows.jsonl", ROWS), question_field="text")
    assert "line 1: no field text among question" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", b"{"),
        ("rows.json", b"\xff"),
        ("rows.json", b"[" * 100_000),
        ("rows.json", b'{\n"data": [{"question": "One?"}]\n}'),
        ("rows.parquet", b""),
        ("rows.parquet", b"PAR1 not really"),
    ],
)
def test_a_file_in_another_format_than_its_suffix_is_refused_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(str(tmp_path / name))


def test_a_parquet_file_with_a_damaged_page_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": [f"Question {n}? " * 20 for n in range(500)]}), file)
    content = bytearray(file.read_bytes())
    content[60:160] = bytes(100)  # footer and schema stay sound
    file.write_bytes(bytes(content))
    assert str(file) in refusal(file)


@pytest.mark.parametrize(
    ("name", "content"),
    [("rows.jsonl", b""), ("rows.json", b"[]"), ("rows.parquet", None)],
    ids=["jsonl", "json", "pq"],
)
def test_an_empty_file_is_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        pq.write_table(pa.table({"question": pa.array([], pa.string())}), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    assert "holds no problem" in refusal(tmp_path / name)


@formats
def test_a_missing_file_is_refused_by_name(name: str, tmp_path: Path) -> None:
    assert f"no file {tmp_path / name}" in refusal(tmp_path / name)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    message = refusal("gsm9k")
    assert "no data set 'gsm9k'" in message
    assert "arithmetic, programs, programs_1, programs_2, programs_3, gsm8k" in message


def test_a_data_folder_is_read_instead_of_the_hub(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "gsm8k").mkdir(exist_ok=True)
        write(tmp_path / "gsm8k" / f"{split}.jsonl", [{"question": f"{split}?"}])
    assert questions_of("gsm8k", data_dir=tmp_path) == ["train?"]
    assert questions_of("gsm8k", data_dir=tmp_path, split="test") == ["test?"]


def test_a_missing_file_in_a_data_folder_is_refused_by_name(tmp_path: Path) -> None:
    assert str(tmp_path / "gsm8k" / "train.jsonl") in refusal("gsm8k", data_dir=tmp_path)


# --- The generator ---


def test_arithmetic_problems_are_the_distinct_ones_of_the_generator() -> None:
    loaded = load_problems("arithmetic", limit=300, seed=5)
    drawn = [problem.question for problem in islice(word_problems("train", 5), 300 + loaded.duplicates)]
    assert [problem.question for problem in loaded.problems] == list(dict.fromkeys(drawn))[:300]
    assert len({problem.id for problem in loaded.problems}) == 300


def test_arithmetic_problems_depend_only_on_seed_and_split() -> None:
    first = load_problems("arithmetic", limit=50, seed=1)
    assert load_problems("arithmetic", limit=50, seed=1) == first
    assert load_problems("arithmetic", limit=50, seed=2).fingerprint != first.fingerprint
    assert load_problems("arithmetic", limit=50, seed=1, split="test").fingerprint != first.fingerprint
    assert load_problems("arithmetic", limit=20, seed=1).problems == first.problems[:20]


def test_arithmetic_problems_without_a_limit_are_refused() -> None:
    assert "--max-questions" in refusal("arithmetic")


# --- The Hub ---


@pytest.fixture
def hub_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Point the Hub's client to another address."""
    import huggingface_hub.constants

    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def point(port: int) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")

    return point


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts connections and never answers; it closes after ten seconds."""
    server = socket.create_server(("127.0.0.1", 0))
    hang_up = threading.Timer(10, server.close)
    hang_up.start()
    yield server.getsockname()[1]
    hang_up.cancel()
    server.close()


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A Hub without any data set."""

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_an_unreachable_hub_is_reported_with_what_to_do(hub_at: Any, closed_port: int) -> None:
    hub_at(closed_port)
    with pytest.raises(HubUnreachable) as caught:
        load_problems("openai/gsm8k:main")
    message = str(caught.value)
    assert all(word in message for word in ("openai/gsm8k", "does not answer", "HF_HUB_OFFLINE=1", "--data-dir"))


def test_a_silent_hub_times_out(hub_at: Any, silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightreasoner.data.hub.TIMEOUT", 0.3)
    hub_at(silent_port)
    with pytest.raises(HubUnreachable, match=r"openai/gsm8k .*Timeout"):
        load_problems("gsm8k")


def test_a_data_set_that_the_hub_refuses_is_not_reported_as_a_network_error(hub_at: Any, refusing_port: int) -> None:
    hub_at(refusing_port)
    assert "the Hub refuses data set no/such" in refusal("no/such")


@pytest.mark.parametrize("name", ["a/b/c", "a/b c", "/some/folder"])
def test_an_impossible_data_set_name_is_not_reported_as_a_network_error(
    name: str, hub_at: Any, closed_port: int
) -> None:
    hub_at(closed_port)
    assert name in refusal(name)


def test_offline_mode_is_off_when_its_variable_says_zero(
    hub_at: Any, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the quick check, the client library retries for half a minute.
    import datasets

    def give_up(*_: object, **__: object) -> None:
        raise OSError("went on without asking the Hub")

    monkeypatch.setattr(datasets, "load_dataset", give_up)
    hub_at(closed_port)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(HubUnreachable):
        load_problems("openai/gsm8k:main")


def test_offline_mode_reports_a_data_set_missing_from_the_cache(tmp_path: Path) -> None:
    # In a new process, because the client libraries read the variable on import.
    script = "from lightreasoner.data.problems import load_problems; load_problems('openai/gsm8k:main')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stderr.splitlines()[-1].startswith("lightreasoner.errors.DataError: cannot load data set openai/gsm8k")


def pretend_hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Replace the Hub by these rows; returns the list of requests."""
    import datasets
    import huggingface_hub

    requests: list[tuple[Any, ...]] = []

    def load(name: str, configuration: str | None, *, split: str, revision: str | None) -> list[dict[str, Any]]:
        requests.append((name, configuration, split, revision))
        return rows

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return requests


@pytest.mark.parametrize(
    ("dataset", "requests"),
    [
        ("gsm8k", ("openai/gsm8k", "main", "train", None)),
        ("org/set", ("org/set", None, "train", None)),
        ("org/set:part", ("org/set", "part", "train", None)),
    ],
)
def test_a_hub_data_set_is_requested_by_name_and_configuration(
    dataset: str, requests: tuple[str | None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pretend_hub(monkeypatch, ROWS)
    assert questions_of(dataset) == ["One?", "Two?", "Three?"]
    assert calls == [requests]


def test_a_benchmark_requests_its_pinned_commit_and_all_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend_hub(monkeypatch, [{"problem": "P?", "solution": r"\boxed{1}"}])
    assert len(load_benchmark("math", limit=None, data_dir=None)) == 7
    assert {(name, split, revision) for name, _, split, revision in calls} == {
        ("EleutherAI/hendrycks_math", "test", "21a5633873b6a120296cce3e2df9d5550074f4a3")
    }
    assert len({configuration for _, configuration, _, _ in calls}) == 7


def test_a_bad_row_of_a_hub_data_set_is_refused_with_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_hub(monkeypatch, [{"question": "One?"}, {"text": "Two?"}])
    assert refusal("org/set").startswith("org/set train, row 2: no field question")


# --- The public files ---


def test_gsm8k_train_has_7473_distinct_questions(data_dir: Path) -> None:
    loaded = load_problems("gsm8k", data_dir=data_dir)
    assert (len(loaded.problems), loaded.duplicates) == (7473, 0)
    assert loaded.problems[0].question.startswith("Natalia sold clips to 48 of her friends in April")


def test_a_limit_of_1000_takes_the_first_problems_in_file_order(data_dir: Path) -> None:
    everything = load_problems("gsm8k", data_dir=data_dir).problems
    assert load_problems("gsm8k", limit=1000, data_dir=data_dir).problems == everything[:1000]


def test_choices_that_the_questions_do_not_list_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    file = tmp_path / "rows.jsonl"
    rows: list[dict[str, Any]] = [{"question": f"Which of these is {n}?", "options": ["two", "ten"]} for n in (2, 10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(load_problems(str(file)).problems) == 2
    (record,) = caplog.records
    assert "do not list their options, and nothing but the question is asked" in record.getMessage()
    caplog.clear()
    rows[0]["question"] += " (A) two (B) ten"
    file.write_text(json.dumps(rows[0]))
    load_problems(str(file))
    assert caplog.records == []
