"""The figures of the paper that one run folder has data for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightreasoner.report import figures
from lightreasoner.report.model import Report
from lightreasoner.report.tokens import TokenTexts
from lightreasoner.samples.folder import ScoredRollout
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS

SEGMENT = 40  # tokens of each of the two segments of Figure 3


class LongestContrast:
    """Holds the two rollouts with the most kept steps, for Figure 3."""

    def __init__(self) -> None:
        self.best: list[ScoredRollout] = []

    def add(self, rollout: ScoredRollout) -> None:
        """Hold this rollout if it has more kept steps than the second one so far."""
        if rollout.agrees is not None:  # otherwise most of its steps were not scored
            self.best = sorted([*self.best, rollout], key=lambda one: -len(one.labels))[:2]


def save_figures(report: Report, longest: Sequence[ScoredRollout], texts: TokenTexts, folder: Path) -> list[Path]:
    """Write Figures 2, 3 (of the `longest` rollouts), 5, and 8 and 9 in one, as far as the run has their data."""
    files: list[Path] = []
    rows: list[dict[str, Any]]
    labels = report.labels
    if labels and labels.histogram:
        bins = zip((*HEAD_BINS, *TAIL_BINS), (*labels.histogram, *labels.tail), strict=True)
        rows = [{"from": place.start, "to": place.end, "share": share} for place, share in bins]
        drawn = figures.kl_histogram(labels.histogram, labels.tail, report.beta)
        files += figures.save(drawn, folder / "figure-2-kl-histogram", rows)
    if longest:
        pieces = []
        for rollout in longest:
            tokens = [texts.token(index).text for index in rollout.response_ids[:SEGMENT]]
            pieces.append(figures.Segment(tokens, rollout.kl[:SEGMENT].tolist()))
        rows = [
            {"segment": number, "step": step, "token": token, "kl": kl}
            for number, piece in enumerate(pieces, 1)
            for step, (token, kl) in enumerate(zip(*piece, strict=True))
        ]
        drawn = figures.kl_along_rollout(pieces, report.beta)
        files += figures.save(drawn, folder / "figure-3-kl-along-rollouts", rows)
    files += _accuracies(report, folder)
    if report.training:
        curves = {}
        for key, name in (("loss", report.loss_name), ("kl_to_target", "KL to the labels")):
            if known := [row for row in report.training if key in row]:
                curves[name] = [row["step"] for row in known], [row[key] for row in known]
        rows = [{key: row.get(key) for key in report.training[0]} for row in report.training]
        files += figures.save(figures.curves(curves, "step", "nats"), folder / "figure-8-9-training", rows)
    return files


def _accuracies(report: Report, folder: Path) -> list[Path]:
    both = [(one, one.before, one.after) for one in report.accuracies if one.before and one.after]
    if not both:
        return []
    usual = both[0][0].prompts
    drawn = figures.grouped_bars(
        [one.title if one.prompts == usual else f"{one.title}, {one.prompts}" for one, *_ in both],
        {
            report.expert or report.run: {
                "before": [before.percent for _, before, _ in both],
                "LightReasoner": [after.percent for *_, after in both],
            }
        },
    )
    rows = [
        {"benchmark": one.benchmark, "prompt": str(one.prompts), "n": one.total}
        | {"before": before.value, "before_low": before.low, "before_high": before.high}
        | {"after": after.value, "after_low": after.low, "after_high": after.high}
        for one, before, after in both
    ]
    return figures.save(drawn, folder / "figure-5-accuracies", rows)
