"""The sample folder: what stage 1 writes, and what training, selection, the report and JSONL files read.

    RUN/sample/
      manifest.json             fingerprint, and as `record` how the samples were made (a `Provenance`)
      rollouts-00000.parquet    rows of `Rollout`: a response, and every number that both models gave at each token
      steps-00000.parquet       rows of `Label`: the kept steps of these rollouts

A label goes from tensors to Arrow columns (`table_of`) and back to flat arrays (`Ragged`, `Shard`); no lists of Python
numbers in between.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lightreasoner.config import BaselineConfig, SampleConfig, SelectConfig
from lightreasoner.config_base import Config
from lightreasoner.errors import DataError
from lightreasoner.runs.records import Record
from lightreasoner.runs.stage import StageFolder, read_stage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PER_STEP = ("kl", "expert_entropy", "amateur_entropy", "expert_logprob", "amateur_logprob")
PER_TOP = ("expert_top_ids", "expert_top_logprobs", "amateur_top_ids", "amateur_top_logprobs")
PER_LABEL = ("token_ids", "weights", "expert_logprobs", "amateur_logprobs")


@dataclass(frozen=True, slots=True)
class Rollout(Record):
    """The expert's response to one question, both models scored at every response token.

    Entry t of a list (t = 0 … T−1) speaks of the distribution *before* token t, given the prompt and tokens 0 … t−1.
    Lists are empty, or entries NaN, where a step was not scored (baselines, imported samples). An imported rollout may
    have one entry more than tokens: its last label can stand behind the last known token.

    Attributes:
        question_id: `Problem.id`.
        question: the question's text.
        prompt_ids: token ids of the whole prompt.
        response_ids: token ids that the expert generated, with the stop token if there was one, [T].
        finished: the response ended with a stop token, not at the length limit.
        kl: D_KL(π_E‖π_A) in nats, [T].
        expert_entropy: H(π_E) in nats, [T].
        amateur_entropy: H(π_A) in nats, [T].
        expert_logprob: log π_E(response_ids[t]), [T].
        amateur_logprob: log π_A(response_ids[t]), [T].
        expert_top_ids: the expert's most probable tokens, descending, [T][k].
        expert_top_logprobs: log π_E of them, [T][k].
        amateur_top_ids: the amateur's most probable tokens, descending, [T][k].
        amateur_top_logprobs: log π_A of them, [T][k].
    """

    question_id: str
    question: str
    prompt_ids: list[int]
    response_ids: list[int]
    finished: bool
    kl: list[float]
    expert_entropy: list[float]
    amateur_entropy: list[float]
    expert_logprob: list[float]
    amateur_logprob: list[float]
    expert_top_ids: list[list[int]]
    expert_top_logprobs: list[list[float]]
    amateur_top_ids: list[list[int]]
    amateur_top_logprobs: list[list[float]]


@dataclass(frozen=True, slots=True)
class Label(Record):
    """One kept step of Algorithm 1, (s_t, v_C): the prefix is the rollout's prompt and its first `position` tokens.

    Attributes:
        question_id: `Rollout.question_id`.
        position: 0-based index t of the response token that the label predicts.
        token_ids: ids of the plausible tokens (A_mask), ascending, [K].
        weights: label probabilities v_C of these tokens, sum 1, [K].
        expert_logprobs: log π_E of these tokens when sampled, [K]; empty where not known.
        amateur_logprobs: log π_A of these tokens, [K]; empty where not known.
    """

    question_id: str
    position: int
    token_ids: list[int]
    weights: list[float]
    expert_logprobs: list[float]
    amateur_logprobs: list[float]


@dataclass(frozen=True)
class Ragged:
    """A column of lists of unequal length, as flat arrays.

    Attributes:
        values: all lists end to end, [sum of lengths]; [sum of lengths, k] where the entries are lists of one length.
        starts: where each list starts in `values`; one entry more than lists.
    """

    values: NDArray[Any]
    starts: Ints

    @classmethod
    def of_lengths(cls, values: NDArray[Any], lengths: Sequence[int] | NDArray[Any]) -> "Ragged":
        """Lists of these lengths, cut from flat values."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Ragged":
        """The lists of a column, or its lists of equally long lists."""
        lengths = pc.list_value_length(column).to_numpy()
        flat = pc.list_flatten(column)
        if pa.types.is_list(flat.type):
            inner = pc.list_flatten(flat).to_numpy()
            width = len(inner) // max(len(flat), 1)
            return cls.of_lengths(inner.reshape(len(flat), width), lengths)
        return cls.of_lengths(flat.to_numpy(), lengths)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> Ints:
        """Length of each list."""
        return np.diff(self.starts)

    def padded(self, fill: float) -> NDArray[Any]:
        """The lists as rows of one array, [n, longest], with `fill` behind the shorter ones."""
        lengths = self.lengths
        rows = np.full((len(lengths), lengths.max(initial=0)), fill, self.values.dtype)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = self.values
        return rows

    def column(self, kind: pa.ListType) -> pa.ListArray:
        """The lists as an Arrow column."""
        values = pa.array(self.values.ravel(), kind.value_type.value_type if self.values.ndim == 2 else kind.value_type)
        if self.values.ndim == 2:
            ends = np.arange(len(self.values) + 1) * self.values.shape[1]
            values = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)
        return pa.ListArray.from_arrays(pa.array(self.starts, pa.int32()), values)


