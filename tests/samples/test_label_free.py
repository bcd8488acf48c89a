"""The label-free baselines: votes worked by hand, real command lines, resume, and settings that mean nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightreasoner.config import BaselineConfig, FinetuneConfig
from lightreasoner.config.sections import LABEL_FREE, MachineSettings
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.inference.generation import Decoding, Generation
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.baselines import baseline
from lightreasoner.samples.folder import Label, Rollout
from lightreasoner.samples.label_free import Vote, vote
from lightreasoner.training.batches import load_labels
from lightreasoner.training.finetuning import finetune

VOTERS = [kind for kind, settings in LABEL_FREE.items() if "consensus" in settings]


def config_for(out: Path, kind: str, **settings: object) -> BaselineConfig:
    common = {"model": "miniature/expert", "dataset": "arithmetic", "max_questions": 6, "dtype": "float32"}
    more = {"max_new_tokens": 48, "batch_size": 4, "grading_workers": 1}
    return BaselineConfig.checked({"kind": kind, "out": out, **common, **more, **settings})


def rows_of(folder: Path, kind: Any) -> list[Any]:
    _, stage = read_stage(folder / "sample")
    name = "rollouts" if kind is Rollout else "steps"
    return [row for table in stage.tables(name) for row in kind.rows(table)]


@pytest.mark.parametrize(
    ("answers", "consensus", "wanted"),
    [
        (["7", "8", "8", None], 0.0, Vote([1, 2], [0])),
        (["7", "8", "8", "7"], 0.0, Vote([0, 3], [1, 2])),  # a tie goes to the answer that came first
        (["7", "8", "8", "7"], 0.5, Vote([0, 3], [1, 2])),
        (["7", "8", "8", None], 0.51, None),  # samples without an answer count in the share
        (["8", None, None, None], 0.25, Vote([0], [])),
        (["8", None, None, None], 0.26, None),
        ([None, None], 0.0, None),
        ([], 0.0, None),
    ],
)
def test_a_vote_counts_answers_and_leaves_out_samples_without_one(
    answers: list[str | None], consensus: float, wanted: Vote | None
) -> None:
    assert vote(answers, consensus) == wanted


# Four samples of each of two problems. Numbers in another form are equal, and a sample without an end has no vote.
WRITTEN = [
    [r"first 3 and then \boxed{7}", r"\boxed{8}", r"so \boxed{7.0}", r"1 2 \boxed{9} <cut>"],
    [r"\boxed{5}", r"1 \boxed{6}", r"2 \boxed{4}", r"so"],
]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of two problems; the engine's samples of them are `WRITTEN`."""
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def responses(self: PackedEngine, prompts: list[list[int]], decoding: Decoding) -> Generation:
        assert (decoding.temperature, len(prompts)) == (0.9, 8)
        texts = []
        for place, prompt in enumerate(prompts):
            which = 0 if "apples" in tokenizer.decode(prompt) else 1
            texts.append(WRITTEN[which][place % 4])
        ids = [list(tokenizer(text.removesuffix(" <cut>"))["input_ids"]) for text in texts]
        return Generation(
            [one if text.endswith("<cut>") else [*one, end] for one, text in zip(ids, texts, strict=True)]
        )

    monkeypatch.setattr(PackedEngine, "generate", responses)
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "How many apples?"}\n{"question": "How many books?"}\n')
    return file


