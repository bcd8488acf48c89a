"""Files of own problems as benchmarks: their items, kinds of answers and names."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from lightreasoner.config import EvaluateConfig
from lightreasoner.config.sections import AnswerKind, QuestionSettings
from lightreasoner.data.benchmarks import BENCHMARKS, PAPER_SET
from lightreasoner.data.golds import number_text
from lightreasoner.data.own import OwnBenchmark, chosen_benchmarks
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.grading import verdicts


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def own(file: str | Path, **settings: Any) -> OwnBenchmark:
    (benchmark,) = chosen_benchmarks(QuestionSettings(benchmarks=(str(file),), **settings))
    assert isinstance(benchmark, OwnBenchmark)
    return benchmark


def names_of(*files: str) -> list[str]:
    return [benchmark.name for benchmark in chosen_benchmarks(QuestionSettings(benchmarks=files))]


def test_a_file_becomes_a_benchmark_in_file_order_with_repeats(tmp_path: Path) -> None:
    row = {"question": "One?", "answer": 1}
    found = own(write(tmp_path / "my.jsonl", row, {"question": "Two?", "answer": "so #### 2"}, row))
    assert (found.name, found.title, found.size, found.kind) == ("my", "my", 3, "number")
    items = found.items(None, None)
    assert [(item.question, item.answer) for item in items] == [("One?", "1"), ("Two?", "2"), ("One?", "1")]
    assert len({item.id for item in items}) == 3
    assert found.items(2, None) == items[:2]


@pytest.mark.parametrize(
    ("golds", "kind"),
    [
        (["A", "(b)", "C"], "choice"),
        (["a", "b"], "choice"),
        (["A", "5"], "expression"),
        (["A", "(B)"], "choice"),
        (["1", "2"], "number"),
        (["1", "x+1"], "expression"),
        (["1", "1,000"], "number"),
        (["2", "3, 5"], "expression"),
    ],
)
def test_the_kind_follows_from_all_answers_and_is_said(golds: list[str], kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "my.jsonl", *({"question": f"{gold}?", "answer": gold} for gold in golds))
    found = own(file)
    assert found.kind == kind
    assert found.note.startswith(f"my: {len(golds)} problems from {file}; answers are compared as {kind}")
    assert ("because" in found.note) == (kind == "expression")


def test_a_given_kind_is_checked_against_every_row(tmp_path: Path) -> None:
    file = write(tmp_path / "my.jsonl", {"question": "?", "answer": "a"}, {"question": "?", "answer": "red"})
    assert own(file, answer_kind="text").items(None, None)[1].answer == "red"
    with pytest.raises(DataError, match="my.jsonl, line 2: the gold answer is 'red', not a letter A … E"):
        own(file, answer_kind="choice")
    with pytest.raises(DataError, match="my.jsonl, line 1: the gold answer is 'a', not a number"):
        own(file, answer_kind="number")


def test_a_solution_without_a_mark_is_refused_with_its_line(tmp_path: Path) -> None:
    solution = "She sells half of her clips to her friends in May and then all the others to her mother, so it is 72."
    rows = [{"question": "?", "answer": "#### 72"}, {"question": "?", "answer": solution}]
    with pytest.raises(DataError, match="my.jsonl, line 2: the gold answer is 'She sells"):
        own(write(tmp_path / "my.jsonl", *rows))


def test_a_chat_that_ends_with_a_question_is_refused_with_its_line(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "What is 2+3?"}, {"role": "assistant", "content": "5"}]
    file = write(tmp_path / "my.jsonl", {"messages": turns}, {"messages": [*turns, {"role": "user", "content": "*4?"}]})
    with pytest.raises(DataError, match=r"my.jsonl, line 2: the chat in messages ends with '\*4\?' of the user"):
        own(file)


MAMMAL = "Which is a mammal?"
NAMES = ["trout", "whale", "eagle"]


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"choices": NAMES}, "choices"),
        ({"Options": ["A) trout", "B) whale", "C) eagle"]}, "Options"),
        ({"options": dict(zip("ABC", NAMES, strict=True))}, "options"),
        ({"choices": {"label": ["A", "B", "C"], "text": NAMES}}, "choices"),
        ({"choices": [{"label": "A", "text": "trout"}, {"label": "B", "text": "whale"}]}, "choices"),
        ({"choices": json.dumps(NAMES)}, "choices"),
        (dict(zip("ABC", NAMES, strict=True)), "A … C"),
        ({f"option_{letter}": name for letter, name in zip("abc", NAMES, strict=True)}, "option_a … option_c"),
        ({f"Choice{number}": name for number, name in enumerate(NAMES)}, "Choice0 … Choice2"),
        (dict(zip("abcd", (*NAMES, "trout"), strict=True)), "a … d"),
        ({"endings": NAMES}, "endings"),
    ],
)
def test_choices_that_the_question_does_not_list_are_refused(more: dict[str, Any], name: str, tmp_path: Path) -> None:
    listed = [f"{MAMMAL}\nA. Trout B. Whale C. Eagle", f"{MAMMAL} (A) trout, (B) whale; (C) eagle."]
    rows = [{"question": question, "answer": "B", **more} for question in (*listed, MAMMAL)]
    assert own(write(tmp_path / "fine.jsonl", *rows[:2])).kind == "choice"
    with pytest.raises(DataError) as caught:
        own(write(tmp_path / "my.jsonl", *rows))
    assert "my.jsonl, line 3: the question does not list the choice '" in str(caught.value)
    assert f"of {name}, and nothing but the question is asked" in str(caught.value)
    nested = {"item": {"q": MAMMAL, **more}, "answer": "B"}
    with pytest.raises(DataError, match="does not list the choice"):
        own(write(tmp_path / "nested.jsonl", nested), question_field="item.q")


@pytest.mark.parametrize("choices", [["4", "5", "6"], [2, 3, 25], ["2+3", "-2"]])
def test_a_choice_is_found_as_a_word_of_its_own(choices: list[Any], tmp_path: Path) -> None:
    row = {"question": "What is 12+13, if 45 is 2+3?", "choices": choices, "answer": 1}
    with pytest.raises(DataError, match="line 1: the question does not list the choice"):
        own(write(tmp_path / "my.jsonl", row))


def test_the_place_of_a_choice_is_no_gold_answer(tmp_path: Path) -> None:
    row = {"question": "What is 2+2? (A) 3 (B) 5 (C) 4 (D) 6", "choices": ["3", "5", "4", "6"]}
    with pytest.raises(DataError, match=r"my.jsonl, line 1: the gold answer 2 is none of choices"):
        own(write(tmp_path / "my.jsonl", {**row, "answer": 2}))
    assert own(write(tmp_path / "fine.jsonl", {**row, "answer": 4})).kind == "number"
    assert own(write(tmp_path / "letters.jsonl", {**row, "answer": "C"})).kind == "choice"


@pytest.mark.parametrize(
    "more", [{"choices": None}, {"options": []}, {"options": "many"}, {"A": "a"}, {"a": 1, "b": 2}]
)
def test_other_fields_are_no_choices(more: dict[str, Any], tmp_path: Path) -> None:
    assert own(write(tmp_path / "my.jsonl", {"question": "What is 3+4?", "answer": 7, **more})).kind == "number"


def test_fields_of_the_file_can_be_named(tmp_path: Path) -> None:
    file = write(tmp_path / "my.jsonl", {"q": {"text": "One?"}, "key": {"value": 7}, "answer": "no", "question": "no"})
    (item,) = own(file, question_field="q.text", answer_field="key.value").items(None, None)
    assert (item.question, item.answer) == ("One?", "7")


def test_names_and_files_can_be_mixed_and_each_counts_once(tmp_path: Path) -> None:
    file = write(tmp_path / "my.jsonl", {"question": "?", "answer": "1"})
    assert names_of("gsm8k", file, "paper", file) == ["gsm8k", "my", *PAPER_SET[1:]]
    assert chosen_benchmarks(QuestionSettings(benchmarks=("gsm8k",))) == [BENCHMARKS["gsm8k"]]


def test_files_of_one_stem_and_of_a_benchmarks_name_get_names_of_their_own(tmp_path: Path) -> None:
    row = {"question": "?", "answer": "1"}
    files = [write(tmp_path / path, row) for path in ("a/test.jsonl", "b/test.jsonl", "b/test.json", "gsm8k.jsonl")]
    assert names_of(*files) == ["a-test.jsonl", "b-test.jsonl", "test.json", "gsm8k.jsonl"]
    assert names_of(files[0]) == ["test"]
    assert names_of(*files[::-1]) == names_of(*files)[::-1]
    assert names_of(write(tmp_path / "My problems (1).jsonl", row)) == ["My-problems-1"]
    assert names_of(write(tmp_path / "paper.jsonl", row)) == ["paper.jsonl"]
    for folder in ("a/test", "b/test"):
        write(tmp_path / "folders" / folder / "rows.jsonl", row)
    twice = [(files[0], f"{tmp_path}/b/../a/test.jsonl")]
    twice += [
        (*(str(tmp_path / "folders" / name) for name in ("a/test", "b/test")), write(tmp_path / "a-test.jsonl", row))
    ]
    for same in twice:
        with pytest.raises(DataError, match="its results would be stored as .*a-test"):
            names_of(*same)


def test_a_folder_is_a_benchmark(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "test.jsonl", {"question": "test?", "answer": "1"})
    write(tmp_path / "mine" / "train.jsonl", {"question": "train?", "answer": "1"})
    assert own(tmp_path / "mine").name == "mine"
    assert [item.question for item in own(tmp_path / "mine").items(None, None)] == ["test?"]


def test_an_empty_or_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="my.jsonl has no items"):
        own(write(tmp_path / "my.jsonl"))
    with pytest.raises(DataError, match="no file .*mx.jsonl; did you mean .*my.jsonl"):
        own(tmp_path / "mx.jsonl")


def test_paths_are_accepted_from_python_and_misspelt_names_are_not(tmp_path: Path) -> None:
    config = EvaluateConfig.checked({"model": "m", "out": tmp_path, "benchmarks": [tmp_path / "my.jsonl", "gsm8k"]})
    assert config.benchmarks == (str(tmp_path / "my.jsonl"), "gsm8k")
    with pytest.raises(ConfigError, match="no benchmark and no file here is called 'gms8k': did you mean gsm8k"):
        EvaluateConfig.checked({"model": "m", "out": tmp_path, "benchmarks": ["gms8k"]})


def test_settings_of_files_without_a_file_are_named_in_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    chosen_benchmarks(QuestionSettings(benchmarks=("gsm8k",), answer_kind="text"))
    assert "warning: answer_kind is for files of your own, and gsm8k names none" in capsys.readouterr().err


def test_a_path_below_the_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "my.jsonl", {"question": "?", "answer": "1"})
    assert (own("~/my.jsonl").name, own("~/my.jsonl").size) == ("my", 1)


def test_the_kinds_of_answers_are_those_of_the_judge() -> None:
    assert get_args(AnswerKind) == get_args(verdicts.AnswerKind)


def test_letters_beside_other_answers_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ({"question": f"{gold}?", "answer": gold} for gold in ("A", "5", "(B)"))
    assert own(write(tmp_path / "my.jsonl", *rows)).kind == "expression"
    (record,) = caplog.records
    assert "2 of 3 golds are letters such as A" in record.getMessage()


def test_a_comma_that_may_be_decimal_needs_a_kind(tmp_path: Path) -> None:
    file = tmp_path / "my.csv"
    file.write_text("question;answer\nWhat, is?;3,5\nB;6,25\n")
    with pytest.raises(DataError, match="3,5 may be a number with a decimal comma, or two numbers. Give --answer-kind"):
        own(file)
    assert own(file, answer_kind="number").kind == "number"
    assert own(file, answer_kind="expression").kind == "expression"


def test_one_question_with_two_answers_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "my.jsonl", *({"question": "One?", "answer": answer} for answer in (1, 1, 2)))
    assert own(file).size == 3
    (record,) = caplog.records
    assert "line 3: its question comes before with the gold answer '1'; mend one" in record.getMessage()


@pytest.mark.parametrize("gold", ["None", "N/A", "?", "-", "null"])
def test_a_word_for_no_answer_is_no_answer(gold: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a text nor a finite number"):
        own(write(tmp_path / "my.jsonl", {"question": "One?", "answer": gold}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"), (100 / 3, "33.3333333333333"), (0.1, "0.1"), (-2.5, "-2.5"), (3.0, "3"), (1e-7, "1e-07"),
        (123456789.123456, "123456789.123456"), (1e20, "1e+20"), (Decimal("0.1000000000000001"), "0.1000000000000001"),
    ],
)  # fmt: skip
def test_numbers_are_golds_without_the_rounding_of_a_computation(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize(
    "kind",
    [
        pa.float16(), pa.float32(), pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 1),
        pa.large_list(pa.float16()), pa.struct([("x", pa.large_list(pa.float32()))]),
    ],
    ids=str,
)  # fmt: skip
def test_short_numbers_are_read_as_they_print(kind: pa.DataType, tmp_path: Path) -> None:
    def value(number: float) -> Any:
        if pa.types.is_struct(kind):
            return {"x": [number]}
        return number if pa.types.is_floating(kind) else [number]

    table = pa.table({"question": ["a?", "b?", "c?"], "answer": pa.array([value(n) for n in (0.1, 0.5, 2.25)], kind)})
    file = tmp_path / "my.arrow"
    for name, write_table in ((file, feather.write_feather), (tmp_path / "my.parquet", pq.write_table)):
        write_table(table.slice(1), name)
        field = "answer.x" if pa.types.is_struct(kind) else "answer"
        assert [item.answer for item in own(name, answer_field=field).problems] == ["0.5", "2.25"]
        write_table(table, name)
        assert [item.answer for item in own(name, answer_field=field).problems] == ["0.1", "0.5", "2.25"]
