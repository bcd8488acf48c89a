r"""The formula at the end of a text that marks none: `$x^2$`, `2√3` and `x = 1 or x = 2` in prose, bold words."""

import re

from lightreasoner.grading.endings import LONGEST_LINE, without_ending
from lightreasoner.grading.statements import FORMULA, is_formula

_BOLD = re.compile(
    r"\*\*(?=[^\s*])((?:[^*\n:]|(?<=\d):(?=\d)){1,200})(?<=\S)\*\*(?!\s?:)(?!(?!\s(?:for|where|when|if)\b)[^.!?\n]*\d)"
)
_BOLD_WORDS = re.compile(
    r"\b(?:is|are|be|was)\s+(?:an?\s+|the\s+)?(?:\*\*|\\text(?:bf|it)\{)([^*{}\n:]{1,40})(?:\*\*|\})[\s.!]*\Z"
)
_DIGIT_OR_SIGN = re.compile(r"[\d\\^=+*/<>√π²³]")
_PROSE = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}")
_ALIGNED = re.compile(
    r"\\begin\{(?:align|aligned|split|gather|gathered|eqnarray|equation)\*?\}(.*)\\end\{[a-z]+\*?\}", re.DOTALL
)
_BETWEEN = re.compile(r"\s*(?:,?\s*(?:and|or)\b|,)\s*", re.IGNORECASE)
_CONDITION = re.compile(
    r"\s(?:for(?:\s(?:all|every|any|each|some))?|where|when|if|in)\s+(?:\w+\s+){0,2}\Z", re.IGNORECASE
)

# Mathematics in prose: the pieces of a formula without dollar signs. "a" and "I" are words.
_PIECE = (
    r"(?:\d{1,2}:\d{2}(?:\s?[apAP]\.?[mM]\b\.?)?|\d+(?:[.,:]\d+)*(?:\s?:\s?\d+)*|\.\d+|(?:sqrt|sin|cos|tan|log|ln|exp|pi)\b"
    r"|\\[A-Za-z]+(?:\{[^{}\n]*\})*|(?<![A-Za-z'])(?:[b-zB-HJ-Z](?![A-Za-z'])|(?:and|or)\b(?=\s))"
    r"|[-−–+*/^=<>≤≥≠≈±√∛π∞°·⋅×÷%(){}\[\],|!⁰¹²³⁴-⁹⁻])"
)
_RATIO = re.compile(r"\bratio\b[^.\n]{0,60}?(\d+) to (?=\d+\b)", re.IGNORECASE)
_IN_BOLD = re.compile(r"(?<![\w)}])\*\*(?=\S)|(?<=\S)\*\*(?![0-9A-Za-z_({\\])")
_RUN = re.compile(rf"{_PIECE}(?:[ \t]?{_PIECE})*")
_TRIM = re.compile(r"\A(?:(?:and|or)\b|[\s,=+*/)\]}^!:-])+|(?:\b(?:and|or)|[\s,(\[{:])+\Z")
_UNFINISHED = re.compile(r"[-−=+*/^×·÷<>≈]\s*\Z")  # a text that was cut off
_VALUE = re.compile(r"[\dπ∞√]|\\pi")
_MORE_THAN_A_NUMBER = re.compile(
    r"[=<>≤≥≈±^⁰¹²³⁴-⁹⁻π√∛∞({\[:\\+*/×·⋅]|\d\s*[-−–]\s*\d|(?<![A-Za-z])[b-zB-HJ-Z](?![A-Za-z])|,(?!\d{3})|\b(?:and|or)\b"
)
_ONE_NUMBER = re.compile(r"-?\d[\d.,]*\s[A-Za-z]|(?!.*\b(?:and|or)\b)[^,]*=\s*-?\d+(?:[.,]\d+)*")
_ROUNDED_BEHIND = re.compile(
    r"[\s,(]+(?:(?:or|which\sis)\s)?(?:approximately|approx\.?|about|roughly)\s-?\d[^\n]*\Z", re.IGNORECASE
)

