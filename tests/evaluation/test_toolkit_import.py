"""Output files of the Qwen2.5-Math toolkit as evaluations."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightreasoner.data.benchmarks import load_benchmark
from lightreasoner.errors import DataError, LightReasonerError, RunMismatch
from lightreasoner.evaluation import toolkit_import
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.evaluation.toolkit_import import import_toolkit
from lightreasoner.runs.records import Answer
from lightreasoner.runs.stage import StageFolder

from .helpers import ITEMS, as_toolkit_file, line, rows_of, write


def test_answers_of_the_toolkit_are_compared_item_by_item(evaluation: Path, tmp_path: Path) -> None:
    file = as_toolkit_file(evaluation, tmp_path / "test.jsonl")
    figures = import_toolkit(file, tmp_path / "out", benchmark="arithmetic", model="miniature/expert")
    correct = sum(verdict.verdict == "correct" for _, verdict in rows_of(evaluation))
    assert (figures["total"], figures["accuracy"]) == (ITEMS, correct / ITEMS)
    assert (figures["tokens"], figures["truncated"], figures["items_known"]) == (None, None, None)
    result = compare(evaluation, tmp_path / "out", judge="toolkit")
    (row,) = result["benchmarks"]
    assert (row["total"], row["gained"], row["lost"]) == (ITEMS, 0, 0)
    assert any("different origin of the answers (imported_from)" in text for text in result["warnings"])
    assert not any("different items" in text for text in result["warnings"])


def test_rows_hold_the_contents_of_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "test.jsonl",
        line(
            3, question="  Is it so? (True or False) ", code=["yes", "no", ""], pred=["A", "", None], score=[False] * 3
        ),
        line(1, code=["a", "b", "c"], pred=["1/2", "0.5", ""], score=[True, False, True]),
    )
    figures = import_toolkit(file, tmp_path / "out", benchmark="math500", prompt="plain")
    (task,) = read_evaluation(tmp_path / "out")
    assert task.settings["imported_from"]["file"] == "test.jsonl"
    assert (task.label, task.model, task.settings["samples_per_problem"]) == ("math500_plain", "unknown", 3)
    answers = [row for table in task.stage.tables("answers") for row in Answer.rows(table)]
    assert [(row.sample, row.output) for row in answers[:3]] == [(0, "yes"), (1, "no"), (2, "")]
    assert answers[0].question == "Is it so? (True or False)"
    assert {(row.finish, *row.prompt_ids, *row.output_ids) for row in answers} == {("unknown",)}
    verdicts = list(read_judged(task.judged["toolkit"][1]))
    assert [row.verdict for row in verdicts] == ["wrong", "no_answer", "no_answer", "correct", "wrong", "correct"]
    assert [row.extracted for row in verdicts] == ["A", None, None, "1/2", "0.5", None]
    assert (figures["accuracy"], figures["pass_at"]["3"]) == (pytest.approx(1 / 3), 0.5)


@pytest.mark.parametrize("name", ["svamp", "asdiv", "mmlu_stem"])
def test_ids_are_those_of_our_benchmarks(name: str, data_dir: Path, tmp_path: Path) -> None:
    """The first items, built as section 3.3 of the specification says, not by our own functions."""
    build: dict[str, Callable[[dict[str, Any]], str]] = {
        "svamp": lambda row: f"{row['Body'].strip().removesuffix('.')}. {row['Question'].strip()}",
        "asdiv": lambda row: f"{row['body'].strip()} {row['question'].strip()}",
        "mmlu_stem": lambda row: (
            f"{row['question']}\nAnswer Choices: "
            + " ".join(f"({letter}) {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True))
        ),
    }
    with (data_dir / name / "test.jsonl").open() as raw:
        rows = [json.loads(next(raw)) for _ in range(10)]
    file = write(tmp_path / "test.jsonl", *(line(idx, question=build[name](row)) for idx, row in enumerate(rows)))
    import_toolkit(file, tmp_path / "out", benchmark=name)  # type: ignore[arg-type]
    (task,) = read_evaluation(tmp_path / "out")
    items = load_benchmark(name, limit=10, data_dir=data_dir)  # type: ignore[arg-type]
    assert task.stage.settled_ids == {item.id for item in items}


def test_an_interrupted_import_resumes_and_a_finished_one_is_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "test.jsonl", *map(line, range(7)))
    whole = import_toolkit(file, tmp_path / "whole", benchmark="gsm8k")
    monkeypatch.setattr(toolkit_import, "CHUNK", 2)
    commit, commits = StageFolder.commit, []

    def stops_sometimes(*arguments: Any) -> None:
        commits.append(None)
        if len(commits) in (3, 7):
            raise KeyboardInterrupt
        commit(*arguments)

    monkeypatch.setattr(StageFolder, "commit", stops_sometimes)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            import_toolkit(file, tmp_path / "parts", benchmark="gsm8k")
    assert import_toolkit(file, tmp_path / "parts", benchmark="gsm8k") == whole
    written = len(commits)
    assert import_toolkit(file, tmp_path / "parts", benchmark="gsm8k") == whole
    assert len(commits) == written
    other = write(tmp_path / "test2.jsonl", line())
    with pytest.raises(RunMismatch, match="imported_from"):
        import_toolkit(other, tmp_path / "parts", benchmark="gsm8k")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": None}, "line 2: score is None, not a list of true and false"),
        ({"score": [1]}, r"score is \[1\], not"),
        ({"code": "text"}, "code is 'text', not a list of texts"),
        ({"code": []}, "code has 0 entries, pred 1 and score 1"),
        ({"pred": ["1", "2"]}, "code has 1 entries, pred 2 and score 1"),
        ({"code": [], "pred": [], "score": []}, "code has 0 entries, pred 0 and score 0"),
        ({"code": ["\ud800"]}, "code is .*, not a list of texts"),
        ({"question": " "}, "question is ' ', not a text that can be asked"),
        ({"question": "half \udfff"}, "question is"),
        ({"gt": 12}, "gt is 12, not a text"),
        ({"idx": 0}, "idx 0 stands in .*line 1 too"),
        ({"idx": -1}, "idx is -1, not a whole number"),
        ({"idx": True}, "idx is True, not a whole number"),
        ({"idx": "1"}, "idx is '1'"),
        ({"code": ["a"] * 2, "pred": ["a"] * 2, "score": [True] * 2}, "line 2: 2 samples, 1 in the lines before"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = write(tmp_path / "test.jsonl", line(0), {**line(1), **change})
    with pytest.raises(DataError, match=message):
        import_toolkit(file, tmp_path / "out", benchmark="gsm8k")
    assert not (tmp_path / "out").exists()


def test_files_of_other_tools_are_refused(tmp_path: Path) -> None:
    ungraded = write(tmp_path / "ungraded.jsonl", {key: value for key, value in line().items() if key != "score"})
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "torn.jsonl").write_text(json.dumps(line()) + "\n" + json.dumps(line(1))[:40])
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    for name, message in {
        "ungraded.jsonl": "line 1: no field score among .* not graded",
        "empty.jsonl": "the file is empty",
        "torn.jsonl": "line 2: not JSON",
        "bytes.jsonl": "line 1: not JSON in UTF-8",
        "deep.jsonl": "line 1: not JSON",
        "none.jsonl": "no file",
        "metrics.txt": "writes .jsonl files, not .txt",
    }.items():
        with pytest.raises(DataError, match=message):
            import_toolkit(tmp_path / name, tmp_path / "out", benchmark="gsm8k")
    with pytest.raises(DataError, match="no answers to hellaswag"):
        import_toolkit(ungraded, tmp_path / "out", benchmark="hellaswag")
    assert not (tmp_path / "out").exists()


def test_messages_are_short_for_any_line(tmp_path: Path) -> None:
    file = write(tmp_path / "test.jsonl", line(question=["long " * 100_000] * 3))
    with pytest.raises(DataError) as caught:
        import_toolkit(file, tmp_path / "out", benchmark="gsm8k")
    assert len(str(caught.value)) < 1000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60)
@given(fields=st.dictionaries(st.sampled_from(["idx", "question", "gt", "code", "pred", "score"]), JSON_VALUES))
def test_any_line_is_imported_or_refused(fields: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder) / "test.jsonl", {**line(), **fields})
        try:
            figures = import_toolkit(file, Path(folder) / "out", benchmark="gsm8k")
        except LightReasonerError as error:
            assert "line 1" in str(error)
        else:
            assert figures["total"] == 1
