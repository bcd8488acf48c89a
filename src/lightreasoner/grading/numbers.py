"""Read the number in an answer, exactly."""

import re
from fractions import Fraction

from lightreasoner.grading.extraction import NUMBER

LONGEST_NUMBER = 400  # characters; Python refuses longer ones or converts them slowly

_FRACTION = re.compile(r"(?<!\d)\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_TIMES_TEN_TO = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|[×*])\s*10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d))")
_TEN_TO = re.compile(r"(?<![\w.^{])10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d))")
_GAP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|q?quad)\b|\\[;: ]|\\,(?!\d{3})")  # LaTeX spaces
_DECORATION = re.compile(r"\\(?:left|right|displaystyle|[,!()\[\]%])|\\?[$£€]|\{,\}(?=\d{3})")
_LEADING_MINUS = re.compile(r"^\s*-\s*(?=[\d.])")
_PERCENT = re.compile(r"%|\bpercent\b", re.IGNORECASE)
_OPERATORS = frozenset("\\!^√π")  # beside a number they change its value
_UNITS = re.compile(r"[\s.{}%°]*(?:[^\W\d_]{2,}[\s.{}%°]*)*")  # words; a single letter may be a variable


def parse_number(text: str) -> Fraction | None:
    """The number in a text, exactly; None for no number, several numbers, or an expression.

    Drops currency signs, thousands separators, percent signs, units and LaTeX layout around the number.
    """
    number, rest = _split(text)
    return None if _OPERATORS & set(rest) else number


def parse_quantity(text: str) -> Fraction | None:
    """Like `parse_number`, but accepts only units in words beside the number: `3x` gives None."""
    number, rest = _split(text)
    return number if _UNITS.fullmatch(rest) else None


def same_number(answer: str, answered: Fraction, gold: str, expected: Fraction) -> bool:
    """Whether two numbers are equal; a percentage also equals its hundredth part."""
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
    """Remove layout around a number; LaTeX fractions become a/b, and powers of ten become e."""
    text = text.replace("−", "-").replace("{,}", ",")
    text = _FRACTION.sub(lambda found: "{}/{}".format(*(part for part in found.groups() if part)), text)
    text = _TIMES_TEN_TO.sub(lambda found: "e" + (found[1] or found[2]), text)
    text = _TEN_TO.sub(lambda found: "1e" + (found[1] or found[2]), text)
    text = _DECORATION.sub("", _GAP.sub(" ", text)).replace("{", " ").replace("}", " ")
    return _LEADING_MINUS.sub("-", text)
