"""A full disk: committed work stays, no partial file has a final name, and the message names the bytes."""

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .harness import assert_same_samples, commits, count, lightr, succeed
from .test_kills import assert_same_adapter

Resize = Callable[[int], object]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A file system in memory with a variable size in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size: int, *options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}k", *options]), "tmpfs", str(folder)]
        try:
            return subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    if not mount(1):
        pytest.skip("this user may not mount a tmpfs")
    yield folder, lambda size: mount(size, "remount")
    subprocess.run(["umount", str(folder)], check=False)


def full_disk_bytes(arguments: tuple[object, ...], **environment: str) -> tuple[int, int]:
    """Run a command into the full disk; returns the bytes needed and free of its message."""
    ended = lightr(*arguments, **environment)
    count(faults="fail" not in environment)
    assert ended.code == 1, ended.error
    found = re.search(r"the disk is full: \S+ needs (\d+) bytes, and (\d+) bytes are free there", ended.last_line)
    assert found, ended.error
    return int(found[1]), int(found[2])


def test_a_disk_fills_up_during_sampling(
    disk: tuple[Path, Resize], sampling: tuple[object, ...], sampled: Path
) -> None:
    folder, resize = disk
    resize(120)
    needed, free = full_disk_bytes((*sampling, folder / "run"))
    assert needed > free
    stage = folder / "run/sample"
    done = commits(stage)
    assert 1 <= len(done) < 12
    assert not list(stage.glob(".*.tmp"))
    assert (stage / "ledger.jsonl").read_text() == "".join(done)  # no torn line
    resize(4000)
    again = succeed(*sampling, folder / "run")
    assert "set aside" not in again.error
    assert commits(stage)[: len(done)] == done
    assert_same_samples(folder / "run", sampled)


def test_a_disk_fills_up_in_a_checkpoint(disk: tuple[Path, Resize], tuning: tuple[object, ...], tuned: Path) -> None:
    folder, resize = disk
    sizes = [path.stat().st_size for path in (tuned / "finetune/checkpoint-8").rglob("*")]
    size, in_pages = sum(sizes), sum(-(-size // 4096) * 4 for size in sizes)
    resize(int(in_pages * 1.5) + 20)  # KiB: a checkpoint, a half of the next one, and the files beside them
    needed, _ = full_disk_bytes((*tuning, folder / "run"))
    assert size / 3 < needed < size * 3
    stage = folder / "run/finetune"
    assert [path.name for path in stage.glob("checkpoint-*")] == ["checkpoint-4"]
    assert not (stage / "adapter").exists()
    resize(20 * size // 1024)
    succeed(*tuning, folder / "run")
    assert_same_adapter(folder / "run", tuned)


def test_a_disk_fills_up_in_a_merge(disk: tuple[Path, Resize], merging: tuple[object, ...], tmp_path: Path) -> None:
    folder, resize = disk
    whole = tmp_path / "whole"
    succeed(*merging, whole)
    size = (whole / "model.safetensors").stat().st_size
    resize(size // 2048)
    needed, free = full_disk_bytes((*merging, folder / "merged"))
    assert needed == pytest.approx(size, rel=0.1)
    assert free < needed
    assert [path.name for path in folder.iterdir() if path.name not in (".lock", ".holder")] == []
    resize(8 * size // 1024)
    succeed(*merging, folder / "merged")
    assert (folder / "merged/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    count(survived=1)


def test_a_full_disk_in_the_ledger_leaves_no_torn_line(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    needed, _ = full_disk_bytes((*sampling, out), fail="in-ledger:enospc@4")
    assert 0 < needed < 10_000
    assert len(commits(out / "sample")) == 3
    assert "torn" not in succeed(*sampling, out).error
    assert_same_samples(out, sampled)


@pytest.mark.parametrize("point", [pytest.param("in-folder", marks=pytest.mark.slow), "before-name"])
def test_a_full_disk_in_a_merge_leaves_nothing(point: str, merging: tuple[object, ...], tmp_path: Path) -> None:
    full_disk_bytes((*merging, tmp_path / "merged"), fail=f"{point}:enospc")
    assert [path.name for path in tmp_path.iterdir() if path.name not in (".lock", ".holder")] == []
    succeed(*merging, tmp_path / "merged")
    count(survived=1)


def test_a_full_disk_in_a_shard_leaves_no_shard(sampling: tuple[object, ...], sampled: Path, tmp_path: Path) -> None:
    full_disk_bytes((*sampling, tmp_path), fail="before-shard:enospc@5")
    stage = tmp_path / "sample"
    assert len(list(stage.glob("*.parquet"))) == 2 * len(commits(stage)) == 4
    succeed(*sampling, tmp_path)
    assert_same_samples(tmp_path, sampled)


def test_a_full_disk_in_the_adapter_leaves_no_adapter(tuning: tuple[object, ...], tuned: Path, tmp_path: Path) -> None:
    full_disk_bytes((*tuning, tmp_path), fail="in-folder:enospc")
    assert not (tmp_path / "finetune/adapter").exists()
    succeed(*tuning, tmp_path)
    assert_same_adapter(tmp_path, tuned)


def test_a_full_disk_in_a_checkpoint_and_then_a_kill(tuning: tuple[object, ...], tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    full_disk_bytes((*tuning, out), fail="in-checkpoint:enospc@2")
    assert [path.name for path in (out / "finetune").glob("checkpoint-*")] == ["checkpoint-4"]
    assert lightr(*tuning, out, fail="in-checkpoint:kill").code == -signal.SIGKILL
    count(survived=1)
    succeed(*tuning, out)
    assert_same_adapter(out, tuned)
