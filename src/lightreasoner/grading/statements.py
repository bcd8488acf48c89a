r"""Sentences and labels that announce an answer: "The answer is 42, because …", "**Final Answer:** $x+1$".

`stated(text)` finds the last one that says what the answer is. "The answer is correct" and "the answer is in dollars"
say nothing, and a reason behind an answer is not part of it.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice

LONGEST_STATEMENT = 2000  # characters
MOST_KEY_WORDS = 300
MOST_STATEMENTS = 40  # of more announcements the last ones are read

_IS = r"(?:is|are|equals|should be|must be|would be|will be|comes to|comes out to be|turns out to be)\b(?:\s*[:：])?"
_ANNOUNCEMENT = re.compile(
    rf"""\b(?:answer|final\ result|ans)\b(?:[*_]{{1,3}})?(?:[*_\s]{{0,4}}?{_IS}|\s{{0,3}}(?:[:：]|=(?!=)|→|->))
    |\banswers?\b(?:\s{{1,3}}(?:to|in|for|of)\b[^.\n:=?]{{1,60}}?)?\s(?:{_IS})  # the answer to the question is
    |\#{{4}}(?!\#)  # the form of GSM8K's solutions
    |(?:答案|正解|答え|정답)[*_]{{0,3}}(?:是|为|為|は|은|：|:)
    |\b(?:antwort|respuesta|réponse|risposta|resposta|ответ)\b(?:\s\w+)?[*_]{{0,3}}
        (?:\s(?:ist|lautet|es|est|è|é)\b[:：]?|\s{{0,3}}[:：])""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
CHOICE_ANNOUNCEMENT = re.compile(
    rf"{_ANNOUNCEMENT.pattern}|\b(?:option|choice)\b\s{{1,3}}(?:{_IS})",
    _ANNOUNCEMENT.flags,
)
_HEADING = re.compile(r"[#>*_ \t]{0,12}(?:(?:the|my|final|correct) ){0,3}answers?[*_: \t]{0,6}\n", re.IGNORECASE)
# Parts of the words that announcements begin with, and how many letters stand before them.
_KEYS = {"nswer": 1, "NSWER": 1, "inal result": 1, "inal Result": 1, "ns:": 1, "ns =": 1, "NS:": 1}
_KEYS |= {"####": 0, "答案": 0, "option": 0, "choice": 0, "hoice:": 1}
_OTHER_KEYS = {"ntwort": 1, "espuesta": 1, "éponse": 1, "sposta": 2, "твет": 1, "正解": 0, "答え": 0, "정답": 0}

# "If the answer is 5, …" announces nothing.
_HYPOTHESIS = re.compile(
    r"\b(?:if|whether|when|suppose|supposing|assume|assuming|unless|maybe|perhaps)\s+(?:that\s+)?"
    r"(?:(?:the|my|your|our|his|her|its)\s+)?(?:(?:final|correct|right)\s+)*\Z"
    r"|\b(?:wrong|incorrect|mistaken|false|first|initial|original|previous|naive)\s+\Z"
    r"|(?:\btempting\sto|(?<!\bI\s)(?<!\bwe\s)\b(?:might|may|could|would)|\b(?:people|students|some|many))\s+(?:\w+\s+)?"
    r"(?:say|think|believe|guess|assume|conclude|expect)\s+(?:that\s+)?(?:the|this|its)\s+(?:\w+\s+)?\Z",
    re.IGNORECASE,
)

_MARKUP = " \t\r\n:：*_#>`"
_BULLET = re.compile(r"[-•]\s+(?=\S)")
_FILLER = re.compile(
    r"(?:(?:->|=>|→|⇒|=)\s*|(?:approximately|about|simply|just|exactly|indeed|therefore|thus|then|now|clearly|obviously|actually|really"
    r"|probably|likely|definitely|equal to|given by|expressed as|written as|found to be|option|choice|letter)\b[\s,:]*"
    r"|(?:also|again)\s+(?=[\d$\\]))+",
    re.IGNORECASE,
)
_NOT_BUT = re.compile(r"not\s[^.\n]{1,60}?\bbut(?:\s+rather)?\s+", re.IGNORECASE)

