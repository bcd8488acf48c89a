"""What counts as a model's answer, and what counts as right."""

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightreasoner.grading import VERDICTS, extract_answer, grade_number, last_boxed, parse_number

# (why, output, gold, verdict)
CASES = [
    ("a boxed integer", r"So \boxed{42}", "42", "correct"),
    ("another boxed integer", r"So \boxed{43}", "42", "wrong"),
    ("braces inside the box are balanced", r"\boxed{\text{about {exactly} }42}", "42", "correct"),
    ("text after the box does not count", r"\boxed{42} which is 7 times 6", "42", "correct"),
    ("several boxes: the last one counts", r"\boxed{1} no, \boxed{42}", "42", "correct"),
    ("several boxes: the first one does not", r"\boxed{42} no, \boxed{1}", "42", "wrong"),
    ("a box that is cut off still says something", r"so \boxed{42", "42", "correct"),
    ("a box that is cut off ends with its line", "so \\boxed{42\nand 7 more", "42", "correct"),
    ("spaces in the box", r"\boxed{ 42 }", "42", "correct"),
    ("thousands separators", r"\boxed{1,234,567}", "1234567", "correct"),
    ("thousands separators in the gold answer", r"\boxed{1234567}", "1,234,567", "correct"),
    ("LaTeX thousands separators", r"\boxed{1{,}234}", "1234", "correct"),
    ("LaTeX thin spaces", r"\boxed{10\!,\!000}", "10000", "correct"),
    ("a dollar sign", r"\boxed{$18}", "18", "correct"),
    ("an escaped dollar sign", r"\boxed{\$18.50}", "18.5", "correct"),
    ("a euro sign after it", "\\boxed{18 €}", "18", "correct"),
    ("dollar signs as maths delimiters", r"\boxed{$18$}", "18", "correct"),
    ("a percent sign", r"\boxed{25\%}", "25", "correct"),
    ("a percentage is not turned into a share", r"\boxed{25%}", "0.25", "wrong"),
    ("a unit in words", r"\boxed{12 apples}", "12", "correct"),
    ("a unit in \\text", r"\boxed{12\text{ km}}", "12", "correct"),
    ("a variable before it", r"\boxed{x = 12}", "12", "correct"),
    ("a negative number", r"\boxed{-7}", "-7", "correct"),
    ("the sign matters", r"\boxed{7}", "-7", "wrong"),
    ("a typographic minus", "\\boxed{−7}", "-7", "correct"),
    ("a decimal that is whole", r"\boxed{145.0}", "145", "correct"),
    ("a gold answer with a decimal point, as in SVAMP", r"\boxed{145}", "145.0", "correct"),
    ("decimals are compared exactly", r"\boxed{0.3333}", "1/3", "wrong"),
    ("a decimal without a leading zero", r"\boxed{.5}", "0.5", "correct"),
    ("a plain fraction", r"\boxed{1/2}", "0.5", "correct"),
    ("a plain fraction with spaces", r"\boxed{1 / 2}", "0.5", "correct"),
    ("a LaTeX fraction", r"\boxed{\frac{1}{2}}", "0.5", "correct"),
    ("a display fraction", r"\boxed{\dfrac{3}{4}}", "3/4", "correct"),
    ("a text fraction", r"\boxed{\tfrac{3}{4}}", "0.75", "correct"),
    ("a negative LaTeX fraction", r"\boxed{-\frac{1}{2}}", "-0.5", "correct"),
    ("a fraction that is not reduced", r"\boxed{\frac{84}{2}}", "42", "correct"),
    ("a fraction with a unit", r"\boxed{\frac{3}{4}\text{ cup}}", "0.75", "correct"),
    ("division by zero is no number", r"\boxed{1/0}", "1", "wrong"),
    ("a LaTeX division by zero is no number", r"\boxed{\frac{1}{0}}", "1", "wrong"),
    ("two numbers are no answer to one question", r"\boxed{4 or 5}", "5", "wrong"),
    ("a mixed number with a space is two numbers", r"\boxed{2 1/2}", "2.5", "wrong"),
    ("words in the box", r"\boxed{\text{none}}", "5", "wrong"),
    ("the form of GSM8K", "7 * 6 = 42\n#### 42", "42", "correct"),
    ("the form of GSM8K with a separator", "#### 1,080", "1080", "correct"),
    ("four hashes inside a line are no answer mark", "see #### 7\nso 42", "42", "correct"),
    ("a sentence", "The answer is 42.", "42", "correct"),
    ("a sentence with more after it", "The answer is 42. I hope it is correct, all 3 of us.", "42", "correct"),
    ("a sentence with a decimal point", "The answer is 3.5.", "3.5", "correct"),
    ("a sentence with a colon", "The final answer is: 42", "42", "correct"),
    ("a sentence with dollars", "The answer is $1,200.", "1200", "correct"),
    ("a sentence whose number is on the next line", "The answer is:\n42", "42", "correct"),
    ("capitals", "THE ANSWER IS 42. That took 7 steps", "42", "correct"),
    ("several sentences: the last one counts", "The answer is 1. No: the answer is 42.", "42", "correct"),
    ("the last number as a last resort", "6 times 7 makes 42", "42", "correct"),
    ("not the first number", "42 is not 7", "42", "wrong"),
    ("the last number before a full stop", "It makes 42.", "42", "correct"),
    ("a box goes before a sentence", r"\boxed{42}. The answer is 7.", "42", "correct"),
    ("a sentence goes before the form of GSM8K", "#### 7\nThe answer is 42.", "42", "correct"),
    ("the form of GSM8K goes before the last number", "#### 42\nthat took 3 steps", "42", "correct"),
    ("no text", "", "42", "no_answer"),
    ("no number", "I do not know.", "42", "no_answer"),
    ("an empty box", r"That is 42: \boxed{}", "42", "no_answer"),
    ("a box with a space in it", r"\boxed{ }", "42", "no_answer"),
]


