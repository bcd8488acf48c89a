"""Samples go out as JSONL and come back the same; a file that breaks the format is refused and leaves nothing."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from train_miniature import SETS, TURN_END, VOCABULARY_SIZE, initial_model, train_tokenizer
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import SampleConfig
from lightreasoner.config.sections import DEFAULT_CUE
from lightreasoner.errors import DataError, RunCorrupted, SampleFormatError
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.runs.stage import open_stage, read_stage
from lightreasoner.samples import jsonl
from lightreasoner.samples.folder import Imported, Label, Rollout
from lightreasoner.samples.jsonl import export_samples, import_samples
from lightreasoner.samples.jsonl_lines import LONGEST_LINE, ImportedStep, LineReader, SampleLine
from lightreasoner.samples.sampling import sample
from lightreasoner.training.batches import LabelSet, load_labels

from ..kept import KeptStep, kept_steps

AUTHORS_FIELDS = ["prompt_id", "step", "prefix", "tokens", "token_ids", "weights", "kl_divergence"]
QUESTION = "Ann has 3 apples and buys 4 more. How many apples does she have?"

Row = dict[str, Any]


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Expert and amateur of the miniature's smallest shape, untrained."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer()
    for seed, name in enumerate(("expert", "amateur")):
        torch.manual_seed(seed)
        initial_model(SETS["miniature"].plans["small"], tokenizer, folder).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "expert", folder / "amateur"


@pytest.fixture(scope="session")
def expert(random_pair: tuple[Path, Path]) -> str:
    return str(random_pair[0])


@pytest.fixture(scope="session")
def tokenizer(expert: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(find_model(expert))


@pytest.fixture(scope="session")
def run_folder(random_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sample stage with three shards."""
    out = tmp_path_factory.mktemp("runs") / "run"
    expert, amateur = map(str, random_pair)
    sample(
        SampleConfig(
            expert=expert,
            amateur=amateur,
            dataset="arithmetic",
            max_questions=6,
            max_new_tokens=12,
            divergence_beta=0.0,
            plausibility_alpha=0.5,
            temperature=1.0,  # greedy, an untrained model repeats one token
            batch_size=2,
            device="cpu",
            dtype="float32",
            out=out,
        )
    )
    return out


