"""`lightr rounds`: sample with the current expert, label, continue its adapter; again, until the stop rule ends it.

    OUT/
      round-0/held-back/     alarms of the untouched expert, see `evaluation.alarms`
      round-1/               a run folder: sample/, select/ if a rule selects, finetune/; alarms in held-back/
      round-2/               its sample/ comes from the expert with the adapter of round 1, which finetune/ continues
      rounds.json            alarms of each round, the round that is kept, and why
      sample/, finetune/     copies of the kept round's, without checkpoints; absent if that is round 0
      merged/                the expert with the kept adapter

Nothing is merged between two rounds. No right answer is read. Every part is a stage that resumes its own work, and the
rule reads what they wrote, so a stopped command continues where it was.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightreasoner import pipeline
from lightreasoner.config import RoundsConfig
from lightreasoner.config.sections import SELECTION
from lightreasoner.errors import ConfigError, DataError, NothingToLearn
from lightreasoner.evaluation.alarms import measure
from lightreasoner.evaluation.stopping import Decision, decide
from lightreasoner.models.adapters import ADAPTER
from lightreasoner.push import push, push_lines
from lightreasoner.report import write_page
from lightreasoner.runs.environment import environment, now
from lightreasoner.runs.files import file_hash, new_folder, write_atomically, write_json
from lightreasoner.runs.locks import locked
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import ADAPTER_FILES, ALARMS, ROUNDS
from lightreasoner.runs.tracking import tracking
from lightreasoner.samples.sampling import read_problems, sample
from lightreasoner.samples.selecting import select
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import RESULT, merge

KEPT_PARTS = ("sample", SELECTION, "finetune")


def rounds(config: RoundsConfig) -> dict[str, Any]:
    """Train the expert in rounds on its own rollouts, until a rule without right answers says that it gains no more.

    Returns:
        `kept`, the round that is kept (0: the untouched expert), `why`, the alarms of all `rounds`, and the `merge`.

    Raises:
        LightReasonerError: see `errors`; finished work stays.
    """
    check(config)
    with locked(config.out), pipeline.settings_unless_refused(config.out):
        _begin(config)
        series = [measure(config, 0)]
        decision = decide(series, config.rounds)
        _track(config, 0, series)
        while not decision.ends:
            number = len(series)
            say(f"== round {number}")
            series.append(one_round(config, number))
            _track(config, number, series)
            decision = decide(series, config.rounds)
            say(decision.why)
            write_json(config.out / ROUNDS, _result(series, decision))
        _keep(config, decision.kept)
        merged = merge(config.merge_of(decision.kept)) if decision.kept else None
        result = _result(series, decision) | {"merge": merged}
        write_json(config.out / ROUNDS, result)
        say(f"report: {write_page(config.out)['file']}")
        pipeline.track_report(config)
    if config.push_to is not None and decision.kept:
        for line in push_lines(push(config.for_push())):
            say(line)
    return result


def _track(config: RoundsConfig, number: int, series: Sequence[dict[str, Any]]) -> None:
    """Send the alarms of a round; its sampling and tuning have runs of their own, as they have folders."""
    figures = {name: value for name, value in series[number].items() if name in ALARMS}
    if config.report_to and figures:
        with tracking(config.report_to, config.out) as trackers:
            trackers.curve("rounds", {f"rounds/{name}": float(value) for name, value in figures.items()}, number)


def _result(series: Sequence[dict[str, Any]], decision: Decision) -> dict[str, Any]:
    curves = [{name: value for name, value in one.items() if name != "per_prompt"} for one in series]
    return {"kept": decision.kept, "why": decision.why, "rounds": curves}


def one_round(config: RoundsConfig, number: int) -> dict[str, Any]:
    """Sample and fine-tune one round; returns its alarms, or the `failure` of `trained`."""
    return trained(config, number) or measure(config, number)


def trained(config: RoundsConfig, number: int) -> dict[str, str] | None:
    """Sample and fine-tune one round. From the second on, labels that run out are a `failure`, which is returned."""
    try:
        sample(config.sample_of(number))
        if config.selects:
            select(config.select_of(number))
    except NothingToLearn as error:
        if number == 1:
            raise
        return {"failure": str(error)}
    finetune(config.finetune_of(number))
    return None


def check(config: RoundsConfig, *, download: bool = True) -> None:
    """Find everything that the rounds will need, in seconds; see `pipeline.check`.

    Raises:
        ConfigError: the problems do not suffice, or the rounds cannot have fresh ones.
        LightReasonerError: see `pipeline.check`.
    """
    pipeline.check(config, download=download, evaluates=False)
    settings, questions = config.rounds, config.sample.max_questions
    fresh = settings.problems == "fresh"
    if fresh and questions is None:
        raise ConfigError(
            "--rounds.problems fresh needs to know how many problems a round takes: give --sample.max-questions N, or "
            "--rounds.problems same"
        )
    trained = (questions or 1) * (settings.limit if fresh else 1)
    needed = settings.held_back + trained
    wanted = config.for_sample().model_copy(update={"max_questions": needed if questions else None})
    if (there := len(read_problems(wanted).problems)) < needed:
        raise ConfigError(
            f"{config.dataset} has {there} different problems. {settings.held_back} are held back (--rounds.held-back) "
            f"and {settings.limit if fresh else 1} × {questions or 1} would be trained on. Lower --rounds.limit, "
            f"--sample.max-questions or --rounds.held-back{', or take --rounds.problems same' if fresh else ''}"
        )


def _begin(config: RoundsConfig) -> None:
    """Write the settings down.

    Raises:
        DataError: the folder holds a run that is not one of rounds, whose parts would be replaced.
    """
    parts = [name for name in (*KEPT_PARTS, "merged") if (config.out / name).exists()]
    parts = [name for name in parts if not _is_of_a_round(config, name)]
    if parts:
        raise DataError(
            f"{config.out} holds {' and '.join(parts)} of another run, which the kept round would replace. Give "
            "another --out"
        )
    if not (config.out / "environment.json").exists():
        write_json(config.out / "environment.json", {"at": now(), **environment()})
    write_atomically(config.out / "config.yaml", pipeline.to_yaml(config).encode())


def _keep(config: RoundsConfig, kept: int) -> None:
    """Make the run folder that of the kept round; 0 leaves no trained model in it."""
    for part in KEPT_PARTS:
        there, target = config.folder(kept) / part, config.out / part
        if kept and _is_copy(target, there):
            continue
        shutil.rmtree(target, ignore_errors=True)
        if kept and there.exists():
            files = [path for path in there.rglob("*") if path.is_file()]
            with new_folder(target, sum(path.stat().st_size for path in files)) as folder:
                shutil.copytree(there, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    merged = config.out / "merged"
    if merged.exists() and not (kept and _merged_adapter(merged) == _adapter_hash(config.folder(kept))):
        shutil.rmtree(merged)  # of a round that an earlier call with other limits kept


def _is_of_a_round(config: RoundsConfig, name: str) -> bool:
    """Whether a part of the run folder comes from one of its rounds, so that it can be made again."""
    folders = list(config.out.glob("round-*"))
    if name != "merged":
        return any(_is_copy(config.out / name, folder / name) for folder in folders)
    trained = [folder for folder in folders if (folder / "finetune" / ADAPTER).is_dir()]
    return _merged_adapter(config.out / name) in {_adapter_hash(folder) for folder in trained}


def _is_copy(target: Path, source: Path) -> bool:
    """Whether a stage's folder is a copy of another: their manifests hold the time of their creation."""
    names = ("manifest.json", "result.json")
    return all(
        (target / name).is_file()
        and (source / name).is_file()
        and (target / name).read_bytes() == (source / name).read_bytes()
        for name in names
    )


def _merged_adapter(merged: Path) -> str | None:
    """The hash of the adapter in a merged model."""
    try:
        return str(json.loads((merged / RESULT).read_text(encoding="utf-8"))["adapter_sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _adapter_hash(run: Path) -> str:
    return file_hash(run / "finetune" / ADAPTER / ADAPTER_FILES["adapter_sha256"])
