"""Stage 4, first half: answer a benchmark's questions with a model, and store the answers before they are judged."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightreasoner.config import EvaluateConfig, PairConfig
from lightreasoner.config.sections import BATCH_SIZES, MachineSettings
from lightreasoner.errors import ConfigError
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.engines import served_by
from lightreasoner.inference.generation import Decoding, Engine
from lightreasoner.inference.memory import ModelWork
from lightreasoner.models.loading import context_length
from lightreasoner.models.pairs import FoundPair, Pair, find_pair
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.models.source import ModelSource
from lightreasoner.runs.eta import Load
from lightreasoner.runs.records import Answer, Problem
from lightreasoner.runs.work import Commit


@dataclass(frozen=True)
class Asked:
    """One sample of one question, not yet answered."""

    item: Problem
    sample: int
    prompt_ids: list[int]


class ModelUnderTest:
    """The model under evaluation, loaded on first use: a finished evaluation never loads it."""

    def __init__(self, config: EvaluateConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.served = served_by(config, source, tokenizer, config.out)
        self._config = config

    @property
    def model(self) -> Any:
        """The model."""
        return self._pair.expert if self._config.contrast_with else self.served.model

    @property
    def context(self) -> float:
        """Tokens that the model was made for; infinite where it does not say."""
        return context_length(self._pair.expert) if self._config.contrast_with else self.served.context

    @property
    def engine(self) -> Engine:
        """Its engine: the model alone, or with an amateur for contrastive decoding."""
        if self._config.contrast_with:
            return ContrastiveEngine(self._pair, self._config.contrast_alpha, self.tokenizer)
        return self.served.engine

    @cached_property
    def _pair(self) -> Pair:
        config = self._config
        assert config.contrast_with is not None
        return contrasted_pair(config).load()


def contrasted_pair(config: EvaluateConfig) -> FoundPair:
    """The two models of contrastive decoding.

    Raises:
        ConfigError: the amateur draws random numbers, which this decoding has no keys for; or see `find_pair`.
    """
    assert config.contrast_with is not None
    pair = PairConfig(
        expert=config.model,
        expert_revision=config.model_revision,
        amateur=config.contrast_with,
        amateur_revision=config.contrast_with_revision,
        vocabulary=config.vocabulary,
        **config.model_dump(include=set(MachineSettings.model_fields)),
    )
    found = find_pair(pair, config.adapter, "--contrast-with")
    if found.side.kind == "dropout":
        raise ConfigError(
            f"--contrast-with {config.contrast_with}: dropout draws anew for each whole text, and decoding grows one "
            "token by token, so the amateur would change under way. Take self:layers=K, or label with `lightr sample`"
        )
    return found


class Answering(ModelWork[Asked, Answer]):
    """Answers the questions of the benchmark `name`.

    All samples of a question share a batch, so a resumed evaluation forms the same batches. Prompts that leave too few
    tokens of the context for a full answer form separate batches by cap, so that no answer depends on others.
    """

    def __init__(
        self, under_test: ModelUnderTest, config: EvaluateConfig, name: str, template: PromptTemplate, stops: Stops
    ) -> None:
        self.label = f"{config.model} on {name} ({template.kind})"
        answers = config.answer_batch_size or BATCH_SIZES[config.engine]
        self.questions = max(1, answers // config.samples_per_problem)  # per batch
        self._under_test = under_test
        self._config = config
        self._name = name
        self._template = template
        self._stops = stops

    def ask(self, items: Sequence[Problem]) -> Iterator[Asked]:
        """Every sample of every question, with its prompt."""
        for item in items:
            prompt_ids = self._template.encode(item.question)
            yield from (Asked(item, sample, prompt_ids) for sample in range(self._config.samples_per_problem))

    def key(self, item: Asked) -> str:
        """The question's id."""
        return item.item.id

    def order(self, item: Asked) -> tuple[int, str]:
        """Prompts of similar length share a batch."""
        return len(item.prompt_ids), item.item.id

    def group(self, item: Asked) -> int:
        """Cap on the answer, in tokens."""
        left = self._under_test.context - len(item.prompt_ids)
        return int(max(0, min(self._config.max_answer_tokens, left)))

    def load(self, item: Asked) -> Load:
        """The prompt, and an answer up to the cap."""
        return Load(len(item.prompt_ids), self.group(item))

    def run(self, batch: Sequence[Asked]) -> list[Answer]:
        """The answers to a batch; see `Generation.finite_responses`."""
        cap = self.group(batch[0])
        if cap == 0:
            return [self._answer(asked, [], "prompt_too_long") for asked in batch]
        decoding = replace(self._decoding, max_new_tokens=cap, seed=_seed(self._config.seed, batch))
        generation = self._under_test.engine.generate([asked.prompt_ids for asked in batch], decoding)
        outputs = generation.finite_responses()
        return [self._answer(asked, ids) for asked, ids in zip(batch, outputs, strict=True)]

    def commit(self, batch: Sequence[Asked], results: list[Answer]) -> Commit:
        """The answers of a batch, and counts of how they ended."""
        finishes = Counter(answer.finish for answer in results)
        counts = {
            "answers": len(results),
            "truncated": finishes["length"],
            "prompt_too_long": finishes["prompt_too_long"],
            "tokens": sum(len(answer.output_ids) for answer in results),
            "halved_batches": 0,
        }
        return Commit({"answers": Answer.table(results)}, counts)

    @property
    def _decoding(self) -> Decoding:
        config = self._config
        return Decoding(
            max_new_tokens=config.max_answer_tokens,
            stop_ids=self._stops.ids,
            temperature=config.temperature,
            top_p=config.top_p,
            stop_strings=self._stops.strings,
        )

    def _answer(self, asked: Asked, output_ids: list[int], finish: str | None = None) -> Answer:
        text = self._stops.text_of(output_ids, self._under_test.tokenizer)
        start = self._stops.start_in(text)
        stopped = start is not None or (bool(output_ids) and output_ids[-1] in self._stops.ids)
        assert asked.item.answer is not None
        return Answer(
            question_id=asked.item.id,
            sample=asked.sample,
            benchmark=self._name,
            question=asked.item.question,
            gold=asked.item.answer,
            prompt_ids=asked.prompt_ids,
            output_ids=output_ids,
            output=text[:start],
            finish=finish or ("stop" if stopped else "length"),
        )


def _seed(seed: int, batch: Sequence[Asked]) -> int:
    """A separate seed for each batch: equal prompts in different batches must not draw equal samples."""
    named = " ".join(f"{asked.item.id}/{asked.sample}" for asked in batch)
    return int.from_bytes(hashlib.sha256(f"{seed} {named}".encode()).digest()[:4], "little")
