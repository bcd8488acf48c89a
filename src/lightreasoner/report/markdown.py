"""A report as Markdown, for READMEs and terminals. Texts of models are in indented blocks, where markup is inert."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightreasoner.report.cases import Case, CaseAnswer
from lightreasoner.report.labels import LabelStatistics
from lightreasoner.report.model import PAPER_COSTS, Report, Sides
from lightreasoner.report.tables import duration, fixed, gain, lengths, p_value, round_rows, score, share, table, whole
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS, AlignedShares


def markdown(report: Report) -> str:
    """The content of the report in the order of the page, without the rollouts."""
    blocks = [
        [f"# {_text(report.run)}", "", _text(report.verdict)],
        [f"- not in this report: {_text(text)}" for text in report.missing],
        ["These commands make what is missing:", "", *(f"    {command}" for command in report.completing)]
        if report.completing
        else [],
        [f"- warning: {_text(text)}" for text in report.sample_warnings],
        _accuracy(report),
        _cost(report),
        _sides(report.sides) if report.sides else [],
        _labels(report.labels, report.selection, report.aligned) if report.labels else [],
        _training(report),
        _rounds(report),
        [*_cases("Became right", report.cases.became_right, report.cases.gained)],
        [*_cases("Became wrong", report.cases.became_wrong, report.cases.lost)],
        ["## Settings", "", *_rows(["setting", "value"], [[*map(str, row)] for row in report.settings.items()])],
        ["## Environment", "", *_rows(["", ""], [[*row] for row in report.environment.items()])],
        ["## Reproduce the run", "", *(f"    {command}" for command in report.commands)] if report.commands else [],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _accuracy(report: Report) -> list[str]:
    if not report.accuracies:
        return []
    header = ["benchmark", "prompt", "n", "before", "after", "gain (95 %)", "gained / lost", "p", "p (Holm)"]
    header += ["cut off, %", "tokens"]
    rows = []
    for one in report.accuracies:
        tested = [*_tested(one.test), p_value(one.test["p_holm"])] if one.test else [""] * 4
        rows.append([one.title, str(one.prompts), str(one.total), score(one.before), score(one.after), *tested])
        rows[-1] += lengths(one.lengths)
    for row in report.overall:
        means = [f"{100 * row[side]:.1f}" for side in ("before", "after")]
        rows.append(
            [f"mean of {row['benchmarks']}", str(row["prompts"]), str(row["total"]), *means, *_tested(row), "", "", ""]
        )
    return ["## Accuracy", "", *_rows(header, rows), *(f"\n{_text(text)}" for text in report.warnings)]


def _tested(row: Mapping[str, Any]) -> list[str]:
    return [gain(row), f"{row['gained']} / {row['lost']}", p_value(row["p_value"])]


def _cost(report: Report) -> list[str]:
    cost = report.cost
    points = "–" if cost.gain is None else f"{cost.gain:+.1f}"
    rows = [["this run", duration(cost.sampling_and_tuning), whole(cost.problems), whole(cost.tuned_tokens), points]]
    for row in PAPER_COSTS:
        time, tokens = duration(3600 * row["hours"]), f"≈ {row['tuned_tokens']:,}"
        rows.append([f"paper: {row['model']}", time, whole(row["problems"]), tokens, str(row["gain"])])
    lines = ["## Cost", "", *_rows(["run", "sampling + tuning", "problems", "tuned tokens", "gain"], rows)]
    if cost.seconds:
        lines += ["", f"Time: {', '.join(f'{name} {duration(time)}' for name, time in cost.seconds.items())}."]
    if cost.generated_tokens is not None:
        computed = f"{whole(cost.generated_tokens)} tokens generated, {whole(cost.scored_tokens)} scored by both models"
        lines += ["", f"Computed: {computed}."]
    return lines


def _sides(sides: Sides) -> list[str]:
    both = [["model", sides.expert, sides.amateur], ["hint", sides.expert_hint or "–", sides.amateur_hint or "–"]]
    lines = ["## Which side reads what", "", *_rows(["", "expert", "amateur"], both), ""]
    if not sides.differ:
        return [*lines, "Both read the same prompt:", "", *_indented(sides.expert_prompt)]
    lines += ["The expert reads, for example:", "", *_indented(sides.expert_prompt)]
    return [*lines, "", "The amateur reads:", "", *_indented(sides.amateur_prompt)]


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


def _labels(labels: LabelStatistics, selection: str | None, aligned: AlignedShares | None) -> list[str]:
    figures = [
        *([["selected by", _text(selection)]] if selection else []),
        ["rollouts", whole(labels.rollouts)],
        ["ended with a stop token", whole(labels.finished)],
        ["steps scored", whole(labels.steps)],
        ["labels", whole(labels.kept)],
        ["steps with KL < 0.1", share(labels.below_tenth)],
        ["steps kept", share(labels.above_beta)],
        ["top-1 tokens agree", share(labels.agree)],
        ["mean KL where they agree, nats", fixed(labels.mean_kl_agree)],
        ["mean KL where they differ, nats", fixed(labels.mean_kl_disagree)],
        ["kept where they agree", share(labels.agree_above_beta)],
        ["labels of one token", share(labels.single_token)],
        ["tokens in a label, mean", fixed(labels.mean_support)],
        ["label entropy, mean, nats", fixed(labels.mean_entropy)],
        ["label mass on format tokens", share(labels.format_labels)],
        ["format tokens in the responses", share(labels.format_responses)],
    ]
    lines = ["## Labels", "", *_rows(["", ""], figures)]
    if aligned is not None:
        lines += ["", f"The amateur has another tokenizer: {aligned}."]
    if labels.histogram:
        parts = ("KL, nats", HEAD_BINS, labels.histogram), ("of the tail, nats", TAIL_BINS, labels.tail)
        for title, bins, shares in parts:
            rows = [[str(place), share(part)] for place, part in zip(bins, shares, strict=True)]
            lines += ["", *_rows([title, "tokens"], rows)]
    if labels.kept:
        sizes = [[str(n), whole(count)] for n, count in enumerate(labels.supports, 1)]
        sizes[-1][0] += " or more"
        pairs = zip(labels.steps_at, labels.kept_at, strict=True)
        positions = [[str(at), whole(steps), share(kept)] for at, (steps, kept) in enumerate(pairs)]
        lines += ["", *_rows(["tokens in a label", "labels"], sizes)]
        lines += ["", *_rows(["position", "steps", "kept"], positions)]
    for title, tokens in (("promoted", labels.promoted), ("demoted", labels.demoted)):
        if tokens:
            cells = [[f"`{_cell(repr(one.text)[1:-1])}`", f"{one.mass:+.1f}", whole(one.labels)] for one in tokens]
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


def _rounds(report: Report) -> list[str]:
    header, *rows = round_rows(report.rounds) or [[]]
    return ["## Rounds", "", _text(report.rounds["why"]), "", *_rows(header, rows)] if header else []


def _cases(title: str, cases: Sequence[Case], total: int) -> Iterator[str]:
    if cases:
        yield f"## {title}: {len(cases)} of {total}"
    for case in cases:
        parts = "" if case.diverges_at is None else f"; the answers differ from token {case.diverges_at} on"
        yield f"\n{_text(case.benchmark)}, gold answer {_text(case.gold)}{parts}:\n"
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
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
