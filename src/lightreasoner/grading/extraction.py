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
from lightreasoner.grading.number_words import SCALES, SMALL_NUMBERS
from lightreasoner.grading.numbers import AMOUNT
from lightreasoner.grading.reasoning import visible_answer
from lightreasoner.grading.statements import CHOICE_ANNOUNCEMENT, FORMULA, is_formula, stated

__all__ = ["extract_answer", "extract_choice", "extract_literal", "extract_text", "last_boxed", "stated_answer"]

LONGEST_LINE = 1000  # characters; of a longer last line the end is read
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
_GROUPED = r"\d{1,3}(?:(?:[ \u00a0\u2009\u202f'’_]\d{3})+|(?:\.\d{3}){2,})(?![\d.,]*\d)"
_FRACTION_SIGNS = "[¼½¾⅐-⅞]"
_MINUS = (
    r"(?:(?<![\w)\]}.,-])[-−–－](?!\s)|(?<=[=(:])[ ]?[-−–]\s|(?<=\b(?:is|to|at|of|be)) (?:[-−–]|minus|negative) "
    r"|(?<=\*\*)(?:minus|negative) )"
)
_TIMES_TEN_TO = r"\s{0,2}(?:×|\\times|[*x])\s{0,2}10\s?(?:\^\s?\{?[-−]?\d+\}?|[⁰¹²³⁴-⁹⁻]+)"
_LAST_NUMBER = re.compile(
    rf"{_MINUS}?(?:\\?[$£€]\s?)?"
    rf"(?:{_GROUPED}|\d{{1,2}}:\d{{2}}(?![\d:])|{AMOUNT}(?:\s\d+/\d+|\s*/\s*\d+|{_FRACTION_SIGNS})?|{_FRACTION_SIGNS})"
    rf"(?:{_TIMES_TEN_TO}|\s?[万萬만亿億억]|[⁰¹²³⁴-⁹]+|\s*\\?%|\s+(?:percent|hundred|thousand|million|billion|trillion)\b)?"
)


_REMARK_AT_END = re.compile(r"\s\([^()\n]*\)[\s.*]*\Z")
_NUMBER_IN_WORDS = re.compile(
    rf"\b(?:(?:minus|negative)\s)?(?:{'|'.join(SMALL_NUMBERS)}|a (?=hundred|thousand))"
    rf"(?:[\s-]+(?:and\s)?(?:{'|'.join((*SMALL_NUMBERS, *SCALES))}))*\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"[\s*]*(yes|no|true|false)\b(?=\s*[,.;:!*]|\s*\Z)", re.IGNORECASE)


_UNIT_BEFORE = re.compile(r"(?:[A-Za-z]{2}|(?<![A-Za-z])m)\^\{?\Z")  # the 3 of "12 m^3" is no answer
_DIGIT = re.compile(r"\d")
_LAST_REASON = re.compile(
    r"(?<=\S)[\s,(–—-]+\b(?:because|since)\b(?![^\n]*\b(?:so|thus|therefore|hence|then|means|leaving)\b)"
    r"(?:[^.!?\n]|\.(?=\d))*[.!?)\s*]*\Z"
)


def _without_last_reason(text: str, answer: re.Pattern[str]) -> str:
    """A text without the reason that ends its last sentence, if an answer stands in the sentence before it."""
    line = text.rfind("\n", 0, len(text.rstrip())) + 1
    start = max(line, len(text) - LONGEST_LINE)
    if text.find("because", start) < 0 and text.find("since", start) < 0:
        return text
    reason = _LAST_REASON.search(text, start)
    if reason is None:
        return text
    sentence = re.split(r"[.!?]\s", text[line : reason.start()])[-1]
    return text[: reason.start()] if answer.search(sentence) else text


_BOLD = re.compile(r"\*\*(?=[^\s*])([^*\n:]{1,200})(?<=\S)\*\*(?!\s?:)(?!(?!\s(?:for|where|when|if)\b)[^.!?\n]*\d)")


def _bold_formula(text: str, holds_answer: HoldsAnswer) -> str | None:
    """The last bold words of the last line, if they begin with mathematics, and no number follows in their sentence."""
    end = len(text.rstrip())
    found = _BOLD.findall(text, max(text.rfind("\n", 0, end) + 1, end - LONGEST_LINE), end)
    bold = found[-1].strip() if found else ""
    return bold if _DIGIT_OR_SIGN.search(bold) and not _PROSE.match(bold) else None


_DIGIT_OR_SIGN = re.compile(r"[\d\\^=+*/<>√π²³]")
_PROSE = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}")


def _last_number(text: str, holds_answer: HoldsAnswer) -> str | None:
    remark = _REMARK_AT_END.search(text, max(0, len(text) - LONGEST_LINE))
    if remark and re.search(r"\d", text[text.rfind("\n", 0, remark.start()) + 1 : remark.start()]):
        text = text[: remark.start()]
    text = _without_last_reason(text, _DIGIT)
    end = len(text)
    while end > 0:  # from the last line to the first
        start = text.rfind("\n", 0, end) + 1
        for number in reversed(list(_LAST_NUMBER.finditer(text, start, end))):
            if not _UNIT_BEFORE.search(text, max(0, number.start() - 4), number.start()):
                return number[0].strip()
        end = start - 1
    return None


