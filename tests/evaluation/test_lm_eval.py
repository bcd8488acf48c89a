"""Evaluations in lm-evaluation-harness's log format."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightreasoner.evaluation.exports import export_answers
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.toolkit_import import import_toolkit

from .helpers import ITEMS, choices, line, rows_of, write


def harness(evaluation: Path, out: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Results, and samples by task, read as lm-eval's scripts read them."""
    report = export_answers(evaluation, out, to="lm-eval")
    assert {Path(file) for file in report["files"]} == set(out.iterdir())
    (results,) = out.glob("results_*.json")
    samples = {}
    for file in out.glob("samples_*.jsonl"):
        # `get_file_task_name` and `get_file_datetime` of lm_eval.utils
        samples[file.name[file.name.find("_") + 1 : file.name.rfind("_")]] = [
            json.loads(text) for text in file.read_text().splitlines()
        ]
        assert file.stem.rpartition("_")[2] == results.stem.partition("_")[2]
    return json.loads(results.read_text()), samples


def test_lm_eval_gets_a_line_for_each_judge_and_item(evaluation: Path, tmp_path: Path) -> None:
    results, samples = harness(evaluation, tmp_path)
    (task,) = samples
    assert task == "arithmetic_chat"
    assert [(row["filter"], row["doc_id"]) for row in samples[task]] == [
        (judge, place) for judge in ("math-verify", "toolkit") for place in range(ITEMS)
    ]
    by_judge = [*rows_of(evaluation, "math-verify"), *rows_of(evaluation, "toolkit")]
    for sample, (answer, verdict) in zip(samples[task], by_judge, strict=True):
        assert sample["doc"] == {"question": answer.question, "answer": answer.gold}
        assert sample["target"] == answer.gold
        (arguments,) = sample["arguments"].values()
        assert arguments["arg_0"] == answer.question
        assert arguments["arg_1"]["max_gen_toks"] == 48
        assert sample["resps"] == [[answer.output]]
        assert sample["filtered_resps"] == [verdict.extracted or "[invalid]"]
        assert (sample["metrics"], sample["acc"]) == (["acc"], float(verdict.verdict == "correct"))
    figures = results["results"][task]
    for judge in ("math-verify", "toolkit"):
        scores = [row["acc"] for row in samples[task] if row["filter"] == judge]
        assert figures[f"acc,{judge}"] == pytest.approx(np.mean(scores))
        assert figures[f"acc_stderr,{judge}"] == pytest.approx(np.std(scores, ddof=1) / math.sqrt(ITEMS))
    (read,) = read_evaluation(evaluation)
    assert figures["acc,math-verify"] == read.figures["accuracy"]
    assert results["n-samples"][task] == {"original": 2000, "effective": ITEMS}
    assert results["model_name_sanitized"] == "miniature__expert"
    assert [entry["name"] for entry in results["configs"][task]["filter_list"]] == ["math-verify", "toolkit"]
    assert {"versions", "n-shot", "higher_is_better", "group_subtasks", "config", "task_hashes", "date"} <= set(results)


def test_lm_eval_gets_all_samples_of_a_problem(tmp_path: Path) -> None:
    graded = {"code": ["a", "b\u2028c"], "pred": ["1", None], "score": [True, False]}
    file = write(tmp_path / "test.jsonl", line(5, **graded), line(2, **graded))
    import_toolkit(file, tmp_path / "in", benchmark="gsm8k")
    export_answers(tmp_path / "in", tmp_path / "out", to="lm-eval")
    (lines,) = (tmp_path / "out").glob("samples_gsm8k_chat_*")
    rows = [json.loads(text) for text in lines.read_bytes().split(b"\n")[:-1]]
    assert [row["doc_id"] for row in rows] == [2, 5]
    assert rows[0]["resps"] == [["a", "b\u2028c"]]
    assert rows[0]["filtered_resps"] == [["1", "[invalid]"]]
    assert (rows[0]["acc"], rows[0]["filter"]) == (0.5, "toolkit")
    (results,) = (tmp_path / "out").glob("results_*.json")
    content = json.loads(results.read_text())
    assert content["results"]["gsm8k_chat"]["acc,toolkit"] == 0.5
    assert content["n-shot"] == {}  # unknown for an import
    assert content["configs"]["gsm8k_chat"]["dataset_path"] == "openai/gsm8k"


def test_lm_eval_gets_the_likelihoods_of_choices(tmp_path: Path) -> None:
    choices(tmp_path / "in")
    results, samples = harness(tmp_path / "in", tmp_path / "out")
    rows = samples["arc_challenge"]
    assert [row["doc_id"] for row in rows] == [0, 1, 2]
    assert rows[1]["arguments"] == {
        "gen_args_0": {"arg_0": "Question 1\nAnswer:", "arg_1": " no"},
        "gen_args_1": {"arg_0": "Question 1\nAnswer:", "arg_1": " certainly"},
    }
    assert rows[1]["resps"] == [[["-2.0", "None"]], [["-3.0", "None"]]]
    assert rows[1]["filtered_resps"] == [["-2.0", "None"], ["-3.0", "None"]]
    assert (rows[1]["target"], rows[1]["filter"]) == ("1", "none")
    assert [(row["acc"], row["acc_norm"]) for row in rows] == [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
    figures = results["results"]["arc_challenge"]
    assert (figures["acc,none"], figures["acc_norm,none"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert results["configs"]["arc_challenge"]["output_type"] == "multiple_choice"