def table_of(record: type[Record], columns: Mapping[str, Any]) -> pa.Table:
    """A table of rows from its columns: `Ragged` for lists, anything that Arrow takes for the others."""
    arrays = [
        column.column(field.type) if isinstance(column := columns[field.name], Ragged) else pa.array(column, field.type)
        for field in record.schema
    ]
    return pa.Table.from_arrays(arrays, schema=record.schema)


@dataclass(frozen=True)
class Shard:
    """Rollouts and their labels.

    Attributes:
        rollouts: rows of `Rollout`, R of them.
        labels: rows of `Label`, S of them.
    """

    rollouts: pa.Table
    labels: pa.Table

    @cached_property
    def rollout_of(self) -> Ints:
        """Row of each label's rollout, [S]."""
        found = pc.index_in(self.labels["question_id"], self.rollouts["question_id"].combine_chunks())
        return np.asarray(found, np.int64)

    @cached_property
    def positions(self) -> Ints:
        """`Label.position`, [S]."""
        return np.asarray(self.labels["position"], np.int64)

    def at_labels(self, name: str) -> NDArray[Any]:
        """A per-token column of `Rollout` at the position of each label, [S] or [S, k]; NaN or −1 where not known."""
        column = Ragged.of(self.rollouts[name])
        known = self.positions < column.lengths[self.rollout_of]
        missing = -1 if column.values.dtype.kind == "i" else np.nan
        found = np.full((len(known), *column.values.shape[1:]), missing, column.values.dtype)
        found[known] = column.values[(column.starts[self.rollout_of] + self.positions)[known]]
        return found


def read_shards(stage: StageFolder) -> Iterator[Shard]:
    """The shards of a sample stage in order of commit; memory holds one."""
    return map(Shard, stage.tables("rollouts"), stage.tables("steps"))


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout as arrays, with its labels.

    Attributes:
        response_ids: `Rollout.response_ids`, [T]; −1 for a last token that an imported rollout does not know.
        per_step: the columns `PER_STEP`, [T] each; NaN where a step was not scored.
        per_top: the columns `PER_TOP`, [T, k] each; k is 0 where steps were not scored.
        labels: the kept steps by position.
    """

    question_id: str
    question: str
    prompt_ids: Ints
    response_ids: Ints
    finished: bool
    per_step: Mapping[str, Floats]
    per_top: Mapping[str, NDArray[Any]]
    labels: Mapping[int, Label]

    @property
    def kl(self) -> Floats:
        """D_KL(π_E‖π_A) before each token, nats."""
        return self.per_step["kl"]

    @property
    def agrees(self) -> NDArray[np.bool_] | None:
        """Whether both models' most probable tokens are the same, [T]; None where that is not known."""
        if not self.per_top["expert_top_ids"].shape[1]:
            return None
        same: NDArray[np.bool_] = self.per_top["expert_top_ids"][:, 0] == self.per_top["amateur_top_ids"][:, 0]
        return same


def scored_rollouts(shard: Shard) -> Iterator[ScoredRollout]:
    """The rollouts of a shard, in order."""
    labels: dict[str, dict[int, Label]] = {}
    for label in Label.rows(shard.labels):
        labels.setdefault(label.question_id, {})[label.position] = label
    table = shard.rollouts
    plain = [table[name].to_pylist() for name in ("question_id", "question", "finished")]
    prompts, responses = (Ragged.of(table[name]) for name in ("prompt_ids", "response_ids"))
    per_step = {name: Ragged.of(table[name]) for name in PER_STEP}
    per_top = {name: Ragged.of(table[name]) for name in PER_TOP}
    for row, (question_id, question, finished) in enumerate(zip(*plain, strict=True)):
        mine = labels.get(question_id, {})
        length = max(len(responses[row]), max(mine, default=-1) + 1)
        yield ScoredRollout(
            question_id,
            question,
            prompts[row].astype(np.int64),
            _filled(responses[row].astype(np.int64), length, -1),
            finished,
            {name: _filled(column[row].astype(np.float64), length, np.nan) for name, column in per_step.items()},
            {name: _at_all_steps(column[row], length) for name, column in per_top.items()},
            mine,
        )


