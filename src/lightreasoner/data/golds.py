"""Gold answers: from a value or a written solution, checked against the kind of answer.

A wrong gold answer makes every verdict on its item wrong without a message. So what is not clearly a final answer is
refused with file and line.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from lightreasoner.data.fields import checked_text, last_answer, named, turns_of
from lightreasoner.data.lines import Row, short
from lightreasoner.errors import DataError
from lightreasoner.grading.boxes import boxed_answer, closing
from lightreasoner.grading.literals import NOT_A_LITERAL, parsed
from lightreasoner.grading.numbers import parse_number, parse_quantity
from lightreasoner.grading.verdicts import AnswerKind
from lightreasoner.runs.progress import warn

ANSWER_FIELDS = (
    *("answer", "final_answer", "expected_answer", "gold", "ground_truth", "target", "reward_model.ground_truth"),
    *("solution", "response", "output", "completion", "messages", "conversations"),
)
NO_ANSWERS = ("nan", "NaN", "null", "None", "N/A", "n/a", "?", "-")
LARGEST_EXACT = 10**15  # from here on, floating-point numbers may not be exact
MOST_WORDS = 20  # of an answer; more are a solution
MOST_UNIT_WORDS = 8  # beside a number
MOST_JOINING_WORDS = 2  # between parts of an answer, such as "and"; more, or words without a number, are a remark

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-z])")
_UNBRACED = re.compile(r"\s*([^\s{}$.,;]+)")
_LETTER = re.compile(r"\(?([A-E])[).:]?")
_WITH_COMMA = re.compile(r"[+-]?\d+,\d+")
_CAPITAL = re.compile(r"\(?[A-Z][).:]?")
_DIGIT = re.compile(r"\d")
_HEADING = re.compile(r"[^\W\d]{2,}|\d+[.):]\s")  # "Step 2", "2. Sum"
_WORD = re.compile(r"(?<![\\\w])[^\W\d_]{2,}")  # not a LaTeX command, not a variable


def gold_of(row: Row, field: str | None = None) -> str:
    r"""The gold answer of a row: a number or text, or what a solution marks with `####` or `\boxed{}`.

    Args:
        row: the row.
        field: field with the answer; dots lead into nested fields. Default: the first of `ANSWER_FIELDS`.

    Raises:
        DataError: the field is missing or holds no answer, the mark has nothing behind it, or a chat ends with a
            question.
    """
    name, value = named(row, field, ANSWER_FIELDS, "name the field with the right answer in --answer-field")
    turns = turns_of(row, name, value)
    if turns is not None:
        value = last_answer(row, name, turns)
    return as_gold(row, name, value)


def as_gold(row: Row, name: str, value: Any) -> str:
    """The gold answer in a value of a row; raises `DataError` if it is none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if type(value) is int or (isinstance(value, float | Decimal) and math.isfinite(value)):
        return number_text(value)
    if isinstance(value, list):
        raise DataError(f"{row[0]}: {name} has {len(value)} entries, and an item has one gold answer; mend the row")
    if (value is not None and not isinstance(value, str)) or value in NO_ANSWERS:
        raise DataError(f"{row[0]}: {name} is {short(value)}, neither a text nor a finite number; mend the row")
    text = checked_text(row, name, value)
    return marked_gold(row, name, text) or text.strip()


def number_text(value: float | Decimal) -> str:
    """A finite number as a gold answer: whole ones without a point, and without the rounding of a computation."""
    if -LARGEST_EXACT < value < LARGEST_EXACT and value == int(value):
        return str(int(value))
    # 0.1 + 0.2 is 0.30000000000000004; nobody writes so many digits of a binary number.
    digits = repr(value).partition("e")[0].replace(".", "").strip("-0")
    return f"{value:.15g}" if isinstance(value, float) and len(digits) > 15 else str(value)


def marked_gold(row: Row, name: str, solution: str) -> str | None:
    r"""What a solution marks as its answer, by the last `####` or by `\boxed{}`; None if it has no mark.

    Several boxes of one sentence, such as `\boxed{2} or \boxed{-2}`, are one answer.

    Raises:
        DataError: there is nothing in or behind the mark, or the box is not closed.
    """
    _, hashes, end = solution.rpartition("####")
    marked = end if hashes else solution
    boxed = boxed_in(row, name, marked)
    if boxed is not None:
        read = boxed_answer(marked)  # as in answers: all boxes of a sentence, with the sign before and behind
        return read if read and boxed in read else boxed
    if not hashes:
        return None
    if not end.strip():
        raise DataError(
            f"{row[0]}: {name} has #### without an answer behind it; every answer would be wrong. Mend the row"
        )
    return _of_its_line(end.strip())


