"""The whole stage: its settings, its resumption, the benchmarks it takes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.config import EvaluateConfig
from lightreasoner.data.benchmarks import PAPER_SET
from lightreasoner.errors import ConfigError, RunMismatch
from lightreasoner.evaluation import judging
from lightreasoner.evaluation.comparison import compare
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference import engines

from .helpers import answers, config_for, verdicts


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "tiny"
    evaluate(config_for(out, max_items=8))
    return out


def test_several_greedy_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="samples_per_problem = 4 needs a temperature"):
        EvaluateConfig.checked({"model": "m", "out": tmp_path, "samples_per_problem": 4})


def test_unknown_items_give_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text(json.dumps({"question": "Why?", "answer": "#### 1"}) + "\n")
    settings: dict[str, Any] = {"benchmarks": ("gsm8k",), "data_dir": tmp_path, "max_items": None}
    assert evaluate(config_for(tmp_path / "out", **settings))["chat/gsm8k"]["items_known"] is False
    assert "the items of gsm8k are not those that others report figures on (1 read)" in capsys.readouterr().err


def asked_of(out: Path, **settings: Any) -> list[int]:
    """Places in the benchmark of the items that were answered."""
    figures = evaluate(config_for(out, max_answer_tokens=1, **settings))
    places = sorted(int(item.partition("-")[0]) for item, _ in answers(out))
    assert figures["chat/arithmetic"]["total"] == len(places)
    return places


def test_items_are_skipped_and_keep_their_places(tmp_path: Path) -> None:
    assert asked_of(tmp_path / "some", skip_items=5, max_items=3) == [5, 6, 7]
    assert asked_of(tmp_path / "rest", skip_items=1996, max_items=None) == [1996, 1997, 1998, 1999]
    assert asked_of(tmp_path / "few", skip_items=1998, max_items=10) == [1998, 1999]
    for skipped, limit in ((2000, None), (2500, 10)):
        with pytest.raises(ConfigError, match=f"arithmetic has 2000 items, and --skip-items {skipped} leaves out all"):
            evaluate(config_for(tmp_path / "none", skip_items=skipped, max_items=limit))


def test_items_are_drawn_by_their_seed_from_those_not_skipped(tmp_path: Path) -> None:
    drawn = asked_of(tmp_path / "1", skip_items=1000, max_items=40, items_seed=1)
    assert len(set(drawn)) == 40
    assert 1000 <= drawn[0] < 1200  # a chance of 1e-4 that all 40 lie above
    assert 1800 < drawn[-1] < 2000
    assert asked_of(tmp_path / "again", skip_items=1000, max_items=40, items_seed=1) == drawn
    assert asked_of(tmp_path / "2", skip_items=1000, max_items=40, items_seed=2) != drawn
    with pytest.raises(ConfigError, match="items_seed draws max_items of the items, and max_items is not given"):
        EvaluateConfig.checked({"model": "m", "out": tmp_path, "items_seed": 1})
    with pytest.raises(ConfigError, match="items_seed = -1"):
        EvaluateConfig.checked({"model": "m", "out": tmp_path, "max_items": 3, "items_seed": -1})


def test_a_finished_evaluation_loads_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(config_for(tmp_path, max_items=8))
    monkeypatch.setattr(engines, "load_model", None)
    monkeypatch.setattr(judging, "GradingPool", None)
    assert evaluate(config_for(tmp_path, max_items=8)) == first


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"max_items": 9}, "items: 8 there, 9 now"),
        ({"skip_items": 1}, "skip_items: "),
        ({"items_seed": 0}, "items_seed: "),
        ({"max_answer_tokens": 32}, "max_answer_tokens: 64 there, 32 now"),
        ({"stop_strings": ("x",)}, "stop_strings: "),
        ({"temperature": 0.5}, "temperature: 0.0 there, 0.5 now"),
        ({"cue": "Think."}, "cue: "),
        ({"model": "miniature/base"}, "model: "),
        ({"grading_seconds": 3.0}, "grading_seconds: 10.0 there, 3.0 now"),
    ],
)
def test_a_folder_refuses_other_settings(changed: dict[str, Any], named: str, tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(RunMismatch, match=named):
        evaluate(config_for(tiny, **{"max_items": 8, **changed}))


SEVEN = [name for name in (*PAPER_SET, "math500") if name != "math"]


@pytest.mark.slow
def test_seven_benchmarks_killed_at_random_and_resumed_give_the_uninterrupted_results(
    data_dir: Path, tmp_path: Path
) -> None:
    settings = [
        "--model", "miniature/expert", "--data-dir", data_dir, "--max-items", 10, "--max-answer-tokens", 24,
        "--answer-batch-size", 2, "--dtype", "float32", "--grading-workers", 1, "--benchmarks", *SEVEN, "--json",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "lightreasoner.cli", "evaluate", *map(str, settings), "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    whole, error = start(tmp_path / "whole").communicate(timeout=300)
    assert whole, error
    out, chance, committed = tmp_path / "parts", random.Random(7), [0]

    def done() -> int:
        return sum(len(ledger.read_bytes().splitlines()) for ledger in out.rglob("ledger.jsonl"))

    for _ in range(4):
        process = start(out)
        wanted = done() + chance.randint(3, 12)  # killed at some moment after some more commits
        while process.poll() is None and done() < wanted:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        committed.append(done())
    assert committed == sorted(set(committed))  # each round got further, and was not done yet
    assert not (out / f"chat/{SEVEN[-1]}/math-verify/result.json").exists()
    parts, error = start(out).communicate(timeout=300)
    assert parts, error
    assert json.loads(parts) == json.loads(whole)
    for name in SEVEN:
        key = f"chat/{name}"
        assert answers(out, key) == answers(tmp_path / "whole", key)
        assert verdicts(out, key) == verdicts(tmp_path / "whole", key)


def test_unknown_benchmarks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'gsm9k': did you mean gsm8k\?"):
        EvaluateConfig.checked({"model": "miniature/expert", "out": tmp_path, "benchmarks": ["gsm9k"]})


def test_paper_selects_the_seven_benchmarks_of_the_paper(data_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_items": 1, "max_answer_tokens": 4, "data_dir": tmp_path}
    for name in PAPER_SET:
        source = data_dir / ("math500" if name == "math" else name)
        (tmp_path / name).symlink_to(source)
    found = evaluate(config_for(tmp_path / "out", benchmarks=("paper", "arithmetic", "gsm8k"), **settings))
    assert list(found) == [f"chat/{name}" for name in (*PAPER_SET, "arithmetic")]


def test_evaluation_is_reached_from_the_package() -> None:
    import lightreasoner

    assert lightreasoner.evaluate is evaluate
    assert lightreasoner.compare is compare
