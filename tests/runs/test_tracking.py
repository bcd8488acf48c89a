"""Every stage leaves its figures in each tracker once; nothing is sent, and nothing becomes public by itself."""

import json
import math
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lightreasoner import pipeline, rounds
from lightreasoner.config import EvaluateConfig, FinetuneConfig, RoundsConfig, RunConfig, SampleConfig
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.runs.tracking import OWN, STATE, Tracker, _say_offline, check_trackers, home, track_result, tracking
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")


class Recording(Tracker):
    """Keeps what it is given, across its runs."""

    seen: list[tuple[Any, ...]] = []

    def __init__(self, folder: Path, run: str) -> None:
        self.seen.append(("start", run))

    def settings(self, stage: str, values: Any) -> None:
        self.seen.append(("settings", stage, dict(values)))

    def log(self, figures: Any, step: int, row: int) -> None:
        self.seen.append(("log", step, dict(figures)))

    def file(self, path: Path, text: str) -> None:
        self.seen.append(("file", path, text))

    def finish(self) -> None:
        self.seen.append(("finish",))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    pytest.importorskip("tensorboard", reason="tensorboard, whose place this takes, is not installed")
    monkeypatch.setitem(OWN, "tensorboard", Recording)
    Recording.seen.clear()
    return Recording.seen


def curves(seen: list[tuple[Any, ...]]) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for what, *rest in seen:
        if what == "log":
            for name, value in rest[1].items():
                found.setdefault(name, []).append((rest[0], value))
    return found


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


