"""Samples as rows for other trainers. `docs/training-stacks.md` says what each form loses, and how a trainer reads it.

    axolotl     rows that its KD collator takes as they are: `target_token_ids`, `target_logprobs`, `target_mask`
    distillkit  rows of DistillKit's offline teacher: `token_ids`, `top_values`; all rows padded to one length
    trl         rows that TRL's SFTTrainer takes as tokenised: `input_ids`, `labels`, `completion_mask`
    messages    chats

In the first two, entry i holds the distribution of the token behind input id i, as their losses compare it with the
logits at i. Checked in the sources of axolotl 0.19.0 (`integrations/kd/`), DistillKit at commit a61c2e7 and TRL 1.16.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lightreasoner.config.sections import SampleFormat
from lightreasoner.runs.stage import StageFolder
from lightreasoner.samples import folder
from lightreasoner.samples.folder import Label, Ragged, ScoredRollout

# Log-probability of tokens that stand in for missing ones: a loss must not meet log 0, and exp(-80) changes none.
FILL = -80.0
IGNORED = -100  # label of a position without a loss

_IDS, _ROWS_OF_IDS = pa.list_(pa.int32()), pa.list_(pa.list_(pa.int32()))
_ROWS_OF_NUMBERS = pa.list_(pa.list_(pa.float32()))
_TEXT = {"input_ids": _IDS, "attention_mask": _IDS, "labels": _IDS}
_TURN = pa.struct({"role": pa.string(), "content": pa.string()})
SCHEMAS = {
    "axolotl": {
        **_TEXT,
        "target_token_ids": _ROWS_OF_IDS,
        "target_logprobs": _ROWS_OF_NUMBERS,
        "target_mask": _ROWS_OF_IDS,
    },
    "distillkit": {**_TEXT, "token_ids": _ROWS_OF_IDS, "top_values": _ROWS_OF_NUMBERS},
    "trl": {"input_ids": _IDS, "labels": _IDS, "completion_mask": _IDS},
    "messages": {"messages": pa.list_(_TURN), "question_id": pa.string(), "finished": pa.bool_()},
}


@dataclass(frozen=True)
class RowForm:
    """How rollouts become rows of one form.

    Attributes:
        schema: columns of a row.
        row: makes the row of a rollout that has labels.
        facts: what the user should know: `columns`, tokens in each label; `labels_cut`, labels that had more.
    """

    schema: pa.Schema
    row: Callable[[ScoredRollout], dict[str, Any]]
    facts: dict[str, int] = field(default_factory=dict)

    def rows(self, shard: folder.Shard) -> Iterator[dict[str, Any]]:
        """The rows of a shard; rollouts without a label have none."""
        return (self.row(rollout) for rollout in folder.scored_rollouts(shard) if rollout.labels)


def row_form(to: SampleFormat, stage: StageFolder, tokenizer: PreTrainedTokenizerBase, cue: str, top_k: int) -> RowForm:
    """The rows of a form.

    Args:
        to: the form.
        stage: the samples, whose longest text and largest label say how wide the rows are.
        tokenizer: of the expert.
        cue: system message of the samples.
        top_k: most tokens of a label to keep.
    """
    schema = pa.schema(SCHEMAS[to])
    if to == "trl":
        return RowForm(schema, _trl)
    if to == "messages":
        return RowForm(schema, partial(_messages, tokenizer, cue))
    sizes, longest = [0], 0
    for shard in folder.read_shards(stage):
        sizes.extend(Ragged.of(shard.labels["token_ids"]).lengths.tolist())
        prompts = Ragged.of(shard.rollouts["prompt_ids"]).lengths
        longest = max(longest, int((prompts[shard.rollout_of] + shard.positions).max(initial=0)) + 1)
    width = min(top_k, max(sizes))
    facts = {"columns": width, "labels_cut": sum(size > width for size in sizes)}
    if to == "axolotl":
        return RowForm(schema, partial(_axolotl, width), facts)
    return RowForm(schema, partial(_distillkit, width, longest, tokenizer.pad_token_id or 0), facts)


def _ids(rollout: ScoredRollout) -> NDArray[np.int64]:
    """Prompt and response up to the token of the last label; where that is not known, the label's most probable."""
    last = max(rollout.labels)
    ids = np.concatenate([rollout.prompt_ids, rollout.response_ids[: last + 1]])
    if ids[-1] < 0:
        ids[-1] = _best(rollout.labels[last])
    return ids


