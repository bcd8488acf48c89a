"""Read a number from an answer, exactly."""

import re
from fractions import Fraction

from lightreasoner.grading.extraction import NUMBER

LONGEST_NUMBER = 400  # characters; Python's own conversion refuses or crawls on longer ones

_FRACTION = re.compile(r"(?<!\d)\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_TIMES_TEN_TO = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|[×*])\s*10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d))")
_TEN_TO = re.compile(r"(?<![\w.^{])10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d))")
_GAP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|q?quad)\b|\\[;: ]|\\,(?!\d{3})")  # what stands for a space
_DECORATION = re.compile(r"\\(?:left|right|displaystyle|[,!()\[\]%])|\\?[$£€]|\{,\}(?=\d{3})")
_LEADING_MINUS = re.compile(r"^\s*-\s*(?=[\d.])")
_PERCENT = re.compile(r"%|\bpercent\b", re.IGNORECASE)
_OPERATORS = frozenset("\\!^√π")  # beside a number they make it another one
_UNITS = re.compile(r"[\s.{}%°]*(?:[^\W\d_]{2,}[\s.{}%°]*)*")  # words, none of one letter: that might be a variable


def parse_number(text: str) -> Fraction | None:
    """The one number that a text stands for, exactly; None if it is none, several, or an expression.

    Currency signs, thousands separators, percent signs, units and LaTeX decoration around the number are dropped.
    """
    number, rest = _split(text)
    return None if _OPERATORS & set(rest) else number


def parse_quantity(text: str) -> Fraction | None:
    """Like `parse_number`, but what stands beside the number must be a unit in words: `3x` is no number here."""
    number, rest = _split(text)
    return number if _UNITS.fullmatch(rest) else None


def same_number(answer: str, answered: Fraction, gold: str, expected: Fraction) -> bool:
    """Whether two numbers are equal; one that is given in percent may also stand for its hundredth part."""
    answers = {answered, answered / 100} if _PERCENT.search(answer) else {answered}
    golds = {expected, expected / 100} if _PERCENT.search(gold) else {expected}
    return not answers.isdisjoint(golds)


def _split(text: str) -> tuple[Fraction | None, str]:
    """The only number in a text, and the text around it."""
    if len(text) > LONGEST_NUMBER:
        return None, text
    text = _plain(text)
    found = list(NUMBER.finditer(text))
    if len(found) != 1:
        return None, text
    number = found[0].group()
    numerator, _, denominator = number.replace(",", "").replace(" ", "").partition("/")
    if denominator and int(denominator) == 0:
        return None, text
    return Fraction(numerator) / Fraction(denominator or 1), text.replace(number, "", 1)


def _plain(text: str) -> str:
    """The text without what decorates a number; LaTeX fractions become a/b, powers of ten e."""
    text = text.replace("−", "-").replace("{,}", ",")
    text = _FRACTION.sub(lambda found: "{}/{}".format(*(part for part in found.groups() if part)), text)
    text = _TIMES_TEN_TO.sub(lambda found: "e" + (found[1] or found[2]), text)
    text = _TEN_TO.sub(lambda found: "1e" + (found[1] or found[2]), text)
    text = _DECORATION.sub("", _GAP.sub(" ", text)).replace("{", " ").replace("}", " ")
    return _LEADING_MINUS.sub("-", text)
