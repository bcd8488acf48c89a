"""Values that are no plain numbers: clock times, ranges, ratios, and numerals with their base.

Each comparison is None where it cannot decide.
"""

import math
import re

from lightreasoner.grading.characters import TEXT_COMMANDS, plain, plain_characters
from lightreasoner.grading.numbers import AMOUNT, parse_quantity

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


_END = rf"((?:\\?[$£€])?{AMOUNT}(?::[0-5]\d)?(?:\s*[ap]\.?m\b\.?)?(?:\s*\\?%)?)"
_RANGE = re.compile(
    rf"(?:from\s)?{_END}(\s*-{{1,2}}\s*|\s*to\s*){_END}(\s*(?!pi)[^\W\d_]{{2,}}|\s[hmsgL])?", re.IGNORECASE
)
_BETWEEN_COMMANDS = re.compile(r"\\[,;:! ]|~")
_LAYOUT = re.compile(r"(?<!\\)[$]|[{}]")
LONGEST_RANGE = 100  # characters


def _range(side: str) -> tuple[str, ...] | None:
    r"""Both ends of a range of numbers or times, `3-4`, `3 \text{ to } 4`, what is between them, and its unit."""
    if len(side) > LONGEST_RANGE:
        return None
    bare = _BETWEEN_COMMANDS.sub(" ", TEXT_COMMANDS.sub(r"\1", plain_characters(side)))
    found = _RANGE.fullmatch(_LAYOUT.sub("", bare).strip(" ."))
    return found.groups("") if found else None


def is_range(side: str) -> bool:
    """Whether an answer is a range: `3 - 4` with spaces can be a difference, and "3 to 4" a ratio."""
    found = _range(side)
    return found is not None and (found[1] in ("-", "--") or ":" in found[0] + found[2])


def ranges(answer: str, gold: str) -> bool | None:
    """Whether two ranges have the same ends, where one is a range for certain; beside a number it is a difference.

    A unit can be missing on one side, if a space sets it off: `3-4ab` is a formula.
    """
    answered, expected = _range(answer), _range(gold)
    if answered is None or expected is None or not (is_range(answer) or is_range(gold)):
        return None
    units = [plain(unit) for unit in (answered[3], expected[3])]
    if units[0] != units[1] and all(units):
        return None
    same = all(_same_end(answered[end], expected[end]) for end in (0, 2))
    return same and (units[0] == units[1] or not (answered[3] + expected[3])[0].isalpha())


def _same_end(answered: str, expected: str) -> bool:
    if plain(answered) == plain(expected) or clock_times(answered, expected):
        return True
    values = [parse_quantity(end) for end in (answered, expected)]
    return None not in values and values[0] == values[1]


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
