"""Answers that a text takes back: "The answer is 14. Wait, no, it is 15."."""

import re
from typing import NamedTuple

_SAID = r"(?:that|this|it|which)(?:'s|\sis|\swas)\s(?:wrong|incorrect|not\s(?:right|correct|quite\sright))"
_ERROR = (
    r"(?:I(?:'ve|\shave)?\s(?:made|see|found|notice)\s(?:an?|my|the)\s(?:\w+\s)?(?:mistake|error)"
    r"|I(?:\shave)?\s(?:forgot|miscounted|miscalculated|misread|overlooked|missed)\b"
    r"|(?:I\sapologi[sz]e|apologies|sorry)\sfor\s(?:the|my|this|that)\s(?:\w+\s)?(?:mistake|error|miscalculation|oversight)"
    r"(?=\s*[.!,;:\n]))"
)
_VALUE = r"(?:it|that|this|the\s(?:\w+\s)?(?:answer|result|total|value))(?:'s|\s(?:is|should\sbe|must\sbe))\b"
_TAKEN_BACK = re.compile(
    rf"""(?:^|(?<=[.!?,;:…)\]}}$*—–-]))[\s*_("]{{0,4}}(?:(?:oh|hmm|but|and|ah)\b[\s,.!…—–-]*)*
    (?:(?P<clear>(?:wait|actually|hold\son)[\s,.!…—–-]+(?:no\b|{_SAID}|{_ERROR})
        |no[\s,.!…—–-]+(?:wait|sorry|{_SAID})\b
        |(?:scratch\sthat|my\smistake|correction(?=:))\b
        |{_ERROR})
    |(?:wait|actually|hold\son)[\s,.!…—–-]+(?={_VALUE})
    |(?:sorry|oops|apologies|I\sapologi[sz]e)\b)[\s,.:!…—–-]*""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
# A text without these takes nothing back; without their first letter, which may be a capital.
_WORDS = "ait|ctually|orry|ops|cratch|istake|rror|orrection|old on|orgot|wrong|orrect| mis| overlooked|pologi".split(
    "|"
)
_PRONOUN = re.compile(rf"{_VALUE}\s*(?!wrong|not|in)", re.IGNORECASE)
# A value at once behind "it is" or "sorry": a number, a formula, a name, a single word; and no condition behind it.
_AT_ONCE = re.compile(
    r"(?:about|approximately|simply|just)?[\s*_]*(?!(?:right|correct|fine|ok(?:ay)?|it|all|so|enough|true|good)\b)(?:[-−+]?\s*[$£€\d\\(]|(?-i:[A-Z])[\w'-]*\b|\w+[\s*_]*(?:[.!]|\Z))"
    r"(?![^.\n]*\s(?:only\sif|if|when|unless)\s)",
    re.IGNORECASE,
)
LONGEST = 20_000  # characters; of a longer text the end is read


class Correction(NamedTuple):
    """What stands behind the last words that take an answer back.

    Attributes:
        text: "it is 15" is "The answer is 15" there, because it corrects an answer.
        is_clear: whatever it says is the answer; else only an answer that it marks is ("Oops, a typo in line 3.").
    """

    text: str
    is_clear: bool


def after_retraction(text: str) -> Correction | None:
    """What a text says after it takes an answer back for the last time; None if it takes nothing back."""
    text = text[-LONGEST:]
    if not any(word in text for word in _WORDS):
        return None
    found = list(_TAKEN_BACK.finditer(text))
    if not found:
        return None
    behind = text[found[-1].end() :]
    said = _PRONOUN.match(behind)
    value = behind[said.end() :] if said else behind
    is_clear = found[-1]["clear"] is not None
    if not is_clear:
        is_clear = _AT_ONCE.match(value) is not None and (said is not None or not value[:1].isalpha())
    return Correction(f"The answer is {value}" if said and is_clear else behind, is_clear)
