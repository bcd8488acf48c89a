"""The model card, and its commands: the command line parses them to the settings of the run."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.config import MergeConfig
from lightreasoner.training.model_card import finetuning_command, merging_command, model_card, sampling_commands

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


def parsed(command: str) -> dict[str, Any]:
    """The settings that the command line parses it to."""
    program, *words = shlex.split(command)
    assert program == "lightr"
    found = subprocess.run(
        [sys.executable, "-m", "lightreasoner.cli", *words, "--dry-run"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    settings: dict[str, Any] = json.loads(found.stdout)
    return settings


def assert_named(settings: dict[str, Any], facts: dict[str, Any], *, under_other_names: set[str]) -> None:
    for name, value in facts.items():
        if name not in under_other_names and not name.endswith("sha256"):
            assert settings[name] == value, name


def test_commands_of_sampling_and_fine_tuning_name_every_setting() -> None:
    (command,) = sampling_commands(SAMPLED, "runs/it again")
    settings = parsed(command)
    assert_named(settings, SAMPLED, under_other_names={"schema_version", "questions"})
    assert (settings["max_questions"], settings["out"]) == (40, "runs/it again")
    settings = parsed(finetuning_command(TUNED, "runs/it", "runs/it"))
    assert_named(settings, TUNED, under_other_names={"schema_version", "samples"})
    assert (settings["data"], settings["out"]) == ("runs/it", "runs/it")
    settings = parsed(merging_command("miniature/expert", "runs/it", "merged"))
    assert (settings["model"], settings["adapter"], settings["out"]) == ("miniature/expert", "runs/it", "merged")


def test_a_selection_needs_two_commands() -> None:
    sampling, selecting = sampling_commands({**SAMPLED, "selected": RULE}, "RUN")
    assert parsed(sampling)["out"] == "RUN-samples"
    assert shlex.split(selecting)[:5] == ["lightr", "samples", "select", "RUN-samples", "RUN"]
    for flag in ("--selection label_surprise", "--keep-share 0.25", "--contrast own_token", "--seed 7"):
        assert flag in selecting
    assert "--keep-labels" not in selecting


@pytest.mark.parametrize("kind", ["rejection-sft", "ground-truth"])
def test_a_baselines_command_names_its_kind(kind: str) -> None:
    (command,) = sampling_commands({**BASELINE, "baseline": kind}, "RUN")
    settings = parsed(command)
    others = {"schema_version", "questions", "baseline", "expert", "expert_revision"}
    assert_named(settings, BASELINE, under_other_names=others)
    assert (settings["kind"], settings["model"], settings["max_questions"]) == (kind, "miniature/expert", 40)


def test_imported_samples_have_no_command() -> None:
    assert sampling_commands({"imported": True, "expert": "miniature/expert"}, "RUN") == []


MERGE = MergeConfig(model="an/expert", adapter=Path("RUN"), out=Path("merged"))
RESULT = {"mean_kl": 1.25e-7, "dtype": "float32"}


def test_the_card_says_what_was_trained_and_how() -> None:
    card = model_card(MERGE, RESULT, {**TUNED, "samples": {**SAMPLED, "cue": "a | b\nc"}})
    assert card.startswith("---\nlibrary_name: transformers\ntags:\n- lightreasoner\nbase_model: an/expert\n---\n# ")
    assert "on contrastive labels from an expert and a weaker amateur, then merged." in card
    rows = dict(
        line.strip("| ").split(" | ", 1) for line in card.splitlines() if line.startswith("| ") and "| | |" not in line
    )
    assert rows["Amateur"] == "miniature/base"
    assert rows["Problems"] == "40 of arithmetic, no gold answers used"
    assert rows["β, α, rollout length"] == "None, 0.1, 48"
    assert rows["Cue"] == "a \\| b c"
    assert rows["LoRA"] == "rank 8, alpha 16.0, on q_proj, v_proj"
    assert rows["Mean KL to base + adapter"] == "1.25e-07 nats (float32)"
    words = shlex.split(card.partition("```\n")[2].partition("```")[0])
    assert [words[place + 1] for place, word in enumerate(words) if word == "lightr"] == ["sample", "finetune", "merge"]


def test_the_card_of_a_baseline_names_its_data() -> None:
    card = model_card(MERGE, RESULT, {**TUNED, "samples": BASELINE})
    assert "on whole answers, as a baseline for [LightReasoner]" in card
    assert "| Data | rejection-sft, gold answers used |" in card
    assert "| Problems | 40 of arithmetic |" in card


def test_the_card_of_an_adapter_without_a_run_folder_has_the_merge_alone() -> None:
    card = model_card(MERGE, RESULT, {})
    assert "lightr merge --model an/expert" in card
    assert "lightr finetune" not in card
    assert "| Amateur | unknown |" in card
