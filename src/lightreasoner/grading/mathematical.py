"""The main judge: finds the answer in a text and compares it with the gold answer.

Runs only in the workers of `pool`, because math-verify and SymPy can take any time and memory on a model's text.
"""

import re
import unicodedata
from fractions import Fraction

from lightreasoner.grading.characters import TEXT_COMMANDS, plain
from lightreasoner.grading.comparison import equal_expressions
from lightreasoner.grading.extraction import extract_answer as extract_number
from lightreasoner.grading.extraction import extract_choice, extract_expression, extract_literal, extract_text
from lightreasoner.grading.literals import normal_form as literal_form
from lightreasoner.grading.numbers import LONGEST_NUMBER, parse_number, parse_quantity, same_number
from lightreasoner.grading.statements import without_reason
from lightreasoner.grading.symbolic import prepare
from lightreasoner.grading.times_and_ratios import is_range, ranges
from lightreasoner.grading.verdicts import AnswerKind, Judgement

__all__ = ["canonical", "equal_expressions", "judge", "prepare", "words_of"]

# A formula that is no plain number, in an answer to a question about a number: \sqrt{16}, 5!
_FORMULA = re.compile(r"(?=.*(?:\\[A-Za-z]|[!^√]|sqrt))(?:\\[A-Za-z]+|sqrt|[^A-Za-z])+[A-Za-z]?", re.DOTALL)

# Answers in words.
_QUOTES_AND_DASHES = str.maketrans("‘’“”‐‑–—−", "''\"\"-----")
_MARKUP = re.compile(
    r"\\(?:left|right|displaystyle|[,;!()\[\]])|\*{1,3}|`+|(?<!\w)_+|_+(?!\w)|[${}]|</?[a-z]{1,10}>|^\s*#+\s"
)
_PUNCTUATION = " .,;:!?\"'"
_THE = re.compile(r"\bthe\s+(?=\S)")
_LEADING_ARTICLE = re.compile(r"^an?\s+(?=\S)")


def judge(text: str, gold: str, kind: AnswerKind) -> Judgement:
    """Find the answer in a text and compare it with the gold answer.

    Args:
        text: the model's response.
        gold: the gold answer; one letter for `choice`.
        kind: kind of answer. Numbers may have words or signs around them, and are compared exactly; expressions can be
            LaTeX or words; texts are compared word for word; literals are Python values, compared with their types.
    """
    text, gold = (unicodedata.normalize("NFC", side) for side in (text, gold))  # one character for é, in all kinds
    if kind == "choice":
        letter = extract_choice(text)
        return _judgement(letter, letter, equal=letter == gold.strip())
    if kind == "text":
        words = extract_text(text)
        same = words is not None and words_of(words) == words_of(gold)
        return _judgement(words, None if words is None else words_of(words), equal=same)
    if kind == "literal":
        literal = extract_literal(text)
        value = None if literal is None else literal_form(literal)
        return _judgement(literal, value, equal=value == literal_form(gold))
    expected = parse_number(gold) if kind == "number" else None
    answer = extract_expression(text) if expected is None and kind == "expression" else extract_number(text)
    if answer is None:
        return Judgement(None, None, "no_answer")
    if expected is None:
        return _judgement(answer, canonical(answer), equal=equal_expressions(answer, gold))
    number = parse_number(answer)
    if number is None and len(answer) <= LONGEST_NUMBER:  # "42 apples in 3 boxes"
        number = parse_number(without_reason(TEXT_COMMANDS.sub(r" \1 ", answer)))
    normal_form = plain(answer) if number is None or is_range(answer) else str(number)
    return _judgement(answer, normal_form, equal=_equals_number(answer, number, gold, expected))


def _equals_number(answer: str, number: Fraction | None, gold: str, expected: Fraction) -> bool:
    """Whether an answer has the value of a gold number; formulas that are no plain number go to math-verify."""
    if (same_range := ranges(answer, gold)) is not None:
        return same_range
    if number is not None and same_number(answer, number, gold, expected):
        return True
    if "approx" in answer or "≈" in answer or (number is None and _FORMULA.fullmatch(answer)):
        return equal_expressions(answer, gold)
    return False


def canonical(answer: str) -> str:
    """Normal form of an answer; equal answers mostly have the same one."""
    number = None if is_range(answer) else parse_quantity(answer)
    return str(number) if number is not None else plain(answer)


def words_of(text: str) -> str:
    """Normal form of an answer in words: without case, articles, markup, outer punctuation and repeated spaces.

    "A" and "an" are articles only at the start, because of "vitamin A". An answer of punctuation alone keeps it.
    """
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES_AND_DASHES).casefold()
    text = _MARKUP.sub("", TEXT_COMMANDS.sub(r" \1 ", text))
    bare = " ".join(text.split())
    bare = bare.strip(_PUNCTUATION) or bare
    return _LEADING_ARTICLE.sub("", _THE.sub("", bare))


def _judgement(extracted: str | None, canonical_form: str | None, *, equal: bool) -> Judgement:
    if extracted is None:
        return Judgement(None, None, "no_answer")
    return Judgement(extracted, canonical_form, "correct" if equal else "wrong")
