"""The loss of `lightr finetune` and its labels, for training loops of others.

    >>> from lightreasoner.losses import LabelCollator, label_cross_entropy, label_dataset, logit_width, vocabulary_of
    >>> vocabulary = vocabulary_of(tokenizer, logit_width(model))
    >>> batch = LabelCollator()([label_dataset("runs/mine")[0]])
    >>> logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    >>> rows = logits.flatten(0, 1)[batch["label_rows"]]
    >>> losses = label_cross_entropy(rows, batch["label_ids"], batch["label_weights"], vocabulary)
    >>> loss = (losses * batch.get("label_factors", 1.0)).mean()

`examples/trl_trainer.py` is a subclass of `transformers.Trainer` that does this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.training.batches import load_labels, pad_rows, pad_texts
from lightreasoner.training.objective import label_cross_entropy

__all__ = ["LabelCollator", "label_cross_entropy", "label_dataset", "logit_width", "vocabulary_of"]


def label_dataset(data: Path | str, max_length: int = 4096) -> Dataset:
    """The labels of a run folder as a data set, one row for each rollout that has some.

    Columns: `input_ids`, prompt and response up to the last label; `label_positions`, the index of the last input id
    before each label, whose logits predict it; `label_ids` and `label_weights`, its tokens and their probabilities v_C;
    and `label_factors`, what its loss is multiplied by, only where labels do not weigh the same.

    Args:
        data: run folder with a `sample` folder in it, or the sample folder itself.
        max_length: labels with a longer prefix are left out.

    Raises:
        DataError: there are no samples, or no label is short enough.
        RunCorrupted: they are unfinished or damaged.
    """
    _, labels = load_labels(Path(data), max_length)
    order = np.lexsort((labels.prefix_length, labels.text_of))
    rollouts = np.split(order, np.flatnonzero(np.diff(labels.text_of[order])) + 1)
    columns: dict[str, list[Any]] = {
        "input_ids": [labels.prefix(mine[-1], int(labels.prefix_length[mine[-1]])) for mine in rollouts],
        "label_positions": [labels.prefix_length[mine] - 1 for mine in rollouts],
        "label_ids": [[labels.token_ids[one] for one in mine] for mine in rollouts],
        "label_weights": [[labels.weights[one] for one in mine] for mine in rollouts],
    }
    if labels.factors is not None:
        columns["label_factors"] = [labels.factors[mine] for mine in rollouts]
    return Dataset.from_dict(columns)


@dataclass(frozen=True)
class LabelCollator:
    """Makes a padded batch of rows of `label_dataset`.

    Attributes:
        pad_token_id: id behind shorter texts; the attention mask covers it.
    """

    pad_token_id: int = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """The batch: inputs of the model, and the labels in it.

        Returns:
            `input_ids` and `attention_mask`, [B, T]; `label_rows`, the place of each label among the B·T logits, [N];
            `label_ids` and `label_weights`, right-padded with 0, [N, K]; and `label_factors`, [N], where the rows have
            them.
        """
        batch = pad_texts([row["input_ids"] for row in rows], self.pad_token_id)
        width = batch["input_ids"].shape[1]
        places = [np.asarray(row["label_positions"]) + index * width for index, row in enumerate(rows)]
        batch["label_rows"] = torch.from_numpy(np.concatenate(places))
        for name, kind in (("label_ids", np.int64), ("label_weights", np.float32)):
            batch[name] = pad_rows([np.asarray(one, kind) for row in rows for one in row[name]])
        if "label_factors" in rows[0]:
            batch["label_factors"] = torch.tensor([one for row in rows for one in row["label_factors"]])
        return batch
