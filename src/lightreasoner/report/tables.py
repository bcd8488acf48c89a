"""Results as text: Markdown tables, and the formats of numbers that all reports share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, title_of
from lightreasoner.evaluation.comparison import MOST_CUT_OFF, Prompts
from lightreasoner.evaluation.statistics import Interval
from lightreasoner.grading.verdicts import VERDICTS
from lightreasoner.runs.records import ALARMS

GENERATION_TROUBLE = {"truncated": "cut off at the length limit", "prompt_too_long": "with too long a prompt"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(line)} |" for line in lines]


def evaluation_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Accuracies in the form of the paper's Table 1 with 95 % intervals, then the counts behind each of them."""
    by_prompt: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, figures in results.items():
        prompt, _, name = key.partition("/")
        by_prompt.setdefault(prompt, {})[name] = figures
    names = list(dict.fromkeys(name for figures in by_prompt.values() for name in figures))
    header = ["prompt", *map(title_of, names), "AVG"]
    rows = []
    for prompt, figures in by_prompt.items():
        cells = [score(Interval.of(figures[name], "accuracy")) if name in figures else "" for name in names]
        mean = sum(row["accuracy"] for row in figures.values()) / len(figures)
        rows.append([prompt, *cells, f"{100 * mean:.1f}" if len(figures) == len(names) else ""])
    if len(names) == 1:  # no average of one
        header, rows = header[:-1], [row[:-1] for row in rows]
    details = (_details(key, figures) for key, figures in results.items())
    return [*table(header, rows), "", *details, *(f"warning: {text}" for text in length_warnings(results))]


