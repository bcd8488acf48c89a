"""A report as Markdown, for READMEs and terminals. Texts of models stand in indented blocks, where nothing acts."""

from collections.abc import Iterator, Sequence

from lightreasoner.report.cases import Case, CaseAnswer
from lightreasoner.report.labels import LabelStatistics
from lightreasoner.report.model import PAPER_COSTS, Report, Score
from lightreasoner.report.page import duration
from lightreasoner.report.tables import table
from lightreasoner.report.verdict import p_value


def markdown(report: Report) -> str:
    """The report's content in the order of the page, without the rollouts."""
    blocks = [
        [f"# {_text(report.run)}", "", _text(report.verdict)],
        [f"- not in this report: {_text(text)}" for text in report.missing],
        _accuracy(report),
        _cost(report),
        _labels(report.labels) if report.labels else [],
        _training(report),
        [*_cases("Became right", report.cases.became_right, report.cases.gained)],
        [*_cases("Became wrong", report.cases.became_wrong, report.cases.lost)],
        ["## Settings", "", *_rows(["setting", "value"], [[*map(str, row)] for row in report.settings.items()])],
        ["## Environment", "", *_rows(["", ""], [[*row] for row in report.environment.items()])],
        ["## To repeat it", "", *(f"    {command}" for command in report.commands)] if report.commands else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _accuracy(report: Report) -> list[str]:
    if not report.accuracies:
        return []
    header = ["benchmark", "prompt", "n", "before", "after", "gain (95 %)", "gained / lost", "p", "p (Holm)"]
    rows = []
    for one in report.accuracies:
        test = one.test
        compared = (
            [_gain(test), f"{test['gained']} / {test['lost']}", p_value(test["p_value"]), p_value(test["p_holm"])]
            if test
            else [""] * 4
        )
        rows.append([one.title, one.prompt, str(one.total), _score(one.before), _score(one.after), *compared])
    for row in report.overall:
        means = [f"{100 * row[side]:.1f}" for side in ("before", "after")]
        tested = [_gain(row), f"{row['gained']} / {row['lost']}", p_value(row["p_value"]), ""]
        rows.append([f"mean of {row['benchmarks']}", row["prompt"], str(row["total"]), *means, *tested])
    return ["## Accuracy", "", *_rows(header, rows), *(f"\n{_text(text)}" for text in report.warnings)]


def _cost(report: Report) -> list[str]:
    cost = report.cost
    gain = "" if cost.gain is None else f"{cost.gain:+.1f}"
    mine = ["this run", duration(cost.sampling_and_tuning), _whole(cost.problems), _whole(cost.tuned_tokens), gain]
    paper = [
        [
            f"paper: {row.model}",
            duration(3600 * row.hours),
            _whole(row.problems),
            f"≈ {row.tuned_tokens:,}",
            f"{row.gain}",
        ]
        for row in PAPER_COSTS
    ]
    lines = ["## Cost", "", *_rows(["run", "sampling + tuning", "problems", "tuned tokens", "gain"], [mine, *paper])]
    times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in cost.seconds.items())
    computed = f"{_whole(cost.generated_tokens)} tokens generated, {_whole(cost.scored_tokens)} scored by both models"
    told = [f"Time: {times}."] * bool(times) + [f"Computed: {computed}."] * (cost.generated_tokens is not None)
    return [*lines, *(["", " ".join(told)] if told else [])]


def _labels(labels: LabelStatistics) -> list[str]:
    figures = [
        ["rollouts", _whole(labels.rollouts)],
        ["ended by themselves", _whole(labels.finished)],
        ["steps scored", _whole(labels.steps)],
        ["labels", _whole(labels.kept)],
        ["steps with KL < 0.1", _share(labels.below_tenth)],
        ["steps kept", _share(labels.above_beta)],
        ["favourite tokens agree", _share(labels.agree)],
        ["mean KL where they agree, nats", _fixed(labels.mean_kl_agree)],
        ["mean KL where they differ, nats", _fixed(labels.mean_kl_disagree)],
        ["kept where they agree", _share(labels.agree_above_beta)],
        ["labels of one token", _share(labels.single_token)],
        ["tokens in a label, mean", _fixed(labels.mean_support)],
        ["label entropy, mean, nats", _fixed(labels.mean_entropy)],
    ]
    lines = ["## Labels", "", *_rows(["", ""], figures)]
    if labels.histogram:
        bins = [
            [f"{place / 10:.1f} – {(place + 1) / 10:.1f}", _share(share)]
            for place, share in enumerate(labels.histogram)
        ]
        bins[-1][0] = "2.0 and more"
        tail = [[f"{2 + n / 5:.1f} – {2.2 + n / 5:.1f}", _share(share)] for n, share in enumerate(labels.tail)]
        lines += ["", *_rows(["KL, nats", "tokens"], bins), "", *_rows(["of the tail, nats", "tokens"], tail)]
    if labels.kept:
        sizes = [[str(n), _whole(count)] for n, count in enumerate(labels.supports, 1)]
        sizes[-1][0] += " or more"
        positions = [
            [str(at), _whole(steps), _share(kept)]
            for at, (steps, kept) in enumerate(zip(labels.steps_at, labels.kept_at, strict=True))
        ]
        lines += ["", *_rows(["tokens in a label", "labels"], sizes)]
        lines += ["", *_rows(["position", "steps", "kept"], positions)]
    for title, tokens in (("promoted", labels.promoted), ("demoted", labels.demoted)):
        if tokens:
            cells = [[f"`{_cell(repr(one.text)[1:-1])}`", f"{one.mass:+.1f}", _whole(one.labels)] for one in tokens]
            lines += ["", *_rows([f"most {title}", "Σ (v − π_E)", "labels"], cells)]
    lines += [
        f"\nWarning: {warning.count:,} {warning.text}, first at "
        + ", ".join(f"{place.rollout}/{place.position}" for place in warning.places[:5])
        for warning in labels.warnings
    ]
    return lines  # fmt: skip


def _training(report: Report) -> list[str]:
    if not report.training:
        return []
    columns = [name for name in ("step", "loss", "kl_to_target", "learning_rate") if name in report.training[0]]
    shown = report.training[:: max(1, len(report.training) // 10)]
    cells = [[f"{row[name]:g}" if name in row else "" for name in columns] for row in shown]
    return ["## Training", "", *_rows(columns, cells)]


def _cases(title: str, cases: Sequence[Case], total: int) -> Iterator[str]:
    if cases:
        yield f"## {title}: {len(cases)} of {total}"
    for case in cases:
        parts = "" if case.diverges_at is None else f"; the answers part at token {case.diverges_at}"
        yield f"\n{_text(case.benchmark)}, right answer {_text(case.gold)}{parts}:\n"
        yield from (f"    {line}" for line in case.question.splitlines())
        for name, answer in (("before", case.before), ("after", case.after)):
            yield "    "
            yield from (f"    {line}" for line in f"{name}: {_answer(answer)}".splitlines())


def _answer(answer: CaseAnswer) -> str:
    diverging = f"⟦{answer.diverging}⟧" if answer.diverging else ""
    return f"{answer.shared}{diverging}{answer.rest}{f' … ({answer.cut} more tokens)' if answer.cut else ''}"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table(header, [[_cell(cell) for cell in row] for row in rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _text(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _score(score: Score | None) -> str:
    return f"{100 * score.value:.1f} ({100 * score.low:.1f} to {100 * score.high:.1f})" if score else ""


def _gain(row: object) -> str:
    assert isinstance(row, dict)
    return f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def _whole(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _fixed(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
