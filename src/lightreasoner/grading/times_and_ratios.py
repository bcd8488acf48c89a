"""Values that are no plain numbers: clock times, ratios, and numerals with their base.

Each comparison is None where it cannot decide.
"""

import math
import re

from lightreasoner.grading.characters import plain
from lightreasoner.grading.numbers import parse_quantity

_CLOCK = re.compile(r"(\d{1,2})(?::([0-5]\d))?([ap]m)?")
_COLONS = re.compile(r"\d+(?::\d+)+(?:[ap]m)?")


def clock_times(answer: str, gold: str) -> bool | None:
    """Whether two times are the same time of day; without a.m. or p.m. on one side, of half a day."""
    times = [plain(side) for side in (answer, gold)]
    answered, expected = (_CLOCK.fullmatch(time) for time in times)
    clear = [_COLONS.fullmatch(time) is not None or time.endswith(("am", "pm")) for time in times]
    if expected is None or not all(clear):
        return None
    if answered and answered[3] and not expected[3]:  # the answer says more
        return _minutes(answered) % 720 == _minutes(expected) % 720
    return answered is not None and expected is not None and _minutes(answered) == _minutes(expected)


def _minutes(time: re.Match[str]) -> int:
    """Minutes since midnight; without a.m. and p.m. the hours count to 24."""
    hour, half = int(time[1]), time[3]
    return int(time[2] or 0) + 60 * (hour if half is None else hour % 12 + 12 * (half == "pm"))


_RATIO = re.compile(r"\d+(?::\d+)+")
LONGEST_RATIO = 40  # characters
_RATIO_IN_WORDS = re.compile(r"(?<=\d)\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*(?=\d)")


def ratios(answer: str, gold: str) -> bool | None:
    """Whether two ratios are equal in lowest terms, or a ratio is the fraction on the other side."""
    answered, expected = (_lowest_terms(plain(_RATIO_IN_WORDS.sub(":", side))) for side in (answer, gold))
    if answered and expected:
        return answered == expected
    value = parse_quantity(gold if answered else answer)
    ratio = answered or expected
    return None if ratio is None or value is None else ratio == (value.numerator, value.denominator)


def _lowest_terms(text: str) -> tuple[int, ...] | None:
    """The parts of a ratio without their common divisor; None for other texts."""
    if len(text) > LONGEST_RATIO or not _RATIO.fullmatch(text):
        return None
    parts = [int(part) for part in text.split(":")]
    divisor = math.gcd(*parts) or 1
    return tuple(part // divisor for part in parts)


_BASED = re.compile(
    r"(?=[A-F]{0,40}\d)([\dA-F]{1,400})_\{?(\d+|two|three|four|five|six|seven|eight|nine|ten|sixteen)\}?"
)
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_BASES |= {"ten": "10", "sixteen": "16"}


_IN_BASE = re.compile(r"\s*_?\(?\{?base(\w+)\}?\)?\Z")
_DIGITS_IN_BRACKETS = re.compile(r"\A\(([\dA-F]+)\)(?=_|\(?base)")


def _numeral(side: str) -> re.Match[str] | None:
    bare = plain(side).replace(" ", "")
    return _BASED.fullmatch(_IN_BASE.sub(r"_\1", _DIGITS_IN_BRACKETS.sub(r"\1", bare)))


def numerals(answer: str, gold: str) -> bool | None:
    """Whether two numerals have the same digits and the same base; one without a base has that of the question."""
    answered, expected = _numeral(answer), _numeral(gold)
    if answered is None and expected is None:
        return None
    if answered is None or expected is None:  # the question names the base
        digits = plain(answer if answered is None else gold)
        named = answered or expected
        return named is not None and digits == named[1] if re.fullmatch(r"[\dA-F]+", digits) else None
    left, right = ((found[1], _BASES.get(found[2], found[2])) for found in (answered, expected))
    return left == right