@pytest.mark.parametrize(("output", "gold", "verdict"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_output_is_judged_as_a_person_would(output: str, gold: str, verdict: str) -> None:
    assert grade_number(output, gold)[1] == verdict


def test_a_verdict_comes_with_the_text_that_was_judged() -> None:
    assert grade_number(r"so \boxed{ \$42 }", "42") == (r"\$42", "correct")
    assert grade_number("so 43", "42") == ("43", "wrong")
    assert grade_number("so what", "42") == (None, "no_answer")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("no box", None),
        (r"\boxed{}", ""),
        (r"\boxed{a}\boxed{b}", "b"),
        (r"\boxed{\frac{1}{2}} x}", r"\frac{1}{2}"),
        (r"\boxed{{{a}}}", "{{a}}"),
        ("\\boxed{{a}\nb", "{a}"),
        ("\\boxed{a\nb}", "a\nb"),
    ],
)
def test_the_last_box_is_found_with_its_braces_balanced(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize("gold", ["", "abc", "1 2", "1/0", "1" * 401])
def test_a_gold_answer_that_is_no_number_is_an_error_and_names_it(gold: str) -> None:
    with pytest.raises(ValueError, match="is not a number") as caught:
        grade_number("42", gold)
    assert repr(gold) in str(caught.value)


@pytest.mark.parametrize("text", ["-$5", "-\\$5", "−$5", "- 5", "-£5"])
def test_a_minus_sign_before_a_currency_sign_or_a_space_is_kept(text: str) -> None:
    assert parse_number(text) == -5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac12", Fraction(1, 2)),
        (r"2\frac{1}{2}", Fraction(5, 2)),
        (r"\sqrt{16}", Fraction(4)),
        (r"2\pi", None),
        ("5!", Fraction(120)),
        ("(3,4)", None),
        ("1,2", None),
    ],
)
def test_an_expression_is_read_for_what_it_is_or_not_at_all(text: str, value: Fraction | None) -> None:
    # The danger is a wrong answer that is judged correct, such as \frac12 against the gold answer 12.
    assert parse_number(text) in (value, None)


# --- Hostile texts ---

