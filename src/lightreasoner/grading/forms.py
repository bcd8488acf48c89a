r"""One form for answers that are written in several: `]0,1[` is `(0,1)`, a column is a tuple, "DNE" does not exist."""

import re

from lightreasoner.grading.characters import TEXT_COMMANDS, plain_characters
from lightreasoner.grading.elements import SPACE
from lightreasoner.grading.numbers import parse_quantity

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
_CHOSEN = re.compile(r"(?:[a-z]{4,}\s+)?(?:\(([A-Z])\)|([A-Z])(?:[).:](?!\w)|$))", re.IGNORECASE)
_ANOTHER_LABEL = re.compile(r"[\s,;/&\\~]*(?:(?:and|or)\b)?[\s,~]*\(?[A-Z]\)?(?![\w'])")
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
_TEXT_WORD = (
    r"\s*,?\s*(?:\\(?:text(?:rm|bf|it)?|mathrm|mbox)\s*\{{\s*{0}\s*\}}|(?<=[\s\d}}]){0}(?=\s)|\\(?:{1})(?![A-Za-z]))\s*"
)
_OR = re.compile(_TEXT_WORD.format("or", "lor|vee"))
_AND = re.compile(_TEXT_WORD.format("and", "land|wedge"))
_ELEMENT_OF = re.compile(r"^[\s$]*[A-Za-z]\s*\\in(?![A-Za-z])\s*(?=(?:\\left\s*)?(?:\\\{|[\[(]))")
_INTERVAL = re.compile(r"\s*([\[(])([^\[\](),;]+)[,;]([^\[\](),;]+)([\])])\s*")
_POINT_OR_HOLE = re.compile(r"\s*([A-Za-z])\s*(=|\\neq?(?![A-Za-z]))\s*([^<>=,]+?)\s*")
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
    bare = TEXT_COMMANDS.sub(r"\1", answer[:LONGEST]).strip(" $.*")
    if not (chosen := _CHOSEN.match(bare)):
        return None
    several = _ANOTHER_LABEL.match(bare, chosen.end())
    return several is None and (chosen[1] or chosen[2]).upper() == expected[1]


def common_form(text: str) -> str:
    """An answer in the form that others of its kind have; most answers stay as they are."""
    if len(text) <= LONGEST_NAME:
        words = TEXT_COMMANDS.sub(r"\1", text).strip(" $.").casefold()
        if words in _NAMES:
            return _NAMES[words]
    if len(text) > LONGEST:
        return text
    text = _without_thousands(_INDEX.sub(_index, plain_characters(text)).strip())
    text = _ELEMENT_OF.sub("", _MODULE.sub("", _MODULUS.sub("", text)))
    text = _without_unit(_without_condition(text))
    text = _ROW_SPACE.sub(r"\\\\ ", _ARRAY_IN_BRACKETS.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text))
    bare = re.sub(r"\\(?:left|right|big[lr]?)(?![A-Za-z])|[$]|\\[,;! ](?=\s*[\[\]])", "", text)
    if found := _SYSTEM.match(bare):
        rows = [row.strip(" ,;") for row in _ROWS.split(found[2]) if row.strip()]
        if len(rows) > 1 and all(row.lstrip("& ").startswith("=") for row in rows[1:]):
            return rows[-1].lstrip("&= ")
        if "&" not in found[2] or found[1] == "aligned":
            return ", ".join(row.replace("&", "") for row in rows)
    return _LABEL.sub("", _intervals(bare) or text)


# \lambda_{\text{red}}, m_{\max} and M_\odot have the indices red, max and odot.
_INDEX = re.compile(
    r"_\s*(?:\{\s*\\(?:text|mathrm|textrm|rm|operatorname)\s*\{\s*(\w+)\s*\}\s*\}|\\(?:text|mathrm|textrm)\s*\{\s*(\w+)\s*\}"
    r"|\{?\s*\\(max|min|sup|inf|lim|odot|oplus)(?![A-Za-z])\s*\}?)"
)
_MODULE = re.compile(r"(?<![A-Za-z.])(?:np|numpy|math)\.(?=[a-z])")
_MODULUS = re.compile(r"(?<=[\d})])(?:\s|\\[,;: ])*\\pmod\s*(?:\{[^{}]*\}|\d)\s*\Z")
_ALWAYS = re.compile(
    r"(?:[\s,;]|\\[,;: ]|\\q?quad(?![A-Za-z]))*"
    r"(?:\\text\s*\{\s*(?:for\s+(?:all|every|each|any)|where)\b[^{}=\d]*\}[^=\d]*"
    r"|\b(?:for\s+(?:all|every|each|any)|where)\s[^=\d]*|\\forall[^=\d]*"
    r"|(?<=[\s,;}\d])[A-Za-z]\s*\\in\s*\\mathbb\s*\{?\s*[NZQRC]\s*\}?(?:\s*[_^]\s*(?:\{[^{}]*\}|[+\d*]))*)[\s.]*\Z",
    re.DOTALL,
)
_ALL_OF = re.compile(
    r"\A\s*\\text\s*\{\s*(?:all|any)\s+(?:\w+\s+){0,2}(?:integers?|numbers?|values?|reals?)(?:\s+of)?\s*\}\s*"
)
_RELATED = re.compile(r"[=<>]|\\[lg]e(?:q|qslant)?(?![A-Za-z])")