def test_the_shortest_sample_of_the_majority_is_trained_on(written: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": str(written), "answer_kind": "number", "temperature": 0.9}
    config = config_for(tmp_path / "run", "majority-vote", samples_per_problem=4, **settings)
    result = baseline(config)
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    rows = {row.question: row for row in rows_of(tmp_path / "run", Rollout)}
    text = {question: tokenizer.decode(row.response_ids, skip_special_tokens=True) for question, row in rows.items()}
    same = tokenizer.decode(tokenizer(r"so \boxed{7.0}")["input_ids"], skip_special_tokens=True)
    assert text["How many apples?"] == same
    assert "5" in text["How many books?"]  # three answers with one vote each: the first
    assert (result["samples"], result["samples_without_vote"], result["samples_agreeing"]) == (8, 2, 3)
    assert (result["truncated"], result["problems_without_majority"], result["answers_kept"]) == (1, 0, 2)

    config = config_for(tmp_path / "strict", "majority-vote", samples_per_problem=4, consensus=0.5, **settings)
    assert baseline(config)["problems_without_majority"] == 1
    assert [row.question for row in rows_of(tmp_path / "strict", Rollout)] == ["How many apples?"]


def test_the_longest_sample_against_the_majority_is_corrected_with_its_shortest(written: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": str(written), "answer_kind": "number", "temperature": 0.9}
    hint = "{solution} is one solution of {question}"
    result = baseline(config_for(tmp_path, "u-opsd", samples_per_problem=4, label_tokens=5, hint=hint, **settings))
    (row,) = rows_of(tmp_path, Rollout)
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    wrong = [*tokenizer(r"\boxed{8}")["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert (row.question, row.response_ids) == ("How many apples?", wrong)
    assert "solution" not in tokenizer.decode(row.prompt_ids), "the tuned model sees no hint"
    assert (result["problems_without_majority"], result["problems_unanimous"]) == (1, 0)
    assert not (tmp_path / "sample-votes").exists()

    # The labels are the distributions of the model with the hint, here by its plain forward pass.
    from lightreasoner.models.prompts import PromptTemplate

    solution = tokenizer.decode(tokenizer(r"so \boxed{7.0}")["input_ids"], skip_special_tokens=True)
    prompt = PromptTemplate(tokenizer).encode(f"{solution} is one solution of How many apples?")
    model = load_model(find_model("miniature/expert"), MachineSettings(dtype="float32", device="cpu"))
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + wrong[:-1]])).logits[0, len(prompt) - 1 :, : len(tokenizer)]
    labels = rows_of(tmp_path, Label)
    assert [label.position for label in labels] == list(range(len(wrong)))
    for label, row_logits in zip(labels, logits.double(), strict=True):
        top = row_logits.topk(5)
        order = top.indices.argsort()
        assert label.token_ids == top.indices[order].tolist()
        np.testing.assert_allclose(label.weights, top.values.softmax(0)[order].numpy(), rtol=1e-4)


@pytest.mark.parametrize(
    "kind", ["sept", *(pytest.param(kind, marks=pytest.mark.slow) for kind in LABEL_FREE if kind != "sept")]
)
def test_a_stopped_baseline_goes_on_to_the_same_labels_from_problems_without_answers(kind: str, tmp_path: Path) -> None:
    config = config_for(tmp_path, kind, **({"samples_per_problem": 3} if kind in VOTERS else {}), consensus=None)
    whole = baseline(config)
    rows, labels = rows_of(tmp_path, Rollout), rows_of(tmp_path, Label)
    assert whole["answers_kept"] == len(rows) > 0
    assert whole["labels"] == len(labels) == sum(len(row.response_ids) for row in rows)
    assert whole["tokens"] >= whole["labels"] or kind == "u-opsd"
    ledger = tmp_path / "sample" / "ledger.jsonl"
    (tmp_path / "sample" / "result.json").unlink()
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:1]))
    assert baseline(config) == whole
    assert rows_of(tmp_path, Rollout) == rows
    assert rows_of(tmp_path, Label) == labels
    manifest = json.loads((tmp_path / "sample" / "manifest.json").read_text())
    assert manifest["fingerprint"]["temperature"] == LABEL_FREE[kind]["temperature"]


def test_gold_answers_change_nothing(tmp_path: Path) -> None:
    questions = ["What is 2 plus 3?", "What is 4 plus 4?"]
    for name, answers in {"a": ["5", "8"], "b": ["6", "9"]}.items():
        rows = [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"answer_kind": "number", "samples_per_problem": 4}
    found = [
        baseline(config_for(tmp_path / name, "majority-vote", dataset=str(tmp_path / f"{name}.jsonl"), **settings))
        for name in "ab"
    ]
    assert found[0] == found[1]
    assert rows_of(tmp_path / "a", Rollout) == rows_of(tmp_path / "b", Rollout)


def test_samples_depend_on_the_seed_and_raw_ones_are_kept_when_cut_off(tmp_path: Path) -> None:
    first = config_for(tmp_path / "a", "self-training", max_new_tokens=5)
    baseline(first)
    rows = rows_of(tmp_path / "a", Rollout)
    assert len(rows) == 6
    assert not any(row.finished for row in rows)
    baseline(first.model_copy(update={"out": tmp_path / "b", "seed": 7, "dataset": "arithmetic"}))
    assert [row.response_ids for row in rows_of(tmp_path / "b", Rollout)] != [row.response_ids for row in rows]


def test_the_samples_of_entropy_minimisation_are_tuned_by_the_entropy(tmp_path: Path) -> None:
    baseline(config_for(tmp_path, "entropy-minimisation", max_questions=4))
    common = {
        "model": "miniature/expert",
        "steps": 8,
        "labels_per_step": 128,
        "dtype": "float32",
        "learning_rate": 4e-3,
    }
    config = FinetuneConfig.checked({**common, "data": tmp_path, "out": tmp_path})
    assert config.objective is None
    result = finetune(config)
    (first, *_, last) = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert result["first_loss"] == first["loss"] > last["loss"] > 0
    assert not {"kl_to_target", "label_entropy"} & first.keys()
    # The same samples as labels, for a user who wants that.
    as_labels = finetune(config.model_copy(update={"objective": "label", "out": tmp_path / "labels"}))
    assert as_labels["first_loss"] != result["first_loss"]
    assert "kl_to_target" in json.loads((tmp_path / "labels/finetune/log.json").read_text())[0]


