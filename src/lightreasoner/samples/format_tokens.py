r"""Kinds of token, above all format: what a text looks like, not what it says. Report and samples use this definition.

A contrast of two prompts, or of a model with itself, can fall on the style of an answer rather than on its content. The
share of label mass on format tokens shows it, beside the share of such tokens in the responses.

A token is one of format if it is a control token, or if nothing of its text is left without

- whitespace,
- LaTeX commands and their marks: `\[`, `\quad`, `{`, `}`, `$`, `&`; and the bare names in `LAYOUT`, such as `boxed`,
  since tokenizers cut `\boxed` after the backslash,
- punctuation and quotation marks, in any script,
- Markdown: `#`, `` ` ``, `_`, `~`, `|`, `>` before a space, and a row of `*`, `-` or `=`.

Letters, digits and operators are content: a single `+ - * / = < > ^ %` stands for arithmetic. So `**` is format and `*`
is not. Content with a digit is a number, operators alone are operators, and the rest is words.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

TokenKind = Literal["word", "number", "operator", "format"]
TOKEN_KINDS: tuple[TokenKind, ...] = get_args(TokenKind)
LAYOUT = frozenset("boxed dfrac frac tfrac mathrm mathbf textbf quad qquad displaystyle".split())
OPERATORS = frozenset("+-*/=<>^%×÷−±≤≥·")
_MARKUP = re.compile(r"\\[A-Za-z]+|\\[^A-Za-z0-9]|\*{2,}|-{2,}|={2,}|^\s*>\s+$")
_SYMBOLS = frozenset("`$~|&_#\\")


def is_format(text: str, control: bool = False) -> bool:
    """Whether a token is one of format; see the module's docstring.

    Args:
        text: the token's text, with its blanks.
        control: it is a control token, such as the end of a turn.
    """
    if control:
        return True
    if not text:
        return False
    if text.strip() in LAYOUT:
        return True
    return all(_is_mark(letter) for letter in _MARKUP.sub("", text))


def token_kind(text: str, control: bool = False) -> TokenKind:
    """The kind of a token; arguments as of `is_format`."""
    if is_format(text, control):
        return "format"
    if any(letter.isnumeric() for letter in text):
        return "number"
    return "operator" if text.strip() and OPERATORS.issuperset(text.strip()) else "word"


def _is_mark(letter: str) -> bool:
    if letter in OPERATORS or letter.isalnum():
        return False
    return letter.isspace() or letter in _SYMBOLS or unicodedata.category(letter).startswith("P")


@dataclass
class FormatShare:
    """Format tokens in responses and labels, counted batch by batch.

    Attributes:
        looked_up: tells whether an id is a format token.
    """

    looked_up: Callable[[int], bool]
    _known: dict[int, bool] = field(default_factory=dict)
    _mass: float = 0.0
    _all_mass: float = 0.0
    _tokens: int = 0
    _all_tokens: int = 0

    def add_labels(self, token_ids: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        """Count labels, their tokens and weights end to end."""
        is_one = self._of(token_ids)
        self._mass += float(weights[is_one].sum())
        self._all_mass += float(weights.sum())

    def add_responses(self, ids: NDArray[np.int64]) -> None:
        """Count the tokens of responses."""
        self._tokens += int(self._of(ids).sum())
        self._all_tokens += len(ids)

    @property
    def of_labels(self) -> float | None:
        """Share of the label mass Σ v_C on format tokens, 0 … 1; None without labels."""
        return self._mass / self._all_mass if self._all_mass else None

    @property
    def of_responses(self) -> float | None:
        """Share of the response tokens that are format tokens; None without any."""
        return self._tokens / self._all_tokens if self._all_tokens else None

    def _of(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        for index in set(np.unique(ids).tolist()) - self._known.keys():
            self._known[index] = self.looked_up(index)
        return np.fromiter((self._known[index] for index in ids.tolist()), np.bool_, len(ids))