def _best(label: Label) -> int:
    return label.token_ids[int(np.argmax(label.weights))]


def _trl(rollout: ScoredRollout) -> dict[str, Any]:
    """One-hot labels; the token in the text is the rollout's own."""
    ids = _ids(rollout)
    labels = np.full(len(ids), IGNORED)
    for position, label in rollout.labels.items():
        labels[len(rollout.prompt_ids) + position] = _best(label)
    mask = (labels != IGNORED).astype(int)
    return {"input_ids": ids.tolist(), "labels": labels.tolist(), "completion_mask": mask.tolist()}


def _messages(tokenizer: PreTrainedTokenizerBase, cue: str, rollout: ScoredRollout) -> dict[str, Any]:
    known = rollout.response_ids[rollout.response_ids >= 0]
    turns = [("system", cue)] if cue else []
    turns += [("user", rollout.question), ("assistant", str(tokenizer.decode(known, skip_special_tokens=True)))]
    chat = [{"role": role, "content": content} for role, content in turns]
    return {"messages": chat, "question_id": rollout.question_id, "finished": rollout.finished}


def _targets(rollout: ScoredRollout, width: int, length: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Token ids, log-probabilities, and which of them are a label's, [length, width] each.

    A label of fewer tokens is filled up with others, whose ids are different: some losses gather by id.
    """
    ids, logprobs = np.tile(np.arange(width), (length, 1)), np.full((length, width), FILL)
    real = np.zeros((length, width), int)
    for position, label in rollout.labels.items():
        top = np.argsort(-np.asarray(label.weights), kind="stable")[:width]
        tokens, weights = np.asarray(label.token_ids)[top], np.asarray(label.weights)[top]
        others = np.setdiff1d(np.arange(2 * width), tokens)[: width - len(top)]
        row = len(rollout.prompt_ids) + position - 1
        ids[row] = [*tokens, *others]
        with np.errstate(divide="ignore"):
            logprobs[row, : len(top)] = np.maximum(np.log(weights / weights.sum()), FILL)
        real[row, : len(top)] = 1
    return ids, logprobs, real


def _axolotl(width: int, rollout: ScoredRollout) -> dict[str, Any]:
    """Its loss divides by the number of labels, which are shifted; its mask is not."""
    ids = _ids(rollout)
    tokens, logprobs, real = _targets(rollout, width, len(ids))
    labelled = np.roll(real.any(1), 1)
    return {
        "input_ids": ids.tolist(),
        "attention_mask": [1] * len(ids),
        "labels": np.where(labelled, ids, IGNORED).tolist(),
        "target_token_ids": tokens.tolist(),
        "target_logprobs": logprobs.tolist(),
        "target_mask": real.tolist(),
    }


def _distillkit(width: int, length: int, pad_id: int, rollout: ScoredRollout) -> dict[str, Any]:
    """Its mask is the labels, unshifted; it takes tokenised rows of one length only (`prepacked`)."""
    ids = _ids(rollout)
    tokens, logprobs, real = _targets(rollout, width, length)
    padded = np.pad(ids, (0, length - len(ids)), constant_values=pad_id)
    return {
        "input_ids": padded.tolist(),
        "attention_mask": [1] * len(ids) + [0] * (length - len(ids)),
        "labels": np.where(real.any(1), padded, IGNORED).tolist(),
        "token_ids": tokens.tolist(),
        "top_values": logprobs.tolist(),
    }
