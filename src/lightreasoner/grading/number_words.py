"""Numbers in English words: "twelve", "two hundred and five", "minus forty-two", "two and a half", "two thirds"."""

from fractions import Fraction

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL_NUMBERS = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * tens for tens, word in enumerate(_TENS, start=2)
}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MINUS = ("minus", "negative")
_PARTS = "third fourth fifth sixth seventh eighth ninth tenth".split()
PARTS = {f"{word}s": value for value, word in enumerate(_PARTS, start=3)}
PARTS |= {"halves": 2, "hundredths": 100, "thousandths": 1000}
PART = {"half": 2, "quarter": 4} | {word.removesuffix("s"): value for word, value in PARTS.items() if value > 2}
MOST_WORDS = 20


def leading_number(words: list[str]) -> tuple[int, int] | None:
    """The number that a list of words begins with, and how many words it takes; None if it begins with none.

    "a" and "one" stand for 1 before a scale: "a hundred". Words that make no number together end it: "five six".
    """
    if words[:1] and words[0] in MINUS:
        found = leading_number(words[1:])
        return None if found is None else (-found[0], found[1] + 1)
    total = group = used = 0  # a group is the part that "thousand" multiplies
    for at, word in enumerate(words[:MOST_WORDS]):
        value = SMALL_NUMBERS.get(word)
        if value is not None and (not used or group % 100 == 0 or (group % 100 >= 20 and group % 10 == 0 < value < 10)):
            group += value
        elif word == "hundred" and 0 < group < 100 and group % 10:
            group *= 100
        elif word in SCALES and word != "hundred" and group:
            total, group = total + group * SCALES[word], 0
        elif word == "a" and at == 0 and words[1:2] and words[1] in SCALES:
            group = 1
        elif (
            word == "and" and used and (group % 100 == 0) and words[at + 1 : at + 2] and words[at + 1] in SMALL_NUMBERS
        ):
            continue
        else:
            break
        used = at + 1
    return (total + group, used) if used else None


def leading_quantity(words: list[str]) -> tuple[Fraction, int] | None:
    """Like `leading_number`, with the fraction behind it: "two and a half", "one third", "two thirds"."""
    found = leading_number(words)
    if found is None:
        return None
    whole, used = found
    match words[used:]:
        case ["and", "a" | "one", part, *_] if part in PART:
            return whole + Fraction(1 if whole >= 0 else -1, PART[part]), used + 3
        case [part, *_] if part in PARTS or (part in PART and abs(whole) == 1):
            return Fraction(whole, PARTS.get(part) or PART[part]), used + 1
    return Fraction(whole), used
