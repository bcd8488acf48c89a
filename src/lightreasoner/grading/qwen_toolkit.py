r"""A judge with the rules of the Qwen2.5-Math evaluation toolkit, so that results compare with published ones.

docs/toolkit-judge.md states the toolkit's rules; comments cite its headings. The toolkit's leniency is kept on
purpose: 5, 500 and 0.05 all pass for 5, `1,2` is the number 12, the article "a" is a choice letter.

Two deviations, which should not change a correct verdict: one LaTeX converter replaces the toolkit's three parsers, of
which one runs text as Python; and formulas that no person writes (towers of powers, over 2000 characters, 13 nested
brackets) are compared as text.

Symbolic comparison has no time limit of its own: run the judge in a process that can be killed.
"""

import math
import re
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

from lightreasoner.grading.extraction import closing
from lightreasoner.grading.qwen_toolkit_text import strip_string
from lightreasoner.grading.verdicts import Judgement

CHOICES = ("A", "B", "C", "D", "E")
RELATIVE_TOLERANCE = 1e-4
MATRIX_DECIMALS = 3
LONGEST_FORMULA = 2000  # characters
DEEPEST_FORMULA = 12  # nested brackets; each doubles the converter's time. Gold answers have at most 4


def judge(text: str, gold: str, benchmark: str | None = None) -> Judgement:
    """Judge the answer in a model's text.

    Args:
        text: the model's response.
        gold: the gold answer from the benchmark.
        benchmark: the toolkit's name of the benchmark; `mmlu_stem` and `minerva_math` have their own rules.
    """
    strip_units = benchmark != "minerva_math"
    # The toolkit normalises gold answers twice: when it loads them, and here. Once gives the same for all gold answers
    # of its benchmarks, and keeps literal copies of the gold answer correct.
    expected = strip_string(gold, strip_units=strip_units)
    extracted = extract(text, benchmark)
    canonical = strip_string(extracted, strip_units=strip_units)
    if expected in CHOICES and canonical not in CHOICES and (letter := choice_letter(text)):
        extracted = canonical = letter
    if not canonical:
        return Judgement(None, None, "no_answer")
    return Judgement(extracted, canonical, "correct" if equal(canonical, expected) else "wrong")


# docs/toolkit-judge.md, "Extraction" ----------------------------------------------------------------------------------

_CHOICE_TRIGGERS = ("choice is", "answer is")
_CHOICE = re.compile(r"\b[A-E]\b")
_ANY_NUMBER = re.compile(r"-?\d*\.?\d+")


def extract(text: str, benchmark: str | None = None) -> str:
    """The answer in a text, tidied but not yet normalised ("Extraction"). Empty if there is none."""
    if benchmark == "mmlu_stem":
        return choice_letter(text) or ""
    found = next((answer for rule in _EXTRACTION_RULES if (answer := rule(text)) is not None), "")
    one_line = re.sub(r"\n\s*", "", found).strip()
    return one_line.removeprefix(":").removesuffix(".").removesuffix("/").strip()


def choice_letter(text: str) -> str | None:
    """The choice that a text makes, from A to E ("Extraction", rule 1). None if it makes none.

    The first letter after "choice is" or "answer is", otherwise the last letter of the text. If a phrase occurs twice,
    the model continued with questions of its own, and only the first paragraph counts.
    """
    if any(text.count(trigger) > 1 for trigger in _CHOICE_TRIGGERS):
        text = text.strip("\n").partition("\n\n")[0]
    *before, piece = re.split("|".join(_CHOICE_TRIGGERS), text)
    letters = _CHOICE.findall(piece.upper())
    if not letters:
        return None
    return str(letters[0] if before else letters[-1])


def _minerva_answer(text: str) -> str | None:
    """Rule 2: the form of the Minerva prompts."""
    answer, found, _ = text.partition("final answer is $")[2].partition("$. I hope")
    return answer if found else None


def _boxed(text: str) -> str | None:
    """Rule 3: the braces after the last "boxed" (to the end if unclosed), or the text up to a dollar sign."""
    _, found, rest = text.rpartition("boxed")
    if not found:
        return None
    return rest[1 : closing(rest, "{}")] if rest.startswith("{") else rest.partition("$")[0]


def _after(phrase: str) -> Callable[[str], str | None]:
    """Rules 4 to 6: everything after the last occurrence of a phrase, to the end of the text."""

    def rule(text: str) -> str | None:
        _, found, rest = text.rpartition(phrase)
        return rest if found else None

    return rule


