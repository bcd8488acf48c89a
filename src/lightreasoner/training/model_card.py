"""The model card of a merged model, and the command lines that produced it, rebuilt from the stages' manifests."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightreasoner.config import BaselineConfig, Config, FinetuneConfig, MergeConfig, SampleConfig, SelectConfig
from lightreasoner.runs.records import BASELINE, IMPORTED, SELECTED

PAPER = "[LightReasoner](https://arxiv.org/abs/2510.07962)"


def model_card(config: MergeConfig, result: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """README of the merged folder, in Markdown: what the model is, how it was made, and the commands to repeat it.

    Args:
        config: of the merge.
        result: of the merge.
        training: fingerprint of the folder `finetune`; empty for an adapter without one.
    """
    samples = training.get("samples", {})
    is_baseline = BASELINE in samples
    how = f"on whole answers, as a baseline for {PAPER}"
    if not is_baseline:
        how = f"with {PAPER} on contrastive labels from an expert and a weaker amateur"
    rows = {
        "Base (expert)": config.model,
        **(_baseline_rows(samples) if is_baseline else _sample_rows(samples)),
        "Cue": samples.get("cue", "unknown"),
        "Steps × labels": f"{training.get('steps', '?')} × {training.get('labels_per_step', '?')}",
        "Learning rate": training.get("learning_rate", "?"),
        "LoRA": f"rank {training.get('lora_rank', '?')}, alpha {training.get('lora_alpha', '?')}, "
        f"on {', '.join(training.get('lora_targets', ['?']))}",
        "Mean KL to base + adapter": f"{result['mean_kl']:.2e} nats ({result['dtype']})",
    }
    is_on_hub = not Path(config.model).exists() and not config.model.startswith("miniature/")
    commands = [
        *(sampling_commands(samples, "RUN") if samples else []),
        *([finetuning_command(training, "RUN", "RUN")] if training else []),
        merging_command(config.model, "RUN", config.out.name),
    ]
    lines = [
        "---\nlibrary_name: transformers\ntags:\n- lightreasoner",
        *([f"base_model: {config.model}"] if is_on_hub else []),
        f"---\n# {config.out.resolve().parent.name}/{config.out.name}\n",
        f"Fine-tuned {how}, then merged.\n\n| | |\n|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in rows.items()),
        "\nMade by these commands:\n\n```",
        *commands,
        "```\n",
    ]
    return "\n".join(lines)


def _baseline_rows(samples: Mapping[str, Any]) -> dict[str, str]:
    return {"Data": f"{samples[BASELINE]}, gold answers used", "Problems": _problems(samples)}


def _sample_rows(samples: Mapping[str, Any]) -> dict[str, str]:
    settings = (samples.get(name, "?") for name in ("divergence_beta", "plausibility_alpha", "max_new_tokens"))
    rule = {name: value for name, value in samples.get(SELECTED, {}).items() if value is not None and name != "samples"}
    return {
        "Amateur": samples.get("amateur", "unknown"),
        "Problems": f"{_problems(samples)}, no gold answers used",
        "β, α, rollout length": ", ".join(map(str, settings)),
        **({"Selected by": ", ".join(f"{name} {value}" for name, value in rule.items())} if rule else {}),
    }


def _problems(samples: Mapping[str, Any]) -> str:
    return f"{samples.get('questions', 'unknown')} of {samples.get('dataset', 'unknown')}"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def sampling_commands(sampled: Mapping[str, Any], out: str) -> list[str]:
    """The commands that produced a sample folder: sampling, sampling and selection, or a baseline's data.

    Args:
        sampled: fingerprint of the folder `sample`.
        out: run folder to write.

    Returns:
        The commands in order; none for imported samples.
    """
    if IMPORTED in sampled:
        return []
    count = {"max_questions": sampled["questions"]}
    if BASELINE in sampled:
        model = {"model": sampled["expert"], "model_revision": sampled["expert_revision"]}
        return [_command(["baseline", sampled[BASELINE]], BaselineConfig, {**sampled, **model, **count}, out)]
    samples = f"{out}-samples" if SELECTED in sampled else out
    commands = [_command(["sample"], SampleConfig, {**sampled, **count}, samples)]
    if SELECTED in sampled:
        commands.append(_command(["samples", "select", samples, out], SelectConfig, sampled[SELECTED]))
    return commands


def finetuning_command(tuned: Mapping[str, Any], data: str, out: str) -> str:
    """The command that trained an adapter.

    Args:
        tuned: fingerprint of the folder `finetune`.
        data: run folder with the training data.
        out: run folder to write.
    """
    return _command(["finetune"], FinetuneConfig, {**tuned, "data": data}, out)


def merging_command(model: str, adapter: str, out: str) -> str:
    """The command that merged an adapter into a model."""
    return shlex.join(["lightr", "merge", "--model", model, "--adapter", adapter, "--out", out])


def _command(words: Sequence[str], stage: type[Config], facts: Mapping[str, Any], out: str | None = None) -> str:
    given = {name: facts[name] for name in stage.model_fields if name in facts and name not in ("kind", "out")}
    flags = [text for name, value in given.items() for text in _flag(name, value, stage.model_fields[name].default)]
    return shlex.join(["lightr", *words, *flags, *(["--out", out] if out else [])])


def _flag(name: str, value: Any, default: Any) -> list[str]:
    """A setting as words of a command line; none where leaving it out means the same."""
    if (value is None or value is False) and value is default:
        return []
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    values = value if isinstance(value, list | tuple) else ["none" if value is None else value]
    return [flag, *map(str, values)]
