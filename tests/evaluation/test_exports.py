"""Evaluations from and to other tools: what comes in means the same here, what goes out is what their readers take."""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st

from lightreasoner.config import EvaluateConfig
from lightreasoner.data.benchmarks import BENCHMARKS, load_benchmark
from lightreasoner.errors import DataError, LightReasonerError, RunCorrupted, RunMismatch
from lightreasoner.evaluation import toolkit_import
from lightreasoner.evaluation.choices import summarise_choices
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.evaluation.exports import export_answers, import_toolkit
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.runs.records import Answer, JudgedAnswer, ScoredChoices
from lightreasoner.runs.stage import StageFolder, open_stage, read_stage

ITEMS = 12


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real evaluation by both judges."""
    out = tmp_path_factory.mktemp("evaluation")
    config = EvaluateConfig(
        model="miniature/expert", benchmarks=("arithmetic",), max_items=ITEMS, max_answer_tokens=48, out=out
    )
    evaluate(config)
    evaluate(config.model_copy(update={"judge": "toolkit"}))
    return out


def rows_of(evaluation: Path, judge: str = "toolkit") -> list[tuple[Answer, JudgedAnswer]]:
    place = evaluation / "chat" / "arithmetic"
    _, answers = read_stage(place / "answers")
    _, verdicts = read_stage(place / judge)
    judged = {(row.question_id, row.sample): row for row in read_judged(verdicts)}
    rows = (row for table in answers.tables("answers") for row in Answer.rows(table))
    return sorted(((row, judged[row.question_id, row.sample]) for row in rows), key=lambda pair: pair[0].question_id)


def line(idx: int = 0, **fields: Any) -> dict[str, Any]:
    """A problem as the toolkit writes it."""
    common = {"idx": idx, "question": f"What is {idx} + 1?", "gt_cot": "None", "gt": str(idx + 1)}
    graded = {"code": [f"It is \\boxed{{{idx + 1}}}."], "pred": [str(idx + 1)], "report": [None], "score": [True]}
    return {**common, **graded, **fields}


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(fields) + "\n" for fields in lines))
    return file


def as_toolkit_file(evaluation: Path, file: Path) -> Path:
    """The evaluation as the toolkit would have written it."""
    return write(
        file,
        *(
            line(
                int(answer.question_id[:5]),
                question=answer.question,
                gt=answer.gold,
                code=[answer.output],
                pred=[verdict.extracted or ""],
                score=[verdict.verdict == "correct"],
            )
            for answer, verdict in rows_of(evaluation)
        ),
    )


def lightr(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lightreasoner.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


# --- In ---


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


def test_rows_hold_what_the_file_says(tmp_path: Path) -> None:
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


def test_an_interrupted_import_continues_and_a_finished_one_stays(
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


def test_files_of_others_are_refused(tmp_path: Path) -> None:
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


def test_a_message_stays_short_whatever_the_line(tmp_path: Path) -> None:
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


# --- Out: lm-evaluation-harness ---


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
    assert content["n-shot"] == {}  # nobody knows
    assert content["configs"]["gsm8k_chat"]["dataset_path"] == "openai/gsm8k"


def choices(out: Path, name: str = "arc_challenge") -> list[ScoredChoices]:
    """A likelihood evaluation of three items, made without a model."""
    rows = [
        ScoredChoices(f"{place:05d}-x", f"Question {place}\nAnswer:", ["no", "certainly"], place % 2, [-2.0, -3.0])
        for place in (2, 0, 1)
    ]
    with open_stage(out, f"likelihood/{name}/choices", {"model": "m", "dtype": "float32"}) as stage:
        stage.commit([row.question_id for row in rows], {"choices": ScoredChoices.table(rows)}, {})
        stage.finish({**summarise_choices(name, stage), "items_known": None})
    return rows


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


# --- Out: the Hub ---


def test_the_hub_reads_back_what_it_gets(evaluation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_toolkit(write(tmp_path / "test.jsonl", *map(line, range(4))), tmp_path / "in", benchmark="gsm8k", model="m")
    import_toolkit(tmp_path / "test.jsonl", tmp_path / "in", benchmark="asdiv", model="m")
    choices(tmp_path / "in")
    report = export_answers(tmp_path / "in", tmp_path / "out", to="hub")
    assert (report["benchmarks"], report["items"]) == (3, 11)
    assert "asdiv_chat: ASDiv is no data set on the Hub" in capsys.readouterr().err
    folder = tmp_path / "out" / ".eval_results"
    assert sorted(file.name for file in folder.iterdir()) == ["arc_challenge.yaml", "gsm8k_chat.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load((folder / "gsm8k_chat.yaml").read_text()))
    assert (entry.dataset_id, entry.dataset_revision, entry.task_id) == ("openai/gsm8k", None, "gsm8k")
    assert (entry.value, entry.date) == (100.0, None)
    assert entry.notes is not None
    assert "judged by toolkit" in entry.notes
    assert "4 of 1319 items, 95 % interval 51.0 to 100.0" in entry.notes
    (entry,) = parse_eval_result_entries(yaml.safe_load((folder / "arc_challenge.yaml").read_text()))
    source: Any = BENCHMARKS["arc_challenge"].source
    assert (entry.value, entry.task_id) == (33.33, "arc_challenge")
    assert (entry.dataset_id, entry.dataset_revision) == ("allenai/ai2_arc", source.revision)
    assert entry.date is not None
    index = yaml.safe_load((tmp_path / "out" / "model-index.yaml").read_text())
    name, results = model_index_to_eval_results(index["model-index"])
    assert (name, [result.dataset_type for result in results]) == ("m", ["asdiv", "openai/gsm8k", "allenai/ai2_arc"])
    assert [result.metric_type for result in results] == ["accuracy", "accuracy", "acc_norm"]


def test_the_notes_tell_how_answers_were_made(evaluation: Path, tmp_path: Path) -> None:
    export_answers(evaluation, tmp_path, to="hub")
    index = yaml.safe_load((tmp_path / "model-index.yaml").read_text())
    _, (result,) = model_index_to_eval_results(index["model-index"])
    assert result.metric_name is not None
    assert result.metric_name.startswith(
        "acc, chat prompt; greedy decoding, at most 48 tokens; judged by math-verify; 12 of 2000 items, 95 % interval "
    )
    assert not (tmp_path / ".eval_results").exists()


# --- Both ways out ---


@pytest.mark.parametrize("to", ["lm-eval", "hub"])
def test_no_file_is_overwritten(evaluation: Path, tmp_path: Path, to: Any) -> None:
    files = [Path(file) for file in export_answers(evaluation, tmp_path, to=to)["files"]]
    before = [file.read_bytes() for file in files]
    with pytest.raises(DataError, match="exists already"):
        export_answers(evaluation, tmp_path, to=to)
    assert [file.read_bytes() for file in files] == before
    with pytest.raises(DataError, match="cannot write"):
        export_answers(evaluation, files[0], to=to)


def test_what_is_no_single_evaluation_is_refused(evaluation: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no evaluation"):
        export_answers(tmp_path, tmp_path / "out", to="hub")
    file = write(tmp_path / "test.jsonl", line())
    for benchmark in ("gsm8k", "asdiv"):
        import_toolkit(file, tmp_path / "in", benchmark=benchmark, model=f"of {benchmark}")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"several models \(of asdiv in .*asdiv, of gsm8k in"):
        export_answers(tmp_path / "in", tmp_path / "out", to="lm-eval")
    (tmp_path / "in" / "chat" / "gsm8k" / "toolkit" / "result.json").unlink()
    with pytest.raises(RunCorrupted, match="not finished"):
        export_answers(tmp_path / "in", tmp_path / "out", to="lm-eval")
    assert not (tmp_path / "out").exists()


def test_the_command_line_goes_both_ways(evaluation: Path, tmp_path: Path) -> None:
    file = as_toolkit_file(evaluation, tmp_path / "test.jsonl")
    imported = lightr("answers", "import", file, tmp_path / "in", "--benchmark", "arithmetic", "--json")
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["total"] == ITEMS
    exported = lightr("answers", "export", tmp_path / "in", tmp_path / "out", "--to", "lm-eval", "--json")
    assert exported.returncode == 0, exported.stderr
    assert all(Path(name).is_file() for name in json.loads(exported.stdout)["files"])
    file.write_text(file.read_text() + "{}\n")
    refused = lightr("answers", "import", file, tmp_path / "in", "--benchmark", "arithmetic")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"lightr: {file}, line 13: no field idx")
    assert lightr("answers", "export", tmp_path / "in", tmp_path / "out", "--to", "csv").returncode == 2


def test_neither_way_needs_torch() -> None:
    forbidden = "{'torch', 'transformers', 'huggingface_hub'}"
    modules = f"import lightreasoner.evaluation.exports, sys; print({forbidden} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", modules], capture_output=True, text=True).stdout == "set()\n"
