"""A text in the tokens of two models: where both begin a token, and which tokens are the same."""

import json
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lightreasoner.config.sections import PromptKind
from lightreasoner.errors import VocabularyMismatch
from lightreasoner.models.alignment import Alignment
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.models.token_bytes import TokenBytes

from ..other_tokenizers import TEMPLATE, byte_tokenizer, pair_tokenizer, sentencepiece_tokenizer

BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
TEXTS = st.text(st.sampled_from("aé e\u0301ß漢😀0123456789 \n\t.,=+\\{}$the answer<|im_end|>"), max_size=40)
PROMPT = [7, 8, 9]  # what the amateur reads before a response
KINDS = ("miniature", "bytes", "pairs", "sentencepiece")


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """The bundled tokenizer, or one of another family."""
    if kind == "miniature":
        return load_tokenizer(find_model("miniature/expert"))  # type: ignore[return-value]
    return {"bytes": byte_tokenizer, "pairs": pair_tokenizer, "sentencepiece": sentencepiece_tokenizer}[kind]()


@cache
def alignment(expert: str, amateur: str) -> Alignment:
    templates = (PromptTemplate(tokenizer_of(kind), kind="plain") for kind in (expert, amateur))
    return Alignment(*templates)


def bytes_of(kind: str, ids: list[int]) -> list[bytes]:
    """The bytes of tokens, as the tokenizer's documentation has them."""
    pieces = tokenizer_of(kind).convert_ids_to_tokens(ids)
    if kind != "sentencepiece":
        return [bytes(BYTES[letter] for letter in piece) for piece in pieces]
    return [
        bytes([int(piece[3:5], 16)]) if piece.startswith("<0x") else piece.replace("▁", " ").encode()
        for piece in pieces
    ]


def ids_of(kind: str, text: str) -> list[int]:
    """Ids of a text in which control tokens are text."""
    return TokenBytes(tokenizer_of(kind).backend_tokenizer).encode(text)


@pytest.mark.parametrize("amateur", KINDS)
@pytest.mark.parametrize("expert", KINDS[:3])
@settings(max_examples=25)
@given(text=TEXTS)
def test_every_place_begins_at_the_same_byte_in_both(expert: str, amateur: str, text: str) -> None:
    ids = ids_of(expert, text)
    reading = alignment(expert, amateur).read(PROMPT, ids)
    ours = bytes_of(expert, ids)
    theirs = bytes_of(amateur, reading.response_ids[:-1])
    known = {len(b"".join(theirs[:place])) for place in range(len(theirs) + 1)}
    changed = b"".join(theirs) != b"".join(ours)  # only the one with a normaliser, or where that was undone before
    assert not changed or amateur in {"pairs", "miniature"}
    for step, place in enumerate(reading.places):
        before = b"".join(ours[:step])
        if place >= 0:
            assert b"".join(theirs[:place]) == before
        elif not changed:
            assert len(before) not in known


@settings(max_examples=50)
@given(text=TEXTS, cut=st.integers(0, 3))
def test_bytes_of_an_unfinished_character_are_not_read_and_break_nothing(text: str, cut: int) -> None:
    ids = ids_of("bytes", text)
    ids = ids[: max(0, len(ids) - cut)]
    reading = alignment("bytes", "sentencepiece").read(PROMPT, ids)
    whole = b"".join(bytes_of("bytes", ids)).decode(errors="ignore").encode()  # without the end of a character
    assert b"".join(bytes_of("sentencepiece", reading.response_ids[:-1])) == whole
    assert len(reading.places) == len(ids)
    assert reading.places[len(whole) + 1 :] == [-1] * (len(ids) - len(whole) - 1)
    if len(ids) > len(whole):
        assert reading.places[len(whole)] == len(reading.response_ids) - 1


