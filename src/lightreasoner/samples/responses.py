"""The expert's responses to a batch of prompts: generated, or stored by an earlier pass.

Expert and amateur can be in memory one after the other. Then the expert's pass leaves responses and final hidden states
in a stage folder of its own, and scoring reads them there:

    RUN/sample-states/
      responses-00000.parquet   rows of `Response`
      states-00000.parquet      one row per response token, in the order of the responses: the raw bytes of its hidden
                                state in the model's precision; absent where no states were kept

Results are those of both models together, to the bit. The folder is removed when the samples are finished. So is
`RUN/sample-responses/`, with the responses of an engine in another process, which ends before a model is loaded here.
"""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import SampleConfig
from lightreasoner.errors import DiskFull
from lightreasoner.inference.generation import Decoding, Engine, Generation, TokenIds
from lightreasoner.inference.memory import ModelWork
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.residency import LazyPair
from lightreasoner.inference.scoring import Head, ResponseStates, response_states
from lightreasoner.models.pairs import Pair
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.runs.eta import Load
from lightreasoner.runs.files import nearest_folder
from lightreasoner.runs.manifest import read_manifest
from lightreasoner.runs.owning import Owner
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Problem, Record
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import StageFolder, open_stage, settle
from lightreasoner.runs.terminal import size
from lightreasoner.runs.work import Commit, Result
from lightreasoner.samples.folder import Sampled

STATES = "sample-states"
RESPONSES = "sample-responses"  # of an engine in another process, without states

# What the sample's fingerprint says of the amateur and of scoring.
SCORING = {"amateur", "amateur_revision", "amateur_files", "amateur_adapter_files", "vocabulary"}
SCORING |= {"amateur_cue", "amateur_hint", "amateur_context"}
SCORING |= {"divergence_beta", "plausibility_alpha", "top_tokens"}


@dataclass(frozen=True)
class Prompted:
    """A problem and its prompts.

    Attributes:
        prompt_ids: what the expert reads before its response.
        amateur_ids: what the amateur reads before the same response; None: the same.
        trained_ids: what the labels are trained on; None: the same as the expert reads.
    """

    problem: Problem
    prompt_ids: TokenIds
    amateur_ids: TokenIds | None = None
    trained_ids: TokenIds | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest of the prompts."""
        return max(len(ids) for ids in (self.prompt_ids, self.amateur_ids, self.trained_ids) if ids is not None)


class PromptWork(ModelWork[Prompted, Result]):
    """Work on prompts. All such work forms the same batches.

    Attributes:
        longest: most tokens of a response.
    """

    longest: int

    def key(self, item: Prompted) -> str:
        """The question's id."""
        return item.problem.id

    def order(self, item: Prompted) -> int:
        """Prompts of like length share a batch."""
        return len(item.prompt_ids)

    def load(self, item: Prompted) -> Load:
        """The prompt, and a response up to the cap."""
        return Load(len(item.prompt_ids), self.longest)


@dataclass(frozen=True)
class Responses:
    """The expert's responses to a batch of prompts.

    Attributes:
        generation: token ids up to a stop text, which no label is made of, and their states if they are known.
        finished: whether each one ended by itself.
    """

    generation: Generation
    finished: list[bool]


class ResponseSource(Protocol):
    """Where responses come from."""

    def __call__(self, batch: Sequence[Prompted]) -> Responses:
        """The responses to a batch of prompts."""
        ...


@dataclass(frozen=True)
class ExpertEngine:
    """The fastest engine for the expert, which is loaded with the first batch."""

    pair: Pair | LazyPair
    tokenizer: PreTrainedTokenizerBase | None

    def generate(self, prompts: Sequence[TokenIds], decoding: Decoding) -> Generation:
        """See `inference.generation.Engine.generate`."""
        return engine_for(self.pair.expert, self.tokenizer, keep_states=True).generate(prompts, decoding)


