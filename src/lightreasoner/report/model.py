"""What a report says, as plain data: the page, the Markdown and the JSON are all made from this."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lightreasoner.report.cases import Cases
from lightreasoner.report.labels import LabelStatistics


@dataclass(frozen=True)
class Score:
    """An accuracy with its 95 % interval, 0 … 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """One benchmark before and after; one of the two may be missing.

    Attributes:
        prompt: chat, plain or likelihood.
        benchmark: its name.
        title: as tables call it.
        total: items.
        before: the expert's.
        after: the fine-tuned model's.
        test: row of `evaluation.comparison.compare`: gain, interval, p-values; None where there is nothing to compare.
    """

    prompt: str
    benchmark: str
    title: str
    total: int
    before: Score | None
    after: Score | None
    test: Mapping[str, Any] | None


@dataclass(frozen=True)
class Cost:
    """What a run took. None where no file tells.

    Attributes:
        seconds: by stage.
        sampling_and_tuning: seconds of the two together, which is the paper's measure.
        problems: problems sampled.
        tuned_tokens: labelled positions trained on.
        generated_tokens: response tokens of the rollouts.
        scored_tokens: prompt and response tokens that passed through the expert and the amateur for scoring, both.
        gain: points, mean over the benchmarks.
    """

    seconds: Mapping[str, float]
    sampling_and_tuning: float | None
    problems: int | None
    tuned_tokens: int | None
    generated_tokens: int | None
    scored_tokens: int | None
    gain: float | None


@dataclass(frozen=True)
class PaperCost:
    """A row of the paper's Table 2, LightReasoner's half."""

    model: str
    hours: float
    problems: int
    tuned_tokens: int
    gain: float


# Table 2, on one H200; tuned tokens are given there in millions with two decimals, gain is the AVG column's.
PAPER_COSTS = (
    PaperCost("Qwen2.5-Math-1.5B", 0.5, 1000, 20_000, 11.8),
    PaperCost("Qwen2.5-Math-7B", 0.75, 1000, 20_000, 4.7),
    PaperCost("R1-Distill-Qwen-1.5B", 0.5, 1000, 20_000, 5.6),
    PaperCost("Qwen2.5-Math-1.5B-Instruct", 0.4, 1000, 20_000, 0.1),
)


@dataclass(frozen=True)
class Report:
    """Everything a run folder tells.

    Attributes:
        run: the folder, as it was named.
        expert: name of the model that was improved.
        amateur: name of the weaker one; None for imported samples.
        dataset: where the problems are from.
        verdict: what was run and what came of it, one sentence.
        accuracies: by benchmark.
        overall: means over the benchmarks of each kind of prompt, rows of `evaluation.comparison.compare`.
        warnings: what the comparison warns of.
        cost: what the run took.
        beta: β of Eq 3; None where every step was kept, or nobody knows.
        alpha: α of Eq 4.
        labels: what the samples are like; None where there are none.
        training: rows of the training log.
        cases: items on which the verdicts differ.
        settings: by dotted name.
        environment: versions and machine.
        commands: what repeats the run.
        missing: what the folder does not hold, and so is not here.
    """

    run: str
    expert: str | None
    amateur: str | None
    dataset: str | None
    verdict: str
    accuracies: tuple[Accuracy, ...]
    overall: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    cost: Cost
    beta: float | None
    alpha: float | None
    labels: LabelStatistics | None
    training: tuple[Mapping[str, float], ...]
    cases: Cases
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    commands: tuple[str, ...]
    missing: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)
