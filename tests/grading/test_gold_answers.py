"""Both judges on the gold answers of all benchmarks: correct for their own item in any form, wrong for other items."""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from lightreasoner.config.sections import BenchmarkName, JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, load_benchmark
from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.numbers import parse_quantity
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import Case, Judgement
from lightreasoner.runs.records import Problem

NAMES: tuple[BenchmarkName, ...] = (
    "gsm8k",
    "svamp",
    "asdiv",
    "math500",
    "minerva_math",
    "olympiadbench",
    "mmlu_stem",
)

# Items whose gold answer in a box is not correct, and why.
NOT_ITSELF: dict[JudgeName, dict[str, str]] = {
    "math-verify": {},
    "toolkit": {
        "00383-30257ce512a9dbe4": "only the answer loses x in front of [-2,7], because it is normalised twice",
        "01313-1ce7ecb095427a69": "the gold answer loses its brackets with what is in them: -(1/3) is -",
        "00139-80741f2538bae12f": "only the answer loses a subscript in text, because it is normalised twice",
    },
}
# Items for which the next item's gold answer is correct, and why. Each is a wrong answer accepted, so keep it short.
SAME_AS_NEXT: dict[JudgeName, dict[str, str]] = {
    "math-verify": {"00022-8e69fc01349a975d": "5 and x=5 are the same value"},
    "toolkit": {
        "00022-8e69fc01349a975d": "5 and x=5 are the same value",
        "00097-ecdad8d7b2a1a133": "east is a unit word, so the gold answer is empty",
        "00016-db0da0b056bc0226": "a formula ends at a comma: f(n)=n, f(n)=1 is f(n)=n",
        "00301-a8a1e1598097e142": "a formula ends at a comma: -1,-9 is -1",
        "00385-7aca100db80fefb9": "a formula ends at a comma: 1/3,1,9 is 1/3",
    },
}
EVERY = (10, pytest.param(1, marks=pytest.mark.slow))  # which items: all of them take minutes
Form = Callable[[str, Fraction], str | None]


@pytest.fixture(scope="module", params=["math-verify", "toolkit"], name="judge")
def judge_name(request: pytest.FixtureRequest) -> JudgeName:
    return request.param


@pytest.fixture(scope="module")
def pool(judge: JudgeName) -> Iterator[GradingPool]:
    with GradingPool(judge, workers=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def main_pool() -> Iterator[GradingPool]:
    with GradingPool(workers=2) as pool:
        yield pool


def judged(pool: GradingPool, cases: list[Case]) -> list[Judgement]:
    """The judgement of each case; equal ones, such as the same number for many items, are judged once."""
    each = dict.fromkeys(cases)
    found = dict(zip(each, pool.judge(each), strict=True))
    return [found[case] for case in cases]


def gold_of(problem: Problem) -> str:
    assert problem.answer is not None
    return problem.answer


def case_of(name: BenchmarkName, text: str, gold: str) -> Case:
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, Benchmark)
    return Case(text, gold, benchmark.kind, name)


def boxed(answer: str) -> str:
    return f"So the answer is \\boxed{{{answer}}}."


def equal_to_the_toolkit(answer: str, gold: str) -> bool:
    """Whether the toolkit takes two numbers as equal: up to a factor of 100, with a tolerance of 1e-4."""
    left, right = parse_quantity(answer), parse_quantity(gold)
    if left is None or right is None:
        return False
    return any(abs(left - target) <= abs(target) / 10_000 for target in (right, right / 100, right * 100))


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", NAMES)
def test_a_gold_answer_in_a_box_is_correct(
    name: BenchmarkName, every: int, judge: JudgeName, pool: GradingPool, data_dir: Path
) -> None:
    problems = load_benchmark(name, limit=None, data_dir=data_dir)[::every]
    found = judged(pool, [case_of(name, boxed(gold_of(problem)), gold_of(problem)) for problem in problems])
    not_correct = [problem.id for problem, one in zip(problems, found, strict=True) if one.verdict != "correct"]
    assert set(not_correct) <= set(NOT_ITSELF[judge])
    if judge == "math-verify":  # what the toolkit itself calls wrong is listed above, item by item
        assert len(not_correct) <= len(problems) / 1000


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("name", NAMES)
def test_the_gold_answer_of_another_item_is_not_correct(
    name: BenchmarkName, every: int, judge: JudgeName, pool: GradingPool, data_dir: Path
) -> None:
    """No item accepts the different gold answer of the next item, known exceptions aside."""
    problems = load_benchmark(name, limit=None, data_dir=data_dir)
    pairs = [
        (problem, gold_of(following))
        for problem, following in zip(problems, problems[1:] + problems[:1], strict=True)
        if gold_of(problem) != gold_of(following)
    ][::every]
    assert len(pairs) >= 200 / every
    found = judged(pool, [case_of(name, boxed(other), gold_of(problem)) for problem, other in pairs])
    wrongly_accepted = [
        problem.id
        for (problem, other), one in zip(pairs, found, strict=True)
        if one.verdict == "correct"
        and problem.id not in SAME_AS_NEXT[judge]
        and not (judge == "toolkit" and equal_to_the_toolkit(other, gold_of(problem)))
    ]
    assert wrongly_accepted == []


