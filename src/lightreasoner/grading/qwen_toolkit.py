r"""A judge with the rules of the Qwen2.5-Math evaluation toolkit, so that results compare with published ones.

docs/toolkit-judge.md states the toolkit's rules; comments cite its headings. The toolkit's leniency is kept on
purpose: 5, 500 and 0.05 all pass for 5, `1,2` is the number 12, the article "a" is a choice letter.

The verdicts are the toolkit's own wherever it compares text and numbers. Two deviations concern formulas: text is never
run as Python, and formulas that no person writes (towers of powers, over 2000 characters, 13 nested brackets) are
compared as text.

Symbolic comparison has no time limit of its own: run the judge in a process that can be killed.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from itertools import accumulate, chain

from lightreasoner.grading.qwen_toolkit_symbolic import RELATIVE_TOLERANCE, symbolically_equal
from lightreasoner.grading.qwen_toolkit_text import strip_string
from lightreasoner.grading.verdicts import Judgement

_GOLD_IN_SOLUTION = ("math", "math500", "minerva_math")
_CHOICE_BENCHMARKS = ("mmlu_stem",)
CHOICES = ("A", "B", "C", "D", "E")
LONGEST_FORMULA = 2000  # characters
DEEPEST_FORMULA = 12  # nested brackets; the parser's time grows fast with them. Gold answers have at most 4


def judge(text: str, gold: str, benchmark: str | None = None) -> Judgement:
    """Judge the answer in a model's text.

    Args:
        text: the model's response.
        gold: the gold answer from the benchmark.
        benchmark: the toolkit's name of the benchmark; `mmlu_stem`, `minerva_math` and MATH have their own rules.
    """
    text = _STOP.split(text, maxsplit=1)[0].strip()
    if not text:
        return Judgement(None, None, "no_answer")
    normal_form = partial(strip_string, strip_units=benchmark != "minerva_math")
    expected = normal_form(_loaded(gold, benchmark))
    extracted = extract(text, benchmark)
    canonical = normal_form(normal_form(extracted))
    answered = canonical in CHOICES if benchmark in _CHOICE_BENCHMARKS else canonical != ""
    if expected in CHOICES and canonical not in CHOICES:
        extracted = canonical = choice(text)
    elif set(expected) <= set(CHOICES) and not set(canonical) <= set(CHOICES):
        canonical = "".join(letter for letter in canonical if letter in CHOICES)
    if equal(canonical, expected):
        return Judgement(extracted, canonical, "correct")
    return Judgement(extracted, canonical, "wrong") if answered else Judgement(None, None, "no_answer")


def _loaded(gold: str, benchmark: str | None) -> str:
    """The gold answer as the toolkit loads it: from the box of a solution, or normalised a first time."""
    if benchmark in _GOLD_IN_SOLUTION:
        return extract(rf"\boxed{{{gold}}}")
    return strip_string(_IN_BRACKETS.sub("", gold) if benchmark == "asdiv" else gold)


# docs/toolkit-judge.md, "Extraction" ----------------------------------------------------------------------------------

_STOP = re.compile(r"</s>|<\|im_end\|>|<\|endoftext\|>")
_CHOICE_TRIGGERS = ("choice is", "answer is")
_CHOICE = re.compile(r"\b[A-E]\b")
_CHINESE_PHRASE = "答案是"
_LINE_BREAK = re.compile(r"\n\s*")
_IN_BRACKETS = re.compile(r"\([^)]*\)")  # 9 (apples)
_ANY_NUMBER = re.compile(r"-?\d*\.?\d+")


def extract(text: str, benchmark: str | None = None) -> str:
    """The answer in a text, tidied but not yet normalised ("Extraction"). Empty if there is none."""
    text = text.replace("ки", "")  # Cyrillic
    if benchmark in _CHOICE_BENCHMARKS:
        return choice(text)
    found = next((answer for rule in _EXTRACTION_RULES if (answer := rule(text)) is not None), "")
    return _LINE_BREAK.sub("", found).removeprefix(":").removesuffix(".").removesuffix("/")


def choice(text: str) -> str:
    """The choice that a text makes, from A to E ("Extraction", rule 1); the text itself if it makes none.

    The first letter after "choice is" or "answer is", otherwise the last letter of the text. If a phrase occurs twice,
    the model continued with questions of its own, and only the first paragraph counts.
    """
    text = text.strip("\n")
    if any(text.count(trigger) > 1 for trigger in _CHOICE_TRIGGERS):
        text = text.partition("\n\n")[0]
    *before, piece = re.split("|".join(_CHOICE_TRIGGERS), text)
    letters = _CHOICE.findall(piece.upper())
    if not letters:
        return piece.strip(" \n.:/")
    return str(letters[0] if before else letters[-1])


def _minerva_answer(text: str) -> str | None:
    """Rule 2: the form of the Minerva prompts."""
    before, after = "final answer is $", "$. I hope"
    return text.partition(before)[2].partition(after)[0].strip() if before in text and after in text else None


def _boxed(text: str) -> str | None:
    """Rule 3: the braces after the last "boxed" (to the end if unclosed), or the text up to a dollar sign."""
    _, found, rest = text.rpartition("boxed")
    if not found:
        return None
    if not rest.startswith("{"):
        return rest.partition("$")[0].strip()
    depths = accumulate((character == "{") - (character == "}") for character in rest)
    return rest[1 : next((position for position, depth in enumerate(depths) if depth == 0), None)]


def _after(phrase: str) -> Callable[[str], str | None]:
    """Rules 4 and 5: everything after the last occurrence of a phrase, to the end of the text."""

    def rule(text: str) -> str | None:
        _, found, rest = text.rpartition(phrase)
        return rest.strip() if found else None

    return rule


def _chinese_answer(text: str) -> str | None:
    """Rule 6: the paragraph after the first occurrence of a Chinese phrase, up to the second one."""
    _, found, rest = text.partition(_CHINESE_PHRASE)
    return rest.partition(_CHINESE_PHRASE)[0].strip().partition("\n\n")[0].strip() if found else None


def _last_number(text: str) -> str | None:
    """Rule 7: the last number of the text."""
    numbers = _ANY_NUMBER.findall(text.replace(",", ""))
    return str(numbers[-1]) if numbers else None


_EXTRACTION_RULES: tuple[Callable[[str], str | None], ...] = (
    _minerva_answer,
    _boxed,
    _after("he answer is"),
    _after("final answer is"),
    _chinese_answer,
    _last_number,
)


# docs/toolkit-judge.md, "Equality" ------------------------------------------------------------------------------------

_TUPLE = re.compile(r"[(\[].+[)\]]")
_ROUND_AND_CURLY = str.maketrans("", "", "{}()")
_PMATRIX = (r"\begin{pmatrix}", r"\end{pmatrix}")
_LONGEST_LEFT_SIDE = 2


def equal(answer: str, gold: str) -> bool:
    """Whether two normalised answers are the same: the tests of "Equality" in their order."""
    if answer.strip().lower() == gold.strip().lower():
        return True
    if gold in CHOICES and _CHOICE.findall(answer.upper())[-1:] == [gold]:
        return True
    number, gold_number = _number(answer), _number(gold)
    if number is not None and gold_number is not None:
        return any(
            math.isclose(number, target, rel_tol=RELATIVE_TOLERANCE)
            for target in (gold_number, gold_number / 100, gold_number * 100)
        )
    answer, gold = answer.strip(), gold.strip()
    if not answer:
        return False
    if "pmatrix" in answer and "pmatrix" not in gold:
        gold = _set_as_matrix(gold)
    if _same_without_brackets(answer, gold):
        return True
    if not (_is_formula(answer) and _is_formula(gold)):
        return False
    return (
        _rows_equal(_tuple(answer), _tuple(gold))
        or _rows_equal(_matrix(answer), _matrix(gold))
        or (_equations_equal(answer, gold) if "=" in answer and "=" in gold else _right_sides_equal(answer, gold))
        or symbolically_equal(answer, gold)
    )


def _number(text: str) -> float | None:
    """The value of a text that Python reads as a number, commas dropped; None for other texts."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _set_as_matrix(text: str) -> str:
    r"""A set `{a,b}` as a matrix with single backslashes; empty if a text holds no set with a comma."""
    found = text[text.find("{") : text.rfind("}")] if "{" in text else ""
    return found.strip("{}").replace(",", "\\").join(_PMATRIX) if "," in found else ""


