r"""The text side of the Qwen2.5-Math toolkit's judge: `strip_string` (docs/toolkit-judge.md, "Normal form").

It normalises both the answer and the gold answer, so most equal pairs become the same text before any mathematics. It
also drops parts with meaning: "1 and 2" becomes "12", "5 a" becomes "5", and "seven of 20" becomes "7". The toolkit is
that lenient, and its rules are kept for comparable numbers; `grading.mathematical` is stricter.
"""

import re
from functools import cache
from pathlib import Path

import yaml

_Replacements = tuple[tuple[str, str], ...]

# Each applied from left to right, everywhere in the text: \leftarrow becomes "arrow", "hand" becomes "h".
_LAYOUT: _Replacements = (
    (r"\end{array}", r"\end{pmatrix}"),
    ("bmatrix", "pmatrix"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    (r"\neq", r"\ne"),
    (r"\leq", r"\le"),
    (r"\geq", r"\ge"),
    (r"\left", ""),
    (r"\right", ""),
    (r"\{", "{"),
    (r"\}", "}"),
)
_SIGNS: _Replacements = ((r"^{\circ}", ""), (r"^\circ", ""), (r"\$", ""), ("$", ""), (r"\(", ""), (r"\)", ""))
_NOTATION: _Replacements = (
    *((f"{variable}{relation}", "") for relation in ("=", r"\in", r"\to") for variable in "xyz"),
    (r"\emptyset", "{}"),
    (r"(-\infty,\infty)", r"\mathbb{R}"),
    (r"\%", ""),
    ("%", ""),
    (" .", " 0."),
    ("{.", "{0."),
    ("infinity", r"\infty"),
)
_WORDS: _Replacements = ((r"+\inity", r"\infty"), ("and", ""), (r"\mathbf", ""))

_ARRAY = re.compile(r"\\begin\{array\}\{[^}]*\}")
_TEXT = re.compile(r"\\text\{([^}]*)\}")
_MBOX = re.compile(r"\\mbox\{[^}]*\}")
_ZERO_DECIMALS = re.compile(r"(?<=\d)\.0*(\D)")
_FINAL_ZERO_DECIMALS = re.compile(r"(?<=\d)\.0*\Z")
_ROOT = re.compile(r"\\sqrt(\w+)")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_MOST_DIGITS = 4300  # of an integer that Python reads, by default

_UNITS: list[str] = yaml.safe_load((Path(__file__).parent / "unit_words.yaml").read_text(encoding="utf-8"))
_UNITS += [f"{unit}s" for unit in _UNITS]
# Each unit, and the part of it that a text must hold, to leave out most searches.
_UNITS_AND_STARTS = [(unit, unit.partition(".")[0]) for unit in _UNITS]
_ANY_UNIT = re.compile(rf"(?:^|\W)(?:{'|'.join(_UNITS)})(?:$|\W)")

_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = {"billion": 10**9, "million": 10**6, "thousand": 10**3}
_VALUES = {word: value for value, word in enumerate(_SMALL_NUMBERS)}
_VALUES |= {word: 10 * tens for tens, word in enumerate(_TENS, start=2)} | {"hundred": 100} | _SCALES
_POINT = "point"


def strip_string(text: str, *, strip_units: bool = True) -> str:
    """The normal form of an answer (docs/toolkit-judge.md, "Normal form" and "Unit words").

    The order of the steps decides the result. A second application can change it again.

    Args:
        text: an answer, or a gold answer.
        strip_units: whether to remove unit words; not for minerva_math, where `m` is a mass and `c` the speed of light.
    """
    text = text.strip().replace("\n", "").rstrip(".").replace(r"\!", "")
    text = _replaced(_in_braces(_ARRAY, r"\\begin{pmatrix}", text), _LAYOUT)
    text = _without_final_text(text)
    if strip_units:
        text = _without_units(text)
    text = _replaced(text, _SIGNS)
    text = _number_from_words(text) or text
    text = _replaced(_in_braces(_TEXT, r"\1", text), _NOTATION)
    if r"\infty" not in text:
        text = text.replace("inf", r"\infty")
    text = _in_braces(_MBOX, "", _replaced(text, _WORDS))
    if "i" not in text:
        text = text.replace("j", "i")  # the imaginary unit in engineering
    text = _FINAL_ZERO_DECIMALS.sub("", _ZERO_DECIMALS.sub(r"\1", text))
    if text.startswith("."):
        text = f"0{text}"
    left, equals, right = text.partition("=")
    if equals and len(left) <= 2 and "=" not in right:
        text = right  # t = 5
    return _fraction_of_integers(_with_braced_fractions(_ROOT.sub(r"\\sqrt{\1}", text).replace(" ", "")))


def _replaced(text: str, replacements: _Replacements) -> str:
    for old, new in replacements:
        text = text.replace(old, new)
    return text


def _in_braces(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    """Replace a command with its argument, up to the last closing brace: what follows cannot match, and takes long."""
    before, brace, after = text.rpartition("}")
    return pattern.sub(replacement, before + brace) + after


def _without_final_text(text: str) -> str:
    r"""Everything before the first `\text{`, if the text ends in a brace and anything stands before."""
    start = text.find(r"\text{") if text.endswith("}") else -1
    return (text if start < 0 else text[:start]).strip() or text


def _without_units(text: str) -> str:
    """Remove the unit words one after the other, in two passes. A text that is only a unit word keeps it."""
    if not _ANY_UNIT.search(text):
        return text
    for unit, start in 2 * _UNITS_AND_STARTS:
        if start in text:
            text = _unit(unit).sub(r"\1\2", text) or text
    return text


@cache
def _unit(unit: str) -> re.Pattern[str]:
    return re.compile(rf"(^|\W){unit}($|\W)")


def _number_from_words(text: str) -> str | None:
    """Digits for the number words of a text, whatever else it says; None without a number.

    The rules are those of the library word2number 1.1, which the toolkit calls. Thousands, millions and billions occur
    once each, in descending order, each after a group of words. Zeros in front of an integer go too.
    """
    text = text.replace("-", " ").lower()
    if text.isdigit():
        return str(int(text)) if text.isdecimal() and len(text) <= _MOST_DIGITS else None
    words = [word for word in text.split() if word in _VALUES or word == _POINT]
    if not words or any(words.count(word) > 1 for word in (*_SCALES, _POINT)):
        return None
    point = words.index(_POINT) if _POINT in words else len(words)
    whole = _whole_number(words[:point])
    decimals = [_VALUES[word] for word in words[point + 1 :]]
    if whole is None or not decimals or max(decimals) > 9:
        return None if whole is None else str(whole)
    return str(whole + float(f"0.{''.join(map(str, decimals))}"))


def _whole_number(words: list[str]) -> int | None:
    """The value of number words without a decimal point; None if a group of words is missing or out of place."""
    if len(words) < 2:
        return sum(_VALUES[word] for word in words)
    scales = [words.index(scale) for scale in _SCALES if scale in words]
    groups = [words[before + 1 : at] for before, at in zip([-1, *scales], scales, strict=False)]
    if scales != sorted(scales) or not all(groups):
        return None
    total = sum(_group(group) * _VALUES[words[at]] for group, at in zip(groups, scales, strict=True))
    # What follows the last scale word that anything follows, even if it was counted: "one million two thousand" is
    # 1,003,002 in that library.
    rest = next((words[at + 1 :] for at in reversed(scales) if at + 1 < len(words)), None if scales else words)
    return total + (_group(rest) if rest else 0)


def _group(words: list[str]) -> int:
    """The value of a group of number words, by their number alone."""
    first, *others = (_VALUES[word] for word in words)
    if len(others) == 1:
        return first * others[0] if 100 in (first, others[0]) else first + others[0]
    return first * others[0] + sum(others[1:]) if len(others) in (2, 3) else first


def _with_braced_fractions(text: str) -> str:
    r"""Put the first two characters after each `\frac` in braces, unless a brace follows or the text ends."""
    before, *parts = text.split(r"\frac")
    if any(len(part) < 2 and part != "{" for part in parts):
        return text
    return r"\frac".join([before, *map(_with_braces, parts)])


def _with_braces(arguments: str) -> str:
    if arguments.startswith("{"):
        return arguments
    denominator = arguments[1:] if arguments[1] == "{" else f"{{{arguments[1]}}}{arguments[2:]}"
    return f"{{{arguments[0]}}}{denominator}"


def _fraction_of_integers(text: str) -> str:
    r"""`a/b` as `\frac{a}{b}`, if each side is an integer or holds a root."""
    sides = text.split("/")
    if len(sides) != 2 or not all("sqrt" in side or _is_integer(side) for side in sides):
        return text
    return rf"\frac{{{sides[0]}}}{{{sides[1]}}}"


def _is_integer(text: str) -> bool:
    return len(text) <= _MOST_DIGITS and _INTEGER.fullmatch(text) is not None
