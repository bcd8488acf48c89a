"""Questions, gold answers and choices of rows where a field alone is not enough; `benchmarks.yaml` names the functions.

All raise `DataError` with file and line for a row that lacks a field or has a wrong value.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightreasoner.data.fields import checked_text, text_of
from lightreasoner.data.golds import as_gold, boxed_in, marked_gold
from lightreasoner.data.lines import Row, short
from lightreasoner.errors import DataError

LETTERS = "ABCDE"
Choices = tuple[str, Sequence[str], int]  # context, choices, index of the right choice


def gsm8k_gold(row: Row) -> str:
    """The text after the last ####."""
    solution = text_of(row, "answer")
    gold = marked_gold(row, "answer", solution)
    if gold is None:
        raise DataError(
            f"{row[0]}: answer is {short(solution)}, without #### before its final number; is this the right file?"
        )
    return gold


def svamp_question(row: Row) -> str:
    """Story and question, with one full stop between them."""
    body = text_of(row, "Body").strip()
    return f"{body}{'' if body.endswith('.') else '.'} {text_of(row, 'Question').strip()}"


def svamp_gold(row: Row) -> str:
    """The answer, without the decimal point of an integer."""
    return as_gold(row, "Answer", _field(row, "Answer")).removesuffix(".0")


def asdiv_question(row: Row) -> str:
    """Story and question."""
    return f"{text_of(row, 'body').strip()} {text_of(row, 'question').strip()}"


def asdiv_gold(row: Row) -> str:
    """The answer without its unit: drops the brackets of "9 (apples)", but not those of "-(1/3)"."""
    return re.sub(r"\s+\([^()]*\)\s*$", "", text_of(row, "answer"))


def boxed_gold(row: Row) -> str:
    r"""The content of the last `\boxed{…}` of the solution."""
    boxed = boxed_in(row, "solution", text_of(row, "solution"))
    if boxed is None:
        raise DataError(f"{row[0]}: no \\boxed answer in the solution; is this the right file?")
    return boxed


def olympiad_gold(row: Row) -> str:
    """The first of the final answers, without dollar signs."""
    answers = _field(row, "final_answer")
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise DataError(f"{row[0]}: final_answer is {answers!r}, not a list of texts")
    return answers[0].replace("$", "").strip().removesuffix(".")


def mmlu_question(row: Row) -> str:
    """The question and its choices, with letters."""
    pairs = zip(LETTERS, _mmlu_choices(row), strict=False)
    lettered = " ".join(f"({letter}) {choice.strip()}" for letter, choice in pairs)
    return f"{text_of(row, 'question').strip()}\nAnswer Choices: {lettered}"


def mmlu_gold(row: Row) -> str:
    """The letter of the right choice."""
    index = _field(row, "answer")
    if type(index) is not int or not 0 <= index < len(_mmlu_choices(row)):
        raise DataError(f"{row[0]}: answer is {short(index)}, not the index of one of the choices")
    return LETTERS[index]


def _mmlu_choices(row: Row) -> list[str]:
    choices = _texts(row, "choices", _field(row, "choices"))
    if len(choices) > len(LETTERS):
        raise DataError(f"{row[0]}: {len(choices)} choices, and answers have the letters {LETTERS}; remove the row")
    return choices


def _labelled_choices(row: Row) -> tuple[list[str], list[str]]:
    """Labels and texts of the choices."""
    choices = _field(row, "choices")
    if not isinstance(choices, Mapping):
        raise DataError(f"{row[0]}: choices is {short(choices)}, not lists of labels and texts")
    labels, texts = (_texts(row, f"choices.{name}", choices.get(name)) for name in ("label", "text"))
    if len(labels) != len(texts):
        raise DataError(f"{row[0]}: {len(labels)} labels of choices, and {len(texts)} texts")
    return labels, texts


def _texts(row: Row, name: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{row[0]}: {name} is {short(value)}, not a list of texts")
    return [checked_text(row, f"{name}[{place}]", text) for place, text in enumerate(value)]


def _index_of_answer(row: Row, labels: Sequence[str]) -> int:
    answer = str(_field(row, "answerKey"))
    if answer not in labels:
        raise DataError(f"{row[0]}: answerKey is {answer!r}, none of the choices {', '.join(labels)}")
    return labels.index(answer)


def commonsense_qa_item(row: Row) -> Choices:
    """The choices are in the context; their letters are compared."""
    labels, texts = _labelled_choices(row)
    lines = [f"{label}. {text}" for label, text in zip(labels, texts, strict=True)]
    context = "\n".join([f"Question: {text_of(row, 'question').strip()}", *lines, "Answer:"])
    return context, labels, _index_of_answer(row, labels)


def arc_item(row: Row) -> Choices:
    """The texts of the choices are compared."""
    labels, texts = _labelled_choices(row)
    return f"Question: {text_of(row, 'question')}\nAnswer:", texts, _index_of_answer(row, labels)


def hellaswag_item(row: Row) -> Choices:
    """The endings are compared."""
    start, rest, label = (_field(row, name) for name in ("ctx_a", "ctx_b", "label"))
    for name, value in (("ctx_a", start), ("ctx_b", rest)):
        if not isinstance(value, str):
            raise DataError(f"{row[0]}: {name} is {short(value)}, not a text")
    if type(label) not in (int, str) or not str(label).isdecimal():  # blank where the answers are kept secret
        raise DataError(f"{row[0]}: label is {short(label)}, not the index of an ending")
    endings = [_without_wikihow_marks(ending) for ending in _texts(row, "endings", _field(row, "endings"))]
    context = _without_wikihow_marks(f"{text_of(row, 'activity_label')}: {start} {rest.capitalize()}")
    return context, endings, int(label)


def _without_wikihow_marks(text: str) -> str:
    """Remove WikiHow's marks, such as `[title]` and `[step]`."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _field(row: Row, name: str) -> Any:
    where, fields = row
    if name not in fields:
        raise DataError(f"{where}: no field {name} among {', '.join(fields)}; is this the right file?")
    return fields[name]
