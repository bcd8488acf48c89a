"""Answers that are Python literals: numbers, texts, lists, truth values. Nothing is run: literals are only parsed."""

import ast
import re
from typing import Any

LONGEST_LITERAL = 2000  # characters
NOT_A_LITERAL = object()

_WRAPPERS = (
    re.compile(r"\$+(.+?)\$+"),
    re.compile(r"\\\((.+)\\\)|\\\[(.+)\\\]"),
    re.compile(r"`+(?:python\n)?([^`]+)`+"),
    re.compile(r"\*\*(.+)\*\*"),
    re.compile(r"(?:result|output)\s*={1,2}\s*(.+)"),
)
_FONT = re.compile(r"\\(?:text|texttt|mathtt|mathrm)\{([^{}]*)\}")
_ESCAPED = re.compile(r"\\([_{}$%&#])")
_QUOTES = str.maketrans("‘’“”", "''\"\"")


def literal_text(answer: str) -> str:
    r"""An answer without markup around it: `$…$`, backticks, bold, `\text{…}`, `result = …`, a full stop."""
    text, before = _FONT.sub(r"\1", answer).strip().removesuffix("."), None
    while text != before:
        before = text
        for wrapper in _WRAPPERS:
            if found := wrapper.fullmatch(text):
                text = next(part for part in found.groups() if part is not None).strip()
    return _ESCAPED.sub(r"\1", text)


def parsed(text: str) -> Any:
    """The value of a literal; `NOT_A_LITERAL` for any other text."""
    if len(text) > LONGEST_LITERAL:
        return NOT_A_LITERAL
    try:
        return ast.literal_eval(text.translate(_QUOTES) if text[:1] in "‘“" else text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return NOT_A_LITERAL


def normal_form(answer: str) -> str:
    """One text for all spellings of a value: `repr` of the literal. Bare words count as the text without its quotes."""
    text = literal_text(answer)
    value = parsed(text)
    return _spelling(text if value is NOT_A_LITERAL else value)


def _spelling(value: Any) -> str:
    """`repr` with the entries of dicts and sets in one order, which is no part of their value."""
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_spelling(key)}: {_spelling(item)}' for key, item in value.items()))}}}"
    if isinstance(value, set) and value:
        return f"{{{', '.join(sorted(map(_spelling, value)))}}}"
    if isinstance(value, list | tuple):
        entries = ", ".join(map(_spelling, value))
        return f"[{entries}]" if isinstance(value, list) else f"({entries}{',' * (len(value) == 1)})"
    return repr(value)