_ROUNDED_FORMULA = re.compile(
    r"(?<=[$)])\s*\(\s*(?:or\s)?(?:approximately|approx\.?|about|roughly|\$\s*\\approx)\s[^()\n]*\)[\s.*]*\Z",
    re.IGNORECASE,
)
_NOTHING = re.compile(r"[\s.*]*")
_UNIT_LINE = re.compile(r"[\s.*]*(?:[A-Za-z]+[\s.*]*){0,3}")  # "square inches." below a display


def bold_formula(text: str) -> str | None:
    """The last bold words of the last line, if they begin with mathematics, and no number follows in their sentence."""
    end = len(text.rstrip())
    found = _BOLD.findall(text, max(text.rfind("\n", 0, end) + 1, end - LONGEST_LINE), end)
    bold = found[-1].strip() if found else ""
    return bold if _DIGIT_OR_SIGN.search(bold) and not _PROSE.match(bold) else None


def bold_words(text: str) -> str | None:
    """The bold words that end a text and say what something is: "The function is **even**."."""
    found = _BOLD_WORDS.search(text, max(text.rfind("\n", 0, len(text.rstrip())) + 1, len(text) - LONGEST_LINE))
    return found[1].strip() if found else None


def last_formula(text: str) -> str | None:
    """The last formula of the last line, with those that "and" or commas join to it; a condition is no answer."""
    formulas = formulas_of_last_line(text)
    while len(formulas) > 1 and _CONDITION.search(text, formulas[-2].end(), formulas[-1].start()):
        formulas = formulas[:-1]
    if not formulas:
        return None
    first = len(formulas) - 1
    while first and _BETWEEN.fullmatch(text[formulas[first - 1].end() : formulas[first].start()]):
        first -= 1
    together = [inside(formula) for formula in formulas[first:]]
    joined = all("=" in one for one in together) or all("=" not in one and re.search(r"\d", one) for one in together)
    return ", ".join(together) if joined else together[-1]


def formulas_of_last_line(text: str) -> list[re.Match[str]]:
    """The formula that ends a text, also over several lines; else the formulas of its last line."""
    text = _ROUNDED_FORMULA.sub("", without_ending(text, FORMULA))
    end = len(text.rstrip())
    line = text.rfind("\n", 0, end) + 1
    found = [one for one in FORMULA.finditer(text, max(0, end - LONGEST_LINE), end) if is_formula(one)]
    if (
        found
        and found[-1].start() < line
        and (_UNIT_LINE if found[-1]["inline"] is None else _NOTHING).fullmatch(text, found[-1].end(), end)
    ):
        return found[-1:]
    return [one for one in found if one.start() >= line]


def inside(formula: re.Match[str]) -> str:
    """What stands between the signs around a formula; of several rows the last one."""
    text = next(part for part in formula.groups() if part is not None).strip()
    if aligned := _ALIGNED.fullmatch(text):
        rows = [row for row in aligned[1].split(r"\\") if row.strip()]
        return rows[-1].replace("&", "").strip() if rows else text
    return text


def formula_in_prose(text: str) -> str | None:
    """The last formula of the last line that is written without dollar signs; None for a number alone."""
    text = text.rstrip("` \n")
    line = _IN_BOLD.sub("", text[max(text.rfind("\n") + 1, len(text) - LONGEST_LINE) :])
    line = _RATIO.sub(lambda found: f"{found[0].removesuffix(' to ')}:", line)
    exact = _ROUNDED_BEHIND.sub("", line)
    line = exact if exact != line and re.search(r"[π√/^]", exact) else without_ending(line, _VALUE)
    runs = [run for found in _RUN.finditer(line) if _VALUE.search(run := _TRIM.sub("", found[0]))]
    if (
        not runs
        or _UNFINISHED.search(runs[-1])
        or not _MORE_THAN_A_NUMBER.search(runs[-1])
        or _ONE_NUMBER.fullmatch(runs[-1])
    ):
        return None
    balanced = all(runs[-1].count(pair[0]) == runs[-1].count(pair[1]) for pair in ("()", "[]", "{}"))
    return runs[-1] if balanced else None
