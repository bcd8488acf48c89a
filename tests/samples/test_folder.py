"""The sample format: ragged columns, labels joined with their rollouts, provenance."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightreasoner.errors import DataError, RunMismatch
from lightreasoner.runs.records import SCHEMA_VERSION
from lightreasoner.runs.stage import open_stage
from lightreasoner.samples.folder import (
    Label,
    Ragged,
    Rollout,
    Sampled,
    Shard,
    read_samples,
    read_shards,
    scored_rollouts,
    table_of,
)

from ..fake_runs import fake_rollout, write_samples

LISTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=4), max_size=6)


@given(LISTS)
def test_ragged_columns_come_back_from_arrow_as_they_went_in(lists: list[list[int]]) -> None:
    kind = pa.list_(pa.int32())
    flat = np.array([value for values in lists for value in values], np.int64)
    ragged = Ragged.of_lengths(flat, [len(values) for values in lists])
    column = ragged.column(kind)
    assert column.type == kind
    assert column.to_pylist() == lists
    again = Ragged.of(pa.chunked_array([column.slice(0, 1), column.slice(1)], kind))
    assert [values.tolist() for values in again] == lists
    assert again.lengths.tolist() == [len(values) for values in lists]
    wanted = [values + [-1] * (max(map(len, lists), default=0) - len(values)) for values in lists]
    assert again.padded(-1).tolist() == wanted


@pytest.mark.parametrize("lists", [[], [[]], [[[1, 2]], [], [[3, 4], [5, 6]]], [[[], []], [[]]]])
def test_lists_of_equally_long_lists_are_rows_of_one_array(lists: list[list[list[int]]]) -> None:
    kind = pa.list_(pa.list_(pa.int32()))
    ragged = Ragged.of(pa.chunked_array([pa.array(lists, kind)], kind))
    assert [values.tolist() for values in ragged] == lists
    assert ragged.column(kind).to_pylist() == lists


def shard() -> Shard:
    """Two rollouts of two and three tokens; the labels come in the other order."""
    unknown: list[list[int]] = []
    rollouts = [
        Rollout("a", "?", [1, 2], [3, 4], True, [0.5, 1.5], [0.1, 0.2], [0.3, 0.4], [-1, -2], [-3, -4],
                [[3, 9], [4, 9]], [[-0.5, -1], [-0.5, -1]], [[9, 3], [4, 3]], [[-0.5, -1], [-0.5, -1]]),
        Rollout("b", "??", [1], [5, 6, 7], False, [], [], [], [], [], unknown, [], unknown, []),
    ]  # fmt: skip
    labels = [Label("b", 3, [8], [1.0], [], []), Label("a", 1, [4, 9], [0.75, 0.25], [-0.5, -1.0], [-2.0, -1.0])]
    return Shard(Rollout.table(rollouts), Label.table(labels))


def test_labels_find_their_rollouts_and_the_numbers_of_their_steps() -> None:
    found = shard()
    assert found.rollout_of.tolist() == [1, 0]
    assert found.at_labels("response_ids").tolist() == [-1, 4]  # the token behind the last known one is not known
    np.testing.assert_array_equal(found.at_labels("kl"), np.array([np.nan, 1.5], np.float32))
    assert found.at_labels("expert_top_ids").tolist() == [[-1, -1], [4, 9]]


def test_rollouts_as_arrays_have_every_column_at_every_step() -> None:
    first, second = scored_rollouts(shard())
    assert first.kl.tolist() == [0.5, 1.5]
    assert first.agrees is not None
    assert first.agrees.tolist() == [False, True]
    assert first.labels[1].weights == [0.75, 0.25]
    assert second.response_ids.tolist() == [5, 6, 7, -1]
    assert np.isnan(second.kl).all()
    assert second.agrees is None


def test_a_table_from_columns_is_the_table_of_its_rows() -> None:
    rows = [Label("a", 0, [1, 2], [0.5, 0.5], [-1.0, -2.0], [-3.0, -4.0]), Label("a", 4, [7], [1.0], [-1.0], [-2.0])]
    lengths = [2, 1]
    columns = {
        "question_id": ["a", "a"],
        "position": np.array([0, 4]),
        "token_ids": Ragged.of_lengths(np.array([1, 2, 7]), lengths),
        "weights": Ragged.of_lengths(np.array([0.5, 0.5, 1.0]), lengths),
        "expert_logprobs": Ragged.of_lengths(np.array([-1.0, -2.0, -1.0]), lengths),
        "amateur_logprobs": Ragged.of_lengths(np.array([-3.0, -4.0, -2.0]), lengths),
    }
    assert table_of(Label, columns).equals(Label.table(rows))


def test_a_folder_says_how_it_was_made(tmp_path: Path) -> None:
    rows = [fake_rollout(number, "How many?", [5, 6, 7], 600, np.random.default_rng(number)) for number in range(3)]
    write_samples(tmp_path, rows, None, per_shard=2)
    made, stage = read_samples(tmp_path)
    assert isinstance(made, Sampled)
    assert (made.expert, made.amateur, made.beta, made.questions) == ("an/expert", "an/amateur", 0.4, 3)
    assert read_samples(tmp_path / "sample")[0] == made
    assert sum(len(part.rollouts) for part in read_shards(stage)) == 3
    assert stage.manifest["fingerprint"] == {"schema_version": SCHEMA_VERSION, **made.fingerprint()}


def test_a_folder_of_another_stage_or_schema_is_refused(tmp_path: Path) -> None:
    with open_stage(tmp_path, "sample", {}) as stage:
        stage.finish({})
    with pytest.raises(DataError, match="that of another stage"):
        read_samples(tmp_path)
    manifest = tmp_path / "sample/manifest.json"
    content = json.loads(manifest.read_text())
    content["fingerprint"]["schema_version"] = 3
    content["environment"]["lightreasoner"] = "0.1.0"
    manifest.write_text(json.dumps(content))
    with pytest.raises(RunMismatch, match=r"written by lightreasoner 0\.1\.0 with schema_version 3.*reads 5"):
        read_samples(tmp_path)
    with pytest.raises(RunMismatch, match=r"written by lightreasoner 0\.1\.0"), open_stage(tmp_path, "sample", {}):
        pass
