"""How an adapter was trained: its record, the commands that train it again, and the README of a merged model."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lightreasoner.config import FinetuneConfig
from lightreasoner.config.base import Config
from lightreasoner.config.sections import LABEL_FREE
from lightreasoner.data.cards import PAPER, TAG, Licence, card, escaped, fenced, licence_lines, rows
from lightreasoner.errors import RunCorrupted
from lightreasoner.miniature import is_bundled
from lightreasoner.models.sides import amateur_words
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples.card import data_set_of
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

    def shareable(self) -> "Tuned":
        """For other people: no path of this machine."""
        return self.model_copy(update={"settings": self.settings.shareable(), "samples": self.samples.shareable()})

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


@dataclass(frozen=True)
class Model:
    """What the card of a model describes.

    Attributes:
        title: of the card.
        base: name of the base (expert).
        training: how the adapter was trained; None where that is not known.
        merged: figures of the merge; None for an adapter.
        base_model: Hub id of the base; None where it is not on the Hub.
    """

    title: str
    base: str
    training: Tuned | None
    merged: Mapping[str, Any] | None = None
    base_model: str | None = None

    @property
    def commands(self) -> list[str]:
        """The commands that make it again."""
        made = self.training
        commands = [*sampling_commands(made.samples, "RUN"), *made.commands("RUN", "RUN")] if made else []
        return [*commands, *([merging_command(self.base, "RUN", "merged")] if self.merged is not None else [])]


def model_card(
    model: Model,
    *,
    licences: Sequence[Licence] = (),
    metadata: Mapping[str, Any] | None = None,
    evaluation: Sequence[str] = (),
    address: str = "OWNER/NAME",
) -> str:
    """README of an adapter or a merged model: what it is, how it was made, and how to make it again.

    Args:
        model: what it is about, with shareable names (`Tuned.shareable`) if others will read it.
        licences: the first is that of the model itself; without any, the card says nothing of them.
        metadata: more fields, such as the figures.
        evaluation: the section of that name.
        address: name on the Hub, for the example.
    """
    training, merged = model.training, model.merged
    data = data_set_of(training.samples) if training else None
    fields = {
        "library_name": "peft" if merged is None else "transformers",
        "pipeline_tag": "text-generation",
        **(licences[0].metadata() if licences else {}),
        "base_model": model.base_model,
        "base_model_relation": model.base_model and ("adapter" if merged is None else "finetune"),
        "datasets": [data] if data else [],
        "tags": [TAG, "lora", "self-distillation"],
        **(metadata or {}),
    }
    how = f"with LightReasoner ({PAPER}) on contrastive labels from an expert and an amateur"
    if training and isinstance(training.samples, Baseline):
        how = f"on whole answers, as a baseline for LightReasoner ({PAPER})"
    table = {
        "Base (expert)": model.base,
        **(_training_rows(training) if training else {"Training": "unknown"}),
        **({"Mean KL to base + adapter": f"{merged['mean_kl']:.2e} nats ({merged['dtype']})"} if merged else {}),
    }
    lines = [
        f"# {escaped(model.title)}",
        "",
        f"Fine-tuned {how}{', then merged' if merged is not None else '. A LoRA adapter'}.",
        "",
        *rows(["", ""], table.items()),
        "",
        *(["## Evaluation", "", *evaluation, ""] if evaluation else []),
        *(["## Use", "", *fenced(_use(model, address), "python"), ""] if licences else []),
        *licence_lines(licences),
        *["## Made by these commands", "", *fenced(model.commands)],
    ]
    return card(fields, lines)


def _use(model: Model, address: str) -> list[str]:
    """How the model is loaded."""
    loaded = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    if model.merged is not None:
        name = json.dumps(address)
        return [
            *loaded,
            f"tokenizer = AutoTokenizer.from_pretrained({name})",
            f"model = AutoModelForCausalLM.from_pretrained({name})",
        ]
    base = json.dumps(model.base_model or model.base)
    is_own = model.base_model is None and is_bundled(model.base)
    if is_own:
        base = f"model_path({base})"
    return [
        *(["from lightreasoner.miniature import model_path"] if is_own else []),
        "from peft import PeftModel",
        *loaded,
        f"tokenizer = AutoTokenizer.from_pretrained({base})",
        f"base = AutoModelForCausalLM.from_pretrained({base})",
        f"model = PeftModel.from_pretrained(base, {json.dumps(address)})",
    ]


def _command(words: Sequence[str], settings: Config, out: str | None, *left_out: str, **changes: Any) -> str:
    """A `lightr` command with these settings as flags."""
    flags = settings.flags(*left_out, **changes)
    return shlex.join(["lightr", *words, *flags, *(["--out", out] if out else [])])


def _training_rows(training: Tuned) -> dict[str, Any]:
    tuning = training.settings
    return {
        **data_rows(training.samples),
        "Cue": training.samples.cue,
        "Steps × labels": f"{tuning.steps} × {tuning.labels_per_step}",
        "Learning rate": tuning.learning_rate,
        "LoRA": f"rank {tuning.lora_rank}, alpha {tuning.lora_alpha:g}, on {', '.join(tuning.lora_targets)}",
    }


def data_rows(made: Made) -> dict[str, Any]:
    """How training data were made, for the table of a card."""
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
