"""Short Python programs whose result is to be predicted, with exact answers, in three levels.

CRUXEval (arXiv 2401.03065) asks for the output of functions that a model wrote and that were run. Here each expression
is built together with the function that computes it, so neither a program nor an answer is ever run as source. The
tests compare the answers with Python's own.

A problem is a pure function of (split, seed, index). The hash of the program, without its names, decides its split, so
the two splits never share a program, whatever the seeds.

Levels: 1 has two or three assignments; 2 has a branch or a loop before the last assignment; 3 has a function with a
branch in a loop, and two assignments behind its call.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from lightreasoner.miniature.word_problems import Split, split_by_hash

LEVELS = (1, 2, 3)
KINDS = ("lists", "numbers", "strings")  # what a program begins with
LARGEST_NUMBER = 999
LONGEST = 12  # entries of a list, or characters of a string

_WORDS = (
    "apple arrow banana basket bridge button candle carrot castle copper cotton dragon eagle engine feather forest "
    "garden ginger hammer harbor island jacket kettle ladder lemon maple marble needle orange paper pepper planet "
    "pocket rabbit ribbon river rocket saddle silver spider summer sunset tiger timber tomato tunnel velvet violin "
    "walnut winter yellow zebra"
).split()
_NAMES = {
    int: ("a", "b", "count", "k", "n", "number", "size", "step", "total", "x"),
    str: ("code", "label", "line", "name", "s", "tag", "text", "title", "word"),
    list: ("data", "items", "numbers", "queue", "row", "scores", "values"),
    bool: ("check", "done", "flag", "found", "ok"),
}
_VARIABLE = re.compile(r"\bv\d+\b")

Values = dict[str, Any]  # of the variables


class Operation(NamedTuple):
    """An expression of one variable and at most one constant: its text, and the function that computes it."""

    takes: type
    gives: type
    text: str
    compute: Callable[[Any, Any], Any]
    constant: str = "number"  # key of `_CONSTANTS`


class Update(NamedTuple):
    """A new value of an accumulator from its old one and an entry: its text, and the function that computes it."""

    holds: type
    entry: type
    text: str
    compute: Callable[[Any, Any], Any]


_CONSTANTS: Mapping[str, Callable[[random.Random], Any]] = {
    "number": lambda rng: rng.randint(2, 9),
    "index": lambda rng: rng.randint(0, 2),
    "letter": lambda rng: rng.choice("aeioulnrst"),
    "word": lambda rng: rng.choice(("ab", "ing", "no", "ox", "re", "un", "x")),
}
_OPERATIONS = (
    Operation(int, int, "{x} + {c}", lambda x, c: x + c),
    Operation(int, int, "{x} - {c}", lambda x, c: x - c),
    Operation(int, int, "{x} * {c}", lambda x, c: x * c),
    Operation(int, int, "{x} // {c}", lambda x, c: x // c),
    Operation(int, int, "{x} % {c}", lambda x, c: x % c),
    Operation(int, int, "max({x}, {c})", max),
    Operation(int, int, "abs({c} - {x})", lambda x, c: abs(c - x)),
    Operation(int, str, "str({x}) * 2", lambda x, c: str(x) * 2),
    Operation(int, list, "[{x}, {x} + {c}]", lambda x, c: [x, x + c]),
    Operation(int, bool, "{x} > {c}", lambda x, c: x > c),
    Operation(int, bool, "{x} % 2 == 0", lambda x, c: x % 2 == 0),
    Operation(str, str, "{x}.upper()", lambda x, c: x.upper()),
    Operation(str, str, "{x}[::-1]", lambda x, c: x[::-1]),
    Operation(str, str, "{x} + {c}", lambda x, c: x + c, "word"),
    Operation(str, str, "{c} + {x}", lambda x, c: c + x, "word"),
    Operation(str, str, "{x}[{c}:]", lambda x, c: x[c:], "index"),
    Operation(str, str, "{x}[:-1]", lambda x, c: x[:-1]),
    Operation(str, str, "{x}[::2]", lambda x, c: x[::2]),
    Operation(str, str, "{x}.replace({c}, 'o')", lambda x, c: x.replace(c, "o"), "letter"),
    Operation(str, int, "len({x})", lambda x, c: len(x)),
    Operation(str, int, "{x}.count({c})", lambda x, c: x.count(c), "letter"),
    Operation(str, int, "{x}.find({c})", lambda x, c: x.find(c), "letter"),
    Operation(str, list, "sorted({x})", lambda x, c: sorted(x)),
    Operation(str, bool, "{c} in {x}", lambda x, c: c in x, "letter"),
    Operation(str, bool, "{x}.startswith({c})", lambda x, c: x.startswith(c), "letter"),
    Operation(list, list, "{x}[::-1]", lambda x, c: x[::-1]),
    Operation(list, list, "sorted({x})", lambda x, c: sorted(x)),
    Operation(list, list, "{x}[{c}:]", lambda x, c: x[c:], "index"),
    Operation(list, list, "{x} + [{c}]", lambda x, c: [*x, c]),
    Operation(list, list, "[e + {c} for e in {x}]", lambda x, c: [e + c for e in x]),
    Operation(list, list, "[e for e in {x} if e > {c}]", lambda x, c: [e for e in x if e > c]),
    Operation(list, int, "len({x})", lambda x, c: len(x)),
    Operation(list, int, "sum({x})", lambda x, c: sum(x)),
    Operation(list, int, "max({x}) - {c}", lambda x, c: max(x) - c),
    Operation(list, int, "{x}[{c}]", lambda x, c: x[c], "index"),
    Operation(list, int, "{x}.count({c})", lambda x, c: x.count(c)),
    Operation(list, bool, "{c} in {x}", lambda x, c: c in x),
    Operation(bool, bool, "not {x}", lambda x, c: not x),
    Operation(bool, int, "{c} if {x} else -{c}", lambda x, c: c if x else -c),
)
_UPDATES = (
    Update(int, int, "{x} + {e}", lambda x, e: x + e),
    Update(int, int, "{x} - {e}", lambda x, e: x - e),
    Update(int, int, "{x} * 2 + {e}", lambda x, e: x * 2 + e),
    Update(int, int, "max({x}, {e})", max),
    Update(int, int, "{x} + {e} % 3", lambda x, e: x + e % 3),
    Update(list, int, "{x} + [{e}]", lambda x, e: [*x, e]),
    Update(list, int, "[{e}] + {x}", lambda x, e: [e, *x]),
    Update(list, int, "{x} + [{e} * 2]", lambda x, e: [*x, e * 2]),
    Update(list, int, "{x} + [{e} - len({x})]", lambda x, e: [*x, e - len(x)]),
    Update(str, str, "{x} + {e}", lambda x, e: x + e),
    Update(str, str, "{e} + {x}", lambda x, e: e + x),
    Update(str, str, "{x} + {e}.upper()", lambda x, e: x + e.upper()),
    Update(str, str, "{x} + {e} * 2", lambda x, e: x + e * 2),
    Update(int, str, "{x} + ({e} in 'aeiou')", lambda x, e: x + (e in "aeiou")),
    Update(int, str, "{x} * 2 + ({e} > 'm')", lambda x, e: x * 2 + (e > "m")),
)
_CONDITIONS = (
    Operation(int, bool, "{x} % 2 == 0", lambda x, c: x % 2 == 0),
    Operation(int, bool, "{x} > {c}", lambda x, c: x > c),
    Operation(int, bool, "{x} % 3 != 1", lambda x, c: x % 3 != 1),
    Operation(str, bool, "{x} in 'aeiou'", lambda x, c: x in "aeiou"),
    Operation(str, bool, "{x} > {c}", lambda x, c: x > c, "letter"),
    Operation(list, bool, "len({x}) > {c}", lambda x, c: len(x) > c, "index"),
    Operation(list, bool, "{x}[0] > {c}", lambda x, c: x[0] > c),
)


@dataclass(frozen=True)
class Program:
    """A program that ends with a value of `result`.

    Attributes:
        level: 1 … 3.
        kind: what it begins with, one of `KINDS`.
        source: its text.
        answer: the value of `result`, as a Python literal.
        trace: every assignment with its value, in order of execution.
    """

    level: int
    kind: str
    source: str
    answer: str
    trace: tuple[str, ...]

    @property
    def question(self) -> str:
        """The text of the problem."""
        return (
            f"What is the value of `result` after this Python program?\n\n```python\n{self.source}\n```\n\n"
            "Give it as a Python literal."
        )

    @property
    def solution(self) -> str:
        """The solution that writes every assignment with its value before the answer."""
        return "\n".join(self.trace) + f"\nSo \\boxed{{{self.answer}}}"


class _Unfit(Exception):
    """A value is too large, or cannot be computed; another program is drawn."""


@dataclass
class _Statement:
    """Source lines, and what they do to the variables; `run` yields the names assigned, one by one."""

    lines: list[str]
    run: Callable[[Values], Iterator[str]]


@dataclass
class _Draft:
    """A program under construction; `types` are those of its variables v0, v1, …, the last one the newest."""

    rng: random.Random
    types: list[type] = field(default_factory=list)
    statements: list[_Statement] = field(default_factory=list)

    def new(self, kind: type) -> str:
        self.types.append(kind)
        return f"v{len(self.types) - 1}"

    @property
    def newest(self) -> str:
        return f"v{len(self.types) - 1}"

    def start(self, kind: type, value: Any) -> None:
        """Assign a constant."""
        self.statements.append(_assignment(self.new(kind), repr(value), lambda values: value))

    def operate(self) -> None:
        """Assign an operation on the newest variable."""
        takes, source = self.types[-1], self.newest
        operation = self.rng.choice([one for one in _OPERATIONS if one.takes is takes])
        text, compute = self._expression(operation, source)
        self.statements.append(_assignment(self.new(operation.gives), text, compute))

    def branch(self) -> None:
        """Change the newest variable in one of two ways, by a condition on it."""
        kind, name = self.types[-1], self.newest
        test, holds = self._expression(
            self.rng.choice([one for one in (*_CONDITIONS, *_OPERATIONS) if (one.takes, one.gives) == (kind, bool)]),
            name,
        )
        changes = [one for one in _OPERATIONS if one.takes is one.gives is kind]
        bodies = [[_assignment(name, *self._expression(one, name))] for one in self.rng.sample(changes, 2)]
        self.statements.append(_either(test, holds, *bodies))

    def loop(self, *, with_branch: bool) -> None:
        """Go through the newest variable, a list or a string, and collect its entries in a new variable."""
        source, entry_type = self.newest, str if self.types[-1] is str else int
        update, other = self.rng.choice(
            [(a, b) for a in _UPDATES for b in _UPDATES if a != b and a.entry is b.entry is entry_type and a[0] is b[0]]
        )
        start = {int: self.rng.randint(0, 5), str: "", list: []}[update.holds]
        entry, target = self.new(entry_type), self.new(update.holds)
        body = [_update(target, update, entry)]
        if with_branch:
            condition = self.rng.choice([one for one in _CONDITIONS if one.takes is entry_type])
            body = [_either(*self._expression(condition, entry), body, [_update(target, other, entry)])]
        self.statements.append(_assignment(target, repr(start), lambda values: start))
        self.statements.append(_each(entry, source, body))

    def _expression(self, operation: Operation, name: str) -> tuple[str, Callable[[Values], Any]]:
        constant = _CONSTANTS[operation.constant](self.rng)
        text = operation.text.format(x=name, c=repr(constant))
        return text, lambda values: operation.compute(values[name], constant)


def _assignment(name: str, text: str, compute: Callable[[Values], Any]) -> _Statement:
    def run(values: Values) -> Iterator[str]:
        values[name] = compute(values)
        yield name

    return _Statement([f"{name} = {text}"], run)


def _update(name: str, update: Update, entry: str) -> _Statement:
    text = update.text.format(x=name, e=entry)
    return _assignment(name, text, lambda values: update.compute(values[name], values[entry]))


def _either(
    test: str, holds: Callable[[Values], Any], then: Sequence[_Statement], otherwise: Sequence[_Statement]
) -> _Statement:
    def run(values: Values) -> Iterator[str]:
        for statement in then if holds(values) else otherwise:
            yield from statement.run(values)

    return _Statement([f"if {test}:", *_indented(then), "else:", *_indented(otherwise)], run)


def _each(entry: str, source: str, body: Sequence[_Statement]) -> _Statement:
    def run(values: Values) -> Iterator[str]:
        for value in values[source]:
            values[entry] = value
            for statement in body:
                yield from statement.run(values)

    return _Statement([f"for {entry} in {source}:", *_indented(body)], run)


def _indented(statements: Sequence[_Statement]) -> list[str]:
    return [f"    {line}" for statement in statements for line in statement.lines]


def programs(split: Split, seed: int, levels: Sequence[int] = LEVELS) -> Iterator[Program]:
    """Endless programs of one split, of these levels in equal parts; no program is in both splits.

    Programs may repeat by chance; a caller that needs distinct ones drops repeats.
    """
    rng = random.Random(f"programs/{split}/{seed}/{tuple(levels)}")
    while True:
        level, kind = rng.choice(levels), rng.choice(KINDS)
        drafts = (_program(rng, split, level, kind) for _ in count())
        yield next(program for program in drafts if program is not None)


def _program(rng: random.Random, split: Split, level: int, kind: str) -> Program | None:
    """A random program; None if it belongs to the other split, or its values are unfit."""
    draft = _Draft(rng)
    draft.start(*_first_value(rng, kind, level))
    if level == 1:
        for _ in range(rng.choice((0, 1, 1))):
            draft.operate()
    elif level == 2 and (kind == "numbers" or rng.random() < 0.5):
        draft.branch()
    else:
        draft.loop(with_branch=level == 3)
    for _ in range(1 if level < 3 else 2):
        draft.operate()
    try:
        return _written(draft, split, level, kind)
    except _Unfit:
        return None


def _first_value(rng: random.Random, kind: str, level: int) -> tuple[type, Any]:
    if kind == "strings":
        return str, rng.choice(_WORDS)
    if kind == "numbers" and level < 3:
        return int, rng.randint(3, 40)
    if kind == "numbers":  # a function goes through them
        first, step = rng.randint(1, 6), rng.randint(1, 4)
        return list, range(first, first + step * rng.randint(3, 5), step)
    return list, [rng.randint(0, 9) for _ in range(rng.randint(3, 5))]


def _written(draft: _Draft, split: Split, level: int, kind: str) -> Program | None:
    """The program with names; None if it belongs to the other split."""
    values: Values = {}
    assigned = [(name, _fit(values[name])) for statement in draft.statements for name in _steps(statement, values)]
    if not assigned[-1][1].strip("'[]"):
        return None  # an empty text or list is too easily guessed
    statements = draft.statements
    if level == 3:
        statements = [_function(*statements[1:3]), statements[0], _call(statements[1]), *statements[3:]]
    text = "\n".join(line for statement in statements for line in statement.lines)
    if split_by_hash(text) != split:
        return None
    names = _names(draft)
    source = _VARIABLE.sub(lambda found: names[found[0]], text)
    trace = tuple(f"{names[name]} = {value}" for name, value in assigned)
    return Program(level, kind, source, assigned[-1][1], trace)


def _function(start: _Statement, loop: _Statement) -> _Statement:
    """The lines of a function of the program's first variable with these statements; it runs where it is called."""
    lines = ["def f(v0):", *_indented((start, loop)), f"    return {_target(start)}", ""]
    return _Statement(lines, lambda values: iter(()))


def _call(start: _Statement) -> _Statement:
    return _Statement([f"{_target(start)} = f(v0)"], lambda values: iter(()))


def _target(statement: _Statement) -> str:
    return statement.lines[0].partition(" = ")[0]


def _steps(statement: _Statement, values: Values) -> Iterator[str]:
    try:
        yield from statement.run(values)
    except (IndexError, TypeError, ValueError) as error:  # no such entry, the sum of letters, the largest of nothing
        raise _Unfit from error


def _fit(value: Any) -> str:
    """The value as a literal; raises `_Unfit` if it is too large to be worked out in the head."""
    if isinstance(value, list):
        for entry in value:
            _fit(entry)
    if abs(value) > LARGEST_NUMBER if isinstance(value, int) else len(value) > LONGEST:
        raise _Unfit
    return repr(value)


def _names(draft: _Draft) -> dict[str, str]:
    """A name for each variable that suits its type; the newest is `result`."""
    names: dict[str, str] = {}
    for place, kind in enumerate(draft.types):
        free = [name for name in _NAMES[kind] if name not in names.values()]
        names[f"v{place}"] = draft.rng.choice(free)
    return names | {draft.newest: "result"}
