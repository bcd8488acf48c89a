"""Format tokens: one definition, by examples; and the share of label mass on them."""

import numpy as np
import pytest

from lightreasoner.samples.format_tokens import FormatShare, is_format, token_kind

FORMAT = [" ", "\n\n", ",", ".\n", "?", " (", ")", '"', "“", "、", "{", "}", "\\[", "\\]", "\\quad", "\\frac", "boxed"]
FORMAT += [
    " boxed",
    "$",
    "$$",
    "#",
    "##",
    "**",
    "---",
    "```",
    "`",
    "|",
    "_",
    ":\n\n",
    "...",
    "\\",
    "\\boxed{",
    "> ",
    "\t",
]
CONTENT = ["a", " the", "7", "三", "+", " =", "*", "-", "/", "<", ">", "^", "%", "2,", "x_", "é", "text", "\\frac1", ""]
CONTENT += ["⟨F0 9F⟩", "−", "×", "= ("]


@pytest.mark.parametrize("text", FORMAT)
def test_format(text: str) -> None:
    assert is_format(text)


@pytest.mark.parametrize("text", CONTENT)
def test_content(text: str) -> None:
    assert not is_format(text)


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("word", ["a", " the", "x_", "é", "text", ""]),
        ("number", ["7", " 12", "2,", "1.5", "½", "x2"]),
        ("operator", ["+", " =", "*", " -", "^", "×", ">="]),
        ("format", [",", "**", "\\[", "\n\n", " boxed", "---"]),
    ],
)
def test_every_token_has_one_kind(kind: str, texts: list[str]) -> None:
    assert [token_kind(text) for text in texts] == [kind] * len(texts)
    assert token_kind("<|im_end|>", control=True) == "format"


def test_a_control_token_is_format_whatever_its_text() -> None:
    assert is_format("<|im_end|>", control=True)
    assert not is_format("<|im_end|>")


def test_the_share_counts_weights_of_labels_and_tokens_of_responses() -> None:
    share = FormatShare({1: True, 2: False, 3: True}.__getitem__)
    assert share.of_labels is None
    assert share.of_responses is None
    share.add_labels(np.array([1, 2, 2]), np.array([0.25, 0.75, 1.0]))
    share.add_labels(np.array([3]), np.array([1.0]))
    share.add_responses(np.array([2, 2, 2, 1]))
    assert share.of_labels == pytest.approx(1.25 / 3)
    assert share.of_responses == 0.25