def length_warnings(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning for each benchmark where more than `MOST_CUT_OFF` of the answers were cut off, or prompts too long."""
    cut_off = [
        f"{key}: {100 * share:.1f} % of the answers were cut off at the length limit, so their accuracy is that of the "
        "limit too. Raise --max-answer-tokens, with another --out"
        for key, figures in results.items()
        if (share := figures.get("cut_off") or 0) > MOST_CUT_OFF
    ]
    too_long = [
        f"{key}: no answer to {count} prompts, which are too long for the model's context; they count as wrong. Leave "
        "these problems out, or use a model with a longer context"
        for key, figures in results.items()
        if (count := figures.get("prompt_too_long") or 0)
    ]
    return [*cut_off, *too_long]


def comparison_lines(result: Mapping[str, Any]) -> list[str]:
    """One row for each benchmark, means below, warnings last."""
    header = ["prompt", "benchmark", "n", "before", "after", "gain (95 %)", "gained / lost", "p", "p (Holm)", "MDE"]
    header += ["cut off", "tokens"]
    rows = [
        [
            *_compared(row, title_of(row["benchmark"])),
            f"{row['p_holm']:.2g}",
            "" if row["minimal_detectable"] is None else f"{100 * row['minimal_detectable']:.1f}",
            *lengths(row["lengths"]),
        ]
        for row in result["benchmarks"]
    ]
    rows += [[*_compared(row, f"AVG of {row['benchmarks']}"), "", "", "", ""] for row in result["overall"]]
    legend = (
        "Accuracies in %, gains in points with score intervals (Tango); p: exact McNemar (items pooled in AVG); "
        "MDE: minimum detectable effect at 80 % power, in points; "
        "cut off: % of the answers that reached the length limit, tokens: mean of an answer, before → after."
    )
    return [*table(header, rows), "", legend, *(f"warning: {text}" for text in result["warnings"])]


def lengths(sides: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Cut-off answers in %, and mean tokens of an answer, each before → after; – for a side that is not known."""
    both, units = (sides["before"], sides["after"]), {"cut_off": 100, "mean_tokens": 1}
    if all(side["mean_tokens"] is None for side in both):
        return ["", ""]
    return [
        " → ".join("–" if side[name] is None else f"{unit * side[name]:.1f}" for side in both)  # type: ignore[operator]
        for name, unit in units.items()
    ]


def _compared(row: Mapping[str, Any], title: str) -> list[str]:
    """The columns of a comparison that benchmarks and averages share."""
    return [
        *(str(Prompts(*row["prompts"])), title, str(row["total"])),
        *(f"{100 * row[side]:.1f}" for side in ("before", "after")),
        *(gain(row), f"{row['gained']} / {row['lost']}", f"{row['p_value']:.2g}"),
    ]


def run_lines(result: Mapping[str, Any]) -> list[str]:
    """The summary of a run: the pair, kept steps and labels, the comparison, the times."""
    sampled, tuned = result["sample"], result["finetune"]
    return [
        f"expert {result['expert']}, amateur {result['amateur']}, "
        f"{sampled['questions']} questions of {result['dataset']}",
        f"{_kept(sampled, result.get('select'))}; trained on {tuned['labels_trained']} labels",
        *(f"warning: {text}" for text in sampled.get("warnings", ())),
        "",
        *comparison_lines(result["comparison"]),
        "",
        "time: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["seconds"].items()),
    ]


def _kept(sampled: Mapping[str, Any], selected: Mapping[str, Any] | None = None) -> str:
    # A selection counts the steps whose tokens were stored; the samples count all.
    chosen = sampled if selected is None else {**selected, "steps": sampled["steps"]}
    kl = f", mean KL {sampled['mean_kl']:.2f} nats" if sampled.get("mean_kl") is not None else ""
    return f"kept {chosen['kept_steps']} of {chosen['steps']} steps ({kept_share(chosen)}{kl})"


# Counts of `lightr sample` that are 0 in most runs.
_RARE = {
    "duplicate_questions": "duplicate questions left out",
    "too_long_questions": "questions left out, longer than the context",
    "unaligned_steps": "steps left out, within a token of the amateur",
    "nonfinite_steps": "steps left out, with NaN or infinite logits",
}


def sample_lines(result: Mapping[str, Any]) -> list[str]:
    """What sampling, or a selection from samples, has kept."""
    ended = f", {result['finished_rollouts']} of them finished" if "finished_rollouts" in result else ""
    single = f"; {result['single_token_labels']} labels are one token" if "single_token_labels" in result else ""
    entropies = [
        f"{side} {result[name]:.2f}"
        for side, name in (("expert", "mean_expert_entropy"), ("amateur", "mean_amateur_entropy"))
        if result.get(name) is not None
    ]
    return [
        *([f"{result['questions']} rollouts{ended}"] if "questions" in result else []),
        _kept(result) + single,
        *(["mean entropy, nats: " + ", ".join(entropies)] if entropies else []),
        *(f"{result[name]:,} {text}" for name, text in _RARE.items() if result.get(name)),
        *(f"warning: {text}" for text in result.get("warnings", ())),
    ]


def finetune_lines(result: Mapping[str, Any]) -> list[str]:
    """What was trained on, and how the loss changed."""
    skipped = f"; {result['labels_skipped']} left out, with a longer prefix" if result["labels_skipped"] else ""
    return [
        f"trained on {result['labels_trained']} labels in {result['steps']} steps, "
        f"from {result['labels']} different ones{skipped}",
        f"loss {result['first_loss']:.4f} → {result['last_loss']:.4f} nats",
        f"adapter sha256 {result['adapter_sha256']}",
        f"time: {result['seconds']:.0f} s",
    ]


def merge_lines(result: Mapping[str, Any]) -> list[str]:
    """How near the merged model is to the base with the adapter."""
    return [
        f"merged {result['base']} and the adapter in {result['dtype']}",
        f"to base + adapter: mean KL {result['mean_kl']:.2g} nats, "
        f"the same top token at {100 * result['top1_agreement']:.1f} % of the steps of the check",
        f"time: {result['seconds']:.0f} s",
    ]


def kept_share(counts: Mapping[str, int]) -> str:
    """Share of kept steps."""
    return f"{100 * counts['kept_steps'] / max(counts['steps'], 1):.0f} %"


def round_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The alarms of each round as cells below a header, from the content of `ROUNDS`; empty for a folder without."""
    rows = found.get("rounds", ())
    if not rows:
        return []
    lines = [["round", *ALARMS]]
    for number, row in enumerate(rows):
        kept = " (kept)" if number == found["kept"] else ""
        cells = [row["failure"]] if "failure" in row else [f"{row[name]:.3g}" for name in ALARMS]
        lines.append([f"{number}{kept}", *cells, *[""] * (len(ALARMS) - len(cells))])
    return [[cell.replace("_", " ") for cell in lines[0]], *lines[1:]]


def rounds_lines(result: Mapping[str, Any]) -> list[str]:
    """The alarms of the rounds, and which one is kept and why."""
    header, *rows = round_rows(result)
    return [*table(header, rows), "", result["why"]]


def study_lines(result: Mapping[str, Any]) -> list[str]:
    """The reports of the studies below one another."""
    return [line for report in result.values() for line in (f"# {report['title']}", "", *report["lines"], "")]


def benchmark_rows() -> dict[str, dict[str, Any]]:
    """List the benchmarks: size, metric, source, and whether a published figure has been reproduced."""
    return {
        name: {
            "name": name,
            "title": benchmark.title,
            "items": benchmark.size,
            "answers": benchmark.kind if isinstance(benchmark, Benchmark) else "given choices, by likelihood",
            "shots": len(benchmark.demonstrations) if isinstance(benchmark, Benchmark) else 0,
            "metric": benchmark.metric,
            "source": str(benchmark.source or "generated"),
            "file": f"{name}/{benchmark.split}.jsonl",
            "items_sha256": benchmark.items_sha256,
            "verified": benchmark.verified,
        }
        for name, benchmark in BENCHMARKS.items()
    }


def benchmark_lines(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The benchmarks as a table."""
    columns = ["name", "items", "answers", "shots", "metric", "verified", "source"]
    cells = [[str(row[column]) for column in columns] for row in rows.values()]
    legend = (
        "verified: reproduces a published figure. --data-dir replaces the source. --benchmarks takes your files too."
    )
    return [*table(columns, cells), "", legend]


def _details(key: str, figures: Mapping[str, Any]) -> str:
    parts = [f"{key}: n = {figures['total']}, {figures['metric']}"]
    parts += [f"{figures[verdict]} {verdict.replace('_', ' ')}" for verdict in VERDICTS if verdict in figures]
    parts += [f"{figures[name]} {what}" for name, what in GENERATION_TROUBLE.items() if figures.get(name)]
    if figures.get("mean_tokens") is not None:
        parts.append(f"{figures['mean_tokens']:.1f} tokens an answer")
    parts += [f"pass@{k} {100 * share:.1f}" for k, share in figures.get("pass_at", {}).items()]
    if "majority" in figures:
        parts.append(f"majority vote {100 * figures['majority']:.1f}")
    known = BENCHMARKS.get(key.rpartition("/")[2])
    if known is not None and known.source is not None and not figures["verified"]:
        parts.append("not verified against a published figure")
    return ", ".join(parts)


def gain(row: Mapping[str, Any]) -> str:
    """The gain of a row of a comparison in points, with its interval: +2.1 (-0.4 to +4.6)."""
    return f"{Interval.of(row, 'gain').percent:+.1f}"


def p_value(value: float) -> str:
    """A p-value with two digits, 0.034, or with one if it is tiny, 2e-96; <1e-300 below the range of a float."""
    if value < 1e-300:
        return "<1e-300"
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}"


def _or_dash(form: Callable[[Any], str]) -> Callable[[Any], str]:
    """A format of numbers that shows – for None."""
    return lambda value: "–" if value is None else form(value)


score = _or_dash(lambda accuracy: f"{accuracy.percent:.1f}")  # an interval in %: 55.0 (34.2 to 74.2)
whole = _or_dash("{:,}".format)  # a count: 1,319
share = _or_dash(lambda value: f"{100 * value:.1f} %")  # a share in percent: 12.5 %
fixed = _or_dash("{:.3f}".format)