_UNIT = (
    r"(?:(?:sq(?:uare)?|cu(?:bic)?)\.?\s*)?(?:[ckmdn]m|ft|yd|kg|mg|m[lL]|inch(?:es)?|feet|foot|yards?|miles?"
    r"|(?:centi|milli|kilo)?met(?:er|re)s?|units?|degrees?|rad(?:ians?)?|seconds?|minutes?|hours?|dollars?)"
)
_SHORT_UNIT = r"(?:[msgJNWVAKLTCF]|Hz|Pa|min|in|mi|lbs?|oz)"
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_UNIT_BEHIND = re.compile(
    r"(?<=[\w})])(?:\s|~|\\[,;: ]|\\q?quad(?![A-Za-z]))*\(?\s*"
    rf"(?:\\(?:text(?:rm|bf|it)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{{\s*(?:{_UNIT}|{_SHORT_UNIT}){_POWER}\s*\}}{_POWER}"
    rf"|\{{?(?<![A-Za-z\\]){_UNIT}(?![A-Za-z])\s*\}}?{_POWER})\s*\)?\s*\Z"
)


def _without_unit(text: str) -> str:
    r"""A formula without the unit behind it, `12\pi~\text{cm}`; a number keeps it for `parse_quantity`."""
    bare = _UNIT_BEHIND.sub("", text)
    formula = re.sub(r"\\(?:cdot|times)(?![A-Za-z])", "", TEXT_COMMANDS.sub("", bare))
    return bare if re.search("[A-Za-z]", formula) else text


def _index(found: re.Match[str]) -> str:
    return f"_{{{found[1] or found[2] or found[3]}}}"


def _without_condition(text: str) -> str:
    r"""An equation or inequality without where it holds: `f(x)=x, x\in\mathbb{R}`, `\text{all integers } k\ge 2`.

    A condition with a number or another equation stays: it is part of the answer.
    """
    found = _ALWAYS.search(text)
    if found and "\\begin" not in text and _RELATED.search(text[: found.start()]):
        text = text[: found.start()]
    bare = _ALL_OF.sub("", text)
    return bare if _RELATED.search(bare) else text


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
    text = SPACE.sub(" ", text).strip()
    if found := _SET_OF.match(text):
        return _region(found[2], found[1])
    if len(_OR.split(text)) > 1 or len(_AND.split(text)) > 1 or ("," in text and _is_condition(text)):
        return _region(text, None)
    parts = [_REVERSED.fullmatch(part.strip()) for part in _CUP.split(text)]
    if None in parts or all(part[1] == "[" and part[4] == "]" for part in parts if part):
        return None
    ends = {"[": ("[", ")"), "]": ("(", "]")}
    return r"\cup ".join(f"{ends[part[1]][0]}{part[2]},{part[3]}{ends[part[4]][1]}" for part in parts if part)


def _is_condition(text: str) -> bool:
    """Whether all parts between commas are inequalities."""
    return all(_interval(part.strip()) or r"\ne" in part for part in text.split(","))


def _region(text: str, variable: str | None) -> str | None:
    """The union of the alternatives of a condition on one variable, or of intervals."""
    found = [_alternative(part) for part in _OR.split(text)]
    if len(found) == 1 and found[0] is None and "," in text:  # x < 2, x > 3
        found = [_alternative(part) for part in text.split(",")]
    names = {one[0] for one in found if one}
    if None in found or len(names) != 1 or (variable is not None and names != {variable}):
        return None
    if all(one[1].startswith(r"\{") for one in found if one):
        return None  # x = 1 or x = 2 is a list
    if names == {None} and not re.search(r"\\infty|[\[\]]", text):  # (1,2) or (3,4) can be points
        return None
    return r"\cup ".join(one[1] for one in found if one)


def _alternative(text: str) -> tuple[str | None, str] | None:
    """The variable and the values where all conditions of a text hold; no variable for an interval."""
    parts = [part for whole in _AND.split(text) for part in (whole.split(",") if _is_condition(whole) else [whole])]
    if len(parts) == 1:
        if bare := _INTERVAL.fullmatch(text):
            return None, bare[0].strip()
        point = _POINT_OR_HOLE.fullmatch(text)
        return (point[1], rf"\{{{point[3]}\}}") if point and point[2] == "=" else _interval(text.strip())
    holes = [hole for part in parts if (hole := _POINT_OR_HOLE.fullmatch(part)) and hole[2] != "="]
    bounds = [_interval(part.strip()) for part in parts if not _POINT_OR_HOLE.fullmatch(part)]
    names = {one[0] for one in bounds if one} | {hole[1] for hole in holes}
    if None in bounds or len(bounds) + len(holes) < len(parts) or len(names) != 1 or len(holes) > 1:
        return None
    ends = [end for one in bounds if one and (end := _INTERVAL.fullmatch(one[1]))]
    low = [(end[1], end[2]) for end in ends if end[2] != r"-\infty"]
    high = [(end[3], end[4]) for end in ends if end[3] != r"\infty"]
    if len(low) > 1 or len(high) > 1:
        return None
    (open_, least), (most, close) = (low or [("(", r"-\infty")])[0], (high or [(r"\infty", ")")])[0]
    if low and high and _is_above(least, most):
        return None  # x < 2 and x > 3
    middle = f"{holes[0][3]})\\cup ({holes[0][3]}," if holes else ""
    return names.pop(), f"{open_}{least},{middle}{most}{close}"


def _is_above(left: str, right: str) -> bool:
    values = parse_quantity(left), parse_quantity(right)
    return None not in values and values[0] > values[1]  # type: ignore[operator]


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
