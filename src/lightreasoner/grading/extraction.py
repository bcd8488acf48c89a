r"""Find the final answer in a model's text.

The rules of `MARKED` find an answer that the text marks; then those of the kind of answer look at its end. They are
tried in order, and the first that finds an answer decides. Each has an example, which the tests check.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from lightreasoner.grading import boxes
from lightreasoner.grading.boxes import boxed_answer, last_boxed
from lightreasoner.grading.codes import CODE
from lightreasoner.grading.endings import LONGEST_LINE, without_ending
from lightreasoner.grading.final_formulas import (
    bold_formula,
    bold_words,
    formula_in_prose,
    formulas_of_last_line,
    inside,
    last_formula,
)
from lightreasoner.grading.literals import NOT_A_LITERAL, parsed
from lightreasoner.grading.number_words import PART, PARTS, SCALES, SMALL_NUMBERS
from lightreasoner.grading.numbers import AMOUNT
from lightreasoner.grading.reasoning import visible_answer
from lightreasoner.grading.retractions import after_retraction
from lightreasoner.grading.statements import CHOICE_ANNOUNCEMENT, stated

__all__ = ["extract_answer", "extract_choice", "extract_literal", "extract_text", "last_boxed", "stated_answer"]

HoldsAnswer = Callable[[str], bool]


@dataclass(frozen=True)
class Rule:
    """One way in which a text gives its answer.

    Attributes:
        name: the form.
        find: the answer in a text without thinking, if it is of the kind looked for; empty where the text gives none on
            purpose; None where the rule does not apply.
        example: a text, and the answer that the rule finds in it.
        reason: why a person reads it so.
    """

    name: str
    find: Callable[[str, HoldsAnswer], str | None]
    example: tuple[str, str]
    reason: str


# --- Answers that a text marks ---

_MINERVA = re.compile(
    r"final answer is\s*(?:\$((?:(?!final answer is).)+?)\$|\\\((.+?)\\\))\.?\s*I hope", re.I | re.DOTALL
)
_TAGS = re.compile(
    r"<(?:final_)?answer>(?:(?!<(?:final_)?answer>).)*?\S.*?(?=</(?:final_)?answer>|\Z)"
    r"|<\|begin_of_box\|>(?:(?!<\|begin_of_box\|>).)+?(?=<\|end_of_box\|>|\Z)",
    re.DOTALL | re.IGNORECASE,
)


def _minerva(text: str, holds_answer: HoldsAnswer) -> str | None:
    if "I hope" not in text:
        return None
    found = _MINERVA.findall(text[-LONGEST_LINE * 4 :])
    return next(part for part in found[-1] if part).strip() if found else None


def _tagged(text: str, holds_answer: HoldsAnswer) -> str | None:
    if "nswer>" not in text and "NSWER>" not in text and "_of_box|>" not in text:
        return None
    found = _TAGS.findall(text)
    if not found:
        return None
    inside = found[-1].partition(">")[2].strip()
    return _first(MARKED[2:], inside, holds_answer) or inside


_FIELD = re.compile(
    r'"(?:\w+[ _])?answer"\s*:\s*(?:"((?:[^"\\\n]|\\.)+)"|([^\s",{}\[\]]+))\s*(?=[,}\n]|\Z)', re.IGNORECASE
)


def _json_field(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _FIELD.findall(text) if 'nswer"' in text else []
    return next(part for part in found[-1] if part) if found else None


def _empty_box(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = boxes.find_boxes(text)
    return "" if found and not found[-1].content.strip() else None


MARKED: tuple[Rule, ...] = (
    Rule(
        "Minerva's form",
        _minerva,
        ("Final Answer: The final answer is $x+1$. I hope it is correct.", "x+1"),
        "The few-shot prompts for MATH ask for it word for word. The words say where even an answer with dollar signs "
        "ends.",
    ),
    Rule("a tag", _tagged, ("So 6 * 7.\n<answer> 42 </answer>", "42"), "Models trained with rewards write it."),
    Rule(
        "a field of JSON",
        _json_field,
        ('{"answer": "42", "steps": 3}', "42"),
        "Prompts for structured output ask for it.",
    ),
    Rule(
        "a box",
        lambda text, holds_answer: boxed_answer(text),
        (r"So \boxed{42}. I was told to write \boxed{your answer}.", "42"),
        "The prompt asks for it. Boxes that are empty or hold a placeholder only mention the form.",
    ),
    Rule(
        "a statement",
        stated,
        ("The answer is 72, because 48 + 24 = 72.\nSo the answer is correct.", "72"),
        "The last sentence, label or line with four hashes that says what the answer is. Reasons are not part of it.",
    ),
    Rule(
        "an empty box",
        _empty_box,
        (r"That is 42: \boxed{}", ""),
        "A model that leaves its box empty gives no answer, whatever numbers it wrote before.",
    ),
)

# --- Numbers and formulas at the end of a text ---

# A minus sign, also with a space behind a word: "it is - 5 degrees", but not "30 - 5" nor the bullet "- 5 apples".
_GROUPED = (
    r"\d{1,3}(?:(?:[ \u00a0\u2009\u202f'’_]\d{3})+|(?:\.\d{3})+(?=\.\d{3}|,\d))(?:\.\d{3}|,\d+)?(?![\d.,]*\d)"
    r"|(?<![\d.,])\d+,\d{1,2}(?![.,]?\d)"
)
_FRACTION_SIGNS = "[¼½¾⅐-⅞]"
_MINUS = (
    r"(?:(?<![\w)\]}.,-])[-−–－](?!\s)|(?<=[=(:])[ ]?[-−–]\s|(?<=\b(?:is|to|at|of|be)) (?:[-−–]|minus|negative) "
    r"|(?<=\*\*)(?:minus|negative) )"
)
_TIMES_TEN_TO = r"\s{0,2}(?:×|\\times|[*x])\s{0,2}10\s?(?:\^\s?\{?[-−]?\d+\}?|[⁰¹²³⁴-⁹⁻]+)"
_LAST_NUMBER = re.compile(
    rf"{_MINUS}?(?:\\?[$£€]\s?)?"
    rf"(?:{CODE}|√\s?\d+(?:\.\d+)?|sqrt\(\d+(?:\.\d+)?\)|{_GROUPED}|\d{{1,2}}:\d{{2}}(?![\d:])"
    rf"|{AMOUNT}(?:\s(?:and )?\d+/\d+|\s*/\s*\d+|\s?{_FRACTION_SIGNS})?|{_FRACTION_SIGNS})"
    rf"(?:{_TIMES_TEN_TO}|\s?[万萬만亿億억]|[⁰¹²³⁴-⁹]+|\s*\\?%|\s+(?:percent|hundred|thousand|million|billion|trillion)\b"
    rf"|(?<=\d)(?:[MB]|bn)\b|\s(?:and an? (?:{'|'.join(PART)})|{'|'.join(PARTS)})\b)?"
)


_REMARK_AT_END = re.compile(r"\s\([^()\n]*\)[\s.*]*\Z")
_NUMBER_IN_WORDS = re.compile(
    rf"\b(?:(?:minus|negative)\s)?(?:{'|'.join(SMALL_NUMBERS)}|a (?=hundred|thousand))"
    rf"(?:[\s-]+(?:and\s)?(?:{'|'.join((*SMALL_NUMBERS, *SCALES))}))*"
    rf"(?:\sand\sa)?(?:[\s-](?:{'|'.join((*PART, *PARTS))}))?(?:\s(?:percent|{'|'.join(SCALES)}))?\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"[\s*]*(?:(?:so|therefore|thus|hence)\b[\s,:]*)?(yes|no|true|false)\b(?=\s*[,.;:!*]|\s*\Z)", re.IGNORECASE
)

_YES_NO_AT_END = re.compile(r"\b(?:so|therefore|thus|hence|answer is),?\s{1,4}\W{0,3}(yes|no)[\s.!*]*\Z", re.IGNORECASE)

# No answers: the 3 of "12 m^3", the 2 of "Step 2: done", of a second line "2. Done" and of "12 2-liter bottles".
_UNIT_BEFORE = re.compile(
    r"(?:[A-Za-z]{2}|(?<![A-Za-z])m)\^\{?\Z|\b(?:step|question|problem|exercise|equation)\s[#(]?\Z", re.IGNORECASE
)
_ADJECTIVE = re.compile(r"(?<=\d\s)\d+-[A-Za-z]{2}")
_NUMBERED = re.compile(r"^[ \t>*-]*(\d{1,2})[.)]\s+(?=[^\d\s])", re.MULTILINE)
_FEW_WORDS = re.compile(r"[\s*]*([^\W\d_][\w'’-]*(?:\.?\s[\w'’-]+)?)[\s*.!]*")
_DIGIT = re.compile(r"\d")


def _last_number(text: str, holds_answer: HoldsAnswer) -> str | None:
    text = text.replace("{,}", ",")
    remark = _REMARK_AT_END.search(text, max(0, len(text) - LONGEST_LINE))
    if remark and re.search(r"\d", text[text.rfind("\n", 0, remark.start()) + 1 : remark.start()]):
        text = text[: remark.start()]
    text = without_ending(text, _DIGIT)
    numbering = {found.start(1) for found in _NUMBERED.finditer(text)}
    numbering = numbering if len(numbering) > 1 else set()
    end = len(text)
    while end > 0:  # from the last line to the first
        start = text.rfind("\n", 0, end) + 1
        for number in reversed(list(_LAST_NUMBER.finditer(text, start, end))):
            if number.start() in numbering or _ADJECTIVE.match(text, number.start()):
                continue
            if not _UNIT_BEFORE.search(text, max(0, number.start() - 12), number.start()):
                return number[0].strip()
        end = start - 1
    return None


def _number_in_words(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _NUMBER_IN_WORDS.findall(text[-LONGEST_LINE:])
    return str(found[-1]) if found and found[-1].lower() != "one" else None


def _yes_or_no(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _YES_NO.match(text) or _YES_NO.match(text.rstrip().rpartition("\n")[2])
    return found[1] if found else None


def _short_yes_or_no(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _YES_NO_AT_END.search(text) or (_YES_NO.match(text) if "\n" not in text.strip() else None)
    return found[1] if found else None


def _number_in_formula(text: str, holds_answer: HoldsAnswer) -> str | None:
    formulas = formulas_of_last_line(text)
    if not formulas or re.search(r"\d", text[formulas[-1].end() :]) or not re.search(r"\d", formulas[-1][0]):
        return None
    return inside(formulas[-1])


NUMBER: tuple[Rule, ...] = (
    Rule(
        "the number in the last formula",
        _number_in_formula,
        (r"Therefore we get $\frac{40}{2}$.", r"\frac{40}{2}"),
        "A number is more than its last digits where it is part of a formula.",
    ),
    Rule("the last number", _last_number, ("6 times 7 makes 42 pens.", "42"), "Solutions end with their result."),
    Rule(
        "the last number in words",
        _number_in_words,
        ("Seven and five are twelve.", "twelve"),
        "A text without digits writes its numbers in words. A lone 'one' is mostly a pronoun.",
    ),
)
EXPRESSION: tuple[Rule, ...] = (
    Rule(
        "the bold formula of the last line",
        lambda text, holds_answer: bold_formula(text),
        ("It is **2√3**.", "2√3"),
        "Markdown marks a result so.",
    ),
    Rule(
        "the last formula",
        lambda text, holds_answer: last_formula(text),
        ("From $a$ follows $x^2+1$ for all.", "x^2+1"),
        "Solutions end with their result; a formula above the last line is a step.",
    ),
    Rule(
        "the last bold words",
        lambda text, holds_answer: bold_words(text),
        ("For 3 reasons the function is **even**.", "even"),
        "Markdown marks a result so.",
    ),
    Rule(
        "yes or no with its reason",
        _short_yes_or_no,
        ("Yes, because 5 > 3.", "Yes"),
        "An answer of one line that begins with the word, or ends with it, answers such a question.",
    ),
    Rule(
        "the formula in the prose of the last line",
        lambda text, holds_answer: formula_in_prose(text),
        ("So the roots are x = 1 or x = 2.", "x = 1 or x = 2"),
        "Models write mathematics without dollar signs, and several values are more than the last one.",
    ),
    NUMBER[1],
    Rule("yes or no", _yes_or_no, ("Yes, they do.", "Yes"), "An answer to a question may begin with its short form."),
    Rule(
        "a text of a word or two",
        lambda text, holds_answer: found[1] if (found := _FEW_WORDS.fullmatch(text)) else None,
        ("Evelyn.", "Evelyn"),
        "A model that only answers writes no sentence.",
    ),
)
TEXT: tuple[Rule, ...] = (
    Rule(
        "the last line",
        lambda text, holds_answer: text.rstrip().rpartition("\n")[2].strip() or None,
        ("It was long ago.\nNapoleon\n", "Napoleon"),
        "An answer in words has no other mark.",
    ),
)

_ASSIGNED = re.compile(
    r"\b(?:result|output)\b`?(?:\s*(?:={1,2}|:)|[^.\n=`]{0,60}?\b(?:is|will be|equals)\b:?)\s*(?:```\w*\n\s*)?(\S.*)"
)
_REASON = re.compile(r",?\s(?:because|since)\s")
_CODE = re.compile(r"`([^`\n]+)`")


def _last_assigned(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _ASSIGNED.findall(text[-4 * LONGEST_LINE :])
    return _first_code(found[-1]) if found else None


def _first_code(text: str) -> str:
    code = _CODE.search(text)
    if code is None:
        text = _REASON.split(text.partition("`")[0])[0].strip()  # `result = 5` ends with the mark that it began with
        return text.rpartition(" = ")[2] if parsed(text) is NOT_A_LITERAL else text
    return code[1]


_FENCED = re.compile(r"```\w*[ \t]*\n((?:(?!```).)*)\n[ \t]*```\s*\Z", re.DOTALL)


def _fenced(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _FENCED.search(text[-4 * LONGEST_LINE :])
    if found is None:
        return None
    inside = found[1].strip()
    return inside if parsed(inside) is not NOT_A_LITERAL else inside.rpartition("\n")[2].strip() or None


LITERAL: tuple[Rule, ...] = (
    Rule(
        "the value given to the result",
        _last_assigned,
        ("total = 3\nresult = [1, 2]\nThat is all.", "[1, 2]"),
        "The question asks for the value of this variable.",
    ),
    Rule(
        "the code in the last line",
        lambda text, holds_answer: next(reversed(_CODE.findall(text.rstrip().rpartition("\n")[2])), None),
        ("It first holds `3`, and then it prints `'ab'`.", "'ab'"),
        "Models mark values of programs as code.",
    ),
    Rule("the code block at the end", _fenced, ("It is:\n```python\n[1, 2]\n```", "[1, 2]"), "As in a line."),
    *TEXT,
)

# --- Choices ---

_LONE_LETTER = re.compile(r"(?<![A-Za-z\\'])\(?([A-E])\)?(?![A-Za-z'])|(?<=['\"‘“])([A-E])(?=['\"’”])")
# "both A and B", "A or C": no choice.
_SEVERAL_LETTERS = re.compile(
    r"(?:\W|both\b|either\b|options?\b|choices?\b)*[A-E]\)?(?:\s{0,3}(?:,?\s{0,3}(?:and|or)\b|[,/&])\s{0,3}\(?[A-E]\b)+(?:\W*\Z|\W*are\b)"
)
_ENCLOSED_LETTER = re.compile(r"\(([A-E])\)|\\text\{\s*([A-E])\s*\}|\*\*\(?([A-E])(?=\*\*|[).:])")
_LABEL = re.compile(r"^[ \t*>-]{0,6}([A-E])[).:](?=\s|$)", re.MULTILINE)
_LONE_LINE = re.compile(r"^[ \t*]{0,6}([A-E])[ \t*]{0,6}$", re.MULTILINE)
_SMALL_LETTER = re.compile(r"[\s*]*(?:\(([a-e])\)|([a-e])(?:[).:](?=\s|\*|\Z)|(?=[\s*]*\Z)))")
_IS_RIGHT = r"\s+(?:is|would\sbe|must\sbe)\s+(?:(?:the|most|only|likely)\s+)*(?:correct|right|best|true|answer)\b"
_CLOSING_LETTER = re.compile(
    rf"(?<![A-Za-z\\'])([B-E])(?![A-Za-z'])|(?<![A-Za-z\\'])(A)(?=\s*(?:[.,;:)]|$)|{_IS_RIGHT})", re.MULTILINE
)
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|\bneither|\bnor|\brather than|\binstead of|\bunlike)\s+(?:option\s+|choice\s+)?\Z"
)
_DENIED_BEHIND = re.compile(
    r"(?:[\s,*()]|and\b|or\b|nor\b|[A-E]\b){1,60}(?<=[\s)*])(?:is|are|was|were)\s+(?:(?:\w+ly|all|both|also)\s+)*"
    r"(?:not|wrong|incorrect|false)\b"
)


def _letter_of(answer: str) -> str | None:
    """The first letter of a marked answer; a small one only if it is the whole answer; None for several letters."""
    found = _LONE_LETTER.search(answer) or _LONE_LETTER.fullmatch(answer.upper())
    if found is None or _SEVERAL_LETTERS.match(answer):
        return None
    return found[1] or found[2]


def _last_letter(letters: re.Pattern[str], text: str, holds_answer: HoldsAnswer) -> str | None:
    text = without_ending(text, letters)
    if _SEVERAL_LETTERS.fullmatch(text):
        return None
    for found in reversed(list(letters.finditer(text))):
        before = text[max(0, found.start() - 30) : found.start()]
        if not _DENIED_BEFORE.search(before) and not _DENIED_BEHIND.match(text, found.end()):
            return next(group for group in found.groups() if group)
    return None


def _only_label(text: str, holds_answer: HoldsAnswer) -> str | None:
    letters: set[str] = set(_LABEL.findall(text)) or set(_LONE_LINE.findall(text))
    if len(letters) == 1:
        return letters.pop()
    small = _SMALL_LETTER.match(text)
    return str(small[1] or small[2]).upper() if small else None


CHOICE: tuple[Rule, ...] = (
    *MARKED[:4],
    Rule(
        "a statement about a choice",
        partial(stated, announcement=CHOICE_ANNOUNCEMENT),
        ("The correct option is B, because (A) is too small.", "B"),
        "As a statement, with the words that questions with choices use.",
    ),
    *MARKED[5:],
    Rule(
        "the last letter in brackets or bold",
        partial(_last_letter, _ENCLOSED_LETTER),
        ("Not (A), so (C), for B is wrong", "C"),
        "Questions write their choices so.",
    ),
    Rule("a line that begins with a letter", _only_label, ("B) vitamin D", "B"), "The choice is written out again."),
    Rule(
        "the last letter that is a word",
        partial(_last_letter, _CLOSING_LETTER),
        ("A is wrong, so I would go with C", "C"),
        'The article "A" does not count: an answer "A" needs punctuation or the end of the line after it.',
    ),
)

# --- What the kinds of answers accept ---

_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(SMALL_NUMBERS)}|hundred|dozen)\b", re.IGNORECASE)
_MATHEMATICS = re.compile(r"[\d\\$^=+*/<>]|(?<![A-Za-z'])[A-Za-z](?![A-Za-z'])")
MOST_WORDS = 8


def _holds_number(answer: str) -> bool:
    return any(character.isnumeric() for character in answer) or _NUMBER_WORD.search(answer) is not None


def _holds_expression(answer: str) -> bool:
    """Mathematics, or a few words."""
    return len(answer.split()) <= MOST_WORDS or _MATHEMATICS.search(answer) is not None


def _holds_letter(answer: str) -> bool:
    return _LONE_LETTER.search(answer) is not None or _letter_of(answer) is not None


def _first(rules: Sequence[Rule], text: str, holds_answer: HoldsAnswer) -> str | None:
    return next((answer for rule in rules if (answer := rule.find(text, holds_answer)) is not None), None)


def _answer(
    rules: Sequence[Rule], text: str, holds_answer: HoldsAnswer, behind: Sequence[Rule] | None = None
) -> str | None:
    """The answer behind the last retraction, if there is one; else that of the whole text.

    Args:
        rules: the rules of the kind of answer.
        text: a response.
        holds_answer: whether a text can be an answer of this kind.
        behind: the rules behind a retraction, where not just any words are an answer; None for the same rules.
    """
    text = visible_answer(text)
    found = after_retraction(text)
    corrected = _first((behind or rules) if found.is_clear else MARKED, found.text, holds_answer) if found else None
    return corrected or _first(rules, text, holds_answer)


def extract_answer(text: str) -> str | None:
    """The final answer of a text that answers with a number: the answer that it marks, else its last number."""
    return _answer((*MARKED, *NUMBER), text, _holds_number) or None


def extract_expression(text: str) -> str | None:
    """The final answer of a text that answers with mathematics or a few words."""
    return _answer((*MARKED, *EXPRESSION), text, _holds_expression, (*MARKED, *EXPRESSION[:-2])) or None


def extract_text(text: str) -> str | None:
    """The final answer in words: the answer that a text marks, else its last line that is not blank."""
    return _answer((*MARKED, *TEXT), text, bool, MARKED) or None


def extract_literal(text: str) -> str | None:
    """The final answer of a text that answers with a Python literal."""
    return _answer((*MARKED, *LITERAL), text, bool, MARKED) or None


def extract_choice(text: str) -> str | None:
    """The final choice A … E of a text; none if it marks an answer without a letter."""
    answer = _answer(CHOICE, text, _holds_letter)
    return _letter_of(answer) if answer else None


def stated_answer(text: str) -> str | None:
    """The answer that a text marks; empty for an empty box; None without a marked answer."""
    return _answer(MARKED, text, bool)
