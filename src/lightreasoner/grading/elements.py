"""The elements of tuples, intervals, sets and lists."""

import re
from itertools import pairwise

from lightreasoner.grading.boxes import closing
from lightreasoner.grading.characters import TEXT_COMMANDS, plain_characters

_QUAD = re.compile(r"\\q?quad(?![A-Za-z])")
_APART = re.compile(r"=[^=]*\\q?quad(?![A-Za-z])[^=]*=")  # x = 3 \quad y = 2
_THIN_SPACE_IN_NUMBER = re.compile(r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))")
SPACE = re.compile(r"(?<!\\)\\[,;:! ]|~")
_WORD = r"(?:[,;]\s*)?(?:and|or)(?:\s*,)?"
# Words and signs between two values, also as text of LaTeX: "and", "或", "、", "\&".
SEPARATOR = re.compile(
    rf"\\(?:text(?:bf|it|rm|sf|normal)?|math(?:rm|bf|it)|mbox|hbox)\s*\{{[\s~]*(?:{_WORD}|[,;和或])[\s~]*"
    r"(approximately|approx\.?|about|roughly)?[\s~]*\}"
    rf"|(?<=[\s$\d)}}\]])(?:{_WORD})(?=[\s$])|\\(?:lor|vee)(?![A-Za-z])|\\&|[、和或]",
    re.IGNORECASE,
)
_AROUND_COMMAS = re.compile(r"(?:\s|\\q?quad(?![A-Za-z]))*,(?:[\s,]|\\q?quad(?![A-Za-z]))*")
_NUMBERS_IN_TEXT = re.compile(r"(?=[^{}]*\d)[^{}]*(?:,|\b(?:and|or)\b)[^{}]*")  # \text{3, 5 and 7}


def separated(text: str) -> str:
    """A list with commas alone between its values, and blanks for all spaces of LaTeX."""
    text = TEXT_COMMANDS.sub(lambda found: found[1] if _NUMBERS_IN_TEXT.fullmatch(found[1]) else found[0], text)
    text = SPACE.sub(" ", _THIN_SPACE_IN_NUMBER.sub("", text))
    return _AROUND_COMMAS.sub(", ", SEPARATOR.sub(lambda found: f", {found[1] or ''} ", text))


def elements(text: str) -> tuple[str, list[str]] | None:
    """The brackets of a tuple, interval, set or list (none for a list), and its elements; None for other texts."""
    text = _angles(plain_characters(text))
    if _APART.search(text):
        text = _QUAD.sub(",", text)
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])|[$]", "", separated(text)).replace(r"\{", "{").replace(r"\}", "}")
    text = text.strip().removesuffix(".")
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
