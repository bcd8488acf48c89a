"""Find a row's question: in a field, in a field of a field, or in a chat."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from string import ascii_uppercase
from typing import Any, NamedTuple

from lightreasoner.data.lines import Row, short
from lightreasoner.errors import DataError
from lightreasoner.runs.progress import warn_once

CHAT_FIELDS = ("messages", "conversations")
QUESTION_FIELDS = ("question", "problem", "prompt", "query", *CHAT_FIELDS)
_CHAT_AS_TEXT = re.compile(r"\s*\[\s*\{\s*[\"'](?:role|from|content|value)[\"']\s*:")
CHOICE_FIELDS = ("choices", "options", "answer_choices", "endings")
_CHOICE_COLUMN = re.compile(r"(?:option|choice|ending|answer_?choice)[ _-]?(?:[a-e]|[0-5])", re.IGNORECASE)
SMALL_LETTERS = "abcd"  # columns that hold choices where all four are there
STORY_FIELD = "body"
CONTEXT_FIELDS = ("context", "passage", "story", "paragraph", "background", "premise", "document", "input", "text")
SHORTEST_CONTEXT = 5  # words; fewer are a remark such as the name of a source
_LABEL = re.compile(r"\s*\(?[A-Za-z0-9]\s*[).:]\s*(?=\S)")  # "A) trout"
MISSING = object()
ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}


class Turn(NamedTuple):
    """One message of a chat; `role` is user, assistant, system or another word of the file."""

    role: str
    text: str


def find(fields: Any, name: str) -> Any:
    """The value of a field, or of a field of a field: `meta.question`, `messages.0.content`, `messages.-1.content`.

    A field whose own name holds dots comes first. Returns `MISSING` if there is none.
    """
    if isinstance(fields, Mapping):
        if name in fields:
            return fields[name]
        for place in (place for place, character in enumerate(name) if character == "."):
            value = find(fields.get(name[:place], MISSING), name[place + 1 :])
            if value is not MISSING:
                return value
    if isinstance(fields, list):
        head, _, rest = name.partition(".")
        if head.removeprefix("-").isdecimal() and -len(fields) <= int(head) < len(fields):
            return find(fields[int(head)], rest) if rest else fields[int(head)]
    return MISSING


def named(row: Row, field: str | None, candidates: Sequence[str], advice: str) -> tuple[str, Any]:
    """Name and value of a field: the given one, or the first of the candidates, whose case does not matter.

    Raises:
        DataError: there is none; says which fields there are.
    """
    where, fields = row
    spelt = {name.casefold(): name for name in reversed(list(fields))}
    names = (field,) if field else [name if name in fields else spelt.get(name, name) for name in candidates]
    found = ((name, find(fields, name)) for name in names)
    if (first := next((pair for pair in found if pair[1] is not MISSING), None)) is not None:
        return first
    raise DataError(
        f"{where}: no field {field or ' or '.join(candidates)} among {', '.join(map(str, fields)) or 'none'}; {advice}"
    )


def question_of(row: Row, field: str | None = None) -> str:
    """The question of a row: a text, or the last user turn of a chat.

    Args:
        row: the row.
        field: field with the question; dots lead into nested fields. Default: the first of `QUESTION_FIELDS`.

    Raises:
        DataError: the field is missing, not text, or blank, or the chat has no user turn.
    """
    name, value = named(row, field, QUESTION_FIELDS, "name the field with the question in --question-field")
    turns = turns_of(row, name, value)
    if turns is not None:
        _say_what_is_left_out(name, turns)
    text = checked_text(row, name, value if turns is None else last_turn(row, name, turns, "user"))
    return _with_story(row, name, text, is_named=field is not None)


def _say_what_is_left_out(name: str, turns: Sequence[Turn]) -> None:
    """Warn where a chat holds more before its last question: an answer may depend on it."""
    last = max((number for number, turn in enumerate(turns) if turn.role == "user"), default=0)
    before = {turn.role for turn in turns[:last] if turn.text.strip()}
    if before:
        what = "a system message" if before == {"system"} else "earlier turns"
        warn_once(f"chats in {name} hold {what} before the last question, which alone is asked, below --cue")


def _with_story(row: Row, name: str, question: str, *, is_named: bool) -> str:
    """A question behind the story that it asks about: SVAMP and ASDiv have both in fields of their own.

    A question in a field that the user named is asked alone.

    Raises:
        DataError: another field of the row may be such a text, and nothing but the question would be asked.
    """
    where, fields = row
    for other, value in fields.items():
        place = str(other).casefold()
        if place not in (STORY_FIELD, *CONTEXT_FIELDS):
            continue
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            value = "\n".join(value)
        # A text that holds the question is another form of it, such as the text of a training.
        if not isinstance(value, str) or not value.strip() or _is_within(value, question):
            continue
        if place == STORY_FIELD and not is_named:
            story = checked_text(row, str(other), value).strip()
            return f"{story}{' ' if story[-1] in '.?!' else '. '}{question.strip()}"
        if is_named and place != STORY_FIELD:
            warn_once(f"{name} is asked alone, as --question-field says, and {other} beside it is not")
        elif not is_named and len(value.split()) >= SHORTEST_CONTEXT:
            raise DataError(
                f"{where}: {other} ({short(value)}) is beside {name}, and nothing but {name} is asked. Write both into "
                f"one field, or give --question-field {name} to ask {name} alone"
            )
    return question


def _is_within(one: str, other: str) -> bool:
    """Whether one of two texts holds the other."""
    one, other = _plain(one), _plain(other)
    return one in other or other in one


def check_choices(row: Row, question: str, field: str | None = None) -> None:
    """Refuse a row with choices that its question does not list, since a model is asked the question only.

    Args:
        row: the row.
        question: its question.
        field: see `question_of`.

    Raises:
        DataError: a choice is missing in the question.
    """
    if found := unlisted_choice(row, question, field):
        key, missing, first = found
        raise DataError(
            f"{row[0]}: the question does not list the choice {short(missing)} of {key}, and nothing but the "
            "question is asked, so the answer would be a guess. Write the choices into the question, such as "
            f"(A) {first[:40]} (B) …; or remove {key} if the question needs no choices"
        )


def unlisted_choice(row: Row, question: str, field: str | None = None) -> tuple[str, str, str] | None:
    """A choice of a row that its question does not list: name of the choices, that choice, and the first of them.

    Choices are a list or a mapping in a field choices or options, or columns A, B, …, beside the question.
    """
    name, _ = named(row, field, QUESTION_FIELDS, "name the field with the question in --question-field")
    asked = _plain(question)
    for place in (row[1], find(row[1], name.rpartition(".")[0])):
        for key, choices in _choices_in(place):
            if missing := [choice for choice in choices if not _lists(asked, choice)]:
                return key, missing[0], choices[0]
    return None


def refuse_index(row: Row, gold: str) -> None:
    """Refuse a gold answer that is the place of a choice: as a number, it would make every answer wrong.

    Raises:
        DataError: the gold answer is a whole number, not larger than the number of choices, and none of them.
    """
    where, fields = row
    if not re.fullmatch(r"\d{1,2}", gold):
        return
    for key, choices in _choices_in(fields):
        texts = {_plain(_LABEL.sub("", choice)) for choice in choices} | {_plain(choice) for choice in choices}
        if gold not in texts and int(gold) <= len(choices):
            raise DataError(
                f"{where}: the gold answer {gold} is none of {key} ({short(choices)}), so it "
                "is probably the place of one, counted from 0 or 1. Give its letter or its text"
            )


def _choices_in(fields: Any) -> Iterator[tuple[str, list[str]]]:
    """Names and texts of choices in fields."""
    if not isinstance(fields, Mapping):
        return
    for name, value in fields.items():
        if str(name).casefold() in CHOICE_FIELDS:
            if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # in CSV
                with suppress(ValueError, RecursionError):
                    value = json.loads(value)
            if isinstance(value, list | Mapping) and (texts := _choice_texts(value)):
                yield str(name), texts
    columns = [str(name) for name in fields if _CHOICE_COLUMN.fullmatch(str(name))]
    if len(texts := _choice_texts([fields[name] for name in columns])) > 1:
        yield f"{columns[0]} … {columns[-1]}", texts
    letters = list(takewhile(fields.keys().__contains__, ascii_uppercase))
    if not letters and all(name in fields for name in SMALL_LETTERS):
        letters = list(SMALL_LETTERS)
    texts = _choice_texts([fields[letter] for letter in letters])
    if len(texts) > 1:
        yield f"{letters[0]} … {letters[-1]}", texts


def _choice_texts(value: Any) -> list[str]:
    """The texts in a list or mapping of choices, without their labels."""
    if isinstance(value, Mapping):
        names = [name for name in ("text", "content", "value") if name in value]
        return _choice_texts([value[name] for name in names[:1]] if names else list(value.values()))
    if isinstance(value, list):
        return [text for one in value for text in _choice_texts(one)]
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return [str(value)] if is_text and str(value).strip() else []


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _lists(question: str, choice: str) -> bool:
    """Whether a question, `_plain`, holds a choice, with or without the choice's own label, as words of its own."""
    for text in (choice, _LABEL.sub("", choice)):
        words = _plain(text).strip(" .,;:")
        if re.search(rf"(?<![a-z0-9]){re.escape(words)}(?![a-z0-9])", question):
            return True
    return False