@pytest.fixture(scope="module")
def sampled(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleConfig:
    return SampleConfig(
        expert=str(random_expert), amateur=str(random_amateur), dataset="arithmetic", max_questions=6,
        max_new_tokens=10, dtype="float32", out=tmp_path_factory.mktemp("run"), report_to=("tensorboard",),
    )  # fmt: skip


def tuned(config: SampleConfig, **changes: Any) -> FinetuneConfig:
    settings = {"steps": 4, "labels_per_step": 4, "logging_steps": 1, "save_steps": 2, "dtype": "float32", **changes}
    settings = {"out": config.out, "report_to": ("tensorboard",), **settings}
    return FinetuneConfig(model=config.expert, data=config.out, **settings)


@needs_tensorboard
def test_all_stages_of_a_run_folder_are_in_one_place(sampled: SampleConfig, random_expert: Path) -> None:
    """Each stage runs twice: what was sent is not sent again."""
    for _ in range(2):
        result = sample(sampled)
        finetune(tuned(sampled))
        found = evaluate(
            EvaluateConfig(
                model=str(random_expert), benchmarks=("arithmetic",), max_items=3, max_answer_tokens=4,
                dtype="float32", out=sampled.out / "evaluate" / "expert", report_to=("tensorboard",),
            )
        )  # fmt: skip
    there = events(sampled.out)
    tags = set(there.Tags()["scalars"])
    assert [(event.step, event.value) for event in there.Scalars("sample/kept_steps")] == [(0, result["kept_steps"])]
    log = json.loads((sampled.out / "finetune" / "log.json").read_text())
    assert [event.step for event in there.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.value for event in there.Scalars("train/loss")] == pytest.approx([entry["loss"] for entry in log])
    for name in ("accuracy", "low", "high"):
        (event,) = there.Scalars(f"evaluate/expert/chat/arithmetic/{name}")
        assert event.value == pytest.approx(found["chat/arithmetic"][name])
    assert not any("warnings" in tag for tag in tags)
    assert not (sampled.out / "evaluate" / "expert" / "tensorboard").exists()


def test_a_resumed_training_sends_each_step_once(
    sampled: SampleConfig, tmp_path: Path, recorded: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops after step 3; the newest checkpoint is that of step 2, so step 3 is trained twice."""
    sample(sampled)
    recorded.clear()
    from lightreasoner.training import finetuning

    real = finetuning._log

    def stopping(state: Any, *rest: Any) -> None:
        real(state, *rest)
        if state.step == 3 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt

    monkeypatch.setattr(finetuning, "_log", stopping)
    config = tuned(sampled, out=tmp_path / "tuned", steps=5, learning_rate=1e-3)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    assert recorded[-1] == ("finish",)
    finetune(config)
    assert [step for step, _ in curves(recorded)["train/loss"]] == [1, 2, 3, 4, 5]
    log = json.loads((config.out / "finetune" / "log.json").read_text())
    assert [value for _, value in curves(recorded)["train/loss"]] == [entry["loss"] for entry in log]
    assert len({one[1] for one in recorded if one[0] == "start"}) == 1  # one run of the tracker, continued
    assert [one[1] for one in recorded if one[0] == "settings"] == ["finetune"]


def test_a_tracker_that_is_named_later_gets_the_whole_curve(
    sampled: SampleConfig, tmp_path: Path, recorded: list[tuple[Any, ...]]
) -> None:
    sample(sampled)
    finetune(tuned(sampled, out=tmp_path, report_to=()))
    recorded.clear()
    for _ in range(2):
        finetune(tuned(sampled, out=tmp_path))
    log = json.loads((tmp_path / "finetune" / "log.json").read_text())
    assert curves(recorded)["train/loss"] == [(entry["step"], entry["loss"]) for entry in log]


def test_another_training_in_the_folder_has_its_own_curve(tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    with tracking(["tensorboard"], tmp_path) as found:
        for key, step in (("a", 1), ("a", 2), ("b", 1), ("a", 2), ("a", 3)):
            found.curve(key, {"train/loss": 1.0}, step)
    assert [step for step, _ in curves(recorded)["train/loss"]] == [1, 2, 1, 3]


def test_another_result_is_sent_and_the_same_is_not(tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    for steps in (7, 7, 8):
        config = SampleConfig(expert="e", amateur="a", dataset="d", out=tmp_path, report_to=("tensorboard",))
        track_result(config, tmp_path, "sample", {"steps": steps, "text": "x", "flag": True, "inner": {"value": 0.5}})
    assert [one[2] for one in recorded if one[0] == "log"] == [
        {"sample/steps": 7.0, "sample/inner/value": 0.5},
        {"sample/steps": 8.0, "sample/inner/value": 0.5},
    ]


def test_a_worker_and_a_command_without_trackers_send_nothing(tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    config = SampleConfig(expert="e", amateur="a", dataset="d", out=tmp_path, report_to=("tensorboard",))
    track_result(config, tmp_path, "sample", {})
    track_result(config.model_copy(update={"report_to": ()}), tmp_path, "sample", {"steps": 1})
    assert recorded == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_workers_do_not_double_figures(sampled: SampleConfig, tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    result = sample(sampled.model_copy(update={"out": tmp_path / "run", "workers": 2, "batch_size": 2}))
    assert curves(recorded)["sample/kept_steps"] == [(0, result["kept_steps"])]


def test_the_folder_of_an_evaluation_says_which_run_it_is_of(tmp_path: Path) -> None:
    assert home(tmp_path / "evaluate" / "merged", "evaluate") == (tmp_path, "evaluate/merged")
    assert home(tmp_path / "own", "evaluate") == (tmp_path / "own", "evaluate")
    assert home(tmp_path / "evaluate" / "merged", "sample") == (tmp_path / "evaluate" / "merged", "sample")


def test_a_tracker_that_fails_later_does_not_end_the_stage(
    tmp_path: Path, recorded: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Any, figures: Any, step: int, row: int) -> None:
        raise ValueError("no route\nto host")

    monkeypatch.setattr(Recording, "log", broken)
    with tracking(["tensorboard"], tmp_path) as found:
        found.curve("a", {"x": 1.0}, 1)
        found.curve("a", {"x": 1.0}, 2)
    assert capsys.readouterr().err.count("tensorboard takes no more figures (no route)") == 1


def test_a_damaged_state_is_begun_anew(tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    (tmp_path / STATE).write_text("{")
    with tracking(["tensorboard"], tmp_path) as found:
        found.curve("a", {"x": math.pi}, 1)
    assert curves(recorded) == {"x": [(1, math.pi)]}
    assert json.loads((tmp_path / STATE).read_text())["tensorboard"]["a"] == 1


def test_figures_that_are_no_numbers_are_left_out(tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    with tracking(["tensorboard"], tmp_path) as found:
        found.result("sample", {"share": math.nan, "steps": 3, "none": None, "list": [1, 2]})
    assert curves(recorded) == {"sample/steps": [(0, 3.0)]}


def test_a_run_sends_its_report_once_and_again_if_it_changed(
    sampled: SampleConfig, recorded: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(sampled)
    recorded.clear()
    pair = {"expert": sampled.expert, "amateur": sampled.amateur, "dataset": sampled.dataset}
    config = RunConfig.checked({**pair, "out": sampled.out, "report_to": "tensorboard"})
    for gain in (0.1, 0.1, 0.2):
        compared = {"prompt": "chat", "prompts": ["chat"] * 2, "benchmark": "gsm8k", "gain": gain, "low": 0.0}
        pipeline.track_report(config, [compared])
    sent = [one for one in recorded if one[0] in ("log", "file")]
    assert sent[0] == ("log", 0, {"comparison/chat/gsm8k/gain": 0.1, "comparison/chat/gsm8k/low": 0.0})
    assert sent[1][:2] == ("file", sampled.out / "report.html")
    assert sampled.expert in sent[1][2]
    assert [one[0] for one in sent] == ["log", "file", "log"]


def test_the_alarms_of_rounds_are_a_curve(tmp_path: Path, recorded: list[tuple[Any, ...]]) -> None:
    config = RoundsConfig(expert="e", amateur="a", dataset="d", out=tmp_path, report_to=("tensorboard",))
    series = [{"drift": 0.0, "per_prompt": {"x": 1.0}}, {"drift": 0.3}, {"failure": "all rollouts are empty"}]
    for number in (0, 1, 2, 0, 1):  # a resumed command measures again
        rounds._track(config, number, series)
    assert curves(recorded) == {"rounds/drift": [(0, 0.0), (1, 0.3)]}


def test_old_recipes_name_trackers_in_the_section_of_tuning() -> None:
    settings = {"expert": "e", "amateur": "a", "dataset": "d"}
    config = RunConfig.checked({**settings, "finetune": {"report_to": "tensorboard", "steps": 3}})
    assert config.report_to == ("tensorboard",)
    assert config.for_finetune().report_to == config.for_sample().report_to == ("tensorboard",)
    assert config.finetune.steps == 3
    both = RunConfig.checked({**settings, "report_to": "wandb", "finetune": {"report_to": "tensorboard"}})
    assert both.report_to == ("wandb",)


def test_the_prompts_held_back_of_rounds_are_not_sent() -> None:
    config = RoundsConfig(expert="e", amateur="a", dataset="d", report_to=("tensorboard",))
    assert config.sample_of(1).report_to == config.finetune_of(1).report_to == ("tensorboard",)
    assert config.held_back_sample(1).report_to == config.held_back_answers(1).report_to == ()


def test_trackers_decide_nothing(tmp_path: Path) -> None:
    plain = SampleConfig(expert="e", amateur="a", dataset="d", out=tmp_path)
    assert plain.identity() == plain.model_copy(update={"report_to": ("wandb",)}).identity()


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean tensorboard"):
        check_trackers(["tensorbord"])
    check_trackers([])


# --- The trackers themselves ---


@needs_tensorboard
def test_the_report_and_the_settings_are_texts_in_tensorboard(tmp_path: Path) -> None:
    for _ in range(2):
        with tracking(["tensorboard"], tmp_path) as found:
            found.settings("sample", {"expert": "e"})
            found.file(tmp_path / "report.html", "# Report")
    there = events(tmp_path)
    assert [event.tensor_proto.string_val[0] for event in there.Tensors("report/text_summary")] == [b"# Report"]
    assert b'"expert": "e"' in there.Tensors("settings/sample/text_summary")[0].tensor_proto.string_val[0]


def fill(names: list[str], folder: Path) -> None:
    """Two sittings that overlap at step 2."""
    (folder / "report.html").write_text("<html>")
    for steps in ((1, 2), (2, 3)):
        with tracking(names, folder) as found:
            found.settings("finetune", {"learning_rate": 1e-3})
            found.result("sample", {"kept_steps": 12})
            for step in steps:
                found.curve("train", {"train/loss": 1.0 / step}, step)
            found.result("evaluate/merged", {"chat/gsm8k": {"accuracy": 0.5, "low": 0.4, "high": 0.6}})
            found.file(folder / "report.html", "text")


def wandb_records(content: bytes) -> list[bytes]:
    """The records of an offline file: a head of 7 bytes, then blocks of 32 KiB as in the logs of LevelDB."""
    found, place, part = [], 7, b""
    while place < len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(part)
            part = b""
    return found


def test_wandb_works_offline_without_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    monkeypatch.setenv("WANDB_SILENT", "true")
    _say_offline.cache_clear()
    fill(["wandb"], tmp_path)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    history, runs, artifacts = [], set(), []
    for file in files:
        for content in wandb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                runs.add((record.run.run_id, record.run.project))
            elif kind == "history":
                history.append(
                    {
                        (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
            elif kind == "request" and record.request.HasField("log_artifact"):
                artifacts.append(record.request.log_artifact.artifact.name)
            elif kind == "artifact":
                artifacts.append(record.artifact.name)
    assert len(runs) == 1  # the second sitting continues the first
    assert [(row["step"], row["train/loss"]) for row in history if "train/loss" in row] == [
        (1, 1.0),
        (2, 0.5),
        (3, 1 / 3),
    ]
    assert [row["sample/kept_steps"] for row in history if "sample/kept_steps" in row] == [12]
    assert [row["evaluate/merged/chat/gsm8k/high"] for row in history if "evaluate/merged/chat/gsm8k/high" in row] == [
        0.6
    ]
    assert len(artifacts) == 1
    assert [row["_step"] for row in history] == list(range(len(history)))  # no two rows of the sittings share a place
    assert capsys.readouterr().err.count("no login for wandb") == 1


def test_the_mode_of_wandb_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    asked: list[Any] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: asked.append(settings) or 1 / 0)
    monkeypatch.setattr(wandb, "login", lambda *a, **k: pytest.fail("a login was tried"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for mode, key, expected in (("disabled", None, "disabled"), (None, "0" * 40, None), (None, None, "offline")):
        for name, value in (("WANDB_MODE", mode), ("WANDB_API_KEY", key)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        with tracking(["wandb"], tmp_path) as found, pytest.raises(ConfigError, match="wandb: cannot start"):
            found.start()
        assert asked.pop()["mode"] == expected


def test_trackio_keeps_figures_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackio = pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio import sqlite_storage, utils

    for place in (trackio, sqlite_storage, utils):
        if hasattr(place, "TRACKIO_DIR"):
            monkeypatch.setattr(place, "TRACKIO_DIR", tmp_path / "trackio")
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(trackio.deploy, "create_space_if_not_exists", lambda *a, **k: pytest.fail("a Space was made"))
    asked: list[dict[str, Any]] = []
    real = trackio.init
    monkeypatch.setattr(trackio, "init", lambda *a, **k: asked.append(k) or real(*a, **k))
    run = tmp_path / "run"
    run.mkdir()
    fill(["trackio"], run)
    assert all(one["private"] is True and "space_id" not in one for one in asked)
    (name,) = {one["name"] for one in asked}
    rows = sqlite_storage.SQLiteStorage.get_logs("lightreasoner", name)
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [row["sample/kept_steps"] for row in rows if "sample/kept_steps" in row] == [12]
    assert [row["evaluate/merged/chat/gsm8k/low"] for row in rows if "evaluate/merged/chat/gsm8k/low" in row] == [0.4]
    assert capsys.readouterr().out == ""  # stdout is for data
