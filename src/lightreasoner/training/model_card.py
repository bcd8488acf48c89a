"""How an adapter was trained: its record, the commands that train it again, and the README of a merged model."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lightreasoner.config import FinetuneConfig, MergeConfig
from lightreasoner.config_base import Config
from lightreasoner.config_sections import LABEL_FREE
from lightreasoner.errors import RunCorrupted
from lightreasoner.miniature import is_bundled
from lightreasoner.models.sides import amateur_words
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples.folder import Baseline, Made, Provenance, Sampled, Selected


class Tuned(BaseModel):
    """How an adapter was trained: the `record` in the manifest of the folder `finetune`.

    Attributes:
        expert_files: hash of each file of the model that decides, by name.
        adapter_files: those of the adapter that was continued; None for a fresh one.
        samples: how the training data were made.
        labels_sha256: hash of the labels.
    """

    model_config = ConfigDict(frozen=True)

    settings: FinetuneConfig
    expert_files: dict[str, str]
    adapter_files: dict[str, str] | None = None
    dtype: str
    samples: Provenance
    labels_sha256: str

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the adapter."""
        facts = self.model_dump(include={"expert_files", "adapter_files", "dtype", "labels_sha256"}, exclude_none=True)
        return {**self.settings.identity(), **facts, "samples": self.samples.fingerprint()}

    def commands(self, data: str, out: str) -> list[str]:
        """The command that trains this adapter again, on training data that are there."""
        return [_command(["finetune"], self.settings, out, dtype=self.dtype, data=data)]


def tuned(stage: StageFolder) -> Tuned:
    """How the adapter of a fine-tuning stage was trained.

    Raises:
        RunCorrupted: the manifest is not that of fine-tuning.
    """
    try:
        return Tuned.model_validate(stage.manifest["record"])
    except ValidationError:
        raise RunCorrupted(f"{stage.path / 'manifest.json'} is not that of `lightr finetune`") from None


def sampling_commands(made: Made, out: str) -> list[str]:
    """The commands that make these samples again in the run folder `out`; none for imported ones."""
    if isinstance(made, Sampled):
        return [_command(["sample"], made.settings, out, dtype=made.dtype)]
    if isinstance(made, Baseline):
        return [_command(["baseline", made.settings.kind], made.settings, out, "kind", dtype=made.dtype)]
    if isinstance(made, Selected) and (sampling := sampling_commands(made.source, f"{out}-samples")):
        words = ["samples", "select", f"{out}-samples", out]
        return [*sampling, _command(words, made.settings, None, "source")]
    return []


def merging_command(model: str, adapter: str, out: str) -> str:
    """The command that merges the model."""
    return shlex.join(["lightr", "merge", "--model", model, "--adapter", adapter, "--out", out])


def model_card(config: MergeConfig, result: Mapping[str, Any], training: Tuned | None) -> str:
    """README of the merged folder: what it is, how it was made, and how to make it again.

    Args:
        config: the merge.
        result: its figures.
        training: how the adapter was trained; None where that is not known.
    """
    is_hub_id = not Path(config.model).exists() and not is_bundled(config.model)
    how = "with [LightReasoner](https://arxiv.org/abs/2510.07962) on contrastive labels from an expert and an amateur"
    if training and isinstance(training.samples, Baseline):
        how = "on whole answers, as a baseline for [LightReasoner](https://arxiv.org/abs/2510.07962)"
    rows = {
        "Base (expert)": config.model,
        **(_training_rows(training) if training else {"Training": "unknown"}),
        "Mean KL to base + adapter": f"{result['mean_kl']:.2e} nats ({result['dtype']})",
    }
    commands = [*sampling_commands(training.samples, "RUN"), *training.commands("RUN", "RUN")] if training else []
    return "\n".join(
        [
            *["---", "library_name: transformers", "tags:", "- lightreasoner"],
            *([f"base_model: {config.model}"] if is_hub_id else []),
            "---",
            f"# {config.out.resolve().parent.name}/{config.out.name}",
            "",
            f"Fine-tuned {how}, then merged.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {_cell(value)} |" for name, value in rows.items()),
            "",
            "Made by these commands:",
            "",
            "```",
            *commands,
            merging_command(config.model, "RUN", config.out.name),
            "```",
            "",
        ]
    )


def _command(words: Sequence[str], settings: Config, out: str | None, *left_out: str, **changes: Any) -> str:
    """A `lightr` command with these settings as flags."""
    flags = settings.flags(*left_out, **changes)
    return shlex.join(["lightr", *words, *flags, *(["--out", out] if out else [])])


def _training_rows(training: Tuned) -> dict[str, Any]:
    tuning = training.settings
    return {
        **_data_rows(training.samples),
        "Cue": training.samples.cue,
        "Steps × labels": f"{tuning.steps} × {tuning.labels_per_step}",
        "Learning rate": tuning.learning_rate,
        "LoRA": f"rank {tuning.lora_rank}, alpha {tuning.lora_alpha:g}, on {', '.join(tuning.lora_targets)}",
    }


def _data_rows(made: Made) -> dict[str, Any]:
    problems = f"{made.questions or 'unknown'} of {made.dataset or 'unknown'}"
    if isinstance(made, Baseline):
        gold = "no gold answers used" if made.settings.kind in LABEL_FREE else "gold answers used"
        return {"Data": f"{made.settings.kind}, {gold}", "Problems": problems}
    sampled = made.source if isinstance(made, Selected) else made
    rows = {
        "Amateur": amateur_words(made.amateur) if made.amateur else "unknown",
        "Problems": f"{problems}, no gold answers used",
    }
    if isinstance(sampled, Sampled):
        rows["β, α, rollout length"] = f"{sampled.beta}, {sampled.alpha}, {sampled.settings.max_new_tokens}"
    if isinstance(made, Selected):
        rule = made.settings.identity()
        rows["Selected by"] = ", ".join(f"{name} {value}" for name, value in rule.items() if value is not None)
    return rows


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
