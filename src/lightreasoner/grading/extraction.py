r"""Find the final answer in a model's text.

An answer is looked for where the prompt asked for it first (`\boxed{…}`), then in the phrases that models use
instead, then at the end of the text.
"""

import re

# A sentence ends with a full stop and a space, but not the one of an abbreviation: "Mrs. Hilt", "3:30 p.m. today".
_SENTENCE_END = r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\b[ap]\.m)\.\s"
_PHRASES = (
    re.compile(rf"(?:final )?answer(?: is\b:?|:)(?:\*\*)?\s*(.+?)(?:{_SENTENCE_END}|$)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"^####\s*(.+)$", re.MULTILINE),
)
# Markdown's bold marks, but not the double asterisks that mean a power: "x**2", "(x+1)**2".
_BOLD = re.compile(r"(?<![\w)}])\*\*(?=\S)|(?<=\S)\*\*(?![\w({\\])")
# Digits with thousands separators where they belong, so that "3,4" stays two numbers; then an exponent of ten or a
# denominator.
NUMBER = re.compile(r"-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.])|\s*/\s*\d+)?")

_LONE_LETTER = re.compile(r"(?<![A-Za-z\\'])\(?([A-E])\)?(?![A-Za-z'])")
_ENCLOSED_LETTER = re.compile(r"\(([A-E])\)|\\text\{\s*([A-E])\s*\}|\*\*([A-E])\*\*")
_CLOSING_LETTER = re.compile(
    r"(?<![A-Za-z\\'])([B-E])(?![A-Za-z'])|(?<![A-Za-z\\'])(A)(?=\s*(?:[.,;:)]|$))", re.MULTILINE
)


def extract_answer(text: str) -> str | None:
    """The answer that a text ends up with, as text: what it marks as such, else its last number."""
    stated = stated_answer(text)
    if stated is not None:
        return stated or None
    numbers = NUMBER.findall(text)
    return str(numbers[-1]) if numbers else None


def stated_answer(text: str) -> str | None:
    """The answer that a text marks as such: last box, else "answer is …" or "Answer: …", else `#### …`.

    Returns:
        The answer; an empty text where a box is there and empty; None where nothing is marked.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    for phrase in _PHRASES:
        if found := phrase.findall(text):
            return _without_full_stop(_BOLD.sub("", str(found[-1])).strip())
    return None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{…}`, braces balanced; None if there is none.

    An unclosed box runs to the end of its line: a text that was cut off is still judged by what it says.
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    content = text[start + len("\\boxed{") :]
    depth = 1
    for position, character in enumerate(content):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return content[:position]
    return content.partition("\n")[0]


def extract_choice(text: str) -> str | None:
    """The letter A … E that a text ends up with.

    Looked for in what the text marks as its answer; else the last letter in brackets, else the last one that stands
    alone. The article "A" is no answer: it needs punctuation or the end of the line after it. A small letter is an
    answer only where it is all that the text marks.
    """
    stated = stated_answer(text)
    if stated is not None:
        found = _LONE_LETTER.search(stated) or _LONE_LETTER.fullmatch(stated.upper())
        return found.group(1) if found else None
    for letters in (_ENCLOSED_LETTER, _CLOSING_LETTER):
        if matches := list(letters.finditer(text)):
            return next(group for group in matches[-1].groups() if group)
    return None


def _without_full_stop(text: str) -> str:
    return text if re.search(r"\b[ap]\.m\.$", text) else text.removesuffix(".")