def _same_without_brackets(answer: str, gold: str) -> bool:
    """Whether two texts are equal without braces and round brackets, and square ones around them."""
    if any(
        answer[:1] == pair[0] and answer[-1] == pair[1] and not gold.startswith(other)
        for pair, other in (("[]", "("), ("()", "["))
    ):
        answer, gold = answer.strip("[]()"), gold.strip("[]()")
    return answer.translate(_ROUND_AND_CURLY).lower() == gold.translate(_ROUND_AND_CURLY).lower()


def _is_formula(text: str) -> bool:
    """Whether a text is short and flat enough to parse. All kinds of brackets count alike, because of `(0,1]`."""
    depths = accumulate((character in "([{") - (character in ")]}") for character in text)
    return len(text) <= LONGEST_FORMULA and max(depths, default=0) <= DEEPEST_FORMULA


def _tuple(text: str) -> list[list[str]] | None:
    """The elements of `(a,b)` or `[a,b]` as a row; None for a text without such brackets."""
    return [text[1:-1].split(",")] if _TUPLE.match(text) else None


def _matrix(text: str) -> list[list[str]] | None:
    """The rows of a pmatrix, empty ones left out; None for other texts."""
    begin, end = _PMATRIX
    if not (text.startswith(begin) and text.endswith(end)):
        return None
    rows = text[len(begin) : -len(end)].split(r"\\")
    return [row.strip().split("&") for row in rows if row.strip()]


def _rows_equal(answers: list[list[str]] | None, golds: list[list[str]] | None) -> bool:
    if answers is None or golds is None or list(map(len, answers)) != list(map(len, golds)):
        return False
    return all(map(equal, chain.from_iterable(answers), chain.from_iterable(golds)))


def _equations_equal(answer: str, gold: str) -> bool:
    """Whether two equations set the same expression to zero, up to its sign."""
    if answer.count("=") != 1 or gold.count("=") != 1:
        return False
    difference, gold_difference = (f"{left}-({right})" for left, right in (answer.split("="), gold.split("=")))
    return symbolically_equal(difference, gold_difference) or symbolically_equal(f"-({difference})", gold_difference)


def _right_sides_equal(answer: str, gold: str) -> bool:
    """Whether two answers are equal except for an `x=` in one of them."""
    short, gold_short = _short_right_side(answer), _short_right_side(gold)
    if (short is None) == (gold_short is None):
        return False
    return equal(answer if short is None else short, gold if gold_short is None else gold_short)


def _short_right_side(text: str) -> str | None:
    """What follows the only equals sign, if at most two characters stand before it."""
    left, found, right = text.partition("=")
    return right if found and "=" not in right and len(left.strip()) <= _LONGEST_LEFT_SIDE else None
