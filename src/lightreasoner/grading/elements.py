"""The elements of tuples, intervals, sets and lists."""

import re
from itertools import pairwise

from lightreasoner.grading.boxes import closing
from lightreasoner.grading.characters import plain_characters

_QUAD = re.compile(r"\\q?quad(?![A-Za-z])")
_APART = re.compile(r"=[^=]*\\q?quad(?![A-Za-z])[^=]*=")  # x = 3 \quad y = 2


def elements(text: str) -> tuple[str, list[str]] | None:
    """The brackets of a tuple, interval, set or list (none for a list), and its elements; None for other texts."""
    text = re.sub(r"\\text\{\s*(?:and|or)\s*\}|\\(?:lor|vee)(?![A-Za-z])|(?<=[\s$])(?:and|or)(?=[\s$])", ",", text)
    text = (
        re.sub(r"\\(?:left|right)(?![A-Za-z])|[$]", "", _angles(plain_characters(text)))
        .replace(r"\{", "{")
        .replace(r"\}", "}")
    )
    if _APART.search(text):
        text = _QUAD.sub(",", text)
    text = re.sub(r",(?:\s*,)+", ",", text.strip().removesuffix("."))
    kind = text[:1] + text[-1:]
    if (
        kind in ("()", "[]", "(]", "[)", "{}")
        and closing(text, kind if kind in ("()", "[]", "{}") else "\0\0") == len(text) - 1
    ):
        text = text[1:-1]
    else:
        kind = ""
    depth, commas = 0, []
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            commas.append(at)
    parts = [text[start + 1 : end].strip() for start, end in pairwise([-1, *commas, len(text)])]
    return (kind, parts) if commas and all(parts) else None


def _angles(text: str) -> str:
    """Angle brackets enclose a vector, like round ones."""
    return text.replace(r"\langle", "(").replace(r"\rangle", ")")
