"""Many workers on one stage: leases save double work, and one writer of the ledger settles each item once."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lightreasoner.errors import LightReasonerError, ModelError, RunError, RunMismatch
from lightreasoner.runs import leases as leases_module
from lightreasoner.runs.joining import Joined
from lightreasoner.runs.leases import DELIVERIES, LEASES, Leases, deliver, deliveries
from lightreasoner.runs.owning import Owner
from lightreasoner.runs.sharing import ALONE, Sharing
from lightreasoner.runs.stage import StageFolder, open_stage, read_stage, settle
from lightreasoner.runs.work import Commit, Work
from lightreasoner.runs.workforce import MOST_DEATHS, End, Request, Workforce

ITEMS = [f"item-{number:02d}" for number in range(20)]
REQUEST: Request = {"command": "", "config": {}}


class Squares(Work[str, int]):
    """The square of each number."""

    label = "squaring"

    def __init__(self, before: Callable[[Sequence[str]], object] = lambda batch: None) -> None:
        self.batches: list[list[str]] = []
        self._before = before

    def key(self, item: str) -> str:
        return item

    def run(self, batch: Sequence[str]) -> list[int]:
        self.batches.append(list(batch))
        self._before(batch)
        return [int(item[-2:]) ** 2 for item in batch]

    def commit(self, batch: Sequence[str], results: list[int]) -> Commit:
        return Commit({"rows": pa.table({"item": list(batch), "square": results})}, {"items": len(batch)})


def work_in(run: Path, sharing: Sharing, work: Work[str, int], size: Any = 3, beta: float = 0.4) -> StageFolder:
    with open_stage(run, "stage", {"beta": beta}, sharing=sharing) as stage:
        settle(stage, ITEMS, size, work, total=len(ITEMS))
        if not sharing.joins:
            stage.finish({"items": stage.counts["items"]})
        return stage


class Thread:
    """A worker in a thread of this process."""

    def __init__(self, run: Path, name: str, work: Work[str, int], size: Any) -> None:
        self.end: End | None = None
        self._worker = Joined(run, name)
        threading.Thread(target=self._run, args=(run, work, size), daemon=True).start()

    def _run(self, run: Path, work: Work[str, int], size: Any) -> None:
        try:
            with self._worker:
                work_in(run, self._worker, work, size)
            self.end = End()
        except LightReasonerError as error:
            self.end = End(error)
        except OSError as error:  # stands for the death of a process
            self.end = End(died=str(error), last_line="the last line")

    def stop(self) -> None:
        self._worker.stopped = True

    def kill(self) -> None:
        pass


class Threads:
    """Starts workers in threads; `works` gives the work of each in turn, the last one again and again."""

    def __init__(self, run: Path, *works: Work[str, int], size: Any = 3) -> None:
        self.run, self.works, self.size, self.started = run, works, size, 0

    def start(self, index: int, name: str, request: Request) -> Thread:
        work = self.works[min(self.started, len(self.works) - 1)]
        self.started += 1
        return Thread(self.run, name, work, self.size)


def share(run: Path, *works: Work[str, int], size: Any = 3) -> StageFolder:
    """Settle the items with workers in threads, one for each work."""
    with Workforce(Threads(run, *works, size=size), len(works), REQUEST) as workers, Owner(run, workers) as owner:
        return work_in(run, owner, Squares(), size)


def begun(run: Path, beta: float = 0.4) -> StageFolder:
    """A stage that an owner has opened, and left."""
    with (
        Owner(run, Workforce(Threads(run), 1, REQUEST)) as owner,
        open_stage(run, "stage", {"beta": beta}, sharing=owner) as stage,
    ):
        stage.keep_batch_size(3)
        return stage


def rows(stage: StageFolder) -> list[tuple[str, int]]:
    return [(row["item"], row["square"]) for table in stage.tables("rows") for row in table.to_pylist()]


@pytest.fixture
def whole(tmp_path: Path) -> StageFolder:
    return work_in(tmp_path / "whole", ALONE, Squares())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases_module, "STALE_AFTER", 0.5)
    monkeypatch.setattr("lightreasoner.runs.sharing.RENEW_EVERY", 0.1)
    monkeypatch.setattr("lightreasoner.runs.joining.WAIT_FOR", 0.05)


def slowly(batch: Sequence[str]) -> None:
    time.sleep(0.02)


# --- The same rows as one process ---


def test_workers_make_the_rows_of_one_process_in_its_order(whole: StageFolder, tmp_path: Path) -> None:
    first, second = Squares(slowly), Squares(slowly)
    stage = share(tmp_path / "shared", first, second)
    assert first.batches
    assert second.batches
    assert sorted(first.batches + second.batches) == [ITEMS[at : at + 3] for at in range(0, 20, 3)]
    assert rows(stage) == rows(whole) == [(item, int(item[-2:]) ** 2) for item in ITEMS]
    assert stage.digest == whole.digest
    _, again = read_stage(stage.path)
    assert rows(again) == rows(whole)
    assert not (stage.path / LEASES).exists()
    assert not (stage.path / DELIVERIES).exists()


def test_a_worker_that_dies_is_replaced_and_its_batch_is_done_again(whole: StageFolder, tmp_path: Path) -> None:
    def dies(batch: Sequence[str]) -> None:
        raise OSError("gone")

    rest = Squares(slowly)
    stage = share(tmp_path / "shared", Squares(dies), rest)
    assert rows(stage) == rows(whole)
    assert ITEMS[:3] in rest.batches


def test_the_first_worker_that_knows_the_memory_sets_the_size_of_all(tmp_path: Path) -> None:
    asked: list[int] = []

    def measure() -> int:
        asked.append(1)
        return 4

    stage = share(tmp_path, Squares(slowly), Squares(slowly), size=measure)
    assert stage.batch_size == 4
    assert len(asked) <= 2
    assert len(stage.settled_ids) == 20
    assert {len(entry) for entry in [table.to_pylist() for table in stage.tables("rows")]} == {4}


def test_a_stage_changes_between_one_process_and_many_and_between_batch_sizes(
    whole: StageFolder, tmp_path: Path
) -> None:
    run = tmp_path / "shared"

    def stops(batch: Sequence[str]) -> None:
        if "item-06" in batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_in(run, ALONE, Squares(stops))
    again = Squares()
    stage = share(run, again, size=4)
    assert again.batches[0] == ["item-06", "item-07"], "the rest of the batch of item-04 … item-07"
    assert rows(stage) == rows(whole)


def test_the_rows_of_a_batch_that_is_done_again_later_stand_where_they_belong(tmp_path: Path) -> None:
    folder = work_in(tmp_path, ALONE, Squares()).path
    (folder / "rows-00002.parquet").unlink()
    again = Squares()
    stage = work_in(tmp_path, ALONE, again)
    assert again.batches == [ITEMS[6:9]]
    assert [item for item, _ in rows(stage)] == ITEMS


# --- Errors of workers ---


def test_an_error_of_a_worker_ends_the_command_with_that_error(tmp_path: Path) -> None:
    def refuses(batch: Sequence[str]) -> None:
        raise ModelError("out of memory with a batch of one")

    with pytest.raises(ModelError, match="batch of one"):
        share(tmp_path, Squares(refuses), Squares(slowly))


def test_a_batch_that_ends_its_workers_is_given_up_with_the_cause(tmp_path: Path) -> None:
    def dies(batch: Sequence[str]) -> None:
        if "item-04" in batch:
            raise OSError("signal 9")

    workers = [Squares(dies) for _ in range(9)]
    with pytest.raises(RunError, match=f"{MOST_DEATHS} workers ended at the batch that begins with item 3") as raised:
        share(tmp_path, *workers[:2])
    assert "signal 9, last line: the last line" in str(raised.value)


def test_workers_that_end_at_their_start_are_given_up(tmp_path: Path) -> None:
    class Dead:
        end = End(died="exit code 1", last_line="no module of that name")

        def stop(self) -> None:
            pass

        kill = stop

    class Launcher:
        def start(self, index: int, name: str, request: Request) -> Dead:
            return Dead()

    with (
        pytest.raises(RunError, match="5 workers in a row ended without a batch .exit code 1, last line: no module"),
        Workforce(Launcher(), 2, REQUEST) as workers,
        Owner(tmp_path, workers) as owner,
    ):
        work_in(tmp_path, owner, Squares())


# --- Deliveries ---


def delivered(run: Path, batch: Sequence[str], worker: str, work: Work[str, int] | None = None) -> None:
    """What a worker leaves behind that has run this batch."""
    with Joined(run, worker) as joined, open_stage(run, "stage", {"beta": 0.4}, sharing=joined) as stage:
        work = work or Squares()
        done = work.commit(batch, work.run(batch))
        stage.deliver(list(batch), done.tables, done.counts, ITEMS.index(batch[0]), worker)


def test_deliveries_outlive_the_owner_and_are_not_done_again(whole: StageFolder, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    begun(run)
    delivered(run, ITEMS[3:6], "w1")
    rest = Squares()
    stage = work_in(run, ALONE, rest)
    assert ITEMS[3:6] not in rest.batches
    assert rows(stage) == rows(whole)
    assert not [*run.rglob("*.quarantined")]


def test_deliveries_outlive_the_repair_of_a_torn_ledger(whole: StageFolder, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    stage = begun(run)
    stage.commit(ITEMS[:3], Squares().commit(ITEMS[:3], [0, 1, 4]).tables, {"items": 3}, 0)
    with (stage.path / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"shard": 1, "ids"')
    delivered(run, ITEMS[6:9], "w1")
    rest = Squares()
    assert rows(work_in(run, ALONE, rest)) == rows(whole)
    assert rest.batches == [ITEMS[3:6], *(ITEMS[at : at + 3] for at in range(9, 20, 3))]


def test_of_two_deliveries_of_one_batch_one_counts(whole: StageFolder, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    begun(run)
    for worker in ("w1", "w2"):
        delivered(run, ITEMS[3:6], worker)
    delivered(run, ITEMS[5:7], "w3")  # of a process that cut other batches
    stage = work_in(run, ALONE, Squares())
    assert rows(stage) == rows(whole)
    assert len([*stage.path.glob("rows-000003-*.parquet")]) == 1
    assert not [*stage.path.glob("*-w3.parquet")]


@pytest.mark.parametrize("damage", ["torn delivery", "torn shard", "no shard"])
def test_a_damaged_delivery_is_done_again(damage: str, whole: StageFolder, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    folder = begun(run).path
    delivered(run, ITEMS[3:6], "w1")
    name = "deliveries/000003-w1.json" if damage == "torn delivery" else "rows-000003-w1.parquet"
    if damage == "no shard":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    rest = Squares()
    stage = work_in(run, ALONE, rest)
    assert ITEMS[3:6] in rest.batches
    assert rows(stage) == rows(whole)
    assert not [*folder.glob("*-w1.parquet")]


def test_a_delivery_with_other_settings_is_dropped(whole: StageFolder, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    stage = begun(run)
    delivery = {
        "place": 0,
        "worker": "w1",
        "of": "other settings",
        "ids": ITEMS[:3],
        "files": {},
        "counts": {"items": 3},
    }
    deliver(stage.path, delivery)
    rest = Squares()
    assert rows(work_in(run, ALONE, rest)) == rows(whole)
    assert rest.batches[0] == ITEMS[:3]


def test_delivered_work_claims_its_folder(tmp_path: Path) -> None:
    begun(tmp_path)
    delivered(tmp_path, ITEMS[3:6], "w1")
    with pytest.raises(RunMismatch, match="beta: 0.4 there, 0.5 now"):
        work_in(tmp_path, ALONE, Squares(), beta=0.5)
    assert len([*deliveries(tmp_path / "stage")]) == 1


# --- Leases ---


def lease_of(folder: Path, place: int, **changes: Any) -> Path:
    path = folder / LEASES / f"{place:06d}.json"
    path.parent.mkdir(exist_ok=True)
    facts = {"worker": "other", "host": "another", "pid": 1, "tokens": 0, **changes}
    path.write_text(json.dumps(facts))
    return path


def test_a_batch_is_claimed_once(tmp_path: Path) -> None:
    first, second = Leases(tmp_path, "w1"), Leases(tmp_path, "w2")
    claims: list[bool] = []
    threads = [threading.Thread(target=lambda one=one: claims.append(one.claim(0))) for one in [first, second] * 8]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claims) == 1
    (held,) = first.held()
    assert (held.place, held.pid) == (0, os.getpid())
    (first if held.worker == "w1" else second).release(0)
    assert second.claim(0)


def test_a_lease_is_not_released_by_another(tmp_path: Path) -> None:
    first, second = Leases(tmp_path, "w1"), Leases(tmp_path, "w2")
    assert first.claim(0)
    second.release(0)
    assert not second.claim(0)
    assert second.free({"w1"}) == [0]
    assert second.claim(0)


def test_a_lease_of_another_machine_is_free_once_nobody_renews_it(whole: StageFolder, tmp_path: Path) -> None:
    run = tmp_path / "shared"
    lease_of(begun(run).path, 3)
    assert not Leases(run / "stage", "w1").claim(3)
    rest = Squares()
    stage = share(run, rest)
    assert rest.batches[-1] == ITEMS[3:6]
    assert rows(stage) == rows(whole)


def test_a_renewed_lease_stays(tmp_path: Path) -> None:
    first, second = Leases(tmp_path, "w1"), Leases(tmp_path, "w2")
    assert first.claim(0)
    for turn in range(4):
        time.sleep(0.2)
        assert not second.claim(0)
        first.renew(0, turn)
    assert [lease.tokens for lease in second.held()] == [3]


def test_the_lease_of_a_process_of_this_machine_that_has_ended_is_free_at_once(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    leases = Leases(tmp_path, "w1")
    assert leases.claim(7)
    (own,) = leases.held()
    lease_of(tmp_path, 3, host=own.host, pid=int(child.stdout))
    lease_of(tmp_path, 5, host=own.host, pid=os.getppid())
    assert leases.claim(3)
    assert not leases.claim(5)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"worker": 1}'])
def test_a_torn_lease_is_held_until_it_is_old(content: str, tmp_path: Path) -> None:
    lease_of(tmp_path, 0).write_text(content)
    leases = Leases(tmp_path, "w1")
    assert not leases.claim(0)
    time.sleep(0.6)
    assert leases.claim(0)


# --- Joining ---


def test_a_process_that_joins_is_refused_with_other_settings_by_their_name(tmp_path: Path) -> None:
    begun(tmp_path)
    with Joined(tmp_path, "w1") as joined, pytest.raises(RunMismatch, match="beta: 0.4 there, 0.5 now"):
        work_in(tmp_path, joined, Squares(), beta=0.5)


def test_a_process_that_joins_without_an_owner_does_all_and_says_how_to_finish(
    whole: StageFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "shared"
    begun(run)
    time.sleep(0.6)
    with Joined(run, "w1") as joined:
        work_in(run, joined, Squares())
    assert "Run the same command without --join" in capsys.readouterr().err
    nothing = Squares()
    assert rows(work_in(run, ALONE, nothing)) == rows(whole)
    assert nothing.batches == []


def test_a_process_that_joins_nobody_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightreasoner.runs.joining.OWNER_WITHIN", 0.3)
    with Joined(tmp_path, "w1") as joined, pytest.raises(RunError, match="no process shares .*--workers 2"):
        work_in(tmp_path, joined, Squares())


def test_a_process_that_works_alone_is_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightreasoner.runs.joining.OWNER_WITHIN", 0.3)
    begun(tmp_path)
    with open_stage(tmp_path, "stage", {"beta": 0.4}):
        time.sleep(0.6)
        with Joined(tmp_path, "w1") as joined, pytest.raises(RunError, match="no process shares"):
            work_in(tmp_path, joined, Squares())


def test_a_worker_ends_where_other_settings_have_taken_the_folder(tmp_path: Path) -> None:
    begun(tmp_path)

    def taken_over(batch: Sequence[str]) -> None:
        begun(tmp_path, beta=0.5)

    with Joined(tmp_path, "w1") as joined, pytest.raises(RunMismatch, match="taken over"):
        work_in(tmp_path, joined, Squares(taken_over))


def test_a_worker_that_is_stopped_delivers_its_batch_first(tmp_path: Path) -> None:
    begun(tmp_path)
    with Joined(tmp_path, "w1") as joined:

        def stop(batch: Sequence[str]) -> None:
            joined.stopped = True

        with pytest.raises(LightReasonerError):
            work_in(tmp_path, joined, Squares(stop))
    ((_, entry),) = deliveries(tmp_path / "stage")
    assert entry is not None
    assert entry["ids"] == ITEMS[:3]
