"""Exports: the Hub's files, no file overwritten, the command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from lightreasoner.data.benchmarks import BENCHMARKS
from lightreasoner.errors import DataError, RunCorrupted
from lightreasoner.evaluation.exports import export_answers
from lightreasoner.evaluation.toolkit_import import import_toolkit

from ..faults.harness import completed as lightr
from .helpers import ITEMS, as_toolkit_file, choices, line, write


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


def test_the_notes_name_prompt_decoding_judge_and_items(evaluation: Path, tmp_path: Path) -> None:
    export_answers(evaluation, tmp_path, to="hub")
    index = yaml.safe_load((tmp_path / "model-index.yaml").read_text())
    _, (result,) = model_index_to_eval_results(index["model-index"])
    assert result.metric_name is not None
    assert result.metric_name.startswith(
        "acc, chat prompt; greedy decoding, at most 48 tokens; judged by math-verify; 12 of 2000 items, 95 % interval "
    )
    assert not (tmp_path / ".eval_results").exists()


@pytest.mark.parametrize("to", ["lm-eval", "hub"])
def test_no_file_is_overwritten(evaluation: Path, tmp_path: Path, to: Any) -> None:
    files = [Path(file) for file in export_answers(evaluation, tmp_path, to=to)["files"]]
    before = [file.read_bytes() for file in files]
    with pytest.raises(DataError, match="exists already"):
        export_answers(evaluation, tmp_path, to=to)
    assert [file.read_bytes() for file in files] == before
    with pytest.raises(DataError, match="cannot write"):
        export_answers(evaluation, files[0], to=to)


def test_a_folder_without_an_evaluation_of_one_model_is_refused(evaluation: Path, tmp_path: Path) -> None:
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


def test_the_command_line_imports_and_exports(evaluation: Path, tmp_path: Path) -> None:
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


def test_import_and_export_need_no_torch() -> None:
    script = (
        "import sys, lightreasoner.evaluation.exports, lightreasoner.evaluation.toolkit_import\n"
        "print({'torch', 'transformers', 'huggingface_hub'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"