def _last_number(text: str) -> str | None:
    """Rule 7: the last number of the text."""
    numbers = _ANY_NUMBER.findall(text.replace(",", ""))
    return str(numbers[-1]) if numbers else None


_EXTRACTION_RULES: tuple[Callable[[str], str | None], ...] = (
    _minerva_answer,
    _boxed,
    _after("he answer is"),
    _after("final answer is"),
    _after("答案是"),
    _last_number,
)


# docs/toolkit-judge.md, "Equality" ------------------------------------------------------------------------------------

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(\\?%)?", re.ASCII)
_BRACKETS = str.maketrans("", "", "(){}[]")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_SHORT_LEFT_SIDE = re.compile(r"[^=<>!]{1,2}=([^=]+)")


def equal(answer: str, gold: str) -> bool:
    """Whether two normalised answers are the same: the tests of "Equality" in their order."""
    if answer.lower() == gold.lower():
        return True
    if gold in CHOICES and choice_letter(answer) == gold:
        return True
    number, gold_number = _number(answer), _number(gold)
    if number is not None and gold_number is not None:
        return any(
            math.isclose(number, target, rel_tol=RELATIVE_TOLERANCE)
            for target in (gold_number, gold_number / 100, gold_number * 100)
        )
    if answer.translate(_BRACKETS).lower() == gold.translate(_BRACKETS).lower():
        return True
    if not (_is_formula(answer) and _is_formula(gold)):
        return False
    return (
        _elements_equal(_items(answer), _items(gold))
        or _elements_equal(_cells(answer), _cells(gold))
        or _equations_equal(answer, gold)
        or _right_sides_equal(answer, gold)
        or _symbolically_equal(answer, gold)
    )


def _number(text: str) -> float | None:
    r"""The value of a text that is one number, commas dropped and a trailing % as hundredths; None for other texts.

    Stricter than `float`, which also accepts "nan", "1_000" and the digits of other scripts. A number that overflows
    gives None, because two infinities would be equal.
    """
    found = _NUMBER.fullmatch(text.replace(",", ""))
    if found is None:
        return None
    value = float(found.group(1)) / (100 if found.group(2) else 1)
    return value if math.isfinite(value) else None


def _depths(text: str) -> list[int]:
    """Number of open brackets after each character; all kinds count alike, because of `(0,1]`."""
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


def _is_formula(text: str) -> bool:
    """Whether a text is short and flat enough to parse."""
    return len(text) <= LONGEST_FORMULA and max(_depths(text), default=0) <= DEEPEST_FORMULA


def _items(text: str) -> list[str] | None:
    """The elements of `(a,b)` or `[a,b]`; None for other texts, such as `(a+1)(b+2)`."""
    if text[:1] not in ("(", "[") or text[-1:] not in (")", "]"):
        return None
    inside = text[1:-1]
    depths = _depths(inside)
    if min(depths, default=0) < 0:
        return None
    commas = [
        at for at, (character, depth) in enumerate(zip(inside, depths, strict=True)) if character == "," and not depth
    ]
    return [inside[start + 1 : end] for start, end in pairwise([-1, *commas, len(inside)])]


def _cells(text: str) -> list[str] | None:
    """The cells of a pmatrix row by row, with an empty cell after each row to mark the shape; None for other texts."""
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    rows = found.group(1).removesuffix(r"\\").split(r"\\")
    return [cell for row in rows for cell in (*row.split("&"), "")]


def _elements_equal(answers: list[str] | None, golds: list[str] | None) -> bool:
    if answers is None or golds is None or len(answers) != len(golds):
        return False
    return all(equal(answer, gold) for answer, gold in zip(answers, golds, strict=True))


def _equations_equal(answer: str, gold: str) -> bool:
    """Whether two equations set the same expression to zero, up to its sign."""
    if answer.count("=") != 1 or gold.count("=") != 1:
        return False
    difference, gold_difference = (f"{left}-({right})" for left, right in (answer.split("="), gold.split("=")))
    return _symbolically_equal(difference, gold_difference) or _symbolically_equal(f"-({difference})", gold_difference)


def _right_sides_equal(answer: str, gold: str) -> bool:
    """Whether two answers are equal except for an `x=` in one of them."""
    if ("=" in answer) == ("=" in gold):
        return False
    found, gold_found = _SHORT_LEFT_SIDE.fullmatch(answer), _SHORT_LEFT_SIDE.fullmatch(gold)
    if found is None and gold_found is None:
        return False
    return equal(found.group(1) if found else answer, gold_found.group(1) if gold_found else gold)