# Words that say nothing about the value, where an answer would begin.
_ANNOUNCES_NOTHING = re.compile(
    r"""(?:not|neither)\b
    |(?:in|rounded|correct|accurate|given|expressed|measured|to)\s+(?:to\s+)?(?:the\s+)?(?:\w+\s+){0,2}
        (?:decimal|significant|places|digits|nearest|units?)\b
    |(?:correct|right|wrong|incorrect|clear|obvious|evident|known|unknown|verified|confirmed|consistent|reasonable
        |plausible|complete|done|simple|straightforward|unique|valid|checked|sensible|justified|sound)\b(?!\s*[:：])
    |(?:found|given|shown|stated|written|presented|provided|boxed|here|there|as\ (?:follows|shown|stated|given)|above
        |below|following|based|obtained|computed|calculated|derived|in|inside|within|what|that\ we|supposed|required
        |asked|of\ course|the\ (?:following|same|one|(?:right|correct|only|best)\ one))\b
        (?![^.\n]{0,80}\d|\s*[$]|\s*\\[(\[])""",
    re.IGNORECASE | re.VERBOSE,
)
_NOUN = re.compile(r"(?:the|an?)\s(?:[A-Za-z]+\s){1,3}(?=\$|\\\()", re.IGNORECASE)  # the point $(1,2)$
_ENDS = re.compile(r"[.!*_\s]*(?:\n|\Z)")
_NEXT_LINE = re.compile(r"[^\n]{0,200}:[*_ \t]*\n+(?=\s*\S)")

FORMULA = re.compile(
    r"\$\$(?P<display>(?:[^$\\]|\\.)+)\$\$|\\\[(?P<bracket>.+?)\\\]|\\\((?P<paren>.+?)\\\)"
    r"|(?P<rows>\\begin\{(?P<name>(?:align|equation|gather)\*?)\}.+?\\end\{(?P=name)\})"
    r"|(?<![\\$])\$(?P<inline>(?!\s*\$)(?:[^$\\\n]|\\[^\n])+)\$(?![\d$])",
    re.DOTALL,
)
_ANOTHER = re.compile(r"\s*(?:,?\s*\b(?:and|or)\b|[,;])\s*(?=\$|\\\()", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*(?:[=+*/:^<>≈·×-](?!\s*[A-Za-z]{2})|\\(?:approx|times|cdot))")
_SCALED = re.compile(r"\s*(?:\\?%|percent\b|(?:hundred|thousand|million|billion|trillion)\b)")

_STOP = re.compile(r"(?<!\\)[.!?。](?=[\s*\"')]|$)")
# Full stops that end no sentence: after the first, and after the second where a number or a small letter follows.
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Prof|Mt|Jr|vs|i\.e|e\.g|[ap]\.m)\Z", re.IGNORECASE)
_SHORTENED = re.compile(r"\b(?:Rs|nos?|approx|ca?|U\.S|est|sq|cu|fig|eq|max|min)\Z", re.IGNORECASE)
_GOES_ON_AFTER_STOP = re.compile(r"\.\s*[\d$£€\\a-z-]")
# Markdown's bold marks, but not double asterisks for a power: "x**2", "(x+1)**2".
_BOLD = re.compile(r"(?<![\w)}])\*\*(?=\S)|(?<=\S)\*\*(?![0-9A-Za-z_({\\])")

_PICTURES = re.compile("[\u2600-\u27bf\u2b50\ufe0f\U0001f300-\U0001faff]")  # ticks and emoji

