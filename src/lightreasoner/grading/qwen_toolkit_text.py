r"""The text side of the Qwen2.5-Math toolkit's judge: `strip_string` (docs/toolkit-judge.md, "Normal form").

It normalises both the answer and the gold answer, so most equal pairs become the same text before any mathematics. It
also drops parts with meaning: "1 and 2" becomes "12", and "5 a" becomes "5". The toolkit is that lenient, and its rules
are kept for comparable numbers; `grading.mathematical` is stricter.
"""

import re
from itertools import chain
from pathlib import Path

import yaml

_Rewrites = tuple[tuple[re.Pattern[str], str], ...]

# Applied top to bottom, while spaces still separate words.
_DECORATION: _Rewrites = (
    (re.compile(r"\n"), ""),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\begin\{array\}(?:\{[^{}]*\})?|\\begin\{bmatrix\}"), r"\\begin{pmatrix}"),
    (re.compile(r"\\end\{(?:array|bmatrix)\}"), r"\\end{pmatrix}"),
    (re.compile(r"\\[td]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])"), ""),  # \leftarrow is an arrow
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|°"), ""),
    (re.compile(r"\\mbox\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\mathbf"), ""),
    (re.compile(r"\\?[$%]|(?<!\\)\\[()]"), ""),
    (re.compile(r"(?<=[^\s{])\s*\\text\s*\{[^{}]*\}\s*\Z"), ""),  # a unit, if text precedes it;
    (re.compile(r"\\text\s*\{([^{}]*)\}"), r"\1"),  # otherwise the answer itself
    (re.compile(r"\band\b"), ""),  # a whole word only, because of "thousand"
)

# Applied top to bottom, after the spaces are removed.
_NOTATION: _Rewrites = (
    (re.compile(r"\A(?:[^=<>!]{1,2}=|[A-Za-z]\\in(?![a-z]))(?=[^=]+\Z)"), ""),  # x=5, k=n+1, x\in[0,1]
    (re.compile(r"(?<=\d)\.0*(?!\d)"), ""),
    (re.compile(r"(?<![\d.])\.(?=\d)"), "0."),
    (re.compile(r"\\sqrt(\d+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\frac([A-Za-z\d])"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{(?:[^{}]|\{[^{}]*\})*\})([A-Za-z\d])"), r"\1{\2}"),
    (re.compile(r"\A(-?)(\d+)/(\d+)\Z"), r"\1\\frac{\2}{\3}"),
)

_UNITS: dict[str, list[str]] = yaml.safe_load((Path(__file__).parent / "unit_words.yaml").read_text(encoding="utf-8"))
_UNIT_WORDS = "|".join(chain.from_iterable(_UNITS.values()))
# Whole words only, and no names of LaTeX commands: \min and \deg are not units.
_UNIT = re.compile(rf"(?<![\w\\])(?:km/h|m/s|[ap]\.m|(?:{_UNIT_WORDS})s?|[acdghlmost])(?!\w)")

_SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_NUMBERS = {word: value for value, word in enumerate(_SMALL_NUMBERS)}
_NUMBERS |= {word: 10 * tens for tens, word in enumerate(_TENS, start=2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
LONGEST_NUMBER_IN_WORDS = 200  # characters


def strip_string(text: str, *, strip_units: bool = True) -> str:
    """The normal form of an answer (docs/toolkit-judge.md, "Normal form" and "Unit words").

    An answer that consists of a unit word only ("m", "feet") keeps it.

    Args:
        text: an answer, or a gold answer.
        strip_units: whether to remove unit words; not for minerva_math, where `m` is a mass and `c` the speed of light.
    """
    text = _rewrite(text.rstrip(" \n."), _DECORATION)
    if strip_units:
        text = _without_units(text)
    text = _number_from_words(text) or text
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")  # the imaginary unit in engineering
    return _rewrite("".join(text.split()), _NOTATION)


def _rewrite(text: str, rewrites: _Rewrites) -> str:
    for pattern, replacement in rewrites:
        text = pattern.sub(replacement, text)
    return text


def _without_units(text: str) -> str:
    """Remove unit words, in two passes like the toolkit."""
    for _ in range(2):
        text = _UNIT.sub("", text).strip() or text
    return text


def _number_from_words(text: str) -> str | None:
    """Digits of a text that is one number in English words; None for other texts."""
    words = text.lower().replace("-", " ").split() if len(text) <= LONGEST_NUMBER_IN_WORDS else []
    total = group = 0  # a group is the part that "thousand" multiplies
    for word in words:
        value = _NUMBERS.get(word)
        if word in _SCALES:
            total, group = total + max(group, 1) * _SCALES[word], 0
        elif word == "hundred" and group < 10:
            group = max(group, 1) * 100
        elif value is not None and (group % 100 == 0 or (group % 100 >= 20 and group % 10 == 0 and value < 10)):
            group += value
        else:
            return None
    return str(total + group) if words else None
