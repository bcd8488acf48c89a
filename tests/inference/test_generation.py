"""Stop texts: rows end where a stop text is complete, whatever the tokenizer."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, StopStringCriteria

from lightreasoner.inference.generation import text_check
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.source import find_model


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that joins words with spaces, which `StopStringCriteria` cannot read."""
    vocabulary = {word: index for index, word in enumerate(["?", "the", "answer", "stop", "here"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def ends(tokenizer: PreTrainedTokenizerBase, stop: str, *texts: str) -> list[bool]:
    check = text_check((stop,), tokenizer)
    return [
        bool(check(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]), None)[0]) for text in texts
    ]


def test_the_end_of_a_stop_text_is_found_where_transformers_refuses_the_tokenizer() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        StopStringCriteria(words(), ["stop here"])
    assert ends(words(), "stop here", "the answer stop", "the answer stop here", "here stop") == [False, True, False]


def test_both_checks_agree_on_a_real_tokenizer() -> None:
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    assert ends(tokenizer, "\n\nQuestion:", "It is 5.", "It is 5.\n\nQuestion:", "Question: 5") == [False, True, False]