@dataclass(frozen=True)
class Generated:
    """Responses of an engine; the tokenizer finds stop texts, and is needed only if there are any."""

    engine: Engine
    decoding: Decoding
    tokenizer: PreTrainedTokenizerBase | None = None

    @classmethod
    def of(cls, pair: Pair | LazyPair, template: PromptTemplate, stops: Stops, config: SampleConfig) -> "Generated":
        """Responses of the fastest engine for the expert."""
        return cls(ExpertEngine(pair, template.tokenizer), decoding_of(config, stops), template.tokenizer)

    def __call__(self, batch: Sequence[Prompted]) -> Responses:
        """See `ResponseSource`."""
        generation = self.engine.generate([item.prompt_ids for item in batch], self.decoding)
        stop_ids, responses = self.decoding.stop_ids, generation.responses
        lengths = list(map(len, responses))
        if self.decoding.stop_strings and self.tokenizer is not None:
            stops = Stops(stop_ids, self.decoding.stop_strings)
            lengths = [stops.answer_length(ids, self.tokenizer) for ids in responses]
        finished = [
            length < len(ids) or (bool(ids) and ids[-1] in stop_ids)
            for ids, length in zip(responses, lengths, strict=True)
        ]
        answers = [ids[:length] for ids, length in zip(responses, lengths, strict=True)]
        states = generation.states
        if states is not None and answers != responses:
            kept = [place < length for ids, length in zip(responses, lengths, strict=True) for place in range(len(ids))]
            states = replace(states, hidden=states.hidden[torch.tensor(kept, device=states.hidden.device)])
        return Responses(Generation(answers, states), finished)


def decoding_of(config: SampleConfig, stops: Stops) -> Decoding:
    """How rollouts are decoded."""
    return Decoding(
        max_new_tokens=config.max_new_tokens,
        stop_ids=stops.ids,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        stop_strings=stops.strings,
    )


@dataclass(frozen=True, slots=True)
class Response(Record):
    """A stored response."""

    question_id: str  # `Problem.id`
    response_ids: list[int]  # up to a stop text
    finished: bool  # see `Rollout.finished`


@dataclass(frozen=True)
class Stored:
    """Responses in a stage folder, with the states of the model whose head this is."""

    stage: StageFolder
    head: Head | None = None

    def __call__(self, batch: Sequence[Prompted]) -> Responses:
        """See `ResponseSource`."""
        wanted = [item.problem.id for item in batch]
        found: dict[str, tuple[Response, Tensor | None]] = {}
        states = self.stage.tables("states", ids=wanted) if self.head else None
        for table in self.stage.tables("responses", ids=wanted):
            rows = list(Response.rows(table))
            lengths = [len(row.response_ids) for row in rows]
            hidden = [None] * len(rows) if states is None else states_of(next(states)).split(lengths)
            found |= {row.question_id: (row, part) for row, part in zip(rows, hidden, strict=True)}
        chosen = [found[name] for name in wanted]
        generation = Generation([row.response_ids for row, _ in chosen])
        if self.head is not None:
            hidden = torch.cat([part for _, part in chosen if part is not None])
            generation = replace(generation, states=ResponseStates(self.head, hidden.to(self.head.weight.device)))
        return Responses(generation, [row.finished for row, _ in chosen])


def states_table(hidden: Tensor) -> pa.Table:
    """Hidden states, [N, H], as raw bytes in one column, which is named after their precision."""
    content = hidden.cpu().contiguous().view(torch.uint8).numpy()
    kind = pa.binary(content.shape[1])
    rows = pa.FixedSizeBinaryArray.from_buffers(kind, len(content), [None, pa.py_buffer(content)])
    return pa.table({str(hidden.dtype).removeprefix("torch."): rows})


def states_of(table: pa.Table) -> Tensor:
    """What `states_table` stored: [N, H]."""
    (name,) = table.column_names
    width = table.schema.field(name).type.byte_width
    parts = [np.frombuffer(chunk.buffers()[1], np.uint8)[: len(chunk) * width] for chunk in table[name].chunks]
    content = np.concatenate([np.empty(0, np.uint8), *parts]).reshape(-1, width)
    return torch.from_numpy(content).view(getattr(torch, name))


