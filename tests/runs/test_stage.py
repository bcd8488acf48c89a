"""Run folders: nothing committed is lost, nothing damaged is used, one process at a time works in a folder."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lightreasoner.errors import DiskFull, Interrupted, LightReasonerError, RunCorrupted, RunLocked, RunMismatch
from lightreasoner.runs.files import file_hash, publish_folder, write_atomically, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.manifest import prompts_time
from lightreasoner.runs.records import (
    SCHEMA_VERSION,
    Answer,
    ChoiceProblem,
    JudgedAnswer,
    Problem,
    Record,
    ScoredChoices,
)
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder, open_stage, read_stage
from lightreasoner.samples.folder import Label, Rollout

FINGERPRINT = {"model": "m", "beta": 0.4, "nested": {"a": [1, None]}}

LABEL = Label("q1", 3, [5, 9], [0.25, 0.75], [-0.5, -1.0], [-1.5, -2.0])
ROLLOUT = Rollout(
    "q1",
    "How many?",
    [1, 2],
    [3],
    True,
    [0.5],
    [1.0],
    [2.0],
    [-0.5],
    [-1.5],
    [[3, 4]],
    [[-0.5, -1.0]],
    [[4, 3]],
    [[-0.25, -1.5]],
)
ANSWER = Answer("q1", 0, "gsm8k", "How many?", "4", [1, 2], [3, 4], "\\boxed{4} café\x00", "stop")
JUDGED = JudgedAnswer("q1", 0, None, None, "no_answer")
CHOICES = ScoredChoices("q1", "Which?", ["this", "that"], 1, [-1.5, -2.0])


def rows(*values: int) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.int64())})


def values(stage: StageFolder, kind: str = "rows") -> list[int]:
    return [value for table in stage.tables(kind) for value in table["x"].to_pylist()]


@contextmanager
def stage_in(run: Path, report: Callable[[str], None] = lambda line: None) -> Iterator[StageFolder]:
    with open_stage(run, "stage", FINGERPRINT, report) as stage:
        yield stage


def finished(run: Path) -> Path:
    """A stage with two commits and a result; gives its folder."""
    with stage_in(run) as stage:
        stage.commit(["a", "b"], {"rows": rows(1, 2), "more": rows(10)}, {"rows": 2})
        stage.commit(["c"], {"rows": rows(3)}, {"rows": 1, "skipped": 4})
        stage.finish({"total": 3})
    return run / "stage"


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


# --- Records ---


@pytest.mark.parametrize("record", [LABEL, ROLLOUT, ANSWER, JUDGED, CHOICES, Problem("id", "question", None)])
def test_a_record_comes_back_from_its_table_as_it_went_in(record: Record) -> None:
    table = type(record).table([record, record])
    assert table.schema == type(record).schema
    assert list(type(record).rows(table)) == [record, record]


@pytest.mark.parametrize("kind", [Problem, ChoiceProblem, Rollout, Label, Answer, JudgedAnswer, ScoredChoices])
def test_a_table_without_rows_keeps_its_columns(kind: type[Record]) -> None:
    table = kind.table([])
    assert table.schema == kind.schema
    assert list(kind.rows(table)) == []


# --- Commit and resume ---


def test_what_was_committed_is_read_back(tmp_path: Path) -> None:
    with open_stage(tmp_path, "sample", FINGERPRINT) as stage:
        stage.commit(["q1"], {"steps": Label.table([LABEL]), "rollouts": Rollout.table([ROLLOUT])}, {"kept": 1})
        stage.finish({"kept": 1, "note": "é"})
    fingerprint, stage = read_stage(tmp_path / "sample")
    assert [row for table in stage.tables("steps") for row in Label.rows(table)] == [LABEL]
    assert [row for table in stage.tables("rollouts") for row in Rollout.rows(table)] == [ROLLOUT]
    assert stage.result == {"kept": 1, "note": "é"}
    assert fingerprint == {"schema_version": SCHEMA_VERSION, **FINGERPRINT}


def test_a_resumed_stage_knows_what_is_settled_and_goes_on(tmp_path: Path) -> None:
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == set()
        stage.commit(["a", "b"], {"rows": rows(1, 2)}, {"rows": 2})
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == {"a", "b"}
        assert stage.result is None
        stage.commit(["c"], {"rows": rows(3)}, {"rows": 1, "skipped": 1})
        assert stage.settled_ids == {"a", "b", "c"}
        assert stage.counts == {"rows": 3, "skipped": 1}
        assert values(stage) == [1, 2, 3]
    with stage_in(tmp_path) as stage:
        assert values(stage) == [1, 2, 3]


def test_an_item_can_be_settled_without_rows(tmp_path: Path) -> None:
    with stage_in(tmp_path) as stage:
        stage.commit(["a"], {}, {"rows": 0})
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == {"a"}
        assert values(stage) == []


def test_kinds_of_rows_do_not_mix(tmp_path: Path) -> None:
    _, stage = read_stage(finished(tmp_path))
    assert (values(stage, "rows"), values(stage, "more"), values(stage, "other")) == ([1, 2, 3], [10], [])


def test_any_ids_survive_being_committed(tmp_path: Path) -> None:
    groups = [["plain", "00001-ab"], [], ["quotes \"' \\", "line\nend\r", "\u2028"], ["café 😀", "\x00", " "]]
    with stage_in(tmp_path) as stage:
        for group in groups:
            stage.commit(group, {"rows": rows(len(group))}, {})
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == {item for group in groups for item in group}
        assert values(stage) == [2, 0, 3, 3]


def test_an_interrupted_stage_ends_with_the_rows_of_an_uninterrupted_one(tmp_path: Path) -> None:
    items = [str(number) for number in range(9)]

    def work(run: Path, stop_after: int) -> None:
        with stage_in(run) as stage:
            left = [item for item in items if item not in stage.settled_ids]
            for item in left[:stop_after]:
                stage.commit([item], {"rows": rows(int(item))}, {"rows": 1})

    work(tmp_path / "whole", 99)
    for _ in range(3):
        work(tmp_path / "parts", 3)
    with stage_in(tmp_path / "whole") as whole, stage_in(tmp_path / "parts") as parts:
        assert values(parts) == values(whole) == list(range(9))
        assert parts.counts == whole.counts


# --- Damage ---


def test_a_torn_last_ledger_line_undoes_that_commit_alone_and_is_reported(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    lines: list[str] = []
    with stage_in(tmp_path, lines.append) as stage:
        assert stage.settled_ids == {"a", "b"}
        assert stage.result is None
        stage.commit(["c"], {"rows": rows(33)}, {"rows": 1})
    assert len(lines) == 1
    assert "ledger.jsonl, line 2" in lines[0]
    with stage_in(tmp_path, lines.append) as stage:
        assert values(stage) == [1, 2, 33]
    assert len(lines) == 1, "the folder was mended once and for all"


@pytest.mark.parametrize("cut", range(1, 12))
def test_no_torn_ledger_line_costs_more_than_the_commit_that_was_torn(cut: int, tmp_path: Path) -> None:
    # A cut of one byte takes the newline alone: the next commit must not end up on the same line.
    folder = finished(tmp_path)
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-cut])
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids >= {"a", "b"}
        stage.commit(["d"], {"rows": rows(4)}, {})
        expected = stage.settled_ids
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == expected


def damage_by_cutting(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_by_flipping_a_bit(path: Path) -> None:
    flip_bit(path, path.stat().st_size // 2)


def damage_by_removing(path: Path) -> None:
    path.unlink()


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [damage_by_cutting, damage_by_flipping_a_bit, damage_by_removing, damage_by_emptying]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_undoes_its_commit_and_the_result(damage: Callable[[Path], None], tmp_path: Path) -> None:
    folder = finished(tmp_path)
    damage(folder / "rows-00000.parquet")
    lines: list[str] = []
    with stage_in(tmp_path, lines.append) as stage:
        assert stage.settled_ids == {"c"}
        assert stage.counts == {"rows": 1, "skipped": 4}
        assert values(stage) == [3]
        assert values(stage, "more") == [], "the sound shard of the same commit goes with it"
        assert stage.result is None
        stage.commit(["a", "b"], {"rows": rows(1, 2), "more": rows(10)}, {"rows": 2})
    assert len(lines) == 1
    assert "rows-00000.parquet: missing or damaged" in lines[0]
    with stage_in(tmp_path, lines.append) as stage:
        assert stage.settled_ids == {"a", "b", "c"}
        assert sorted(values(stage)) == [1, 2, 3]
    assert len(lines) == 1


def test_a_damaged_shard_is_set_aside_and_not_deleted(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    flip_bit(folder / "rows-00001.parquet", 10)
    content = (folder / "rows-00001.parquet").read_bytes()
    with stage_in(tmp_path):
        assert not (folder / "rows-00001.parquet").exists()
    assert (folder / "rows-00001.parquet.quarantined").read_bytes() == content


def test_no_single_flipped_bit_in_a_shard_goes_unnoticed(tmp_path: Path) -> None:
    shard = finished(tmp_path) / "rows-00000.parquet"
    for position in range(0, shard.stat().st_size, 7):
        flip_bit(shard, position)
        with pytest.raises(RunCorrupted, match=shard.name):
            read_stage(shard.parent)
        flip_bit(shard, position)
    assert read_stage(shard.parent)[1].result == {"total": 3}


def test_a_shard_that_was_never_committed_is_no_part_of_the_stage(tmp_path: Path) -> None:
    # What a crash between the shard and its ledger line leaves behind.
    folder = finished(tmp_path)
    shutil.copy(folder / "rows-00000.parquet", folder / "rows-00002.parquet")
    (folder / ".rows-00003.parquet.tmp").write_bytes(b"half")
    with stage_in(tmp_path) as stage:
        assert values(stage) == [1, 2, 3]
        stage.commit(["d"], {"rows": rows(4)}, {"rows": 1})
    with stage_in(tmp_path) as stage:
        assert values(stage) == [1, 2, 3, 4]
        assert stage.settled_ids == {"a", "b", "c", "d"}


def test_a_crash_before_the_ledger_line_leaves_the_commit_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*values: object, **options: object) -> str:
        raise KeyboardInterrupt

    with stage_in(tmp_path) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
        monkeypatch.setattr("json.dumps", die)
        with pytest.raises(KeyboardInterrupt):
            stage.commit(["b"], {"rows": rows(2)}, {})
        monkeypatch.undo()
        assert stage.settled_ids == {"a"}
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == {"a"}
        assert values(stage) == [1]


@pytest.mark.parametrize(
    "line", ["3", "[]", "{}", '{"shard": 0}', '{"shard": 2, "ids": ["d"], "fil": {}, "counts": {}}']
)
def test_a_ledger_line_that_is_json_but_no_commit_is_left_out_like_a_torn_one(line: str, tmp_path: Path) -> None:
    folder = finished(tmp_path)
    with (folder / "ledger.jsonl").open("a") as ledger:
        ledger.write(line + "\n")
    lines: list[str] = []
    with stage_in(tmp_path, lines.append) as stage:
        assert stage.settled_ids == {"a", "b", "c"}
    assert len(lines) == 1
    assert "line 3" in lines[0]


# --- Fingerprint ---


def test_other_settings_are_refused_with_every_difference_and_both_values(tmp_path: Path) -> None:
    with open_stage(tmp_path, "stage", {"same": 1, "beta": 0.4, "model": "old", "dropped": True}) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
    with (
        pytest.raises(RunMismatch) as caught,
        open_stage(tmp_path, "stage", {"same": 1, "beta": 0.5, "model": "new", "added": [2]}),
    ):
        pass
    message = str(caught.value)
    assert "beta: 0.4 there, 0.5 now" in message
    assert 'model: "old" there, "new" now' in message
    assert "dropped: true there, null now" in message
    assert "added: null there, [2] now" in message
    assert "same" not in message.partition(")")[0]
    assert str(tmp_path / "stage") in message


def test_a_difference_at_the_end_of_a_long_value_can_be_seen(tmp_path: Path) -> None:
    with open_stage(tmp_path, "stage", {"cue": "think " * 30 + "hard"}) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
    with pytest.raises(RunMismatch) as caught, open_stage(tmp_path, "stage", {"cue": "think " * 30 + "twice"}):
        pass
    there, now = str(caught.value).partition("cue: ")[2].split(" there, ")
    assert there != now.partition(" now")[0]


def test_the_refused_folder_stays_as_it_was(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunMismatch), open_stage(tmp_path, "stage", {**FINGERPRINT, "beta": 9}):
        pass
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


HASHES = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({"expert_files": {"model.safetensors": HASHES[0]}}, {"expert_files": {"model.safetensors": HASHES[1]}},
         "model.safetensors of the expert: other content now"),
        ({"expert_files": {}}, {"expert_files": {"added_tokens.json": HASHES[1]}},
         "added_tokens.json of the expert: not there then"),
        ({"expert_files": {"added_tokens.json": HASHES[0]}}, {"expert_files": {}},
         "added_tokens.json of the expert: not there now"),
        ({"dataset": "my.jsonl", "questions_sha256": HASHES[0]}, {"dataset": "my.jsonl", "questions_sha256": HASHES[1]},
         "the questions of my.jsonl: other content now"),
        ({"samples": {"dataset": "d", "questions_sha256": HASHES[0]}},
         {"samples": {"dataset": "d", "questions_sha256": HASHES[1]}},
         "the questions of d: other content now"),
        ({"problems_sha256": HASHES[0][:16]}, {"problems_sha256": HASHES[1][:16]},
         "of the data set: other content now"),
        ({"something_new_sha256": HASHES[0]}, {"something_new_sha256": HASHES[1]}, "something new: other content now"),
        ({"how": {"stop_tokens": ["</s> (2)"]}}, {"how": {"stop_tokens": ["</s> (2)", "x (21)"]}},
         "stop tokens: </s> (2) there, </s> (2), x (21) now"),
        ({"long": "a" * 90}, {"long": "a" * 90 + "bc"}, 'aaa" there, …aaaaaaaaaaaaaaaaaaaabc" now'),
    ],
)  # fmt: skip
def test_a_refusal_says_in_words_what_changed_and_shows_no_hash(
    before: dict[str, Any], after: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with open_stage(tmp_path, "stage", before) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
    with pytest.raises(RunMismatch) as caught, open_stage(tmp_path, "stage", after):
        pass
    assert words in str(caught.value)
    assert not re.search(r"[0-9a-f]{16}", str(caught.value).replace(str(tmp_path), "").replace("a" * 17, ""))


# --- A folder without a commit claims nothing ---


def begin(folder: Path, *names: str) -> None:
    """A stage that was begun, and these files in it."""
    with stage_in(folder.parent):
        pass
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b'{"shard": 0, "ids": [')


@pytest.mark.parametrize("left", [(), ("ledger.jsonl", "rows-00000.parquet"), ("log.json",)])
def test_other_settings_take_over_a_folder_without_a_commit(left: tuple[str, ...], tmp_path: Path) -> None:
    begin(tmp_path / "stage", *left)
    other = {**FINGERPRINT, "beta": 9}
    with open_stage(tmp_path, "stage", other, record="new") as stage:
        assert (stage.manifest["record"], stage.settled_ids) == ("new", set())
        stage.commit(["z"], {"rows": rows(26)}, {})
    with pytest.raises(RunMismatch, match="beta: 9 there, 0.4 now"), stage_in(tmp_path):
        pass
    assert not (tmp_path / "stage" / "log.json").exists()


@pytest.mark.parametrize("kept", ["checkpoint-1/x", "adapter/x", "result.json"])
def test_a_checkpoint_an_adapter_or_a_result_claims_its_folder(kept: str, tmp_path: Path) -> None:
    begin(tmp_path / "stage", kept)
    with pytest.raises(RunMismatch), open_stage(tmp_path, "stage", {"other": 1}):
        pass
    assert (tmp_path / "stage" / kept).exists()


def test_a_released_folder_keeps_its_commits_for_the_same_settings_and_is_free_for_others(tmp_path: Path) -> None:
    with stage_in(tmp_path) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
        stage.release()
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == {"a"}
    with open_stage(tmp_path, "stage", {"other": 1}) as stage:
        assert (stage.settled_ids, values(stage)) == (set(), [])
        assert not list(stage.path.glob("*.parquet"))


def test_a_finished_stage_stays_though_it_was_once_released(tmp_path: Path) -> None:
    with stage_in(tmp_path) as stage:
        stage.release()
        stage.finish({})
    with pytest.raises(RunMismatch), open_stage(tmp_path, "stage", {"other": 1}):
        pass
    assert (tmp_path / "stage" / "result.json").exists()


def test_commits_without_a_readable_manifest_are_refused_and_left_alone(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(RunCorrupted, match=r"manifest\.json is missing"), stage_in(tmp_path):
        pass
    assert (folder / "rows-00000.parquet").exists()


def test_an_unreadable_or_old_manifest_without_a_commit_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(tmp_path / "stage")
    (tmp_path / "stage" / "manifest.json").write_text("{")
    with stage_in(tmp_path) as stage:
        assert stage.manifest["fingerprint"]["model"] == "m"
    monkeypatch.setattr("lightreasoner.runs.manifest.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with stage_in(tmp_path) as stage:
        assert stage.manifest["fingerprint"]["schema_version"] == SCHEMA_VERSION + 1


# --- The time that prompts are rendered at ---


def test_prompts_of_a_run_folder_have_one_time(tmp_path: Path) -> None:
    def ask(run: Path, stage: str, time: str) -> None:
        with open_stage(run, stage, {}, asked_at=time) as opened:
            opened.commit(["a"], {"rows": rows(1)}, {})

    first, later = "2026-01-02T10:00:00+02:00", "2026-01-02T08:30:00+00:00"
    with open_stage(tmp_path / "run", "sample", {}, asked_at=later):
        pass
    fresh = prompts_time(tmp_path / "run", "sample")
    assert fresh.startswith(str(datetime.now().year)), "a folder without a commit claims no time either"
    ask(tmp_path / "run", "sample", later)
    expert, merged = (tmp_path / "run" / "evaluate" / name for name in ("expert", "merged"))
    assert prompts_time(expert, "chat/gsm8k/answers") == later
    ask(expert, "chat/gsm8k/answers", first)
    assert prompts_time(tmp_path / "run", "sample") == later, "a stage keeps its own"
    assert prompts_time(merged, "chat/gsm8k/answers") == first, "the earliest, whatever the time zone"
    assert prompts_time(expert, "plain/gsm8k/answers") == first
    assert prompts_time(tmp_path / "other", "sample").startswith(str(datetime.now().year))


def test_prompts_of_all_rounds_have_one_time(tmp_path: Path) -> None:
    def ask(run: Path, stage: str, time: str) -> None:
        with open_stage(run, stage, {}, asked_at=time) as opened:
            opened.commit(["a"], {"rows": rows(1)}, {})

    first, later, year = "2026-01-02T10:00:00+00:00", "2026-01-03T10:00:00+00:00", str(datetime.now().year)
    rounds = tmp_path / "rounds"
    assert prompts_time(rounds / "round-0" / "held-back", "sample").startswith(year)
    ask(rounds / "round-0" / "held-back", "sample", first)
    for place, stage in (
        (rounds / "round-0" / "held-back", "answers"),
        (rounds / "round-1", "sample"),
        (rounds / "round-1" / "held-back", "sample"),
        (rounds / "round-1" / "held-back" / "base", "sample"),
        (rounds / "evaluate" / "merged", "chat/gsm8k/answers"),
    ):
        assert prompts_time(place, stage) == first
    ask(rounds / "round-1", "sample-states", later)
    assert prompts_time(rounds / "round-1", "sample") == later, "what it has begun counts first"
    assert prompts_time(rounds / "round-2", "sample") == first
    assert prompts_time(tmp_path / "runs" / "round-7", "sample").startswith(year), "a name alone makes no round"


def test_a_stage_of_another_schema_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path)
    monkeypatch.setattr("lightreasoner.runs.manifest.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    with pytest.raises(RunMismatch, match="schema_version"), stage_in(tmp_path):
        pass


def test_a_fingerprint_with_tuples_matches_itself_after_a_round_through_json(tmp_path: Path) -> None:
    for _ in range(2):
        with open_stage(tmp_path, "stage", {"targets": ("q", "v"), "rate": 1e-5}) as stage:
            assert stage.settled_ids == set()


def test_stages_of_one_run_do_not_share_fingerprints_or_rows(tmp_path: Path) -> None:
    with open_stage(tmp_path, "one", {"k": 1}) as one:
        one.commit(["a"], {"rows": rows(1)}, {})
    with open_stage(tmp_path, "two", {"k": 2}) as two:
        assert two.settled_ids == set()


def test_the_manifest_tells_versions_and_time_of_the_first_start(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    first = json.loads((folder / "manifest.json").read_text())
    assert {"python", "lightreasoner", "torch", "platform"} <= first["environment"].keys()
    with stage_in(tmp_path):
        assert json.loads((folder / "manifest.json").read_text()) == first


# --- Reading a finished stage ---


def test_a_stage_that_is_not_finished_is_refused_for_reading(tmp_path: Path) -> None:
    with stage_in(tmp_path) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
    with pytest.raises(RunCorrupted, match="not finished"):
        read_stage(tmp_path / "stage")


def test_a_folder_without_manifest_is_refused_for_reading(tmp_path: Path) -> None:
    with pytest.raises(RunCorrupted, match=r"manifest\.json"):
        read_stage(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": []}', "\xff"])
def test_a_manifest_that_says_nothing_is_refused(content: str, tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunCorrupted, match=r"manifest\.json"):
        read_stage(folder)
    with pytest.raises(RunCorrupted, match=r"manifest\.json"), stage_in(tmp_path):
        pass


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("shard", ["rows-00000.parquet", "more-00000.parquet", "rows-00001.parquet"])
def test_a_damaged_shard_is_refused_for_reading(damage: Callable[[Path], None], shard: str, tmp_path: Path) -> None:
    folder = finished(tmp_path)
    damage(folder / shard)
    with pytest.raises(RunCorrupted, match=shard):
        read_stage(folder)
    assert (folder / "result.json").exists(), "reading changes nothing"


def test_a_torn_ledger_is_refused_for_reading(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    damage_by_cutting(folder / "ledger.jsonl")
    damage_by_cutting(folder / "ledger.jsonl")
    with pytest.raises(RunCorrupted, match=r"ledger\.jsonl, line 2"):
        read_stage(folder)


def test_a_finished_stage_without_its_ledger_is_refused_for_reading(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "ledger.jsonl").unlink()
    with pytest.raises(RunCorrupted):
        read_stage(folder)


def test_a_finished_stage_that_lost_a_whole_ledger_line_is_refused_for_reading(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    ledger = folder / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(RunCorrupted):
        read_stage(folder)


def test_a_damaged_result_is_refused_for_reading(tmp_path: Path) -> None:
    folder = finished(tmp_path)
    (folder / "result.json").write_text('{"total": 3')
    with pytest.raises(RunCorrupted, match=r"result\.json"):
        read_stage(folder)


def test_a_sound_stage_reopens_with_its_result(tmp_path: Path) -> None:
    finished(tmp_path)
    with stage_in(tmp_path) as stage:
        assert stage.result == {"total": 3}


# --- Lock ---

HOLD = """
import sys
from pathlib import Path
from lightreasoner.runs.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_folder_that_another_process_holds_is_refused_by_its_process_id(tmp_path: Path) -> None:
    with another_process_holding(tmp_path) as holder:
        with pytest.raises(RunLocked, match=rf"in use by process {holder.pid} on "), locked(tmp_path):
            pass
        with pytest.raises(RunLocked, match=str(holder.pid)), stage_in(tmp_path):
            pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with another_process_holding(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".holder").read_text()


