"""A report as Markdown, for READMEs and terminals. Texts of models are in indented blocks, where markup is inert."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightreasoner.evaluation.comparison import Prompts
from lightreasoner.report.cases import Case, CaseAnswer
from lightreasoner.report.labels import LabelStatistics
from lightreasoner.report.made import Sides
from lightreasoner.report.model import PAPER_COSTS, Report
from lightreasoner.report.several import Several
from lightreasoner.report.tables import fixed, gain, lengths, p_value, round_rows, score, share, table, whole
from lightreasoner.runs.terminal import duration
from lightreasoner.samples.statistics import HEAD_BINS, TAIL_BINS, AlignedShares

CHOSEN = ("steps kept by", "labels")  # choices that a selection's words say together


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
        _sides(report.sides, report.aligned) if report.sides else [],
        _labels(report) if report.labels else [],
        _lengths(report),
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


def _sides(sides: Sides, aligned: AlignedShares | None) -> list[str]:
    rows = [*map(list, sides.rows), ["vocabulary", sides.vocabulary, str(aligned or "")]]
    lines = ["## Which side reads what", "", *_rows(["", "expert", "amateur"], rows), ""]
    if not sides.differ:
        return [*lines, "Both read the same prompt:", "", *_indented(sides.expert.prompt)]
    lines += ["The expert reads, for example:", "", *_indented(sides.expert.prompt)]
    return [*lines, "", "The amateur reads:", "", *_indented(sides.amateur.prompt)]


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]


def _labels(report: Report) -> list[str]:
    labels, weights = report.labels, report.weights
    assert labels is not None
    figures = [
        *([["selected by", _text(report.selection)]] if report.selection else []),
        *([name, text] for name, text in report.choices.items() if not (report.selection and name in CHOSEN)),
        *(
            [
                ["weights of the labels", f"{fixed(weights.smallest)} to {fixed(weights.largest)}, mean 1"],
                ["as effective as this share with equal weights", share(weights.effective)],
            ]
            if weights
            else []
        ),
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
    ]
    lines = ["## Labels", "", *_rows(["", ""], figures)]
    if report.aligned is not None:
        lines += ["", f"The amateur has another tokenizer: {report.aligned}."]
    if labels.kept or labels.histogram:
        lines += _label_tables(labels)
    lines += [
        f"\nWarning: {warning.count:,} {warning.text}, first at "
        + ", ".join(f"{place.rollout}/{place.position}" for place in warning.places[:5])
        for warning in labels.warnings
    ]
    return lines  # fmt: skip


def _label_tables(labels: LabelStatistics) -> list[str]:
    """Divergence, sizes, positions, and the tokens that labels move."""
    lines: list[str] = []
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
    if labels.kinds:
        kinds = [[one.kind, *map(share, (one.responses, one.kept, one.labels, one.mass))] for one in labels.kinds]
        lines += ["", *_rows(["kind of token", "responses", "of them kept", "kept steps", "label mass"], kinds)]
        lines += ["", *_rows(["position", "steps", "kept"], positions)]
    for title, tokens in (("promoted", labels.promoted), ("demoted", labels.demoted)):
        if tokens:
            cells = [[f"`{_cell(repr(one.text)[1:-1])}`", f"{one.mass:+.1f}", whole(one.labels)] for one in tokens]
            lines += ["", *_rows([f"most {title}", "Σ (v − π_E)", "labels"], cells)]
    return lines


def _lengths(report: Report) -> list[str]:
    if not report.lengths:
        return []
    header = ["what", "side", "n", "mean", "median", "10 to 90 %", "longest", "limit", "cut off", "empty"]
    rows = [
        [row.of, row.side or "–", whole(row.total), f"{row.mean:.1f}", f"{row.median:g}",
         f"{row.low:g} to {row.high:g}", whole(row.longest), whole(row.limit), share(row.cut_off), share(row.empty)]
        for row in report.lengths
    ]  # fmt: skip
    return ["## Lengths and truncation, in tokens", "", *_rows(header, rows)]


def _training(report: Report) -> list[str]:
    if not report.training:
        return []
    columns = [
        name for name in ("step", "loss", "kl_to_target", "grad_norm", "learning_rate") if name in report.training[0]
    ]
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
    return table([_cell(cell) for cell in header], [[_cell(cell) for cell in row] for row in rows])


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def several_markdown(several: Several) -> str:
    """The comparison of several runs in the order of its page, without the curves."""
    names = several.names
    facts = [
        [name, one.expert or "–", one.amateur or "–", whole(one.cost.problems), whole(one.cost.tuned_tokens),
         duration(one.cost.sampling_and_tuning), gain(one.main_test) if one.main_test else "–"]
        for name, one in zip(names, several.reports, strict=True)
    ]  # fmt: skip
    header = ["run", "expert", "amateur", "problems", "tuned tokens", "sampling + tuning", "gain over its expert"]
    settings = [[name, *("none" if value is None else str(value) for value in row)]
                for name, row in several.settings.items()]  # fmt: skip
    tests = [
        [names[place], title, str(Prompts(*row["prompts"])), whole(row["total"]), f"{100 * row['before']:.1f}",
         f"{100 * row['after']:.1f}", *_tested(row), p_value(row["p_holm"])]
        for place, title, row in several.rows
    ]  # fmt: skip
    columns = ["run", "benchmark", "prompt", "n", names[0], "this run", "difference (95 %)", "better / worse items"]
    blocks = [
        [f"# {_text(several.verdict)}"],
        [f"- {_text(text)}" for text in several.sentences],
        [f"- not in this comparison: {_text(text)}" for text in several.missing],
        ["## Runs", "", *_rows(header, facts)],
        ["## Settings that differ", "", *_rows(["setting", *names], settings)],
        [f"## Differences from {_text(names[0])}", "", *_rows([*columns, "p", "p (Holm)"], tests)] if tests else [],
        [f"- warning: {_text(text)}" for text in several.warnings],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _text(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
