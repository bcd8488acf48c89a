"""Read a run folder into a `Report`. An unfinished stage is listed as missing and contributes no figures."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightreasoner.config import JudgeName
from lightreasoner.errors import DataError, LightReasonerError
from lightreasoner.evaluation.comparison import Prompts, compare
from lightreasoner.evaluation.folder import Evaluated, read_evaluation
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report.cases import Cases, find_cases, verdicts_of
from lightreasoner.report.labels import LabelCounter, LabelStatistics
from lightreasoner.report.model import Accuracy, Cost, Report
from lightreasoner.report.tokens import TokenTexts, find_texts
from lightreasoner.report.verdict import verdict_of
from lightreasoner.runs.stage import StageFolder, read_stage
from lightreasoner.samples.folder import Provenance, ScoredRollout, read_samples, read_shards, scored_rollouts
from lightreasoner.training.model_card import Tuned, sampling_commands, tuned

T = TypeVar("T")
Visit = Callable[[ScoredRollout], None]
BEFORE, AFTER = ("expert", "before"), ("merged", "after")  # names of evaluations below evaluate/


@dataclass
class RunFolder:
    """The finished stages of a run folder.

    Attributes:
        sampled: how the samples were made, and their stage.
        tuned: how the adapter was trained, and its stage.
        before: evaluation of the expert.
        after: evaluation of the fine-tuned model.
        comparison: result of `evaluation.comparison.compare`.
        missing: parts that the folder lacks, one sentence each.
    """

    path: Path
    sampled: tuple[Provenance, StageFolder] | None = None
    tuned: tuple[Tuned, StageFolder] | None = None
    before: list[Evaluated] = field(default_factory=list)
    after: list[Evaluated] = field(default_factory=list)
    comparison: Mapping[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    @property
    def texts(self) -> TokenTexts:
        """The expert's tokens: from the merged folder, or from the expert if this machine has it."""
        places: list[tuple[str, str | None]] = [(str(self.path / "merged"), None)]
        if self.sampled:
            places.append((self.sampled[0].expert, self.sampled[0].expert_revision))
        if self.tuned:
            places.append((self.tuned[0].settings.model, self.tuned[0].settings.model_revision))
        return find_texts(places)

    @property
    def judge(self) -> JudgeName | None:
        """The judge of the run's settings; None if they name none, or one that has not judged all answers."""
        judge = self.settings.get("evaluate.judge")
        judged = [one.judged for one in (*self.before, *self.after) if one.judged]
        return judge if judged and all(judge in judges for judges in judged) else None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by dotted name: those of the run's recipe, or those of each stage."""
        try:
            return _flat(yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8")))
        except (OSError, ValueError, yaml.YAMLError, AttributeError):
            stages = {"sample": self.sampled, "finetune": self.tuned}
            facts = _flat({name: stage[0].fingerprint() for name, stage in stages.items() if stage})
            # Neither hashes of files nor prompts are settings.
            return {name: value for name, value in facts.items() if "_files." not in name and ".asked." not in name}

    def of_json(self, name: str) -> Any:
        """A JSON file of the folder; an empty dictionary if it is missing or unreadable."""
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


def open_run(path: Path) -> RunFolder:
    """Find the finished stages of a run folder.

    Raises:
        DataError: there is nothing to report.
    """
    run = RunFolder(path)
    samples = path if (path / "manifest.json").exists() else path / "sample"
    if stage := _stage(run, "samples (`lightr sample`)", samples):
        run.sampled = read_samples(samples)[0], stage
    if stage := _stage(run, "fine-tuning (`lightr finetune`)", path / "finetune"):
        run.tuned = tuned(stage), stage
    _evaluate(run)
    if not (run.sampled or run.tuned or run.before or run.after):
        raise DataError(
            f"{path} holds nothing to report ({'; '.join(run.missing)}). Give the --out folder of a `lightr` command"
        )
    return run


def read_run(run: RunFolder, texts: TokenTexts, visit: Visit = lambda rollout: None) -> Report:
    """The report of a run folder.

    Args:
        run: result of `open_run`.
        texts: the expert's tokens.
        visit: called with every rollout, in order; the rollouts are not kept.
    """
    if not texts.known:
        run.missing.append("token texts: no tokenizer of the expert is on this machine, so token ids stand for them")
    made = run.sampled[0] if run.sampled else None
    labels, tokens = _samples(run, texts, visit)
    log = run.of_json("finetune/log.json")
    found = Report(
        run=str(run.path),
        expert=made.expert if made else run.tuned[0].settings.model if run.tuned else None,
        amateur=made.amateur if made else None,
        dataset=made.dataset if made else None,
        verdict="",
        accuracies=_accuracies(run),
        overall=tuple(run.comparison.get("overall", ())),
        warnings=tuple(run.comparison.get("warnings", ())),
        cost=_cost(run, labels, tokens),
        beta=made.beta if made else None,
        alpha=made.alpha if made else None,
        labels=labels,
        training=tuple(row for row in log if isinstance(row, dict) and "loss" in row and "step" in row),
        cases=find_cases(run.before, run.after, run.judge, texts) if run.comparison else Cases((), (), 0, 0),
        settings=run.settings,
        environment=run.of_json("environment.json") or run.of_json("sample/manifest.json").get("environment", {}),
        commands=_commands(run),
        missing=tuple(run.missing),
    )
    return replace(found, verdict=verdict_of(found))


def _attempt(run: RunFolder, what: str, folder: Path | None, read: Callable[[Path], T]) -> T | None:
    """The content of a folder; None with a note in `run.missing` if there is no folder, or reading it fails."""
    if folder is None:
        run.missing.append(f"{what}: none in this folder")
        return None
    try:
        return read(folder)
    except LightReasonerError as error:
        run.missing.append(f"{what}: {error}")
        return None


def _stage(run: RunFolder, what: str, folder: Path) -> StageFolder | None:
    there = folder if (folder / "manifest.json").exists() else None
    return _attempt(run, what, there, lambda path: read_stage(path)[1])


def _evaluate(run: RunFolder) -> None:
    """Read the evaluations before and after, and compare them if there are both."""
    folder = run.path / "evaluate"
    before, after = (
        next((folder / name for name in names if (folder / name).is_dir()), None) for names in (BEFORE, AFTER)
    )
    if not (before or after) and folder.is_dir():
        after = folder  # `lightr evaluate --out RUN/evaluate` of the merged model alone
    run.before = _attempt(run, "evaluation before", before, read_evaluation) or []
    run.after = _attempt(run, "evaluation after", after, read_evaluation) or []
    if before and run.before and run.after:
        run.comparison = _attempt(run, "comparison", after, lambda path: compare(before, path, judge=run.judge)) or {}


def _samples(run: RunFolder, texts: TokenTexts, visit: Visit) -> tuple[LabelStatistics | None, tuple[int, int]]:
    """Statistics of the samples, and their numbers of generated tokens and of tokens scored by each model."""
    if not run.sampled:
        return None, (0, 0)
    _, stage = run.sampled
    first = next(iter(stage.tables("rollouts")), None)
    prompts = first.column("prompt_ids").to_pylist() if first else []
    # The common prefix of all prompts: the cue and the chat template.
    head = commonprefix(prompts) if len(prompts) > 1 else []  # noqa: RUF071 - of lists, not of paths
    counter = LabelCounter(texts, list(head))
    generated = scored = 0
    for rollout in chain.from_iterable(map(scored_rollouts, read_shards(stage))):
        counter.add(rollout)
        visit(rollout)
        generated += len(rollout.response_ids)
        scored += len(rollout.prompt_ids) + len(rollout.response_ids) - 1  # the last token predicts nothing
    return counter.result(), (generated, scored)


def _accuracies(run: RunFolder) -> tuple[Accuracy, ...]:
    tests = {(row["prompts"], row["benchmark"]): row for row in run.comparison.get("benchmarks", ())}
    before, after = ({(one.prompt, one.benchmark.name): one for one in side} for side in (run.before, run.after))
    compared = {(prompt, name) for prompts, name in tests for prompt in prompts}
    others = ((prompt, name) for prompt, name in {**before, **after} if (prompt, name) not in compared)
    rows = []
    for prompts, name in (*tests, *((Prompts(prompt, prompt), name) for prompt, name in others)):
        first, second = before.get((prompts.before, name)), after.get((prompts.after, name))
        known = first or second
        assert known is not None
        title, total = known.benchmark.title, known.figures["total"]
        scores = _score(first, run.judge), _score(second, run.judge)
        rows.append(Accuracy(prompts, name, title, total, *scores, tests.get((prompts, name))))
    return tuple(rows)


def _score(evaluated: Evaluated | None, judge: JudgeName | None) -> Interval | None:
    if evaluated is None:
        return None
    figures = verdicts_of(evaluated, judge).result
    assert figures is not None
    return Interval.of(figures, "accuracy")


def _cost(run: RunFolder, labels: LabelStatistics | None, tokens: tuple[int, int]) -> Cost:
    tuned = (run.tuned[1].result if run.tuned else None) or {}
    sampled = (run.sampled[1].result if run.sampled else None) or {}
    known = {name: stage["seconds"] for name, stage in (("sample", sampled), ("finetune", tuned)) if "seconds" in stage}
    summary = run.of_json("summary.json").get("seconds", {})
    seconds = summary | {name: value for name, value in known.items() if name not in summary}
    rows = [*run.comparison.get("overall", ()), *run.comparison.get("benchmarks", ())]
    both = [seconds.get(name) for name in ("sample", "finetune")]
    scored = bool(labels and labels.steps)
    return Cost(
        seconds=seconds,
        sampling_and_tuning=sum(both) if all(value is not None for value in both) else None,
        problems=sampled.get("questions", labels.rollouts if labels else None),
        tuned_tokens=tuned.get("labels_trained"),
        generated_tokens=tokens[0] if scored else None,
        scored_tokens=2 * tokens[1] if scored else None,
        gain=100 * rows[0]["gain"] if rows else None,
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _commands(run: RunFolder) -> tuple[str, ...]:
    """Commands that reproduce the run in another folder."""
    again = f"{run.path}-again"
    if (run.path / "config.yaml").exists():
        return (shlex.join(["lightr", "run", "--config", str(run.path / "config.yaml"), "--out", again]),)
    sampling = sampling_commands(run.sampled[0], again) if run.sampled else []
    return (*sampling, *(run.tuned[0].commands(again, again) if run.tuned else []))
