r"""A judge that decides as the Qwen2.5-Math evaluation toolkit does, so that numbers compare with published ones.

docs/toolkit-judge.md states the toolkit's rules; comments cite its headings. The toolkit's leniency is kept on
purpose: 5, 500 and 0.05 all pass for 5, `1,2` is the number 12, the article "a" is a choice letter.

Two things differ, and are not meant to change a verdict that anyone would defend. Symbolic work goes through one LaTeX
converter, where the toolkit has three parsers of which one runs text as Python. And what only a program would write
(towers of powers, 2000 characters, 13 brackets deep) is compared as text.

Symbolic comparison can take forever: run the judge in a process that somebody may kill.
"""

import math
import re
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

from lightreasoner.grading.qwen_toolkit_text import strip_string
from lightreasoner.grading.verdicts import Judgement

CHOICES = ("A", "B", "C", "D", "E")
RELATIVE_TOLERANCE = 1e-4
MATRIX_DECIMALS = 3
LONGEST_FORMULA = 2000  # characters
DEEPEST_FORMULA = 12  # brackets inside brackets; the converter's time doubles with each, and gold answers have 4


def judge(text: str, gold: str, benchmark: str | None = None) -> Judgement:
    """Judge the answer in a model's text.

    Args:
        text: what the model wrote.
        gold: the gold answer as the benchmark has it.
        benchmark: the toolkit's name of the benchmark; `mmlu_stem` and `minerva_math` have rules of their own.
    """
    strip_units = benchmark != "minerva_math"
    # The toolkit normalises gold answers once when it loads them and again here. Once is the same for every gold answer
    # of its benchmarks, and never lets a word-for-word answer fail.
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

    After "choice is" or "answer is" the first letter counts, otherwise the last one of the whole text. A phrase that
    comes twice means that the model went on to questions of its own; only the first block counts then.
    """
    if any(text.count(trigger) > 1 for trigger in _CHOICE_TRIGGERS):
        text = text.strip("\n").partition("\n\n")[0]
    *before, piece = re.split("|".join(_CHOICE_TRIGGERS), text)
    letters = _CHOICE.findall(piece.upper())
    if not letters:
        return None
    return str(letters[0] if before else letters[-1])


def _hoped_for(text: str) -> str | None:
    """Rule 2: the form of the Minerva prompts."""
    answer, found, _ = text.partition("final answer is $")[2].partition("$. I hope")
    return answer if found else None


def _boxed(text: str) -> str | None:
    """Rule 3: after the last "boxed", what is in its braces (all the rest if unclosed), or what precedes a dollar."""
    _, found, rest = text.rpartition("boxed")
    if not found:
        return None
    return rest[1 : _closing(rest, "{}")] if rest.startswith("{") else rest.partition("$")[0]


def _after(phrase: str) -> Callable[[str], str | None]:
    """Rules 4 to 6: everything after the last occurrence of a phrase, to the end of the text."""

    def rule(text: str) -> str | None:
        _, found, rest = text.rpartition(phrase)
        return rest if found else None

    return rule


def _last_number(text: str) -> str | None:
    """Rule 7."""
    numbers = _ANY_NUMBER.findall(text.replace(",", ""))
    return str(numbers[-1]) if numbers else None


_EXTRACTION_RULES: tuple[Callable[[str], str | None], ...] = (
    _hoped_for,
    _boxed,
    _after("he answer is"),
    _after("final answer is"),
    _after("答案是"),
    _last_number,
)


def _closing(text: str, pair: str) -> int | None:
    """Where the bracket closes that a text begins with; None if it does not."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == pair[0]) - (character == pair[1])
        if depth == 0:
            return position
    return None


# docs/toolkit-judge.md, "Equality" ------------------------------------------------------------------------------------

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(\\?%)?", re.ASCII)
_BRACKETS = str.maketrans("", "", "(){}[]")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", re.DOTALL)
_SHORT_LEFT_SIDE = re.compile(r"[^=<>!]{1,2}=([^=]+)")


def equal(answer: str | None, gold: str | None) -> bool:
    """Whether two normalised answers are the same: the tests of "Equality" in their order."""
    if answer is None or gold is None:
        return False
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
    r"""The number that a text is, commas dropped and a trailing % taken as hundredths; None if it is none.

    Stricter than `float`, which also takes "nan", "1_000" and other scripts' digits. What overflows is no number, for
    two infinities would be equal.
    """
    found = _NUMBER.fullmatch(text.replace(",", ""))
    if found is None:
        return None
    value = float(found.group(1)) / (100 if found.group(2) else 1)
    return value if math.isfinite(value) else None


def _depths(text: str) -> list[int]:
    """How many brackets are open after each character; kinds are not told apart, for `(0,1]` closes as well."""
    return list(accumulate((character in "([{") - (character in ")]}") for character in text))


