"""The tokenizer of a model is the one that its tokenizer.json describes, whatever class transformers makes of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.source import ModelSource

from ..other_tokenizers import llama_tokenizer, pair_tokenizer, sentencepiece_tokenizer

TEXT = "That is 12 + 30 = 42 dollars,\nso cafe\u0301."


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path, model_type: str, **settings: Any) -> ModelSource:
    """A folder with this tokenizer and a configuration."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return ModelSource(folder.name, folder)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("lightreasoner.models.tokenizer_file.warn_once", lines.append)
    return lines


@pytest.mark.parametrize(
    ("model_type", "declared"),
    [("qwen2", "Qwen2Tokenizer"), ("qwen2", "LlamaTokenizerFast"), ("qwen2", "PreTrainedTokenizerFast"),
     ("llama", "GPT2Tokenizer")],
)  # fmt: skip
def test_a_tokenizer_of_its_own_is_not_replaced_by_that_of_the_architecture(
    model_type: str, declared: str, tmp_path: Path, warned: list[str]
) -> None:
    source = saved(pair_tokenizer(), tmp_path / "model", model_type, tokenizer_class=declared)
    written = Tokenizer.from_file(str(source.folder / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    assert AutoTokenizer.from_pretrained(source.folder)(TEXT, add_special_tokens=False)["input_ids"] != written
    found = load_tokenizer(source)
    assert found(TEXT, add_special_tokens=False)["input_ids"] == written
    assert (found.eos_token, found.pad_token, found.chat_template) == ("<eot>", "<pad>", pair_tokenizer().chat_template)
    assert warned == []


def test_what_transformers_loads_stays_where_the_ids_are_equal(tmp_path: Path, warned: list[str]) -> None:
    for place, (tokenizer, model_type, settings) in enumerate(
        [
            (sentencepiece_tokenizer(), "llama", {"tokenizer_class": "LlamaTokenizer", "legacy": False}),
            (sentencepiece_tokenizer(), "llama", {"tokenizer_class": "PreTrainedTokenizerFast"}),
            (llama_tokenizer(legacy=True), "mistral", {}),
            (pair_tokenizer(), "llama", {"tokenizer_class": "LlamaTokenizerFast"}),
        ]
    ):
        source = saved(tokenizer, tmp_path / str(place), model_type, **settings)
        assert type(load_tokenizer(source)) is type(AutoTokenizer.from_pretrained(source.folder))
    assert warned == []
