r"""Compare formulas with math-verify, and check what it accepts.

math-verify rounds numbers to 15 digits behind the point, so it takes `\frac{1}{2^{98}}` for `\frac{1}{2^{99}}`. What it
calls equal must therefore also have the same value, relative to its size.
"""

import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from lightreasoner.grading.characters import plain_characters

DIGITS = 50  # of the check
SAME = 1e-35  # relative difference of exact formulas,
SAME_DECIMALS = 1e-12  # and of formulas with decimals, which have 15 digits
NOTHING = 1e-40  # what exact cancellation leaves of the check's digits

_DIFFERENTIAL = r"(?:d|\\mathrm\s*\{\s*d\s*\}|\\partial)"


def _derivative(found: re.Match[str]) -> str:
    """A name for the derivative of a variable, whatever it is derived by."""
    name = next(group for group in found.groups() if group).removeprefix("\\")
    return rf"\Upsilon_{{d{name}}} "


# Notation of programs and of prose.
_NOTATION: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\{([^{}\\]*)\\choose(?![A-Za-z])\s*([^{}\\]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\{?\s*(\d+|[A-Za-z])\s*\\choose\s*(\d+|[A-Za-z])\s*\}?"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\binom\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))"), r"\\binom{\1\2}{\3\4}"),
    (re.compile(r"\{((?:[^{}]|\{[^{}]*\})*)\\over(?![A-Za-z])((?:[^{}]|\{[^{}]*\})*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<![A-Za-z])([A-Za-z])!\s*\^\s*(\{?\d\}?)"), r"(\1!)^\2"),
    (
        re.compile(
            r"\\(?:operatorname|mathrm|text|textrm)\s*\{\s*((?:arc)?(?:sin|cos|tan)h?|arccot|cot|sec|csc|log|ln|exp|gcd|lcm|max|min)"
            r"\s*\}"
        ),
        r"\\\1 ",
    ),
    (re.compile(r"\\(?:operatorname|mathrm|text|textrm)\s*\{\s*([ieknxyz])\s*\}"), r"\1"),
    (re.compile(r"(?<!\\)~"), " "),
    # dy/dt, y' and \dot{y} are names. math-verify takes them for derivatives of constants, which are 0.
    (
        re.compile(
            rf"\\d?frac\s*\{{\s*{_DIFFERENTIAL}\s*(\\?[A-Za-z]+)\s*\}}\s*\{{\s*{_DIFFERENTIAL}\s*\\?[A-Za-z]+\s*\}}"
        ),
        _derivative,
    ),
    (re.compile(r"\\dot\s*(?:\{\s*(\\?[A-Za-z]+)\s*\}|([A-Za-z]))"), _derivative),
    (re.compile(r"(?<![A-Za-z\\])([A-Za-z])\s*(?:'|\^\s*\{?\s*\\prime\s*\}?)(?!['(\\])"), _derivative),
    (re.compile(r"\\gamma(?![A-Za-z])"), r"\\Upsilon_{g}"),  # a function, where a bracket follows, to math-verify
    (re.compile(r"(?<![A-Za-z\\])C\(\s*(\d+)\s*,\s*(\d+)\s*\)"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\q?quad(?![A-Za-z])"), r"\\ "),
    (re.compile(r"\\(?:boldsymbol|bm|mathbf)(?![A-Za-z])\s*"), ""),
    (re.compile(r"(?<![A-Za-z\\])E(?=_)"), r"\\Upsilon "),  # E_0 is a name, and e to math-verify
    (
        re.compile(r"(?<![A-Za-z\\])(pi|alpha|beta|gamma|delta|theta|lambda|mu|rho|sigma|phi|omega|infty)(?![A-Za-z])"),
        r"\\\1 ",
    ),
    (re.compile(r"(?<![A-Za-z\\])((?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|sqrt)(?=\s*[({])"), r"\\\1"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\log\s*_\s*\{?e\}?(?![A-Za-z])"), r"\\ln "),
    (re.compile(r"(?<![A-Za-z\\])infinity(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\^\s*\(\s*(-?\d+(?:/\d+)?)\s*\)"), r"^{\1}"),
)


def prepare() -> None:
    """Import slow libraries before the time limit of the first answer starts."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every failed parse at length


def verified(answer: str, gold: str) -> bool:
    """Whether two formulas are equal; without math-verify's time limits, because the worker has its own."""
    from math_verify import parse, verify

    parsed_gold, parsed_answer = (
        _one_kind_of_symbol(parse(f"\\boxed{{{side}}}", parsing_timeout=None, raise_on_error=False))
        for side in _without_lost_factors(_latex(gold), _latex(answer))
    )
    equal = verify(parsed_gold, parsed_answer, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True)
    if not equal:
        return False
    return _same_equations(parsed_answer, parsed_gold) or _same_values(
        _expression(parsed_answer), _expression(parsed_gold)
    )


# Letters that math-verify drops as units at the end of a formula.
_LAST_LETTER = re.compile(r"(?<=[\d)}\s])([cdghlmost])\s*$")
_LONE_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")


def _without_lost_factors(*sides: str) -> list[str]:
    """The last letter of a formula in braces where it is a factor: both sides have it, or the formula has others."""
    letters = [set(_LONE_LETTER.findall(re.sub(r"\\[A-Za-z]+", " ", side))) for side in sides]

    def kept(side: str, own: set[str]) -> str:
        found = _LAST_LETTER.search(side)
        is_factor = found and (found[1] in set.intersection(*letters) or own - {found[1]})
        return f"{side[: found.start()]}{{{found[1]}}}" if found and is_factor else side

    return [kept(side, own) for side, own in zip(sides, letters, strict=True)]


def _one_kind_of_symbol(found: list[Any]) -> list[Any]:
    """A parsed formula with i as the imaginary unit; math-verify makes two symbols of a letter, of 2i and of i."""
    from sympy import Basic, Eq, I, Product, Sum, Symbol

    def renamed(value: Any) -> Any:
        if isinstance(value, Eq):
            return Eq(renamed(value.lhs), renamed(value.rhs), evaluate=False)
        if not isinstance(value, Basic) or value.has(Sum, Product):
            return value
        symbols = (one for one in value.free_symbols if isinstance(one, Symbol))
        return value.xreplace({one: I if one.name == "i" else Symbol(one.name, real=True) for one in symbols})

    return [renamed(one) for one in found]


def _latex(text: str) -> str:
    text = plain_characters(text)
    for pattern, replacement in _NOTATION:
        text = pattern.sub(replacement, text)
    return text


def _same_equations(answer: list[Any], gold: list[Any]) -> bool:
    """Whether both are equations with other left sides: y = x and x = y have no values to compare."""
    from sympy import Eq

    left, right = (parsed[0] if parsed else None for parsed in (answer, gold))
    return isinstance(left, Eq) and isinstance(right, Eq) and left.lhs != right.lhs


def _expression(parsed: list[Any]) -> Any:
    """What was parsed; of an equation with a name on its left side the right side."""
    from sympy import Eq

    found = parsed[0] if parsed else None
    return found.rhs if isinstance(found, Eq) and found.lhs.is_Symbol else found


def _same_values(left: Any, right: Any) -> bool:
    """Whether two expressions agree at one point; True where that cannot be computed."""
    from sympy import Expr, FiniteSet, Float, MatrixBase, Tuple

    if isinstance(left, FiniteSet | Tuple) and isinstance(right, FiniteSet | Tuple):
        return len(left) == len(right) and _each_has_a_partner(left.args, right.args)
    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        return left.shape == right.shape and all(map(_same_values, left.flat(), right.flat()))
    if not isinstance(left, Expr) or not isinstance(right, Expr):
        return True
    try:
        tolerance = SAME_DECIMALS if left.atoms(Float) or right.atoms(Float) else SAME
        return _close(_values_at_a_point(left, right), tolerance)
    except (ValueError, TypeError, AttributeError, NotImplementedError, ArithmeticError):
        return True


def _each_has_a_partner(left: Iterable[Any], right: Iterable[Any]) -> bool:
    partners = list(right)
    return all(any(_same_values(one, other) for other in partners) for one in left)


def _values_at_a_point(left: Any, right: Any) -> list[Any]:
    """Values where every variable has a number of its own."""
    from sympy import Rational, default_sort_key

    variables = sorted(left.free_symbols | right.free_symbols, key=default_sort_key)
    point = {variable: Rational(7 + 4 * number, 5 + number) for number, variable in enumerate(variables)}
    return [side.subs(point).doit().evalf(DIGITS) for side in (left, right)]


def _close(values: list[Any], tolerance: float) -> bool:
    left, right = values
    from sympy import nan, zoo

    if left.has(nan, zoo) or right.has(nan, zoo):
        return False
    size = max(abs(left), abs(right))
    if not size.is_number:
        return True
    if (left == 0 or right == 0) and size < NOTHING:
        return True
    return bool(abs(left - right) <= tolerance * size)
