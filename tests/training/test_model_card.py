"""The commands that a model card or report names are understood, and mean what was done."""

import json
import shlex
import subprocess
import sys
from typing import Any

import pytest

from lightreasoner.training.model_card import finetuning_command, merging_command, sampling_commands

SAMPLED: dict[str, Any] = {
    "schema_version": 3, "expert": "miniature/expert", "expert_revision": None, "expert_sha256": "0" * 64,
    "amateur": "miniature/base", "amateur_revision": None, "amateur_sha256": "1" * 64, "dataset": "arithmetic",
    "questions": 40, "questions_sha256": "2" * 64, "cue": "Think, then \\boxed{it}.", "template_sha256": "3" * 64,
    "dtype": "float32", "max_new_tokens": 48, "divergence_beta": None, "plausibility_alpha": 0.1, "temperature": 0.0,
    "top_p": 1.0, "top_tokens": 5, "vocabulary": "strict", "seed": 7,
}  # fmt: skip
RULE = {
    "selection": "label_surprise", "threshold": None, "keep_share": 0.25, "keep_labels": None, "contrast": "own_token",
    "plausibility_alpha": 0.2, "label_temperature": 1.0, "seed": 7, "samples": "4" * 64,
}  # fmt: skip
BASELINE: dict[str, Any] = {
    "schema_version": 3, "baseline": "rejection-sft", "expert": "miniature/expert", "expert_revision": None,
    "expert_sha256": "0" * 64, "dataset": "arithmetic", "questions": 40, "problems_sha256": "5" * 64, "cue": "Think.",
    "template_sha256": "3" * 64, "dtype": "float32", "max_new_tokens": 64, "judge": "math-verify", "seed": 7,
}  # fmt: skip
TUNED: dict[str, Any] = {
    "schema_version": 3, "model": "miniature/expert", "steps": 12, "labels_per_step": 16, "labels_per_forward": 4,
    "learning_rate": 0.001, "lora_rank": 8, "lora_alpha": 16.0, "lora_dropout": 0.05,
    "lora_targets": ["q_proj", "v_proj"], "max_length": 4096, "max_grad_norm": 1.0, "dtype": "float32", "seed": 7,
    "expert_sha256": "0" * 64, "samples": SAMPLED,
}  # fmt: skip


def understood(command: str) -> dict[str, Any]:
    """The settings that the command line makes of it."""
    program, *words = shlex.split(command)
    assert program == "lightr"
    found = subprocess.run(
        [sys.executable, "-m", "lightreasoner.cli", *words, "--dry-run"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    settings: dict[str, Any] = json.loads(found.stdout)
    return settings


def assert_told(settings: dict[str, Any], facts: dict[str, Any], *, under_other_names: set[str]) -> None:
    for name, value in facts.items():
        if name not in under_other_names and not name.endswith("sha256"):
            assert settings[name] == value, name


def test_sampling_and_tuning_are_told_in_full() -> None:
    (command,) = sampling_commands(SAMPLED, "runs/it again")
    settings = understood(command)
    assert_told(settings, SAMPLED, under_other_names={"schema_version", "questions"})
    assert (settings["max_questions"], settings["out"]) == (40, "runs/it again")
    settings = understood(finetuning_command(TUNED, "runs/it", "runs/it"))
    assert_told(settings, TUNED, under_other_names={"schema_version", "samples"})
    assert (settings["data"], settings["out"]) == ("runs/it", "runs/it")
    settings = understood(merging_command("miniature/expert", "runs/it", "merged"))
    assert (settings["model"], settings["adapter"], settings["out"]) == ("miniature/expert", "runs/it", "merged")


def test_a_selection_is_made_from_samples_that_are_made_first() -> None:
    sampling, selecting = sampling_commands({**SAMPLED, "selected": RULE}, "RUN")
    assert understood(sampling)["out"] == "RUN-samples"
    assert shlex.split(selecting)[:5] == ["lightr", "samples", "select", "RUN-samples", "RUN"]
    for flag in ("--selection label_surprise", "--keep-share 0.25", "--contrast own_token", "--seed 7"):
        assert flag in selecting
    assert "--keep-labels" not in selecting


@pytest.mark.parametrize("kind", ["rejection-sft", "ground-truth"])
def test_a_rivals_data_are_told_as_what_they_are(kind: str) -> None:
    (command,) = sampling_commands({**BASELINE, "baseline": kind}, "RUN")
    settings = understood(command)
    others = {"schema_version", "questions", "baseline", "expert", "expert_revision"}
    assert_told(settings, BASELINE, under_other_names=others)
    assert (settings["kind"], settings["model"], settings["max_questions"]) == (kind, "miniature/expert", 40)


def test_other_peoples_samples_have_no_command() -> None:
    assert sampling_commands({"imported": True, "expert": "miniature/expert"}, "RUN") == []
