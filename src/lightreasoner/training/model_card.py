"""The commands that make something again, out of what its stages wrote down about themselves."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lightreasoner.config import BaselineConfig, Config, FinetuneConfig, SampleConfig, SelectConfig
from lightreasoner.runs.records import BASELINE, IMPORTED, SELECTED


def sampling_commands(sampled: Mapping[str, Any], out: str) -> list[str]:
    """What makes these training data: stage 1, a rival's data, or a selection with the samples it was made from.

    Args:
        sampled: fingerprint of the folder `sample`.
        out: run folder to be made.

    Returns:
        The commands in order; none for what other people's file brought.
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
    """What makes this adapter.

    Args:
        tuned: fingerprint of the folder `finetune`.
        data: run folder with the training data.
        out: run folder to be made.
    """
    return _command(["finetune"], FinetuneConfig, {**tuned, "data": data}, out)


def merging_command(model: str, adapter: str, out: str) -> str:
    """What makes the merged model."""
    return shlex.join(["lightr", "merge", "--model", model, "--adapter", adapter, "--out", out])


def _command(words: Sequence[str], stage: type[Config], facts: Mapping[str, Any], out: str | None = None) -> str:
    given = {name: facts[name] for name in stage.model_fields if name in facts and name not in ("kind", "out")}
    flags = [text for name, value in given.items() for text in _flag(name, value, stage.model_fields[name].default)]
    return shlex.join(["lightr", *words, *flags, *(["--out", out] if out else [])])


def _flag(name: str, value: Any, default: Any) -> list[str]:
    """A setting on the command line; nothing for one that is as it is without being named and says nothing."""
    if (value is None and default is None) or (value is False and default is False):
        return []
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    values = value if isinstance(value, list | tuple) else ["none" if value is None else value]
    return [flag, *map(str, values)]
