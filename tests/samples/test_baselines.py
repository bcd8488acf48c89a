"""The baselines: whole right answers as labels, trained with the same code as the method."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightreasoner.config import BaselineConfig, FinetuneConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.data.problems import load_problems, make_problem
from lightreasoner.errors import DataError
from lightreasoner.grading.extraction import last_boxed
from lightreasoner.inference.generation import Decoding, Generation
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.miniature.word_problems import word_problems
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.baselines import baseline, sft_settings, solved_problems
from lightreasoner.samples.folder import Rollout
from lightreasoner.training.batches import Collator, load_labels
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.objective import LabelObjective

GSM8K_ROWS = [
    {
        "question": "Natalia sold 48 clips in April, and half as many in May. How many altogether?",
        "answer": "In May she sold 48/2 = <<48/2=24>>24 clips.\nThat is 48+24 = <<48+24=72>>72 altogether.\n#### 72",
    },
    {"question": "What is 2+3?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
]


def config_for(out: Path, kind: str = "ground-truth", **settings: object) -> BaselineConfig:
    common = {"model": "miniature/expert", "dataset": "arithmetic", "max_questions": 24, "dtype": "float32"}
    more = {"max_new_tokens": 64, "batch_size": 10, "grading_workers": 1}
    return BaselineConfig.checked({"kind": kind, "out": out, **common, **more, **settings})


def answers_of(folder: Path) -> dict[str, Rollout]:
    _, stage = read_stage(folder / "sample")
    return {row.question_id: row for table in stage.tables("rollouts") for row in Rollout.rows(table)}


@pytest.fixture(scope="module")
def rejection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rejection")
    baseline(config_for(out, "rejection-sft"))
    return out


def test_only_right_and_complete_answers_of_the_model_are_kept(rejection: Path) -> None:
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    problems = [problem for problem, _ in zip(word_problems("train", 42), range(24), strict=False)]
    gold = {make_problem(problem.question).id: str(problem.answer) for problem in problems}
    kept = answers_of(rejection)
    assert 0 < len(kept) < 24
    for question, row in kept.items():
        text = tokenizer.decode(row.response_ids)
        assert last_boxed(text) == gold[question]
        assert text.endswith("<|im_end|>")
    result = json.loads((rejection / "sample" / "result.json").read_text())["result"]
    assert result["questions"] == 24
    assert result["answers_kept"] == len(kept) <= result["correct"]


def test_every_token_of_an_answer_is_a_label_and_the_loss_is_plain_cross_entropy(rejection: Path) -> None:
    _, labels = load_labels(rejection, 4096)
    rows = list(answers_of(rejection).values())
    assert len(labels) == sum(len(row.response_ids) for row in rows)
    source = find_model("miniature/expert")
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    objective = LabelObjective(model, vocabulary_of(load_tokenizer(source), logit_width(model)), len(labels))
    of_first = [i for i in range(len(labels)) if labels.text_of[i] == 0]
    with torch.inference_mode():
        (batch,) = Collator(labels, packed=True, tokens=4096)([[of_first]])
        loss = objective(model, batch).item() * len(labels)
        ids = torch.tensor([rows[0].prompt_ids + rows[0].response_ids])
        targets = ids.clone()
        targets[0, : len(rows[0].prompt_ids)] = -100
        wanted = model(ids, labels=targets).loss.item() * len(of_first)
    assert loss == pytest.approx(wanted, rel=1e-4)


def test_the_same_training_takes_them_unchanged(rejection: Path, tmp_path: Path) -> None:
    settings = json.loads((rejection / "sample" / "result.json").read_text())["result"]["finetune"]
    result = finetune(
        FinetuneConfig(model="miniature/expert", data=rejection, out=tmp_path, learning_rate=1e-3, **settings)
    )
    assert result["steps"] == settings["steps"]
    assert (tmp_path / "finetune" / "adapter" / "adapter_model.safetensors").exists()


def test_one_epoch_in_steps_of_sixteen_answers() -> None:
    settings = sft_settings(labels=1_770_000, answers=3952)  # Table 2, Qwen2.5-Math-1.5B
    assert settings["steps"] == pytest.approx(3952 / 16, abs=1)  # Table 10
    assert settings["labels_per_step"] == pytest.approx(16 * 1_770_000 / 3952, abs=1)


def test_written_solutions_follow_the_cue_without_calculator_marks(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*GSM8K_ROWS, GSM8K_ROWS[0]]))
    result = baseline(config_for(tmp_path / "run", dataset=str(file)))
    assert (result["questions"], result["answers_kept"]) == (2, 2)
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    texts = {tokenizer.decode(row.response_ids) for row in answers_of(tmp_path / "run").values()}
    assert texts == {
        "In May she sold 48/2 = 24 clips.\nThat is 48+24 = 72 altogether.\n\\boxed{72}<|im_end|>",
        "2+3=5\n\\boxed{5}<|im_end|>",
    }


PROSE = (
    "She sells half of her clips to her friends in May and then all of the others to her mother, so it is seventy-two."
)


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"solution": r"So \boxed{7}.", "answer": "8"}, "7"),
        ({"solution": PROSE, "answer": 72.0}, "72"),
        ({"solution": "The answer is 7."}, "7"),
        ({"answer": "72"}, "72"),
        ({"answer": 72.0}, "72"),
        ({"response": "So\n#### 7"}, "7"),
        ({"response": "So\n#### 7\nThat is all of it."}, "7"),
        ({"solution": "#### Step 1\nAdd.\n#### Step 2\nSo it is 7 in all.", "answer": 7}, "7"),
        ({"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": r"\boxed{7}"}]}, "7"),
    ],
)
def test_the_gold_answer_comes_from_the_solution_or_its_own_field(
    row: dict[str, Any], gold: str, tmp_path: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"question": "How many?", **row}))
    (solved,) = solved_problems(config_for(tmp_path / "run", dataset=str(file)))
    assert solved.problem.answer == gold


@pytest.mark.parametrize(
    ("row", "solution"),
    [
        ({"solution": "2+5\n#### 7\nThat is all of it."}, "2+5\n\\boxed{7}\nThat is all of it."),
        ({"solution": "#### Step 1: add\n2+5\n#### 7"}, "#### Step 1: add\n2+5\n\\boxed{7}"),
        ({"solution": "#### Step 1\nAdd.\n#### Step 2\nSo it is 7 in all.", "answer": 7}, None),
        ({"solution": "#### 8 of them\n2+5 = \\boxed{7}"}, None),
    ],
)
def test_only_the_marked_answer_of_a_solution_becomes_a_box(
    row: dict[str, Any], solution: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"question": "How many?", **row}))
    (solved,) = solved_problems(config_for(tmp_path / "run", dataset=str(file)))
    assert solved.solution == (solution or row["solution"])
    assert solved.problem.answer == "7"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": PROSE}, "answer is .* a solution without a marked answer"),
        ({"solution": PROSE}, "solution is .* a solution without a marked answer"),
        ({"solution": "So\n####"}, "solution has #### without an answer behind it"),
        ({"solution": PROSE, "answer": None}, "answer is None, not a text"),
        ({"solution": PROSE, "answer": PROSE}, "the gold answer is .* not an answer"),
        ({"solution": None}, "solution is None, not a text"),
    ],
)
@pytest.mark.parametrize("kind", ["ground-truth", "rejection-sft"])
def test_a_solution_that_marks_no_answer_is_refused_with_its_line(
    kind: Any, row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text(json.dumps({"question": "How many?", **row}))
    with pytest.raises(DataError, match=f"problems.jsonl, line 1: {message}"):
        list(solved_problems(config_for(tmp_path / "run", kind, dataset=str(file))))


def test_a_gsm8k_row_without_its_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text(json.dumps({"question": "How many?", "answer": "So it is 72."}))
    with pytest.raises(DataError, match="train.jsonl, line 1: answer is .* without #### before its final number"):
        list(solved_problems(config_for(tmp_path / "run", dataset="gsm8k", data_dir=tmp_path)))


def test_a_stopped_baseline_goes_on_to_the_same_labels(tmp_path: Path) -> None:
    whole = baseline(config_for(tmp_path))
    before = answers_of(tmp_path)
    (tmp_path / "sample" / "result.json").unlink()
    ledger = tmp_path / "sample" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:1]))
    assert baseline(config_for(tmp_path)) == whole
    assert answers_of(tmp_path) == before


def test_choices_that_the_question_does_not_list_have_no_solution(tmp_path: Path) -> None:
    row = {"question": "Which is a mammal?", "choices": ["trout", "whale"], "answer": "whale"}
    file = tmp_path / "problems.jsonl"
    file.write_text(
        "".join(json.dumps({**row, "question": f"{row['question']}{end}"}) + "\n" for end in (" trout whale", ""))
    )
    solved = solved_problems(config_for(tmp_path / "run", dataset=str(file)))
    assert next(solved).solution == "whale"
    with pytest.raises(
        DataError, match="problems.jsonl, line 2: the question does not list the choice 'trout' of choices"
    ):
        next(solved)
    assert len(load_problems(str(file)).problems) == 2


@pytest.mark.parametrize("kind", ["ground-truth", "rejection-sft"])
def test_a_chat_that_ends_with_the_user_has_no_solution_to_its_last_question(kind: str, tmp_path: Path) -> None:
    turns = [("user", "What is 2*4?"), ("assistant", r"\boxed{8}"), ("user", "Thanks!")]
    rows = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in (turns[:2], turns)]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    solved = solved_problems(config_for(tmp_path / "run", kind, dataset=str(file)))
    first = next(solved)
    assert (first.problem.question, first.problem.answer) == ("What is 2*4?", "8")
    with pytest.raises(DataError, match="chats.jsonl, line 2: the chat in messages ends with 'Thanks!' of the user"):
        next(solved)
    asked = load_problems(str(file)).problems
    assert [problem.question for problem in asked] == ["What is 2*4?", "Thanks!"], "sampling needs no answer"


def test_problems_without_solutions_and_models_without_right_answers_are_refused(
    tmp_path: Path, random_expert: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "How many?"}\n')
    with pytest.raises(DataError, match="--solution-field"):
        baseline(config_for(tmp_path / "a", dataset=str(file)))
    with pytest.raises(DataError, match="nothing to learn from"):
        baseline(config_for(tmp_path / "b", "rejection-sft", model=str(random_expert), max_questions=4))


def test_a_stop_text_ends_a_right_answer_and_is_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rejection: Path
) -> None:
    free = answers_of(rejection)
    template = load_tokenizer(find_model("miniature/expert"))
    run_on = template("\n \nQuestion: What is 2?\nAnswer: \\boxed{2}")["input_ids"]
    generate = PackedEngine.generate

    def continued(self: PackedEngine, prompts: list[list[int]], decoding: Decoding) -> Generation:
        return Generation([[*ids[:-1], *run_on] for ids in generate(self, prompts, decoding).responses])

    monkeypatch.setattr(PackedEngine, "generate", continued)
    baseline(config_for(tmp_path, "rejection-sft", stop_strings=["\n\nQuestion:"]))
    kept = answers_of(tmp_path)
    assert kept.keys() == free.keys()
    for key, row in kept.items():
        assert row.response_ids == free[key].response_ids[:-1]


def test_questions_beyond_the_context_are_counted_and_hold_no_other_answer_up(rejection: Path, tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    problems = [problem for problem, _ in zip(word_problems("train", 42), range(24), strict=False)]
    rows = [{"question": problem.question, "answer": str(problem.answer)} for problem in problems]
    long = {"question": "What is " + "2 + " * 400 + "3?", "answer": "803"}
    file.write_text("".join(json.dumps(row) + "\n" for row in [long, *rows]))
    config = config_for(tmp_path / "run", "rejection-sft", dataset=str(file), max_questions=25)
    assert baseline(config)["prompt_too_long"] == 1
    responses = {key: row.response_ids for key, row in answers_of(tmp_path / "run").items()}
    assert responses == {key: row.response_ids for key, row in answers_of(rejection).items()}
    file.write_text(json.dumps(long))
    with pytest.raises(DataError, match="the question is longer than the model's context"):
        baseline(config.model_copy(update={"out": tmp_path / "other"}))


def test_a_baseline_without_a_right_answer_says_what_the_answers_were(tmp_path: Path, random_expert: Path) -> None:
    config = config_for(tmp_path, "rejection-sft", model=str(random_expert), max_questions=4, max_new_tokens=8)
    with pytest.raises(DataError, match="4 no_answer; 4 cut off at --max-new-tokens.*Raise --max-new-tokens 8"):
        baseline(config)
    with pytest.raises(DataError, match="cut off at --max-new-tokens"):
        baseline(config.model_copy(update={"max_new_tokens": 9}))
    assert baseline(config.model_copy(update={"kind": "ground-truth"}))["answers_kept"] == 4


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightreasoner.cli import app

    arguments = "baseline ground-truth --model miniature/expert --dataset arithmetic --max-questions 3 --json --out"
    app([*arguments.split(), str(tmp_path)], exit_on_error=False, result_action="return_value")
    assert json.loads(capsys.readouterr().out)["answers_kept"] == 3
