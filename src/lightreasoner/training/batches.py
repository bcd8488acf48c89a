"""The labels of stage 2: read from a sample folder, shuffled into steps, laid out as micro-batches."""

import hashlib
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

from lightreasoner.errors import DataError, NothingToLearn
from lightreasoner.inference.packing import Layout, cut_by_tokens, lay_out, moved
from lightreasoner.runs.progress import busy
from lightreasoner.samples.folder import Provenance, Ragged, Shard, read_samples


@dataclass(frozen=True)
class LabelSet:
    """All labels of a sample folder as flat arrays, a few bytes a label.

    Label i predicts the token after the first `prefix_length[i]` ids of text `text_of[i]`.

    Attributes:
        texts: ids of each text (prompt + response).
        text_of: text of each label, [S].
        prefix_length: ids of that text before the label's position, [S].
        token_ids: labelled token ids of each label.
        weights: their label probabilities, float32.
        skipped: labels left out because their prefix is too long.
        factors: what the loss of each label is multiplied by, float32, [S]; None if all labels weigh the same.
    """

    texts: Ragged
    text_of: NDArray[np.int64]
    prefix_length: NDArray[np.int64]
    token_ids: Ragged
    weights: Ragged
    skipped: int
    factors: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.text_of)

    @property
    def sha256(self) -> str:
        """Hash of all that training reads of them."""
        factors = () if self.factors is None else (self.factors,)
        columns = (*(self.texts, self.token_ids, self.weights), self.text_of, self.prefix_length, *factors)
        arrays = [part for one in columns for part in ((one.values, one.starts) if isinstance(one, Ragged) else (one,))]
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(f"{array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def prefix(self, label: int, length: int) -> NDArray[np.int64]:
        """The first `length` ids of the label's text."""
        return self.texts[self.text_of[label]][:length]

    def label(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Token ids and probabilities of a label."""
        return self.token_ids[label], self.weights[label]


@busy("reading the labels")
def load_labels(data: Path, max_length: int) -> tuple[Provenance, LabelSet]:
    """The labels of a sample folder, and how they were made.

    Args:
        data: run folder with a `sample` folder in it, or the sample folder itself.
        max_length: labels with a longer prefix are left out and counted.

    Raises:
        DataError: there is no sample folder, or no label is short enough.
        RunCorrupted: it is unfinished or damaged.
    """
    made, stage = read_samples(data)
    rollouts, steps = (pa.concat_tables(stage.tables(kind)) for kind in ("rollouts", "steps"))
    labels = flatten(Shard(rollouts, steps), max_length)
    if len(labels) == 0:
        too_long = f": the prefixes of all {labels.skipped} are longer than {max_length} tokens. Raise --max-length"
        raise NothingToLearn(f"{data}: no label to train on{too_long if labels.skipped else ''}")
    return made, labels


class LabelSchedule(Dataset[list[list[int]]]):
    """The labels of each optimizer step: item i is one process's share of a step, a list of blocks.

    A block is up to `labels_per_forward` labels of one rollout that share a forward pass. Each epoch cuts every
    rollout's labels into random blocks and shuffles the blocks; shares of exactly `share` labels are cut from that
    stream, and a block may be split between two. So every label comes once an epoch. Blocks of one label are the
    paper's independent sampling.

    Item i depends on (labels, settings, seed, i) alone, so training can resume at any step.
    """

    def __init__(self, labels: LabelSet, share: int, count: int, labels_per_forward: int, seed: int) -> None:
        self._labels = labels
        self._share = share
        self._count = count
        self._labels_per_forward = labels_per_forward
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._shuffled_epoch)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> list[list[int]]:
        blocks: dict[tuple[int, int], list[int]] = {}
        for place in range(index * self._share, (index + 1) * self._share):
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
class MicroBatch:
    """Labels that share one forward and backward pass.

    Attributes:
        layout: how their texts are packed; None if they are padded.
        padded: `input_ids` and `attention_mask` of padded texts, [B, T]; empty if they are packed.
        rows: row of each label's hidden state among all positions, [S].
        label_ids: labelled tokens, [S, K], right-padded with 0.
        label_weights: their label probabilities, [S, K], right-padded with 0.
        factors: what the loss of each label is multiplied by, [S]; None if all labels weigh the same.
    """

    layout: Layout | None
    padded: dict[str, Tensor]
    rows: Tensor
    label_ids: Tensor
    label_weights: Tensor
    factors: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The model's inputs."""
        return self.layout.inputs if self.layout else self.padded

    def to(self, device: torch.device) -> "MicroBatch":
        """The micro-batch on another device."""
        *padded, rows, label_ids = moved([*self.padded.values(), self.rows, self.label_ids], device)
        return MicroBatch(
            self.layout.to(device) if self.layout else None,
            dict(zip(self.padded, padded, strict=True)),
            rows,
            label_ids,
            self.label_weights.to(device),
            None if self.factors is None else self.factors.to(device),
        )


def empty_micro_batch(like: MicroBatch) -> MicroBatch:
    """One token without labels: its loss and gradients are zero, and its pass takes the same way as that of `like`."""
    none = torch.zeros(0, 1)
    layout = lay_out([[0]], torch.device("cpu")) if like.layout else None
    padded = {name: torch.ones_like(value[:1, :1]) for name, value in like.padded.items()}
    return MicroBatch(layout, padded, none[:, 0].long(), none.long(), none)


@dataclass(frozen=True)
class Collator:
    """Lays out the blocks of a step as micro-batches of similar text lengths.

    Attributes:
        labels: the labels that blocks refer to.
        packed: lay texts end to end (see `inference.packing`) instead of right-padding them.
        tokens: cap on the tokens of a micro-batch; a longer text gets its own.
    """

    labels: LabelSet
    packed: bool
    tokens: int

    def __call__(self, items: Sequence[list[list[int]]]) -> list[MicroBatch]:
        """The micro-batches of these items of a `LabelSchedule`."""
        blocks = [block for item in items for block in item]
        lengths = [max(int(self.labels.prefix_length[label]) for label in block) for block in blocks]
        parts = cut_by_tokens(lengths, self.tokens)
        return [self._micro_batch([blocks[index] for index in part]) for part in parts]

    def _micro_batch(self, blocks: list[list[int]]) -> MicroBatch:
        lengths = [max(int(self.labels.prefix_length[label]) for label in block) for block in blocks]
        texts = [self.labels.prefix(block[0], length).tolist() for block, length in zip(blocks, lengths, strict=True)]
        labels = [label for block in blocks for label in block]
        text_of = torch.repeat_interleave(torch.arange(len(blocks)), torch.tensor([len(block) for block in blocks]))
        # The logits after a prefix of n ids are those at its last position, n − 1.
        positions = torch.from_numpy(self.labels.prefix_length[labels]) - 1
        ids, weights = zip(*(self.labels.label(label) for label in labels), strict=True)
        if self.packed:
            layout, padded = lay_out(texts, torch.device("cpu")), {}
            rows = layout.rows(text_of, positions)
        else:
            layout = None
            padded = pad_texts(texts)
            rows = text_of * max(lengths) + positions
        factors = None if self.labels.factors is None else torch.from_numpy(self.labels.factors[labels])
        return MicroBatch(layout, padded, rows, pad_rows(ids), pad_rows(weights), factors)


def share_of_step(labels_per_step: int, processes: int) -> int:
    """Labels of a step for each process.

    Raises:
        DataError: the labels cannot be divided evenly.
    """
    if labels_per_step % processes:
        raise DataError(
            f"{labels_per_step} labels a step cannot be divided evenly between {processes} processes; "
            f"make --labels-per-step a multiple of {processes}"
        )
    return labels_per_step // processes


def pad_texts(texts: Sequence[Sequence[int]], pad_id: int = 0) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` of right-padded texts, [B, T]."""
    lengths = torch.tensor([len(text) for text in texts])
    width = int(lengths.max())
    return {
        "input_ids": torch.tensor([[*text, *[pad_id] * (width - len(text))] for text in texts]),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
    }


def pad_rows(values: Sequence[NDArray[Any]]) -> Tensor:
    """Rows of unequal length as one tensor, right-padded with 0."""
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(value) for value in values], batch_first=True)


def flatten(shard: Shard, max_length: int) -> LabelSet:
    """Rollouts and labels as arrays; labels with a longer prefix are left out."""
    prompts, responses = (Ragged.of(shard.rollouts[name]) for name in ("prompt_ids", "response_ids"))
    texts = [part for pair in zip(prompts, responses, strict=True) for part in pair]
    prefix_length = prompts.lengths[shard.rollout_of] + shard.positions
    short = np.flatnonzero(prefix_length <= max_length)
    kept = shard.labels.take(short)
    token_ids, weights = (Ragged.of(kept[name]) for name in ("token_ids", "weights"))
    text_lengths = prompts.lengths + responses.lengths
    return LabelSet(
        texts=Ragged.of_lengths(np.concatenate(texts).astype(np.int64), text_lengths),
        text_of=shard.rollout_of[short],
        prefix_length=prefix_length[short],
        token_ids=Ragged(token_ids.values.astype(np.int64), token_ids.starts),
        weights=Ragged(weights.values.astype(np.float32), weights.starts),
        skipped=len(prefix_length) - len(short),
        factors=None if shard.factors is None else shard.factors[short].astype(np.float32),
    )
