"""The main judge: answers compared as mathematics, exactly where they are numbers, by math-verify where not.

Runs in the workers of `pool` only: math-verify and SymPy may take any time and memory over what a model wrote.
"""

import logging
import re

from lightreasoner.grading.extraction import extract_answer as extract_number
from lightreasoner.grading.extraction import extract_choice, stated_answer
from lightreasoner.grading.numbers import parse_number, parse_quantity, same_number
from lightreasoner.grading.verdicts import AnswerKind, Judgement

LONGEST_EXPRESSION = 1000  # characters; what is longer is compared as text only

_TEXT_COMMANDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|quad|[,;!: ])|[$~\s]+")
# Prose, nothing to calculate; "no" is the one short answer that is not a product of variables.
_WORDS = re.compile(r"(?=(?i:no\b)|.*[^\W\d_]{3})[^\W\d_][^\d\\^_={}$+*/<>|()\[\]]*", re.DOTALL)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_AM_PM = re.compile(r"(?<=:\d\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
# Spaces that say nothing. Between digits they keep two numbers apart, unless they separate thousands.
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\s+(?=\d{3}(?!\d))")

# A formula that ends the text, on lines of its own; and one in the last line, where "$5 and $7" is money, not maths.
_DISPLAYED = re.compile(r"(?:\\\[|\$\$)((?:(?!\\\[|\$\$).)+?)(?:\\\]|\$\$)[\s.]*\Z", re.DOTALL)
_INLINE = re.compile(r"(?<!\\)\$([^$\s](?:[^$]*[^$\s])?|\s[^$]+\s)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]")


def judge(text: str, gold: str, kind: AnswerKind) -> Judgement:
    """Find the answer in a text and compare it with the gold answer.

    Args:
        text: what the model wrote.
        gold: the gold answer; one letter for `choice`.
        kind: what answers are. Numbers may have words or signs around them, and are compared exactly; expressions
            are anything in LaTeX or words.
    """
    if kind == "choice":
        letter = extract_choice(text)
        return _judgement(letter, letter, equal=letter == gold.strip())
    answer = extract_number(text) if kind == "number" else _extract_expression(text)
    if answer is None:
        return Judgement(None, None, "no_answer")
    if kind == "number" and (expected := parse_number(gold)) is not None:
        number = parse_number(answer)
        equal = number is not None and same_number(answer, number, gold, expected)
        return _judgement(answer, _plain(answer) if number is None else str(number), equal=equal)
    return _judgement(answer, canonical(answer), equal=equal_expressions(answer, gold))


def equal_expressions(answer: str, gold: str) -> bool:
    """Whether two answers say the same, the cheap ways of telling first."""
    if _plain(answer) == _plain(gold):
        return True
    expected = parse_quantity(gold)
    number = parse_quantity(answer) if expected is not None else None
    if expected is not None and number is not None:
        return same_number(answer, number, gold, expected)
    if _WORDS.fullmatch(gold) or len(answer) > LONGEST_EXPRESSION:
        return False
    return _verified(answer, gold)


def canonical(answer: str) -> str:
    """A form in which equal answers are mostly the same text."""
    number = parse_quantity(answer)
    return str(number) if number is not None else _plain(answer)


def prepare() -> None:
    """Import what takes long, before the clock of the first answer runs."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # each parser that gives up reports at length


def _extract_expression(text: str) -> str | None:
    stated = stated_answer(text)
    if stated is not None:
        return stated or None
    end = text.rstrip()[-LONGEST_EXPRESSION:]
    displayed = _DISPLAYED.search(end)
    formulas = [displayed] if displayed else list(_INLINE.finditer(end.rpartition("\n")[2]))
    if not formulas:
        return extract_number(text)
    return next(part for part in formulas[-1].groups() if part).strip() or None


def _verified(answer: str, gold: str) -> bool:
    """The verdict of math-verify, without its own time limits: they need signals, and the worker has one."""
    from math_verify import parse, verify

    parsed_gold, parsed_answer = (parse(f"\\boxed{{{side}}}", parsing_timeout=None) for side in (gold, answer))
    return bool(verify(parsed_gold, parsed_answer, timeout_seconds=None, raise_on_error=True))


def _plain(text: str) -> str:
    """Text without layout, wrapping, article and closing full stop, in lower case: enough to compare words."""
    text = _TEXT_COMMANDS.sub(r" \1 ", text.replace("’", "'"))
    text = _ARTICLE.sub("", _LAYOUT.sub(" ", text).strip().removesuffix("."))
    # Upper and lower case are different variables in a formula, but not different words.
    if _WORDS.fullmatch(text):
        return re.sub(r"\s+", " ", text.casefold())
    return _LOOSE_SPACE.sub("", _AM_PM.sub(lambda found: f"{found[1].lower()}m", text))


def _judgement(extracted: str | None, canonical_form: str | None, *, equal: bool) -> Judgement:
    if extracted is None:
        return Judgement(None, None, "no_answer")
    return Judgement(extracted, canonical_form, "correct" if equal else "wrong")
