"""The commands that a model card or report names are understood, and mean what was done."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.config import BaselineConfig, FinetuneConfig, SampleConfig, SelectConfig
from lightreasoner.config.sections import LABEL_FREE
from lightreasoner.samples.folder import Baseline, Imported, Made, Sampled, Selected
from lightreasoner.training.model_card import Model, Tuned, merging_command, model_card, sampling_commands

from ..faults.harness import completed

PROMPT: dict[str, Any] = {"cue": "Think, then \\boxed{it}.", "asked": {}}
EXPERT: dict[str, Any] = {"expert": "miniature/expert", "expert_files": {"model.safetensors": "0" * 64}}
SAMPLED = Sampled(
    **EXPERT,
    **PROMPT,
    amateur="miniature/base",
    amateur_files={},
    dataset="arithmetic",
    questions=40,
    questions_sha256="2" * 64,
    alpha=0.1,
    settings=SampleConfig(
        expert="miniature/expert", amateur="miniature/base", dataset="arithmetic", max_questions=40, max_new_tokens=48,
        cue=PROMPT["cue"], divergence_beta=None, plausibility_alpha=0.1, seed=7, out=Path("runs/first"), batch_size=3,
        question_field="question", expert_revision="main",
    ),
    dtype="float32",
)  # fmt: skip
RULE = SelectConfig(
    selection="label_surprise", keep_share=0.25, contrast="own_token", plausibility_alpha=0.2, seed=7,
    source=Path("runs/first"), out=Path("runs/second"),
)  # fmt: skip
BASELINE_SETTINGS = BaselineConfig(
    kind="rejection-sft", model="miniature/expert", dataset="arithmetic", max_questions=40, cue="Think.",
    max_new_tokens=64, seed=7, out=Path("runs/first"),
)  # fmt: skip
TUNED = Tuned(
    settings=FinetuneConfig(
        model="miniature/expert", steps=12, labels_per_forward=4, learning_rate=0.001, seed=7, data=Path("runs/first"),
        out=Path("runs/first"),
    ),
    expert_files={},
    labels_sha256="7" * 64,
    dtype="float32",
    samples=SAMPLED,
)  # fmt: skip


def facts_of(made: Made) -> dict[str, Any]:
    return {name: getattr(made, name) for name in Made.model_fields}


def understood(command: str) -> dict[str, Any]:
    """The settings that the command line makes of it."""
    program, *words = shlex.split(command)
    assert program == "lightr"
    found = completed(*words, "--dry-run")
    assert found.returncode == 0, found.stderr
    settings: dict[str, Any] = json.loads(found.stdout)
    return settings


def test_sampling_and_tuning_are_told_in_full() -> None:
    (command,) = sampling_commands(SAMPLED, "runs/it again")
    settings = understood(command)
    wanted = {**SAMPLED.settings.identity(inputs=True), "dtype": "float32", "out": "runs/it again"}
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["batch_size"] is None  # speed is left to the machine
    (command,) = TUNED.commands("runs/it", "runs/it")
    settings = understood(command)
    wanted = {**TUNED.settings.identity(), "dtype": "float32", "data": "runs/it", "out": "runs/it"}
    assert {name: settings[name] for name in wanted} == wanted
    settings = understood(merging_command("miniature/expert", "runs/it", "merged"))
    assert (settings["model"], settings["adapter"], settings["out"]) == ("miniature/expert", "runs/it", "merged")


def test_a_selection_is_made_from_samples_that_are_made_first() -> None:
    chosen = Selected(**facts_of(SAMPLED), settings=RULE, source=SAMPLED, samples_sha256="4" * 64)
    sampling, selecting = sampling_commands(chosen, "RUN")
    assert understood(sampling)["out"] == "RUN-samples"
    assert shlex.split(selecting)[:5] == ["lightr", "samples", "select", "RUN-samples", "RUN"]
    for flag in ("--selection label_surprise", "--keep-share 0.25", "--contrast own_token", "--seed 7"):
        assert flag in selecting
    assert "--keep-labels" not in selecting


@pytest.mark.parametrize("kind", ["rejection-sft", "ground-truth", "sept", "u-opsd"])
def test_the_data_of_a_baseline_are_named_as_such(kind: str) -> None:
    settings = BaselineConfig.checked({**BASELINE_SETTINGS.model_dump(), "kind": kind})
    made = Baseline(**EXPERT, **PROMPT, settings=settings, problems_sha256="5" * 64, dtype="float32")
    (command,) = sampling_commands(made, "RUN")
    found = understood(command)
    wanted = {**settings.identity(inputs=True), "dtype": "float32", "out": "RUN"}
    assert {name: found[name] for name in wanted} == wanted
    training = TUNED.model_copy(update={"samples": made})
    card = model_card(Model("RUN/merged", "miniature/expert", training, {"mean_kl": 0.0, "dtype": "float32"}))
    assert f"{kind}, {'no gold' if kind in LABEL_FREE else 'gold'} answers used" in card


def test_imported_samples_have_no_command() -> None:
    made = Imported(**EXPERT, **PROMPT, file_sha256="6" * 64, questions_sha256=None, question_field=None)
    assert sampling_commands(made, "RUN") == []
    chosen = Selected(**facts_of(made), settings=RULE, source=made, samples_sha256="4" * 64)
    assert sampling_commands(chosen, "RUN") == []