# --- Other forms, for the main judge ---


def is_decimal(number: Fraction) -> bool:
    """Whether a number has finitely many decimals."""
    return 10**30 % number.denominator == 0


def decimal(number: Fraction) -> str:
    """All decimals of a number."""
    digits = str(abs(number.numerator) * 10**30 // number.denominator).rjust(31, "0")
    return f"{'-' if number < 0 else ''}{digits[:-30]}.{digits[-30:]}".rstrip("0")


PROSE: dict[str, Callable[[str], str]] = {
    "a sentence": lambda gold: f"We add these up.\nThe answer is {gold}.",
    "a sentence in bold": lambda gold: f"**The answer is {gold}.**",
    "a formula": lambda gold: f"Therefore the answer is ${gold}$.",
}
NUMBERS: dict[str, Callable[[str, Fraction], str]] = {
    "a unit in the box": lambda gold, number: f"\\boxed{{{gold}\\text{{ apples}}}}",
    "a unit in a sentence": lambda gold, number: f"The answer is {gold} apples.",
    "a decimal": lambda gold, number: boxed(decimal(number)),
    "a fraction": lambda gold, number: boxed(f"\\frac{{{3 * number.numerator}}}{{{3 * number.denominator}}}"),
    "a percentage": lambda gold, number: boxed(f"{decimal(100 * number)}\\%"),
}


def share_correct(pool: GradingPool, cases: list[Case]) -> float:
    return sum(found.verdict == "correct" for found in judged(pool, cases)) / len(cases)


def test_the_helpers_write_decimals_correctly() -> None:
    numbers = [Fraction(5), Fraction(-7, 4), Fraction(1, 1000), Fraction(45, 10) * 10**33]
    assert [decimal(number) for number in numbers] == ["5.", "-1.75", "0.001", f"45{'0' * 32}."]
    assert not is_decimal(Fraction(1, 3))


@pytest.mark.parametrize("form", PROSE)
@pytest.mark.parametrize("name", NAMES)
def test_a_gold_answer_in_prose_is_correct(
    name: BenchmarkName, form: str, main_pool: GradingPool, data_dir: Path
) -> None:
    golds = [gold_of(problem) for problem in load_benchmark(name, limit=None, data_dir=data_dir)]
    letters = "({})" if name == "mmlu_stem" else "{}"
    cases = [case_of(name, PROSE[form](letters.format(gold)), gold) for gold in golds]
    assert share_correct(main_pool, cases) >= 0.995


@pytest.mark.parametrize("name", ["math500", "minerva_math", "olympiadbench"])
def test_a_gold_answer_in_minervas_form_is_correct_word_for_word(
    name: BenchmarkName, main_pool: GradingPool, data_dir: Path
) -> None:
    golds = [gold_of(problem) for problem in load_benchmark(name, limit=None, data_dir=data_dir)]
    form = "Final Answer: The final answer is ${}$. I hope it is correct."
    assert share_correct(main_pool, [case_of(name, form.replace("{}", gold), gold) for gold in golds]) == 1


def test_every_published_solution_of_gsm8k_is_correct(data_dir: Path) -> None:
    # Their calculator notes and their words "the answer is" inside a solution must not hide the line with ####.
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "train.jsonl").read_text().splitlines()]
    wrong = [
        row["answer"]
        for row in rows
        if judge(row["answer"], row["answer"].split("####")[1], "number").verdict != "correct"
    ]
    assert len(rows) == 7473
    assert wrong == []


@pytest.mark.parametrize("form", NUMBERS)
@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_gold_number_in_another_form_is_correct(
    name: BenchmarkName, form: str, main_pool: GradingPool, data_dir: Path
) -> None:
    golds = [gold_of(problem) for problem in load_benchmark(name, limit=None, data_dir=data_dir)]
    numbers = [(gold, number) for gold in golds if (number := parse_quantity(gold)) is not None and is_decimal(number)]
    if form == "a percentage":
        numbers = [(gold, number) for gold, number in numbers if "%" not in gold]
    assert len(numbers) >= 150
    cases = [case_of(name, NUMBERS[form](gold, number), gold) for gold, number in numbers]
    assert share_correct(main_pool, cases) >= 0.99
