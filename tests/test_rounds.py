"""`lightr rounds` on tiny models: what each round reads and writes, and what is kept."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from safetensors.torch import load_file

from lightreasoner import rounds as module
from lightreasoner.config import (
    AdviseConfig,
    DoctorConfig,
    EvaluateConfig,
    FinetuneConfig,
    RoundsConfig,
    RoundsSettings,
    RunConfig,
    SampleConfig,
)
from lightreasoner.errors import ConfigError, DataError, NothingToLearn
from lightreasoner.evaluation.stopping import Decision
from lightreasoner.recipes import recipe_text, resolve
from lightreasoner.report import report
from lightreasoner.rounds import rounds
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import read_samples
from lightreasoner.samples.selecting import select

from .faults.harness import completed

Decide = Callable[[Sequence[dict[str, Any]], RoundsSettings], Decision]


def keeping(*kept: int) -> Decide:
    """A rule that keeps these rounds after 0, 1, … rounds, and ends after the last."""

    def decide(series: Sequence[dict[str, Any]], settings: RoundsSettings) -> Decision:
        done = len(series) - 1
        return Decision(kept[done], done == len(kept) - 1, f"round {kept[done]} is kept for a test")

    return decide


@pytest.fixture
def config(random_expert: Path, random_amateur: Path, tmp_path: Path) -> RoundsConfig:
    settings: dict[str, Any] = {
        "expert": str(random_expert),
        "amateur": str(random_amateur),
        "dataset": "arithmetic",
        "dtype": "float32",
        "out": tmp_path / "out",
        "sample": {"max_questions": 8, "max_new_tokens": 8, "batch_size": 8},
        "finetune": {"steps": 3, "learning_rate": 1e-2},
        "evaluate": {"benchmarks": ["arithmetic"], "max_items": 4, "max_answer_tokens": 8, "grading_workers": 1},
        "rounds": {"held_back": 8, "answers": 2, "limit": 2},
    }
    return RoundsConfig.checked(settings)


def adapter_hash(run: Path) -> str:
    result: str = json.loads((run / "finetune/result.json").read_text())["result"]["adapter_sha256"]
    return result


def questions(run: Path) -> set[str]:
    tables = read_stage(run / "sample")[1].tables("rollouts", ["question"])
    return {text for table in tables for text in table["question"].to_pylist()}


def test_each_round_goes_on_from_the_one_before(config: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decide", keeping(0, 1, 2))
    result = rounds(config)
    first, second = config.folder(1), config.folder(2)
    assert result["kept"] == 2
    assert [one.get("drift", 0) > 0 for one in result["rounds"]] == [False, True, True]
    made = [read_samples(run)[0] for run in (first, second)]
    assert made[0].adapter_files is None
    assert made[1].adapter_files is not None
    assert made[1].adapter_files["adapter_model.safetensors"] == adapter_hash(first)
    tuned = json.loads((second / "finetune/manifest.json").read_text())["fingerprint"]
    assert tuned["adapter_files"]["adapter_model.safetensors"] == adapter_hash(first)
    asked = [questions(run) for run in (config.folder(0) / "held-back", first, second)]
    assert [len(one) for one in asked] == [8, 8, 8]
    assert len(set.union(*asked)) == 24, "held-back problems are never trained on, and each round has fresh ones"
    assert questions(second / "held-back") == asked[0]


@pytest.mark.slow
def test_the_kept_round_makes_a_normal_run_folder(config: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decide", keeping(0, 1, 1))
    result = rounds(config)
    assert adapter_hash(config.out) == adapter_hash(config.folder(1)) != adapter_hash(config.folder(2))
    merged = json.loads((config.out / "merged/lightreasoner.json").read_text())
    assert merged["adapter_sha256"] == result["merge"]["adapter_sha256"] == adapter_hash(config.folder(1))
    assert (config.out / "merged/model.safetensors").exists()
    assert not list((config.out / "finetune").glob("checkpoint-*"))
    found = report(config.out)
    assert found.rounds["kept"] == 1
    assert found.labels is not None
    assert found.commands[0].startswith("lightr rounds --config")
    assert not any("lightr run " in command for command in found.completing)
    page = (config.out / "report.html").read_text()
    assert 'id="rounds"' in page
    assert "round 1 is kept for a test" in page
    assert report(config.folder(2)).labels is not None, "each round is a run folder too"


def test_a_finished_loop_is_read_and_an_interrupted_one_continues(
    config: RoundsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(config: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "decide", keeping(0, 1, 1))
    with monkeypatch.context() as patched:
        patched.setattr(module, "finetune", stop)
        with pytest.raises(KeyboardInterrupt):
            rounds(config)
    result = rounds(config)
    stamps = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.safetensors")}
    for name in ("lightreasoner.samples.sampling.settle", "lightreasoner.training.finetuning._train"):
        monkeypatch.setattr(name, None)
    assert rounds(config) == result
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*.safetensors")} == stamps


@pytest.mark.slow
def test_another_decision_replaces_what_was_kept(config: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decide", keeping(0, 1))
    rounds(config)
    monkeypatch.setattr(module, "decide", keeping(0, 1, 2))
    rounds(config)
    assert adapter_hash(config.out) == adapter_hash(config.folder(2))
    merged = json.loads((config.out / "merged/lightreasoner.json").read_text())
    assert merged["adapter_sha256"] == adapter_hash(config.folder(2))
    monkeypatch.setattr(module, "decide", keeping(0, 0))
    result = rounds(config)
    assert (result["kept"], result["merge"]) == (0, None)
    assert not any((config.out / name).exists() for name in ("merged", "finetune", "sample"))
    assert 'id="rounds"' in (config.out / "report.html").read_text()
    assert report(config.out).expert == config.expert


@pytest.mark.slow
def test_labels_that_run_out_end_the_loop(config: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = module.sample

    def sample(asked: Any) -> dict[str, Any]:
        if asked.out == config.folder(2):
            raise NothingToLearn("none of 9 steps exceeds β = 0.4")
        return sampling(asked)

    monkeypatch.setattr(module, "sample", sample)
    easy = config.rounds.model_copy(update={"evidence": 0.0, "most_lost": 1.0})
    monkeypatch.setattr("lightreasoner.evaluation.stopping.paired_gain", lambda before, after: (0.1, 0.01))
    result = rounds(config.model_copy(update={"rounds": easy}))
    assert result["kept"] == 1
    assert result["rounds"][2] == {"failure": "none of 9 steps exceeds β = 0.4"}
    assert "none of 9 steps exceeds β = 0.4" in (config.out / "report.html").read_text()


# --- Settings ---


def test_the_amateur_may_be_the_expert_before_the_last_round(config: RoundsConfig) -> None:
    previous = config.model_copy(update={"rounds": config.rounds.model_copy(update={"amateur": "previous"})})
    names = [previous.sample_of(number).amateur for number in (1, 2, 3)]
    assert names == [config.amateur, "self:base", f"self:checkpoint={config.folder(1)}"]
    assert [config.sample_of(number).amateur for number in (1, 2, 3)] == [config.amateur] * 3
    assert previous.held_back_sample(2).amateur == config.amateur, "alarms keep one measure"


@pytest.mark.slow
def test_the_expert_before_the_last_round_scores_its_rollouts(
    config: RoundsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.rounds.model_copy(update={"amateur": "previous"})
    config = config.model_copy(update={"rounds": settings})
    config = config.model_copy(update={"sample": config.sample.model_copy(update={"divergence_beta": None})})
    monkeypatch.setattr(module, "decide", keeping(0, 1, 2))
    rounds(config)
    assert "self:base" in (config.folder(2) / "sample/manifest.json").read_text()
    tables = read_stage(config.folder(2) / "sample")[1].tables("rollouts")
    kl = [value for table in tables for row in table.to_pylist() for value in row["kl"]]
    assert max(kl) > 1e-4, "the adapter of round 1 changes what the expert predicts"


@pytest.mark.slow
def test_a_rule_selects_in_every_round(config: RoundsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"selection": "label_surprise", "keep_share": 0.5, "expert_power": 2.0, "plausibility_alpha": 0.05}
    config = RoundsConfig.checked({**config.model_dump(mode="json"), "select": settings})
    monkeypatch.setattr(module, "decide", keeping(0, 0, 2))
    rounds(config)
    for run in (config.folder(1), config.folder(2), config.out):
        _, selected = read_samples(run / "select")
        labels = pa.concat_tables(selected.tables("steps"))
        again = select(config.for_select().model_copy(update={"source": run, "out": tmp_path / "again" / run.name}))
        assert labels.equals(pa.concat_tables(read_samples(tmp_path / "again" / run.name)[1].tables("steps")))
        result = json.loads((run / "finetune/result.json").read_text())["result"]
        assert result["labels"] == len(labels) == again["kept_steps"]
    _, held_back = read_samples(config.folder(1) / "held-back" / "select")
    assert held_back.result is not None
    assert held_back.result["kept_steps"] == held_back.result["steps"], "alarms read the labels of all steps"


def test_the_same_problems_are_taken_again_where_asked_for(config: RoundsConfig) -> None:
    same = config.model_copy(update={"rounds": config.rounds.model_copy(update={"problems": "same"})})
    assert [same.sample_of(number).skip_questions for number in (1, 2, 3)] == [8, 8, 8]
    assert [config.sample_of(number).skip_questions for number in (1, 2, 3)] == [8, 16, 24]


@pytest.mark.slow
def test_the_base_labels_what_the_current_expert_writes(config: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decide", keeping(0, 1))
    rounds(config)
    of = {}
    for labeller in ("current", "base"):
        settings = config.rounds.model_copy(update={"labeller": labeller})
        asked = config.model_copy(update={"rounds": settings}).sample_of(2)
        asked = asked.model_copy(update={"out": config.out.with_name(labeller)})
        module.sample(asked)
        tables = read_stage(asked.out / "sample")[1].tables("rollouts")
        of[labeller] = [row for table in tables for row in table.to_pylist()]
    plain = config.sample_of(2).model_copy(update={"adapter": None, "out": config.out.with_name("plain")})
    module.sample(plain)
    assert [row["response_ids"] for row in of["base"]] == [row["response_ids"] for row in of["current"]]
    for base, current in zip(of["base"], of["current"], strict=True):
        assert base["amateur_entropy"] == pytest.approx(current["amateur_entropy"], abs=1e-5)
    assert any(
        base["expert_entropy"] != pytest.approx(current["expert_entropy"], abs=1e-5)
        for base, current in zip(of["base"], of["current"], strict=True)
    )
    same = {
        row["question_id"]: row
        for table in read_stage(plain.out / "sample")[1].tables("rollouts")
        for row in table.to_pylist()
    }
    shared = [row for row in of["base"] if same[row["question_id"]]["response_ids"] == row["response_ids"]]
    for row in shared:
        assert row["expert_entropy"] == pytest.approx(same[row["question_id"]]["expert_entropy"], abs=1e-5)


@pytest.mark.parametrize(
    ("section", "changes", "words"),
    [
        ("sample", {"max_questions": None}, "give --sample.max-questions N, or --rounds.problems same"),
        ("sample", {"max_questions": 30}, r"has 50 different problems. 8 are held back .* 2 × 30 would be trained on"),
        ("rounds", {"problems": "same", "held_back": 50}, "has 50 different problems. 50 are held back"),
    ],
)
def test_too_few_problems_are_found_before_the_first_round(
    section: str, changes: dict[str, Any], words: str, config: RoundsConfig, tmp_path: Path
) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": f"What is {n} + 1?"}) + "\n" for n in range(50)))
    part = getattr(config, section).model_copy(update=changes)
    with pytest.raises(ConfigError, match=words):
        rounds(config.model_copy(update={"dataset": str(file), section: part}))
    assert not config.out.exists()


def test_the_folder_of_another_run_is_refused(config: RoundsConfig) -> None:
    (config.out / "finetune").mkdir(parents=True)
    with pytest.raises(DataError, match="holds finetune of another run"):
        rounds(config)
    assert (config.out / "finetune").exists()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("limit", 0, "rounds.limit = 0"),
        ("labeller", "bse", "did you mean base"),
        ("amateur", "self:base", "known values: fixed, previous"),
        ("answers", 1, "rounds.answers = 1"),
        ("held_back", 3, "rounds.held_back = 3"),
        ("evidence", -1.0, "rounds.evidence = -1"),
        ("patience", 2, "unknown key rounds.patience"),
    ],
)
def test_wrong_settings_are_named(name: str, value: Any, words: str, config: RoundsConfig) -> None:
    with pytest.raises(ConfigError, match=words):
        RoundsConfig.checked({**config.model_dump(), "rounds": {name: value}})


def test_a_recipe_serves_rounds_too(tmp_path: Path) -> None:
    config = resolve(RoundsConfig, {"out": tmp_path, "rounds": {"limit": 7}}, "miniature")
    assert (config.expert, config.rounds.limit, config.sample.max_questions) == ("miniature/expert", 7, 1000)


def test_a_recipe_with_rounds_serves_the_other_commands_too(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text("miniature") + "rounds: {limit: 2, answers: 4}\n")
    for kind in (RunConfig, AdviseConfig, DoctorConfig, SampleConfig, FinetuneConfig, EvaluateConfig):
        with_rounds, without = (resolve(kind, {}, one) for one in (str(recipe), "miniature"))
        assert with_rounds.model_dump(exclude={"rounds"}) == without.model_dump(exclude={"rounds"})
    planned = completed("plan", "--config", recipe, "--rounds", 2, "--flops", 1e12, "--json")
    assert planned.returncode == 0, planned.stderr
    by_default = completed("plan", "--config", "miniature", "--rounds", 2, "--flops", 1e12, "--json")
    fewer, more = (json.loads(done.stdout)["stages"]["alarms"]["flop"] for done in (planned, by_default))
    assert fewer < more
    recipe.write_text(recipe_text("miniature") + "rounds: {limits: 2}\n")
    with pytest.raises(ConfigError, match=r"unknown key rounds\.limits: did you mean limit"):
        resolve(SampleConfig, {}, str(recipe))


def test_the_command_line(random_expert: Path, random_amateur: Path, tmp_path: Path) -> None:
    words = [
        "rounds", "--expert", random_expert, "--amateur", random_amateur, "--dataset", "arithmetic",
        "--dtype", "float32", "--out", tmp_path / "out", "--sample.max-questions", 8, "--sample.max-new-tokens", 8,
        "--finetune.steps", 2, "--evaluate.benchmarks", "arithmetic", "--evaluate.grading-workers", 1,
        "--evaluate.max-answer-tokens", 32, "--rounds.limit", 1, "--rounds.held-back", 8, "--rounds.answers", 2,
        "--rounds.evidence", 1000, "--json",
    ]  # fmt: skip
    done = completed(*words)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kept"] == 0
    assert "--rounds.evidence 1000" in result["why"]
    assert json.loads((tmp_path / "out/rounds.json").read_text()) == result
    assert yaml.safe_load((tmp_path / "out/config.yaml").read_text())["rounds"]["limit"] == 1
    assert load_file(tmp_path / "out/round-1/finetune/adapter/adapter_model.safetensors")
