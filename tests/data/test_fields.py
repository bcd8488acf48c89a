"""Questions in nested fields and chats."""

from typing import Any

import pytest

from lightreasoner.data.fields import MISSING, find, question_of
from lightreasoner.errors import DataError
from lightreasoner.runs.progress import warn_once

ASKED = {"role": "user", "content": "What is 1 + 1?"}
ANSWERED = {"role": "assistant", "content": "It is 2."}
SYSTEM = {"role": "system", "content": "Be brief."}


def row(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "rows.jsonl, line 3", fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meta.question", "a"),
        ("meta.turns.0.content", "b"),
        ("meta.turns.-1.content", "c"),
        ("a.b", "d"),
        ("a.b.c", "e"),
        ("meta.missing", MISSING),
        ("meta.turns.2", MISSING),
        ("meta.turns.x", MISSING),
        ("meta.question.0", MISSING),
        ("none.at.all", MISSING),
        ("null.x", MISSING),
    ],
)
def test_dots_lead_into_nested_fields(name: str, value: object) -> None:
    fields = {
        "meta": {"question": "a", "turns": [{"content": "b"}, {"content": "c"}]},
        "a.b": "d",
        "a": {"b.c": "e"},
        "null": None,
    }
    assert find(fields, name) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [ASKED]},
        {"messages": [SYSTEM, ASKED, ANSWERED]},
        {"prompt": [SYSTEM, ASKED]},
        {"messages": [{"role": "user", "content": "An example?"}, ANSWERED, ASKED]},
        {"conversations": [{"from": "human", "value": "What is 1 + 1?"}, {"from": "gpt", "value": "2"}]},
        {"messages": {"role": ["user", "assistant"], "content": ["What is 1 + 1?", "2"]}},
        {"messages": '[{"role": "user", "content": "What is 1 + 1?"}]'},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is 1 + 1?"}]}]},
        {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": []}]},
        {"Question": "What is 1 + 1?", "question_id": "7"},
        {"QUERY": "What is 1 + 1?", "response": "2"},
    ],
)
def test_the_question_is_the_last_user_turn_of_a_chat_or_a_field_of_any_case(fields: dict[str, Any]) -> None:
    assert question_of(row(**fields)) == "What is 1 + 1?"


def test_a_named_field_may_be_nested_or_a_chat() -> None:
    fields = row(question="no", data={"turns": [ASKED]}, messages=[SYSTEM, ASKED])
    for name in ("data.turns", "messages.1.content", "data.turns.0.content", "messages"):
        assert question_of(fields, name) == "What is 1 + 1?"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": [ANSWERED]}, "the chat in messages has no turn of the user, only of assistant"),
        ({"messages": []}, "messages is [], not a text"),
        ({"messages": "What is 1 + 1?"}, "messages is 'What is 1 + 1?', not a chat in JSON"),
        ({"messages": [{"role": "user"}]}, "messages.0 is {'role': 'user'}, not a turn with a role and a text"),
        ({"messages": [{"content": "x"}]}, "messages.0 is {'content': 'x'}, not a turn"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "not a turn with a role and a text"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages is '  ', not a text"),
        ({"question": {"en": "x"}}, "question is {'en': 'x'}, not a text"),
    ],
)
def test_a_chat_without_a_question_is_refused_with_its_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        question_of(row(**fields))
    assert str(caught.value).startswith("rows.jsonl, line 3: ")
    assert message in str(caught.value)


def test_a_chat_as_json_text_is_read_in_any_field() -> None:
    chat = '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One?"}]'
    assert question_of(("rows.csv, line 2", {"prompt": chat})) == "One?"
    with pytest.raises(DataError, match=r"rows.csv, line 2: prompt is .*, not a chat in JSON"):
        question_of(("rows.csv, line 2", {"prompt": chat.replace('"', "'")}))
    assert question_of(("rows.csv, line 2", {"prompt": "[1, 2] has how many items?"})) == "[1, 2] has how many items?"


def test_a_story_in_a_field_of_its_own_is_asked_with_its_question() -> None:
    fields = {"Body": "Each pack costs 76 dollars", "Question": "What do you pay?", "Answer": 51.0}
    assert question_of(row(**fields)) == "Each pack costs 76 dollars. What do you pay?"
    assert question_of(row(**fields), "Question") == "What do you pay?"
    assert question_of(row(body="It rained.", question="It rained. Why?")) == "It rained. Why?"


@pytest.mark.parametrize("name", ["context", "passage", "Story", "input", "document", "text"])
def test_a_text_that_the_question_may_need_is_not_left_out_in_silence(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {name: "Each pack of dvds costs 76 dollars.", "question": "What do you pay?"}
    with pytest.raises(DataError, match=f"line 3: {name} .* is beside question, and nothing but question is asked"):
        question_of(row(**fields))
    parts = {**fields, name: ["Each pack of dvds", "costs 76 dollars."]}
    with pytest.raises(DataError, match=f"line 3: {name} .* is beside question, and nothing but question is asked"):
        question_of(row(**parts))
    assert question_of(row(**{**fields, name: "User: What do you pay? Bot: 76."})) == "What do you pay?"
    warn_once.cache_clear()
    assert question_of(row(**fields), "question") == "What do you pay?"
    assert f"question is asked alone, as --question-field says, and {name} beside it is not" in caplog.text
    assert question_of(row(**{name: "school", "question": "What do you pay?"})) == "What do you pay?"


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([ASKED], ""),
        ([ASKED, ANSWERED], ""),
        ([{"role": "system", "content": " "}, ASKED], ""),
        ([SYSTEM, ASKED], "chats in messages hold a system message before the last question, which alone is asked"),
        ([SYSTEM, ASKED, ANSWERED, ASKED], "chats in messages hold earlier turns before the last question"),
        ([ASKED, ANSWERED, ASKED], "chats in messages hold earlier turns before the last question"),
    ],
)
def test_a_chat_with_more_than_its_question_is_warned_of(
    turns: list[dict[str, str]], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    question_of(row(messages=turns))
    question_of(row(messages=turns))
    assert [record.getMessage().startswith(said) for record in caplog.records] == [True] * bool(said)
