"""Results as lines for a person: Markdown tables, which read well in a terminal and in a README."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark
from lightreasoner.grading.verdicts import VERDICTS

GENERATION_TROUBLE = {"truncated": "cut off at the length limit", "prompt_too_long": "with too long a prompt"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return [f"| {' | '.join(line)} |" for line in lines]


def evaluation_lines(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Accuracies in the form of the paper's Table 1 with 95 % intervals, then what went into them."""
    by_prompt: dict[str, dict[str, Mapping[str, Any]]] = {}
    for key, figures in results.items():
        prompt, _, name = key.partition("/")
        by_prompt.setdefault(prompt, {})[name] = figures
    names = list(dict.fromkeys(name for figures in by_prompt.values() for name in figures))
    rows = []
    for prompt, figures in by_prompt.items():
        cells = [_interval(figures[name]) if name in figures else "" for name in names]
        mean = sum(figures[name]["accuracy"] for name in figures) / len(figures)
        average = f"{100 * mean:.1f}" if len(figures) == len(names) else ""  # of all columns or not at all
        rows.append([prompt, *cells, *([average] if len(names) > 1 else [])])
    titles = [BENCHMARKS[name].title for name in names]
    lines = table(["prompt", *titles, *(["AVG"] if len(names) > 1 else [])], rows)
    return [*lines, "", *(_details(key, figures) for key, figures in results.items())]


def comparison_lines(result: Mapping[str, Any]) -> list[str]:
    """One row for each benchmark, means below, warnings last."""
    header = ["prompt", "benchmark", "n", "before", "after", "gain (95 %)", "gained / lost", "p", "p (Holm)", "visible"]
    rows = [
        [
            *(row["prompt"], BENCHMARKS[row["benchmark"]].title, str(row["total"])),
            *(f"{100 * row[side]:.1f}" for side in ("before", "after")),
            _gain(row),
            f"{row['gained']} / {row['lost']}",
            *(f"{row[p]:.2g}" for p in ("p_value", "p_holm")),
            "" if row["minimal_detectable"] is None else f"{100 * row['minimal_detectable']:.1f}",
        ]
        for row in result["benchmarks"]
    ]
    rows += [
        [
            *(row["prompt"], f"AVG of {row['benchmarks']}", str(row["total"])),
            *(f"{100 * row[side]:.1f}" for side in ("before", "after")),
            _gain(row),
            f"{row['gained']} / {row['lost']}",
            f"{row['p_value']:.2g}",
            *("", ""),
        ]
        for row in result["overall"]
    ]
    legend = (
        "Accuracies in %, gains in points with bootstrap intervals; p: exact McNemar (items pooled in AVG); "
        "visible: the smallest true gain that this many items show 4 times in 5."
    )
    return [*table(header, rows), "", legend, *(f"warning: {text}" for text in result["warnings"])]


def run_lines(result: Mapping[str, Any]) -> list[str]:
    """The summary of a run: the pair, what was kept and trained on, the comparison, the times."""
    sampled, tuned = result["sample"], result["finetune"]
    return [
        f"expert {result['expert']}, amateur {result['amateur']}, "
        f"{sampled['questions']} questions of {result['dataset']}",
        f"kept {sampled['kept_steps']} of {sampled['steps']} steps; trained on {tuned['labels_trained']} labels",
        "",
        *comparison_lines(result["comparison"]),
        "",
        "time: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["seconds"].items()),
    ]


def study_lines(result: Mapping[str, Any]) -> list[str]:
    """The reports of the studies below one another."""
    return [line for report in result.values() for line in (f"# {report['title']}", "", *report["lines"], "")]


def benchmark_rows() -> dict[str, dict[str, Any]]:
    """The benchmarks by name, as plain values."""
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
    legend = "verified: a published figure has been reproduced with it. Sources are read unless --data-dir is given."
    return [*table(columns, cells), "", legend]


def _interval(figures: Mapping[str, Any]) -> str:
    return f"{100 * figures['accuracy']:.1f} ({100 * figures['low']:.1f} to {100 * figures['high']:.1f})"


def _gain(row: Mapping[str, Any]) -> str:
    return f"{100 * row['gain']:+.1f} ({100 * row['low']:+.1f} to {100 * row['high']:+.1f})"


def _details(key: str, figures: Mapping[str, Any]) -> str:
    parts = [f"{key}: n = {figures['total']}, {figures['metric']}"]
    parts += [f"{figures[verdict]} {verdict.replace('_', ' ')}" for verdict in VERDICTS if verdict in figures]
    parts += [f"{figures[name]} {what}" for name, what in GENERATION_TROUBLE.items() if figures.get(name)]
    parts += [f"pass@{k} {100 * share:.1f}" for k, share in figures.get("pass_at", {}).items()]
    parts += [f"majority vote {100 * figures['majority']:.1f}"] if "majority" in figures else []
    parts += ["not verified against a published figure"] if not figures["verified"] and _published(key) else []
    return ", ".join(parts)


def _published(key: str) -> bool:
    return BENCHMARKS[key.rpartition("/")[2]].source is not None
