r"""One spelling for the characters that models write in many ways: dashes, spaces, full-width digits, `²`, `½`, `√`.

`plain(text)` also drops layout, so that answers that look the same are the same text.
"""

import re
import unicodedata
from functools import lru_cache

_SIGNS = {
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "∶": ":",
    "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ",
    "⩾": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∞": r"\infty ",
    "π": r"\pi ",
    "θ": r"\theta ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "…": r"\ldots ",
    "°": r"^{\circ}",
    "º": r"^{\circ}",
    "‘": "'",
    "’": "'",
    "′": "'",
    "“": '"',
    "”": '"',
}
_GREEK = {
    letter: rf"\{unicodedata.name(letter).removeprefix('GREEK SMALL LETTER ').lower()} " for letter in "αβγδεηλμρστφψω"
}
_DASHES = "‐‑‒–—―−﹣"
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_TABLE = str.maketrans(
    {chr(0xFF01 + offset): chr(0x21 + offset) for offset in range(94)}  # full-width ASCII
    | dict.fromkeys(_DASHES, "-")
    | dict.fromkeys(_SPACES, " ")
    | dict.fromkeys(_INVISIBLE, "")
    | _SIGNS
    | _GREEK
)
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
TEXT_COMMANDS = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf)|boldsymbol|mbox|hbox|emph|operatorname)\s*\{([^{}]*)\}"
)
# Commands that change only how an answer looks, and other names of a command.
_COMMANDS = (
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:underline|uline|ensuremath|mathstrut)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\(?:bf|rm|it|large|Large|LARGE|huge|Huge|normalsize|displaystyle|textstyle)(?![A-Za-z])\s*"), " "),
    (re.compile(r"\\(?:tag|label)\*?\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\(?:[bB]igg?[lrm]?|middle)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lparen(?![A-Za-z])"), "("),
    (re.compile(r"\\rparen(?![A-Za-z])"), ")"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:text)?degree(?![A-Za-z])"), r"^{\\circ}"),
    (re.compile(r"\\(?:nice|s|x)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
)
_RAISED_O = re.compile(r"(?<=\d)\s*\^\s*(?:o(?![A-Za-z])|\{\s*(?:o|\\(?:text|mathrm)\s*\{\s*o\s*\})\s*\})")  # 90^o
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞]")
_ROOT = re.compile(r"([√∛])\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]{1,100}\)|\{[^{}]{1,100}\})")


def plain_characters(text: str) -> str:
    """A text in ASCII and LaTeX as far as its signs of mathematics go; other characters stay."""
    if "\\" in text:
        for command, replacement in _COMMANDS:
            text = command.sub(replacement, text)
    text = _RAISED_O.sub(r"^{\\circ}", text) if "^" in text else text
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{_ascii(found[0])}}}", text)
    text = _SUBSCRIPT.sub(lambda found: f"_{{{_ascii(found[0])}}}", text)
    text = _VULGAR_FRACTION.sub(lambda found: r"\frac{{{}}}{{{}}}".format(*_ascii(found[0]).split("/")), text)
    text = _ROOT.sub(_root, text)
    return text.translate(_TABLE)


def _root(found: re.Match[str]) -> str:
    return rf"\sqrt{'[3]' if found[1] == '∛' else ''}{{{found[2].strip('(){}')}}}"


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_TABLE)


# --- The plain form of an answer ---

_LAYOUT = re.compile(r"(?:\\(?:left|right)(?![A-Za-z])|\\(?:displaystyle|q?quad|[,;!: ])|[$~\s])+")
# Prose, which needs no mathematics. "no" is the only short answer that is not a product of variables.
WORDS = re.compile(r"(?=(?i:no\b)|.*[^\W\d_]{3})[^\W\d_][^\d\\^_={}$+*/<>|()\[\]]*", re.DOTALL)
_NAME_WITH_REMARK = re.compile(r"((?:[A-Z][a-z]+\.?\s)*[A-Z][a-z]{2,})\s\([^()]*[\d<>=][^()]*\)")  # Mrs. Hilt (5 > 3)
_ARTICLE = re.compile(r"^(?:the|a|an)\s+", re.IGNORECASE)
_AM_PM = re.compile(r"(?<=\d)\s*([ap])\.?\s?m\b\.?", re.IGNORECASE)
# Spaces without meaning. Between digits a space separates two numbers, unless it separates thousands.
# a_{n} is a_n. A power stays as it is: x^{2}3 is no x^23.
SMALL_INDEX = re.compile(r"_\{(\w)\}(?!\w)")
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)|\s+(?=\d{3}(?!\d))")


@lru_cache(maxsize=256)
def plain(text: str) -> str:
    """Remove layout, text commands, article and final full stop; words become lower case."""
    text = TEXT_COMMANDS.sub(r" \1 ", TEXT_COMMANDS.sub(r" \1 ", plain_characters(text)))
    text = _ARTICLE.sub("", SMALL_INDEX.sub(r"_\1", _LAYOUT.sub(" ", text)).strip().removesuffix(".")).strip()
    text = text.strip('"')
    if named := _NAME_WITH_REMARK.fullmatch(text):
        text = named[1]
    # Case distinguishes variables in a formula, but not words.
    if WORDS.fullmatch(text):
        return re.sub(r"\s+", " ", text.casefold())
    return _LOOSE_SPACE.sub("", _AM_PM.sub(lambda found: f"{found[1].lower()}m", text))