HUGE = [
    "7" * 100_000,
    "\\boxed{" + "7" * 100_000 + "}",
    "\\boxed{" * 15_000,
    "\\boxed{" + "{" * 100_000,
    "1/" * 50_000,
    "1," * 50_000,
    "-" * 100_000,
    "answer is " * 10_000,
    "answer is" + "\n" * 100_000,
    "####\n" * 20_000,
    "1" + " " * 100_000 + "/",
    "\\frac{" * 15_000,
]


@pytest.mark.parametrize("text", HUGE, ids=lambda text: f"{text[:10]!r} and so on")
def test_a_huge_text_is_judged_and_not_correct(text: str) -> None:
    assert grade_number(text, "42")[1] in ("wrong", "no_answer")


def test_a_number_is_read_up_to_a_length_that_python_converts_quickly() -> None:
    assert parse_number("7" * 400) == int("7" * 400)
    assert parse_number("7" * 401) is None


any_text = st.text(st.characters(exclude_categories=()), max_size=60)
pieces = r"\boxed{ } { \frac \dfrac { }{ #### / , . - − $ % % 0 1 7 ٣ ² ½ 1e9 0x1F \! {,} _ + NaN inf ∞".split()
fragments = st.sampled_from(
    [*pieces, " ", "\n", "the answer is ", "final answer is: ", "\x00", "\u2028", "\ud800", "1_000", "9" * 500]
)
hostile_text = st.lists(fragments, max_size=20).map("".join)


@given(any_text | hostile_text)
@example("\\boxed{\\frac{1}{0}}")
@example("\\boxed{1/٠}")  # an Arabic zero
def test_no_text_ever_raises(text: str) -> None:
    extracted, verdict = grade_number(text, "42")
    assert verdict in VERDICTS
    assert (verdict == "no_answer") == (extracted is None)


@given(any_text | hostile_text)
def test_no_text_is_anything_but_a_number_or_nothing(text: str) -> None:
    number = parse_number(text)
    assert number is None or isinstance(number, Fraction)


@given(any_text | hostile_text)
def test_a_text_without_box_digit_or_phrase_has_no_answer(text: str) -> None:
    plain = "".join(" " if character.isdigit() else character for character in text)
    plain = plain.replace("boxed", "").replace("answer is", "").replace("#", "")
    assert extract_answer(plain) is None


# --- Properties of numbers ---

whole_numbers = st.integers() | st.integers(-(10**12), 10**12)


@given(whole_numbers)
def test_a_boxed_integer_is_correct(number: int) -> None:
    assert grade_number(f"So \\boxed{{{number}}}.", str(number)) == (str(number), "correct")


@given(whole_numbers)
def test_an_integer_is_correct_in_every_usual_dress(number: int) -> None:
    with_commas, typographic = f"{number:,}", str(number).replace("-", "−")
    plain = [with_commas, typographic, f"{number}.0", f"{number}.", f"{number} apples", f"{number}/1"]
    for dress in [*plain, f"${number}$", with_commas.replace(",", "{,}"), f"\\frac{{{number}}}{{1}}"]:
        assert grade_number(f"\\boxed{{{dress}}}", str(number))[1] == "correct", dress


@given(whole_numbers)
def test_an_integer_is_found_in_every_place_where_answers_stand(number: int) -> None:
    for text in (f"The answer is {number}.", f"so\n#### {number}", f"that makes {number}", f"\\boxed{{{number}"):
        assert grade_number(text, str(number))[1] == "correct", text


@given(whole_numbers, whole_numbers)
def test_two_integers_are_judged_equal_only_if_they_are(answer: int, gold: int) -> None:
    assert (grade_number(f"\\boxed{{{answer}}}", str(gold))[1] == "correct") == (answer == gold)


@given(st.integers(-999, 999), st.integers(1, 999))
def test_a_fraction_is_read_exactly(numerator: int, denominator: int) -> None:
    expected = Fraction(numerator, denominator)
    assert parse_number(f"{numerator}/{denominator}") == expected
    assert parse_number(f"\\frac{{{numerator}}}{{{denominator}}}") == expected


@given(st.decimals(-(10**6), 10**6, places=3))
def test_a_decimal_is_read_exactly(number) -> None:
    assert parse_number(str(number)) == Fraction(number)
