"""Digits that are no number: dates such as 2024-01-05 and 5.1.2024, phone numbers, addresses, versions.

Three groups or more between hyphens or full stops, or one with a leading zero, are not computed: nobody writes a
difference or a decimal so.
"""

import re

from lightreasoner.grading.characters import TEXT_COMMANDS, plain, plain_characters
from lightreasoner.grading.elements import elements

_YEAR = r"(?:1[5-9]|2[01])\d\d"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_SLASHES = rf"{_YEAR}/{_DAY}/{_DAY}|{_DAY}/{_DAY}/{_YEAR}|(?=0|\d\d/0){_DAY}/{_DAY}/\d\d"
_THOUSANDS = r"\d{1,3}(?:\.\d{3})+(?!\.?\d)"
_HYPHEN = "[-‐-―−]"
_GROUPS = (
    rf"\(\d{{3}}\)[ ]?\d{{3}}{_HYPHEN}\d{{4}}"  # (555) 555-1234
    rf"|\d+(?:{_HYPHEN}\d+){{2,}}|0\d+{_HYPHEN}\d+|\d+{_HYPHEN}0\d+|(?!{_THOUSANDS})\d+(?:\.\d+){{2,}}|{_SLASHES}"
)
# Not within a formula, nor behind the letters of a name.
CODE = rf"(?:(?<=[vV])|(?<![\w.,^/*+‐-―−-]))(?:{_GROUPS})(?![^\WT]|[*/^+]|[.,‐-―−-]\d)"
_CODE = re.compile(CODE)
_LOOSE = re.compile(r"(?<=\d)(?:\s*-\s*|\{-\})(?=0\d)|(?<=\d)\{-\}(?=\d)")  # 2024 - 01 - 05
_LAYOUT = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;:! ]|[$*`~]")
_FORMULA = re.compile(r"[\d\\^_=+*/<>|-]|(?<![^\W\d_'’])(?![vVa])[^\W\d_](?![^\W\d_])")
_OTHER_VALUE = re.compile(r"\b(?:not|before|after|until|since|except)\b", re.IGNORECASE)
_SEPARATOR = re.compile(r"[-/.]")


def is_code(text: str) -> bool:
    """Whether a text in plain characters is one code, which has no value."""
    return _CODE.fullmatch(_LOOSE.sub("-", text)) is not None


def codes(answer: str, gold: str) -> bool | None:
    """Whether two answers have the same codes; words beside them do not count."""
    sides = (answered, beside_answer), (expected, beside_gold) = _codes(answer), _codes(gold)
    if not (answered or expected) or (len(answered + expected) > 2 and (elements(answer) or elements(gold))):
        return None
    is_formula = any(found and _FORMULA.search(beside) for found, beside in sides)
    if answered != expected:
        return None if is_formula and not (answered and expected) else False
    return plain(beside_answer) == plain(beside_gold) or not (
        is_formula or _OTHER_VALUE.search(beside_answer + beside_gold)
    )


def _codes(side: str) -> tuple[list[str], str]:
    """The codes of an answer, of an equation of its right side, and the text beside them."""
    text = TEXT_COMMANDS.sub(r"\1", plain_characters(side)).rpartition("=")[2]
    text = _LOOSE.sub("-", _LAYOUT.sub("", text))
    return [_normal(found[0]) for found in _CODE.finditer(text)], _CODE.sub(" ", text)


def _normal(code: str) -> str:
    """A date with one separator and no leading zeros, whose order of day and month stays; another code as it is."""
    groups = _SEPARATOR.split(code)
    if re.fullmatch(rf"{_YEAR} {_DAY} {_DAY}|{_DAY} {_DAY} {_YEAR}", " ".join(groups)):
        return "-".join(str(int(group)) for group in groups)
    return code
