"""The kinds of job: folders named by content, one line of JSON for another process, held-out losses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lightreasoner.config import EvaluateConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.models.loading import load_model
from lightreasoner.models.source import find_model
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout
from lightreasoner.studies import jobs
from lightreasoner.studies.jobs import Baseline, Samples, TunedTemperature, checkpoint_steps, from_json
from lightreasoner.studies.outcomes import Group
from lightreasoner.studies.scheduler import run_jobs
from lightreasoner.studies.study import STUDIES, study
from tests.studies.harness import jobs_of, scope_of


def test_a_folder_is_named_by_what_decides_its_content() -> None:
    scope = scope_of()
    job = scope.method(scope.main, 2)[0]
    assert job.folder != scope.method(scope.main, 2)[1].folder
    assert job.folder != scope.method(scope.main, 2, {"threshold": 0.5})[0].folder
    assert job.folder != scope.method(scope.main, 2, finetune={"steps": 7})[0].folder
    same = scope.method(scope.main, 1, sample={"batch_size": 7})[0]
    assert job.folder == same.folder
    elsewhere = scope_of(root=Path("other"))
    assert elsewhere.method(elsewhere.main, 1)[0].folder.relative_to("other") == job.folder.relative_to("root")


def test_speed_places_and_devices_do_not_change_a_folder() -> None:
    scope = scope_of()
    folder = scope.method(scope.main, 1)[0].folder
    for changes in ({"out": Path("x")}, {"device": "cuda:1"}):
        assert scope.method(scope.main.model_copy(update=changes), 1)[0].folder == folder
    for section, setting in (
        ("sample", "batch_size"),
        ("finetune", "tokens_per_micro_batch"),
        ("finetune", "save_steps"),
        ("finetune", "keep_checkpoints"),
        ("finetune", "logging_steps"),
        ("evaluate", "answer_batch_size"),
        ("evaluate", "grading_workers"),
    ):
        assert scope.method(scope.main, 1, **{section: {setting: 3}})[0].folder == folder
    samples = Samples.of(scope.root, scope.main)
    assert Samples.of(scope.root, scope.main.model_copy(update={"device": "cuda:1"})).folder == samples.folder


@pytest.mark.parametrize("name", STUDIES)
def test_a_job_reaches_another_process_unchanged(name: str) -> None:
    for job in jobs_of(STUDIES[name].plan(scope_of())).values():
        again = from_json(json.loads(json.dumps(job.to_json())))
        assert (again, again.folder) == (job, job.folder)


@pytest.mark.slow
def test_a_shared_training_has_the_checkpoints_that_a_study_reads(tiny: Path, tmp_path: Path) -> None:
    other = json.loads(tiny.read_text())
    other["finetune"] |= {"save_steps": 3, "keep_checkpoints": 1, "logging_steps": 2}
    file = tmp_path / "other.yaml"
    file.write_text(json.dumps(other))
    scope = scope_of(str(file), root=tmp_path / "out", quick=False)
    (first,) = scope.method(scope.main, 1)
    run_jobs([first], workers=1)
    saved = sorted(path.name for path in first.folder.glob("finetune/checkpoint-*"))
    assert saved == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]

    study("figure8", recipes=[str(tiny)], out=tmp_path / "out", seeds=1, workers=1)
    assert list((tmp_path / "out" / "trainings").iterdir()) == [first.folder]
    rows = json.loads((tmp_path / "out" / "reports" / "figure8.table.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [1]),
        (4, [1, 2, 3, 4]),
        (19, [2, 4, 6, 8, 10, 12, 14, 16, 18, 19]),
        (400, [40, 80, 120, 160, 200, 240, 280, 320, 360, 400]),
    ],
)
def test_checkpoints_are_at_equal_distances_and_at_the_end(steps: int, expected: list[int]) -> None:
    assert checkpoint_steps(steps) == expected


@pytest.mark.slow
def test_held_out_loss_is_that_of_the_base_and_of_the_adapter(finished: Path) -> None:
    (losses,) = (finished / "losses").glob("*/done.json")
    curve = json.loads(losses.read_text())["results"]["losses"]
    (solutions,) = (finished / "held-out").glob("*/sample")
    (adapter,) = (finished / "trainings").glob("*/finetune/adapter")
    _, stage = read_stage(solutions)
    rows = [row for table in stage.tables("rollouts") for row in Rollout.rows(table)]
    assert len(rows) == 200
    model = load_model(find_model("miniature/expert"), MachineSettings(dtype="float32", device="cpu"))

    @torch.inference_mode()
    def loss(forward: Any) -> float:
        total, tokens = 0.0, 0
        for row in rows:
            logits = forward(torch.tensor([row.prompt_ids + row.response_ids])).logits[0, len(row.prompt_ids) - 1 : -1]
            targets = torch.tensor(row.response_ids)
            total += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
            tokens += len(targets)
        return total / tokens

    assert curve[0] == {"step": 0, "loss": pytest.approx(loss(model), rel=1e-4)}
    assert curve[-1] == {"step": 4, "loss": pytest.approx(loss(PeftModel.from_pretrained(model, adapter)), rel=1e-4)}
    assert curve[0]["loss"] != curve[-1]["loss"]


def test_the_temperature_of_the_base_is_chosen_on_problems_that_are_not_evaluated(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope = scope_of(str(tiny), root=tmp_path, quick=False)
    job = TunedTemperature.of(tmp_path, scope.main, (0.9, 0.0, 0.5))
    asked: list[tuple[str, float]] = []

    def evaluated(config: EvaluateConfig) -> dict[str, dict[str, float]]:
        (name,) = config.benchmarks
        asked.append((Path(name).name, config.temperature))
        return {"chat/x": {"accuracy": {0.0: 0.5, 0.5: 0.75, 0.9: 0.75}[config.temperature]}}

    monkeypatch.setattr(jobs, "evaluate", evaluated)
    job.folder.mkdir(parents=True)
    result = job.make()
    assert asked == [("problems.jsonl", 0.0), ("problems.jsonl", 0.5), ("problems.jsonl", 0.9), ("arithmetic", 0.5)]
    assert result["choice"] == {"temperature": 0.5, "accuracies": {"0": 0.5, "0.5": 0.75, "0.9": 0.75}}
    assert job.needs() == [job.held_out]


def test_the_held_out_problems_can_be_evaluated_at_a_temperature(tiny: Path, tmp_path: Path) -> None:
    settings = json.loads(tiny.read_text())
    settings["evaluate"]["max_items"] = 6
    (tmp_path / "small.yaml").write_text(json.dumps(settings))
    scope = scope_of(str(tmp_path / "small.yaml"), root=tmp_path, quick=False)
    job = TunedTemperature.of(tmp_path, scope.main, (0.0, 1.0))
    run_jobs([job], workers=1)
    assert job.finished["results"]["choice"]["accuracies"].keys() == {"0", "1"}
    assert Group([job]).columns


def test_a_sampled_baseline_has_the_seed_of_its_training_and_a_greedy_one_shares_its_data() -> None:
    scope = scope_of("qwen2.5-math-1.5b")
    greedy = {job.data.folder for job in scope.baseline(scope.main, "rejection-sft", 2)}
    sampled = {job.data.folder for job in scope.baseline(scope.main, "majority-vote", 2)}
    assert (len(greedy), len(sampled)) == (1, 2)


def test_equal_labels_are_another_training_on_the_methods_problems() -> None:
    scope = scope_of()
    (epoch,), (equal,) = (scope.baseline(scope.main, "rejection-sft", 1, like_method=like) for like in (False, True))
    assert epoch.folder != equal.folder
    assert isinstance(equal.data, Baseline)
    assert equal.data.config.max_questions == scope.main.sample.max_questions
    assert "equal_labels" not in epoch.identity(), "folders of earlier studies stay valid"
