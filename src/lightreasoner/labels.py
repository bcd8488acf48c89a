"""The labels of stage 2: read from a sample folder, put in order, laid out as batches.

Everything here is about *which* labels meet in a forward pass; the loss is in `training`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightreasoner.errors import DataError
from lightreasoner.runs import StageFolder, read_stage


@dataclass(frozen=True)
class LabelSet:
    """All labels of a sample folder as flat arrays, a few bytes a label.

    Label i predicts the token after the first `prefix_length[i]` ids of text `text_of[i]`.

    Attributes:
        text_ids: ids of all texts (prompt + response) end to end.
        text_starts: where each text starts in `text_ids`; one more entry than texts.
        text_of: text of each label, [S].
        prefix_length: ids of that text that stand before the label's position, [S].
        token_ids: labelled token ids of all labels end to end.
        weights: their label probabilities, float32.
        label_starts: where each label starts in `token_ids`; S + 1 entries.
        skipped: labels left out because their prefix is too long.
    """

    text_ids: NDArray[np.int64]
    text_starts: NDArray[np.int64]
    text_of: NDArray[np.int64]
    prefix_length: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    label_starts: NDArray[np.int64]
    skipped: int

    def __len__(self) -> int:
        return len(self.text_of)

    def prefix(self, label: int, length: int) -> NDArray[np.int64]:
        """The first `length` ids of the label's text."""
        start = self.text_starts[self.text_of[label]]
        return self.text_ids[start : start + length]

    def label(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Token ids and probabilities of a label."""
        part = slice(self.label_starts[label], self.label_starts[label + 1])
        return self.token_ids[part], self.weights[part]


def load_labels(data: Path, max_length: int) -> tuple[dict[str, Any], LabelSet]:
    """The labels of a sample folder, and the fingerprint of how they were made.

    Args:
        data: run folder with a `sample` folder in it, or the sample folder itself.
        max_length: labels whose prefix is longer are left out and counted.

    Raises:
        DataError: there is no sample folder, or no label is short enough.
        RunCorrupted: it is unfinished or damaged.
    """
    folder = data / "sample" if (data / "sample").is_dir() else data
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"{data} holds no samples: no manifest.json in {folder}. Give the --out folder of `lightr sample`; "
            "a JSONL file of the authors' format becomes one with `lightr samples import`"
        )
    fingerprint, stage = read_stage(folder)
    labels = _flatten(stage, max_length)
    if len(labels) == 0:
        raise DataError(f"{data}: no label to train on ({labels.skipped} skipped as longer than {max_length} tokens)")
    return fingerprint, labels


class LabelSchedule(Dataset[list[list[int]]]):
    """Which labels form which micro-batch: item i is micro-batch i, a list of blocks.

    A block is up to `labels_per_forward` labels of one rollout that share a forward pass. Each epoch cuts every
    rollout's labels into random blocks, shuffles the blocks and lays them end to end; micro-batches are cut from
    that stream at exact sizes, splitting a block where need be. So each optimiser step has exactly its number of
    labels, and each label comes once per epoch. With blocks of one this is the paper's independent sampling.

    Item i depends on (labels, settings, seed, i) alone, so training can resume anywhere.
    """

    def __init__(self, labels: LabelSet, micro_batch: int, count: int, labels_per_forward: int, seed: int) -> None:
        self._labels = labels
        self._micro_batch = micro_batch
        self._count = count
        self._labels_per_forward = labels_per_forward
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._shuffled_epoch)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> list[list[int]]:
        blocks: dict[tuple[int, int], list[int]] = {}
        for place in range(index * self._micro_batch, (index + 1) * self._micro_batch):
            epoch, position = divmod(place, len(self._labels))
            order, block_of = self._epoch(epoch)
            blocks.setdefault((epoch, int(block_of[position])), []).append(int(order[position]))
        return list(blocks.values())

    def _shuffled_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Labels in the order of this epoch, and the block of each place."""
        rng = np.random.default_rng((self._seed, epoch))
        shuffled = rng.permutation(len(self._labels))
        by_text = shuffled[np.argsort(self._labels.text_of[shuffled], kind="stable")]
        text = self._labels.text_of[by_text]
        rank = np.arange(len(by_text)) - np.searchsorted(text, text)  # within its rollout
        starts_block = (rank % self._labels_per_forward) == 0
        block = np.cumsum(starts_block) - 1
        place_of_block = rng.permutation(block[-1] + 1)
        order = np.argsort(place_of_block[block], kind="stable")
        return by_text[order], block[order]


@dataclass(frozen=True)
class Collator:
    """Lays the blocks of a micro-batch out as tensors.

    Attributes:
        labels: the labels that blocks refer to.
        padding_free: one row with all texts end to end and position ids that start again at each text, instead of
            right-padded rows.
    """

    labels: LabelSet
    padding_free: bool

    def __call__(self, items: Sequence[list[list[int]]]) -> dict[str, Tensor]:
        """Tensors of a micro-batch of N labels in B blocks.

        Returns:
            `input_ids` [B, T] with `attention_mask`, or [1, T] with `position_ids`; `rows` [N], index of each
            label's hidden state in the flattened [B·T, H]; `label_ids` and `label_weights` [N, K], padded with
            weight 0.
        """
        blocks = [block for item in items for block in item]
        lengths = [max(int(self.labels.prefix_length[label]) for label in block) for block in blocks]
        texts = [
            torch.from_numpy(self.labels.prefix(block[0], length))
            for block, length in zip(blocks, lengths, strict=True)
        ]
        if self.padding_free:
            starts = [sum(lengths[:block]) for block in range(len(blocks))]
            inputs = {
                "input_ids": torch.cat(texts)[None],
                "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            }
        else:
            width = max(lengths)
            starts = [block * width for block in range(len(blocks))]
            inputs = {
                "input_ids": torch.nn.utils.rnn.pad_sequence(texts, batch_first=True),
                "attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None]).long(),
            }
        # The logits that predict what follows a prefix of n ids stand at its last position, n − 1.
        rows = [
            start + int(self.labels.prefix_length[label]) - 1
            for start, block in zip(starts, blocks, strict=True)
            for label in block
        ]
        targets = [self.labels.label(label) for block in blocks for label in block]
        ids, weights = zip(*targets, strict=True)
        return {**inputs, "rows": torch.tensor(rows), "label_ids": _padded(ids), "label_weights": _padded(weights)}


def micro_batches_per_step(labels_per_step: int, labels_per_micro_batch: int, processes: int) -> int:
    """Gradient accumulation steps of one process.

    Raises:
        DataError: the labels of a step cannot be dealt out evenly.
    """
    share = labels_per_micro_batch * processes
    if labels_per_step % share:
        raise DataError(
            f"{labels_per_step} labels a step cannot be cut into micro-batches of {labels_per_micro_batch} labels on "
            f"{processes} process(es); choose --labels-per-micro-batch so that the product divides --labels-per-step"
        )
    return labels_per_step // share


def _padded(values: Sequence[NDArray[Any]]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(value) for value in values], batch_first=True)


def _flatten(stage: StageFolder, max_length: int) -> LabelSet:
    rollouts = pa.concat_tables(stage.tables("rollouts"))
    steps = pa.concat_tables(stage.tables("steps"))
    prompts, responses = rollouts["prompt_ids"].to_pylist(), rollouts["response_ids"].to_pylist()
    texts = [np.array(prompt + response, np.int64) for prompt, response in zip(prompts, responses, strict=True)]
    index = {question: text for text, question in enumerate(rollouts["question_id"].to_pylist())}
    text_of = np.array([index[question] for question in steps["question_id"].to_pylist()], np.int64)
    prompt_length = np.array([len(prompt) for prompt in prompts], np.int64)
    prefix_length = prompt_length[text_of] + steps["position"].to_numpy()
    short = np.flatnonzero(prefix_length <= max_length)
    kept = steps.take(short)
    token_ids, weights = (kept[name].combine_chunks() for name in ("token_ids", "weights"))
    sizes = token_ids.value_lengths().to_numpy(zero_copy_only=False)
    return LabelSet(
        text_ids=np.concatenate(texts),
        text_starts=_starts([len(text) for text in texts]),
        text_of=text_of[short],
        prefix_length=prefix_length[short],
        token_ids=token_ids.flatten().to_numpy().astype(np.int64),
        weights=weights.flatten().to_numpy().astype(np.float32),
        label_starts=_starts(sizes),
        skipped=len(steps) - len(short),
    )


def _starts(sizes: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def epochs(labels: LabelSet, steps: int, labels_per_step: int) -> int:
    """How many times some label is seen at most."""
    return math.ceil(steps * labels_per_step / len(labels))
