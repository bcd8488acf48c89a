r"""Whether an answer equals the gold answer.

`COMPARISONS` lists the ways to compare, in order; the first that can decide decides. Exact ways come first, because
math-verify is slow and forgives too much. Each has an example, which the tests check.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from lightreasoner.grading.boxes import closing
from lightreasoner.grading.characters import TEXT_COMMANDS, plain_characters
from lightreasoner.grading.elements import elements
from lightreasoner.grading.forms import as_tuple, common_form, same_label
from lightreasoner.grading.numbers import parse_quantity, same_number

LONGEST_EXPRESSION = 1000  # characters; longer answers are compared as text only

_LAYOUT = re.compile(r"(?:\\(?:left|right)(?![A-Za-z])|\\(?:displaystyle|q?quad|[,;!: ])|[$~\s])+")
# Prose, which needs no mathematics. "no" is the only short answer that is not a product of variables.
_WORDS = re.compile(r"(?=(?i:no\b)|.*[^\W\d_]{3})[^\W\d_][^\d\\^_={}$+*/<>|()\[\]]*", re.DOTALL)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_AM_PM = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
# Spaces without meaning. Between digits a space separates two numbers, unless it separates thousands.
# a_{n} is a_n. A power stays as it is: x^{2}3 is no x^23.
_SMALL_INDEX = re.compile(r"_\{(\w)\}(?!\w)")
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\s+(?=\d{3}(?!\d))")


@lru_cache(maxsize=256)
def plain(text: str) -> str:
    """Remove layout, text commands, article and final full stop; words become lower case."""
    text = TEXT_COMMANDS.sub(r" \1 ", TEXT_COMMANDS.sub(r" \1 ", plain_characters(text)))
    text = _ARTICLE.sub("", _SMALL_INDEX.sub(r"_\1", _LAYOUT.sub(" ", text)).strip().removesuffix("."))
    # Case distinguishes variables in a formula, but not words.
    if _WORDS.fullmatch(text):
        return re.sub(r"\s+", " ", text.casefold())
    return _LOOSE_SPACE.sub("", _AM_PM.sub(lambda found: f"{found[1].lower()}m", text))


@dataclass(frozen=True)
class Comparison:
    """One way to compare two answers.

    Attributes:
        name: what it compares.
        decide: whether the answer equals the gold answer; None where this way cannot decide.
        example: an answer and a gold answer that it decides, and how.
        reason: why that is right.
    """

    name: str
    decide: Callable[[str, str], bool | None]
    example: tuple[str, str, bool]
    reason: str


def equal_expressions(answer: str, gold: str) -> bool:
    """Whether two answers are equal, by the first comparison that can decide."""
    if answer.strip() == gold.strip():
        return True
    if closing(answer := answer.strip(), "{}") == len(answer) - 1 and answer[:1] == "{":
        answer = answer[1:-1]  # a group of LaTeX, not a set, which is \\{…\\}
    if (same_choice := same_label(answer, gold)) is not None:
        return same_choice
    answer, gold = common_form(_FULL_STOP_INSIDE.sub(r"\1", answer)), common_form(gold)
    if any(_TUPLE.match(side) for side in (answer, gold)):
        answer, gold = as_tuple(answer), as_tuple(gold)
    if answer == gold or plain(answer) == plain(gold):
        return True
    decisions = (comparison.decide(answer, gold) for comparison in COMPARISONS)
    return next(decision for decision in decisions if decision is not None)


# --- The ways to compare ---

_TUPLE = re.compile(r"[\s$]*(?:\\left)?(?:\(|\\langle(?![A-Za-z]))")
_FULL_STOP_INSIDE = re.compile(r"\.\s*(\$+|\\[)\]])\s*\Z")

_APPROXIMATELY = re.compile(r"\\(?:approx|simeq)(?![A-Za-z])|≈")


def _approximations(answer: str, gold: str) -> bool | None:
    sides = [side for side in _APPROXIMATELY.split(answer) if side.strip(" $.")]
    if not 1 < len(sides) <= 4:
        return None
    return any(equal_expressions(side, gold) for side in sides)


_CLOCK = re.compile(r"(\d{1,2})(?::([0-5]\d))?([ap]m)?")
_COLONS = re.compile(r"\d+(?::\d+)+(?:[ap]m)?")


def _clock_times(answer: str, gold: str) -> bool | None:
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


def _ratios(answer: str, gold: str) -> bool | None:
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


def _numerals(answer: str, gold: str) -> bool | None:
    answered, expected = (_BASED.fullmatch(plain(side).replace(" ", "")) for side in (answer, gold))
    if answered is None and expected is None:
        return None
    if answered is None or expected is None:  # the question names the base
        digits = plain(answer if answered is None else gold)
        named = answered or expected
        return named is not None and digits == named[1] if re.fullmatch(r"[\dA-F]+", digits) else None
    left, right = ((found[1], _BASES.get(found[2], found[2])) for found in (answered, expected))
    return left == right


_DOTS = re.compile(r"\\[lc]?dots[bcmio]?(?![A-Za-z])|\.{3}|…")


def _sequences_with_dots(answer: str, gold: str) -> bool | None:
    if not _DOTS.search(answer) and not _DOTS.search(gold):
        return None
    if parse_quantity(answer) is not None:  # 0.333...
        return None
    left, right = (elements(_DOTS.sub(" DOTS ", side)) for side in (answer, gold))
    if left is None or right is None or left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    return all(map(equal_expressions, left[1], right[1]))


_CASES = re.compile(r"\\begin\{d?cases\}(.*?)\\end\{d?cases\}", re.DOTALL)
_IF = re.compile(r"\\text\s*\{\s*(?:if|when|for|where)\b([^{}]*)\}|\b(?:if|when|for|where)\b")


def _functions_by_cases(answer: str, gold: str) -> bool | None:
    left, right = (_rows(side) for side in (answer, gold))
    if left is None and right is None:
        return None
    if left is None or right is None or len(left) != len(right):
        return False
    return all(
        any(len(row) == len(other) and all(map(equal_expressions, row, other)) for other in right) for row in left
    )


def _rows(side: str) -> list[list[str]] | None:
    """The cells of a function by cases, without "if"; None for other answers."""
    found = _CASES.search(side)
    if found is None:
        return None
    rows = [row for row in found[1].split(r"\\") if row.strip()]
    return [[_IF.sub(r"\1", cell).strip(" ,;.\n") for cell in row.split("&")] for row in rows]


_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")


def _plus_or_minus(answer: str, gold: str) -> bool | None:
    left, right = (_both_signs(side) for side in (answer, gold))
    if left is None and right is None:
        return None
    answered, expected = left or _listed(answer), right or _listed(gold)
    for one in answered:
        partner = next((other for other in expected if equal_expressions(one, other)), None)
        if partner is None:
            return False
        expected.remove(partner)
    return not expected


def _both_signs(side: str) -> list[str] | None:
    """The values of a side with plus-minus signs, one a value; None for other sides."""
    parts = [_VALUE_OF.sub("", part) for part in _listed(plain_characters(side))]
    signs = [len(_PLUS_MINUS.findall(part)) for part in parts]
    if "\\mp" in side or max(signs) != 1:
        return None
    return [_PLUS_MINUS.sub(sign, part) for part, has in zip(parts, signs, strict=True) for sign in "+-"[: 1 + has]]


def _listed(side: str) -> list[str]:
    """The values of a list or set; a tuple is one value."""
    kind, parts = elements(side) or ("", [side])
    return parts if kind in ("", "{}") else [side]


_VALUE_OF = re.compile(r"^\s*\$?\s*[A-Za-z](?:_\{?\w+\}?)?\s*=\s*")
_ASSIGNMENT = re.compile(r"\s*\$?\s*([A-Za-z](?:_\{?\w+\}?)?'*)(\([^()=]*\))?\s*=([^=]*)")


def _different_variables(answer: str, gold: str) -> bool | None:
    answered, expected = (_ASSIGNMENT.fullmatch(_SMALL_INDEX.sub(r"_\1", side)) for side in (answer, gold))
    if not (answered and expected) or answered[1] == expected[1] or bool(answered[2]) != bool(expected[2]):
        return None
    # x = y/2 is the equation y = 2x.
    return None if answered[1] in expected[3] and expected[1] in answered[3] else False


_FUNCTION = re.compile(r"\s*\$?\s*([A-Za-z](?:_\{?\w+\}?)?'*)\(\s*([A-Za-z])\s*\)\s*=([^=]*)")


def _functions(answer: str, gold: str) -> bool | None:
    answered, expected = _FUNCTION.fullmatch(answer), _FUNCTION.fullmatch(gold)
    if not (answered and expected) or answered[1] != expected[1] or answered[2] == expected[2]:
        return None
    if expected[2] in answered[3]:
        return None
    name = rf"(?<![A-Za-z\\]){answered[2]}(?![A-Za-z])"
    return equal_expressions(re.sub(name, expected[2], answered[3]), expected[3])


def _values_by_name(answer: str, gold: str) -> bool | None:
    answered, expected = _named(answer), _named(gold)
    if expected and answered:
        if answered.keys() != expected.keys():
            return None if answered.keys() & expected.keys() else False
        return all(equal_expressions(answered[name], value) for name, value in expected.items())
    named, other = (answered, gold) if answered else (expected, answer)
    kind, values = elements(other) or ("", [])
    if not named or kind != "()":
        return None
    orders = ([*named.values()], [named[name] for name in sorted(named)])
    return any(len(order) == len(values) and all(map(equal_expressions, values, order)) for order in orders)


def _named(side: str) -> dict[str, str] | None:
    """Values by their names, of a list in which each has a name of its own; None for other sides."""
    found = elements(_SMALL_INDEX.sub(r"_\1", side))
    parts = [_ASSIGNMENT.fullmatch(part) for part in found[1]] if found and found[0] != "{}" else []
    named = {part[1]: part[3] for part in parts if part and not part[2]}
    return named if parts and len(named) == len(parts) else None


_MONTH = re.compile(
    r"\b(?:January|February|March|April|May|June|July|August|September|October|November|December)\b", re.IGNORECASE
)


def _dates(answer: str, gold: str) -> bool | None:
    return False if _MONTH.search(gold) and _MONTH.search(answer) else None


_SEVERAL = re.compile(r"\d+(?:\s+\d+)+")


def _numbers(answer: str, gold: str) -> bool | None:
    expected = parse_quantity(gold)
    number = parse_quantity(answer) if expected is not None else None
    if expected is None or number is None:
        return False if expected is not None and _SEVERAL.fullmatch(plain(answer)) else None
    return same_number(answer, number, gold, expected)


_AND = re.compile(r"\s*(?:,\s*and\b|,|\band\b)\s*")
_YES_NO = re.compile(r"(yes|no|true|false)\b(?=\s*[,.;:(]|\s*$)", re.IGNORECASE)


def _words(answer: str, gold: str) -> bool | None:
    if not _WORDS.fullmatch(plain(gold)):
        return None
    left, right = (_AND.split(plain(side)) for side in (answer, gold))
    if len(right) > 1:  # of names with commas the order can be the answer
        return left == right or ("," not in gold and sorted(left) == sorted(right))
    answered, expected = _YES_NO.match(plain(answer)), _YES_NO.fullmatch(plain(gold))
    return answered is not None and expected is not None and answered[1].lower() == expected[1].lower()


def _collections(answer: str, gold: str) -> bool | None:
    left, right = elements(answer), elements(gold)
    if left is None or right is None:
        return None
    (kind, answered), (gold_kind, expected) = left, right
    if {kind, gold_kind} == {"()", "{}"}:
        return False
    values, gold_values = ([parse_quantity(one) for one in side] for side in (answered, expected))
    if None in values or None in gold_values:
        return None
    if kind == gold_kind == "{}":
        return set(values) == set(gold_values)
    if {kind, gold_kind} <= {"", "{}"}:
        return sorted(values) == sorted(gold_values)  # type: ignore[type-var]
    return values == gold_values if {kind, gold_kind} <= {"", "()"} or kind == gold_kind else None


# Letters that are variables: no unit, constant, differential or name of a function.
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[abcknopqrtuvwxyzBDGHMPQRSXYZ](?![A-Za-z])")


_PRODUCT = re.compile(r"-?\d+[A-Za-hk-z]")  # a unit would be set off: 3m, but 3 m or 3\text{ m}
# What makes a number another value: a sign before it, or words beside it.
_NOT_THE_VALUE = re.compile(
    r"^[\s$]*(?:[<>]|\\(?:[lg](?:e|eq|eqslant|t)|neq?)(?![A-Za-z]))"
    r"|\b(?:squared|cubed|not|half|double|twice|(?:more|less|fewer|greater|smaller) than)\b"
)
_BOUND = re.compile(r"\\(?:lim|sum|prod|int)(?![A-Za-z])")  # operators whose variable is no variable of the formula


def _different_kinds(answer: str, gold: str) -> bool | None:
    is_number = [parse_quantity(side) is not None for side in (answer, gold)]
    if _BOUND.search(answer) or _BOUND.search(gold):
        return None
    if _PRODUCT.fullmatch(answer) and _PRODUCT.fullmatch(gold):
        return False  # the same one has the same text
    if any(is_number):
        other = plain(answer if is_number[1] else gold)
        formula = "=" not in other and (_VARIABLE.search(other) or (is_number[0] and _PRODUCT.fullmatch(gold)))
        changed = _NOT_THE_VALUE.search(TEXT_COMMANDS.sub(r" \1 ", answer if is_number[1] else gold))
        return False if formula or changed or _WORDS.fullmatch(other) or elements(other) else None
    variables = [set(_VARIABLE.findall(TEXT_COMMANDS.sub("", side).lower())) for side in (answer, gold)]
    return False if all(variables) and variables[0].isdisjoint(variables[1]) else None


# Powers of powers and factorials that no one writes as an answer, and that SymPy would compute until its time limit.
_TOO_LARGE = re.compile(
    r"\^[{(+-]*\d{5,}|\^[{(+-]*\d{2,}[})]*[\^!]|(?:\^[{(+-]*\d+[})]*){2}\^"  # 2^{99999}, 9^{99^9}, 9^{9^{9^9}}
    r"|\d{5,}[)}]*!|![)}]*!"  # 99999!, 9!!!
)


def _beyond_computing(answer: str, gold: str) -> bool | None:
    return False if _TOO_LARGE.search(answer) and not _TOO_LARGE.search(gold) else None


def _long_answers(answer: str, gold: str) -> bool | None:
    return False if len(answer) > LONGEST_EXPRESSION else None


def _formulas(answer: str, gold: str) -> bool:
    from lightreasoner.grading.symbolic import verified

    return verified(answer, gold)


COMPARISONS: tuple[Comparison, ...] = (
    Comparison("long answers", _long_answers, ("x+" * LONGEST_EXPRESSION, "x", False), "Longer than any gold answer."),
    Comparison(
        "numbers beyond computing",
        _beyond_computing,
        ("9^{9^{9^9}}", "9", False),
        "They have more digits than any gold answer.",
    ),
    Comparison(
        "approximations",
        _approximations,
        (r"\frac{22}{7} \approx 3.14", r"\frac{22}{7}", True),
        "An answer that gives its value and its rounded value gives both.",
    ),
    Comparison("clock times", _clock_times, ("21:63", "10:30", False), "10:30 is a time and no quotient."),
    Comparison("ratios", _ratios, ("6:8", "3:4", True), "Ratios are equal in lowest terms."),
    Comparison("numerals", _numerals, ("52_9", "52_8", False), "The base is part of a number."),
    Comparison(
        "sequences with dots",
        _sequences_with_dots,
        (r"2, 6, \ldots, 2n", r"2, 4, \ldots, 2n", False),
        "Every term counts; math-verify drops the dots.",
    ),
    Comparison(
        "functions by cases",
        _functions_by_cases,
        (r"\begin{cases}x^3 & x>0\\0 & x\le 0\end{cases}", r"\begin{cases}x^2 & x>0\\0 & x\le 0\end{cases}", False),
        "Every case counts; math-verify reads none of them.",
    ),
    Comparison(
        "different variables", _different_variables, ("x=5", "y=5", False), "Values of other things are other answers."
    ),
    Comparison("functions", _functions, ("f(n)=2n", "f(x)=2x", True), "The name of an argument says nothing."),
    Comparison(
        "values by name",
        _values_by_name,
        ("x=2, y=3", "x=3, y=2", False),
        "A value belongs to its name. A pair of numbers is in the order of the names.",
    ),
    Comparison("plus or minus", _plus_or_minus, (r"x = 1 \pm 2", "3, -1", True), "The sign stands for two values."),
    Comparison("dates", _dates, ("March 3rd", "February 3rd", False), "The month is no unit."),
    Comparison("numbers", _numbers, (r"2\frac12 \text{ cups}", "2.5", True), "Numbers are compared exactly."),
    Comparison("words", _words, ("Yes, they do", "Yes", True), "Other words are another answer."),
    Comparison(
        "tuples, sets and lists",
        _collections,
        (r"\{6,31,-1\}", "(6,31,-1)", False),
        "The order counts in a tuple, and not in a set.",
    ),
    Comparison(
        "different kinds",
        _different_kinds,
        ("2k+2", "7", False),
        "A number equals no words, no tuple and no formula with a variable; other variables make another formula.",
    ),
    Comparison("formulas", _formulas, ("(x+1)^2", "x^2+2x+1", True), "Formulas are compared by math-verify."),
)
