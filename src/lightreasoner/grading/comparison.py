r"""Whether an answer equals the gold answer.

`COMPARISONS` lists the ways to compare, in order; the first that can decide decides. Exact ways come first, because
math-verify is slow and forgives too much. Each has an example, which the tests check.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from lightreasoner.grading.boxes import closing
from lightreasoner.grading.characters import SMALL_INDEX, TEXT_COMMANDS, WORDS, plain, plain_characters
from lightreasoner.grading.codes import codes
from lightreasoner.grading.elements import elements
from lightreasoner.grading.forms import as_tuple, common_form, same_label
from lightreasoner.grading.numbers import parse_quantity, same_number
from lightreasoner.grading.times_and_ratios import clock_times, numerals, ranges, ratios

LONGEST_EXPRESSION = 1000  # characters; longer answers are compared as text only


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
        answer = answer if _OVER.search(answer) else answer[1:-1]  # a group of LaTeX, not a set, which is \\{…\\}
    if (same_choice := same_label(answer, gold)) is not None:
        return same_choice
    answer, gold = common_form(_LAST_MARK.sub("", _FULL_STOP_INSIDE.sub(r"\1", answer))), common_form(gold)
    if any(_TUPLE.match(side) for side in (answer, gold)):
        answer, gold = as_tuple(answer), as_tuple(gold)
    if answer == gold or plain(answer) == plain(gold):
        return True
    decisions = (comparison.decide(answer, gold) for comparison in COMPARISONS)
    return next(decision for decision in decisions if decision is not None)


# --- The ways to compare ---

_TUPLE = re.compile(r"[\s$]*(?:\\left)?(?:\(|\\langle(?![A-Za-z]))")
_OVER = re.compile(r"\\(?:over|choose)(?![A-Za-z])")  # they need their group
_LAST_MARK = re.compile(r"(?:\s|~|(?<!\\)\\[,;:! ]|(?<![.\\])(?<![ap]\.m)[.,;])+\Z")
_FULL_STOP_INSIDE = re.compile(r"\.\s*(\$+|\\[)\]])\s*\Z")

_APPROXIMATELY = re.compile(r"\\(?:approx|simeq)(?![A-Za-z])|≈")


def _approximations(answer: str, gold: str) -> bool | None:
    sides = [side for side in _APPROXIMATELY.split(answer) if side.strip(" $.")]
    if not 1 < len(sides) <= 4 or elements(answer):
        return None
    return any(equal_expressions(side, gold) for side in sides)


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
MOST_SIGNS = 4


def _plus_or_minus(answer: str, gold: str) -> bool | None:
    left, right = (_both_signs(side) for side in (answer, gold))
    if left is None and right is None:
        return None
    answered, expected = left or _listed(answer), right or _listed(gold)
    return _same_in_any_order(answered, expected)


def _both_signs(side: str) -> list[str] | None:
    """The values of a side with plus-minus signs, one a value; None for other sides."""
    parts = [_VALUE_OF.sub("", part) for part in _listed(plain_characters(side))]
    if not 0 < max(len(_PLUS_MINUS.findall(part)) for part in parts) <= MOST_SIGNS:
        return None
    return [value for part in parts for value in _with_signs(part)]


def _with_signs(part: str) -> list[str]:
    r"""The values of a part with `\pm`: each sign is either one; with `\mp` all are the upper or all the lower ones."""
    count = len(_PLUS_MINUS.findall(part))
    if r"\mp" in part:
        upper = _PLUS_MINUS.sub("+", part).replace(r"\mp", "-")
        return [upper, _PLUS_MINUS.sub("-", part).replace(r"\mp", "+")]
    values = []
    for choice in product("+-", repeat=count):
        between = _PLUS_MINUS.split(part)
        values.append("".join(text + sign for text, sign in zip(between, (*choice, ""), strict=True)))
    return values


def _listed(side: str) -> list[str]:
    """The values of a list or set; a tuple is one value."""
    kind, parts = elements(side) or ("", [side])
    return parts if kind in ("", "{}") else [side]


_VALUE_OF = re.compile(r"^\s*\$?\s*[A-Za-z](?:_\{?\w+\}?)?\s*(?:=|\\in(?![A-Za-z])(?=\s*\\?\{))\s*")
_ASSIGNMENT = re.compile(r"\s*\$?\s*([A-Za-z](?:_\{?\w+\}?)?'*)(\([^()=]*\))?\s*=([^=]*)")


def _different_variables(answer: str, gold: str) -> bool | None:
    answered, expected = (_ASSIGNMENT.fullmatch(SMALL_INDEX.sub(r"_\1", side)) for side in (answer, gold))
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
    orders = [[named[name] for name in sorted(named)]]
    if not named.keys() <= set("xyz"):  # the coordinates have an order
        orders.append([*named.values()])
    return any(len(order) == len(values) and all(map(equal_expressions, values, order)) for order in orders)


def _named(side: str) -> dict[str, str] | None:
    """Values by their names, of a list in which each has a name of its own; None for other sides."""
    found = elements(SMALL_INDEX.sub(r"_\1", side))
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


_CAPITALS = re.compile("[A-Z]{2,4}")  # CO, IV, AB: names, and no products of variables
_LETTERS = re.compile("[A-Za-z]{2,4}")
_AND = re.compile(r"\s*(?:,\s*and\b|,|\band\b)\s*")
_YES_NO = re.compile(r"(yes|no|true|false)\b(?=\s*[,.;:(]|\s*$)", re.IGNORECASE)


def _words(answer: str, gold: str) -> bool | None:
    if _CAPITALS.fullmatch(plain(gold)) and _LETTERS.fullmatch(plain(answer)):
        return plain(answer).casefold() == plain(gold).casefold()
    if not WORDS.fullmatch(plain(gold)):
        return None
    left, right = (_AND.split(plain(side)) for side in (answer, gold))
    if len(right) > 1:  # of names with commas the order can be the answer
        return left == right or ("," not in gold and sorted(left) == sorted(right))
    answered, expected = _YES_NO.match(plain(answer)), _YES_NO.fullmatch(plain(gold))
    return answered is not None and expected is not None and answered[1].lower() == expected[1].lower()


MOST_ELEMENTS = 40


def _collections(answer: str, gold: str) -> bool | None:
    left, right = elements(answer), elements(gold)
    if left is None or right is None:
        return None
    (kind, answered), (gold_kind, expected) = left, right
    if {kind, gold_kind} == {"()", "{}"}:
        return False
    if len(answered) > MOST_ELEMENTS or len(expected) > MOST_ELEMENTS:
        return None
    values, gold_values = ([parse_quantity(one) for one in side] for side in (answered, expected))
    if kind == gold_kind == "{}" and None not in values and None not in gold_values:
        return set(values) == set(gold_values)
    if {kind, gold_kind} <= {"", "{}"}:
        return _same_in_any_order(answered, expected)
    if {kind, gold_kind} <= {"", "()"} or kind == gold_kind:
        return len(answered) == len(expected) and all(map(equal_expressions, answered, expected))
    return None


def _same_in_any_order(answered: list[str], expected: list[str]) -> bool:
    rest = list(expected)
    for one in answered:
        partner = next((other for other in rest if equal_expressions(one, other)), None)
        if partner is None:
            return False
        rest.remove(partner)
    return not rest


_RELATION = re.compile(r"[<>]|\\(?:[lg](?:e|eq|eqslant|t)|neq?|in|forall|mid)(?![A-Za-z])")
_ABOUT = re.compile(r"^\s*(?:\\text\s*\{)?\s*(?:approximately|approx\.?|about|roughly|nearly)\b\s*\}?", re.IGNORECASE)
_DECIMALS = re.compile(r"\d*\.(\d+)|\d+")


def _same_value_again(answer: str, gold: str) -> bool | None:
    kind, parts = elements(answer) or ("{}", [])
    if kind or elements(gold) or parse_quantity(answer) is not None or not all(map(_is_value, [*parts, gold])):
        return None
    first, *others = parts
    return equal_expressions(first, gold) and all(_repeats(other, gold) for other in others)


def _is_value(part: str) -> bool:
    """Whether a part of a list can be a value, and is no prose and no condition."""
    return not _RELATION.search(part) and not WORDS.fullmatch(plain(_ABOUT.sub("", part)))


def _repeats(part: str, gold: str) -> bool:
    """Whether a part of an answer is the value again, or what the value is rounded to."""
    bare = _ABOUT.sub("", part)
    if equal_expressions(bare, gold):
        return True
    value, rounded, decimals = parse_quantity(gold), parse_quantity(bare), _DECIMALS.search(bare)
    if rounded is None or decimals is None:
        return False
    if value is None:
        return bare != part  # the value of a formula is not computed here
    return bool(abs(value - rounded) * 10 ** len(decimals[1] or "") <= Fraction(1, 2))


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
        return False if formula or changed or WORDS.fullmatch(other) or elements(other) else None
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
    Comparison("codes", codes, ("2023-01-04", "2024-01-05", False), "A date or a phone number is no difference."),
    Comparison("ranges", ranges, ("4-5", "3-4", False), "A range is no difference where both answers are ranges."),
    Comparison("clock times", clock_times, ("21:63", "10:30", False), "10:30 is a time and no quotient."),
    Comparison("ratios", ratios, ("6:8", "3:4", True), "Ratios are equal in lowest terms."),
    Comparison("numerals", numerals, ("52_9", "52_8", False), "The base is part of a number."),
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
    Comparison(
        "the same value again",
        _same_value_again,
        (r"\frac{14}{3} \text{ or approximately } 4.67", r"\frac{14}{3}", True),
        "A list equals one value only if it repeats or rounds it.",
    ),
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
