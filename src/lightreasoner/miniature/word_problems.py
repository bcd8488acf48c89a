"""Arithmetic word problems with exact answers: a story of two to four chained operations.

A problem is a pure function of (split, seed, index). The hash of its chain of calculations decides its split, so the
two splits never share a chain, whatever the seeds. A test problem therefore has new numbers, not only new names.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]

TEST_SHARE = 0.1  # of all possible chains
DISTRACTOR_SHARE = 0.25  # of problems with an irrelevant number
LARGEST_VALUE = 199

NAMES = (
    "Ada Ben Carla Dan Ella Finn Grace Hugo Iris Jack Kira Leo Maya Noah Olga Paul Quinn Rosa Sam Tina "
    "Uma Victor Wendy Xavier Yara Zoe Amir Bella Chen Dora Emil Fatima Goran Hana Ivan Julia Kofi Lena "
    "Marco Nina Omar Priya Ravi Sofia Tom Vera Will Yuki"
).split()


@dataclass(frozen=True)
class Theme:
    """A kind of story: its nouns, and phrases for each operation."""

    nouns: tuple[str, ...]
    openings: tuple[str, ...]
    add: tuple[str, ...]
    subtract: tuple[str, ...]
    multiply: tuple[str, ...]
    divide: tuple[str, ...]
    questions: tuple[str, ...]


THEMES: dict[str, Theme] = {
    "collection": Theme(
        ("stamps", "coins", "shells", "stickers", "cards", "marbles"),
        ("{name} has {n} {noun}.", "{name} owns {n} {noun}.", "There are {n} {noun} in the box of {name}."),
        ("{name} gets {n} more.", "A friend gives {name} {n} {noun}.", "Then {n} {noun} are found."),
        ("{name} loses {n} of them.", "{name} gives {n} {noun} away.", "Then {n} {noun} are sold."),
        ("A lucky swap makes it {n} times as many.", "The collection grows to {n} times its size."),
        (
            "{name} shares them equally among {n} friends and looks at one share.",
            "They are split into {n} equal boxes and {name} keeps one.",
        ),
        ("How many {noun} does {name} have now?", "How many {noun} are left?"),
    ),
    "shop": Theme(
        ("apples", "pears", "loaves", "cakes", "lamps", "mugs"),
        (
            "A shop has {n} {noun}.",
            "The shop of {name} starts the day with {n} {noun}.",
            "{n} {noun} lie on the shelf.",
        ),
        ("A truck brings {n} more.", "{name} puts {n} {noun} on the shelf.", "The shop buys {n} more {noun}."),
        ("{name} sells {n} of them.", "A customer buys {n} {noun}.", "{n} {noun} are spoiled and thrown away."),
        ("The owner orders until there are {n} times as many.", "A delivery makes the stock {n} times as large."),
        ("The stock is divided equally between {n} shops and we look at one.", "Only one of {n} equal parts stays."),
        ("How many {noun} does the shop have?", "How many {noun} are in stock at the end?"),
    ),
    "savings": Theme(
        ("dollars", "euros", "pounds"),
        (
            "{name} has saved {n} {noun}.",
            "In the piggy bank of {name} are {n} {noun}.",
            "{name} starts with {n} {noun}.",
        ),
        ("{name} earns {n} {noun}.", "Grandma adds {n} {noun}.", "A job pays {n} more."),
        ("{name} spends {n} {noun}.", "A book costs {n} {noun}.", "{name} pays {n} for lunch."),
        ("A good deal makes it {n} times as much.", "The money grows to {n} times the amount."),
        (
            "{name} splits it into {n} equal parts and keeps one.",
            "It is shared by {n} people equally and {name} takes one share.",
        ),
        ("How many {noun} does {name} have in the end?", "How much money in {noun} is that?"),
    ),
    "farm": Theme(
        ("hens", "sheep", "goats", "cows", "ducks"),
        ("A farm keeps {n} {noun}.", "{name} counts {n} {noun} on the farm.", "{n} {noun} live with farmer {name}."),
        ("{n} {noun} are born.", "{name} buys {n} more {noun}.", "{n} more come from a neighbour."),
        ("{n} {noun} run away.", "{name} sells {n} {noun}.", "A fox scares off {n} of them."),
        ("After some years there are {n} times as many.", "The herd becomes {n} times as big."),
        (
            "They are put into {n} equal pens and {name} counts one pen.",
            "The herd is divided equally among {n} fields and we see one field.",
        ),
        ("How many {noun} are there?", "How many {noun} does {name} count at last?"),
    ),
    "school": Theme(
        ("pupils", "chairs", "pencils", "books", "tables"),
        (
            "A school has {n} {noun}.",
            "In the room of teacher {name} there are {n} {noun}.",
            "{name} counts {n} {noun} at school.",
        ),
        ("{n} new {noun} arrive.", "The head adds {n} {noun}.", "{name} brings {n} more {noun}."),
        ("{n} {noun} leave the room.", "{name} takes away {n} {noun}.", "{n} of them go to another school."),
        ("The next year there are {n} times as many.", "A new hall needs {n} times that number."),
        (
            "They form {n} equal groups and we count one group.",
            "They are spread evenly over {n} rooms and {name} checks one.",
        ),
        ("How many {noun} are there now?", "How many {noun} does {name} count?"),
    ),
    "trip": Theme(
        ("km", "miles"),
        ("{name} walks {n} {noun}.", "A bus drives {n} {noun}.", "The plan of {name} is a trip of {n} {noun}."),
        ("Then come {n} more {noun}.", "{name} adds a detour of {n} {noun}.", "Another {n} {noun} follow."),
        ("A short cut saves {n} {noun}.", "{name} skips {n} {noun} of it.", "A ferry takes over {n} {noun}."),
        ("The next tour is {n} times as long.", "By bike {name} goes {n} times as far."),
        (
            "It is split over {n} days equally and we ask for one day.",
            "{n} riders share the way equally and {name} does one part.",
        ),
        ("How many {noun} is that?", "How many {noun} does it come to?"),
    ),
    "kitchen": Theme(
        ("eggs", "cookies", "muffins", "plums", "rolls"),
        ("{name} bakes {n} {noun}.", "{n} {noun} are on the table.", "In the kitchen {name} finds {n} {noun}."),
        ("{name} makes {n} more.", "A guest brings {n} {noun}.", "{n} {noun} come out of the oven."),
        ("{name} eats {n} of them.", "The dog steals {n} {noun}.", "{n} {noun} fall on the floor."),
        ("For the party {name} makes {n} times as many.", "The recipe is raised to {n} times the amount."),
        ("{name} packs them into {n} equal bags and opens one.", "{n} guests get equal shares and we look at one."),
        ("How many {noun} are there?", "How many {noun} does {name} see?"),
    ),
    "game": Theme(
        ("points", "gems", "stars", "tokens"),
        ("{name} begins the game with {n} {noun}.", "A team starts at {n} {noun}.", "{name} holds {n} {noun}."),
        ("{name} wins {n} {noun}.", "A bonus gives {n} more.", "{n} {noun} are added."),
        ("{name} drops {n} {noun}.", "A trap takes {n} of them.", "{n} {noun} are lost."),
        ("A magic card makes it {n} times as many.", "The score is multiplied by {n}."),
        ("The team of {n} shares equally and {name} takes one share.", "The score is divided by {n}."),
        ("How many {noun} does {name} have at the end?", "What is the final number of {noun}?"),
    ),
}

DISTRACTORS = (
    "{name} is {n} years old.",
    "It is {n} degrees outside.",
    "The house number is {n}.",
    "{name} woke up at {n}.",
    "Bus {n} goes by.",
)


@dataclass(frozen=True)
class WordProblem:
    """A question with its calculation.

    Attributes:
        theme: key of `THEMES`.
        question: the text of the problem.
        start: the first number of the story.
        steps: the calculations in order, such as `14+9=23`.
        answer: the exact result, 1 … `LARGEST_VALUE`.
    """

    theme: str
    question: str
    start: int
    steps: tuple[str, ...]
    answer: int


def word_problems(split: Split, seed: int) -> Iterator[WordProblem]:
    """Endless problems of one split; no chain of calculations is in both splits.

    Questions may repeat by chance; a caller that needs distinct questions drops repeats.
    """
    rng = random.Random(f"{split}/{seed}")
    while True:
        start, steps = _chain(rng)
        if split_of(start, steps) == split:
            yield _write_problem(rng, start, steps)


def split_of(start: int, steps: tuple["_Step", ...]) -> Split:
    """The split of a chain of calculations, from its hash."""
    digest = hashlib.sha256(f"{start}{steps}".encode()).digest()
    return "test" if digest[0] < TEST_SHARE * 256 else "train"


_Step = tuple[str, int]  # operator and operand


def _chain(rng: random.Random) -> tuple[int, tuple[_Step, ...]]:
    start = value = rng.randint(3, 60)
    steps: list[_Step] = []
    for _ in range(rng.choice((2, 3, 3, 4))):
        operator, operand = rng.choice(_possible_steps(rng, value))
        steps.append((operator, operand))
        value = _apply(value, operator, operand)
    return start, tuple(steps)


def _possible_steps(rng: random.Random, value: int) -> list[_Step]:
    """One candidate for each operation that keeps the value an integer in 1 … LARGEST_VALUE."""
    candidates = [
        ("+", rng.randint(2, 50)),
        ("-", rng.randint(1, 50)),
        ("*", rng.randint(2, 5)),
        ("/", rng.randint(2, 5)),
    ]
    return [
        (operator, operand)
        for operator, operand in candidates
        if (operator != "/" or value % operand == 0) and 1 <= _apply(value, operator, operand) <= LARGEST_VALUE
    ] or [("+", 2)]


def _apply(value: int, operator: str, operand: int) -> int:
    match operator:
        case "+":
            return value + operand
        case "-":
            return value - operand
        case "*":
            return value * operand
        case _:
            return value // operand


def _write_problem(rng: random.Random, start: int, steps: tuple[_Step, ...]) -> WordProblem:
    key = rng.choice(sorted(THEMES))
    theme = THEMES[key]
    name, noun = rng.choice(NAMES), rng.choice(theme.nouns)

    def say(phrases: tuple[str, ...], n: int) -> str:
        return rng.choice(phrases).format(name=name, noun=noun, n=n)

    phrases_of = {"+": theme.add, "-": theme.subtract, "*": theme.multiply, "/": theme.divide}
    sentences = [say(theme.openings, start)]
    worked: list[str] = []
    value = start
    for operator, operand in steps:
        sentences.append(say(phrases_of[operator], operand))
        result = _apply(value, operator, operand)
        worked.append(f"{value}{operator}{operand}={result}")
        value = result
    if rng.random() < DISTRACTOR_SHARE:
        sentences.insert(rng.randint(1, len(sentences)), say(DISTRACTORS, rng.randint(2, 40)))
    sentences.append(say(theme.questions, 0))
    return WordProblem(key, " ".join(sentences), start, tuple(worked), value)
