"""What a stage does with its items, and the batches that it cuts them into."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Any, Generic, TypeVar

import pyarrow as pa

from lightreasoner.runs.eta import Load
from lightreasoner.runs.faults import fault_point

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Commit:
    """The rows of a batch by kind, and integers to add up over all batches."""

    tables: Mapping[str, pa.Table]
    counts: Mapping[str, int]


class Work(ABC, Generic[Item, Result]):
    """What a stage does with its items; `settle` does the rest.

    Attributes:
        label: name of the progress bar.
        passes: passes over whole texts that follow the generation of a batch; for the time left.
    """

    label: str
    passes: float = 0.0

    @abstractmethod
    def key(self, item: Item) -> str:
        """Id of the item in the ledger. Items of one id lie side by side and share a batch."""

    def order(self, item: Item) -> Any:
        """Sort key: neighbours share a batch, so items of like length save padding. The order is the same on resume."""
        return 0

    def group(self, item: Item) -> Any:
        """Items of different groups never share a batch."""
        return None

    def load(self, item: Item) -> Load:
        """Tokens of the item that are known beforehand, for the time left."""
        return Load(1)

    @abstractmethod
    def run(self, batch: Sequence[Item]) -> list[Result]:
        """Do the work; called with a part of the batch where `attempt` splits it."""

    @abstractmethod
    def commit(self, batch: Sequence[Item], results: list[Result]) -> Commit:
        """The rows of a finished batch."""

    def attempt(
        self, batch: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]], halved: list[int]
    ) -> list[Result]:
        """Run a batch; work that can run out of memory splits it here, and notes the sizes that did not fit."""
        return run(batch)

    def note(self, counts: Mapping[str, int]) -> str:
        """Text behind the progress bar, from the stage's counts after a commit. May raise to stop the stage."""
        return ""


def batches_of(items: Iterable[Item], size: int, work: Work[Item, Any]) -> Iterator[tuple[int, list[Item]]]:
    """All batches, each with the index of its first item; items of different groups share none."""
    place = 0
    for _, group in groupby(items, key=work.group):
        while batch := list(islice(group, size)):
            yield place, batch
            place += len(batch)


def run_batch(batch: Sequence[Item], work: Work[Item, Result]) -> tuple[list[str], Commit]:
    """Run a batch; gives the ids that it settles, and its rows."""

    def run(part: Sequence[Item]) -> list[Result]:
        fault_point("in-batch")
        return work.run(part)

    halved: list[int] = []
    done = work.commit(batch, work.attempt(batch, run, halved))
    if halved:
        done = replace(done, counts={**done.counts, "halved_batches": len(halved)})
    return list(dict.fromkeys(map(work.key, batch))), done
