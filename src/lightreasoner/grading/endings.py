"""What stands behind the answer at the end of a text that marks none: a reason, a denial, a check.

"She needs 6, not 5." ends with 5, and "It is 42. Check: 42 / 7 = 6." with 6.
"""

import re

LONGEST_LINE = 1000  # characters; of a longer last line the end is read

_CONCLUDES = r"(?![^\n]*\b(?:so|thus|therefore|hence|then|means|leaving|but)\b)"
_ENDINGS = (
    re.compile(
        rf"(?<=\S)[\s,(–—-]+\b(?:because|since|whereas){_CONCLUDES}\b(?:[^.!?\n]|\.(?=\d))*[.!?)\s*]*\Z", re.IGNORECASE
    ),
    re.compile(
        rf"(?:,\s+(?:and\s)?not|\s\(not|\sand\snot|,?\s\(?rather\sthan|,?\s\(?instead\sof)\s{_CONCLUDES}"
        r"(?:[^,.!?\n]|[.,](?=\d))*[.!?)\s*]*\Z",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?<=[.!?:\n)])[\s*_#(]*(?:(?:let(?:'s|\sus|\sme)|to|we\scan|you\scan)\s(?:(?:now|also|quickly)\s)?)?"
        rf"(?:double[-\s])?(?:check|verif(?:y|ication))\b{_CONCLUDES}[^\n]*\Z",
        re.IGNORECASE,
    ),
)
_WORDS = ("because", "since", "whereas", " not ", "(not ", "rather than", "instead of", "heck", "erif")


def without_ending(text: str, answer: re.Pattern[str]) -> str:
    """A text without what follows the answer in its last line, if an answer stands in the sentence before it."""
    line = text.rfind("\n", 0, len(text.rstrip())) + 1
    start = max(line, len(text) - LONGEST_LINE)
    if not any(text.find(word, start) >= 0 for word in _WORDS):
        return text
    for ending in _ENDINGS:
        found = ending.search(text, start)
        if found is not None and answer.search(re.split(r"[.!?]\s", text[line : found.start()])[-1]):
            return text[: found.start()]
    return text