# docs/toolkit-judge.md, "Equality", test 9 ----------------------------------------------------------------------------

# SymPy converts strings with Python's `eval`. The converter passes only numerals to it, but a later version of either
# library may pass more, so these patterns reject everything beyond arithmetic.
_MATHEMATICS = re.compile(r"[\w\\{}()\[\].,+\-*/^=<>|!&:;]+", re.ASCII)
_NOT_MATHEMATICS = re.compile(
    r"__|\.[A-Za-z_]"  # attributes
    r"|\\operatorname"  # whole programs: zeros(9999,9999)
    r"|\^[{(+-]*\d+[})]*[\^!]|\^[{(+-]*\d{5,}"  # 9^9^9, 9^99!, 9^99999
    r"|\d{5,}[)}]*!|![)}]*!"  # 99999!, 9!!!
    r"|\d_"  # 52_8 is a numeral in base 8, but the converter reads 52
    r"|\.\d*\."  # the converter reads 2.5.1 as a product
)
_WORD = re.compile(r"[A-Za-z]|[A-Za-z]{4,}")

# Plain notation that models write instead of LaTeX commands.
_PLAIN_NOTATION = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=\d)[eE]([+-]?\d+)"), r"*10^{\1}"),
    (re.compile(r"(?<![A-Za-z\\])(pi|infty|theta|alpha|sqrt|sin|cos|tan|ln|log|exp)(?![A-Za-z])"), r"\\\1"),
)
_ROUND_ARGUMENT = re.compile(r"(?:\^|\\sqrt)\(")


def _symbolically_equal(answer: str, gold: str) -> bool:
    """Whether SymPy finds two formulas equal."""
    if _WORD.fullmatch(answer) and _WORD.fullmatch(gold):
        return False  # names: the converter reads "Leon" and "Noel" as the same product of letters
    left = _expression(answer)
    right = None if left is None else _expression(gold)
    return right is not None and any(_holds(test, left, right) for test in _SYMBOLIC_TESTS)


def _expression(text: str) -> Any:
    """Convert a formula to a SymPy object; None if that fails or is not safe."""
    latex = _as_latex(text)
    if not _MATHEMATICS.fullmatch(latex) or _NOT_MATHEMATICS.search(latex):
        return None
    # Imported here because SymPy takes a second, and most answers do not need it.
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    try:
        return latex2sympy(latex, conversion_config=ConversionConfig(lowercase_symbols=False))
    except MemoryError:
        raise
    except Exception:  # the converter raises bare Exceptions, and SymPy many types
        return None


def _as_latex(text: str) -> str:
    """Rewrite `sqrt(2)`, `2**(1/2)` and `4.5e33` as LaTeX."""
    for pattern, replacement in _PLAIN_NOTATION:
        text = pattern.sub(replacement, text)
    while found := _ROUND_ARGUMENT.search(text):
        before, argument = text[: found.end() - 1], text[found.end() - 1 :]
        end = closing(argument, "()")
        if end is None:
            break
        text = f"{before}{{{argument[1:end]}}}{argument[end + 1 :]}"
    return text


def _holds(test: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    """Run a test; an error counts as no, because sets have no difference and variables have no value."""
    try:
        return bool(test(left, right))
    except MemoryError:
        raise
    except Exception:
        return False


def _same_value(left: Any, right: Any) -> bool:
    value, gold_value = left.evalf(), right.evalf()
    # Not with Python's floats, where large values are infinite and everything is close to infinity.
    return bool(gold_value.is_finite and abs(value - gold_value) <= RELATIVE_TOLERANCE * abs(gold_value))


def _same_rounded_matrix(left: Any, right: Any) -> bool:
    rounded, gold_rounded = (
        matrix.evalf().applyfunc(lambda cell: round(cell, MATRIX_DECIMALS)) for matrix in (left, right)
    )
    return bool(rounded == gold_rounded)


def _same_when_simplified(left: Any, right: Any) -> bool:
    from sympy import simplify

    return bool(simplify(left - right) == 0)


_SYMBOLIC_TESTS: tuple[Callable[[Any, Any], bool], ...] = (
    lambda left, right: str(left) == str(right),
    lambda left, right: left.equals(right),
    _same_when_simplified,
    _same_value,
    _same_rounded_matrix,
)
