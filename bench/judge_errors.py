r"""False negatives and false positives of the judges, by the form in which an answer is written.

    python bench/judge_errors.py --data-dir DIR

Each gold answer of the public files is written in each form that can hold it, and so is a wrong value close to it: the
next item's gold answer, one more or less, another digit, the other sign. The labels are true by construction: a decimal
is written only where it is finite, a percentage holds the same value, and a wrong value differs from the gold answer,
its hundredth and its hundredfold.
"""

import argparse
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from lightreasoner.config.sections import BenchmarkName, JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import AnswerKind, Case

SEED = 20_261_126
JUDGES: tuple[JudgeName, ...] = ("math-verify", "toolkit")
NAMES: tuple[BenchmarkName, ...] = (
    "gsm8k",
    "svamp",
    "asdiv",
    "math500",
    "minerva_math",
    "olympiadbench",
    "mmlu_stem",
)


@dataclass(frozen=True)
class Answer:
    """A gold answer, or a wrong one in its place.

    Attributes:
        text: as the benchmark writes it.
        value: of a plain number or fraction; None for formulas, words and letters.
        other: a wrong answer, for the texts that mention one before or behind the answer.
    """

    text: str
    value: Fraction | None
    other: str


class Labelled(NamedTuple):
    """A case with the verdict that it must get."""

    form: str
    right: bool
    case: Case


Form = Callable[[Answer], str | None]  # None where the form cannot hold the answer

# --- Numbers ---

_PLAIN = re.compile(r"(-?)(?:(\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)|\\d?frac\{(\d+)\}\{(\d+)\}|(\d+)/(\d+))")


def value_of(gold: str) -> Fraction | None:
    """The value of a gold answer that is one plain number or fraction."""
    found = _PLAIN.fullmatch(gold)
    if found is None:
        return None
    sign, number, *parts = found.groups()
    top, bottom = (number.replace(",", ""), "1") if number else tuple(part for part in parts if part)
    return (-1 if sign else 1) * Fraction(top) / Fraction(bottom)


