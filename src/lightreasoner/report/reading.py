"""Read a run folder into a `Report`. An unfinished stage is listed as missing and contributes no figures."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightreasoner.config.sections import SELECTION, JudgeName
from lightreasoner.errors import DataError, LightReasonerError
from lightreasoner.evaluation.comparison import Prompts, compare
from lightreasoner.evaluation.folder import Evaluated, read_evaluation
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.models.sides import amateur_words
from lightreasoner.report.cases import Case, Cases, find_cases, verdicts_of
from lightreasoner.report.commands import AFTER, BEFORE, completing, repeating
from lightreasoner.report.labels import LabelCounter, LabelStatistics
from lightreasoner.report.lengths import Lengths, answer_lengths
from lightreasoner.report.made import Weights, choices_of, loss_of, sides_of
from lightreasoner.report.model import Accuracy, Cost, Report
from lightreasoner.report.tables import length_warnings
from lightreasoner.report.tokens import TokenTexts, find_texts
from lightreasoner.report.verdict import verdict_of
from lightreasoner.runs.records import PUSHED, ROUNDS
from lightreasoner.runs.stage import StageFolder, read_stage
from lightreasoner.samples.calibration import OTHER_LABELS, unlike_measured
from lightreasoner.samples.folder import (
    Provenance,
    Sampled,
    ScoredRollout,
    Selected,
    read_samples,
    read_shards,
    scored_rollouts,
)
from lightreasoner.samples.statistics import JUDGED, AlignedShares, figures_of
from lightreasoner.samples.warnings import sample_warnings
from lightreasoner.training.model_card import Tuned, tuned

T = TypeVar("T")
Visit = Callable[[ScoredRollout], None]
VisitCase = Callable[[Case], None]


@dataclass
class RunFolder:
    """The finished stages of a run folder.

    Attributes:
        sampled: how the samples were made, and their stage; those that were selected, where there are both.
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
    def after_folder(self) -> Path | None:
        """Folder of the evaluation of the fine-tuned model."""
        return evaluations(self.path)[1]

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
            no_settings = ("_files.", ".asked.", "_context.")
            return {name: value for name, value in facts.items() if not any(part in name for part in no_settings)}

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
    is_used = run.tuned is None or run.tuned[0].samples.made_by == "select"
    selected = path / SELECTION
    if is_used and selected.is_dir() and (stage := _stage(run, "selection (`lightr samples select`)", selected)):
        run.sampled = read_samples(selected)[0], stage
    _evaluate(run)
    if not (run.sampled or run.tuned or run.before or run.after or run.of_json(ROUNDS)):
        raise DataError(
            f"{path} holds nothing to report ({'; '.join(run.missing)}). Give the --out folder of a `lightr` command"
        )
    return run


def read_run(
    run: RunFolder,
    texts: TokenTexts,
    visit: Visit = lambda rollout: None,
    visit_case: VisitCase = lambda case: None,
) -> Report:
    """The report of a run folder.

    Args:
        run: result of `open_run`.
        texts: the expert's tokens.
        visit: called with every rollout, in order; the rollouts are not kept.
        visit_case: called with every item whose verdict changed; the cases are not kept but for the first ones.
    """
    if not texts.known:
        run.missing.append("token texts: no tokenizer of the expert is on this machine, so token ids stand for them")
    made = run.sampled[0] if run.sampled else None
    read = _samples(run, texts, visit)
    labels, tokens = read.labels, (read.generated, read.scored)
    log = run.of_json("finetune/log.json")
    chosen = run.tuned[0].settings.objective if run.tuned else None
    objective = chosen or (made.objective if made else "label")
    found = Report(
        run=str(run.path),
        expert=made.expert if made else run.tuned[0].settings.model if run.tuned else run.settings.get("expert"),
        amateur=amateur_words(made.amateur) if made and made.amateur else None,
        dataset=made.dataset if made else None,
        verdict="",
        accuracies=accuracies(run),
        overall=tuple(run.comparison.get("overall", ())),
        warnings=tuple(run.comparison.get("warnings", _cut_off(run))),
        sample_warnings=_sample_warnings(run, labels),
        aligned=_aligned(run),
        cost=_cost(run, labels, tokens),
        beta=made.beta if made else None,
        alpha=made.alpha if made else None,
        selection=made.words if isinstance(made, Selected) else None,
        choices={**(choices_of(made) if made else {}), **loss_of(objective)},
        objective=objective,
        weights=read.weights,
        sides=sides_of(made, run.sampled[1]) if made and run.sampled else None,
        lengths=(*read.lengths, *_answer_lengths(run)),
        labels=labels,
        training=tuple(row for row in log if isinstance(row, dict) and "loss" in row and "step" in row),
        tuning=(run.tuned[1].result if run.tuned else None) or {},
        cases=_cases(run, texts, visit_case),
        settings=run.settings,
        environment={
            **(run.of_json("environment.json") or run.of_json("sample/manifest.json").get("environment", {})),
            **_pushed(run),
        },
        commands=repeating(run),
        missing=tuple(run.missing),
        completing=completing(run),
        rounds=run.of_json(ROUNDS),
    )
    return replace(found, verdict=verdict_of(found))


