"""Labels as batches: each epoch has every label once, each step its exact number."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lightreasoner.errors import DataError, RunCorrupted
from lightreasoner.training.batches import LabelSchedule, LabelSet, load_labels, share_of_step


@pytest.mark.parametrize("labels_per_forward", [1, 3, 16])
def test_each_step_has_its_labels_and_each_epoch_every_label_once(labels: LabelSet, labels_per_forward: int) -> None:
    total = len(labels)
    count = 3 * total // 8 + 1
    schedule = LabelSchedule(labels, 8, count, labels_per_forward, seed=0)
    stream = []
    for index in range(count):
        blocks = schedule[index]
        assert sum(map(len, blocks)) == 8
        for block in blocks:
            assert len(block) <= labels_per_forward
            assert len({int(labels.text_of[label]) for label in block}) == 1
        stream += [label for block in blocks for label in block]
    for epoch in range(3):
        assert Counter(stream[epoch * total : (epoch + 1) * total]) == Counter(range(total))
    assert stream[:total] != stream[total : 2 * total]


def test_the_schedule_depends_on_the_seed_alone(labels: LabelSet) -> None:
    def blocks(seed: int) -> list[list[list[int]]]:
        schedule = LabelSchedule(labels, 8, 10, 4, seed)
        return [schedule[index] for index in range(10)]

    assert blocks(1) == blocks(1)
    assert blocks(1) != blocks(2)


def test_a_step_that_cannot_be_divided_evenly_is_refused() -> None:
    assert share_of_step(16, 2) == 8
    with pytest.raises(DataError, match="16 labels a step"):
        share_of_step(16, 3)


def test_long_prefixes_are_skipped_and_counted_never_truncated(samples: Path, labels: LabelSet) -> None:
    limit = int(np.median(labels.prefix_length))
    _, short = load_labels(samples, max_length=limit)
    assert short.skipped == int((labels.prefix_length > limit).sum())
    assert short.prefix_length.max() <= limit
    with pytest.raises(DataError, match="no label"):
        load_labels(samples, max_length=1)


def test_samples_that_are_missing_or_unfinished_are_refused(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no samples"):
        load_labels(tmp_path, 100)
    copy = tmp_path / "copy" / "sample"
    copy.mkdir(parents=True)
    for path in (samples / "sample").iterdir():
        os.link(path, copy / path.name)
    (copy / "result.json").unlink()
    with pytest.raises(RunCorrupted, match="not finished"):
        load_labels(tmp_path / "copy", 100)


def test_weights_of_every_label_sum_to_one(labels: LabelSet) -> None:
    sums = [float(labels.label(label)[1].sum()) for label in range(len(labels))]
    assert sums == pytest.approx([1.0] * len(labels), abs=1e-6)
