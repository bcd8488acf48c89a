r"""One spelling for the characters that models write in many ways: dashes, spaces, full-width digits, `²`, `½`, `√`."""

import re
import unicodedata

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
TEXT_COMMANDS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|boldsymbol|mbox|operatorname)\s*\{([^{}]*)\}")
# Commands that change only how an answer looks, and other names of a command.
_COMMANDS = (
    (re.compile(r"\\(?:text)?color\s*\{[^{}]*\}|\\(?:underline|uline|ensuremath|mathstrut)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\(?:bf|rm|it|large|Large|LARGE|huge|Huge|normalsize|displaystyle|textstyle)(?![A-Za-z])\s*"), ""),
    (re.compile(r"\\(?:tag|label)\*?\s*\{[^{}]*\}"), ""),
    (re.compile(r"\\(?:nice|s|x)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
)
_VULGAR_FRACTION = re.compile("[¼½¾⅐-⅞]")
_ROOT = re.compile(r"([√∛])\s*(\d+(?:\.\d+)?|[A-Za-z]|\([^()]{1,100}\)|\{[^{}]{1,100}\})")


def plain_characters(text: str) -> str:
    """A text in ASCII and LaTeX as far as its signs of mathematics go; other characters stay."""
    if "\\" in text:
        for command, replacement in _COMMANDS:
            text = command.sub(replacement, text)
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