def _filled(values: NDArray[Any], length: int, fill: float) -> NDArray[Any]:
    return np.pad(values, (0, length - len(values)), constant_values=fill)


def _at_all_steps(values: NDArray[Any], length: int) -> NDArray[Any]:
    """[T, k], and [T, 0] where nothing is known."""
    wide = values if len(values) == length else np.empty((length, 0), values.dtype)
    return wide.astype(np.int64 if wide.dtype.kind == "i" else np.float64)


class Made(BaseModel):
    """How samples were made: the `record` of a sample folder's manifest.

    Attributes:
        expert: name of the model that the labels are for.
        expert_revision: branch, tag or commit of it, if it is on the Hub.
        expert_sha256: hash of its content.
        cue: instruction before every question.
        template_sha256: hash of what stands around every question.
        amateur: name of the amateur; None where there was none.
        dataset: name of the data set; None where it is not known.
        questions: number of questions asked; None where it is not known.
        beta: β of Eq 3; None where another rule chose the steps.
        alpha: α of Eq 4; None where the labels are not made by it.
    """

    model_config = ConfigDict(frozen=True)

    expert: str
    expert_revision: str | None = None
    expert_sha256: str
    cue: str
    template_sha256: str
    amateur: str | None = None
    dataset: str | None = None
    questions: int | None = None
    beta: float | None = None
    alpha: float | None = None

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the rows, flat."""
        settings: Config | None = getattr(self, "settings", None)
        left_out = {"settings", "source", "beta", "alpha"}
        return {**(settings.identity() if settings else {}), **self.model_dump(mode="json", exclude=left_out)}

    def commands(self, out: str) -> list[str]:
        """The commands that make these samples again in the run folder `out`; none for imported ones."""
        return []


class Sampled(Made):
    """Made by stage 1."""

    made_by: Literal["sample"] = "sample"
    settings: SampleConfig
    amateur_sha256: str
    questions_sha256: str
    dtype: str

    def commands(self, out: str) -> list[str]:
        """See `Made.commands`."""
        return [command_line(["sample"], self.settings, out, dtype=self.dtype)]


class Baseline(Made):
    """Made as the training data of a baseline."""

    made_by: Literal["baseline"] = "baseline"
    settings: BaselineConfig
    problems_sha256: str
    dtype: str

    def commands(self, out: str) -> list[str]:
        """See `Made.commands`."""
        return [command_line(["baseline", self.settings.kind], self.settings, out, "kind", dtype=self.dtype)]


class Imported(Made):
    """Read from a file of another tool."""

    made_by: Literal["import"] = "import"
    file_sha256: str
    questions_sha256: str | None
    question_field: str | None


class Selected(Made):
    """Selected and relabelled from other samples."""

    made_by: Literal["select"] = "select"
    settings: SelectConfig
    source: Annotated[Sampled | Imported, Field(discriminator="made_by")]
    samples_sha256: str

    def fingerprint(self) -> dict[str, Any]:
        """See `Made.fingerprint`."""
        return {**super().fingerprint(), "source": self.source.fingerprint()}

    def commands(self, out: str) -> list[str]:
        """See `Made.commands`."""
        sampling = self.source.commands(f"{out}-samples")
        words = ["samples", "select", f"{out}-samples", out]
        return [*sampling, command_line(words, self.settings, None, "source")] if sampling else []


Provenance = Annotated[Sampled | Selected | Baseline | Imported, Field(discriminator="made_by")]
_PROVENANCE: TypeAdapter[Provenance] = TypeAdapter(Provenance)


def command_line(words: Sequence[str], settings: Config, out: str | None, *left_out: str, **changes: Any) -> str:
    """A `lightr` command with these settings as flags."""
    flags = settings.flags(*left_out, **changes)
    return shlex.join(["lightr", *words, *flags, *(["--out", out] if out else [])])


def read_samples(path: Path) -> tuple[Provenance, StageFolder]:
    """How the samples of a run folder were made, and their stage.

    Args:
        path: run folder with a `sample` folder in it, or the sample folder itself.

    Raises:
        DataError: there are no samples.
        RunCorrupted: they are unfinished or damaged.
        RunMismatch: a version with another schema wrote them.
    """
    folder = path / "sample" if (path / "sample").is_dir() else path
    if not (folder / "manifest.json").is_file():
        raise DataError(
            f"{path} holds no samples: no manifest.json in {folder}. Give the --out folder of `lightr sample`; "
            "a JSONL file of the authors' format becomes one with `lightr samples import`"
        )
    _, stage = read_stage(folder)
    try:
        return _PROVENANCE.validate_python(stage.manifest["record"]), stage
    except ValidationError:
        raise DataError(f"{folder} holds no samples; its manifest.json is that of another stage") from None
