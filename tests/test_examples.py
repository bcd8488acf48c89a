"""The examples run as they are."""

import re
import shlex
from pathlib import Path

import pytest

from lightreasoner.cli import app
from lightreasoner.miniature import model_path
from lightreasoner.report import report

from .faults.harness import script, start

ROOT = Path(__file__).parents[1]


def test_the_whole_method_flat() -> None:
    ended = start(patch=script(ROOT / "examples" / "whole_method_flat.py", 20, 3)).end(300)
    assert ended.code == 0, ended.error
    assert int(re.search(r"(\d+) labels from 20 questions", ended.out).group(1)) > 20
    assert "accuracy on 100 new problems" in ended.out


def test_the_loss_in_a_trainer_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    few = ["--max-questions", "6", "--max-new-tokens", "24"]
    app(["sample", "--config", "miniature", *few, "--out", str(tmp_path / "run")], result_action="return_value")
    example = script(ROOT / "examples" / "trl_trainer.py", tmp_path / "run", tmp_path / "out", model_path("expert"), 10)
    ended = start(patch=example).end(300)
    assert ended.code == 0, ended.error
    first, last = map(float, re.search(r"loss ([\d.]+) → ([\d.]+)", ended.out).groups())
    assert last < first
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def stages_of_the_readme(out: Path) -> list[str]:
    """The README's stage-by-stage commands, with small models, few problems and this run folder."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "lightr sample " in block]
    text = block[block.index("lightr sample ") :]
    small = {
        "Qwen/Qwen2.5-Math-1.5B": "miniature/expert", "Qwen/Qwen2.5-0.5B": "miniature/base", "runs/mine": str(out),
        "--dataset gsm8k": "--dataset arithmetic --max-questions 12", "--steps 1000": "--steps 2",
        "--benchmarks gsm8k svamp": "--benchmarks arithmetic --max-items 6 --max-answer-tokens 24",
    }  # fmt: skip
    for known, changed in small.items():
        assert known in text
        text = text.replace(known, changed)
    return [line.partition("#")[0].strip() for line in text.splitlines()]


def test_the_stages_of_the_readme_give_a_complete_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "mine"
    commands = stages_of_the_readme(out)
    assert [command.split()[1] for command in commands] == [
        "sample", "finetune", "merge", "evaluate", "evaluate", "report",
    ]  # fmt: skip
    for command in commands:
        app(shlex.split(command)[1:], exit_on_error=False, print_error=False, result_action="return_value")
    found = report(out)
    assert (found.missing, found.completing) == ((), ())
    assert found.main_test is not None
    assert list(found.cost.seconds) == ["sample", "finetune", "merge", "evaluate_before", "evaluate_after"]
    assert (out / "report.html").is_file()


def test_a_report_names_the_commands_that_complete_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From samples alone, the named commands lead to a complete report; each is named until it is done."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "my run"
    app([*shlex.split(stages_of_the_readme(tmp_path / "mine")[0])[1:-1], str(out)], result_action="return_value")
    named = report(out).completing
    assert [shlex.split(command)[1] for command in named] == ["finetune", "merge", "evaluate", "evaluate"]
    cheap = {"finetune": ["--steps", "2"], "evaluate": ["--max-items", "6", "--max-answer-tokens", "24"]}
    asked = 0
    while todo := report(out).completing:
        words = shlex.split(todo[0])[1:]
        if words[0] == "evaluate" and asked:  # the second one is asked like the first, without being told
            assert "--max-items 6" in todo[0]
            assert "--max-answer-tokens 24" in todo[0]
        else:
            words += cheap.get(words[0], [])
        asked += words[0] == "evaluate"
        app(words, exit_on_error=False, print_error=False, result_action="return_value")
    found = report(out)
    assert found.missing == ()
    assert found.main_test is not None
    assert found.warnings == () or "cut off" in "".join(found.warnings)
