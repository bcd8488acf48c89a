r"""The mathematics of the Qwen2.5-Math toolkit's judge (docs/toolkit-judge.md, "Symbolic equality").

The toolkit asks SymPy's LaTeX parser first, which reads as far as it can and drops the rest: `1,-2` is 1, and `2pi` is
the product of 2, p and i. Texts that it refuses go to Python's `eval` there. Here only tuples, lists and sets of plain
terms are read then, without `eval`; other texts equal nothing.

Nothing here has a time limit: run it in a process that can be killed.
"""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

RELATIVE_TOLERANCE = 1e-4

# What no person writes, and what takes SymPy minutes or more memory than there is.
_TOO_LARGE = re.compile(
    r"\^[{(+-]*\d+[})]*[\^!]|\^[{(+-]*\d{5,}"  # 9^9^9, 9^99!, 9^99999
    r"|\d{5,}[)}]*!|![)}]*!"  # 99999!, 9!!!
)
_WORD = re.compile(r"[A-Za-z]+")
_FACTOR = re.compile(r"d?[A-Za-z]")
_COLLECTION = re.compile(r"[(\[{][\w.,+*/(){}\[\]-]*")
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def symbolically_equal(answer: str, gold: str) -> bool:
    """Whether SymPy finds two formulas equal."""
    if _WORD.fullmatch(answer) and _WORD.fullmatch(gold):
        # SymPy reads a word as the product of its letters, and "dx" as one of them. Its import takes a second.
        return sorted(_FACTOR.findall(answer)) == sorted(_FACTOR.findall(gold))
    left = _expression(answer)
    right = None if left is None else _expression(gold)
    return right is not None and any(_result(test, left, right) for test in _TESTS)


@lru_cache(maxsize=64)
def _expression(text: str) -> Any:
    """Convert a formula to a SymPy object, or to a tuple, list or set of them; None if that fails."""
    if _TOO_LARGE.search(text):
        return None
    latex = dict.fromkeys((text.replace(r"\\", "\\"), text))
    attempts = (*((_latex_parser(), form) for form in latex), (_parse_collection, text))
    found = (_result(parse, form) for parse, form in attempts)
    return next((value for value in found if value is not None), None)


@cache
def _latex_parser() -> Callable[[str], Any]:
    """SymPy's LaTeX parser, for the version of ANTLR that is there.

    `sympy.parsing.latex.parse_latex` refuses any version but 4.11, and math-verify needs one version for both of its
    own parsers. The tables of SymPy's parser have the format of ANTLR 4.10 to 4.13, so its parts work with all of them.
    """
    from antlr4 import CommonTokenStream, InputStream
    from sympy.parsing.latex import _parse_latex_antlr as sympy_parser

    # Without the comparison of versions, which writes to standard output.
    lexer_class, parser_class = (
        type(recogniser.__name__, (recogniser,), {"checkVersion": lambda *_: None})
        for recogniser in (sympy_parser.LaTeXLexer, sympy_parser.LaTeXParser)
    )

    def parse(latex: str) -> Any:
        lexer = lexer_class(InputStream(latex))
        parser = parser_class(CommonTokenStream(lexer))
        for recogniser in (lexer, parser):
            recogniser.removeErrorListeners()
            recogniser.addErrorListener(sympy_parser.MathErrorListener(latex))
        return sympy_parser.convert_relation(parser.math().relation())

    return parse


def _parse_collection(text: str) -> Any:
    """Read a tuple, list or set in Python's notation: sets are equal in any order.

    Raises:
        SyntaxError, ValueError: the text is no such expression.
    """
    if not _COLLECTION.fullmatch(text):
        raise ValueError(f"{text} is no tuple, list or set of plain terms")
    return _value(ast.parse(text, mode="eval").body)


def _value(node: ast.AST) -> Any:
    from sympy import Rational, Symbol

    match node:
        case ast.Tuple(elts=items):
            return tuple(map(_value, items))
        case ast.List(elts=items):
            return list(map(_value, items))
        case ast.Set(elts=items):
            return frozenset(map(_value, items))
        case ast.Constant(value=int() | float() as number):
            return Rational(str(number))
        case ast.Name(id=name):
            return Symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError(f"{ast.unparse(node)} is no plain term")


def _result(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of SymPy returns; None if it fails. The parsers raise bare Exceptions, and SymPy many types."""
    try:
        return function(*arguments)
    except MemoryError:
        raise
    except Exception:
        return None


def _same_expression(left: Any, right: Any) -> bool:
    from sympy import simplify

    found = left.equals(right)
    return bool(simplify(left - right) == 0 if found is None else found)


def _same_equation(left: Any, right: Any) -> bool:
    return bool(abs(left.lhs - left.rhs).equals(abs(right.lhs - right.rhs)))


def _same_value(left: Any, right: Any) -> bool:
    return math.isclose(float(left.evalf()), float(right.evalf()), rel_tol=RELATIVE_TOLERANCE)


_TESTS: tuple[Callable[[Any, Any], bool], ...] = (
    lambda left, right: left == right or str(left) == str(right),
    _same_expression,
    _same_equation,
    _same_value,
)
