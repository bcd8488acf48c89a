"""Import an output file of the Qwen2.5-Math toolkit as an evaluation. `GradedProblem` describes a line.

The toolkit does not record token ids, nor why an answer ended.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from lightreasoner.config.sections import BenchmarkName, PromptKind
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, items_hash
from lightreasoner.data.files import READERS, read_file
from lightreasoner.data.lines import Line, Text, expected
from lightreasoner.data.problems import make_problem
from lightreasoner.errors import DataError
from lightreasoner.evaluation.judging import CHUNK, commit_of, summarise
from lightreasoner.runs.files import file_hash
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Answer, JudgedAnswer, Problem
from lightreasoner.runs.stage import StageFolder, open_stage

_UNKNOWN = ("truncated", "prompt_too_long", "tokens")  # figures of an evaluation that the toolkit does not record


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError
    return text


_Answer = Annotated[Text | None, AfterValidator(lambda text: text or None)]


class GradedProblem(Line):
    """A line of the toolkit: one problem with its samples.

    Attributes:
        idx: place of the problem in the benchmark's file, from 0 on.
        question: text of the problem, with answer choices and `(True or False)`.
        gt: gold answer, normalised by the toolkit.
        code: texts of the model, one for each sample.
        pred: the answers found in these texts; None if there is none, which the toolkit writes as empty or null.
        score: whether they are correct.
    """

    remedy_if_missing: ClassVar[str] = (
        "the toolkit has not written or not graded this line. Give the file that it makes with --save_outputs"
    )

    idx: Annotated[int, Field(ge=0), expected("a whole number from 0 on")]
    question: Annotated[Text, AfterValidator(_not_blank), expected("a text that can be asked")]
    gt: Annotated[Text, expected("a text")]
    code: Annotated[list[Text], expected("a list of texts")]
    pred: Annotated[list[_Answer], expected("a list of texts or nulls")]
    score: Annotated[list[bool], expected("a list of true and false")]

    @model_validator(mode="after")
    def _lists_match(self) -> Self:
        codes, preds, scores = len(self.code), len(self.pred), len(self.score)
        if not codes == preds == scores > 0:
            raise ValueError(
                f"code has {codes} entries, pred {preds} and score {scores}, and a sample has one in each. "
                "Mend or remove the line"
            )
        return self

    @property
    def problem(self) -> Problem:
        """The problem with the id that `data.benchmarks.load_benchmark` gives it."""
        problem = make_problem(self.question, self.gt)
        return replace(problem, id=f"{self.idx:05d}-{problem.id}")


def import_toolkit(
    file: Path, out: Path, *, benchmark: BenchmarkName, prompt: PromptKind = "chat", model: str | None = None
) -> dict[str, Any]:
    """Import an output file of the Qwen2.5-Math toolkit into an evaluation folder that `lightr compare` reads.

    Writes `OUT/PROMPT/BENCHMARK/answers` and, with the verdicts in the file, `OUT/PROMPT/BENCHMARK/toolkit`.
    `idx` and question identify an item, so the other evaluation must have read the items in the toolkit's order.
    MATH on the Hub has another order: evaluate with the toolkit's files in `--data-dir`.

    For the verdicts of another judge, give `lightr grade` a line for each entry of `code`: the entry as `text`, `gt`
    as `gold`, and the benchmark.

    Args:
        file: JSONL file that the toolkit wrote with --save_outputs.
        out: evaluation folder to write into; may hold other benchmarks.
        benchmark: benchmark that the file answers.
        prompt: kind of the toolkit's prompts; qwen25-math-cot is chat, cot and direct are plain.
        model: name of the model, which the file does not hold.

    Returns:
        The figures as `evaluation.evaluate` reports them; None for those that are not in the file.

    Raises:
        DataError: the file breaks the format; names the line. Then nothing has been written.
        RunMismatch: `out` has other answers in this place.
    """
    answered = BENCHMARKS.get(benchmark)
    if not isinstance(answered, Benchmark):
        known = ", ".join(name for name, entry in BENCHMARKS.items() if isinstance(entry, Benchmark))
        raise DataError(f"the toolkit has no answers to {benchmark}. Give the benchmark of the file, one of {known}")
    problems, samples = _survey(file)
    origin = {"imported_from": {"file": file.name, "sha256": file_hash(file)}}
    items = {"benchmark": benchmark, "items": len(problems), "items_sha256": items_hash(problems)}
    how = {"prompt": {"prompt": prompt}, "decoding": {"samples_per_problem": samples}, "origin of the answers": origin}
    fingerprint = {"model": model, **items, "how": how}
    with open_stage(out, f"{prompt}/{benchmark}/answers", fingerprint, report=say) as answers:
        if answers.result is None:
            _store_answers(answers, file, benchmark)
            answers.finish({"items": len(problems)})
        judge = {"answers": answers.digest, "how": {"judge": {"judge": "toolkit"}, "origin of the answers": origin}}
        with open_stage(out, f"{prompt}/{benchmark}/toolkit", judge, report=say) as verdicts:
            if verdicts.result is None:
                _store_verdicts(verdicts, file)
                figures = {
                    **summarise(answered, answers, verdicts, samples),
                    **dict.fromkeys((*_UNKNOWN, "cut_off", "mean_tokens")),
                }
                # A normalised gold answer changes the hash, so a different hash does not prove different items.
                equal = items["items_sha256"] == answered.items_sha256
                verdicts.finish({**figures, "items_known": equal or None})
            assert verdicts.result is not None
            return verdicts.result


def _survey(file: Path) -> tuple[list[Problem], int]:
    """All problems by place, and the number of samples of each. Checks every line."""
    if file.suffix not in READERS or file.suffix == ".txt":
        raise DataError(f"{file}: the toolkit writes .jsonl files, not {file.suffix or 'files without a suffix'}")
    found: dict[int, tuple[str, Problem]] = {}
    samples = 0
    for where, fields in read_file(file):
        graded = GradedProblem.checked((where, fields))
        samples = samples or len(graded.code)
        if len(graded.code) != samples:
            raise DataError(
                f"{where}: {len(graded.code)} samples, {samples} in the lines before. Figures such as pass@k need the "
                "same number for every problem. Remove the problems with other numbers"
            )
        if graded.idx in found:
            raise DataError(
                f"{where}: idx {graded.idx} stands in {found[graded.idx][0]} too, and a problem counts once. Remove "
                "one of the two"
            )
        found[graded.idx] = where, graded.problem
    if not found:
        raise DataError(f"{file}: the file is empty, there is nothing to import. Give another file")
    return [found[place][1] for place in sorted(found)], samples


def _store_answers(stage: StageFolder, file: Path, benchmark: str) -> None:
    for chunk in _chunks(file, stage.settled_ids):
        rows = [
            Answer(problem.id, sample, benchmark, problem.question, problem.answer or "", [], [], text, "unknown")
            for problem, graded in chunk
            for sample, text in enumerate(graded.code)
        ]
        counts = {"answers": len(rows), **dict.fromkeys(_UNKNOWN, 0)}
        stage.commit([problem.id for problem, _ in chunk], {"answers": Answer.table(rows)}, counts)


def _store_verdicts(stage: StageFolder, file: Path) -> None:
    for chunk in _chunks(file, stage.settled_ids):
        done = commit_of(
            JudgedAnswer(problem.id, sample, pred, pred, "correct" if right else "wrong" if pred else "no_answer")
            for problem, graded in chunk
            for sample, (pred, right) in enumerate(zip(graded.pred, graded.score, strict=True))
        )
        stage.commit([problem.id for problem, _ in chunk], done.tables, done.counts)


def _chunks(file: Path, settled: set[str]) -> Iterator[list[tuple[Problem, GradedProblem]]]:
    pairs = ((graded.problem, graded) for graded in map(GradedProblem.checked, read_file(file)))
    waiting = (pair for pair in pairs if pair[0].id not in settled)
    while chunk := list(islice(waiting, CHUNK)):
        yield chunk