def hint_of(row: Row, field: str) -> str:
    """A hint in a row: a text that is not blank, or a number.

    Raises:
        DataError: the field is missing, or neither a text nor a number.
    """
    advice = "every problem needs its hint. Name another field in --expert-hint or --amateur-hint, or mend the row"
    name, value = named(row, field, (), advice)
    is_number = type(value) is int or (type(value) is float and math.isfinite(value))
    return checked_text(row, name, str(value) if is_number else value).strip()


def text_of(row: Row, name: str) -> str:
    """A field of a row as text, not blank.

    Raises:
        DataError: the field is missing, not text, or blank.
    """
    return checked_text(row, name, row[1].get(name))


def checked_text(row: Row, name: str, value: Any) -> str:
    """The value of the field `name` if it is a text, not blank, that can be stored; else raises `DataError`."""
    where = row[0]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {short(value)}, not a text; remove or fix the row")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{where}: {name} holds half a character (a lone surrogate); remove or fix the row")
    return value


def turns_of(row: Row, name: str, value: Any) -> list[Turn] | None:
    """The turns of a chat, with `role` and `content` or ShareGPT's `from` and `value`; None for anything else.

    A chat may also be the JSON text of such a list, as in CSV, or a struct of lists, as older versions of `datasets`
    store it.

    Raises:
        DataError: a field of chats holds another text, or a turn has no text.
    """
    where = row[0]
    field = name.rpartition(".")[2].casefold()
    if isinstance(value, str) and (field in CHAT_FIELDS or _CHAT_AS_TEXT.match(value)):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: {name} is {short(value)}, not a chat in JSON; mend the row") from None
    if isinstance(value, Mapping) and {"role", "content"} <= value.keys():
        lists = [value["role"], value["content"]]
        if all(isinstance(one, list) for one in lists):
            value = [dict(zip(("role", "content"), pair, strict=False)) for pair in zip(*lists, strict=False)]
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        return None
    return [_turn(where, f"{name}.{number}", turn) for number, turn in enumerate(value)]


