"""Own problems from the file to the comparison, through the command line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.data.problems import load_problems
from lightreasoner.errors import DataError, RunMismatch
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.evaluation.folder import read_evaluation

from ..faults.harness import completed as lightr
from .helpers import answers, config_for

KEYS = {"benchmarks": ("my.csv",), "answer_field": "key", "max_answer_tokens": 48, "max_items": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with my.csv: six problems of the miniature, with their answers in a column `key`."""
    problems = load_problems("arithmetic", split="test", limit=6, seed=3).problems
    write(tmp_path / "my.csv", [(problem.question, problem.answer or "") for problem in problems])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("Problem", "key"), *rows])


def test_two_models_are_evaluated_on_a_file_and_compared(folder: Path) -> None:
    flags = ["--answer-field", "key", "--max-answer-tokens", 48]
    with pytest.raises(DataError, match="my.csv, line 2: no field answer .*--answer-field"):
        evaluate(config_for(folder / "none", benchmarks=("my.csv",)))
    before = lightr(
        "evaluate", "--model", "miniature/base", "--benchmarks", "my.csv", *flags, "--out", "base", cwd=folder
    )
    assert before.returncode == 0, before.stderr
    assert before.stdout.startswith("| prompt | my ")
    assert "my: 6 problems from my.csv; answers are compared as number" in before.stderr
    evaluate(config_for(folder / "expert", **{**KEYS, "benchmarks": ("arithmetic", "./my.csv"), "max_items": 5}))
    found = lightr("compare", "base", "expert", "--json", cwd=folder)
    (row,) = json.loads(found.stdout)["benchmarks"]
    assert (row["benchmark"], row["total"]) == ("my", 5)
    assert "different items: 6 and 5, compared on the 5 common ones" in row["warnings"]


def test_a_changed_file_is_refused_by_name_and_a_changed_answer_is_seen(folder: Path) -> None:
    settings: dict[str, Any] = {**KEYS, "max_items": 2}
    evaluate(config_for(folder / "out", **settings))
    rows = [(row.question, row.gold) for _, row in sorted(answers(folder / "out", "chat/my").items())]
    write(folder / "my.csv", [rows[0], (rows[1][0], "1")])
    with pytest.raises(
        RunMismatch, match=r"answers to my.csv as it was \(6 problems\). my.csv has other .*\(2 problems\)"
    ):
        evaluate(config_for(folder / "out", **settings))
    evaluate(config_for(folder / "other", **settings))
    (row,) = compare(folder / "out", folder / "other")["benchmarks"]
    assert row["warnings"] == ["different gold answers to the same questions, which may be part of the difference"]


def test_the_folder_tells_about_the_file_without_it(folder: Path) -> None:
    evaluate(config_for(folder / "out", **{**KEYS, "max_items": 1, "answer_kind": "text"}))
    (folder / "my.csv").unlink()
    (task,) = read_evaluation(folder / "out")
    assert (task.benchmark.name, task.benchmark.size, task.benchmark.source) == ("my", 6, "my.csv")
    assert task.data_set.path == "my"
    assert task.judged["math-verify"][0]["judge"]["answer_kind"] == "text"
    manifest = folder / "out/chat/my/answers/manifest.json"
    assert json.loads(manifest.read_text())["record"]["own"]["kind"] == "text"
