"""The generated programs: their answers are Python's, and they are reproducible and disjoint between the splits."""

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest

from lightreasoner.data.benchmarks import BENCHMARKS, items_hash, load_benchmark
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.problems import load_problems
from lightreasoner.data.programs import KINDS, LEVELS, LONGEST, Program, programs
from lightreasoner.errors import DataError
from lightreasoner.grading.mathematical import judge
from lightreasoner.miniature.word_problems import Split

SPLITS: tuple[Split, Split] = ("train", "test")


@pytest.fixture(scope="module")
def drawn() -> list[Program]:
    return [program for split in SPLITS for program in islice(programs(split, seed=5), 900)]


def run(source: str) -> dict[str, Any]:
    """The variables after Python ran the source."""
    variables: dict[str, Any] = {}
    exec(source, variables)
    return variables


def test_every_answer_is_what_python_computes(drawn: list[Program]) -> None:
    for program in drawn:
        assert repr(run(program.source)["result"]) == program.answer, program.source


def test_the_trace_holds_the_last_value_that_python_gives_each_variable(drawn: list[Program]) -> None:
    for program in drawn:
        variables = run(program.source)
        last = dict(step.split(" = ", 1) for step in program.trace)
        assert last["result"] == program.answer
        for name, value in last.items():
            assert repr(variables[name]) == value, program.source


def test_the_solution_is_judged_correct_and_another_value_wrong(drawn: list[Program]) -> None:
    for program, other in pairwise(drawn):
        assert judge(program.solution, program.answer, "literal").verdict == "correct"
        same = program.answer == other.answer
        assert judge(program.solution, other.answer, "literal").verdict == ("correct" if same else "wrong")


def test_the_question_holds_the_source_and_never_the_trace(drawn: list[Program]) -> None:
    for program in drawn:
        assert f"```python\n{program.source}\n```" in program.question
        assert program.source.count("result") == 1


def test_levels_kinds_and_types_of_answers_all_occur(drawn: list[Program]) -> None:
    pairs = Counter((program.level, program.kind) for program in drawn)
    assert set(pairs) == {(level, kind) for level in LEVELS for kind in KINDS}
    assert min(pairs.values()) > 0.6 * len(drawn) / 9
    assert {type(ast.literal_eval(program.answer)) for program in drawn} == {int, str, bool, list}
    assert max(Counter(program.answer for program in drawn).values()) < 0.15 * len(drawn)  # a guess is mostly wrong


def test_a_level_adds_statements(drawn: list[Program]) -> None:
    def holds(pattern: str, level: int) -> set[bool]:
        return {
            re.search(pattern, program.source, re.MULTILINE) is not None for program in drawn if program.level == level
        }

    assert holds(r"^\s*(?:if|for|def) ", 1) == {False}
    assert holds(r"^(?:if|for) ", 2) == {True}
    assert holds(r"^def f", 2) == {False}
    assert holds(r"^def f(?s:.)+^    for (?s:.)+^        if ", 3) == {True}
    steps = [[len(program.trace) for program in drawn if program.level == level] for level in LEVELS]
    means = [sum(counts) / len(counts) for counts in steps]
    assert means == sorted(means)


def test_values_are_small_enough_for_the_head(drawn: list[Program]) -> None:
    for program in drawn:
        for step in program.trace:
            value = ast.literal_eval(step.partition(" = ")[2]) if "range" not in step else 0
            assert abs(value) <= 999 if isinstance(value, int) else len(value) <= LONGEST, step


def test_the_same_split_and_seed_give_the_same_programs_in_every_process() -> None:
    script = (
        "from itertools import islice; from lightreasoner.data.programs import programs\n"
        "print([program.question for program in islice(programs('train', 3), 40)])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    here = [program.question for program in islice(programs("train", 3), 40)]
    assert there.stdout == f"{here}\n"
    assert here != [program.question for program in islice(programs("train", 4), 40)]


def without_names(source: str) -> str:
    """The source with its variables numbered in the order of their appearance."""
    names: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.setdefault(node.id, f"v{len(names)}")
        elif isinstance(node, ast.arg):
            node.arg = names.setdefault(node.arg, f"v{len(names)}")
    return ast.unparse(tree)


def test_no_program_is_in_both_splits_whatever_the_seeds_and_names() -> None:
    train, test = (
        {without_names(program.source) for seed in range(2) for program in islice(programs(split, seed), 350)}
        for split in SPLITS
    )
    assert min(len(train), len(test)) > 650
    assert train.isdisjoint(test)


def test_programs_rarely_repeat() -> None:
    questions = [program.question for program in islice(programs("train", 0), 800)]
    assert len(set(questions)) > 0.98 * len(questions)


# --- As a data set and as a benchmark ---


def test_the_data_set_has_the_train_split_and_the_benchmark_the_test_split() -> None:
    (sampled,) = {problem.question for problem in load_problems("programs", limit=1, seed=3).problems}
    assert sampled == next(programs("train", 3)).question
    items = load_benchmark("programs", limit=30, data_dir=None)
    expected = GENERATORS["programs"].distinct("test", 0, 30)
    assert [(item.question, item.answer) for item in items] == [(one.question, one.answer) for one in expected]


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_is_a_data_set_and_a_benchmark(level: int) -> None:
    name = f"programs_{level}"
    items = load_benchmark(name, limit=20, data_dir=None)
    assert len({item.question for item in items}) == 20
    assert [program.level for program in islice(programs("test", 0, (level,)), 20)] == [level] * 20
    assert load_problems(name, limit=5, seed=1).problems != load_problems("programs", limit=5, seed=1).problems
    assert BENCHMARKS[name].size == 2000


@pytest.mark.parametrize("name", ["programs", "programs_3"])
def test_the_items_of_a_benchmark_are_those_of_its_hash(name: str) -> None:
    assert items_hash(load_benchmark(name, limit=None, data_dir=None)) == BENCHMARKS[name].items_sha256


def test_generated_problems_without_a_number_are_refused() -> None:
    with pytest.raises(DataError, match="programs_2 problems are generated without end; set their number"):
        load_problems("programs_2")
