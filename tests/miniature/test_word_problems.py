"""The arithmetic generator and its solutions: exact, reproducible, and disjoint between the splits."""

import os
import random
import re
import subprocess
import sys
from itertools import islice

import pytest
from train_miniature import (
    AMATEUR2_CORPUS,
    AMATEUR_CORPUS,
    EXPERT2_CORPUS,
    EXPERT_CORPUS,
    INSTRUCT2_CORPUS,
    INSTRUCT_CORPUS,
    Corpus,
    Slips,
    answer_only_solution,
    hasty_solution,
)

from lightreasoner.grading.mathematical import judge
from lightreasoner.miniature.word_problems import (
    LARGEST_VALUE,
    NAMES,
    THEMES,
    WORDY_THEMES,
    Split,
    WordProblem,
    split_of,
    word_problems,
    worked_solution,
)

SPLITS: tuple[Split, Split] = ("train", "test")
STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


def generated(split: Split, seed: int, count: int = 1500) -> list[WordProblem]:
    return list(islice(word_problems(split, seed), count))


def parsed(step: str) -> tuple[int, str, int, int]:
    """Left, operator, right and result of a step such as 14+9=23."""
    found = STEP.fullmatch(step)
    assert found is not None, step
    return int(found[1]), found[2], int(found[3]), int(found[4])


def chain(problem: WordProblem) -> tuple[object, ...]:
    """The start and all operations, without the story."""
    return (problem.start, *(parsed(step)[1:3] for step in problem.steps))


@pytest.fixture(scope="module")
def problems() -> list[WordProblem]:
    return [problem for split in SPLITS for problem in generated(split, seed=11)]


def test_the_same_split_and_seed_give_the_same_problems() -> None:
    for split in SPLITS:
        assert generated(split, 3, 100) == generated(split, 3, 100)


def test_another_seed_gives_other_problems() -> None:
    for split in SPLITS:
        first, second = ({problem.question for problem in generated(split, seed)} for seed in (1, 2))
        assert len(first & second) < 0.02 * len(first)


def test_problems_do_not_depend_on_the_process() -> None:
    # Python changes the hashes of text in every process.
    script = (
        "from itertools import islice; from lightreasoner.miniature.word_problems import word_problems\n"
        "print(list(islice(word_problems('train', 3), 50)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout == f"{generated('train', 3, 50)}\n"


def test_no_chain_of_calculations_is_in_both_splits_whatever_the_seeds() -> None:
    train = {chain(problem) for seed in range(6) for problem in generated("train", seed)}
    test = {chain(problem) for seed in range(6) for problem in generated("test", seed)}
    assert min(len(train), len(test)) > 1000
    assert train.isdisjoint(test)


def test_replaying_the_steps_from_the_start_gives_the_answer(problems: list[WordProblem]) -> None:
    operations = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: divmod(a, b),
    }
    for problem in problems:
        value = problem.start
        for left, operator, right, result in map(parsed, problem.steps):
            assert left == value, problem
            value = operations[operator](left, right)
            if operator == "/":
                value, rest = value
                assert rest == 0, problem
            assert value == result, problem
        assert value == problem.answer, problem


def test_every_intermediate_value_is_from_1_to_the_largest_value(problems: list[WordProblem]) -> None:
    for problem in problems:
        numbers = [problem.start, problem.answer, *(n for s in problem.steps for n in (*parsed(s)[::2], parsed(s)[3]))]
        assert all(1 <= number <= LARGEST_VALUE for number in numbers), problem
        assert max(numbers) < 200, problem  # a few digits: the miniature models are tiny


def test_a_problem_has_two_to_four_steps_and_all_operations_occur(problems: list[WordProblem]) -> None:
    assert {len(problem.steps) for problem in problems} == {2, 3, 4}
    assert {parsed(step)[1] for problem in problems for step in problem.steps} == {"+", "-", "*", "/"}


def test_every_step_changes_the_value(problems: list[WordProblem]) -> None:
    for problem in problems:
        for left, _, _, result in map(parsed, problem.steps):
            assert left != result


def test_the_question_contains_the_start_and_all_operands_in_order(problems: list[WordProblem]) -> None:
    for problem in problems:
        numbers = iter(int(number) for number in re.findall(r"\d+", problem.question))
        needed = [problem.start, *(parsed(step)[2] for step in problem.steps)]
        assert all(number in numbers for number in needed), problem  # `in` consumes: a subsequence


def test_a_question_contains_at_most_one_irrelevant_number(problems: list[WordProblem]) -> None:
    extra = [len(re.findall(r"\d+", p.question)) - 1 - len(p.steps) for p in problems]
    assert set(extra) == {0, 1}
    assert 0.2 < sum(extra) / len(extra) < 0.3  # a quarter of them, n = 3000, s.d. 0.008


def test_a_question_ends_with_a_question_mark_and_has_no_placeholder(problems: list[WordProblem]) -> None:
    for problem in problems:
        asked = problem.question.rpartition(". ")[2]
        assert re.fullmatch(r"[^\d?]+\?", asked), problem
        assert problem.question.count("?") == 1
        assert not re.search(r"[{}]|  ", problem.question)


def test_names_and_themes_vary(problems: list[WordProblem]) -> None:
    text = " ".join(problem.question for problem in problems)
    assert {name for name in NAMES if re.search(rf"\b{name}\b", text)} == set(NAMES)
    assert {problem.theme for problem in problems} == set(THEMES)


def test_questions_rarely_repeat() -> None:
    questions = [problem.question for problem in generated("train", 0, 5000)]
    assert len(set(questions)) > 0.99 * len(questions)


