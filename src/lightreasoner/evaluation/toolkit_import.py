"""A file that the Qwen2.5-Math toolkit wrote becomes an evaluation.

One line is one problem. The fields that are read:

    idx         place of the problem in the benchmark's file, from 0 on
    question    as it was asked, answer choices and `(True or False)` included
    gt          gold answer, normalised by the toolkit
    code        what the model wrote, one text a sample
    pred        the answers found in these texts, empty or null where there is none
    score       whether they are right

The toolkit leaves open which token ids there were, and why an answer ended.
"""

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from lightreasoner.config import BenchmarkName, PromptKind
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark, items_hash
from lightreasoner.data.problems import READERS, Row, make_problem, read_file
from lightreasoner.errors import DataError
from lightreasoner.evaluation.judging import CHUNK, summarise
from lightreasoner.grading.verdicts import VERDICTS, Verdict
from lightreasoner.runs.files import file_hash
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Answer, JudgedAnswer, Problem
from lightreasoner.runs.stage import StageFolder, open_stage

_UNKNOWN = ("truncated", "prompt_too_long", "tokens")  # figures of an evaluation that the toolkit does not record

_shortener = reprlib.Repr()
_shortener.maxstring = _shortener.maxother = 80


def import_toolkit(
    file: Path, out: Path, *, benchmark: BenchmarkName, prompt: PromptKind = "chat", model: str | None = None
) -> dict[str, Any]:
    """Write `OUT/PROMPT/BENCHMARK/answers` and, with the verdicts that the file records, `…/toolkit`.

    `lightr compare` then takes OUT. Items are told apart by `idx` and question, so the other side must have read them
    in the toolkit's order. That of MATH on the Hub is another one: evaluate with the toolkit's files in `--data-dir`.

    For the verdicts of another judge, give `lightr grade` a line for each entry of `code`: that as `text`, `gt` as
    `gold`, and the benchmark.

    Args:
        file: what the toolkit wrote with `--save_outputs`.
        out: evaluation folder; may hold other benchmarks.
        benchmark: which one the file answers.
        prompt: which of our kinds its prompts are like: `qwen25-math-cot` is chat, `cot` and `direct` are plain.
        model: name of the model, which the file does not tell.

    Returns:
        The figures as `evaluation.evaluate` reports them, None where the file does not tell.

    Raises:
        DataError: the file breaks the format; names the line. Nothing has been written then.
        RunMismatch: `out` has other answers in this place.
    """
    if not isinstance(BENCHMARKS.get(benchmark), Benchmark):
        known = ", ".join(name for name, entry in BENCHMARKS.items() if isinstance(entry, Benchmark))
        raise DataError(f"the toolkit has no answers to {benchmark}. Name the file's benchmark, one of {known}")
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
                figures = {**summarise(benchmark, answers, verdicts, samples), **dict.fromkeys(_UNKNOWN)}
                # A normalised gold answer changes the hash, so that only an equal one says something.
                equal = items["items_sha256"] == BENCHMARKS[benchmark].items_sha256
                verdicts.finish({**figures, "items_known": equal or None})
            assert verdicts.result is not None
            return verdicts.result


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot
        return False


def _are(values: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(is_right, values))


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {  # what a value must be, and whether it is
    "idx": ("a whole number from 0 on", lambda value: type(value) is int and value >= 0),
    "question": ("a text that can be asked", lambda value: _is_text(value) and bool(value.strip())),
    "gt": ("a text", _is_text),
    "code": ("a list of texts", lambda value: _are(value, _is_text)),
    "pred": ("a list of texts or nulls", lambda value: _are(value, lambda item: item is None or _is_text(item))),
    "score": ("a list of true and false", lambda value: _are(value, lambda item: isinstance(item, bool))),
}


