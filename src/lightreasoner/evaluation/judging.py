"""Stage 4, second half: judge the stored answers. It loads no model, so another judge needs no new answers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any

from lightreasoner.config.sections import JudgeName, JudgeSettings
from lightreasoner.data.benchmarks import Benchmark
from lightreasoner.data.own import OwnBenchmark
from lightreasoner.evaluation.statistics import mean_interval, pass_at_k, wilson_interval
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, Case, Judgement, majority
from lightreasoner.runs.records import Answer, JudgedAnswer
from lightreasoner.runs.stage import StageFolder, settle
from lightreasoner.runs.work import Commit, Work

CHUNK = 500  # answers per commit
# Raised when a judge changes any decision, so that old and new verdicts are not mixed.
JUDGE_VERSIONS: dict[JudgeName, int] = {"math-verify": 7, "toolkit": 2}


def judge_identity(settings: JudgeSettings, benchmark: Benchmark) -> dict[str, Any]:
    """Everything that decides the verdicts, apart from the answers."""
    return {
        **settings.identity(JudgeSettings),
        **({"answer_kind": benchmark.kind} if isinstance(benchmark, OwnBenchmark) else {}),
        "judge_version": JUDGE_VERSIONS[settings.judge],
        **{library: metadata.version(library) for library in ("math-verify", "latex2sympy2_extended", "sympy")},
    }


class Judging(Work[Answer, Judgement]):
    """Verdicts on the answers to one benchmark."""

    def __init__(self, pool: GradingPool, benchmark: Benchmark) -> None:
        self.label = f"judging {benchmark.name}"
        self._pool = pool
        self._benchmark = benchmark

    def key(self, item: Answer) -> str:
        """Question and sample."""
        return f"{item.question_id}/{item.sample}"

    def run(self, batch: Sequence[Answer]) -> list[Judgement]:
        """The judgement of each answer."""
        kind, name = self._benchmark.kind, self._benchmark.toolkit_name
        return list(self._pool.judge(Case(answer.output, answer.gold, kind, name) for answer in batch))

    def commit(self, batch: Sequence[Answer], results: list[Judgement]) -> Commit:
        """The judged answers of a batch, and how many there are of each verdict."""
        return commit_of(
            JudgedAnswer(answer.question_id, answer.sample, found.extracted, found.canonical, found.verdict)
            for answer, found in zip(batch, results, strict=True)
        )


def commit_of(verdicts: Iterable[JudgedAnswer]) -> Commit:
    """The verdicts of a batch as a table, and how many there are of each."""
    rows = list(verdicts)
    counts = Counter(row.verdict for row in rows)
    return Commit({"verdicts": JudgedAnswer.table(rows)}, {verdict: counts[verdict] for verdict in VERDICTS})


def judge_all(settings: JudgeSettings, answers: StageFolder, verdicts: StageFolder, benchmark: Benchmark) -> None:
    """Judge every stored answer of the benchmark that has no verdict yet, with the settings' judge and its limits."""
    rows = (row for table in answers.tables("answers") for row in Answer.rows(table))
    with GradingPool(
        settings.judge,
        workers=settings.grading_workers,
        seconds=settings.grading_seconds,
        megabytes=settings.grading_megabytes,
        symbolic=benchmark.kind == "expression",
    ) as pool:
        settle(verdicts, rows, CHUNK, Judging(pool, benchmark), total=answers.counts["answers"], stream=True)


def read_judged(verdicts: StageFolder) -> Iterator[JudgedAnswer]:
    """All verdicts of a stage."""
    return (row for table in verdicts.tables("verdicts") for row in JudgedAnswer.rows(table))


def judged_by_item(verdicts: StageFolder) -> dict[str, list[JudgedAnswer]]:
    """All verdicts of a stage by question."""
    by_item: dict[str, list[JudgedAnswer]] = {}
    for row in read_judged(verdicts):
        by_item.setdefault(row.question_id, []).append(row)
    return by_item


def share_correct(rows: Sequence[JudgedAnswer]) -> float:
    """Share of these answers that are correct, 0 … 1."""
    return sum(row.verdict == "correct" for row in rows) / len(rows)


def summarise(benchmark: Benchmark, answers: StageFolder, verdicts: StageFolder, samples: int) -> dict[str, Any]:
    """The figures of one benchmark: counts, accuracy with its interval, and with several samples pass@k and votes."""
    items = list(judged_by_item(verdicts).values())
    scores = [share_correct(rows) for rows in items]
    accuracy = wilson_interval(int(sum(scores)), len(scores)) if samples == 1 else mean_interval(scores, samples)
    return {
        **{verdict: verdicts.counts[verdict] for verdict in VERDICTS},
        **{name: answers.counts[name] for name in ("truncated", "prompt_too_long", "tokens")},
        "cut_off": answers.counts["truncated"] / answers.counts["answers"],
        "mean_tokens": answers.counts["tokens"] / answers.counts["answers"],
        "total": len(scores),
        "samples_per_problem": samples,
        "metric": "acc" if samples == 1 else "mean acc of the samples",
        **accuracy.named("accuracy"),
        **(_over_samples(items, samples) if samples > 1 else {}),
        "verified": benchmark.verified,
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
