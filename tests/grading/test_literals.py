"""Answers that are Python literals: read as a person reads them, compared with their types, and never run."""

import pytest

from lightreasoner.data.golds import checked_gold
from lightreasoner.errors import DataError
from lightreasoner.grading.literals import LONGEST_LITERAL, NOT_A_LITERAL, normal_form, parsed
from lightreasoner.grading.mathematical import judge

RIGHT = [
    ("7", r"So \boxed{7}."),
    ("-1", "The answer is -1."),
    ("[1, 2]", r"\boxed{[1,2]}"),
    ("[1, 2]", "Therefore the final value is `[1, 2]`."),
    ("[1, 2]", "x = 3\nresult = [1, 2]\n\nThat is the end."),
    ("[1, 2]", "The value of `result` is `[1, 2]`."),
    ("'ab'", r"\boxed{'ab'}"),
    ("'ab'", r"\boxed{\text{'ab'}}"),
    ("'ab'", r'\boxed{"ab"}'),
    ("'ab'", r"\boxed{ab}"),
    ("'ab'", "result = “ab”"),
    ("'-1-1'", r"\boxed{'-1-1'}"),
    ("True", r"\boxed{True}"),
    ("False", "So `result` is `False`."),
    ("['a', 'b']", '**Answer:** `["a", "b"]`'),
    ("[]", r"\boxed{[]}"),
    ("(1,)", r"\boxed{(1,)}"),
    ("[1, 2]", "So the output is:\n\n```\n[1, 2]\n```"),
    ("7", "The value of `result` after running is **7**."),
    ("7", "So, the value of `result` is 7, since 3 + 4 = 7."),
    ("['s', 'u']", r"$\boxed{[\text{'s'}, \text{'u'}]}$"),
    ("4", "x = 2\nresult = 4  # doubled"),
    ("'a.b'", "The answer is 'a.b'."),
    ("True", "The answer is True, because 4 > 3."),
    ("'a_b'", r"\boxed{\text{'a\_b'}}"),
]
WRONG = [
    ("7", r"\boxed{8}"),
    ("7", r"\boxed{'7'}"),
    ("7", r"\boxed{7.0}"),
    ("1", r"\boxed{True}"),
    ("True", r"\boxed{1}"),
    ("True", r"\boxed{true}"),
    ("'12'", r"\boxed{12}"),
    ("'ab'", r"\boxed{'Ab'}"),
    ("'ab'", r"\boxed{'ab '}"),
    ("[1, 2]", r"\boxed{[2, 1]}"),
    ("[1, 2]", r"\boxed{(1, 2)}"),
    ("[1]", r"\boxed{1}"),
    ("2", r"\boxed{1 + 1}"),  # a literal is asked for, and nothing is computed
    ("2", r"\boxed{len('ab')}"),
]


@pytest.mark.parametrize(("gold", "text"), RIGHT)
def test_a_right_literal_is_correct_in_every_spelling(gold: str, text: str) -> None:
    assert judge(text, gold, "literal").verdict == "correct"


@pytest.mark.parametrize(("gold", "text"), WRONG)
def test_another_value_or_type_is_wrong(gold: str, text: str) -> None:
    assert judge(text, gold, "literal").verdict == "wrong"


@pytest.mark.parametrize("text", ["", "   ", r"That is 42: \boxed{}"])
def test_a_text_without_an_answer_has_none(text: str) -> None:
    assert judge(text, "42", "literal").verdict == "no_answer"


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        ("[1, 2]", "```python\n[1, 2]\n```"),
        ("[1, 2]", "```python\nx = [1]\n```\nso it is\n```\n[1,\n 2]\n```"),
        ("5", "`result = 5`"),
        ("[1, 2]", "The final value is `result = [1, 2]`."),
        ("7", "result = 3 + 4 = 7"),
        ("'a = b'", "result = 'a = b'"),
        ("{'a': 2, 'b': 1}", "result = {'b': 1, 'a': 2}"),
        ("(5,)", "result = (5,)"),
    ],
)
def test_a_literal_is_found_in_code(gold: str, text: str) -> None:
    assert judge(text, gold, "literal").verdict == "correct"


def test_entries_of_dicts_and_sets_have_no_order() -> None:
    assert normal_form("{'b': {2, 1}, 'a': [1]}") == normal_form("{'a': [1], 'b': {1, 2}}") == "{'a': [1], 'b': {1, 2}}"
    assert normal_form("{'a': [1, 2]}") != normal_form("{'a': [2, 1]}")


def test_equal_values_have_one_normal_form_for_majority_votes() -> None:
    assert len({normal_form(text) for text in ("[1,2]", "[ 1, 2 ]", "`[1, 2]`", "$[1, 2]$", "result = [1, 2].")}) == 1
    assert len({normal_form(text) for text in ("1", "True", "'1'", "[1]")}) == 4


@pytest.mark.parametrize(
    "text",
    ["__import__('os').getcwd()", "f(1)", "[e for e in 'ab']", "9" * (LONGEST_LITERAL + 1), "[" * 1900, "1 if", "x\0"],
    ids=lambda text: text[:20],
)
def test_a_text_that_is_no_literal_is_never_run(text: str) -> None:
    assert parsed(text) is NOT_A_LITERAL
    assert judge(rf"\boxed{{{text}}}", "7", "literal").verdict == "wrong"


def test_a_gold_answer_that_is_no_literal_is_refused() -> None:
    assert checked_gold("row 1", "[1, 'a']", "literal") == "[1, 'a']"
    with pytest.raises(DataError, match="row 1: the gold answer is 'ab cd', not a Python literal"):
        checked_gold("row 1", "ab cd", "literal")
