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
# Digits with thousands separators where they belong, so that "3,4" stays two numbers.
_NUMBER = re.compile(r"-?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?")
_FRACTION = re.compile(r"(?<!\d)\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_WORD_COMMANDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\b")
_DECORATION = re.compile(r"\\(?:left|right|quad|displaystyle|[,;!:()\[\] %])|\\?[$£€]|\{,\}(?=\d{3})")
_LEADING_MINUS = re.compile(r"^\s*-\s*(?=[\d.])")
_OPERATORS = frozenset("\\!^√π")  # beside a number they make it another one


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
    """The one number that a text stands for, exactly; None if it is none, several, or an expression.

    Currency signs, thousands separators, percent signs, units and LaTeX decoration around the number are dropped.
    """
    if len(text) > LONGEST_NUMBER:
        return None
    text = _plain(text)
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return None
    number = found[0].group()
    if _OPERATORS & set(text.replace(number, "", 1)):
        return None
    numerator, _, denominator = number.replace(",", "").replace(" ", "").partition("/")
    if denominator and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or 1)


def _plain(text: str) -> str:
    """The text without what decorates a number; LaTeX fractions become a/b."""
    text = text.replace("−", "-").replace("{,}", ",")
    text = _FRACTION.sub(lambda found: "{}/{}".format(*(part for part in found.groups() if part)), text)
    text = _DECORATION.sub("", _WORD_COMMANDS.sub(" ", text)).replace("{", " ").replace("}", " ")
    return _LEADING_MINUS.sub("-", text)


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
