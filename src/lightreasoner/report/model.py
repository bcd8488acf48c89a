"""The content of a report as plain data; the page, the Markdown and the JSON are made from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lightreasoner.config.sections import Objective
from lightreasoner.evaluation.comparison import Prompts
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.report.cases import Cases
from lightreasoner.report.labels import LabelStatistics
from lightreasoner.report.lengths import Lengths
from lightreasoner.report.made import Sides, Weights
from lightreasoner.samples.statistics import AlignedShares


@dataclass(frozen=True)
class Accuracy:
    """Accuracies, 0 … 1, of expert and fine-tuned model on the `total` items of a benchmark; one may be missing.

    `test` is the row of `evaluation.comparison.compare`: gain, interval, p-values; None without a comparison.
    `lengths` is, for `before` and `after`, the share of cut-off answers (`cut_off`) and the `mean_tokens` of an answer;
    None where that is not known.
    """

    prompts: Prompts
    benchmark: str
    title: str
    total: int
    before: Interval | None
    after: Interval | None
    test: Mapping[str, Any] | None
    lengths: Mapping[str, Mapping[str, float | None]]


@dataclass(frozen=True)
class Cost:
    """The cost of a run; None if no file records a value.

    Attributes:
        seconds: by stage.
        sampling_and_tuning: seconds of both stages, the paper's measure.
        tuned_tokens: labelled positions trained on.
        scored_tokens: prompt and response tokens that expert and amateur scored, summed over both.
        gain: points, mean over the benchmarks.
    """

    seconds: Mapping[str, float]
    sampling_and_tuning: float | None
    problems: int | None
    tuned_tokens: int | None
    generated_tokens: int | None
    scored_tokens: int | None
    gain: float | None


# Rows of the paper's Table 2: model, hours, problems, tuned_tokens, gain.
PAPER_COSTS: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("paper_costs.yaml").read_bytes())


LABEL_LOSS = "cross-entropy to the labels"


@dataclass(frozen=True)
class Report:
    """The content of a run folder.

    Attributes:
        run: the folder, as the user named it.
        verdict: what was run and its result, one sentence.
        accuracies: by benchmark, compared ones first.
        overall: means over the benchmarks of each kind of prompt, rows of `evaluation.comparison.compare`.
        warnings: those of the comparison.
        sample_warnings: signs that questions, prompt or pair are wrong, see `samples.warnings.sample_warnings`.
        aligned: how much of an amateur with another tokenizer can be compared; None where both share their ids.
        beta: β of Eq 3; None if every step was kept, or unknown.
        alpha: α of Eq 4.
        selection: the rule and the labels in words; None if they are the paper's.
        choices: how steps and labels were chosen, by name.
        objective: the loss of fine-tuning; of `entropy` the labels are not used.
        weights: of the labels' losses; None where all weigh the same.
        sides: which side read what; None where no amateur took part, or it is not known.
        lengths: of rollouts and answers.
        training: rows of the training log.
        tuning: result of fine-tuning: steps, labels, labels trained on and skipped; empty without it.
        settings: by dotted name.
        commands: commands that reproduce the run.
        missing: parts that the folder lacks, one sentence each.
        completing: commands that make the missing stages, in order.
        rounds: content of the file `ROUNDS` of `lightr rounds`; empty where the folder is none of rounds.
    """

    run: str
    expert: str | None
    amateur: str | None
    dataset: str | None
    verdict: str
    accuracies: tuple[Accuracy, ...]
    overall: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]
    sample_warnings: tuple[str, ...]
    aligned: AlignedShares | None
    cost: Cost
    beta: float | None
    alpha: float | None
    selection: str | None
    choices: Mapping[str, str]
    objective: Objective
    weights: Weights | None
    sides: Sides | None
    lengths: tuple[Lengths, ...]
    labels: LabelStatistics | None
    training: tuple[Mapping[str, float], ...]
    tuning: Mapping[str, Any]
    cases: Cases
    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    commands: tuple[str, ...]
    missing: tuple[str, ...]
    completing: tuple[str, ...]
    rounds: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main_test(self) -> Mapping[str, Any] | None:
        """The comparison behind the verdict: the first mean over benchmarks, or the first benchmark."""
        return next(iter((*self.overall, *(row.test for row in self.accuracies if row.test))), None)

    @property
    def loss_name(self) -> str:
        """The training loss in words: only that of labels has a KL to them."""
        return "entropy of the model" if self.training and "kl_to_target" not in self.training[0] else LABEL_LOSS

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values; `prompt` of an accuracy is null if the prompts before and after differ."""
        values = asdict(self)
        for row in values["accuracies"]:
            row["prompt"] = row["prompts"].shared
        return values
