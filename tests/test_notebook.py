"""The notebook runs from its first cell to its last in a real kernel, and shows bars and pages."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.cli import app
from lightreasoner.miniature.word_problems import word_problems

FILE = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"
SIZE = "QUESTIONS = 1000"
SECONDS = 300  # of one cell


def saved() -> dict[str, Any]:
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def test_the_repository_has_the_notebook_without_outputs_and_with_one_size() -> None:
    cells = [cell for cell in saved()["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10
    assert {cell["execution_count"] for cell in cells} == {None}
    assert [cell["outputs"] for cell in cells] == [[]] * 10
    assert sum("".join(cell["source"]).count(SIZE) for cell in cells) == 1


def test_the_commands_in_its_texts_exist() -> None:
    texts = ["".join(cell["source"]) for cell in saved()["cells"] if cell["cell_type"] == "markdown"]
    for command in re.findall(r"`lightr ([^`]+)`", "".join(texts)):
        assert app.parse_commands(command.split())[0]


def small(file: Path) -> Any:
    """The notebook with few questions; then its last cells once more, with models and a file of this machine."""
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
    book = nbformat.read(FILE, 4)
    (settings,) = [cell for cell in book.cells if SIZE in cell.source]
    settings.source = settings.source.replace(SIZE, "QUESTIONS = 12")
    own = {'"Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-0.5B"': '"miniature/expert", "miniature/base"'}
    own |= {'"gsm8k", "gsm8k"': f'"{file}", "{file}"', '"max_answer_tokens": 512': '"max_answer_tokens": 24'}
    settings, run = book.cells[-2:]
    text = settings.source
    for known, changed in own.items():
        assert known in text
        text = text.replace(known, changed)
    book.cells += [nbformat.v4.new_code_cell(text), nbformat.v4.new_code_cell(run.source)]
    return book


@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("nbclient", reason="needs the extra dev")
    pytest.importorskip("ipykernel", reason="needs the extra dev")
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    problems = [problem for problem, _ in zip(word_problems("test", seed=5), range(3), strict=False)]
    rows = [{"question": problem.question, "answer": problem.answer} for problem in problems]
    own = tmp_path / "problems.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    updates: list[dict[str, str]] = []

    class Client(client.NotebookClient):  # type: ignore[misc, name-defined]
        def process_message(self, message: Any, cell: Any, cell_index: int) -> Any:
            if message["msg_type"] == "update_display_data":
                updates.append(message["content"]["data"])
            return super().process_message(message, cell, cell_index)

    book = small(own)
    Client(book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = {number: cell.outputs for number, cell in enumerate(book.cells) if cell.cell_type == "code"}
    bundled = list(outputs.values())[:8]  # two steps on own models give a warning about their small effect
    assert [output for found in bundled for output in found if output.get("name") == "stderr"] == []
    shown = [output["data"].get("text/html", "") for found in outputs.values() for output in found if "data" in output]
    bars = [text for text in shown if text.startswith("<progress")]
    assert {"sampling", "fine-tuning", "judging arithmetic"} <= {
        html.unescape(re.sub("<.*?> ", "", bar)).partition(":")[0] for bar in bars
    }
    assert all(re.match(r'<progress value="(\d+)" max="\1">', bar) for bar in bars), bars
    # Bars move while their cell runs, by a thread too: not every update says that it is done.
    drawn = [re.match(r'<progress value="(\d+)" max="(\d+)">', update["text/html"]) for update in updates]
    assert any(found and int(found[1]) < int(found[2]) for found in drawn)
    pages = [html.unescape(text.partition('srcdoc="')[2]) for text in shown if text.startswith("<iframe")]
    assert ["data-block-0" in page for page in pages] == [True] * 4  # question, samples, report, own report
    assert all('sandbox="allow-scripts"' in text for text in shown if text.startswith("<iframe"))
    *_, skipped, also_skipped, ready, _ = outputs.values()
    assert re.match("skipped: cannot load data set openai/gsm8k .*Couldn't reach", skipped[0]["text"])
    assert "skipped" in also_skipped[0]["data"]["text/plain"]
    assert ready[0]["text"].startswith("ready: miniature/expert against miniature/base")
    assert (tmp_path / "runs" / "own" / "summary.json").is_file()
    compared = "".join(output.get("text", "") for found in outputs.values() for output in found)
    assert re.search(r"arithmetic: [\d.]+% before, [\d.]+% after; gain [+-][\d.]+% \(95 % interval ", compared)
