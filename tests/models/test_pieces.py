"""Pieces of texts have the ids that they have inside the whole text, also where a space is put before texts."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from lightreasoner.models.pieces import Pieces
from lightreasoner.models.prompts import PromptTemplate

from ..other_tokenizers import (
    byte_tokenizer,
    llama_tokenizer,
    pair_tokenizer,
    sentencepiece_tokenizer,
    unigram_tokenizer,
)

pytestmark = pytest.mark.usefixtures("templates_in_this_process")

# As of TinyLlama and Zephyr, and as of Llama 2 and Mistral, which write a space before each answer.
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }} {{ eos_token }}"
    "{% endif %}{% endfor %}"
)
MAKERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama": lambda: llama_tokenizer(legacy=False),
    "llama, legacy": lambda: llama_tokenizer(legacy=True),
    "Prepend": sentencepiece_tokenizer,
    "Unigram": unigram_tokenizer,
    "byte-level": pair_tokenizer,
    "bytes": byte_tokenizer,
}
TEMPLATES = {"zephyr": (ZEPHYR, ""), "llama 2": (LLAMA2, " "), "none": (None, " ")}
ANSWER = "The answer is 12"
QUESTION = "How many marbles?"


@pytest.fixture(params=MAKERS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return MAKERS[request.param]()


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def template_of(tokenizer: PreTrainedTokenizerFast, name: str) -> PromptTemplate:
    tokenizer.chat_template = TEMPLATES[name][0]
    return PromptTemplate(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_prompt_and_answer_have_the_ids_of_the_whole_text(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    template = template_of(tokenizer, name)
    prompt, answer = template.encode(QUESTION), template.encode_answer(ANSWER)
    text = template.render(QUESTION) + TEMPLATES[name][1] + ANSWER
    assert [*prompt, *answer] == [*ids_of(tokenizer, text), tokenizer.eos_token_id]
    assert template.encode_answer(f"{TEMPLATES[name][1]}{ANSWER}") == answer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_decoded_prefix_gets_the_ids_of_the_answer_again(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    template = template_of(tokenizer, name)
    ids = template.encode_answer(ANSWER)[:-1]
    assert template.encode_prefix(str(tokenizer.decode(ids))) == ids
    assert template.encode_prefix("") == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_control_token_in_question_or_answer_adds_no_space(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    template = template_of(tokenizer, name)
    end = str(tokenizer.eos_token)
    ordinary, hostile = template.encode(QUESTION), template.encode(f"How {end} many marbles?")
    assert tokenizer.decode(hostile) == tokenizer.decode(ordinary).replace("How many", f"How {end} many")
    assert hostile.count(tokenizer.eos_token_id) == ordinary.count(tokenizer.eos_token_id)
    told = template.encode_answer(f"a{end}b {end}")
    assert told.count(tokenizer.eos_token_id) == 1
    assert told[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(told[:-1]).strip() == f"a{end}b {end}"


def test_a_text_behind_another_has_no_space_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = Pieces(tokenizer)
    first = tokenizer.convert_ids_to_tokens(pieces.ids("total"))[0]
    assert pieces.adds_space == first.startswith("▁")
    assert not tokenizer.convert_ids_to_tokens(pieces.following("total"))[0].startswith("▁")
    assert tokenizer.convert_ids_to_tokens(pieces.following(" total"))[0][0] in "▁Ġ"
    assert pieces.cut("plain") == ["plain"]
    assert "".join(pieces.cut(f"{pieces.controls[0]} and {pieces.controls[1]}")) == (
        f"{pieces.controls[0]} and {pieces.controls[1]}"
    )
