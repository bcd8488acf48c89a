"""Gold answers: the right value, or a refusal with file and line; never a solution in their place."""

import json
from decimal import Decimal
from typing import Any

import pytest

from lightreasoner.data.golds import checked_gold, gold_of, kind_of
from lightreasoner.errors import DataError
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import AnswerKind, Case

SOLUTION = (
    "Natalia sold 48/2 = 24 clips in May, which is half of what she had sold in April to her friends. Natalia sold "
    "48 + 24 = 72 clips altogether in April and May."
)


def row(**fields: Any) -> tuple[str, dict[str, Any]]:
    return "rows.jsonl, line 3", fields


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        ("72", "72"),
        (" 72\n", "72"),
        (72, "72"),
        (5.0, "5"),
        (1e3, "1000"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (10**40, "1" + "0" * 40),
        (Decimal("5.00"), "5"),
        (["72"], "72"),
        ([72.0], "72"),
        (f"{SOLUTION}\n#### 72", "72"),
        ("#### is a mark\n#### 1,234", "1,234"),
        (r"so \boxed{1} and \boxed{\frac{1}{2}}.", r"1, \frac{1}{2}"),
        (r"First \boxed{1}. Then we halve it: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"So $x=\boxed{2}$ or $x=\boxed{-2}$.", "2, -2"),
        ("#### \\boxed{3}, \\boxed{4}", "3, 4"),
        (r"It is -\boxed{5}.", "-5"),
        (r"It is \boxed{5}\%.", r"5\%"),
        (r"Both ways: \boxed{5} and \boxed{5}.", "5"),
        (r"so \boxed x^2.", "x^2"),
        (r"\boxed{your answer} is \boxed{?}", "?"),
        ("#### Step 1\nWe add.\n\\boxed{5}", "5"),
        ("A box \\boxed{4}, then\n#### 5", "5"),
        ("#### 18\nSo she makes 18 dollars.", "18"),
        ("####\n18 dollars\n\nDone.", "18 dollars"),
        ("#### $\\frac{1}{2}$\nThis is half of it.", "$\\frac{1}{2}$"),
        ("#### x = 1\nand y = 2", "x = 1\nand y = 2"),
        ("#### 1,\n2", "1,\n2"),
        ("#### (1,\n2) for all of the cases", "(1,\n2) for all of the cases"),
        ("#### 2. Sum\nSo it is 5 of them.", "2. Sum\nSo it is 5 of them."),
        ("#### Step 2\nSo it is 5 of them.", "Step 2\nSo it is 5 of them."),
        (r"so $\boxed 7$.", "7"),
        (r"so $\fbox{7}$.", "7"),
        (r"so $\boxed{\text{(A)}}$.", r"\text{(A)}"),
    ],
)
def test_a_value_becomes_the_right_gold_answer(value: object, gold: str) -> None:
    assert gold_of(row(question="?", answer=value)) == gold


@pytest.mark.parametrize(
    ("fields", "gold"),
    [
        ({"solution": r"\boxed{7}", "answer": "5"}, "5"),
        ({"solution": r"\boxed{7}"}, "7"),
        ({"Answer": 7}, "7"),
        ({"reward_model": {"ground_truth": "7", "style": "rule"}}, "7"),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "#### 7"}]}, "7"),
        ({"conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": r"\boxed{7}"}]}, "7"),
        ({"prompt": [{"role": "user", "content": "?"}], "completion": [{"role": "assistant", "content": "7"}]}, "7"),
    ],
)
def test_the_answer_is_found_in_the_common_fields(fields: dict[str, Any], gold: str) -> None:
    assert gold_of(row(**fields)) == gold


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "answer is None, not a text"),
        ("", "answer is '', not a text"),
        ("  \n", "not a text"),
        ("nan", "answer is 'nan', neither a text nor a finite number"),
        (float("nan"), "answer is nan, neither"),
        (float("inf"), "answer is inf, neither"),
        (True, "answer is True, neither"),
        ([], "answer has 0 entries"),
        (["1", "2"], "answer has 2 entries"),
        ([True], "answer is True"),
        ({"value": 5}, "neither a text nor a finite number"),
        (f"{SOLUTION}\n####", "answer has #### without an answer"),
        (f"{SOLUTION}\n#### \n ", "answer has #### without an answer"),
        (r"so \boxed{ }", r"answer has \boxed without an answer"),
        (r"so \boxed", r"answer has \boxed without an answer"),
        (r"so \boxed{\frac{1}{2} and it was cut", r"answer has \boxed without an answer"),
    ],
)
def test_a_value_that_is_no_answer_is_refused_with_its_line(value: object, message: str) -> None:
    with pytest.raises(DataError) as caught:
        gold_of(row(answer=value))
    assert str(caught.value).startswith("rows.jsonl, line 3: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("solution", "half"),
    [
        (r"So $x=\boxed{2}$ or $x=\boxed{-2}$.", r"\boxed{-2}"),
        (r"The pair is \boxed{3} and \boxed{4}.", r"\boxed{4}"),
        (r"It is $-\boxed{5}$.", r"\boxed{5}"),
    ],
)
def test_a_solution_is_right_against_itself_and_half_of_it_is_wrong(solution: str, half: str) -> None:
    gold = gold_of(row(answer=solution))
    cases = [Case(text, checked_gold("here", gold, "expression"), "expression") for text in (solution, half)]
    with GradingPool(workers=1) as pool:
        assert [found.verdict for found in pool.judge(cases)] == ["correct", "wrong"]