def test_the_lock_of_a_process_that_ended_is_free(tmp_path: Path) -> None:
    with another_process_holding(tmp_path) as holder:
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait()
        with locked(tmp_path):
            assert holder.returncode == 0


def test_a_lock_holds_against_another_process_until_the_outer_of_two_nested_uses_ends(tmp_path: Path) -> None:
    script = HOLD.replace("sys.stdin.read()", "pass")

    def another_process_gets_it() -> bool:
        tried = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
        assert tried.returncode == 0 or "RunLocked" in tried.stderr, tried.stderr
        return tried.returncode == 0

    with locked(tmp_path):
        with locked(tmp_path):
            pass
        assert not another_process_gets_it()
    assert another_process_gets_it()


def test_a_nested_lock_may_spell_the_folder_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with locked(tmp_path / "run"), locked(Path("run")), locked(Path("run/../run")):
        assert (tmp_path / "run").is_dir()


def test_different_folders_do_not_lock_each_other(tmp_path: Path) -> None:
    with another_process_holding(tmp_path / "theirs"), locked(tmp_path / "ours"):
        assert (tmp_path / "ours").is_dir()


def test_a_failure_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with another_process_holding(tmp_path) as holder:
        assert holder.poll() is None


def test_a_folder_that_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(LightReasonerError, match="file"), locked(folder):
            pass


