r"""One form for answers that are written in several: `]0,1[` is `(0,1)`, a column is a tuple, "DNE" does not exist."""

import re

from lightreasoner.grading.characters import TEXT_COMMANDS, plain_characters

_REALS = r"(-\infty,\infty)"
NAMES = {
    r"\emptyset": ("no solution", "no solutions", "there is no solution", "there are no solutions", "the empty set"),
    r"\infty": (
        "infinity",
        "infinite",
        "infinitely many",
        "infinitely many solutions",
        "infinite solutions",
        "an infinite number of solutions",
        "there are infinitely many solutions",
    ),
    _REALS: (r"\mathbb{r}", r"\mathbb r", r"\r", "all real numbers", "all reals", "all real x", "the real numbers"),
    "does not exist": ("dne", "d.n.e", "doesn't exist", "the limit does not exist"),
    "undefined": ("not defined", "is undefined", "is not defined"),
    "12:00 pm": ("noon", "12 noon"),
    "12:00 am": ("midnight", "12 midnight"),
}
_NAMES = {name: form for form, names in NAMES.items() for name in names}
LONGEST_NAME = 60  # characters
LONGEST = 400  # characters; longer answers stay as they are

_LABEL = re.compile(
    r"^\s*(?:\\(?:text|mathrm)(?:bf)?\s*\{\s*)?\([A-E]\)(?:[\s}~]|\\[ ,;:]|\\q?quad\b)*(?=[\d\\$-])"
)  # (A) 14
_CHOICE = re.compile(r"\(([A-Z])\)")
_CHOSEN = re.compile(r"(?:(?:option|choice|answer)\s+)?(?:\(([A-Z])\)|([A-Z])(?:[).:](?!\w)|$))", re.IGNORECASE)
_POINT = re.compile(r"^\s*[A-Z]\s*(?:\\left)?\s*(\([^()]*,[^()]*\))\s*$")  # P(1,2)
_TRANSPOSED = re.compile(r"^\s*(\([^()]*,[^()]*\))\s*\^\s*\{?\s*(?:T|\\top|\\mathrm\{T\}|\\intercal)\s*\}?\s*$")
_COLUMN = re.compile(
    r"^\s*(?:(?:\\(?:mathbf|vec|boldsymbol|overrightarrow)\s*\{?\s*)?[A-Za-z]{1,2}\}?\s*=\s*)?"
    r"\\begin\{([pb]matrix)\}((?:(?!\\begin|&).)*)\\end\{\1\}\s*\.?\s*$",
    re.DOTALL,
)
_SYSTEM = re.compile(
    r"^\s*\\begin\{(d?cases|aligned|array|gathered)\}(?:\{[lcr|]*\})?((?:(?!\\begin).)*)\\end\{\1\}\s*$", re.DOTALL
)
_ROW_SPACE = re.compile(r"\\\\\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]")
_ARRAY_IN_BRACKETS = re.compile(
    r"\\left\s*[(\[]\s*\\begin\{array\}\{[lcr\s]*\}((?:(?!\\begin|\\end).)*)\\end\{array\}\s*\\right\s*[)\]]", re.DOTALL
)
_ROWS = re.compile(r"\\\\(?:\[[^\]]*\])?")

# Intervals
_CUP = re.compile(r"\s*\\cup(?![A-Za-z])\s*")
_REVERSED = re.compile(r"([\[\]])([^\[\](),;]+)[,;]([^\[\](),;]+)([\[\]])")
_SET_OF = re.compile(
    r"^\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\s*\{?R\}?\s*)?(?:[:|]|\\(?:mid|vert|colon|big\||,\|)(?![A-Za-z]))\s*(.+)\\\}$"
)
_OR = re.compile(r"\s*(?:\\text\s*\{\s*or\s*\}|(?<=[\s\d}])or(?=\s)|\\(?:lor|vee)(?![A-Za-z]))\s*")
_RELATION = r"(<|>|\\[lg]e(?:q(?:slant)?)?(?![A-Za-z])|\\[lg]t(?![A-Za-z]))"
_SIDE = r"\s*([^<>=,]+?)\s*"
_ONE_BOUND = re.compile(rf"{_SIDE}{_RELATION}{_SIDE}")
_TWO_BOUNDS = re.compile(rf"{_SIDE}{_RELATION}\s*([A-Za-z])\s*{_RELATION}{_SIDE}")


def same_label(answer: str, gold: str) -> bool | None:
    r"""Whether an answer names the choice that the gold answer is: `\textbf{(B)}\ 5` is `\text{(B)}`.

    None if the gold answer is no label such as (B), or the answer begins with none.
    """
    bare = TEXT_COMMANDS.sub(r"\1", gold[:LONGEST_NAME]).strip(" $.")
    if not (expected := _CHOICE.fullmatch(bare)):
        return None
    chosen = _CHOSEN.match(TEXT_COMMANDS.sub(r"\1", answer[:LONGEST]).strip(" $.*"))
    return (chosen[1] or chosen[2]).upper() == expected[1] if chosen else None


