"""Benchmarks from files of the user's own problems, and the benchmarks that an evaluation asks."""

import json
import os
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lightreasoner.config.sections import QuestionSettings
from lightreasoner.data.benchmarks import BENCHMARKS, PAPER_SET, Benchmark, ChoiceBenchmark, items_hash, numbered
from lightreasoner.data.fields import check_choices, question_of, refuse_index
from lightreasoner.data.files import read_path, stem_of
from lightreasoner.data.golds import checked_gold, gold_of, kind_of
from lightreasoner.data.lines import Row, short
from lightreasoner.data.problems import make_problem
from lightreasoner.errors import DataError
from lightreasoner.runs.progress import warn_once
from lightreasoner.runs.records import Problem

LONGEST_NAME = 100  # characters


class OwnBenchmark(Benchmark):
    """A file of problems with answers. All are read when it is made; one read from an evaluation folder has none.

    Attributes:
        source: the file, as the user named it.
        problems: all problems, with their place in the file in the id.
        note: what was read, for the user.
    """

    name: str
    source: str
    question: Callable[[Row], str] = question_of
    gold: Callable[[Row], str] = gold_of
    problems: tuple[Problem, ...] = ()
    note: str = ""

    def items(self, limit: int | None, data_dir: Path | None) -> list[Problem]:
        """The first `limit` problems."""
        return list(self.problems[:limit])

    @property
    def toolkit_name(self) -> str | None:
        """The toolkit finds letters by its rule for MMLU-STEM; other files get its general rules."""
        return "mmlu_stem" if self.kind == "choice" else None

    @property
    def record(self) -> dict[str, Any]:
        """What an evaluation folder tells about the file, for readers that do not have it."""
        known = {name: getattr(self, name) for name in ("name", "title", "source", "size", "kind")}
        return {"own": known, "content_sha256": items_hash(self.problems)}


def chosen_benchmarks(settings: QuestionSettings) -> list[Benchmark | ChoiceBenchmark]:
    """The benchmarks of an evaluation, each once; `paper` stands for its seven. Reads all files.

    Raises:
        DataError: a file cannot be read, or a row lacks its question or gold answer; names file and line.
    """
    wanted = list(chain.from_iterable(PAPER_SET if name == "paper" else (name,) for name in settings.benchmarks))
    files = list(dict.fromkeys(name for name in wanted if name not in BENCHMARKS))
    given = [name for name in ("question_field", "answer_field", "answer_kind") if getattr(settings, name) is not None]
    if given and not files:
        warn_once(f"{', '.join(given)} is for files of your own, and {', '.join(settings.benchmarks)} names none")
    names = dict(zip(files, _names([Path(os.path.expanduser(file)) for file in files]), strict=True))
    return [
        BENCHMARKS[name] if name in BENCHMARKS else own_benchmark(names[name], name, settings)
        for name in dict.fromkeys(wanted)
    ]


def own_benchmark(name: str, file: str, settings: QuestionSettings) -> OwnBenchmark:
    """Read a file or folder as a benchmark; see `chosen_benchmarks`."""
    rows, golds_of = [], dict[str, str]()
    for row in read_path(Path(file), "test"):
        question = question_of(row, settings.question_field)
        check_choices(row, question, settings.question_field)
        gold = gold_of(row, settings.answer_field)
        refuse_index(row, gold)
        if golds_of.setdefault(question, gold) != gold:
            warn_once(f"{row[0]}: its question comes before with the gold answer {short(golds_of[question])}; mend one")
        rows.append((row[0], question, gold))
    golds = [gold for *_, gold in rows]
    kind, place = (settings.answer_kind, None) if settings.answer_kind else kind_of(file, golds)
    problems = numbered(
        file, [make_problem(question, checked_gold(where, gold, kind)) for where, question, gold in rows]
    )
    because = f", because {rows[place][0]} has {short(rows[place][2])}" if place is not None else ""
    note = f"{name}: {len(rows)} problems from {file}; answers are compared as {kind}{because} (see --answer-kind)"
    items = tuple(problems)
    return OwnBenchmark(name=name, title=name, source=file, size=len(items), kind=kind, problems=items, note=note)


def recorded_benchmark(stage: Path) -> OwnBenchmark | None:
    """The benchmark of a file, without its problems, from a stage of answers to it; None if the stage names none."""
    try:
        return OwnBenchmark(**json.loads((stage / "manifest.json").read_text())["record"]["own"])
    except (OSError, ValueError, LookupError, TypeError):  # pydantic's error is a ValueError
        return None


def _names(files: Sequence[Path]) -> list[str]:
    """A folder name for each file, different from each other and from the known benchmarks.

    The stem of the file. Where that is taken, the file's whole name, then with the folders above it.
    """

    def name(file: Path, depth: int) -> str:
        parts = Path(os.path.abspath(file)).parts
        words = [stem_of(Path(parts[-1]))] if depth == 0 else parts[-depth:]
        safe = re.sub(r"[^\w.-]+", "-", "-".join(words)).strip(".-")
        return safe[-LONGEST_NAME:] or "own"

    def differs(file: Path, depth: int) -> bool:
        mine = name(file, depth).casefold()
        others = {name(other, depth).casefold() for other in files if other is not file}
        return mine not in others | {"paper", *BENCHMARKS}

    deepest = max((len(Path(os.path.abspath(file)).parts) for file in files), default=0)
    names = [name(file, next((n for n in range(deepest) if differs(file, n)), deepest)) for file in files]
    taken = {"paper", *BENCHMARKS}
    for file, chosen in zip(files, map(str.casefold, names), strict=True):
        if chosen in taken:
            raise DataError(
                f"{file}: its results would be stored as {chosen}, like those of another. Give it another name"
            )
        taken.add(chosen)
    return names