class ExpertPass(PromptWork[Responses]):
    """Responses and, with a pair, the states of its expert, to be stored."""

    label = "expert"

    def __init__(self, pair: LazyPair | None, source: ResponseSource, longest: int) -> None:
        self.longest = longest
        self._pair = pair
        self._source = source

    def run(self, batch: Sequence[Prompted]) -> list[Responses]:
        """Responses of the source; where it keeps no states, the expert reads them."""
        made = self._source(batch)
        if self._pair is not None and made.generation.states is None:
            prompts, answers = [item.prompt_ids for item in batch], made.generation.responses
            states = response_states(self._pair.expert, prompts, answers)
            made = replace(made, generation=replace(made.generation, states=states))
        return [made]

    def commit(self, batch: Sequence[Prompted], results: list[Responses]) -> Commit:
        """The responses of a batch, and the states of their tokens."""
        responses = [ids for result in results for ids in result.generation.responses]
        finished = [ended for result in results for ended in result.finished]
        rows = zip(batch, responses, finished, strict=True)
        tables = {"responses": Response.table(Response(item.problem.id, ids, ended) for item, ids, ended in rows)}
        if self._pair is not None:
            tables["states"] = pa.concat_tables(
                states_table(result.generation.states.hidden) for result in results if result.generation.states
            )
        return Commit(tables, {"questions": len(responses), "tokens": sum(map(len, responses))})


def responses_first(
    run: Path,
    made: Sampled,
    asked_at: str,
    source: ResponseSource,
    items: Sequence[Prompted],
    rows: int,
    settled: Collection[str],
    sharing: Sharing,
) -> Stored:
    """The responses to these items, without states, before a model is loaded; arguments as for `expert_first`."""
    with open_stage(run, RESPONSES, _of_responses(made), say, asked_at=asked_at, sharing=sharing) as stage:
        work = ExpertPass(None, source, made.settings.max_new_tokens)
        settle(stage, items, rows, work, total=len(items), skip=settled)
        sharing.await_commits(stage, {item.problem.id for item in items}.difference(settled))
    return Stored(stage)


def _of_responses(made: Sampled) -> dict[str, Any]:
    """What decides the responses."""
    return {name: value for name, value in made.fingerprint().items() if name not in SCORING}


def expert_first(
    run: Path,
    made: Sampled,
    asked_at: str,
    source: ResponseSource,
    pair: LazyPair,
    items: Sequence[Prompted],
    rows: int | Callable[[], int],
    settled: Collection[str],
    sharing: Sharing,
) -> Stored:
    """The expert's pass over these items; then the expert is dropped but for its head.

    Args:
        run: run folder.
        made: how the samples are made.
        asked_at: see `open_stage`.
        source: responses, with or without states.
        pair: both models.
        items: all prompts.
        rows: items per batch, see `settle`.
        settled: ids of prompts that have samples.
        sharing: how the work is shared.

    Raises:
        DiskFull: the disk cannot hold the states.
    """
    with open_stage(run, STATES, _of_responses(made), say, asked_at=asked_at, sharing=sharing) as stage:
        wanted = {item.problem.id for item in items}.difference(settled)
        longest = made.settings.max_new_tokens
        if not sharing.joins:
            _refuse_full_disk(run, len(wanted - stage.settled_ids), pair, longest)
        settle(stage, items, rows, ExpertPass(pair, source, longest), total=len(items), skip=settled)
        sharing.await_commits(stage, wanted)
    return Stored(stage, None if isinstance(sharing, Owner) else pair.drop_expert())


def _refuse_full_disk(run: Path, responses: int, pair: LazyPair, tokens: int) -> None:
    needed = responses * tokens * pair.state_bytes
    free = shutil.disk_usage(nearest_folder(run)).free
    if needed > free:
        raise DiskFull(
            f"the expert's hidden states of {responses} responses of up to {tokens} tokens take up to {size(needed)} "
            f"in {run / STATES}, and {size(free)} are free there. Free some space, lower --max-questions or "
            "--max-new-tokens, or give another folder with --out"
        )


def release_states(run: Path) -> None:
    """Leave the stored responses and states to other settings; see `StageFolder.release`."""
    for folder in (run / STATES, run / RESPONSES):
        if (folder / "manifest.json").exists():
            StageFolder(folder, read_manifest(folder)).release()


def remove_states(run: Path) -> None:
    """Remove the stored responses and states, which finished samples do not need."""
    for folder in (run / STATES, run / RESPONSES):
        if folder.exists():
            shutil.rmtree(folder)
