"""Random bytes: parsers accept them, or refuse them with an error of this package."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightreasoner.config import RunConfig
from lightreasoner.config.sections import QuestionSettings
from lightreasoner.data.own import chosen_benchmarks
from lightreasoner.data.problems import load_problems
from lightreasoner.errors import LightReasonerError
from lightreasoner.evaluation.grade_file import grade_file
from lightreasoner.grading import qwen_toolkit as toolkit
from lightreasoner.grading.extraction import extract_answer, extract_choice, last_boxed, stated_answer
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.recipes import load_recipe
from lightreasoner.runs.stage import open_stage
from lightreasoner.samples.archives import open_archive
from lightreasoner.samples.jsonl_lines import LineReader

from .harness import count

CASES = 150
bounded = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["question", "problem", "prompt", "messages", "answer", "solution", "id", "x"])
TURNS = st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), JSON | st.sampled_from(["user", "gpt"]))
ROWS = st.dictionaries(FIELDS, JSON | st.text(min_size=1) | st.lists(TURNS, max_size=3), max_size=4)
LINES = st.lists(ROWS | JSON, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode())


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file with some bytes replaced, removed or doubled."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(changed) - 1)))
        end = min(len(changed), start + draw(st.integers(0, 40)))
        changed[start:end] = draw(st.sampled_from([b"", bytes(changed[start:end]) * 2]) | st.binary(max_size=8))
    return bytes(changed)


def only_our_errors(work: Callable[[], Any]) -> None:
    count(bad_inputs=1)
    try:
        work()
    except LightReasonerError as error:
        assert str(error)
    except Exception:
        count(crashes=1)
        raise


@bounded
@given(content=st.binary(max_size=300) | LINES, suffix=st.sampled_from(["", ".jsonl", ".json", ".csv", ".tsv", ".txt"]))
def test_problems(content: bytes, suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"problems{suffix}"
    file.write_bytes(content)
    only_our_errors(lambda: load_problems(str(file), limit=5))


@bounded
@given(content=LINES, kind=st.sampled_from([None, "number", "expression", "choice", "text"]))
def test_own_benchmarks(content: bytes, kind: Any, tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_bytes(content)
    only_our_errors(lambda: chosen_benchmarks(QuestionSettings(benchmarks=(str(file),), answer_kind=kind)))


@bounded
@given(data=st.data())
def test_problems_in_a_damaged_parquet_file(data: Any, sampled: Path, tmp_path: Path) -> None:
    file = tmp_path / "problems.parquet"
    file.write_bytes(data.draw(damaged((sampled / "sample/rollouts-00000.parquet").read_bytes())))
    only_our_errors(lambda: load_problems(str(file), limit=5))


RECIPE = b"""expert: miniature/expert
amateur: miniature/base
dataset: arithmetic
sample: {max_questions: 10, divergence_beta: 0.4}
finetune:
  lora_targets: [q_proj, v_proj]
evaluate: {benchmarks: [gsm8k]}
"""


@bounded
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | damaged(RECIPE))
def test_recipes(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    only_our_errors(lambda: RunConfig.checked(load_recipe(str(file))))


@settings(bounded, max_examples=40)
@given(data=st.data(), name=st.sampled_from(["ledger.jsonl", "manifest.json", "result.json", "steps-00001.parquet"]))
def test_run_folders(data: Any, name: str, sampled: Path, tmp_path: Path) -> None:
    """All rows read from a damaged folder were committed."""
    out = tmp_path / "run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(sampled, out)
    file = out / "sample" / name
    manifest = json.loads((sampled / "sample/manifest.json").read_text())["fingerprint"]
    known = {row["question_id"] for row in _rollouts(sampled, manifest)}
    file.write_bytes(data.draw(damaged(file.read_bytes())))

    def reopen() -> None:
        assert {row["question_id"] for row in _rollouts(out, manifest)} <= known

    only_our_errors(reopen)


def _rollouts(run: Path, fingerprint: dict[str, Any]) -> list[dict[str, Any]]:
    with open_stage(run, "sample", fingerprint) as stage:
        stage.counts, stage.settled_ids, stage.digest  # noqa: B018
        return [row for table in stage.tables("rollouts") for row in table.to_pylist()]


@pytest.fixture(scope="module")
def reader() -> LineReader:
    return LineReader("miniature/expert", PromptTemplate(load_tokenizer(find_model("miniature/expert"))), None)


GOOD = {"prompt_id": "What is 2 + 2?", "step": 0, "prefix": "", "token_ids": [40, 50], "weights": [0.5, 0.5]}
LINE = json.dumps({**GOOD, "kl_divergence": 1.0, "prompt_ids": [5, 6], "response_ids": [], "taken_id": 40}).encode()


@bounded
@given(line=st.binary(max_size=200) | damaged(LINE))
def test_imported_samples(line: bytes, reader: LineReader) -> None:
    only_our_errors(lambda: reader.read("file, line 1", line))


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples.jsonl", LINE * 20)
        archive.writestr("readme.md", b"text")
    return buffer.getvalue()


@bounded
@given(content=st.binary(max_size=200) | damaged(_archive()))
def test_archives(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "s.zip"
    file.write_bytes(content)

    def unpack() -> None:
        text = open_archive(file, None)
        with text.open() as lines:
            assert len(lines.read()) == text.size

    only_our_errors(unpack)
    assert [path.name for path in tmp_path.iterdir()] == ["s.zip"]


PIECES = st.sampled_from(
    [
        r"\boxed{",
        "}",
        "{",
        "The answer is ",
        "answer: ",
        "#### ",
        "42",
        "-1,234.5",
        r"\frac{1}{2}",
        "**",
        "$",
        "(B)",
        "\n",
    ]
)
TEXTS = st.text(max_size=80) | st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join)


@bounded
@given(text=TEXTS)
def test_answers_are_found_in_any_text(text: str) -> None:
    for extract in (extract_answer, stated_answer, last_boxed, extract_choice, toolkit.extract, toolkit.choice):
        only_our_errors(lambda extract=extract: extract(text))  # type: ignore[misc]


@settings(bounded, max_examples=25)
@given(content=st.binary(max_size=100) | LINES)
def test_files_to_grade(content: bytes, tmp_path: Path) -> None:
    file, out = tmp_path / "outputs.jsonl", tmp_path / "verdicts.jsonl"
    out.unlink(missing_ok=True)
    file.write_bytes(content)  # rows without gold and text, so nothing is judged
    only_our_errors(lambda: grade_file(file, out=out, judge="toolkit", seconds=5, megabytes=512, workers=1))