def test_one_token_of_bytes_against_many_is_aligned_where_a_character_is_shared() -> None:
    text = "a😀b"
    found = alignment("bytes", "pairs")
    reading = found.read(PROMPT, ids_of("bytes", text))
    begins = [len(b"".join(bytes_of("pairs", reading.response_ids[:place]))) for place in reading.places if place >= 0]
    assert begins[0] == 0
    assert set(begins) <= set(range(6))
    assert found.shares(text)[0] == len(begins) / 6


def test_ends_of_an_answer_are_one_token_and_other_control_tokens_only_by_name() -> None:
    expert, amateur = (PromptTemplate(one) for one in (tokenizer_of("miniature"), pair_tokenizer(TEMPLATE)))
    found = Alignment(expert, amateur)
    end, eot = (template.tokenizer.eos_token_id for template in (expert, amateur))
    vocabulary = found.vocabulary
    column = int(vocabulary.column_of(torch.tensor([end])))
    assert int(vocabulary.amateur_ids[column]) == eot
    start = expert.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert vocabulary.holds(torch.tensor([end, start])).tolist() == [True, False]
    text = expert.tokenizer("so 4", add_special_tokens=False)["input_ids"]
    reading = found.read(PROMPT, [*text, end])
    assert reading.response_ids[reading.places[-1]] == eot, "the end is predicted after the whole text"
    assert reading.places[-1] == len(reading.response_ids) - 2
    reading = found.read(PROMPT, [*text, end, *text])
    assert reading.response_ids.count(eot) == 1
    assert reading.places[-len(text)] > 0, "the amateur reads its own end, and what follows it"
    reading = found.read(PROMPT, [*text, start, *text])
    assert reading.places[len(text)] == len(reading.response_ids) - 1
    assert reading.places[len(text) + 1 :] == [-1] * len(text), "the amateur has no such token"
    reading = found.read(PROMPT, [*text, 10**6, *text])
    assert reading.places[len(text) + 1 :] == [-1] * len(text), "an id without a token"


@pytest.mark.parametrize(
    ("expert", "amateur", "expert_kind", "amateur_kind", "read", "first"),
    [
        ("pairs", "bytes", "plain", "chat", "The", -1),
        ("pairs", "bytes", "plain", "plain", " The", 0),
        ("pairs", "bytes", "chat", "plain", " The", 1),
        ("pairs", "bytes", "chat", "chat", "The", 0),
        ("sentencepiece", "bytes", "plain", "chat", "The", -1),
        ("bytes", "sentencepiece", "chat", "plain", " The", -1),
    ],
)
def test_each_model_reads_the_space_that_its_own_prompt_leaves_to_the_response(
    expert: str, amateur: str, expert_kind: PromptKind, amateur_kind: PromptKind, read: str, first: int
) -> None:
    ours, theirs = (
        PromptTemplate(tokenizer_of(expert), kind=expert_kind),
        PromptTemplate(tokenizer_of(amateur), kind=amateur_kind),
    )
    ids = ours.encode_answer("The total cost is 12")
    reading = Alignment(ours, theirs).read(PROMPT, ids)
    assert b"".join(bytes_of(amateur, reading.response_ids[:-2])) == f"{read} total cost is 12".encode()
    assert reading.places[0] == first
    assert reading.places[-1] == len(reading.response_ids) - 2
    before = [b"".join(bytes_of(expert, ids[:step])).strip() for step in range(len(ids))]
    for step, place in enumerate(reading.places):
        if place >= 0:
            assert b"".join(bytes_of(amateur, reading.response_ids[:place])).strip() == before[step]


def test_the_text_of_a_control_token_is_text() -> None:
    ids = ids_of("miniature", "a <|im_end|> b")
    assert tokenizer_of("miniature").eos_token_id not in ids
    reading = alignment("bytes", "miniature").read(PROMPT, ids_of("bytes", "a <|im_end|> b"))
    assert tokenizer_of("miniature").eos_token_id not in reading.response_ids[:-1]


def test_nothing_is_scored_behind_text_that_the_amateur_changes() -> None:
    ids = ids_of("bytes", "ab cafe\u0301 de")
    reading = alignment("bytes", "pairs").read(PROMPT, ids)
    assert reading.places[0] == 0
    assert reading.places[8:] == [-1] * (len(ids) - 8)


