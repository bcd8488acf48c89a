"""The benchmarks: the item of each row, and the hashes of all items."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from lightreasoner.config.sections import BenchmarkName
from lightreasoner.data.benchmarks import (
    BENCHMARKS,
    PAPER_SET,
    Benchmark,
    ChoiceBenchmark,
    HubSource,
    items_hash,
    load_benchmark,
    load_choices,
)
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.problems import load_problems, read_url
from lightreasoner.errors import DataError, HubUnreachable
from lightreasoner.grading.extraction import extract_choice
from lightreasoner.grading.mathematical import judge
from lightreasoner.grading.numbers import parse_number

# --- Loading ---


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match="no benchmark 'gsm9k' of this kind; there are gsm8k, math, math500, svamp"):
        load_benchmark("gsm9k", limit=None, data_dir=None)


def test_the_arithmetic_benchmark_has_the_same_2000_distinct_questions_in_every_run() -> None:
    items = load_benchmark("arithmetic", limit=None, data_dir=None)
    assert len(items) == len({item.question for item in items}) == 2000
    assert load_benchmark("arithmetic", limit=10, data_dir=None) == items[:10]


def test_no_arithmetic_benchmark_item_is_among_the_training_problems() -> None:
    benchmark_questions = {item.question for item in load_benchmark("arithmetic", limit=None, data_dir=None)}
    for seed in (0, 42):
        assert benchmark_questions.isdisjoint(
            problem.question for problem in load_problems("arithmetic", limit=2000, seed=seed).problems
        )


def benchmark_rows(folder: Path, name: str, rows: list[Any]) -> Path:
    (folder / name).mkdir(exist_ok=True)
    path = folder / name / f"{BENCHMARKS[name].split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_repeated_questions_of_a_benchmark_stay_separate_items(tmp_path: Path) -> None:
    row = {"question": "One?", "answer": "1 + 0 = <<1+0=1>>1\n#### 1"}
    items = load_benchmark("gsm8k", limit=None, data_dir=benchmark_rows(tmp_path, "gsm8k", [row, row]))
    assert [(item.question, item.answer) for item in items] == [("One?", "1")] * 2
    assert len({item.id for item in items}) == 2


def test_the_gsm8k_gold_answer_follows_the_last_hashes(tmp_path: Path) -> None:
    row = {"question": "One?", "answer": "#### is a mark\n#### 1,234"}
    items = load_benchmark("gsm8k", limit=None, data_dir=benchmark_rows(tmp_path, "gsm8k", [row]))
    assert items[0].answer == "1,234"


@pytest.mark.parametrize(("body", "joined"), [("A cat sat", "A cat sat. Why?"), ("A cat sat.", "A cat sat. Why?")])
def test_the_svamp_question_joins_body_and_question_with_one_full_stop(body: str, joined: str, tmp_path: Path) -> None:
    row = {"Body": body, "Question": "Why?", "Answer": 145.0}
    items = load_benchmark("svamp", limit=None, data_dir=benchmark_rows(tmp_path, "svamp", [row]))
    assert (items[0].question, items[0].answer) == (joined, "145")


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("gsm8k", {"question": "One?"}, "answer"),
        ("gsm8k", {"answer": "#### 1"}, "question"),
        ("svamp", {"Body": "A", "Question": "B"}, "Answer"),
        ("svamp", {"Body": "A", "Answer": 1.0}, "Question"),
        ("svamp", {"Question": "A", "Answer": 1.0}, "Body"),
    ],
)
def test_a_benchmark_row_without_a_field_is_refused_with_its_line(
    name: str, row: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"test\.jsonl, line 1: .*{field}"):
        load_benchmark(name, limit=None, data_dir=benchmark_rows(tmp_path, name, [row]))


def test_an_empty_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no items"):
        load_benchmark("gsm8k", limit=None, data_dir=benchmark_rows(tmp_path, "gsm8k", []))


def test_every_benchmark_name_has_an_entry() -> None:
    assert set(BENCHMARKS) == set(get_args(BenchmarkName))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"titel": "GSM8K"}, "titel"),
        ({"name": "gsm9k"}, "name"),
        ({"kind": "letter"}, "kind"),
        ({"demonstrations": [{"question": "1+1?"}]}, "answer"),
        ({"size": None}, "size"),
    ],
)
def test_an_invalid_entry_is_refused(changed: dict[str, Any], message: str) -> None:
    entry = {"name": "gsm8k", "title": "T", "source": None, "size": 1, "question": "question", "gold": "answer"}
    assert Benchmark(**entry).split == "test"
    with pytest.raises(ValidationError, match=message):
        Benchmark(**{**entry, **changed})


def test_an_entry_cannot_name_a_function_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="gsm9k_gold"):
        Benchmark(name="gsm8k", title="T", source=None, size=1, question="question", gold="gsm9k_gold()")


# --- Items of rows ---

ROWS: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("MATH: the last box of the solution", "math", {"problem": "P?", "solution": r"\boxed{1} so \boxed{\frac{1}{2}}"},
     "P?", r"\frac{1}{2}"),
    ("MATH-500: the answer field", "math500", {"problem": "P?", "solution": "s", "answer": r"\pi"}, "P?", r"\pi"),
    ("ASDiv: the unit in brackets is dropped", "asdiv", {"body": "B.", "question": "Q? ", "answer": "9 (apples)"},
     "B. Q?", "9"),
    ("ASDiv: brackets of the answer stay", "asdiv", {"body": "B.", "question": "Q?", "answer": "-(1/3)"},
     "B. Q?", "-(1/3)"),
    ("ASDiv: a hint for yes or no", "asdiv", {"body": "B.", "question": "Q?", "answer": "Yes"},
     "B. Q? (Yes or No)", "Yes"),
    ("Minerva: the box without the unit", "minerva_math", {"problem": "P?", "solution": r"\boxed{4.5e33} \mathrm{erg}"},
     "P?", "4.5e33"),
    ("OlympiadBench: the first final answer without dollars", "olympiadbench",
     {"question": "Q?", "final_answer": ["$(1,8)$"], "context": "ignored"}, "Q?", "(1,8)"),
    ("MMLU-STEM: choices with letters", "mmlu_stem", {"question": "Q?", "choices": ["a", "b", "c", "d"], "answer": 2},
     "Q?\nAnswer Choices: (A) a (B) b (C) c (D) d", "C"),
    ("SVAMP: a decimal", "svamp", {"Body": "B.", "Question": "Q?", "Answer": "2.5"}, "B. Q?", "2.5"),
    ("SVAMP: a large number", "svamp", {"Body": "B.", "Question": "Q?", "Answer": 1e3}, "B. Q?", "1000"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "question", "gold"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_row_becomes_a_question_and_its_gold_answer(
    name: BenchmarkName, row: dict[str, Any], question: str, gold: str, tmp_path: Path
) -> None:
    (item,) = load_benchmark(name, limit=None, data_dir=benchmark_rows(tmp_path, name, [row]))
    assert (item.question, item.answer) == (question, gold)


CHOICE_ROWS: list[tuple[BenchmarkName, dict[str, Any], str, list[str], int]] = [
    (
        "commonsense_qa",
        {"question": " Where? ", "choices": {"label": ["A", "B"], "text": ["here", "there"]}, "answerKey": "B"},
        "Question: Where?\nA. here\nB. there\nAnswer:",
        ["A", "B"],
        1,
    ),
    (
        "arc_challenge",
        {"question": "Why?", "choices": {"label": ["1", "2"], "text": ["so", "not so"]}, "answerKey": "1"},
        "Question: Why?\nAnswer:",
        ["so", "not so"],
        0,
    ),
    (
        "hellaswag",
        {
            "activity_label": "Cooking",
            "ctx_a": "A man [header] peels.",
            "ctx_b": "he",
            "endings": [" stops.", "goes [title] on  ."],
            "label": "1",
        },
        "Cooking: A man peels. He",
        ["stops.", "goes. on ."],
        1,
    ),
]


@pytest.mark.parametrize(("name", "row", "context", "choices", "gold"), CHOICE_ROWS)
def test_a_row_becomes_a_context_and_choices(
    name: BenchmarkName, row: dict[str, Any], context: str, choices: list[str], gold: int, tmp_path: Path
) -> None:
    (item,) = load_choices(name, limit=None, data_dir=benchmark_rows(tmp_path, name, [row]))
    assert (item.context, item.choices, item.gold) == (context, choices, gold)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gsm8k", {"question": "Q?", "answer": "3 + 4 = 7 apples"}, "without #### before its final number"),
        ("gsm8k", {"question": "Q?", "answer": "7"}, "without #### before its final number"),
        ("gsm8k", {"question": "Q?", "answer": "3 + 4 = 7\n####"}, "#### without an answer"),
        ("gsm8k", {"question": "Q?", "answer": "3 + 4 = 7\n#### \t\n"}, "#### without an answer"),
        ("gsm8k", {"question": "Q?", "answer": "#### unknown"}, "the gold answer is 'unknown', not a number"),
        ("gsm8k", {"question": "Q?", "answer": None}, "answer is None, not a text"),
        ("gsm8k", {"question": "Q?", "answer": 7}, "answer is 7, not a text"),
        ("svamp", {"Body": "B.", "Question": "Q?", "Answer": None}, "Answer is None, not a text"),
        ("svamp", {"Body": "B.", "Question": "Q?", "Answer": float("nan")}, "Answer is nan, neither"),
        ("svamp", {"Body": "B.", "Question": "Q?", "Answer": True}, "Answer is True, neither"),
        ("svamp", {"Body": "B.", "Question": "Q?", "Answer": ""}, "Answer is '', not a text"),
        ("svamp", {"Body": "B.", "Question": "Q?", "Answer": [1, 2]}, "Answer has 2 entries"),
        ("asdiv", {"body": "B.", "question": "Q?", "answer": " (apples)"}, "the gold answer is ''"),
        ("math500", {"problem": "P?", "answer": "  "}, "answer is '  ', not a text"),
        ("mmlu_stem", {"question": "Q?", "choices": ["a"], "answer": 1}, "answer is 1, not the index"),
        ("mmlu_stem", {"question": "Q?", "choices": ["a", "b"], "answer": True}, "answer is True, not the index"),
        ("mmlu_stem", {"question": "Q?", "choices": ["a", "b"], "answer": 1.0}, "answer is 1.0, not the index"),
        ("mmlu_stem", {"question": "Q?", "choices": ["a", "b"], "answer": -1}, "answer is -1, not the index"),
        ("mmlu_stem", {"question": "Q?", "choices": list("abcdef"), "answer": 5}, "6 choices, and answers have"),
        ("mmlu_stem", {"question": "Q?", "choices": "ab", "answer": 1}, "choices is 'ab', not a list of texts"),
        ("mmlu_stem", {"question": "Q?", "choices": ["a", None], "answer": 0}, "choices[1] is None, not a text"),
        ("olympiadbench", {"question": "Q?", "final_answer": []}, "final_answer is [], not a list of texts"),
        ("olympiadbench", {"question": "Q?", "final_answer": ["$ $"]}, "the gold answer is ''"),
        ("olympiadbench", {"question": "Q?", "final_answer": [5]}, "final_answer is [5], not a list of texts"),
        ("minerva_math", {"problem": "P?", "solution": "none"}, r"no \boxed answer in the solution"),
        ("minerva_math", {"problem": "P?", "solution": r"\boxed{ }"}, r"\boxed without an answer in it"),
        ("commonsense_qa", {"question": "Q?", "choices": ["a"], "answerKey": "A"}, "not lists of labels and texts"),
        ("commonsense_qa", {"question": "Q?", "choices": {"label": ["A", "B"], "text": ["a"]}, "answerKey": "A"},
         "2 labels of choices, and 1 texts"),
        ("arc_challenge", {"question": "Q?", "choices": {"label": ["A"], "text": ["a"]}, "answerKey": ""},
         "answerKey is '', none of the choices A"),
        ("hellaswag", {"activity_label": "L", "ctx_a": "a", "ctx_b": "b", "endings": ["x"], "label": ""},
         "label is '', not the index of an ending"),
        ("hellaswag", {"activity_label": "L", "ctx_a": "a", "ctx_b": None, "endings": ["x"], "label": "0"},
         "ctx_b is None, not a text"),
        ("hellaswag", {"activity_label": "L", "ctx_a": "a", "ctx_b": "b", "endings": [], "label": "0"},
         "endings is [], not a list of texts"),
        ("arc_challenge", {"question": "Q?", "choices": {"label": ["A"], "text": ["a"]}, "answerKey": "B"},
         "answerKey is 'B', none of the choices A"),
        ("hellaswag", {"activity_label": "L", "ctx_a": "a", "ctx_b": "b", "endings": ["x"], "label": "3"},
         "the right choice is number 3 of 1"),
    ],
)  # fmt: skip
def test_an_invalid_row_is_refused(name: BenchmarkName, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    load = load_benchmark if isinstance(BENCHMARKS[name], Benchmark) else load_choices
    with pytest.raises(DataError) as caught:
        load(name, limit=None, data_dir=benchmark_rows(tmp_path, name, [row]))
    assert message in str(caught.value)
    assert "line 1" in str(caught.value)


# --- The table ---


def test_every_source_is_pinned() -> None:
    for benchmark in BENCHMARKS.values():
        if isinstance(benchmark.source, HubSource):
            assert len(benchmark.source.revision) == 40
        elif isinstance(benchmark.source, str):
            assert "/a45202bd16f1ec06f433442dc1152d0074773465/" in benchmark.source
        else:
            assert benchmark.name in GENERATORS


def test_the_paper_set_has_the_seven_columns_of_table_1() -> None:
    assert [BENCHMARKS[name].title for name in PAPER_SET] == [
        "GSM8K", "MATH", "SVAMP", "ASDiv", "Minerva", "Olympiad", "MMLU-STEM",
    ]  # fmt: skip


def test_no_benchmark_is_verified_yet() -> None:
    assert not any(benchmark.verified for benchmark in BENCHMARKS.values())


def test_the_five_demonstrations_answer_with_a_letter() -> None:
    benchmark = BENCHMARKS["mmlu_stem"]
    assert isinstance(benchmark, Benchmark)
    assert [extract_choice(answer) for _, answer in benchmark.demonstrations] == ["C", "B", "C", "A", "D"]
    assert all("\nAnswer Choices: (A) " in question for question, _ in benchmark.demonstrations)


def test_the_items_hash_depends_on_order_and_gold_answers(tmp_path: Path) -> None:
    rows = [{"question": question, "answer": f"#### {gold}"} for question, gold in (("One?", 1), ("Two?", 2))]
    hashes = {
        items_hash(load_benchmark("gsm8k", limit=None, data_dir=benchmark_rows(tmp_path, "gsm8k", changed)))
        for changed in (rows, rows[::-1], rows[:1], [rows[0], {**rows[1], "answer": "#### 3"}])
    }
    assert len(hashes) == 4


def test_an_unreachable_url_is_reported_in_one_line_and_only_https_is_read() -> None:
    for url in ("https://localhost:9/data/test.jsonl", "http://localhost:9/x", "file:///etc/passwd"):
        with pytest.raises(HubUnreachable, match="--data-dir") as caught:
            list(read_url(url))
        assert url in str(caught.value)


# --- The public files ---

WITH_KNOWN_ITEMS = [
    benchmark
    for benchmark in BENCHMARKS.values()
    if isinstance(benchmark, Benchmark) and benchmark.items_sha256 and benchmark.source
]


def test_all_items_but_those_of_math_have_a_known_hash() -> None:
    assert {benchmark.name for benchmark in WITH_KNOWN_ITEMS} == {*PAPER_SET, "math500"} - {"math"}
    assert all(
        benchmark.items_sha256 is None for benchmark in BENCHMARKS.values() if isinstance(benchmark, ChoiceBenchmark)
    )


@pytest.mark.parametrize("benchmark", WITH_KNOWN_ITEMS, ids=lambda benchmark: benchmark.name)
def test_the_items_have_the_known_hash(benchmark: Benchmark, data_dir: Path) -> None:
    items = load_benchmark(benchmark.name, limit=None, data_dir=data_dir)
    assert len(items) == len({item.id for item in items}) == benchmark.size
    assert items_hash(items) == benchmark.items_sha256


@pytest.mark.parametrize(
    ("name", "size", "first_gold", "first_words"),
    [("gsm8k", 1319, 18, "Janet’s ducks lay 16 eggs per day."), ("svamp", 1000, 145, "There are 87 oranges and 290")],
)
def test_every_gold_answer_of_a_benchmark_is_a_number(
    name: str, size: int, first_gold: int, first_words: str, data_dir: Path
) -> None:
    items = load_benchmark(name, limit=None, data_dir=data_dir)
    assert len(items) == len({item.id for item in items}) == size
    assert [item for item in items if item.answer is None or parse_number(item.answer) is None] == []
    assert parse_number(items[0].answer or "") == first_gold
    assert items[0].question.startswith(first_words)


def test_the_human_solutions_of_gsm8k_are_graded_correct(data_dir: Path) -> None:
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "test.jsonl").open(encoding="utf-8")]
    items = load_benchmark("gsm8k", limit=None, data_dir=data_dir)
    verdicts = [
        judge(row["answer"], item.answer or "", "number").verdict for row, item in zip(rows, items, strict=True)
    ]
    assert verdicts == ["correct"] * 1319
