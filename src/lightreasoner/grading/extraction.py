r"""Find the final answer in a model's text.

The search tries the form that the prompt asks for (`\boxed{…}`), then common phrases, then the end of the text.
"""

import re

# A full stop and a space end a sentence, except after an abbreviation: "Mrs. Hilt", "3:30 p.m. today".
_SENTENCE_END = r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\b[ap]\.m)\.\s"
_PHRASES = (
    re.compile(rf"(?:final )?answer(?: is\b:?|:)(?:\*\*)?\s*(.+?)(?:{_SENTENCE_END}|$)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"^####\s*(.+)$", re.MULTILINE),
)
# Markdown's bold marks, but not double asterisks for a power: "x**2", "(x+1)**2".
_BOLD = re.compile(r"(?<![\w)}])\*\*(?=\S)|(?<=\S)\*\*(?![\w({\\])")
# Digits, with thousands separators only where they belong ("3,4" is two numbers); then an exponent or a denominator.
NUMBER = re.compile(r"-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3}(?![\d.])|\s*/\s*\d+)?")

_LONE_LETTER = re.compile(r"(?<![A-Za-z\\'])\(?([A-E])\)?(?![A-Za-z'])")
_ENCLOSED_LETTER = re.compile(r"\(([A-E])\)|\\text\{\s*([A-E])\s*\}|\*\*([A-E])\*\*")
_CLOSING_LETTER = re.compile(
    r"(?<![A-Za-z\\'])([B-E])(?![A-Za-z'])|(?<![A-Za-z\\'])(A)(?=\s*(?:[.,;:)]|$))", re.MULTILINE
)


def extract_answer(text: str) -> str | None:
    """The final answer of a text: the answer that it marks, else its last number."""
    stated = stated_answer(text)
    if stated is not None:
        return stated or None
    numbers = NUMBER.findall(text)
    return str(numbers[-1]) if numbers else None


def stated_answer(text: str) -> str | None:
    """The answer that a text marks: last box, else "answer is …" or "Answer: …", else `#### …`.

    Returns:
        The answer; empty for an empty box; None without a marked answer.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip()
    for phrase in _PHRASES:
        if found := phrase.findall(text):
            return _without_full_stop(_BOLD.sub("", str(found[-1])).strip())
    return None


def last_boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{…}` with balanced braces; None without one.

    An unclosed box extends to the end of its line, because a text that was cut off can still hold the answer.
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    braces = text[start + len("\\boxed") :]
    end = closing(braces, "{}")
    return braces[1:].partition("\n")[0] if end is None else braces[1:end]


def closing(text: str, pair: str) -> int | None:
    """Position of the bracket that closes the first one of a text; None if unclosed."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == pair[0]) - (character == pair[1])
        if depth == 0:
            return position
    return None


def extract_text(text: str) -> str | None:
    """The final answer in words: the answer that a text marks, else its last line that is not blank."""
    stated = stated_answer(text)
    if stated is not None:
        return stated or None
    return text.rstrip().rpartition("\n")[2].strip() or None


def extract_choice(text: str) -> str | None:
    """The final choice A … E of a text.

    The letter in the answer that the text marks; else the last letter in brackets; else the last letter that is a word.
    The article "A" does not count: an answer "A" needs punctuation or the end of the line after it. A lower-case letter
    counts only if it is the whole marked answer.
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