@pytest.mark.parametrize("kind", ["majority-vote", "u-opsd"])
def test_their_labels_are_tuned_like_samples(kind: str, tmp_path: Path) -> None:
    baseline(config_for(tmp_path, kind, samples_per_problem=3, consensus=0.3))
    _, labels = load_labels(tmp_path, 4096)
    sums = [float(weights.sum()) for weights in labels.weights]
    assert sums == pytest.approx([1.0] * len(labels), abs=1e-5)
    result = finetune(FinetuneConfig(model="miniature/expert", data=tmp_path, out=tmp_path, steps=2, dtype="float32"))
    assert result["labels_trained"] == 32


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            "majority-vote",
            {"samples_per_problem": 1},
            "samples_per_problem = 1 is no vote; majority-vote needs 2 or more",
        ),
        ("u-opsd", {"samples_per_problem": 1}, "samples_per_problem = 1 is no vote"),
        ("majority-vote", {"temperature": 0}, "temperature = 0 makes all samples of a problem the same"),
        ("u-opsd", {"temperature": "0.0"}, "temperature = 0 makes all samples of a problem the same"),
        ("self-training", {"temperature": 0, "top_p": 0.9}, "top_p = 0.9 needs a temperature above 0"),
        ("self-training", {"samples_per_problem": 4}, "samples_per_problem = 4 means nothing for self-training"),
        ("sept", {"consensus": 0.5}, "consensus = 0.5 means nothing for sept"),
        ("rejection-sft", {"temperature": 0.7}, "temperature = 0.7 means nothing for rejection-sft"),
        ("ground-truth", {"hint": "{solution}"}, "means nothing for ground-truth"),
        ("majority-vote", {"solution_field": "x"}, "majority-vote reads no solutions"),
        ("u-opsd", {"hint": "no place for it"}, r"hint = 'no place for it' lacks \{solution\}"),
        ("sept", {"answer_kind": "number"}, "answer_kind = number, but sept judges no answers"),
        ("majority-vote", {"consensus": 1.5}, "consensus"),
        ("majority-vote", {"temperature": -1}, "temperature"),
        ("majority", {}, "did you mean majority-vote"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    kind: str, settings: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, kind, **settings)


def test_generated_problems_have_an_answer_kind_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the answers of arithmetic are compared as number; omit --answer-kind"):
        baseline(config_for(tmp_path, "majority-vote", dataset="arithmetic", max_questions=4, answer_kind="text"))
    assert list(tmp_path.iterdir()) == []


def test_greedy_self_training_needs_no_nucleus(tmp_path: Path) -> None:
    assert config_for(tmp_path, "self-training", temperature=0).top_p is None
    assert config_for(tmp_path, "rejection-sft").identity().keys().isdisjoint(LABEL_FREE["u-opsd"])


@pytest.mark.parametrize("kind", VOTERS)
def test_samples_without_any_answer_are_refused_with_the_reason(kind: str, tmp_path: Path, random_expert: Path) -> None:
    settings: dict[str, Any] = {"model": str(random_expert), "max_new_tokens": 3, "max_questions": 3}
    config = config_for(tmp_path, kind, samples_per_problem=2, **settings)
    message = (
        r"none of 3 problems has a majority: 6 of 6 samples have no answer or no end \(6 cut off at "
        r"--max-new-tokens\).*Raise --max-new-tokens 3"
    )
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            baseline(config)
    # The folder is free for other settings.
    assert baseline(config_for(tmp_path, "sept", **settings))["answers_kept"] == 3


def test_unanimous_samples_have_nothing_to_correct(tmp_path: Path) -> None:
    config = config_for(tmp_path, "u-opsd", samples_per_problem=2, temperature=1e-4)
    with pytest.raises(DataError, match="no sample can be corrected: of 6 problems . have no majority, . no complete"):
        baseline(config)


def test_a_hint_beyond_the_context_is_counted_and_not_trained_on(tmp_path: Path) -> None:
    hint = "word " * 600 + "{solution}"
    with pytest.raises(
        DataError, match=r"no sample can be corrected: .* [1-9] do not fit into the context with the hi"
    ):
        baseline(config_for(tmp_path, "u-opsd", samples_per_problem=3, consensus=0.3, hint=hint))


@pytest.mark.parametrize("kind", list(LABEL_FREE))
def test_from_the_command_line(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightreasoner.cli import app

    flags = f"baseline {kind} --config miniature --max-questions 4 --max-new-tokens 40 --grading-workers 1 --json --out"
    more = ["--samples-per-problem", "3", "--consensus", "0.3", "--temperature", "1.5"] if kind in VOTERS else []
    app([*flags.split(), str(tmp_path), *more], exit_on_error=False, result_action="return_value")
    assert json.loads(capsys.readouterr().out)["answers_kept"] > 0
