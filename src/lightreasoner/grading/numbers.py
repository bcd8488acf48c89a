r"""Read the number in an answer, exactly.

`parse_number` reads `\$1{,}200`, `10 000 km`, `2.5 million`, `2\frac{1}{2}`, `5²`, `x = 30 - 16 = 14`, "twelve",
"two and a half", `1.234,5` and the full hour `5:00 p.m.`
"""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

from lightreasoner.grading.characters import plain_characters
from lightreasoner.grading.codes import is_code
from lightreasoner.grading.number_words import MINUS, PART, PARTS, SCALES, SMALL_NUMBERS, leading_quantity

LONGEST_NUMBER = 400  # characters; Python refuses longer ones or converts them slowly
LARGEST_POWER = 20_000  # bits

# Digits, with thousands separators only where they belong ("3,4" is two numbers); Indian groups; then an exponent.
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)|\d+)"
AMOUNT = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?!\d|\.\d))?"

# Layout of LaTeX and Markdown that changes no value.
_FONT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|boldsymbol|bm|mbox|operatorname|q?quad)\b|\\[ :;]|~")
_DECORATION = re.compile(
    r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[!()\[\]]|\\?\$(?!\s*\d)|(?<![\w)}])\*\*|\*\*(?![\w({\\])|`"
)
_SEPARATOR = re.compile(r"\{,\}|,\\!\s*")
_GROUPS = re.compile(
    r"(?<![\w.,/^])\d{1,3}(?:(\\[, ;:]|[ '_~])\d{3})(?:\1\d{3})*(?![\d.]*\d|\s*/)"
)  # 10 000, 10'000, 10_000
_DOTTED_GROUPS = re.compile(r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![\d.]*\d)")  # 1.000.000
# 12,5 and 1.234,567: a comma before one or two digits, or behind thousands that are set off by dots or spaces.
_DECIMAL_COMMA = re.compile(
    r"(?<![\w.,/^(\[])(?:(?P<grouped>\d{1,3}(?:[. ]\d{3})+),(?P<decimals>\d+)|(?P<whole>\d+),(?P<few>\d{1,2}))"
    r"(?![\d,.]*\d|\s*/)"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d)|(\d)\s*\{\s*(\d+)\s*\})")
_NAMES = r"\{[\s{]*([^\d{}]{1,20})[\s}]*\}"
_UNIT_FRACTION = re.compile(rf"\\[dt]?frac\s*{_NAMES}\s*{_NAMES}")  # \frac{m}{s}
_TIMES_TEN_TO = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|[*x])\s*10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|\(?([+-]?\d+)\)?)")
_TEN_TO = re.compile(r"(?<![\w.^{])10\s*\^\s*(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d+))")
_RECURRING = re.compile(r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot)\s*\{?(\d+)\}?|\((\d+)\))")  # 0.1\overline{6}, 0.1(6)
_RECURRING_WITH_DOTS = re.compile(
    r"(\d+)\.(\d{0,6}?)(\d{1,6}?)\3+(?:\.{3}|\\l?dots(?![A-Za-z]))"
)  # 0.333..., 0.1666...
_ORDINAL = re.compile(r"(?<=\d)\s*\^[\s{]*(?:st|nd|rd|th)\b[\s}]*")  # 21^{\text{st}}
_PARTS = re.compile(rf"(?<=\d)[\s-]+({'|'.join(PARTS)})\b")  # 3 tenths
_AND_PART = re.compile(rf"(?<=\d)\s+and\s+(?:(?:an?|one)\s+({'|'.join(PART)})\b|(?=\d+/\d))")  # 2 and a half
_ADJECTIVE = re.compile(r"(?<=\d)([\s{]+)\d+-(?=[A-Za-z]{2})")  # 12 5-dollar bills
_FULL_HOUR = re.compile(r"(?<![\d:])(\d{1,2}):00(?![\d:])(?:\s*[ap]\.?m\b\.?|\s*o'clock\b)?", re.IGNORECASE)
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ\b)(?:\s*\{?\s*[CFK]\b\}?)?")
_APPROXIMATELY = re.compile(
    r"^[\s{]*(?:\\(?:approx|sim|simeq|thickapprox)\b|≈|~|about\b|approx(?:imately|\.)?|ca?\.)\s*"
)

_MINUS_IN_WORDS = re.compile(r"^\s*(?:minus|negative)\s+(?=[$£€]?\d)", re.IGNORECASE)
_MYRIADS = re.compile("(?<=\\d)[万萬만亿億억]")
_CURRENCY = r"(?:\\?[$£€¥₹]|\b(?:US|U\.S\.|C|A)\s?\\?\$|\b(?:Rs\.?|USD|EUR|GBP|INR)\b)"
_SCALE = "|".join(SCALES)
_SHORT_SCALES = {"k": 10**3, "M": 10**6, "B": 10**9, "bn": 10**9}
_NUMBER = re.compile(
    rf"""(?P<sign>(?<![\w)\]}}])[-+]\s*)? (?P<currency>{_CURRENCY}\s*)? (?P<inner>-\s*)?
    (?:(?P<whole>\d+)\s+(?P<top>\d+)/(?P<under>\d+)|(?P<amount>{AMOUNT})\.?(?:\s*/\s*(?P<divisor>\d+))?)
    (?:\s*\^\s*(?:\{{\s*(?P<braced>-?\d{{1,4}})\s*\}}|(?P<power>-?\d{{1,4}})))?
    (?:[\s{{}}-]*(?P<scale>{_SCALE})s?\b|(?P<thousand>[kK])\b|(?(currency)\s?(?P<short>M|B|bn)\b))?""",
    re.VERBOSE,
)
# Units that are no words: M_\odot, \mathrm{k\Omega}, and seconds of arc.
_UNIT_SYMBOL = re.compile(
    r"(?<=[\d\s,;:~}])[A-Za-z]{1,2}\s*_\s*\{?\s*(?:\\(?:odot|oplus)|\\text\s*\{\s*(?:sun|earth)\s*\}|sun|earth|odot|oplus)\b\s*\}?"
    r"|(?<=[\d\s,;:~}])\\(?:mathrm|text|rm)\s*\{\s*(?:[kMGm]|\\mu)?\s*(?:\\Omega|u|h|d|t|y|eV|Da)\s*\}"
    r"|(?<=\d)\s*\^\s*\{?\s*(?:\\prime\s*){1,3}\}?"
)
_UNIT_POWER = re.compile(r"(?<=[A-Za-z])[\s}]*\^\s*(?:\{\s*-?\d\s*\}|-?\d)")  # cm^2, m s^{-1}; x^2 is refused for its x
_BARE = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.ASCII)
# What may stand beside a number: words, abbreviations with full stops, punctuation; behind it units of one letter.
_WORDS_AND_MARKS = (
    r"""[^\W\d_]{2,}+|(?<!\w)a(?=\s+[^\W\d_]{2})|(?:[^\W\d_]\.){2,}+|[\s.,;:?'"(){}%$£€¥₹₩₽¢\[\]#·]|\\[%,#]|\\cdot\s"""
    r"|\\(?:cent|Omega|mu|pounds|euro)(?![A-Za-z])|[-/](?=[\s{]*[^\W\d_])"
)
_UNIT_LETTER = r"[ΩμµÅ\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]|(?<![^\W\d_])[mgshlLJNWVAKCFT](?![^\W\d_(])"
_BEFORE = re.compile(rf"(?:{_WORDS_AND_MARKS})*+")
_BEHIND = re.compile(rf"(?:{_WORDS_AND_MARKS}|{_UNIT_LETTER})*+")
_PRODUCT = re.compile(r"(?:[xyz]{2,3}|abc?|ac|bc|mn|pq|uv)(?![^\W\d_])")  # 64xy
_MULTIPLE = re.compile(r"\s*\$?\d+\s*[abcknpqrtuvwxyz]\s*")  # the left side of 2n = 6, which is no value
_GLUED_LETTER = re.compile(r"[^\W\d_](?![^\W\d_])")
# Words that change the value of the number beside them.
_CHANGES_VALUE = re.compile(
    r"\b(?:squared|cubed|factorial|half|double|twice|square root|not|minus|negative|pi|sqrt|sin|cos|tan|log|ln|exp|mod"
    r"|choose|infinity)\b",
    re.IGNORECASE,
)
_BOUND = re.compile(r"\b(?:more|less|fewer|greater|larger|smaller) than\W*\Z", re.IGNORECASE)

_PERCENT = re.compile(r"%|\bper\s?cent\b|¢|\bcents?\b|\\cent\b", re.IGNORECASE)
_SIDE = re.compile(r"(?<![<>!])=|\\approx\b|≈")
# An equation of variables, `2x - y + 1 = 0`, is a formula; `x = 5`, `a_1 = 5` and `f(2) = 5` are values.
_EQUATION = re.compile(
    r"(?=[^=]*(?:\d[A-Za-z](?![A-Za-z])|[+*/^]|\w\s*-))[^=]*(?<![A-Za-z_\\])[A-Za-z](?![A-Za-z])[^=]*="
)
_BRACKETS = re.compile(r"\([^()]*\)")
_LIST = re.compile(r",(?!\d{3}\b)|;|\b(?:and|or)\b")
_NO_LIST = re.compile(r"\\[,;]|\{,\}")  # thin spaces and separators of thousands


def parse_number(text: str) -> Fraction | None:
    """The number in an answer to a question about a number; None for no number, several, or an expression.

    Drops currency signs, thousands separators, percent signs, words and LaTeX layout around the number. A letter that
    follows the digits at once counts as a unit if it is one: `64m`, but not `64x`.
    """
    return _read(text, glued_units=True)


def parse_quantity(text: str) -> Fraction | None:
    """Like `parse_number`, for answers that can be formulas: `3m` is a product and gives None, `3 m` a length."""
    return _read(text, glued_units=False)


def same_number(answer: str, answered: Fraction, gold: str, expected: Fraction) -> bool:
    """Whether two numbers are equal; a percentage, or cents, on one side also equals its hundredth part."""
    if answered == expected:
        return True
    of_answer, of_gold = (_PERCENT.search(side) is not None for side in (answer, gold))
    return of_answer is not of_gold and (answered / 100 == expected if of_answer else answered == expected / 100)


@lru_cache(maxsize=256)
def _read(text: str, *, glued_units: bool) -> Fraction | None:
    if _BARE.fullmatch(text):
        return Fraction(text)
    if len(text) > LONGEST_NUMBER:
        return None
    text = plain_characters(text)
    if glued_units:
        text = _right_side(_DECIMAL_COMMA.sub(_decimal, text))
    elif not _EQUATION.match(text):
        text = _right_side(text)
    text = _plain(text)
    found = list(_NUMBER.finditer(text))
    if len(found) == 1 and _only_units(text[: found[0].start()], text[found[0].end() :], glued_units=glued_units):
        return _value(found[0])
    if not found and (spelt := _in_words(text)) is not None:
        return spelt
    return arithmetic(text)


def _right_side(text: str) -> str:
    """What an equation or a chain of them ends with: `x = 30 - 16 = 14`. A list of equations stays as it is."""
    *left, right = _SIDE.split(text)
    bare, behind = (_NO_LIST.sub("", side) for side in (_BRACKETS.sub("", "".join(left)), right))
    if not left or _MULTIPLE.fullmatch(left[-1]) or _LIST.search(bare) or ("," in behind and _LIST.search(behind)):
        return text
    if re.fullmatch(r"\s*[A-Za-z]\s*", right) and len(left) == 1:
        return left[0]  # 14 = x
    return right


def _plain(text: str) -> str:
    """Remove layout around a number; LaTeX fractions become a/b, and powers of ten become e."""
    text = _MINUS_IN_WORDS.sub("-", _DECORATION.sub("", _SEPARATOR.sub(",", text)))
    text = _MYRIADS.sub(lambda found: {"万": "e4", "萬": "e4", "만": "e4"}.get(found[0], "e8"), text)
    text = _GROUPS.sub(lambda found: re.sub(r"\D", "", found[0]), _UNIT_SYMBOL.sub(" units ", text))
    text = _DOTTED_GROUPS.sub(lambda found: found[0].replace(".", ""), text)
    text = _ORDINAL.sub(" ", _DEGREES.sub(" ", _FONT.sub(" ", text)))
    text = _UNIT_FRACTION.sub(r" \1/\2", _UNIT_POWER.sub("", text))
    text = _AND_PART.sub(lambda found: f" 1/{PART[found[1]]}" if found[1] else " ", text)
    text = _PARTS.sub(lambda found: f"/{PARTS[found[1]]}", _ADJECTIVE.sub(r"\1", text))
    text = _FULL_HOUR.sub(r"\1 ", text)
    text = _FRACTION.sub(lambda found: " {}/{} ".format(*(part for part in found.groups() if part)), text)
    text = _RECURRING_WITH_DOTS.sub(_recurring, _RECURRING.sub(_recurring, text))
    text = _TIMES_TEN_TO.sub(lambda found: "e" + (found[1] or found[2]), text)
    text = _TEN_TO.sub(lambda found: "1e" + (found[1] or found[2]), text)
    return _APPROXIMATELY.sub("", text)


def _decimal(found: re.Match[str]) -> str:
    """A number with a decimal comma in English notation."""
    whole, decimals = found["grouped"] or found["whole"], found["decimals"] or found["few"]
    return f"{re.sub(r'[. ]', '', whole)}.{decimals}"


def _recurring(found: re.Match[str]) -> str:
    r"""The quotient that a recurring decimal stands for: `0.1\overline{6}` is (16 - 1) / 90."""
    whole, fixed, again = (part for part in found.groups() if part is not None)
    numerator = int(whole + fixed + again) - int(whole + fixed or 0)
    return f" {numerator}/{(10 ** len(again) - 1) * 10 ** len(fixed)} "


def _only_units(before: str, after: str, *, glued_units: bool) -> bool:
    """Whether nothing but words, units and punctuation stands before and after a number."""
    if not _BEFORE.fullmatch(before) or not _BEHIND.fullmatch(after):
        return False
    if _PRODUCT.match(after) or (_GLUED_LETTER.match(after) and not glued_units):
        return False
    return not (_CHANGES_VALUE.search(f"{before} {after}") or _BOUND.search(before))


def _value(found: re.Match[str]) -> Fraction | None:
    if found["whole"]:
        whole, top, under = (int(found[name]) for name in ("whole", "top", "under"))
        if top >= under:
            return None
        value = whole + Fraction(top, under)
    else:
        divisor = int(found["divisor"] or 1)
        if divisor == 0:
            return None
        value = Fraction(found["amount"].replace(",", "")) / divisor
    if exponent := found["braced"] or found["power"]:
        power = _power(value, int(exponent))
        if power is None:
            return None
        value = power
    value *= SCALES.get(found["scale"] or "", 1) * _SHORT_SCALES.get(
        found["short"] or (found["thousand"] or "").lower(), 1
    )
    return -value if "-" in (found["sign"] or "") or found["inner"] else value


def _power(base: Fraction, exponent: int) -> Fraction | None:
    """A power; None for a very large one and for 0 to a negative power."""
    if abs(exponent) * max(base.numerator.bit_length(), base.denominator.bit_length()) > LARGEST_POWER:
        return None
    return None if not base and exponent < 0 else Fraction(base**exponent)


def _in_words(text: str) -> Fraction | None:
    """The number in a text without digits, if it names exactly one: "twelve apples"."""
    words = re.findall(r"[^\W\d_]+|[^\w\s-]", text.lower())
    starts = (at for at, word in enumerate(words) if word in SMALL_NUMBERS or word in MINUS or word == "a")
    at, found = next(((at, found) for at in starts if (found := leading_quantity(words[at:]))), (0, None))
    if found is None:
        return None
    beside = words[:at] + words[at + found[1] :]
    named_again = any(word in SMALL_NUMBERS or word in SCALES for word in beside)
    if named_again or not _only_units(" ".join(beside), "", glued_units=False):
        return None
    return found[0]


# --- Arithmetic ---

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | None]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: left / right if right else None,
    ast.Pow: lambda left, right: _power(left, int(right)) if right.denominator == 1 else None,
}
_LATEX_OPERATORS = (
    (re.compile(r"\\times\b|\\cdot\b|\\ast\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\^\s*(-?\d+)"), r"**(\1)"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<![\d.])0+(?=\d)"), ""),
)
_INNERMOST = (
    (re.compile(r"\^\s*\{([^{}]*)\}"), r"**(\1)"),
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"((\1)/(\2))"),
)
_ARITHMETIC = re.compile(r"[\d.+\-*/()\s]+")
LONGEST_ARITHMETIC = 200  # characters
LONGEST_LITERAL = 15  # digits that a float holds exactly


def arithmetic(text: str) -> Fraction | None:
    r"""The value of sums, products, quotients, powers: `58+2`, `\frac{1}{2^{99}}`; None for others, and codes."""
    if len(text) > LONGEST_ARITHMETIC or is_code(text.strip(" .()")):
        return None
    for pattern, replacement in _INNERMOST * 4:
        text = pattern.sub(replacement, text)
    for pattern, replacement in _LATEX_OPERATORS:
        text = pattern.sub(replacement, text)
    text = text.strip(" .")
    if not _ARITHMETIC.fullmatch(text) or "//" in text or re.search(rf"[\d.]{{{LONGEST_LITERAL + 1}}}", text):
        return None
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Fraction | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand)
        return -value if value is not None and isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left), _evaluate(node.right)
        return None if left is None or right is None else _OPERATORS[type(node.op)](left, right)
    return None
