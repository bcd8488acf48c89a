"""Answers that a text takes back: "The answer is 14. Wait, no, it is 15."."""

import re

_SAID = r"(?:that|this|it|which)(?:'s|\sis|\swas)\s(?:wrong|incorrect|not\s(?:right|correct|quite\sright))"
_ERROR = (
    r"(?:I(?:'ve|\shave)?\s(?:made|see|found|notice)\s(?:an?|my|the)\s(?:\w+\s)?(?:mistake|error)"
    r"|I(?:\shave)?\s(?:forgot|miscounted|miscalculated|misread|overlooked|missed)\b)"
)
_VALUE = r"(?:it|that|this|the\s(?:\w+\s)?(?:answer|result|total|value))(?:'s|\s(?:is|should\sbe|must\sbe))\b"
_TAKEN_BACK = re.compile(
    rf"""(?:^|(?<=[.!?,;:…)\]}}$*—–-]))[\s*_("]{{0,4}}(?:(?:oh|hmm|but|and|ah)\b[\s,.!…—–-]*)*
    (?:wait[\s,.!…—–-]+(?:no\b|{_SAID}|{_ERROR}|(?={_VALUE}))
    |no[\s,.!…—–-]+(?:wait|sorry|{_SAID})\b
    |(?:sorry|oops|scratch\sthat|my\smistake|correction(?=:))\b
    |(?:actually|hold\son)[\s,.!…—–-]+(?:no\b|{_SAID}|{_ERROR}|(?={_VALUE}))
    |{_ERROR})[\s,.:!…—–-]*""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
# A text without these takes nothing back; without their first letter, which may be a capital.
_WORDS = "ait|ctually|orry|ops|cratch|istake|rror|orrection|old on|orgot|wrong|orrect| mis| overlooked".split("|")
_PRONOUN = re.compile(r"(?:it|that|this)(?:'s|\s(?:is|should\sbe|must\sbe))\b\s*(?!wrong|not|in)", re.IGNORECASE)
LONGEST = 20_000  # characters; of a longer text the end is read


def after_retraction(text: str) -> str | None:
    """What a text says after it takes an answer back for the last time; None if it takes nothing back.

    "It is 15" becomes "the answer is 15" there, because it corrects an answer.
    """
    text = text[-LONGEST:]
    if not any(word in text for word in _WORDS):
        return None
    found = list(_TAKEN_BACK.finditer(text))
    if not found:
        return None
    behind = text[found[-1].end() :]
    said = _PRONOUN.match(behind)
    return f"The answer is {behind[said.end() :]}" if said else behind