def _pushed(run: RunFolder) -> dict[str, str]:
    """Where parts of the run were sent."""
    entries = run.of_json(PUSHED) or []
    sent = [f"{one['what']}: {one['url']} ({'private' if one['private'] else 'public'})" for one in entries]
    return {"on the Hub": "; ".join(sent)} if sent else {}


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
    before, after = evaluations(run.path)
    run.before = _attempt(run, "evaluation before", before, read_evaluation) or []
    run.after = _attempt(run, "evaluation after", after, read_evaluation) or []
    if before and run.before and run.after:
        run.comparison = _attempt(run, "comparison", after, lambda path: compare(before, path, judge=run.judge)) or {}


def evaluations(run: Path) -> tuple[Path | None, Path | None]:
    """The folders of the evaluations before and after."""
    folder = run / "evaluate"
    before, after = (
        next((folder / name for name in names if (folder / name).is_dir()), None) for names in (BEFORE, AFTER)
    )
    if after is None and any(folder.glob("*/*/*/manifest.json")):
        after = folder  # `lightr evaluate --out RUN/evaluate` of the merged model
    return before, after


@dataclass(frozen=True)
class _Samples:
    """What is read of the samples: statistics, numbers of tokens generated and scored by each model."""

    labels: LabelStatistics | None = None
    weights: Weights | None = None
    lengths: tuple[Lengths, ...] = ()
    generated: int = 0
    scored: int = 0


def _samples(run: RunFolder, texts: TokenTexts, visit: Visit) -> _Samples:
    if not run.sampled:
        return _Samples()
    made, stage = run.sampled
    first = next(iter(stage.tables("rollouts")), None)
    prompts = first.column("prompt_ids").to_pylist() if first else []
    # The common prefix of all prompts: the cue and the chat template.
    head = commonprefix(prompts) if len(prompts) > 1 else []  # noqa: RUF071 - of lists, not of paths
    counter = LabelCounter(texts, list(head))
    factors, lengths, scored = [], [], 0
    for shard in read_shards(stage):
        factors.append(shard.factors)
        for rollout in scored_rollouts(shard):
            counter.add(rollout)
            visit(rollout)
            lengths.append(len(rollout.response_ids))
            scored += len(rollout.prompt_ids) + len(rollout.response_ids) - 1  # the last token predicts nothing
    labels = counter.result()
    sampled = made.source if isinstance(made, Selected) else made
    limit = getattr(getattr(sampled, "settings", None), "max_new_tokens", None)
    of_rollouts = Lengths.measured("rollouts", "", lengths, labels.rollouts - labels.finished, limit)
    found = (of_rollouts,) if of_rollouts else ()
    return _Samples(labels, Weights.of(factors), found, sum(lengths), scored)


def _answer_lengths(run: RunFolder) -> list[Lengths]:
    """Lengths of the answers, before and after beside one another."""
    found = [*answer_lengths(run.before, "before"), *answer_lengths(run.after, "after")]
    order = list(dict.fromkeys(one.of for one in found))
    return sorted(found, key=lambda one: order.index(one.of))


def _cases(run: RunFolder, texts: TokenTexts, visit: VisitCase) -> Cases:
    return find_cases(run.before, run.after, run.judge, texts, visit) if run.comparison else Cases((), (), 0, 0)