def _of_its_line(marked: str) -> str:
    """What stands behind a mark on its line, if words follow on the next ones; all of it if it goes on there."""
    line, _, rest = marked.partition("\n")
    words = len(_WORD.findall(rest))
    is_remark = words > MOST_JOINING_WORDS or (words and not _DIGIT.search(rest))
    is_heading = _WORD.search(line) and (parse_quantity(line) is None or _HEADING.match(line))
    is_closed = all(line.count(first) == line.count(last) for first, last in ("()", "[]", "{}"))
    return line.strip() if is_remark and is_closed and not is_heading else marked


def boxed_in(row: Row, name: str, solution: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`, also without braces as in `\boxed 5`; None without a box.

    Raises:
        DataError: the box is empty or not closed.
    """
    box = next(reversed(list(_BOX.finditer(solution))), None)
    if box is None:
        return None
    braces = solution[box.end() :]
    end = closing(braces, "{}") if braces.startswith("{") else None
    plain = _UNBRACED.match(braces)
    gold = braces[1:end].strip() if end is not None else plain[1] if plain else ""
    if not gold:
        raise DataError(
            f"{row[0]}: {name} has {box[0]} without an answer in it; every answer would be wrong. Mend the row"
        )
    return gold


def checked_gold(where: str, gold: str, kind: AnswerKind) -> str:
    """The gold answer in the form of its kind: a letter of a choice without brackets, any other as it is.

    Raises:
        DataError: it is blank or not of this kind, so no answer could be right.
    """
    letter = _LETTER.fullmatch(gold.strip().upper())
    fits = {
        "number": not is_prose(gold, MOST_UNIT_WORDS) and parse_number(gold) is not None,
        "choice": letter is not None,
        "expression": not is_prose(gold),
        "text": True,
        "literal": parsed(gold) is not NOT_A_LITERAL,
    }
    if not gold.strip() or not fits[kind]:
        names = {"number": "a number", "choice": "a letter A … E", "literal": "a Python literal"}
        what = names.get(kind, "an answer")
        raise DataError(
            f"{where}: the gold answer is {short(gold)}, not {what}, so every answer would be wrong. Mark the final "
            "answer of a solution with #### or \\boxed{}, name another field, or give another --answer-kind"
        )
    return letter[1] if letter and kind == "choice" else gold


def is_prose(text: str, most: int = MOST_WORDS) -> bool:
    """Whether a text has more words than an answer, as a solution has."""
    return len(_WORD.findall(text)) > most


def kind_of(file: str, golds: Sequence[str]) -> tuple[AnswerKind, int | None]:
    """The kind of a file's gold answers, and for expressions the place of the first one that is no number.

    `choice` if all are letters A … E or a … e, `number` if all are numbers, else `expression`.

    Raises:
        DataError: all are capital letters, and some of them cannot be read as choices; or all are numbers, if their
            commas are decimal ones.
    """
    letters = [gold for gold in golds if _LETTER.fullmatch(gold.upper())]
    if len(letters) == len(golds):
        return "choice", None
    if all(_CAPITAL.fullmatch(gold) for gold in golds):
        further = next(gold for gold in golds if not _LETTER.fullmatch(gold))
        raise DataError(
            f"{file}: all gold answers are capital letters, such as {further}, and choices are read from A to E only, "
            "so right answers would count as wrong. Leave these rows out, or give --answer-kind text"
        )
    place = next(
        (n for n, gold in enumerate(golds) if is_prose(gold, MOST_UNIT_WORDS) or parse_quantity(gold) is None), None
    )
    if place is None:
        return "number", None
    if _WITH_COMMA.fullmatch(golds[place].strip()) and all(parse_number(gold) is not None for gold in golds):
        raise DataError(
            f"{file}: the gold answer {golds[place]} may be a number with a decimal comma, or two numbers. Give "
            "--answer-kind number, or --answer-kind expression for lists"
        )
    if capitals := [gold for gold in letters if gold.upper() == gold]:
        warn(
            f"{file}: {len(capitals)} of {len(golds)} golds are letters such as {capitals[0]}, and the others are "
            "not, so they are read as names in an expression. Of answers such as (B) to choices most are lost: give a "
            "file of each kind"
        )
    return "expression", place
