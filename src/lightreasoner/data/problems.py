"""Read problems from the generator, from files, and from data sets on the Hub."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from lightreasoner.data import hub
from lightreasoner.data.fields import hint_of, question_of, unlisted_choice
from lightreasoner.data.files import FORMATS, is_path, read_file, read_path, split_file
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.lines import Row, rows_of
from lightreasoner.errors import DataError, HubUnreachable
from lightreasoner.miniature.word_problems import Split
from lightreasoner.runs.progress import busy, warn_once
from lightreasoner.runs.records import Problem

# Short names of data sets: (Hub id, configuration).
HUB_DATASETS = {"gsm8k": ("openai/gsm8k", "main")}


@dataclass(frozen=True)
class ProblemSet:
    """Problems in file order, each question once.

    Attributes:
        problems: the problems.
        duplicates: number of dropped rows, which repeat the question of an earlier row.
        hints: text of each problem in a further field of its row: by field, then by the problem's id.
    """

    problems: list[Problem]
    duplicates: int
    hints: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash of the questions in order."""
        return hashlib.sha256("\n".join(problem.id for problem in self.problems).encode()).hexdigest()


@busy("reading the problems")
def load_problems(
    dataset: str,
    *,
    split: Split = "train",
    limit: int | None = None,
    seed: int = 42,
    data_dir: Path | None = None,
    question_field: str | None = None,
    hint_fields: Collection[str] = (),
) -> ProblemSet:
    """Load the first `limit` problems of a data set; only generated ones have gold answers.

    Args:
        dataset: a name of `GENERATORS`, a short name of `HUB_DATASETS`, a file or folder, or a Hub id, which may name a
            configuration as `org/name:configuration`.
        split: part of a generated, short-named or Hub data set, or of a folder.
        limit: number of distinct problems; None takes all.
        seed: seed of the generator.
        data_dir: folder whose `NAME/SPLIT.jsonl` is read instead of the Hub.
        question_field: field with the question; None takes the first of `fields.QUESTION_FIELDS` in each row.
        hint_fields: fields with a text, or a number, to keep as `ProblemSet.hints`; of equal questions the first's.

    Raises:
        DataError: no such file, an unreadable or empty row, a missing field, or an empty data set.
        HubUnreachable: the data set is on the Hub, and the Hub does not answer.
    """
    if generator := GENERATORS.get(dataset):
        if limit is None:
            raise DataError(f"{dataset} problems are generated without end; set their number with --max-questions")
        if question_field is not None:
            raise DataError(
                f"{dataset} problems are generated, so they have no field {question_field} for the question; omit "
                "--question-field"
            )
        if hint_fields:
            raise DataError(
                f"{dataset} problems are generated, so they have no field {' or '.join(hint_fields)} for a hint; give "
                "a file or a data set with such a field in --dataset"
            )
        return _deduplicated((make_problem(one.question, one.answer) for one in generator.problems(split, seed)), limit)
    hints: dict[str, dict[str, str]] = {name: {} for name in hint_fields}

    def problems() -> Iterator[Problem]:
        for row in read_dataset(dataset, split, data_dir):
            problem = make_problem(question_of(row, question_field))
            if unlisted := unlisted_choice(row, problem.question, question_field):
                warn_once(
                    f"questions of {dataset} do not list their {unlisted[0]}, and nothing but the question is asked"
                )
            for name, found in hints.items():
                found.setdefault(problem.id, hint_of(row, name))
            yield problem

    return replace(_deduplicated(problems(), limit), hints=hints)


def make_problem(question: str, answer: str | None = None) -> Problem:
    """Make a problem; its id is the hash of its question."""
    question = question.strip()
    return Problem(hashlib.sha256(question.encode()).hexdigest()[:16], question, answer)


def read_dataset(dataset: str, split: str, data_dir: Path | None) -> Iterable[Row]:
    """Read the rows of a file or folder, of `data_dir/DATASET/SPLIT.jsonl`, or of a Hub data set.

    A known name means the data set of this name. Any other name that exists on this machine, or is written like a path,
    is never looked up on the Hub.
    """
    known = HUB_DATASETS.get(dataset)
    if data_dir is not None and (known or not is_path(dataset)):
        return read_file(split_file(data_dir / dataset, split))
    if known is None and is_path(dataset):
        return read_path(Path(dataset), split)
    name, _, configuration = dataset.partition(":")
    name, configuration = known or (name, configuration)
    if not hub.is_repository(name):
        raise DataError(
            f"no data set {dataset!r}: known names are {', '.join((*GENERATORS, *HUB_DATASETS))}; otherwise give a "
            f"file or folder ({FORMATS}), or a Hub id such as openai/gsm8k:main"
        )
    if (parent := Path(dataset).parent).is_dir() and not known and ":" not in dataset:
        raise DataError(
            f"no file or folder {dataset}, though there is a folder {parent}; check the path. If you mean the data set "
            f"{name} on the Hub, write {name}:"
        )
    return read_hub(name, configuration or None, split)


def _deduplicated(problems: Iterable[Problem], limit: int | None) -> ProblemSet:
    seen: dict[str, Problem] = {}
    duplicates = 0
    for problem in problems:
        duplicates += problem.id in seen
        seen.setdefault(problem.id, problem)
        if len(seen) == limit:
            break
    if not seen:
        raise DataError("the data set holds no problem; check the file or name another --dataset")
    return ProblemSet(list(seen.values()), duplicates)


def read_url(url: str) -> Iterator[Row]:
    """Read the rows of a JSONL file at a URL; fails within seconds without a network."""
    try:
        if urlsplit(url).scheme != "https":
            raise ValueError("not https")
        with urlopen(url, timeout=hub.TIMEOUT) as answer:  # noqa: S310 - https only, see above
            lines = answer.read().splitlines()
    except (OSError, ValueError) as error:
        raise HubUnreachable(
            f"cannot read {url} ({error}). Check the network, or save the file as FOLDER/NAME/SPLIT.jsonl and give "
            "FOLDER with --data-dir"
        ) from None
    return rows_of(url, lines)


def read_hub(name: str, configuration: str | None, split: str, revision: str | None = None) -> Iterator[Row]:
    """Read the rows of a data set on the Hub, at a commit or in its newest state."""
    # Imported here because they are slow, and most commands never need them.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not hub.is_offline():
        try:
            HfApi().dataset_info(name, revision=revision, timeout=hub.TIMEOUT)
        except HfHubHTTPError as error:
            raise DataError(f"the Hub refuses data set {name}: {error}") from None
        except Exception as error:  # each client library raises its own type for "no connection"
            raise HubUnreachable(
                f"data set {name} is on the Hub, which does not answer ({type(error).__name__}). "
                "Check the network, set HF_HUB_OFFLINE=1 to use a cached copy, or read a file with "
                "--dataset or --data-dir"
            ) from None
    import datasets  # after the Hub answered: this takes another second

    try:
        rows = datasets.load_dataset(name, configuration, split=split, revision=revision)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot load data set {name} ({configuration or 'default'}, {split}): {error}") from None
    for number, fields in enumerate(rows, 1):
        yield f"{name} {split}, row {number}", fields
