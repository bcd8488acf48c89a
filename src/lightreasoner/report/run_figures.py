"""The paper's figures that one run folder can give."""

from pathlib import Path
from typing import Any

from lightreasoner.report import figures
from lightreasoner.report.model import Report
from lightreasoner.report.tokens import TokenTexts
from lightreasoner.samples.folder import ScoredRollout

SEGMENT = 40  # tokens of each of the two segments of Figure 3


class LongestContrast:
    """Keeps the two rollouts with the most kept steps, for Figure 3."""

    def __init__(self) -> None:
        self.best: list[ScoredRollout] = []

    def add(self, rollout: ScoredRollout) -> None:
        """Take it in, if it has more kept steps than the second best."""
        if rollout.agrees is not None:  # otherwise most of its steps were not scored
            self.best = sorted([*self.best, rollout], key=lambda one: -len(one.labels))[:2]


def save_figures(report: Report, segments: LongestContrast, texts: TokenTexts, folder: Path) -> list[Path]:
    """Figures 2, 3, 5, and 8 and 9 in one, as far as the run has their data; the files written."""
    files: list[Path] = []
    rows: list[dict[str, Any]]
    labels = report.labels
    if labels and labels.histogram:
        rows = [
            *({"from": place / 10, "to": (place + 1) / 10 if place < 20 else None, "share": share}
              for place, share in enumerate(labels.histogram)),
            *({"from": round(2 + place / 5, 1), "to": round(2.2 + place / 5, 1), "share": share}
              for place, share in enumerate(labels.tail)),
        ]  # fmt: skip
        drawn = figures.kl_histogram(labels.histogram, labels.tail, report.beta)
        files += figures.save(drawn, folder / "figure-2-kl-histogram", rows)
    if segments.best:
        pieces = [
            figures.Segment(
                [texts.token(index).text for index in rollout.response_ids[:SEGMENT]], rollout.kl[:SEGMENT].tolist()
            )
            for rollout in segments.best
        ]
        rows = [
            {"segment": number, "step": step, "token": token, "kl": kl}
            for number, piece in enumerate(pieces, 1)
            for step, (token, kl) in enumerate(zip(piece.tokens, piece.kl, strict=True))
        ]
        drawn = figures.kl_along_rollout(pieces, report.beta)
        files += figures.save(drawn, folder / "figure-3-kl-along-rollouts", rows)
    files += _accuracies(report, folder)
    if report.training:
        columns = {"loss": "cross-entropy to the labels", "kl_to_target": "KL to the labels"}
        known = {key: [row for row in report.training if key in row] for key in columns}
        curves = {
            columns[key]: ([row["step"] for row in rows], [row[key] for row in rows]) for key, rows in known.items()
        }
        rows = [{key: row.get(key) for key in report.training[0]} for row in report.training]
        files += figures.save(figures.curves(curves, "step", "nats"), folder / "figure-8-9-training", rows)
    return files


def _accuracies(report: Report, folder: Path) -> list[Path]:
    both = [one for one in report.accuracies if one.before and one.after]
    if not both:
        return []
    sides = {
        name: [score for one in both if (score := getattr(one, side))]
        for side, name in (("before", "before"), ("after", "LightReasoner"))
    }
    title = report.expert or report.run
    drawn = figures.grouped_bars(
        [one.title if one.prompt == both[0].prompt else f"{one.title}, {one.prompt}" for one in both],
        {title: {name: [100 * score.value for score in scores] for name, scores in sides.items()}},
        {title: {name: [(100 * score.low, 100 * score.high) for score in scores] for name, scores in sides.items()}},
    )
    ends = {"": "value", "_low": "low", "_high": "high"}
    rows = [
        {"benchmark": one.benchmark, "prompt": one.prompt, "n": one.total}
        | {
            f"{side}{end}": getattr(getattr(one, side), name)
            for side in ("before", "after")
            for end, name in ends.items()
        }
        for one in both
    ]
    return figures.save(drawn, folder / "figure-5-accuracies", rows)
