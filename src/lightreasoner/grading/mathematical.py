"""The main judge: compares numbers exactly, and other expressions with math-verify.

Runs only in the workers of `pool`, because math-verify and SymPy can take any time and memory on a model's text.
"""

import logging
import re
import unicodedata

from lightreasoner.grading.extraction import extract_answer as extract_number
from lightreasoner.grading.extraction import extract_choice, extract_text, stated_answer
from lightreasoner.grading.numbers import parse_number, parse_quantity, same_number
from lightreasoner.grading.verdicts import AnswerKind, Judgement

LONGEST_EXPRESSION = 1000  # characters; longer answers are compared as text only

_TEXT_COMMANDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|quad|[,;!: ])|[$~\s]+")
# Prose, which needs no mathematics. "no" is the only short answer that is not a product of variables.
_WORDS = re.compile(r"(?=(?i:no\b)|.*[^\W\d_]{3})[^\W\d_][^\d\\^_={}$+*/<>|()\[\]]*", re.DOTALL)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_AM_PM = re.compile(r"(?<=:\d\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
# Spaces without meaning. Between digits a space separates two numbers, unless it separates thousands.
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\s+(?=\d{3}(?!\d))")

# Answers in words.
_QUOTES_AND_DASHES = str.maketrans("‘’“”‐‑–—−", "''\"\"-----")
_MARKUP = re.compile(
    r"\\(?:left|right|displaystyle|[,;!()\[\]])|\*{1,3}|`+|(?<!\w)_+|_+(?!\w)|[${}]|</?[a-z]{1,10}>|^\s*#+\s"
)
_PUNCTUATION = " .,;:!?\"'"
_THE = re.compile(r"\bthe\s+(?=\S)")
_LEADING_ARTICLE = re.compile(r"^an?\s+(?=\S)")

# A displayed formula at the end of the text, and an inline formula in its last line; "$5 and $7" is money, not maths.
_DISPLAYED = re.compile(r"(?:\\\[|\$\$)((?:(?!\\\[|\$\$).)+?)(?:\\\]|\$\$)[\s.]*\Z", re.DOTALL)
_INLINE = re.compile(r"(?<!\\)\$([^$\s](?:[^$]*[^$\s])?|\s[^$]+\s)\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]")


def judge(text: str, gold: str, kind: AnswerKind) -> Judgement:
    """Find the answer in a text and compare it with the gold answer.

    Args:
        text: the model's response.
        gold: the gold answer; one letter for `choice`.
        kind: kind of answer. Numbers may have words or signs around them, and are compared exactly; expressions can be
            LaTeX or words; texts are compared word for word.
    """
    if kind == "choice":
        letter = extract_choice(text)
        return _judgement(letter, letter, equal=letter == gold.strip())
    if kind == "text":
        words = extract_text(text)
        same = words is not None and words_of(words) == words_of(gold)
        return _judgement(words, None if words is None else words_of(words), equal=same)
    answer = extract_number(text) if kind == "number" else _extract_expression(text)
    if answer is None:
        return Judgement(None, None, "no_answer")
    if kind == "number" and (expected := parse_number(gold)) is not None:
        number = parse_number(answer)
        equal = number is not None and same_number(answer, number, gold, expected)
        return _judgement(answer, _plain(answer) if number is None else str(number), equal=equal)
    return _judgement(answer, canonical(answer), equal=equal_expressions(answer, gold))


def equal_expressions(answer: str, gold: str) -> bool:
    """Whether two answers are equal; tries text and numbers before math-verify, which is slow."""
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
    """Normal form of an answer; equal answers mostly have the same one."""
    number = parse_quantity(answer)
    return str(number) if number is not None else _plain(answer)


def words_of(text: str) -> str:
    """Normal form of an answer in words: without case, articles, markup, outer punctuation and repeated spaces.

    "A" and "an" are articles only at the start, because of "vitamin A". An answer of punctuation alone keeps it.
    """
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES_AND_DASHES).casefold()
    text = _MARKUP.sub("", _TEXT_COMMANDS.sub(r" \1 ", text))
    bare = " ".join(text.split())
    bare = bare.strip(_PUNCTUATION) or bare
    return _LEADING_ARTICLE.sub("", _THE.sub("", bare))


def prepare() -> None:
    """Import slow libraries before the time limit of the first answer starts."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it logs every failed parse at length


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
    """Compare with math-verify, without its time limits: they need signals, and the worker has its own limit."""
    from math_verify import parse, verify

    parsed_gold, parsed_answer = (parse(f"\\boxed{{{side}}}", parsing_timeout=None) for side in (gold, answer))
    return bool(verify(parsed_gold, parsed_answer, timeout_seconds=None, raise_on_error=True))


def _plain(text: str) -> str:
    """Remove layout, text commands, article and final full stop; words become lower case."""
    text = _TEXT_COMMANDS.sub(r" \1 ", text.replace("’", "'"))
    text = _ARTICLE.sub("", _LAYOUT.sub(" ", text).strip().removesuffix("."))
    # Case distinguishes variables in a formula, but not words.
    if _WORDS.fullmatch(text):
        return re.sub(r"\s+", " ", text.casefold())
    return _LOOSE_SPACE.sub("", _AM_PM.sub(lambda found: f"{found[1].lower()}m", text))


def _judgement(extracted: str | None, canonical_form: str | None, *, equal: bool) -> Judgement:
    if extracted is None:
        return Judgement(None, None, "no_answer")
    return Judgement(extracted, canonical_form, "correct" if equal else "wrong")
