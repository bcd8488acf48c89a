"""`lightr grade`: verdicts on the rows of a file."""

import json
import subprocess
from pathlib import Path

import pytest

from ..faults.harness import completed


def lightr_grade(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return completed("grade", *arguments, cwd=cwd)


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = (
    {"gold": "1/2", "text": r"so \boxed{\frac12}"},
    {"gold": "18", "text": "The answer is 17.", "benchmark": "gsm8k"},
    {"gold": "C", "text": "so (C)", "benchmark": "mmlu_stem"},
    {"gold": "B", "text": "I do not know \ud800"},
    {"gold": "9^{9^{9^{8}}}", "text": r"\boxed{9^{9^{9^{9}}}}"},
    {"gold": "5", "text": r"\boxed{500}", "benchmark": "asdiv", "more": "of no interest"},
)


def test_a_file_of_outputs_becomes_verdicts_on_stdout_in_order_and_counts_on_stderr(tmp_path: Path) -> None:
    done = lightr_grade(write_rows(tmp_path / "outputs.jsonl", *ROWS), "--seconds", 2, "--workers", 2)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["line"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "correct", "no_answer", "timeout", "wrong"]
    assert [row["extracted"] for row in rows] == [r"\frac12", "17", "C", None, None, "500"]
    assert [(row["gold"], row["benchmark"]) for row in rows] == [(row["gold"], row.get("benchmark")) for row in ROWS]
    assert done.stderr.splitlines()[-1] == "2 correct, 2 wrong, 1 no answer, 1 timeout, 0 grader error"


def test_the_other_judge_is_chosen_by_name(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "outputs.jsonl", ROWS[5])
    assert (
        json.loads(lightr_grade(file, "--judge", "toolkit").stdout)["verdict"] == "correct"
    )  # a factor of 100 is lost
    unknown = lightr_grade(file, "--judge", "mother")
    assert unknown.returncode == 2
    assert "toolkit" in unknown.stderr


def test_verdicts_go_to_a_file_that_must_not_exist(tmp_path: Path) -> None:
    file, out = write_rows(tmp_path / "outputs.jsonl", *ROWS[:2]), tmp_path / "verdicts.jsonl"
    done = lightr_grade(file, "--out", out)
    assert (done.returncode, done.stdout) == (0, "")
    written = out.read_text()
    assert [json.loads(line)["verdict"] for line in written.splitlines()] == ["correct", "wrong"]
    again = lightr_grade(file, "--out", out)
    assert again.returncode == 2
    assert f"{out} exists already" in again.stderr
    assert out.read_text() == written


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"gold": "5"}, "text is None"),
        ({"text": "5"}, "gold is None"),
        ({"gold": True, "text": "5"}, "gold is True"),
        ({"gold": " ", "text": "5"}, "the gold answer is ' '"),
        ({"gold": "3 + 4 is\n####", "text": "5"}, "gold has #### without an answer"),
        ({"gold": "unknown", "text": "5", "benchmark": "gsm8k"}, "the gold answer is 'unknown', not a number"),
        ({"gold": "5", "text": ["5"]}, "text is ['5']"),
        ({"gold": "5", "text": "5", "benchmark": "gsm9k"}, "benchmark is 'gsm9k'; leave it out, or use one of gsm8k"),
        ({"gold": "5", "text": "5", "benchmark": "hellaswag"}, "benchmark is 'hellaswag'"),  # has no answers in words
        ({"gold": "5", "text": "5", "benchmark": ["gsm8k"]}, "benchmark is ['gsm8k']"),
        ([1, 2], "a list, not a JSON object"),
    ],
)
def test_a_row_that_cannot_be_judged_is_named_by_its_line_before_anything_is_judged(
    tmp_path: Path, row: object, complaint: str
) -> None:
    done = lightr_grade(write_rows(tmp_path / "outputs.jsonl", ROWS[0], row), "--out", tmp_path / "verdicts.jsonl")
    assert (done.returncode, done.stdout) == (1, "")
    (said,) = done.stderr.splitlines()
    assert "outputs.jsonl, line 2" in said
    assert complaint in said
    assert not (tmp_path / "verdicts.jsonl").exists()


def test_numbers_are_golds_and_an_empty_cell_names_no_benchmark(tmp_path: Path) -> None:
    rows = [
        {"gold": 19, "text": "So it is 19."},
        {"gold": 2.0, "text": r"\boxed{2}"},
        {"gold": 0.1 + 0.2, "text": "0.3"},
    ]
    rows.append({"gold": "7", "text": r"\boxed{7}", "benchmark": " "})
    done = lightr_grade(write_rows(tmp_path / "outputs.jsonl", *rows))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["correct"] * 4


def test_invalid_limits_are_usage_errors(tmp_path: Path) -> None:
    done = lightr_grade(write_rows(tmp_path / "outputs.jsonl", ROWS[0]), "--seconds", 0)
    assert (done.returncode, done.stdout) == (2, "")
    assert "0.0 seconds" in done.stderr


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    done = lightr_grade(tmp_path / "none.jsonl")
    assert done.returncode == 1
    assert "none.jsonl" in done.stderr


def test_the_kind_of_answers_without_a_benchmark_can_be_given(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "outputs.jsonl", {"gold": "The total is\n#### 5", "text": "5 apples"}, ROWS[2])
    done = lightr_grade(file, "--answer-kind", "number")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["gold"], row["verdict"]) for row in rows] == [("5", "correct"), ("C", "correct")]
    refused = lightr_grade(
        write_rows(tmp_path / "words.jsonl", {"gold": "red", "text": "red"}), "--answer-kind", "number"
    )
    assert refused.returncode == 1
    assert "words.jsonl, line 1: the gold answer is 'red', not a number" in refused.stderr
