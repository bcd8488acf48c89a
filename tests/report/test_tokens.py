"""Texts of token ids: printable, whole characters, ids without a tokenizer."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from lightreasoner.report import report, write_page
from lightreasoner.report.tokens import TokenTexts, visible

from ..fake_runs import fake_rollout, write_samples
from .helpers import read_blocks


def test_without_a_tokenizer_the_report_shows_ids(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_samples(tmp_path, [fake_rollout(0, "How many?", [5, 6, 7], 600, rng)], None)
    found = report(tmp_path)
    assert any("no tokenizer" in text for text in found.missing)
    write_page(tmp_path)
    blocks = dict(read_blocks((tmp_path / "report.html").read_bytes()))
    assert "⟨5⟩" in blocks["browser"]["texts"]


def test_invisible_characters_are_replaced() -> None:
    assert visible("a\x1b[31m\r\x00b\u202e\u2028\u200dc\n\td é😀") == (
        "a⟨U+001B⟩[31m⟨U+000D⟩⟨U+0000⟩b⟨U+202E⟩⟨U+2028⟩⟨U+200D⟩c\n\td é😀"
    )


def test_incomplete_characters_are_shown_as_bytes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = TokenTexts(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    ids = tokenizer("a 😀", add_special_tokens=False)["input_ids"]
    assert texts.join(ids) == "a 😀"
    shown = [texts.token(index).text for index in ids]
    assert shown[-4:] == ["⟨F0⟩", "⟨9F⟩", "⟨98⟩", "⟨80⟩"]
    assert texts.token(10**6).text == "⟨1000000⟩"
    assert texts.join(ids[:-1]).endswith("⟨F0 9F 98⟩")


def test_sentencepiece_tokens_lose_their_marks() -> None:
    tokenizer = Tokenizer(models.BPE({"▁the": 0, "<0xE2>": 1, "a": 2}, []))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    texts = TokenTexts(tokenizer)
    assert [texts.token(index).text for index in range(3)] == [" the", "⟨E2⟩", "a"]
