"""The one loop of all stages: what is left, in what batches, committed how, resumed where."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from lightreasoner.errors import Interrupted, ModelError
from lightreasoner.inference.memory import ModelWork
from lightreasoner.runs.stage import StageFolder, open_stage, settle
from lightreasoner.runs.work import Commit, Work


class Lengths(Work[str, int]):
    """The length of each text."""

    label = "measuring"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.notes: list[str] = []

    def key(self, item: str) -> str:
        return item.partition("/")[0]

    def order(self, item: str) -> tuple[int, str]:
        return len(item), item

    def group(self, item: str) -> bool:
        return len(item) > 3

    def run(self, batch: Sequence[str]) -> list[int]:
        self.batches.append(list(batch))
        return [len(item) for item in batch]

    def commit(self, batch: Sequence[str], results: list[int]) -> Commit:
        return Commit({"rows": pa.table({"item": list(batch), "length": results})}, {"items": len(batch)})

    def note(self, counts: object) -> str:
        self.notes.append(str(counts))
        return ""


class Halving(ModelWork[str, int], Lengths):
    """Runs out of memory with more than two items, or always."""

    largest = 2

    def run(self, batch: Sequence[str]) -> list[int]:
        if len(batch) > self.largest:
            raise MemoryError("no memory")
        return super().run(batch)


def stage_of(run: Path) -> Iterator[StageFolder]:
    with open_stage(run, "stage", {}) as stage:
        yield stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[StageFolder]:
    yield from stage_of(tmp_path)


def rows(stage: StageFolder) -> dict[str, int]:
    return {row["item"]: row["length"] for table in stage.tables("rows") for row in table.to_pylist()}


def test_batches_are_of_like_items_and_never_of_two_groups(stage: StageFolder) -> None:
    work = Lengths()
    settle(stage, ["four", "a", "ccc", "bb", "fives", "d"], 2, work, total=6)
    assert work.batches == [["a", "d"], ["bb", "ccc"], ["four", "fives"]]
    assert rows(stage) == {item: len(item) for item in ("a", "d", "bb", "ccc", "four", "fives")}
    assert stage.batch_size == 2
    assert work.notes[-1] == "{'items': 6}"


def test_what_is_committed_is_not_done_again_and_the_rest_falls_into_the_same_batches(tmp_path: Path) -> None:
    items = ["a", "bb", "c", "dd", "e", "ff"]
    (whole,) = [*stage_of(tmp_path / "whole")]
    once = Lengths()
    settle(whole, items, 2, once, total=6)

    class Stopped(Lengths):
        def run(self, batch: Sequence[str]) -> list[int]:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().run(batch)

    first, second = Stopped(), Lengths()
    with pytest.raises(KeyboardInterrupt), open_stage(tmp_path / "parts", "stage", {}) as stage:
        settle(stage, items, 2, first, total=6)
    with open_stage(tmp_path / "parts", "stage", {}) as stage:
        assert stage.batch_size == 2
        settle(stage, items, 2, second, total=6)
        settle(stage, items, 2, second, total=6)
    assert first.batches + second.batches == once.batches


def test_items_of_one_id_are_committed_together(stage: StageFolder) -> None:
    work = Lengths()
    settle(stage, ["a/1", "a/2", "b/1", "b/2"], 2, work, total=2)
    assert work.batches == [["a/1", "a/2"], ["b/1", "b/2"]]
    assert stage.settled_ids == {"a", "b"}


def test_a_stream_is_taken_as_it_comes_and_no_further_than_needed(stage: StageFolder) -> None:
    drawn: list[str] = []

    def items() -> Iterator[str]:
        for item in ("bb", "a", "ccc"):
            drawn.append(item)
            yield item

    class Watching(Lengths):
        def run(self, batch: Sequence[str]) -> list[int]:
            assert drawn == ["bb", "a", "ccc"][: len(drawn)]
            assert len(drawn) <= 2 * (len(self.batches) + 1)
            return super().run(batch)

    work = Watching()
    settle(stage, items(), 2, work, total=3, stream=True)
    assert work.batches == [["bb", "a"], ["ccc"]]


def test_a_batch_that_does_not_fit_is_halved_and_counted(stage: StageFolder) -> None:
    work = Halving()
    settle(stage, ["a", "b", "c", "d", "e"], 5, work, total=5)
    assert work.batches == [["a", "b"], ["c"], ["d", "e"]]
    assert stage.counts == {"items": 5, "halved_batches": 2}
    assert len(rows(stage)) == 5


def test_a_single_item_that_does_not_fit_is_an_error_and_commits_nothing(stage: StageFolder) -> None:
    work = Halving()
    work.largest = 0
    with pytest.raises(ModelError, match="batch of one"):
        settle(stage, ["a", "b"], 2, work, total=2)
    assert stage.settled_ids == set()


def test_a_signal_is_answered_between_two_batches(stage: StageFolder) -> None:
    class Signalled(Lengths):
        def run(self, batch: Sequence[str]) -> list[int]:
            os.kill(os.getpid(), signal.SIGTERM)
            return super().run(batch)

    work = Signalled()
    with pytest.raises(Interrupted):
        settle(stage, ["a", "b", "c"], 1, work, total=3)
    assert work.batches == [["a"]]
    assert stage.settled_ids == {"a"}


def test_a_note_may_stop_the_stage_after_its_commit(stage: StageFolder) -> None:
    class Refusing(Lengths):
        def note(self, counts: object) -> str:
            raise ModelError("too many")

    with pytest.raises(ModelError, match="too many"):
        settle(stage, ["a", "b"], 1, Refusing(), total=2)
    assert stage.settled_ids == {"a"}


def test_nothing_to_do_touches_nothing(stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    never: Callable[..., None] = lambda *_: pytest.fail("was called")  # noqa: E731
    monkeypatch.setattr(StageFolder, "keep_batch_size", never)
    settle(stage, [], 2, Lengths(), total=0)