def test_a_sign_outside_of_a_box_keeps_the_kind_of_a_file() -> None:
    golds = [gold_of(row(answer=solution)) for solution in (r"so $-\boxed{5}$.", r"so \boxed{5}\%.", r"\boxed{1,234}")]
    assert kind_of("my.csv", golds) == ("number", None)
    assert [checked_gold("here", gold, "number") for gold in golds] == golds


def test_a_remark_behind_a_marked_answer_keeps_the_kind_of_a_file() -> None:
    golds = [gold_of(row(answer=solution)) for solution in ("so\n#### 18\nSo she makes 18 dollars.", "so\n#### 5")]
    assert kind_of("my.jsonl", golds) == ("number", None)


def chat(*turns: str, roles: tuple[str, str] = ("user", "assistant")) -> list[dict[str, str]]:
    """Turns of user and assistant by turns, after a system message."""
    said = [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]
    return [{"role": "system", "content": "Be brief."}, *said]


@pytest.mark.parametrize(
    ("turns", "last", "answer"),
    [
        (chat("What is 2+3?", "5", "And times 4?"), "And times 4?", "5"),
        (chat("What is 2*4?", "\\boxed{8}", "Thanks!"), "Thanks!", "\\\\boxed{8}"),
        (chat("1?", "1", "2?", "2", "3?", roles=("human", "gpt")), "3?", "2"),
        ([*chat("1?", "#### 1", "2?"), {"role": "tool", "content": "ok"}], "2?", "#### 1"),
    ],
)
def test_an_answer_before_the_last_question_is_not_its_answer(
    turns: list[dict[str, str]], last: str, answer: str
) -> None:
    for fields in ({"messages": turns}, {"question": "?", "response": turns}, {"messages": json.dumps(turns)}):
        with pytest.raises(DataError) as caught:
            gold_of(row(**fields))
        assert str(caught.value).startswith(f"rows.jsonl, line 3: the chat in {list(fields)[-1]} ends with '{last}' of")
        assert f"its last answer, '{answer}', is to an earlier question" in str(caught.value)
        assert gold_of(row(**fields, answer=20)) == "20", "a field of its own has the answer to the last question"


def test_the_answer_of_a_chat_may_have_several_turns() -> None:
    turns = chat("1?", "#### 1", "2?", "Let me see.")
    turns += [{"role": "tool", "content": "2"}, {"role": "assistant", "content": "2"}]
    assert gold_of(row(messages=turns)) == "2"
    assert gold_of(row(prompt=chat("1?", "1", "2?"), completion=[{"role": "assistant", "content": "2"}])) == "2"


def test_a_row_without_an_answer_is_refused_with_the_flag_that_names_one() -> None:
    with pytest.raises(DataError, match="no field answer or .* among question, key; .*--answer-field"):
        gold_of(row(question="?", key="5"))
    assert gold_of(row(question="?", key={"gold": "5"}), "key.gold") == "5"


@pytest.mark.parametrize(
    ("kind", "gold", "kept"),
    [
        ("number", "$1,234 dollars", "$1,234 dollars"),
        ("number", "3/4", "3/4"),
        ("choice", "(b)", "B"),
        ("choice", "C.", "C"),
        ("expression", r"x = 5 \text{ or } x = 6", r"x = 5 \text{ or } x = 6"),
        ("text", SOLUTION, SOLUTION),
    ],
)
def test_a_gold_answer_of_its_kind_is_kept(kind: AnswerKind, gold: str, kept: str) -> None:
    assert checked_gold("here", gold, kind) == kept


@pytest.mark.parametrize(
    ("kind", "gold"),
    [
        ("number", SOLUTION),
        ("number", "She shares 12 sweets with her three friends and keeps the rest"),
        ("number", "unknown"),
        ("number", "12:30"),
        ("choice", "F"),
        ("choice", "AB"),
        ("choice", "B: 5"),
        ("expression", SOLUTION),
        ("text", " "),
    ],
)
def test_a_gold_answer_of_another_kind_is_refused_with_its_place(kind: AnswerKind, gold: str) -> None:
    with pytest.raises(DataError, match="^here: the gold answer is .* so every answer would be wrong"):
        checked_gold("here", gold, kind)


@pytest.mark.parametrize(
    ("golds", "kind", "place"),
    [
        (["A", "(B)", "E."], "choice", None),
        (["A", "F", "x"], "expression", 0),
        (["1", "2.5", "$3", "4 apples", "5%"], "number", None),
        (["1", "2x"], "expression", 1),
        (["1", "She shares 12 sweets with her three friends and keeps the rest"], "expression", 1),
        ([r"\frac{1}{2}", "7"], "number", None),
        ([r"\pi", "7"], "expression", 0),
    ],
)
def test_the_kind_of_answers_follows_from_all_of_them(golds: list[str], kind: str, place: int | None) -> None:
    assert kind_of("my.csv", golds) == (kind, place)


def test_letters_beyond_e_are_not_taken_for_expressions() -> None:
    with pytest.raises(
        DataError, match="^my.csv: all gold answers are capital letters, such as \\(J\\), .*--answer-kind text"
    ):
        kind_of("my.csv", ["A", "(J)", "F"])