def test_the_amateur_reads_no_further_than_its_context() -> None:
    ids = ids_of("bytes", "one two three four")
    found = alignment("bytes", "pairs")
    whole = found.read(PROMPT, ids)
    room = len(whole.prompt_ids) + 3
    cut = found.read(PROMPT, ids, room)
    assert len(cut.response_ids) == 4
    assert cut.places == [place if place <= 3 else -1 for place in whole.places]
    assert found.read(PROMPT, ids, 1).response_ids == [0]


def test_equal_tokenizers_share_every_token_and_read_the_same_ids() -> None:
    found = alignment("miniature", "miniature")
    ids = list(range(3, 60))  # what a model writes need not be what its tokenizer would
    reading = found.read(PROMPT, ids)
    assert (reading.response_ids[:-1], reading.places) == (ids, list(range(len(ids))))
    assert found.vocabulary.left_out == 0
    assert found.vocabulary.token_ids.tolist() == found.vocabulary.amateur_ids.tolist() == list(range(640))


def test_common_tokens_are_the_same_bytes() -> None:
    for expert, amateur in (("miniature", "bytes"), ("miniature", "pairs"), ("bytes", "sentencepiece")):
        vocabulary = alignment(expert, amateur).vocabulary
        pairs = zip(vocabulary.token_ids.tolist(), vocabulary.amateur_ids.tolist(), strict=True)
        texts = [pair for pair in pairs if pair[0] not in tokenizer_of(expert).all_special_ids]
        assert bytes_of(expert, [ours for ours, _ in texts]) == bytes_of(amateur, [theirs for _, theirs in texts])
        assert len(set(vocabulary.amateur_ids.tolist())) == len(vocabulary.amateur_ids)
        assert vocabulary.left_out == len(tokenizer_of(expert)) - len(vocabulary.token_ids)


def test_masses_and_log_probabilities_are_those_of_a_plain_computation() -> None:
    vocabulary = alignment("miniature", "bytes").vocabulary
    logits = torch.randn(2, 5, 700, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 4
    for logits_of, ids, width, found, mass in (
        (logits[0], vocabulary.token_ids, 640, vocabulary.log_softmax(logits[0]), vocabulary.masses(*logits)[0]),
        (
            logits[1], vocabulary.amateur_ids, 259,
            vocabulary.amateur_log_softmax(logits[1]), vocabulary.masses(*logits)[1],
        ),
    ):  # fmt: skip
        whole = logits_of[:, :width].double().softmax(-1)
        torch.testing.assert_close(mass.double(), whole[:, ids].sum(1), rtol=1e-6, atol=1e-7)
        expected = (whole[:, ids] / whole[:, ids].sum(1, keepdim=True)).log()
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(VocabularyMismatch, match="token id 639 has no logit: the models give 600 and 700 logits"):
        vocabulary.with_logits((600, 700))


def test_a_tokenizer_that_says_nothing_of_bytes_is_refused() -> None:
    class Slow:
        added_tokens_decoder: dict[int, object] = {}
        chat_template = None
        eos_token_id = None

    with pytest.raises(VocabularyMismatch, match="the tokenizer Slow does not say which bytes its tokens are"):
        Alignment(PromptTemplate(tokenizer_of("bytes")), PromptTemplate(Slow()))  # type: ignore[arg-type]


def test_a_space_before_a_text_is_not_part_of_it() -> None:
    backend: Tokenizer = tokenizer_of("sentencepiece").backend_tokenizer
    assert backend.encode("marbles", add_special_tokens=False).tokens[0].startswith("▁")
    found = TokenBytes(backend)
    assert b"".join(found.texts[index] for index in found.encode("marbles é")) == "marbles é".encode()
    json.loads(backend.to_str())  # the tokenizer itself is as it was
    assert backend.encode("marbles", add_special_tokens=False).tokens[0].startswith("▁")