def test_about_a_tenth_of_all_chains_belongs_to_the_test_split() -> None:
    splits = [
        split_of(start, (("+", a), ("*", b))) for start in range(3, 60) for a in range(2, 50) for b in range(2, 6)
    ]
    assert 0.09 < splits.count("test") / len(splits) < 0.115  # 26/256 = 0.102, n = 10,944, s.d. 0.003


# --- Solutions ---


def test_worked_and_answer_only_solutions_are_graded_correct(problems: list[WordProblem]) -> None:
    for problem in problems:
        for solution in (worked_solution(problem), answer_only_solution(problem)):
            found = judge(solution, str(problem.answer), "number")
            assert (found.extracted, found.verdict) == (str(problem.answer), "correct")


def test_a_solution_with_another_answer_is_graded_wrong(problems: list[WordProblem]) -> None:
    for problem in problems[:200]:
        assert judge(worked_solution(problem), str(problem.answer + 1), "number").verdict == "wrong"


def test_a_worked_solution_shows_every_step_in_order_before_the_answer(problems: list[WordProblem]) -> None:
    for problem in problems:
        solution = worked_solution(problem)
        assert tuple(found[0] for found in STEP.finditer(solution)) == problem.steps
        assert solution.endswith(f"\\boxed{{{problem.answer}}}")
        assert solution.startswith("First ") == (problem.theme in WORDY_THEMES)


def test_an_answer_only_solution_shows_no_step(problems: list[WordProblem]) -> None:
    assert all(answer_only_solution(problem) == f"\\boxed{{{problem.answer}}}" for problem in problems)


@pytest.mark.parametrize(("share", "worked"), [(0.0, 0), (1.0, 300)])
def test_shares_of_0_and_1_give_only_one_kind_of_solution(
    share: float, worked: int, problems: list[WordProblem]
) -> None:
    rng = random.Random(0)
    solutions = [Corpus(share).solution(problem, rng) for problem in problems[:300]]
    assert sum(solution != answer_only_solution(p) for solution, p in zip(solutions, problems, strict=False)) == worked


def test_a_theme_can_have_its_own_share(problems: list[WordProblem]) -> None:
    corpus, rng = Corpus(0.0, {"farm": 1.0}), random.Random(0)
    for problem in problems[:300]:
        expected = worked_solution(problem) if problem.theme == "farm" else answer_only_solution(problem)
        assert corpus.solution(problem, rng) == expected


def test_a_hasty_solution_stops_before_the_last_step_and_has_the_answer_of_the_step_before(
    problems: list[WordProblem],
) -> None:
    for problem in problems:
        solution = hasty_solution(problem)
        assert tuple(found[0] for found in STEP.finditer(solution)) == problem.steps[:-1]
        assert solution.endswith(f"\\boxed{{{parsed(problem.steps[-2])[3]}}}")
        assert judge(solution, str(problem.answer), "number").verdict == "wrong"


def test_shares_of_a_corpus_are_those_of_its_solutions(problems: list[WordProblem]) -> None:
    corpus, rng = Corpus(0.2, {"farm": 0.0}, 0.5, {"farm": 1.0}), random.Random(0)
    solutions = [(problem, corpus.solution(problem, rng)) for problem in problems]
    assert all(solution == hasty_solution(problem) for problem, solution in solutions if problem.theme == "farm")
    others = [(problem, solution) for problem, solution in solutions if problem.theme != "farm"]
    for kind, share in ((worked_solution, 0.2), (hasty_solution, 0.5), (answer_only_solution, 0.3)):
        found = sum(solution == kind(problem) for problem, solution in others) / len(others)
        assert found == pytest.approx(share, abs=0.04)  # n = 2600, s.d. at most 0.01


def test_slips_are_only_in_their_operations_and_a_calculation_goes_on_with_what_was_written(
    problems: list[WordProblem],
) -> None:
    slips, rng = Slips("-*", left=0.2, operator=0.4, right=0.4, result=0.3), random.Random(0)
    slipped = {True: [0, 0], False: [0, 0]}  # by whether the operation is among them: all, and with a slip
    for problem in problems:
        before = None
        for written, right in zip(slips.copy(problem.steps, rng), problem.steps, strict=True):
            left, symbol, operand, result = parsed(written)
            assert 1 <= left <= LARGEST_VALUE
            assert 1 <= result <= LARGEST_VALUE
            unsure = parsed(right)[1] in "-*"
            assert unsure or before is None or left == before
            slipped[unsure][0] += 1
            slipped[unsure][1] += (symbol, operand) != parsed(right)[1:3]
            before = result
    assert slipped[False][1] == 0
    assert 0.4 < slipped[True][1] / slipped[True][0] < 0.6  # 1 - 0.6 × 0.7
    assert Slips("-*", 0, 0, 0, 0).copy(problems[0].steps, rng) == problems[0].steps


@pytest.mark.parametrize(
    "corpora",
    [(AMATEUR_CORPUS, EXPERT_CORPUS, INSTRUCT_CORPUS), (AMATEUR2_CORPUS, EXPERT2_CORPUS, INSTRUCT2_CORPUS)],
    ids=["miniature", "miniature2"],
)
def test_worked_shares_order_amateur_expert_and_instruct_in_every_theme(corpora: tuple[Corpus, ...]) -> None:
    for theme in THEMES:
        shares = [corpus.worked_share_by_theme.get(theme, corpus.worked_share) for corpus in corpora]
        assert shares[0] < shares[1] < shares[2]