# --- Atomic files ---


def fail_to_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    fail_to_flush(monkeypatch)
    with pytest.raises(DiskFull, match="the disk is full"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


def test_a_failed_first_write_leaves_no_file_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_to_flush(monkeypatch)
    with pytest.raises(DiskFull, match="the disk is full"):
        write_atomically(tmp_path / "file", b"new")
    assert not (tmp_path / "file").exists()


def test_a_reader_of_the_old_content_is_not_disturbed_by_the_new(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, b"old")
    with file.open("rb") as reader:
        write_atomically(file, b"new and longer")
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [file]


def test_content_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, events = tmp_path / "file", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(("flushed", file.exists())))
    write_atomically(file, b"new")
    assert events == [("flushed", False), ("flushed", True)]  # the file, then the folder


def test_a_commit_that_fails_to_reach_the_disk_settles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stage_in(tmp_path) as stage:
        stage.commit(["a"], {"rows": rows(1)}, {})
        with monkeypatch.context() as broken:
            fail_to_flush(broken)
            with pytest.raises(DiskFull, match="the disk is full"):
                stage.commit(["b"], {"rows": rows(2)}, {})
        assert stage.settled_ids == {"a"}
    with stage_in(tmp_path) as stage:
        assert stage.settled_ids == {"a"}