def last_turn(row: Row, name: str, turns: Sequence[Turn], role: str) -> str:
    """The text of the last turn of this role; raises `DataError` if there is none."""
    text = next((turn.text for turn in reversed(turns) if turn.role == role), None)
    if text is None:
        roles = ", ".join(turn.role for turn in turns)
        raise DataError(
            f"{row[0]}: the chat in {name} has no turn of the {role}, only of {roles}; remove or fix the row"
        )
    return text


def last_answer(row: Row, name: str, turns: Sequence[Turn]) -> str:
    """The text of the last turn of the assistant, which answers what `question_of` finds in the same chat.

    Raises:
        DataError: there is none, or the user speaks after it.
    """
    answer = last_turn(row, name, turns, "assistant")
    speakers = [turn.role for turn in turns if turn.role in ("user", "assistant")]
    if speakers[-1] == "user":
        last = next(turn.text for turn in reversed(turns) if turn.role == "user")
        raise DataError(
            f"{row[0]}: the chat in {name} ends with {short(last)} of the user, and its last answer, {short(answer)}, "
            "is to an earlier question, so question and answer do not belong together. Remove what follows the "
            "answer, or give the right answer in a field of its own"
        )
    return answer


def _turn(where: str, name: str, turn: Mapping[str, Any]) -> Turn:
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):  # parts: a text, an image, …
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        known = [text for text in texts if isinstance(text, str)]
        content = "".join(known) if len(known) == len(content) else None
    if not isinstance(role, str) or not isinstance(content, str | None) or (content is None and role == "user"):
        raise DataError(f"{where}: {name} is {short(dict(turn))}, not a turn with a role and a text; mend the row")
    return Turn(ROLES.get(role.casefold(), role.casefold()), content or "")