# Reasons and remarks, behind any answer and behind a quantity.
_REASON = re.compile(
    r"""[,\s]\s*\(?(?:because|since|whereas|hence|thus|therefore|rather\ than|instead\ of|namely
        |given\ that|due\ to|as\ (?:shown|we|it|there|stated|required|expected|desired)|and\ not)\b
    |,\s*(?:not|but|which|so|where)\b|[,\s]\s*\(?i\.e\.|;\s|\s[-–—]{1,2}\s(?=[^\W\d_]{3})|—(?=[^\W\d_]{3})""",
    re.IGNORECASE | re.VERBOSE,
)
_REMARK = re.compile(
    r"""\s+(?:for|from|with|when|where|which|if|after|before|at|on|in|out|of|than|per|each|every|that|using|making|so
        |not|but|as|left|remaining|altogether|together|is|are|was|were|will|by\ \w+ing)\b(?=\s*\S)
    |\s+to\s+(?=[^\W\d_])|,\s+(?!and\b|or\b)(?=[^\W\d_]{2})
    |\s\((?=[^)]*(?:(?<![\\A-Za-z])[A-Za-z]{3}|=|\d\s*[×*+/−–-]\s*[$£€]?\d))""",
    re.IGNORECASE | re.VERBOSE,
)
_YES_NO = re.compile(r"(?:yes|no|true|false)(?=\s*,)", re.IGNORECASE)
_EQUATION_IN_BRACKETS = re.compile(r"(?<=[\w%)°$}])\s\([^()=]*=[^()]*\)(?=[\s*]*\Z)")  # 42 (= 6 × 7)
_PRECISION = re.compile(
    r"(?<=[\d$)}]),?\s+(?:(?:rounded|correct|accurate)\s)?to\s(?:\d|one|two|three|four)\s(?:significant|decimal|sig\.?)\b.*"
)
_AMOUNT_FOLLOWS = r"(?:(?:about|approximately|roughly)\s)?(?=-?\\?[$£€]?\d)"
# "2.5, which rounds to 3" gives 3, and "6 times 7, which is 42" gives 42.
_ROUNDED = re.compile(
    r"(?<=\d)[^\d.;]{0,40}\bround(?:s|ed|ing)?(?:\s(?:it|this|that))?(?:\s(?:up|down|off))?\sto\s"
    rf"(?:the\snearest\s(?:\w+\s){{0,3}}?\w+,?\s(?:which\s)?(?:is|gives|equals|makes|becomes)\s)?{_AMOUNT_FOLLOWS}"
    r"(?!\d+\s(?:decimal|significant|places|digits|d\.?p))",
    re.IGNORECASE,
)
_RESULT = re.compile(
    r"\b(?:plus|minus|times|divided|multiplied|sum|product|difference|quotient|half|twice|double|adding|subtracting"
    r"|multiplying|dividing)\b(?:[^.;=]|\.(?=\d))*?,?\s(?:which\s(?:is|equals|gives|makes|comes\sto)|that\sis,?|equals"
    rf"|giving(?:\sus)?)\s(?:a\stotal\sof\s|equal\sto\s)?{_AMOUNT_FOLLOWS}",
    re.IGNORECASE,
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{3,}")


def stated(text: str, holds_answer: Callable[[str], bool], announcement: re.Pattern[str] = _ANNOUNCEMENT) -> str | None:
    """The answer in the last sentence or label that announces one; None if there is none.

    Args:
        text: a response without its thinking.
        holds_answer: whether a text can be an answer of the kind that is looked for.
        announcement: the words before an answer.
    """
    text = _without_cut_off_repetition(text, announcement)
    for match in islice(_announcements(text, announcement), MOST_STATEMENTS):
        if _HYPOTHESIS.search(text, max(0, match.start() - 60), match.start()):
            continue
        rest = text[match.end() : match.end() + LONGEST_STATEMENT]
        for answer in _answers(rest):
            if holds_answer(answer) and not _is_title(text, match, answer, rest):
                return answer
    return None


def _without_cut_off_repetition(text: str, announcement: re.Pattern[str]) -> str:
    """A text without its last announcement, if that repeats the one before and ends within it: "… is 1234. … is 12"."""
    starts = [match.start() for match in islice(_announcements(text, announcement), 2)]
    if len(starts) < 2:
        return text
    last, before = text[starts[0] :].rstrip(), text[starts[1] : starts[0]]
    is_part = before.startswith(last) and before[len(last) : len(last) + 1].isalnum()
    return text[: starts[0]] if is_part else text


def _announcements(text: str, announcement: re.Pattern[str]) -> Iterator[re.Match[str]]:
    """The announcements from the last to the first: the patterns are tried only at key words, which is faster."""
    keys = _KEYS if " the " in text else _KEYS | _OTHER_KEYS  # other languages
    last = {word: text.rfind(word) for word in keys}
    for _ in range(MOST_KEY_WORDS):
        word = max(last, key=last.__getitem__)
        place = last[word]
        if place < 0:
            return
        line = text.rfind("\n", 0, place) + 1
        found = announcement.match(text, max(0, place - keys[word])) or _HEADING.match(text, line)
        if found and (found[0] != "####" or found.start() == line):
            yield found
        last |= {word: text.rfind(word, 0, place) for word, position in last.items() if position >= place}


def without_reason(text: str) -> str:
    """An answer in prose without the reason or remark behind it, and without the calculation before its result."""
    text = _PRECISION.sub("", _EQUATION_IN_BRACKETS.sub("", text))
    for before_result in (_ROUNDED, _RESULT):
        if found := before_result.search(text):
            text = text[found.end() :]
    reason = _REASON.search(text)
    if reason and reason.start():
        text = text[: reason.start()]
    if yes_no := _YES_NO.match(text):
        return yes_no[0]
    left, equals, right = text.rpartition("=")
    before = left + equals if not (_PROSE.search(left) and re.search(r"\d", left)) else ""
    side = right if before else text
    digit = re.search(r"\d", side)
    remark = _REMARK.search(side, digit.end()) if digit else None
    return before + (side[: remark.start()] if remark else side)


def _answers(rest: str) -> Iterator[str]:
    """What an announcement may announce: the text behind it, or the next line after "as follows:"."""
    yield from _answer_at(rest)
    if (line := _NEXT_LINE.match(rest.lstrip(_MARKUP))) is not None:
        yield from _answer_at(rest.lstrip(_MARKUP)[line.end() :])


def _answer_at(rest: str) -> Iterator[str]:
    bare = rest.lstrip(_MARKUP)
    if "\n" in rest[: len(rest) - len(bare)]:
        bare = _BULLET.sub("", bare, count=1) if _BULLET.match(bare) else bare
    if filler := _FILLER.match(bare):
        bare = bare[filler.end() :]
    if taken_back := _NOT_BUT.match(bare):
        bare = bare[taken_back.end() :]
    if _ANNOUNCES_NOTHING.match(bare):
        return
    noun = _NOUN.match(bare)
    named = leading_formula(bare[noun.end() :]) if noun else None
    if noun and named and _ENDS.match(bare, noun.end() + len(named)):
        yield named
        return
    answer = leading_formula(bare) or _sentence(bare)
    if answer:
        yield answer


def leading_formula(text: str) -> str | None:
    """The formula that a text begins with, or several with "and", "or" or commas; None if it goes on in prose."""
    found = FORMULA.match(text)
    if found is None or not is_formula(found):
        return None
    end = found.end()
    while (
        (another := _ANOTHER.match(text, end)) and (found := FORMULA.match(text, another.end())) and is_formula(found)
    ):
        end = found.end()
    if _GOES_ON.match(text, end):
        return None
    scale = _SCALED.match(text, end)
    return text[: scale.end() if scale else end]


def is_formula(found: re.Match[str]) -> bool:
    """Whether dollar signs enclose a formula: "$5 and $7" is money."""
    inside = found["inline"]
    return inside is None or (inside[0].isspace() == inside[-1].isspace() and bool(inside.strip()))


def _sentence(text: str) -> str | None:
    """The first sentence of a text without its reasons and marks; None for a question."""
    line = text.partition("\n")[0]
    end = next((stop for stop in _STOP.finditer(line) if not _is_abbreviation(line, stop.start())), None)
    if end is not None and end[0] == "?":
        return None
    sentence = without_reason(line[: end.start()] if end else line)
    return _PICTURES.sub("", _BOLD.sub("", sentence)).strip(" \t*_`") or None


def _is_abbreviation(line: str, stop: int) -> bool:
    """Whether the full stop at a position ends an abbreviation and no sentence."""
    if _ABBREVIATION.search(line, max(0, stop - 6), stop):
        return True
    return _SHORTENED.search(line, max(0, stop - 7), stop) is not None and bool(_GOES_ON_AFTER_STOP.match(line, stop))


_NUMBERED = re.compile(r"\s*\d+[.)]\s+[A-Z]")


def _is_title(text: str, announcement: re.Match[str], answer: str, rest: str) -> bool:
    """Whether the announcement is a title: "Answer: Tom has 6 boxes." or "#### Step 2", with more lines behind it."""
    digit = re.search(r"\d", answer)
    before_digit = answer[: digit.start()] if digit else answer
    if answer[0] in "$\\":
        return False
    more = bool(rest.strip(_MARKUP).partition("\n")[2].strip())
    if announcement[0] == "####":
        return more and (_PROSE.search(before_digit) is not None or _NUMBERED.match(rest) is not None)
    labels = announcement[0].rstrip().endswith((":", "："))
    starts = not text[: announcement.start()].strip(_MARKUP)
    return labels and starts and more and digit is not None and _PROSE.search(before_digit) is not None