@pytest.fixture(scope="session")
def exported(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exports") / "samples.jsonl"
    export_samples(run_folder, file)
    return file


@pytest.fixture
def good_row(tokenizer: PreTrainedTokenizerBase) -> Row:
    """A row as the authors' script writes it."""
    prefix = "Ann has 3"
    return {
        "prompt_id": QUESTION,
        "step": len(tokenizer(prefix)["input_ids"]),
        "prefix": prefix,
        "tokens": [tokenizer.decode([token]) for token in (40, 50)],
        "token_ids": [40, 50],
        "weights": [0.25, 0.75],
        "kl_divergence": 0.7,
    }


def read_rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(file: Path, rows: list[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def stored(folder: Path) -> tuple[list[Rollout], list[KeptStep]]:
    stage = read_stage(folder / "sample")[1]
    rollouts = [rollout for table in stage.tables("rollouts") for rollout in Rollout.rows(table)]
    return rollouts, kept_steps(folder)


def prefixes(labels: LabelSet) -> list[list[int]]:
    return [labels.texts[labels.text_of[label]][: labels.prefix_length[label]].tolist() for label in range(len(labels))]


# Export


def test_a_line_for_every_kept_step_in_the_authors_format(
    run_folder: Path, exported: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rollouts, steps = stored(run_folder)
    by_id = {rollout.question_id: rollout for rollout in rollouts}
    rows = read_rows(exported)
    assert len(rows) == len(steps) > 20
    for row, step in zip(rows, steps, strict=True):
        rollout = by_id[step.question_id]
        assert list(row)[:7] == AUTHORS_FIELDS
        assert row["prompt_id"] == rollout.question
        assert row["step"] == row["position"] == step.position
        assert row["prefix"] == tokenizer.decode(rollout.response_ids[: step.position])
        assert row["tokens"] == [tokenizer.decode([token]) for token in step.token_ids]
        assert (row["token_ids"], row["weights"], row["kl_divergence"]) == (step.token_ids, step.weights, step.kl)
        assert row["prompt_ids"] + row["response_ids"] == rollout.prompt_ids + rollout.response_ids[: step.position]
        assert row["taken_id"] == rollout.response_ids[step.position]
        assert row["expert_logprob"] == rollout.expert_logprob[step.position]


def test_export_counts_and_writes_pure_ascii(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    rollouts, steps = stored(run_folder)
    assert export_samples(run_folder, file) == {"rows": len(steps), "rollouts": len(rollouts), "file": str(file)}
    assert file.read_bytes().isascii()
    assert list(tmp_path.iterdir()) == [file]


def test_export_does_not_overwrite(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text("precious")
    with pytest.raises(DataError, match="exists already"):
        export_samples(run_folder, file)
    assert file.read_text() == "precious"


@pytest.mark.parametrize("parent", ["missing", "a file"])
def test_export_to_where_nothing_can_be(run_folder: Path, tmp_path: Path, parent: str) -> None:
    (tmp_path / "a file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        export_samples(run_folder, tmp_path / parent / "samples.jsonl")


def test_a_failed_export_leaves_nothing(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightreasoner.samples.jsonl_lines.LONGEST_LINE", 10)
    with pytest.raises(DataError, match="plausibility-alpha"):
        export_samples(run_folder, tmp_path / "samples.jsonl")
    assert not list(tmp_path.iterdir())


def test_export_refuses_a_changed_expert(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "sample").mkdir()
    for path in (run_folder / "sample").iterdir():
        (copy / "sample" / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((copy / "sample/manifest.json").read_text())
    manifest["record"]["expert_files"]["tokenizer.json"] = "0" * 64
    (copy / "sample/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"has changed since \(tokenizer\.json of the expert: other content now\)"):
        export_samples(copy, tmp_path / "samples.jsonl")
    del manifest["record"]["expert_files"]
    (copy / "sample/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="manifest.json is that of another stage"):
        export_samples(copy, tmp_path / "samples.jsonl")


def test_export_needs_a_finished_stage(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no manifest\.json"):
        export_samples(tmp_path, tmp_path / "samples.jsonl")
    with open_stage(tmp_path, "sample", {}):
        pass
    with pytest.raises(RunCorrupted, match="not finished"):
        export_samples(tmp_path, tmp_path / "samples.jsonl")


# Round trip


def test_round_trip_keeps_everything_a_line_tells(
    run_folder: Path, exported: Path, expert: str, tmp_path: Path
) -> None:
    result = import_samples(exported, tmp_path / "in", expert=expert)
    before, after = load_labels(run_folder, 4096)[1], load_labels(tmp_path / "in", 4096)[1]
    assert prefixes(before) == prefixes(after)
    np.testing.assert_array_equal(before.token_ids.values, after.token_ids.values)
    np.testing.assert_array_equal(before.token_ids.starts, after.token_ids.starts)
    np.testing.assert_array_equal(before.text_of, after.text_of)  # the same steps share a rollout
    np.testing.assert_allclose(before.weights.values, after.weights.values, atol=1e-6)

    steps, again = stored(run_folder)[1], stored(tmp_path / "in")[1]
    for step, twin in zip(steps, again, strict=True):
        assert asdict(twin) == {**asdict(step), "weights": twin.weights}
    assert result["rows"] == len(steps)
    assert result["rollouts"] == 6
    assert result["duplicates"] == result["prefix_length_differs"] == 0
    assert result["single_token_labels"] == sum(len(step.token_ids) == 1 for step in steps)
    assert result["max_support"] == max(len(step.token_ids) for step in steps)
    entropies = [-sum(w * math.log(w) for w in step.weights) for step in steps]
    assert result["mean_label_entropy"] == pytest.approx(np.mean(entropies), abs=1e-5)
    assert result["expert"] == expert
    assert result["cue"] is None  # no prompt had to be made


@pytest.mark.parametrize(
    ("given", "kept"),
    [([0.5, 0.49999997], [0.5, 0.49999997]), ([0.5, 0.4999], [0.5 / 0.9999, 0.4999 / 0.9999])],
)
def test_weights_that_sum_to_1_up_to_rounding_stay(given: list[float], kept: list[float]) -> None:
    line = SampleLine.model_construct(token_ids=[3, 5], weights=given)
    assert line.label("q", 0).weights == kept


def test_import_export_import_is_stable(exported: Path, expert: str, tmp_path: Path) -> None:
    import_samples(exported, tmp_path / "first", expert=expert)
    export_samples(tmp_path / "first", tmp_path / "again.jsonl")
    import_samples(tmp_path / "again.jsonl", tmp_path / "second", expert=expert)
    assert stored(tmp_path / "first") == stored(tmp_path / "second")


def test_many_shards_hold_the_same_as_one(
    exported: Path, expert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_samples(exported, tmp_path / "one", expert=expert)
    monkeypatch.setattr(jsonl, "ROWS_PER_SHARD", 5)
    import_samples(exported, tmp_path / "many", expert=expert)
    assert len(list((tmp_path / "many/sample").glob("steps-*.parquet"))) > 2
    assert stored(tmp_path / "many") == stored(tmp_path / "one")


# The authors' format


def test_authors_fields_alone_are_enough(
    run_folder: Path, exported: Path, expert: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    rows = [{name: row[name] for name in AUTHORS_FIELDS} for row in read_rows(exported)]
    file = write_rows(tmp_path / "authors.txt", rows)
    result = import_samples(file, tmp_path / "in", expert=expert)
    made, labels = load_labels(tmp_path / "in", 4096)
    assert isinstance(made, Imported)
    assert made.expert_files == find_model(expert).files()
    assert made.cue == result["cue"] == DEFAULT_CUE
    template = PromptTemplate(tokenizer)
    expected = [
        template.encode(row["prompt_id"]) + tokenizer(row["prefix"], add_special_tokens=False)["input_ids"]
        for row in rows
    ]
    assert prefixes(labels) == expected
    assert result["prefix_length_differs"] == sum(
        len(tokenizer(row["prefix"])["input_ids"]) != row["step"] for row in rows
    )
    step = stored(tmp_path / "in")[1][-1]  # the last step of its rollout: no later prefix tells its token
    assert (step.taken_id, step.expert_logprobs) == (-1, [])
    assert math.isnan(step.expert_entropy)
    # What is not known is not written either.
    export_samples(tmp_path / "in", tmp_path / "again.jsonl")
    last = read_rows(tmp_path / "again.jsonl")[-1]
    assert list(last)[7:] == ["question_id", "prompt_ids", "response_ids", "position"]


def test_prefixes_share_a_rollout_while_they_extend_one_another(
    good_row: Row, expert: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    texts = ["", "Ann has", "Ann has 3", "Ann buys", "Ann has", "Ann has 3", "Ann has 3"]
    other = {**good_row, "prompt_id": "What is 1 plus 1?"}
    rows = [{**good_row, "prefix": text, "step": len(tokenizer(text)["input_ids"])} for text in texts]
    rows[4]["weights"] = rows[5]["weights"] = [0.5, 0.5]  # another label at the same prefix is no duplicate
    rows[6]["weights"] = [1, 0]
    result = import_samples(write_rows(tmp_path / "s.jsonl", [*rows, other]), tmp_path / "in", expert=expert)
    rollouts, steps = stored(tmp_path / "in")
    question = rollouts[0].question_id
    assert [rollout.question_id for rollout in rollouts][:4] == [question] + [
        f"{question}-{number}" for number in (4, 5, 7)
    ]
    assert [step.question_id.partition("-")[2] for step in steps] == ["", "", "", "4", "5", "5", "7", ""]
    assert rollouts[0].response_ids == tokenizer("Ann has 3")["input_ids"]
    assert rollouts[4].question == "What is 1 plus 1?"
    assert (result["rollouts"], result["rows"]) == (5, 8)
    labels = load_labels(tmp_path / "in", 4096)[1]
    prompt = PromptTemplate(tokenizer).encode(QUESTION)
    assert prefixes(labels)[:7] == [prompt + tokenizer(text)["input_ids"] for text in texts]


def test_control_tokens_in_a_prefix_stay_control_tokens(
    good_row: Row, expert: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    row = {**good_row, "prefix": f"7{TURN_END}\n7", "step": 4, "token_ids": [tokenizer.eos_token_id], "weights": [1]}
    row["tokens"] = [TURN_END]
    import_samples(write_rows(tmp_path / "s.jsonl", [row]), tmp_path / "in", expert=expert)
    rollouts, steps = stored(tmp_path / "in")
    assert rollouts[0].response_ids[1] == tokenizer.eos_token_id
    assert steps[0].token_ids == [tokenizer.eos_token_id]
    export_samples(tmp_path / "in", tmp_path / "again.jsonl")
    again = read_rows(tmp_path / "again.jsonl")[0]
    assert (again["prefix"], again["tokens"]) == (row["prefix"], [TURN_END])


def test_the_cue_is_a_setting(good_row: Row, expert: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    cue = "Please reason step by step."
    file = write_rows(tmp_path / "s.jsonl", [good_row])
    assert import_samples(file, tmp_path / "in", expert=expert, cue=cue)["cue"] == cue
    assert stored(tmp_path / "in")[0][0].prompt_ids == PromptTemplate(tokenizer, cue).encode(QUESTION)


def test_small_deviations_are_normalised_and_tokens_sorted(good_row: Row, expert: str, tmp_path: Path) -> None:
    row = {**good_row, "token_ids": [50, 40], "weights": [0.75, 0.2505], "tokens": None}
    row |= {"expert_logprobs": [-1.0, -2.0]}
    import_samples(write_rows(tmp_path / "s.jsonl", [row]), tmp_path / "in", expert=expert)
    step = stored(tmp_path / "in")[1][0]
    assert (step.token_ids, step.expert_logprobs) == ([40, 50], [-2.0, -1.0])
    assert step.weights == pytest.approx([0.2505 / 1.0005, 0.75 / 1.0005], abs=1e-7)


def test_lengths_that_differ_and_duplicates_are_counted(
    good_row: Row, expert: str, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    odd = {**good_row, "step": 99}
    file = write_rows(tmp_path / "s.jsonl", [good_row, odd, good_row, odd])
    result = import_samples(file, tmp_path / "in", expert=expert)
    assert (result["rows"], result["duplicates"], result["prefix_length_differs"]) == (2, 2, 1)
    length = len(tokenizer(good_row["prefix"])["input_ids"])
    assert [step.position for step in stored(tmp_path / "in")[1]] == [length, length]


def test_junk_is_suspected(good_row: Row, expert: str, tmp_path: Path) -> None:
    wide = {**good_row, "token_ids": list(range(40, 48)), "weights": [0.125] * 8, "tokens": None}
    rows = [good_row, wide, {**wide, "kl_divergence": 6.285}, {**good_row, "kl_divergence": 6.285}]
    result = import_samples(write_rows(tmp_path / "s.jsonl", rows), tmp_path / "in", expert=expert)
    assert (result["high_entropy_share"], result["junk_suspects"]) == (0.5, 1)
    assert (result["mean_support"], result["max_support"]) == (5, 8)


# Questions


def test_questions_are_looked_up_by_id(good_row: Row, expert: str, tmp_path: Path) -> None:
    questions = write_rows(
        tmp_path / "q.jsonl", [{"id": "train/7", "text": QUESTION}, {"id": 8, "text": "What is 1 plus 1?"}]
    )
    file = write_rows(tmp_path / "s.jsonl", [{**good_row, "prompt_id": "train/7"}, {**good_row, "prompt_id": 8}])
    with pytest.raises(SampleFormatError, match=r"line 1: prompt_id 'train/7' looks like an id.*--questions"):
        import_samples(file, tmp_path / "in", expert=expert)
    import_samples(file, tmp_path / "in", expert=expert, questions=questions, question_field="text")
    assert [rollout.question for rollout in stored(tmp_path / "in")[0]] == [QUESTION, "What is 1 plus 1?"]

    write_rows(file, [{**good_row, "prompt_id": "train/7"}, {**good_row, "prompt_id": "train/9"}])
    with pytest.raises(SampleFormatError, match=r"line 2: prompt_id 'train/9' is no id"):
        import_samples(file, tmp_path / "in2", expert=expert, questions=questions, question_field="text")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"question": "Why is it so?"}], "line 1: id is None"),
        ([{"id": True, "question": "Why is it so?"}], "line 1: id is True"),
        (
            [{"id": 1, "question": "Why is it so?"}, {"id": "1", "question": "How is it so?"}],
            "line 2: id '1' stood for",
        ),
        ([{"id": 1}], "no field question"),
    ],
)
def test_bad_question_files(rows: list[Row], complaint: str, good_row: Row, expert: str, tmp_path: Path) -> None:
    questions, file = write_rows(tmp_path / "q.jsonl", rows), write_rows(tmp_path / "s.jsonl", [good_row])
    with pytest.raises(DataError, match=complaint):
        import_samples(file, tmp_path / "in", expert=expert, questions=questions)
    with pytest.raises(DataError, match="no file .*p.csv; check the path"):
        import_samples(file, tmp_path / "in", expert=expert, questions=tmp_path / "p.csv")
    (tmp_path / "q.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="q.xlsx: the name does not end in .jsonl, .json, .ndjson, .csv"):
        import_samples(file, tmp_path / "in", expert=expert, questions=tmp_path / "q.xlsx")


@pytest.mark.parametrize("question", ["小明有3个苹果,又买了4个,一共有几个?", "1+1=?", f"What does {TURN_END} do?"])
def test_questions_of_other_kinds(question: str, good_row: Row, expert: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "s.jsonl", [{**good_row, "prompt_id": question}])
    import_samples(file, tmp_path / "in", expert=expert)
    assert stored(tmp_path / "in")[0][0].question == question


# What is refused

BAD_FIELDS: list[tuple[Row, str]] = [
    ({"prompt_id": None}, "prompt_id is None, not a text"),
    ({"prompt_id": True}, "prompt_id is True"),
    ({"prompt_id": " \n"}, "not a text that can be asked"),
    ({"prompt_id": "gsm8k-17"}, "looks like an id"),
    ({"prompt_id": 17}, "looks like an id"),
    ({"prompt_id": "half a \ud83d"}, "prompt_id is"),
    ({"step": -1}, "step is -1, not a whole number from 0 on"),
    ({"step": True}, "step is True"),
    ({"step": 3.0}, "step is 3.0"),
    ({"step": "3"}, "step is '3'"),
    ({"prefix": 3}, "prefix is 3, not a text"),
    ({"prefix": "\udc00"}, "prefix is"),
    ({"tokens": ["x"]}, "tokens has 1 entries, token_ids has 2"),
    ({"tokens": "xy"}, "tokens is 'xy', not a list"),
    ({"tokens": ["zyx", "zyx"]}, "another tokenizer.*--expert"),
    ({"token_ids": []}, "is empty"),
    ({"token_ids": 40}, "token_ids is 40, not a list"),
    ({"token_ids": [40, True]}, r"token_ids\[1\] is True, not a token id"),
    ({"token_ids": [40, 50.0]}, r"token_ids\[1\] is 50.0"),
    ({"token_ids": [-1, 50]}, r"token_ids\[0\] is -1"),
    (
        {"token_ids": [40, VOCABULARY_SIZE]},
        rf"token_ids\[1\] is {VOCABULARY_SIZE}, not a token id of .*, 0 to {VOCABULARY_SIZE - 1}",
    ),
    ({"token_ids": [40, 10**400]}, r"token_ids\[1\] is 1000"),
    ({"token_ids": [40, 40]}, "names a token twice"),
    ({"weights": [1.0]}, "weights has 1 entries, token_ids has 2"),
    ({"weights": {}}, "weights is {}, not a list"),
    ({"weights": [0.5, True]}, r"weights\[1\] is True"),
    ({"weights": [0.5, "0.5"]}, r"weights\[1\] is '0.5'"),
    ({"weights": [0.5, math.nan]}, r"weights\[1\] is nan, not a finite number"),
    ({"weights": [0.5, math.inf]}, r"weights\[1\] is inf"),
    ({"weights": [1.5, -0.5]}, r"weights\[1\] is -0.5"),
    ({"weights": [0.5, 10**400]}, r"weights\[1\] is 1000"),
    ({"weights": [0.3, 0.5]}, "weights sum to 0.8, not to 1"),
    ({"weights": [0.0, 0.0]}, "weights sum to 0, not to 1"),
    ({"kl_divergence": math.nan}, "kl_divergence is nan"),
    ({"kl_divergence": math.inf}, "kl_divergence is inf"),
    ({"kl_divergence": -0.5}, "kl_divergence is -0.5"),
    ({"kl_divergence": "1"}, "kl_divergence is '1'"),
    ({"kl_divergence": 1e300}, r"kl_divergence is 1e\+300"),
    ({"prompt_ids": []}, "prompt_ids is empty"),
    ({"prompt_ids": [1, VOCABULARY_SIZE]}, rf"prompt_ids\[1\] is {VOCABULARY_SIZE}"),
    ({"response_ids": [40]}, "step is .* there are 1 response_ids"),
    ({"response_ids": "abc"}, "response_ids is 'abc', not a list"),
    ({"step": 1, "response_ids": [40], "position": 2}, "position 2"),
    ({"taken_id": -1}, "taken_id is -1, not a token id"),
    ({"expert_logprob": math.nan}, "expert_logprob is nan"),
    ({"expert_logprobs": [-1.0]}, "expert_logprobs has 1 entries"),
    ({"amateur_logprobs": [-1.0, None]}, r"amateur_logprobs\[1\] is None"),
    ({"amateur_entropy": []}, r"amateur_entropy is \[\]"),
]

BAD_LINES: list[tuple[bytes, str]] = [
    (b"not json\n", "not JSON in UTF-8"),
    (b'{"prompt_id": "\xff"}\n', "not JSON in UTF-8"),
    (b"\n", "the line is empty"),
    (b"[1, 2]\n", r"\[1, 2\] is no JSON object"),
    (b"null\n", "None is no JSON object"),
    (b"[" * 100_000 + b"\n", "not JSON"),
    (b"1" * 5_000 + b"\n", "not JSON"),
    (b" " * (LONGEST_LINE + 1) + b"\n", f"more than {LONGEST_LINE} bytes"),
]


def assert_refused(tmp_path: Path, content: bytes, expert: str, complaint: str) -> None:
    """Refused with the file's name and line 3, and nothing is left behind, parents of the folder included."""
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content)
    with pytest.raises(SampleFormatError, match=rf"bad\.jsonl, line 3: .*{complaint}"):
        import_samples(file, tmp_path / "new" / "in", expert=expert)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(("change", "complaint"), BAD_FIELDS)
def test_bad_fields(change: Row, complaint: str, good_row: Row, expert: str, tmp_path: Path) -> None:
    rows = [good_row, {**good_row, "kl_divergence": 1.0}, {**good_row, **change}]
    assert_refused(tmp_path, "".join(json.dumps(row) + "\n" for row in rows).encode(), expert, complaint)


@pytest.mark.parametrize(("line", "complaint"), BAD_LINES)
def test_bad_lines(line: bytes, complaint: str, good_row: Row, expert: str, tmp_path: Path) -> None:
    good = "".join(json.dumps({**good_row, "kl_divergence": kl}) + "\n" for kl in (1.0, 2.0)).encode()
    assert_refused(tmp_path, good + line, expert, complaint)


@pytest.mark.parametrize("name", [name for name in AUTHORS_FIELDS if name != "tokens"])
def test_missing_fields(name: str, good_row: Row, expert: str, tmp_path: Path) -> None:
    bad = {key: value for key, value in good_row.items() if key != name}
    content = "".join(json.dumps(row) + "\n" for row in (good_row, {**good_row, "kl_divergence": 1.0}, bad)).encode()
    assert_refused(tmp_path, content, expert, f"no field {name} among .*every sample needs it")


def test_a_failure_after_many_shards_leaves_nothing(
    exported: Path, expert: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "ROWS_PER_SHARD", 2)
    file = tmp_path / "s.jsonl"
    file.write_bytes(exported.read_bytes() + b"{}\n")
    with pytest.raises(SampleFormatError, match="no field prompt_id"):
        import_samples(file, tmp_path / "in", expert=expert)
    assert list(tmp_path.iterdir()) == [file]


def test_only_plain_text_files(expert: str, tmp_path: Path) -> None:
    for name in ("s.tar", "s.jsonl.gz", "s.parquet", "s"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        with pytest.raises(SampleFormatError, match="Unpack or convert it"):
            import_samples(tmp_path / name, tmp_path / "in", expert=expert)
    with pytest.raises(DataError, match="no file"):
        import_samples(tmp_path / "absent.jsonl", tmp_path / "in", expert=expert)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SampleFormatError, match="the file is empty"):
        import_samples(tmp_path / "empty.jsonl", tmp_path / "in", expert=expert)
    assert not (tmp_path / "in").exists()


def test_import_makes_new_folders_only(exported: Path, expert: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="exists already"):
        import_samples(exported, tmp_path / "in", expert=expert)
    with pytest.raises(DataError, match="cannot import"):
        import_samples(exported, exported / "in", expert=expert)
    import_samples(exported, tmp_path / "new/deep/in", expert=expert)
    assert len(load_labels(tmp_path / "new/deep/in", 4096)[1]) > 0


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["\ud800", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
IDS = st.lists(st.integers(-1, VOCABULARY_SIZE), max_size=4)
NUMBERS = st.lists(st.floats(), max_size=4)
ROWS = JSON | st.fixed_dictionaries(
    {
        "prompt_id": st.text(min_size=1) | JSON,
        "step": st.integers(-1, 5) | JSON,
        "prefix": st.text() | JSON,
        "token_ids": IDS | JSON,
        "weights": st.sampled_from([[1], [0.5, 0.5], [0.2, 0.3, 0.5]]) | NUMBERS | JSON,
        "kl_divergence": st.floats(0, 10) | JSON,
    },
    optional={
        **dict.fromkeys(("prompt_ids", "response_ids"), IDS | JSON),
        **dict.fromkeys(("expert_logprobs", "amateur_logprobs"), NUMBERS | JSON),
        **dict.fromkeys(("tokens", "position", "taken_id", "expert_logprob", "expert_entropy"), JSON),
    },
)


@pytest.fixture(scope="session")
def read_line(expert: str, tokenizer: PreTrainedTokenizerBase) -> Callable[[str, bytes], ImportedStep]:
    return LineReader(expert, PromptTemplate(tokenizer), None).read


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=ROWS)
@example(row={"prompt_id": "a b", "step": 0, "prefix": "", "token_ids": [1], "weights": [1], "kl_divergence": 1})
def test_any_json_is_a_sample_or_a_format_error(read_line: Callable[[str, bytes], ImportedStep], row: Any) -> None:
    try:
        line = read_line("file, line 1", json.dumps(row).encode())
    except SampleFormatError as error:
        assert str(error).startswith("file, line 1: ")
        return
    assert sum(line.label.weights) == pytest.approx(1)
    Label.table([line.label])


@settings(max_examples=100, deadline=None)
@given(line=st.binary(max_size=200))
def test_any_bytes_are_a_sample_or_a_format_error(read_line: Callable[[str, bytes], ImportedStep], line: bytes) -> None:
    with pytest.raises(SampleFormatError, match="file, line 1: "):
        read_line("file, line 1", line)