def _sample_warnings(run: RunFolder, labels: LabelStatistics | None) -> tuple[str, ...]:
    if not run.sampled:
        return ()
    made, stage = run.sampled
    result = run.of_json("sample/result.json") | (stage.result or {})
    # Another rule keeps the share that it is told to.
    kept = result.get("kept_steps") if made.made_by == "sample" and made.beta is not None else None
    rows = {"duplicates": result.get("duplicate_questions", 0), "too_long": result.get("too_long_questions", 0)}
    figures = replace(
        figures_of(stage.tables("rollouts", JUDGED), kept, **rows),
        aligned=_aligned(run),
        parameters=result.get("expert_parameters"),
        unlike=unlike_measured(made.settings) if isinstance(made, Sampled) else OTHER_LABELS,
        alpha=made.alpha,
    )
    if labels:
        figures = replace(figures, format_labels=labels.format_labels, format_responses=labels.format_responses)
    return tuple(sample_warnings(figures))


def _aligned(run: RunFolder) -> AlignedShares | None:
    return AlignedShares.of_result(run.sampled[1].result or {}) if run.sampled else None


def accuracies(run: RunFolder) -> tuple[Accuracy, ...]:
    """The accuracies before and after, one row for each benchmark and kind of prompt."""
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
        test = tests.get((prompts, name))
        lengths = test["lengths"] if test else {"before": _lengths(first), "after": _lengths(second)}
        rows.append(Accuracy(prompts, name, title, total, *scores, test, lengths))
    return tuple(rows)


def _score(evaluated: Evaluated | None, judge: JudgeName | None) -> Interval | None:
    if evaluated is None:
        return None
    figures = verdicts_of(evaluated, judge).result
    assert figures is not None
    return Interval.of(figures, "accuracy")


def _cut_off(run: RunFolder) -> list[str]:
    """Warnings of the evaluations that there are, where there is no comparison."""
    return length_warnings({f"{one.prompt}/{one.benchmark.name}": one.figures for one in (*run.before, *run.after)})


def _lengths(evaluated: Evaluated | None) -> Mapping[str, float | None]:
    figures = evaluated.figures if evaluated else {}
    return {name: figures.get(name) for name in ("cut_off", "mean_tokens")}


def _cost(run: RunFolder, labels: LabelStatistics | None, tokens: tuple[int, int]) -> Cost:
    tuned = (run.tuned[1].result if run.tuned else None) or {}
    sampled = (run.sampled[1].result if run.sampled else None) or {}
    seconds = run.of_json("summary.json").get("seconds", {}) | times(run.path)
    if run.sampled and run.sampled[0].made_by != "sample" and "select" not in seconds:
        # The folder does not hold the time of the sampling.
        seconds = {run.sampled[0].made_by if name == "sample" else name: time for name, time in seconds.items()}
    rows = [*run.comparison.get("overall", ()), *run.comparison.get("benchmarks", ())]
    both = [seconds.get("sample", seconds.get("baseline")), seconds.get("finetune")]
    both += [seconds["select"]] if {"sample", "select"} <= seconds.keys() else []
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


def times(run: Path) -> dict[str, float]:
    """Seconds of each finished stage over all its sessions, from its own files, by the names of `lightr run`.

    They count from the opening of a stage to its end: loading models, but not reading and hashing the inputs. What a
    killed process did after its last commit or checkpoint is lost and done again; only that time is missing.
    """
    found = {name: _seconds([run / name]) for name in ("sample", SELECTION, "finetune") if (run / name).is_dir()}
    with suppress(OSError, ValueError):
        found["merge"] = json.loads((run / "merged" / "lightreasoner.json").read_text(encoding="utf-8")).get("seconds")
    for name, folder in zip(("evaluate_before", "evaluate_after"), evaluations(run), strict=True):
        if folder is not None:
            found[name] = _seconds([manifest.parent for manifest in folder.glob("*/*/*/manifest.json")])
    return {name: round(seconds, 1) for name, seconds in found.items() if seconds is not None}


def _seconds(stages: Sequence[Path]) -> float | None:
    """Time of these stages together; None if there are none, or one is not finished or recorded none."""
    try:
        parts = [read_stage(stage)[1].seconds for stage in stages]
    except LightReasonerError:
        return None
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