def decimal(value: Fraction) -> str | None:
    """All decimals of a number, without a point for a whole one; None if they never end."""
    if 10**30 % value.denominator:
        return None
    digits = str(abs(value.numerator) * 10**30 // value.denominator).rjust(31, "0")
    return ("-" if value < 0 else "") + f"{digits[:-30]}.{digits[-30:]}".rstrip("0").rstrip(".")


def written(value: Fraction) -> str:
    """A number as a benchmark would write it."""
    return decimal(value) or f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def spaced(separator: str) -> Form:
    """Whole numbers from 1000 with a separator between groups of three digits."""

    def form(answer: Answer) -> str | None:
        if answer.value is None or answer.value.denominator > 1 or abs(answer.value) < 1000:
            return None
        return f"{answer.value.numerator:,}".replace(",", separator)

    return form


# --- Forms: how the answer itself is written, and the text around it ---

BOXES = (
    "So the result is $\\boxed{{{0}}}$.",
    "Therefore\n\\[\n\\boxed{{{0}}}\n\\]",
    "\\boxed{{{0}}}",
    "**Final Answer**\n\n\\[ \\boxed{{{0}}} \\]",
    "The value is $\\boxed {{{0}}}$, reached in 3 steps.",
    "The final answer is $\\boxed{{{0}}}$. I was told to write \\boxed{{}}.",
)
SENTENCES = (
    "We add these up.\nThe answer is {0}.",
    "So the answer is **{0}**.",
    "### Answer\n{0}",
    "**Final Answer:** {0}",
    "Step 1: read. Step 2: count.\nAnswer: {0}",
    "Final Answer: The final answer is ${1}$. I hope it is correct.",
    "#### {0}",
    "The correct answer is:\n\n{0}",
    "Therefore, the answer is ${1}$.",
    "The final answer is $\\boldsymbol{{{1}}}$.",
)
ALL = (*BOXES, *SENTENCES)


def around(write: Form, frames: Sequence[str]) -> list[Form]:
    """The answer as `write` writes it, in each frame; formulas get dollar signs in prose."""

    def framed(frame: str) -> Form:
        def form(answer: Answer) -> str | None:
            inside = write(answer)
            if inside is None:
                return None
            formula = answer.value is None and re.search(r"[\\^_=]", inside) and "boxed" not in frame
            return frame.format(f"${inside}$" if formula else inside, inside)

        return form

    return [framed(frame) for frame in frames]


def same(answer: Answer) -> str:
    """As the benchmark writes it."""
    return answer.text


def numeric(write: Callable[[Fraction], str | None]) -> Form:
    """A form for numbers only."""
    return lambda answer: None if answer.value is None else write(answer.value)


def percent(sign: str) -> Form:
    """The same value as a percentage."""

    def write(value: Fraction) -> str | None:
        share = decimal(100 * value)
        return None if share is None else share + sign

    return numeric(write)


def with_unit(template: str) -> Form:
    """A number with a unit or a sign of currency."""
    return numeric(lambda value: template.format(written(value)))


def sum_of(template: str) -> Form:
    """A sentence with two whole numbers and their sum, the answer."""

    def form(answer: Answer) -> str | None:
        if answer.value is None or answer.value.denominator > 1 or answer.value < 3:
            return None
        total = answer.value.numerator
        return template.format(answer.text, total - total // 3, total // 3)

    return form


def after(template: str) -> Form:
    """A sentence with words behind the answer, which mention a wrong one."""

    def form(answer: Answer) -> str | None:
        formula = re.search(r"[\\^_=]", answer.text)
        text, other = (f"${part}$" if formula else part for part in (answer.text, answer.other))
        return template.format(text, other)

    return form


def thinking(frame: Form) -> Form:
    """A wrong answer in the thinking before the answer."""

    def form(answer: Answer) -> str | None:
        text = frame(answer)
        wrong = f"Maybe the answer is {answer.other}. Is it \\boxed{{{answer.other}}}? No, wait."
        return None if text is None else f"<think>\n{wrong}\n</think>\n\n{text}"

    return form


MATHEMATICS: dict[str, list[Form]] = {
    "boxed": around(same, BOXES),
    "prose": around(same, SENTENCES),
    "decimal": around(numeric(decimal), ALL),
    "fraction": [
        form
        for write in (
            numeric(lambda value: f"\\frac{{{3 * value.numerator}}}{{{3 * value.denominator}}}"),
            numeric(lambda value: f"{value.numerator}/{value.denominator}"),
        )
        for form in around(write, ALL)
    ],
    "percent": [form for sign in ("\\%", "%", " percent") for form in around(percent(sign), ALL)],
    "units": [
        form
        for template, frames in (
            ("{0} apples", ALL),
            ("{0}\\text{{ cm}}", BOXES),
            ("{0}\\text{{ cm}}^2", BOXES),
            ("{0}^{{\\circ}}", BOXES),
            ("{0}\\ \\mathrm{{m/s}}", BOXES),
            ("\\${0}", BOXES),
            ("{0} m", ALL),
            ("{0} km/h", SENTENCES[:5]),
            ("{0} square feet", ALL),
            ("\\approx {0}", BOXES),
        )
        for form in around(with_unit(template), frames)
    ],
    "spacing": [
        *(form for mark in (" ", ",", "{,}", "\\,", "\u202f", "\u00a0", ",\\!") for form in around(spaced(mark), ALL)),
        *around(lambda answer: f"\\ {answer.text}\\ ", BOXES),
        *around(lambda answer: f"{{{answer.text}}}", BOXES),
        *around(lambda answer: answer.text.replace("-", "\u2212") if "-" in answer.text else None, ALL),
        *around(lambda answer: answer.text.replace("-", "- ") if answer.text.startswith("-") else None, ALL),
    ],
    "reasons behind": [
        sum_of("The answer is {0}, because {1} + {2} = {0}."),
        sum_of("So the answer is {1} + {2} = {0}."),
        sum_of("The answer is ${0}$, since ${1} + {2} = {0}$."),
        sum_of("The total is $\\boxed{{{0}}}$, because {1} + {2} = {0}."),
        after("#### {0}\nI checked it twice, and the answer is correct."),
        after("The answer is {0}, and not {1}."),
        after("The answer is {0}. A common mistake is {1}."),
        after("The answer is {0}. It follows in 3 steps that this final answer is the right one."),
    ],
    "thinking before": [thinking(form) for form in around(same, ALL)],
}

WORDS: dict[str, list[Form]] = {
    "words": [
        *around(same, (*BOXES, *(frame for frame in SENTENCES if "{1}" not in frame))),
        *around(lambda answer: f"\\text{{{answer.text}}}", BOXES),
        *(thinking(form) for form in around(same, ALL[:8])),
    ]
}

CHOICES: dict[str, list[Form]] = {
    "choices": [
        *around(
            same,
            (
                "The answer is ({0}).",
                "So the correct option is **{0}**.",
                "\\boxed{{\\text{{{0}}}}}",
                "$\\boxed{{{0}}}$",
                "{0}) the second law",
                "**Answer:** {0}",
                "The answer is option {0}.",
                "({0}) follows from the definition.",
                "Final Answer: The final answer is $({0})$. I hope it is correct.",
                "The correct choice is {0}. So the answer is clear.",
            ),
        ),
        lambda answer: f"The answer is ({answer.text}) because ({answer.other}) is wrong.",
        lambda answer: f"<think>\nThe answer is {answer.other}? No.\n</think>\n\n({answer.text})",
        lambda answer: f"({answer.other}) is too small.\n\nThe correct answer is ({answer.text}).",
    ]
}

FORMS = {**MATHEMATICS, **WORDS, **CHOICES}

# --- Wrong answers ---


def wrong_value(value: Fraction, following: Fraction | None, chance: random.Random) -> Fraction:
    """A number close to the right one that differs from it, its hundredth and its hundredfold."""
    digit = chance.choice([10**place for place in range(len(str(abs(value.numerator))))])
    candidates = [value + 1, value - 1, value + Fraction(digit, value.denominator), -value]
    candidates += [following] if following is not None else []
    return chance.choice([other for other in candidates if other not in (value, value / 100, 100 * value)])


def wrong_formula(gold: str, following: str, chance: random.Random) -> str:
    """A formula with another digit; the next item's formula where there is no digit."""
    digits = list(re.finditer(r"\d", gold))
    if not digits:
        return following
    found = chance.choice(digits)
    return f"{gold[: found.start()]}{(int(found[0]) + 1) % 10 or 1}{gold[found.end() :]}"


def _is_words(gold: str) -> bool:
    return re.fullmatch(r"(\\text\{)?[A-Za-z][A-Za-z.' ]{2,}\}?", gold) is not None


def _answers(golds: list[str], kind: AnswerKind, number: int, chance: random.Random) -> tuple[Answer, Answer, str]:
    """The right answer, a wrong one, and which forms they can have."""
    gold = golds[number]
    value = value_of(gold)
    after = golds[number + 1 :] + golds[:number]
    if kind == "choice":
        other = chance.choice([letter for letter in "ABCD" if letter != gold])
        return Answer(gold, None, other), Answer(other, None, gold), "choices"
    if value is not None:
        following = next((found for text in after if (found := value_of(text)) is not None), None)
        wrong = wrong_value(value, following, chance)
        return Answer(gold, value, written(wrong)), Answer(written(wrong), wrong, gold), "mathematics"
    if _is_words(gold):
        folded = gold.casefold()
        other = next(text for text in after if _is_words(text) and text.casefold() not in (folded, f"the {folded}"))
        return Answer(gold, None, other), Answer(other, None, gold), "words"
    formula = next(text for text in after if value_of(text) is None and not _is_words(text) and text != gold)
    other = wrong_formula(gold, formula, chance)
    return Answer(gold, None, other), Answer(other, None, gold), "mathematics"


def labelled(name: BenchmarkName, data_dir: Path, limit: int | None) -> Iterator[Labelled]:
    """The labelled cases of one benchmark: for each gold answer and class one right and one wrong answer.

    Args:
        name: a benchmark.
        data_dir: folder with `NAME/test.jsonl`.
        limit: number of gold answers, drawn with a fixed seed, besides all that are words; None takes all.
    """
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, Benchmark)
    golds = [problem.answer or "" for problem in load_benchmark(name, limit=None, data_dir=data_dir)]
    chance = random.Random(f"{SEED} {name}")
    chosen = set(chance.sample(range(len(golds)), min(limit or len(golds), len(golds))))
    chosen |= {number for number, gold in enumerate(golds) if _is_words(gold)}  # few, so all of them
    for number in sorted(chosen):
        right, wrong, group = _answers(golds, benchmark.kind, number, chance)
        for label, forms in {"mathematics": MATHEMATICS, "words": WORDS, "choices": CHOICES}[group].items():
            texts = [(good, bad) for form in forms if (good := form(right)) and (bad := form(wrong))]
            if texts:
                good, bad = chance.choice(texts)
                yield Labelled(label, True, Case(good, right.text, benchmark.kind, name))
                yield Labelled(label, False, Case(bad, right.text, benchmark.kind, name))


# --- Measuring ---


class Errors(NamedTuple):
    """Cases of one class, and those that got the wrong verdict."""

    right: int
    false_negatives: list[Case]
    wrong: int
    false_positives: list[Case]

    def shares(self) -> tuple[float, float]:
        """Shares of false negatives and false positives."""
        return len(self.false_negatives) / max(self.right, 1), len(self.false_positives) / max(self.wrong, 1)


def measure(cases: Sequence[Labelled], judge: JudgeName, workers: int) -> dict[str, Errors]:
    """Errors of a judge by class, and in total."""
    found: dict[str, dict[bool, list[tuple[Case, bool]]]] = defaultdict(lambda: {True: [], False: []})
    with GradingPool(judge, workers=workers) as pool:
        for one, judgement in zip(cases, pool.judge(one.case for one in cases), strict=True):
            for label in (one.form, "total"):
                found[label][one.right].append((one.case, judgement.verdict == "correct"))
    return {
        label: Errors(
            len(found[label][True]),
            [case for case, correct in found[label][True] if not correct],
            len(found[label][False]),
            [case for case, correct in found[label][False] if correct],
        )
        for label in (*FORMS, "total")
        if label in found
    }


def _row(label: str, by_judge: dict[JudgeName, dict[str, Errors]]) -> str:
    cells = [label, str(next(iter(by_judge.values()))[label].right)]
    for errors in by_judge.values():
        cells += [f"{100 * share:.1f}" for share in errors[label].shares()]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with NAME/test.jsonl")
    parser.add_argument("--per-benchmark", type=int, default=200, help="gold answers of each benchmark")
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=JUDGES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="print so many errors of each class")
    options = parser.parse_args()

    cases = [one for name in NAMES for one in labelled(name, options.data_dir, options.per_benchmark)]
    by_judge = {judge: measure(cases, judge, options.workers) for judge in options.judges}
    print("| form | n of each | " + " | ".join(f"{judge} FN % | {judge} FP %" for judge in by_judge) + " |")
    print("|---|--:|" + "--:|--:|" * len(by_judge))
    for label in next(iter(by_judge.values())):
        print(_row(label, by_judge))
    for judge, errors in by_judge.items():
        for label in errors.keys() - {"total"}:
            shown: list[Any] = [("FN", case) for case in errors[label].false_negatives[: options.show]]
            shown += [("FP", case) for case in errors[label].false_positives[: options.show]]
            for sort, case in shown:
                json.dump([judge, label, sort, case.benchmark, case.gold, case.text], sys.stdout, ensure_ascii=False)
                print()


if __name__ == "__main__":
    main()
