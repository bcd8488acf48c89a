"""Stage 4, second half: stored answers become verdicts. Knows nothing of models; another judge costs no new answers."""

from collections.abc import Iterator, Sequence
from importlib import metadata
from itertools import islice
from typing import Any

from lightreasoner.config import EvaluateSettings, JudgeName
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark
from lightreasoner.evaluation.statistics import majority, mean_interval, pass_at_k, wilson_interval
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, Case, Judgement
from lightreasoner.runs.progress import progress
from lightreasoner.runs.records import Answer, JudgedAnswer
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder

CHUNK = 500  # answers per commit
# Counts up when a judge decides anything otherwise than before, so that old verdicts are not mixed with new ones.
JUDGE_VERSIONS: dict[JudgeName, int] = {"math-verify": 1, "toolkit": 1}


def judge_fingerprint(settings: EvaluateSettings) -> dict[str, Any]:
    """Everything beside the answers that decides the verdicts."""
    libraries = ("math-verify", "latex2sympy2_extended", "sympy")
    return {
        "judge": settings.judge,
        "judge_version": JUDGE_VERSIONS[settings.judge],
        "grading_seconds": settings.grading_seconds,
        "grading_megabytes": settings.grading_megabytes,
        **{library: metadata.version(library) for library in libraries},
    }


def judge_all(settings: EvaluateSettings, answers: StageFolder, verdicts: StageFolder, name: str) -> None:
    """Judge every stored answer that has no verdict yet.

    Args:
        settings: which judge, and its limits.
        answers: finished stage of `answering`.
        verdicts: where the verdicts go.
        name: the benchmark, which says what its answers are.
    """
    settled = verdicts.settled_ids
    rows = (row for table in answers.tables("answers") for row in Answer.rows(table))
    waiting = (row for row in rows if _key(row) not in settled)
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, Benchmark)
    total = answers.counts["answers"]
    with (
        GradingPool(
            settings.judge,
            workers=settings.grading_workers,
            seconds=settings.grading_seconds,
            megabytes=settings.grading_megabytes,
            symbolic=benchmark.kind == "expression",
        ) as pool,
        progress(f"judging {name}", total, len(settled)) as advance,
        stop_signals() as stop,
    ):
        while chunk := list(islice(waiting, CHUNK)):
            stop.check()
            found = pool.judge(Case(row.output, row.gold, benchmark.kind, name) for row in chunk)
            judged = [_judged(row, judgement) for row, judgement in zip(chunk, found, strict=True)]
            counts: dict[str, int] = {verdict: sum(row.verdict == verdict for row in judged) for verdict in VERDICTS}
            verdicts.commit([_key(row) for row in chunk], {"verdicts": JudgedAnswer.table(judged)}, counts)
            advance(len(chunk))


def read_judged(verdicts: StageFolder) -> Iterator[JudgedAnswer]:
    """All verdicts of a stage."""
    return (row for table in verdicts.tables("verdicts") for row in JudgedAnswer.rows(table))


def summarise(name: str, answers: StageFolder, verdicts: StageFolder, samples: int) -> dict[str, Any]:
    """The figures of one benchmark: counts, accuracy with its interval, and with several samples pass@k and votes."""
    by_item: dict[str, list[JudgedAnswer]] = {}
    for row in read_judged(verdicts):
        by_item.setdefault(row.question_id, []).append(row)
    scores = [sum(row.verdict == "correct" for row in rows) / len(rows) for rows in by_item.values()]
    accuracy = wilson_interval(int(sum(scores)), len(scores)) if samples == 1 else mean_interval(scores)
    facts = answers.counts
    return {
        **{verdict: verdicts.counts[verdict] for verdict in VERDICTS},
        "truncated": facts["truncated"],
        "prompt_too_long": facts["prompt_too_long"],
        "tokens": facts["tokens"],
        "total": len(scores),
        "samples_per_problem": samples,
        "metric": "acc" if samples == 1 else "mean acc of the samples",
        **accuracy.named("accuracy"),
        **(_over_samples(list(by_item.values()), samples) if samples > 1 else {}),
        "verified": BENCHMARKS[name].verified,
    }


def _over_samples(items: Sequence[Sequence[JudgedAnswer]], samples: int) -> dict[str, Any]:
    """Pass@k for k = 1, 2, 4 … and the accuracy of majority votes."""
    correct = [sum(row.verdict == "correct" for row in rows) for rows in items]
    powers = [2**exponent for exponent in range(samples.bit_length()) if 2**exponent < samples]
    chosen = [majority([row.canonical for row in rows]) for rows in items]
    won = sum(place is not None and rows[place].verdict == "correct" for rows, place in zip(items, chosen, strict=True))
    return {
        "pass_at": {
            str(k): sum(pass_at_k(count, samples, k) for count in correct) / len(items) for k in [*powers, samples]
        },
        "majority": won / len(items),
    }


def _judged(row: Answer, judgement: Judgement) -> JudgedAnswer:
    return JudgedAnswer(row.question_id, row.sample, judgement.extracted, judgement.canonical, judgement.verdict)


def _key(row: Answer) -> str:
    return f"{row.question_id}/{row.sample}"
