"""Pages in the output of a notebook's cell; `test_page.py` opens one in a browser."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from lightreasoner import show
from lightreasoner.errors import DataError

from ..fake_runs import fake_rollout, write_samples
from .helpers import read_blocks


def framed(page: object) -> str:
    """The page in the frame that a notebook gets."""
    text: str = page._repr_html_()  # type: ignore[attr-defined]
    found = re.fullmatch(r'<iframe sandbox="allow-scripts" style="[\w:%; ]+" srcdoc="([^"]*)"></iframe>', text)
    assert found is not None
    return html.unescape(found[1])


def test_a_cell_shows_the_report_of_a_run_and_writes_nothing_there(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rng = np.random.default_rng(0)
    question = 'How many "are" </iframe><script>1</script> &quot; left?'
    rows = [fake_rollout(number, question, range(3, 40), len(tokenizer), rng) for number in range(5)]
    write_samples(tmp_path, rows, tokenizer)
    before = sorted(tmp_path.rglob("*"))
    page = show(tmp_path, rollouts=3, height=500)
    assert sorted(tmp_path.rglob("*")) == before
    assert repr(page) == "Page(height=500)"
    assert "height: 500px" in page._repr_html_()
    assert framed(page) == page.text
    blocks = dict(read_blocks(page.text.encode()))
    assert [row["q"] for row in blocks["index-0"]] == [question] * 3
    assert framed(show(str(tmp_path), rollouts=9)).startswith("<!doctype html>")


def test_a_cell_shows_a_page_of_inspect(tmp_path: Path) -> None:
    file = tmp_path / "question.html"
    file.write_text("<!doctype html>\n<p>Fünf &amp; sechs</p>", encoding="utf-8")
    assert framed(show(file)) == file.read_text(encoding="utf-8")


def test_what_is_no_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        show(tmp_path)
    with pytest.raises(DataError):
        show(tmp_path / "absent")
    (tmp_path / "weights").write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match="no HTML page of this package"):
        show(tmp_path / "weights")
