"""Questions, gold answers and choices of rows where a field alone is not enough; `benchmarks.yaml` names the functions.

All raise `DataError` with file and line for a row that lacks a field or has a wrong value.
"""

import re
from collections.abc import Sequence
from typing import Any

from lightreasoner.data.lines import Row
from lightreasoner.data.problems import text_of
from lightreasoner.errors import DataError
from lightreasoner.grading.extraction import last_boxed

Choices = tuple[str, Sequence[str], int]  # context, choices, index of the right choice


def gsm8k_gold(row: Row) -> str:
    """The text after the last ####."""
    return text_of(row, "answer").rpartition("####")[2].strip()


def svamp_question(row: Row) -> str:
    """Story and question, with one full stop between them."""
    body = text_of(row, "Body").strip()
    return f"{body}{'' if body.endswith('.') else '.'} {text_of(row, 'Question').strip()}"


def svamp_gold(row: Row) -> str:
    """The answer, without the decimal point of an integer."""
    return str(_field(row, "Answer")).removesuffix(".0")


def asdiv_question(row: Row) -> str:
    """Story and question."""
    return f"{text_of(row, 'body').strip()} {text_of(row, 'question').strip()}"


def asdiv_gold(row: Row) -> str:
    """The answer without its unit: drops the brackets of "9 (apples)", but not those of "-(1/3)"."""
    return re.sub(r"\s+\([^()]*\)\s*$", "", text_of(row, "answer"))


def boxed_gold(row: Row) -> str:
    r"""The content of the last `\boxed{…}` of the solution."""
    boxed = last_boxed(text_of(row, "solution"))
    if boxed is None:
        raise DataError(f"{row[0]}: no \\boxed answer in the solution; is this the right file?")
    return boxed.strip()


def olympiad_gold(row: Row) -> str:
    """The first of the final answers, without dollar signs."""
    answers = _field(row, "final_answer")
    if not isinstance(answers, list) or not answers or not isinstance(answers[0], str):
        raise DataError(f"{row[0]}: final_answer is {answers!r}, not a list of texts")
    return answers[0].replace("$", "").strip().removesuffix(".")


def mmlu_question(row: Row) -> str:
    """The question and its choices, with letters."""
    choices = _field(row, "choices")
    lettered = " ".join(f"({letter}) {choice.strip()}" for letter, choice in zip("ABCDE", choices, strict=False))
    return f"{text_of(row, 'question').strip()}\nAnswer Choices: {lettered}"


def mmlu_gold(row: Row) -> str:
    """The letter of the right choice."""
    index = _field(row, "answer")
    if not isinstance(index, int) or not 0 <= index < len(_field(row, "choices")):
        raise DataError(f"{row[0]}: answer is {index!r}, not the index of one of the choices")
    return "ABCDE"[index]


def _index_of_answer(row: Row, labels: Sequence[str]) -> int:
    answer = str(_field(row, "answerKey"))
    if answer not in labels:
        raise DataError(f"{row[0]}: answerKey is {answer!r}, none of the choices {', '.join(labels)}")
    return labels.index(answer)


def commonsense_qa_item(row: Row) -> Choices:
    """The choices are in the context; their letters are compared."""
    choices = _field(row, "choices")
    lines = [f"{label}. {text}" for label, text in zip(choices["label"], choices["text"], strict=True)]
    context = "\n".join([f"Question: {text_of(row, 'question').strip()}", *lines, "Answer:"])
    return context, choices["label"], _index_of_answer(row, choices["label"])


def arc_item(row: Row) -> Choices:
    """The texts of the choices are compared."""
    choices = _field(row, "choices")
    return f"Question: {text_of(row, 'question')}\nAnswer:", choices["text"], _index_of_answer(row, choices["label"])


def hellaswag_item(row: Row) -> Choices:
    """The endings are compared."""
    context = f"{_field(row, 'ctx_a')} {str(_field(row, 'ctx_b')).capitalize()}"
    endings = [_without_wikihow_marks(ending) for ending in _field(row, "endings")]
    return _without_wikihow_marks(f"{text_of(row, 'activity_label')}: {context}"), endings, int(_field(row, "label"))


def _without_wikihow_marks(text: str) -> str:
    """Remove WikiHow's marks, such as `[title]` and `[step]`."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _field(row: Row, name: str) -> Any:
    where, fields = row
    if name not in fields:
        raise DataError(f"{where}: no field {name} among {', '.join(fields)}; is this the right file?")
    return fields[name]
