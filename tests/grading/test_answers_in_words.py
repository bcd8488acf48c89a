"""Answers of the kind `text`: which words are found, and that they are compared exactly."""

import pytest

from lightreasoner.grading.mathematical import judge, words_of

# (why, text, gold, verdict)
WORDS = [
    ("the last line is the answer", "It was long ago.\nNapoleon Bonaparte", "Napoleon Bonaparte", "correct"),
    ("blank lines at the end do not count", "Paris\n\n \n", "Paris", "correct"),
    ("a box", r"So \boxed{\text{Paris}}.", "Paris", "correct"),
    ("a sentence", "The answer is Paris. I am sure.", "Paris", "correct"),
    ("a label in bold", "**Answer:** the Eiffel Tower", "Eiffel Tower", "correct"),
    ("case", "PARIS", "Paris", "correct"),
    ("white space", "New   York\tCity", "New York City", "correct"),
    ("an article", "a horse", "horse", "correct"),
    ("an article inside", "University of the Arts", "University of Arts", "correct"),
    ("the letter A is no article", "vitamin A", "vitamin", "wrong"),
    ("final punctuation", "Paris!", "Paris", "correct"),
    ("quotation marks", "“Paris”", '"Paris"', "correct"),
    ("markup", "**Paris**", "Paris", "correct"),
    ("markup of code", "`x_1`", "x_1", "correct"),
    ("a heading", "### Paris", "Paris", "correct"),
    ("another word", "Lyon", "Paris", "wrong"),
    ("one word more", "Paris Hilton", "Paris", "wrong"),
    ("one word fewer", "New York", "New York City", "wrong"),
    ("another order", "York New", "New York", "wrong"),
    ("numbers are words", "1,000", "1000", "wrong"),
    ("a hyphen matters", "co-op", "coop", "wrong"),
    ("punctuation inside matters", "a.b", "ab", "wrong"),
    ("an empty box", r"Paris \boxed{}", "Paris", "no_answer"),
    ("no text", " \n ", "Paris", "no_answer"),
    ("punctuation alone", "?", "?", "correct"),
]


@pytest.mark.parametrize(("text", "gold", "verdict"), [row[1:] for row in WORDS], ids=[row[0] for row in WORDS])
def test_an_answer_in_words_is_compared_word_for_word(text: str, gold: str, verdict: str) -> None:
    assert judge(text, gold, "text").verdict == verdict


def test_answers_in_the_same_words_get_the_same_vote() -> None:
    assert {words_of(text) for text in ("The Eiffel Tower.", "**eiffel tower**", r"\text{Eiffel  Tower}")} == {
        "eiffel tower"
    }