def test_json_is_written_for_people_and_read_back(tmp_path: Path) -> None:
    content: dict[str, Any] = {"name": "é", "list": [1, None]}
    write_json(tmp_path / "file.json", content)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert '  "name": "é",\n' in text
    assert text.endswith("}\n")


def test_a_published_folder_replaces_nothing_and_keeps_its_files(tmp_path: Path) -> None:
    temporary, final = tmp_path / "temporary", tmp_path / "final"
    (temporary / "deep").mkdir(parents=True)
    (temporary / "deep" / "file").write_bytes(b"content")
    publish_folder(temporary, final)
    assert (final / "deep" / "file").read_bytes() == b"content"
    assert not temporary.exists()
    temporary.mkdir()
    with pytest.raises(OSError, match="not empty"):
        publish_folder(temporary, final)
    assert (final / "deep" / "file").read_bytes() == b"content"


def test_the_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_hash(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- Signals ---


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_noted_and_obeyed_at_the_next_safe_point(number: signal.Signals, exit_code: int) -> None:
    def stopped() -> None:
        with stop_signals() as request:
            request.check()
            os.kill(os.getpid(), number)
            request.check()

    with pytest.raises(Interrupted) as caught:
        stopped()
    assert caught.value.exit_code == exit_code


def test_a_second_signal_stops_at_once() -> None:
    reached = []

    def stopped() -> None:
        with stop_signals():
            for place in (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)
                reached.append(place)

    with pytest.raises(Interrupted):
        stopped()
    assert reached == [1]


def test_signal_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_another_thread_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with stop_signals() as request:
            request.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