def _is_formula(text: str) -> bool:
    """Whether a text is short and flat enough to be taken apart."""
    return len(text) <= LONGEST_FORMULA and max(_depths(text), default=0) <= DEEPEST_FORMULA


def _items(text: str) -> list[str] | None:
    """The elements of `(a,b)` or `[a,b]`; None for anything else, such as `(a+1)(b+2)`."""
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
    """The cells of a pmatrix, row by row, an empty one after each row to tell shapes apart; None for other texts."""
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
    """Whether two equations say that the same expression is zero, up to its sign."""
    if answer.count("=") != 1 or gold.count("=") != 1:
        return False
    difference, gold_difference = (f"{left}-({right})" for left, right in (answer.split("="), gold.split("=")))
    return _symbolically_equal(difference, gold_difference) or _symbolically_equal(f"-({difference})", gold_difference)


def _right_sides_equal(answer: str, gold: str) -> bool:
    """Whether they agree but for an `x=` that only one of them has."""
    if ("=" in answer) == ("=" in gold):
        return False
    found, gold_found = _SHORT_LEFT_SIDE.fullmatch(answer), _SHORT_LEFT_SIDE.fullmatch(gold)
    if found is None and gold_found is None:
        return False
    return equal(found.group(1) if found else answer, gold_found.group(1) if gold_found else gold)


# docs/toolkit-judge.md, "Equality", test 9 ----------------------------------------------------------------------------

# SymPy makes objects of strings with Python's `eval`, and the converter hands it the numerals that it finds. No
# more; but a later version of either library may hand it more, so nothing that could be beyond arithmetic comes near.
_MATHEMATICS = re.compile(r"[\w\\{}()\[\].,+\-*/^=<>|!&:;]+", re.ASCII)
_NOT_MATHEMATICS = re.compile(
    r"__|\.[A-Za-z_]"  # attributes
    r"|\\operatorname"  # whole programs: zeros(9999,9999)
    r"|\^[{(+-]*\d+[})]*[\^!]|\^[{(+-]*\d{5,}"  # 9^9^9, 9^99!, 9^99999
    r"|\d{5,}[)}]*!|![)}]*!"  # 99999!, 9!!!
    r"|\d_"  # 52_8 is a numeral in base 8, which the converter takes for 52
    r"|\.\d*\."  # 2.5.1 it takes for a product
)
_WORD = re.compile(r"[A-Za-z]|[A-Za-z]{4,}")

# What models write where LaTeX has a command.
_PLAIN_NOTATION = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=\d)[eE]([+-]?\d+)"), r"*10^{\1}"),
    (re.compile(r"(?<![A-Za-z\\])(pi|infty|theta|alpha|sqrt|sin|cos|tan|ln|log|exp)(?![A-Za-z])"), r"\\\1"),
)
_ROUND_ARGUMENT = re.compile(r"(?:\^|\\sqrt)\(")


def _symbolically_equal(answer: str, gold: str) -> bool:
    """Whether two formulas are equal to a computer algebra system."""
    if _WORD.fullmatch(answer) and _WORD.fullmatch(gold):
        return False  # names: to a converter "Leon" and "Noel" are the same product of letters
    left = _expression(answer)
    right = None if left is None else _expression(gold)
    return right is not None and any(_holds(test, left, right) for test in _SYMBOLIC_TESTS)


def _expression(text: str) -> Any:
    """The SymPy object that a formula stands for; None if it stands for none that is safe to build."""
    latex = _as_latex(text)
    if not _MATHEMATICS.fullmatch(latex) or _NOT_MATHEMATICS.search(latex):
        return None
    # Imported here: SymPy takes a second, which most answers never need.
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    try:
        return latex2sympy(latex, conversion_config=ConversionConfig(lowercase_symbols=False))
    except MemoryError:
        raise
    except Exception:  # the converter raises bare Exceptions, and SymPy all kinds
        return None


def _as_latex(text: str) -> str:
    """The formula with `sqrt(2)`, `2**(1/2)` and `4.5e33` in LaTeX."""
    for pattern, replacement in _PLAIN_NOTATION:
        text = pattern.sub(replacement, text)
    while found := _ROUND_ARGUMENT.search(text):
        before, argument = text[: found.end() - 1], text[found.end() - 1 :]
        end = _closing(argument, "()")
        if end is None:
            break
        text = f"{before}{{{argument[1:end]}}}{argument[end + 1 :]}"
    return text


def _holds(test: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    """Whether a test says yes. One that makes no sense here says no: sets have no difference, variables no value."""
    try:
        return bool(test(left, right))
    except MemoryError:
        raise
    except Exception:
        return False


def _same_value(left: Any, right: Any) -> bool:
    value, gold_value = left.evalf(), right.evalf()
    # Not in Python's floats, where all that is large is infinite; and everything is within a share of infinity.
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