@dataclass(frozen=True)
class _Graded:
    """A problem, and of each sample the text, the answer found in it, and whether that is right.

    Attributes:
        where: the line, for messages.
        place: `idx`.
        problem: with the id that `data.benchmarks.load_benchmark` gives it.
        samples: one or more.
    """

    where: str
    place: int
    problem: Problem
    samples: Sequence[tuple[str, str | None, bool]]


def _graded(row: Row) -> _Graded:
    """A line, checked."""
    where, fields = row
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise DataError(
            f"{where}: no field {', '.join(missing)} among {_shortener.repr(list(fields))}, so the toolkit has not "
            "written or not graded this line. Give the file that it makes with --save_outputs"
        )
    for name, (what, is_right) in _FIELDS.items():
        if not is_right(fields[name]):
            raise DataError(f"{where}: {name} is {_shortener.repr(fields[name])}, not {what}. Mend or remove the line")
    lists = [fields[name] for name in ("code", "pred", "score")]
    codes, preds, scores = map(len, lists)
    if not codes == preds == scores > 0:
        raise DataError(
            f"{where}: code has {codes} entries, pred {preds} and score {scores}, and a sample has one in each. "
            "Mend or remove the line"
        )
    problem = make_problem(fields["question"], fields["gt"])
    identified = replace(problem, id=f"{fields['idx']:05d}-{problem.id}")
    return _Graded(where, fields["idx"], identified, list(zip(*lists, strict=True)))


def _survey(file: Path) -> tuple[list[Problem], int]:
    """All problems by place, and how many samples each has. Checks every line."""
    if file.suffix not in READERS:
        raise DataError(f"{file}: the toolkit writes .jsonl files, not {file.suffix or 'files without an ending'}")
    found: dict[int, tuple[str, Problem]] = {}
    samples = 0
    for graded in map(_graded, read_file(file)):
        samples = samples or len(graded.samples)
        if len(graded.samples) != samples:
            raise DataError(
                f"{graded.where}: {len(graded.samples)} samples, {samples} in the lines before. Figures such as pass@k "
                "need as many for every problem. Remove the problems that have other numbers"
            )
        if graded.place in found:
            raise DataError(
                f"{graded.where}: idx {graded.place} stands in {found[graded.place][0]} too, and a problem counts "
                "once. Remove one of the two"
            )
        found[graded.place] = graded.where, graded.problem
    if not found:
        raise DataError(f"{file}: the file is empty, there is nothing to import. Give another one")
    return [found[place][1] for place in sorted(found)], samples


def _store_answers(stage: StageFolder, file: Path, benchmark: str) -> None:
    for chunk in _chunks(file, stage.settled_ids):
        rows = [
            Answer(problem.id, sample, benchmark, problem.question, problem.answer or "", [], [], text, "unknown")
            for problem, samples in ((graded.problem, graded.samples) for graded in chunk)
            for sample, (text, _, _) in enumerate(samples)
        ]
        counts = {"answers": len(rows), **dict.fromkeys(_UNKNOWN, 0)}
        stage.commit([graded.problem.id for graded in chunk], {"answers": Answer.table(rows)}, counts)


def _store_verdicts(stage: StageFolder, file: Path) -> None:
    for chunk in _chunks(file, stage.settled_ids):
        rows = [
            JudgedAnswer(graded.problem.id, sample, pred or None, pred or None, _verdict(pred, right))
            for graded in chunk
            for sample, (_, pred, right) in enumerate(graded.samples)
        ]
        counts: dict[str, int] = {verdict: sum(row.verdict == verdict for row in rows) for verdict in VERDICTS}
        stage.commit([graded.problem.id for graded in chunk], {"verdicts": JudgedAnswer.table(rows)}, counts)


def _verdict(pred: str | None, right: bool) -> Verdict:
    return "correct" if right else "wrong" if pred else "no_answer"


def _chunks(file: Path, settled: set[str]) -> Iterator[list[_Graded]]:
    waiting = (graded for graded in map(_graded, read_file(file)) if graded.problem.id not in settled)
    while chunk := list(islice(waiting, CHUNK)):
        yield chunk
