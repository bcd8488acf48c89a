r"""Boxes in a model's text: `\boxed{42}`, `\boxed 5`, `\boxed {42}`, `\fbox{42}`, and several boxes in one sentence."""

import re
from collections.abc import Iterator
from typing import NamedTuple

MOST_BOXES = 100  # of more boxes the last ones are read

# "\x08oxed" is what a JSON parser makes of "\boxed".
_COMMAND = re.compile(r"(?:\\boxed|\x08oxed|(?<![A-Za-z\\])boxed(?=\{)|\\fbox|\\framebox)(?![A-Za-z])[ \t]*")
_BRACE = re.compile(r"[{}]")
_UNBRACED = re.compile(r"-?(?:\d+(?:[.,]\d+)*|\\[dt]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|\d\s*\d)|[A-Za-z](?![A-Za-z]))")
# "Write \boxed{your answer}": a box that says where an answer would go.
_PLACEHOLDER = re.compile(
    r"(?=[^\n]*(?:your|answer|result|solution|number|value|letter|here|option|choice|\.{3}|…|dots|\?|_))"
    r"(?:\\(?:text|mathrm)\{)?(?:your|the|my|an?|final|correct|answer|result|solution|number|value|letter|here|insert"
    r"|option|choice|\.{3}|…|\\[lc]?dots|\\cdots?|\?|[\s()\[\]<>_])+\}?",
    re.IGNORECASE,
)
# Between two boxes that belong together: "and", "or" or a comma, and perhaps a unit or the next variable.
_LAYOUT = re.compile(r"\$|\\[()\[\]]|\\(?:text|mathrm|quad|qquad)\b|[{}&*]|\\\\|\\[,;: ]")
_JOINED = re.compile(
    r"\s*(?:(?!no\b|not\b|wait\b)[^\W\d_]+\s*)?"
    r"(?:(?:,|;|,?\s*\b(?:and|or)\b)\s*(?:[A-Za-z]\w?(?:\(\w\))?'*\s*=\s*)?|\s*[A-Za-z]\w?'*\s*=\s*)[-−]?\s*"
)
_OUTER_SPACE = re.compile(r"\A(?:\s|\\[\s,;:!~])+|(?:\s|\\(?:\s|[,;:!~]|\Z))+\Z")
_LONGEST_JOIN = 60  # characters
_SIGN_BEFORE = re.compile(r"(?:\A|[=$(\[:,]|\b(?:is|are|be|to|of|and|or))\s*[-−–]\s*\Z")
_PERCENT_BEHIND = re.compile(r"\s*\$?\s*\\?%")


_DENIED = re.compile(r"\b(?:not|rather than|instead of)[\s$(\\\[]*\Z", re.IGNORECASE)


class Box(NamedTuple):
    """A box: where its command begins, where it ends, what is in it, and whether it is closed."""

    start: int
    end: int
    content: str
    closed: bool = True


def boxed_answer(text: str) -> str | None:
    r"""What the last box holds; with a comma between them, what the last boxes of one sentence hold.

    Boxes that are empty, only say where an answer goes or are denied ("not \boxed{42}") are passed over, and so is one
    that the end of the text cuts off behind another. A minus sign before a box and a sign of
    percent behind it belong to the answer.
    """
    boxes = [box for box in find_boxes(text) if _says_something(box.content)]
    boxes = [box for box in boxes if not _DENIED.search(text, max(0, box.start - 24), box.start)] or boxes
    if len(boxes) > 1 and not boxes[-1].closed and not text[boxes[-1].end :].strip():
        boxes.pop()  # a repetition that is cut off
    if not boxes:
        return None
    first = len(boxes) - 1
    while first and _belong_together(text[boxes[first - 1].end : boxes[first].start]):
        first -= 1
    return ", ".join(dict.fromkeys(_with_sign(text, box) for box in boxes[first:]))


def last_boxed(text: str) -> str | None:
    r"""Content of the last box; None without one.

    An unclosed box extends to the end of its line, because a text that was cut off can still hold the answer.
    """
    boxes = find_boxes(text)
    return boxes[-1].content if boxes else None


def find_boxes(text: str) -> list[Box]:
    """The boxes of a text in order, those within others too."""
    first = text.find("ox")
    if first < 0:
        return []
    commands = list(_COMMAND.finditer(text, max(0, first - len(r"\frameb"))))[-MOST_BOXES:]
    if not commands:
        return []
    partners = _closing_braces(text, commands[0].start())
    return list(_boxes(text, commands, partners))


def _boxes(text: str, commands: list[re.Match[str]], partners: dict[int, int]) -> Iterator[Box]:
    for command in commands:
        start, inside = command.start(), command.end()
        if text[inside : inside + 1] == "{":
            end = partners.get(inside)
            if end is not None:
                yield Box(start, end + 1, text[inside + 1 : end])
            else:
                content = text[inside + 1 :].partition("\n")[0]
                yield Box(start, inside + 1 + len(content), content, closed=False)
        elif found := _UNBRACED.match(text, inside):
            yield Box(start, found.end(), found[0])


def _closing_braces(text: str, start: int) -> dict[int, int]:
    """Position of the closing brace of each opening one."""
    partners: dict[int, int] = {}
    unclosed: list[int] = []
    for brace in _BRACE.finditer(text, start):
        if brace[0] == "{":
            unclosed.append(brace.start())
        elif unclosed:
            partners[unclosed.pop()] = brace.start()
    return partners


def _says_something(content: str) -> bool:
    bare = content.strip(" \t\n$~.\\,;")
    return bool(bare) and not _COMMAND.search(content) and not (len(bare) < 60 and _PLACEHOLDER.fullmatch(bare))


def _belong_together(between: str) -> bool:
    return len(between) <= _LONGEST_JOIN and _JOINED.fullmatch(_LAYOUT.sub(" ", between)) is not None


def _with_sign(text: str, box: Box) -> str:
    content = _OUTER_SPACE.sub("", box.content)
    if not content.startswith(("-", "−", "+", "\\pm")) and _SIGN_BEFORE.search(
        text[max(0, box.start - 12) : box.start]
    ):
        content = f"-{content}"
    return content + ("\\%" if _PERCENT_BEHIND.match(text, box.end) and "%" not in content else "")


def closing(text: str, pair: str) -> int | None:
    """Position of the bracket that closes the first one of a text; None if unclosed."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == pair[0]) - (character == pair[1])
        if depth == 0:
            return position
    return None
