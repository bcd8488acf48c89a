"""How samples were made, in words: which side read what, and how steps and labels were chosen."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightreasoner.config.sections import Objective
from lightreasoner.models.sides import amateur_words
from lightreasoner.report.tokens import visible
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples.folder import Baseline, Imported, Provenance, Sampled, Selected


@dataclass(frozen=True)
class Side:
    """What one side is and reads.

    Attributes:
        model: in words: its name, or what is left of the expert.
        revision: of a model on the Hub.
        adapter: on the model.
        cue: instruction before every question.
        template: file of the chat template, or whose it is.
        hint: field of the problem's row that it reads; None without one.
        prompt: an example; that of both sides is for one question.
    """

    model: str
    revision: str | None
    adapter: str | None
    cue: str
    template: str
    hint: str | None
    prompt: str


@dataclass(frozen=True)
class Sides:
    """Which side read what while the samples were made; `differ`: their prompts do."""

    expert: Side
    amateur: Side
    differ: bool
    vocabulary: str

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """What both sides are and read, and what at least one of them has, beside the prompts: name and two values."""
        names = {
            "model": "model",
            "revision": "revision",
            "adapter": "adapter",
            "cue": "instruction (cue)",
            "template": "chat template",
            "hint": "hint, a field of the problem",
        }
        values = [(text, getattr(self.expert, name), getattr(self.amateur, name)) for name, text in names.items()]
        return [(text, one or "–", other or "–") for text, one, other in values if one or other]


def sides_of(made: Provenance, stage: StageFolder) -> Sides | None:
    """Which side read what; None where no amateur took part, or it is not known."""
    sampled = made.source if isinstance(made, Selected) else made
    if not isinstance(sampled, Sampled):
        return None
    example, settings = sampled.example, sampled.settings
    if example is None:  # both read the same
        table = next(iter(stage.tables("rollouts", ["question"])), None)
        question = table["question"][0].as_py() if table else "{question}"
        prompt = str(sampled.asked.get("prompt_text", "")).replace("{question}", question)
        example = {"expert": prompt, "amateur": prompt}
    template = str(settings.chat_template or "of the expert's tokenizer")
    own = "of the amateur's tokenizer" if settings.vocabulary == "aligned" else template
    adapter = str(settings.adapter or "an adapter") if sampled.adapter_files else None
    expert = Side(
        sampled.expert, sampled.expert_revision, adapter, sampled.cue, template, settings.expert_hint,
        visible(example["expert"]),
    )  # fmt: skip
    amateur = Side(
        amateur_words(sampled.amateur or "unknown"),
        settings.amateur_revision,
        None,
        sampled.cue if settings.amateur_cue is None else settings.amateur_cue,
        str(settings.amateur_template or own),
        settings.amateur_hint,
        visible(example["amateur"]),
    )
    return Sides(expert, amateur, example["expert"] != example["amateur"], settings.vocabulary)


def choices_of(made: Provenance) -> dict[str, str]:
    """How steps and labels were chosen: name and words."""
    if isinstance(made, Imported):
        return {"labels": "imported from a file"}
    if isinstance(made, Baseline):
        settings = made.settings
        usual = ("temperature", "top_p", "samples_per_problem", "consensus", "label_tokens")
        details = [f"{name} {value:g}" for name in usual if (value := getattr(settings, name)) is not None]
        return {"labels": f"baseline {', '.join([settings.kind, *details])}"}
    if isinstance(made, Selected):
        sampled: object = made.source
        found = {"steps kept by": made.rule, "labels": made.label}
    else:
        sampled = made
        rule = "none (every step)" if made.beta is None else f"divergence, threshold {made.beta:g}"
        alpha = "" if made.alpha is None else f", α {made.alpha:g}"
        found = {"steps kept by": rule, "labels": f"π_E^1 · π_A^-1{alpha}"}
    if isinstance(sampled, Sampled):
        if sampled.settings.labeller != "current":
            found["labels made of"] = "the expert without its adapter"
        how = [f"{sampled.settings.max_new_tokens} tokens at most"]
        how += [f"temperature {sampled.settings.temperature:g}, top-p {sampled.settings.top_p:g}"
                if sampled.settings.temperature else "greedy"]  # fmt: skip
        how += [f"stop texts {', '.join(map(repr, sampled.settings.stop_strings))}"] * bool(
            sampled.settings.stop_strings
        )
        found["sampling of rollouts"] = ", ".join(how)
    return {name: visible(text) for name, text in found.items()}


def loss_of(objective: Objective) -> dict[str, str]:
    """What was trained on at the kept steps, where that is not their labels: name and words."""
    words = "the entropy of the tuned model's own predictions at these steps; their labels are not used"
    return {"loss": words} if objective == "entropy" else {}


@dataclass(frozen=True)
class Weights:
    """The weights of the labels' losses, whose mean is 1.

    Attributes:
        effective: share of the labels that would say as much with equal weights, (Σw)² / (n·Σw²).
    """

    smallest: float
    largest: float
    effective: float

    @classmethod
    def of(cls, parts: Iterable[NDArray[np.float64] | None]) -> "Weights | None":
        """The weights of all shards; None where all labels weigh the same."""
        known = [part for part in parts if part is not None and len(part)]
        if not known:
            return None
        values = np.concatenate(known)
        squares = float(np.square(values).sum())
        effective = float(values.sum()) ** 2 / (len(values) * squares) if squares else 0.0
        return cls(float(values.min()), float(values.max()), effective)
