"""`lightr push` on the command line."""

import json
from functools import partial
from pathlib import Path

import pytest

from ..fake_hub import WRITE, FakeHub, enter
from ..faults.harness import completed, start


def test_a_push_prints_what_is_sent_and_where_it_is(folder: Path, hub: FakeHub, tmp_path: Path) -> None:
    there = partial(enter, hub.port, tmp_path / "cache")
    words = ("push", folder, "--to", "ann/toy", "--what", "adapter", "samples")
    found = start(*words, patch=there).end()
    assert (found.code, found.out) == (2, "")
    assert "nothing was sent. Add --yes" in found.last_line
    assert hub.repositories == {}
    found = start(
        "push", folder, "--to", "ann/toy", "--what", "adapter", "samples", "--yes", "--json", patch=there
    ).end()
    assert found.code == 0, found.error
    result = json.loads(found.out)
    assert set(result) == {"adapter", "samples"}
    assert result["adapter"]["tag"] in hub.model().tags
    assert "base model expert: licence unknown" in found.error
    assert WRITE not in found.out + found.error


def test_a_dry_run_lists_the_files_and_asks_no_hub(folder: Path) -> None:
    found = completed("push", folder, "--to", "ann/toy", "--dry-run")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["to"] == "ann/toy"
    assert "  adapter_model.safetensors" in found.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "toy"], "to = 'toy'"),
        (["--to", "ann/toy", "--what", "adapter", "merged"], "a repository holds one model"),
        ([], "to is required"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    found = completed("push", tmp_path, *flags)
    assert found.returncode == 2
    assert message in found.stderr
