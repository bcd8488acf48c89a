"""The commands that repeat a run, and those that make its missing stages."""

import shlex
from itertools import chain
from typing import TYPE_CHECKING, Any

from lightreasoner.config import EvaluateConfig
from lightreasoner.config.sections import SELECTION, AnswerSettings
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, ChoiceBenchmark
from lightreasoner.data.own import OwnBenchmark
from lightreasoner.errors import ConfigError
from lightreasoner.runs.records import ROUNDS
from lightreasoner.samples.folder import Provenance
from lightreasoner.training.model_card import sampling_commands

if TYPE_CHECKING:
    from lightreasoner.report.reading import RunFolder

BEFORE, AFTER = ("expert", "before"), ("merged", "after")  # names of evaluations below evaluate/


def repeating(run: "RunFolder") -> tuple[str, ...]:
    """Commands that reproduce the run in another folder."""
    again = f"{run.path}-again"
    if (run.path / "config.yaml").exists():
        command = "rounds" if run.of_json(ROUNDS) else "run"
        return (shlex.join(["lightr", command, "--config", str(run.path / "config.yaml"), "--out", again]),)
    sampling = sampling_commands(run.sampled[0], again) if run.sampled else []
    return (*sampling, *(run.tuned[0].commands(again, again) if run.tuned else []))


def completing(run: "RunFolder") -> tuple[str, ...]:
    """Commands that make the missing stages in this folder; none where it does not say which models are meant."""
    if (run.tuned and run.before and run.after) or not (run.sampled or run.tuned):
        return ()
    if (run.path / "config.yaml").exists() and not run.of_json(ROUNDS):
        return (_words("run", config=run.path / "config.yaml", out=run.path),)
    made = run.sampled[0] if run.sampled else run.tuned[0].samples if run.tuned else None
    assert made is not None
    expert = {"model": made.expert, "model_revision": made.expert_revision}
    commands = []
    if not run.tuned:
        data = run.path / SELECTION if (run.path / SELECTION).is_dir() else run.path
        commands.append(_words("finetune", **expert, data=data, out=run.path))
    if not (run.path / "merged").is_dir():
        commands.append(_words("merge", **expert, adapter=run.path, out=run.path / "merged"))
    asked = _asked(run, made)
    for found, name, model in (
        (run.before, BEFORE[0], expert),
        (run.after, AFTER[0], {"model": str(run.path / "merged")}),
    ):
        if not found:
            try:
                config = EvaluateConfig(**model, **asked, out=run.path / "evaluate" / name)
            except ConfigError:  # a file of problems that is not here
                continue
            usual = (key for key, field in EvaluateConfig.model_fields.items() if getattr(config, key) == field.default)
            commands.append(shlex.join(["lightr", "evaluate", *config.flags(*usual), "--out", str(config.out)]))
    return tuple(commands)


def _asked(run: "RunFolder", made: Provenance) -> dict[str, Any]:
    """The settings of the evaluation that is there; without one, the benchmark of the questions if there is one."""
    there = [one for one in (run.before or run.after) if not one.is_imported]
    if not there:
        return {"benchmarks": (made.dataset,)} if made.dataset in BENCHMARKS else {}
    known = {name: value for one in there for name, value in one.settings.items() if value is not None}
    names = set(AnswerSettings.model_fields) - {"stop_strings", "answer_batch_size"} | {"cue", "seed", "dtype"}
    names |= {"skip_items", "items_seed"}
    # A seed is a setting of the folder even where it drew all items, and it needs a number of them.
    parts = [
        one.settings["items"]
        for one in there
        if one.settings["items"] < (one.benchmark.size or 0) or one.settings.get("items_seed") is not None
    ]
    return {
        **{name: known[name] for name in names & set(known)},
        "benchmarks": tuple(dict.fromkeys(_file_or_name(one.benchmark) for one in there)),
        "prompts": "both" if {"chat", "plain"} <= {one.prompt for one in there} else known.get("prompt", "chat"),
        "max_items": max(parts, default=None),
    }


def _file_or_name(benchmark: Benchmark | ChoiceBenchmark) -> str:
    """What --benchmarks calls it."""
    return benchmark.source if isinstance(benchmark, OwnBenchmark) else benchmark.name


def _words(command: str, **flags: Any) -> str:
    """A `lightr` command with these flags."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in flags.items() if value is not None)
    return shlex.join(["lightr", command, *chain.from_iterable(pairs)])
