r"""Find the final answer in a model's text and judge it. Numeric answers; the full protocol has its place here.

An answer is looked for where the prompt asked for it first (`\boxed{…}`), then in the phrases that models use
instead, then at the end of the text.
"""

import re
from fractions import Fraction
from typing import Literal

Verdict = Literal["correct", "wrong", "no_answer"]
VERDICTS: tuple[Verdict, ...] = ("correct", "wrong", "no_answer")

LONGEST_NUMBER = 400  # characters; Python's own conversion refuses or crawls on longer ones

_PHRASES = (
    re.compile(r"(?:final )?answer is:?\s*(.+?)(?:\.\s|\.?$)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"^####\s*(.+)$", re.MULTILINE),
)
_NUMBER = re.compile(r"[-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")


def extract_answer(text: str) -> str | None:
    """The answer that a text ends up with, as text: last box, else "answer is …", else `#### …`, else last number."""
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed.strip() or None
    for phrase in _PHRASES:
        if found := phrase.findall(text):
            return str(found[-1]).strip()
    numbers = _NUMBER.findall(text)
    return str(numbers[-1]) if numbers else None


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


def parse_number(text: str) -> Fraction | None:
    """The one number that a text stands for, exactly; None if it is none, or several.

    Currency signs, thousands separators, percent signs, units and LaTeX decoration around the number are dropped.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    text = _LATEX_FRACTION.sub(r"\1/\2", text).replace("\\!", "").replace("{,}", ",")
    found = _NUMBER.findall(text)
    if len(found) != 1:
        return None
    numerator, _, denominator = found[0].replace(",", "").replace("−", "-").replace(" ", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or 1)


def grade_number(output: str, gold: str) -> tuple[str | None, Verdict]:
    """What a text answers, and whether that equals the gold number.

    Args:
        output: the model's text.
        gold: a number as text.

    Raises:
        ValueError: the gold answer is no number.
    """
    expected = parse_number(gold)
    if expected is None:
        raise ValueError(f"gold answer {gold!r} is not a number")
    extracted = extract_answer(output)
    if extracted is None:
        return None, "no_answer"
    return extracted, "correct" if parse_number(extracted) == expected else "wrong"