def common_form(text: str) -> str:
    """An answer in the form that others of its kind have; most answers stay as they are."""
    if len(text) <= LONGEST_NAME:
        words = TEXT_COMMANDS.sub(r"\1", text).strip(" $.").casefold()
        if words in _NAMES:
            return _NAMES[words]
    if len(text) > LONGEST:
        return text
    text = _without_thousands(plain_characters(text).strip())
    text = _ROW_SPACE.sub(r"\\\\ ", _ARRAY_IN_BRACKETS.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text))
    bare = re.sub(r"\\(?:left|right|big[lr]?)(?![A-Za-z])|[$]|\\[,;! ](?=\s*[\[\]])", "", text)
    if found := _SYSTEM.match(bare):
        rows = [row.strip(" ,;") for row in _ROWS.split(found[2]) if row.strip()]
        if len(rows) > 1 and all(row.lstrip("& ").startswith("=") for row in rows[1:]):
            return rows[-1].lstrip("&= ")
        if "&" not in found[2] or found[1] == "aligned":
            return ", ".join(row.replace("&", "") for row in rows)
    return _LABEL.sub("", _intervals(bare) or text)


_THOUSANDS = re.compile(r"(?<![\w,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_OPEN = re.compile(r"[(\[]|\\\{")


def _without_thousands(text: str) -> str:
    r"""Without separators of thousands: `20{,}000\pi`, and `20,000\pi` where no comma of a list stands beside it."""
    text = re.sub(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3}(?!\d))", "", text)
    others = _THOUSANDS.sub("", text)
    if "," not in text or "," in others or _OPEN.search(text) or not re.search("[A-Za-z]", others):
        return text  # 1,200 alone is a number or a list; `elements` and `parse_quantity` decide
    return _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)


def as_tuple(text: str) -> str:
    """A vector that is written as a column, or a point with its name, as a tuple; other answers stay as they are."""
    if point := _POINT.match(text[:LONGEST]) or _TRANSPOSED.match(text[:LONGEST]):
        return point[1]
    found = _COLUMN.match(text.strip(" $")) if len(text) <= LONGEST else None
    rows = [row.strip() for row in _ROWS.split(found[2]) if row.strip()] if found else []
    return f"({', '.join(rows)})" if len(rows) > 1 else text


def _intervals(text: str) -> str | None:
    r"""A union of intervals for `x<2 \text{ or } x>3`, `\{x : 0<x<1\}` and `]0,1[`; None for others."""
    if found := _SET_OF.match(text):
        return _union(found[2], found[1])
    if len(_OR.split(text)) > 1:
        return _union(text, None)
    parts = [_REVERSED.fullmatch(part.strip()) for part in _CUP.split(text)]
    if None in parts or all(part[1] == "[" and part[4] == "]" for part in parts if part):
        return None
    ends = {"[": ("[", ")"), "]": ("(", "]")}
    return r"\cup ".join(f"{ends[part[1]][0]}{part[2]},{part[3]}{ends[part[4]][1]}" for part in parts if part)


def _union(text: str, variable: str | None) -> str | None:
    found = [_interval(part.strip()) for part in _OR.split(text)]
    if any(one is None or one[0] != (variable or (found[0] or "")[0]) for one in found):
        return None
    return r"\cup ".join(one[1] for one in found if one)


def _interval(text: str) -> tuple[str, str] | None:
    """The variable of an inequality, and the interval of its values."""
    if found := _TWO_BOUNDS.fullmatch(text):
        low, first, variable, second, high = found.groups()
        if _is_less(first) is not _is_less(second):
            return None
        if not _is_less(first):
            low, first, second, high = high, second, first, low
        return variable, f"{'(' if _is_strict(first) else '['}{low},{high}{')' if _is_strict(second) else ']'}"
    found = _ONE_BOUND.fullmatch(text)
    if found is None:
        return None
    left, sign, right = found.groups()
    less = _is_less(sign)
    if not re.fullmatch("[A-Za-z]", left):
        left, right, less = right, left, not less
    if not re.fullmatch("[A-Za-z]", left):
        return None
    strict = _is_strict(sign)
    return left, f"(-\\infty,{right}{')' if strict else ']'}" if less else f"{'(' if strict else '['}{right},\\infty)"


def _is_less(sign: str) -> bool:
    return sign == "<" or sign.startswith(r"\l")


def _is_strict(sign: str) -> bool:
    return sign in ("<", ">", r"\lt", r"\gt")