def _number_in_words(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _NUMBER_IN_WORDS.findall(text[-LONGEST_LINE:])
    return str(found[-1]) if found and found[-1].lower() != "one" else None


def _yes_or_no(text: str, holds_answer: HoldsAnswer) -> str | None:
    found = _YES_NO.match(text)
    return found[1] if found else None


def _number_in_formula(text: str, holds_answer: HoldsAnswer) -> str | None:
    formulas = _formulas_of_last_line(text)
    if not formulas or re.search(r"\d", text[formulas[-1].end() :]) or not re.search(r"\d", formulas[-1][0]):
        return None
    return _inside(formulas[-1])


_ALIGNED = re.compile(
    r"\\begin\{(?:align|aligned|split|gather|gathered|eqnarray)\*?\}(.*)\\end\{[a-z]+\*?\}", re.DOTALL
)
_BETWEEN = re.compile(r"\s*(?:,?\s*(?:and|or)\b|,)\s*", re.IGNORECASE)


def _last_formula(text: str, holds_answer: HoldsAnswer) -> str | None:
    formulas = _formulas_of_last_line(text)
    if not formulas:
        return None
    first = len(formulas) - 1
    while first and _BETWEEN.fullmatch(text[formulas[first - 1].end() : formulas[first].start()]):
        first -= 1
    together = [_inside(formula) for formula in formulas[first:]]
    return ", ".join(together) if all("=" in formula for formula in together) else together[-1]


def _formulas_of_last_line(text: str) -> list[re.Match[str]]:
    """The formula that ends a text, also over several lines; else the formulas of its last line."""
    text = _without_last_reason(text, FORMULA)
    end = len(text.rstrip())
    line = text.rfind("\n", 0, end) + 1
    found = [one for one in FORMULA.finditer(text, max(0, end - LONGEST_LINE), end) if is_formula(one)]
    if found and found[-1].start() < line and not text[found[-1].end() : end].strip(" \n.*"):
        return found[-1:]
    return [one for one in found if one.start() >= line]


def _inside(formula: re.Match[str]) -> str:
    inside = next(part for part in formula.groups() if part is not None).strip()
    if aligned := _ALIGNED.fullmatch(inside):
        rows = [row for row in aligned[1].split(r"\\") if row.strip()]
        return rows[-1].replace("&", "").strip() if rows else inside
    return inside


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
    Rule("the bold formula of the last line", _bold_formula, ("It is **2√3**.", "2√3"), "Markdown marks a result so."),
    Rule(
        "the last formula",
        _last_formula,
        ("From $a$ follows $x^2+1$ for all.", "x^2+1"),
        "Solutions end with their result; a formula above the last line is a step.",
    ),
    NUMBER[1],
    Rule("yes or no", _yes_or_no, ("Yes, they do.", "Yes"), "An answer to a question may begin with its short form."),
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
    return code[1] if code else _REASON.split(text)[0].strip()


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
    *TEXT,
)

# --- Choices ---

_LONE_LETTER = re.compile(r"(?<![A-Za-z\\'])\(?([A-E])\)?(?![A-Za-z'])")
_ENCLOSED_LETTER = re.compile(r"\(([A-E])\)|\\text\{\s*([A-E])\s*\}|\*\*\(?([A-E])(?=\*\*|[).:])")
_LABEL = re.compile(r"^[ \t*>-]{0,6}([A-E])[).:](?=\s|$)", re.MULTILINE)
_CLOSING_LETTER = re.compile(
    r"(?<![A-Za-z\\'])([B-E])(?![A-Za-z'])|(?<![A-Za-z\\'])(A)(?=\s*(?:[.,;:)]|$))", re.MULTILINE
)


def _letter_of(answer: str) -> str | None:
    """The first letter of a marked answer; a small one only if it is the whole answer."""
    found = _LONE_LETTER.search(answer) or _LONE_LETTER.fullmatch(answer.upper())
    return found.group(1) if found else None


def _last_letter(letters: re.Pattern[str], text: str, holds_answer: HoldsAnswer) -> str | None:
    text = _without_last_reason(text, letters)
    found = [match for match in letters.finditer(text) if text[max(0, match.start() - 4) : match.start()] != "not "]
    return next(group for group in found[-1].groups() if group) if found else None


def _only_label(text: str, holds_answer: HoldsAnswer) -> str | None:
    letters = set(_LABEL.findall(text))
    return letters.pop() if len(letters) == 1 else None


CHOICE: tuple[Rule, ...] = (
    *MARKED[:3],
    Rule(
        "a statement about a choice",
        partial(stated, announcement=CHOICE_ANNOUNCEMENT),
        ("The correct option is B, because (A) is too small.", "B"),
        "As a statement, with the words that questions with choices use.",
    ),
    *MARKED[4:],
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
    return _letter_of(answer) is not None


def _first(rules: Sequence[Rule], text: str, holds_answer: HoldsAnswer) -> str | None:
    return next((answer for rule in rules if (answer := rule.find(text, holds_answer)) is not None), None)


def extract_answer(text: str) -> str | None:
    """The final answer of a text that answers with a number: the answer that it marks, else its last number."""
    return _first((*MARKED, *NUMBER), visible_answer(text), _holds_number) or None


def extract_expression(text: str) -> str | None:
    """The final answer of a text that answers with mathematics or a few words."""
    return _first((*MARKED, *EXPRESSION), visible_answer(text), _holds_expression) or None


def extract_text(text: str) -> str | None:
    """The final answer in words: the answer that a text marks, else its last line that is not blank."""
    return _first((*MARKED, *TEXT), visible_answer(text), bool) or None


def extract_literal(text: str) -> str | None:
    """The final answer of a text that answers with a Python literal."""
    return _first((*MARKED, *LITERAL), visible_answer(text), bool) or None


def extract_choice(text: str) -> str | None:
    """The final choice A … E of a text; none if it marks an answer without a letter."""
    answer = _first(CHOICE, visible_answer(text), _holds_letter)
    return _letter_of(answer) if answer else None


def stated_answer(text: str) -> str | None:
    """The answer that a text marks; empty for an empty box; None without a marked answer."""
    return _first(MARKED, visible_answer(text), bool)
