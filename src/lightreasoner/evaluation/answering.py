"""Stage 4, first half: a model's answers to a benchmark's questions, stored before anybody judges them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from lightreasoner.config import EvaluateConfig
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.generation import Decoding, Engine
from lightreasoner.inference.memory import in_halves
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.models.loading import ModelSource, context_length, find_model, load_model, load_pair
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.progress import progress
from lightreasoner.runs.records import Answer, Problem
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder


@dataclass(frozen=True)
class Asked:
    """One sample of one question that waits for its answer."""

    item: Problem
    sample: int
    prompt_ids: list[int]


class ModelUnderTest:
    """The model under evaluation, loaded when first needed: a finished evaluation never loads it."""

    def __init__(self, config: EvaluateConfig, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._config = config
        self._source = source
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The model."""
        if self._model is None:
            self._model = load_model(
                self._source,
                dtype=self._config.dtype,
                device=self._config.device,
                trust_remote_code=self._config.trust_remote_code,
            )
        return self._model

    @cached_property
    def engine(self) -> Engine:
        """How it answers: alone, or with an amateur beside it."""
        config = self._config
        if config.contrast_with is None:
            return engine_for(self.model, self.tokenizer)
        amateur = find_model(config.contrast_with, config.contrast_with_revision)
        pair = load_pair(
            self._source,
            amateur,
            dtype=config.dtype,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            rule=config.vocabulary,
        )
        self._model = pair.expert
        return ContrastiveEngine(pair, config.contrast_alpha, self.tokenizer)


def answer_all(
    under_test: ModelUnderTest,
    config: EvaluateConfig,
    stage: StageFolder,
    name: str,
    items: Sequence[Problem],
    template: PromptTemplate,
) -> None:
    """Let the model answer every question that the stage has not settled, and commit batch by batch.

    Args:
        under_test: the model.
        config: decoding, batch size.
        stage: where answers go; an id is settled when all samples of its batch are.
        name: the benchmark.
        items: its questions.
        template: how they are asked.
    """
    settled = stage.settled_ids
    waiting = [
        Asked(item, sample, prompt_ids)
        for item in items
        if item.id not in settled
        for prompt_ids in [template.encode(item.question)]
        for sample in range(config.samples_per_problem)
    ]
    label = f"{config.model} on {name} ({template.kind})"
    if not waiting:
        return
    with progress(label, len(items), len(settled)) as advance, stop_signals() as stop:
        answering = _Answering(under_test, config, name, template)
        for limit, batch in _batches(waiting, config, context_length(under_test.model)):
            stop.check()
            halved: list[int] = []
            answers = in_halves(
                batch,
                lambda part, limit=limit: answering.answer(part, limit),  # type: ignore[misc]
                halved,
            )
            ids = list(dict.fromkeys(asked.item.id for asked in batch))
            stage.commit(ids, {"answers": Answer.table(answers)}, _counts(answers) | {"halved_batches": len(halved)})
            advance(len(ids))


class _Answering:
    def __init__(self, under_test: ModelUnderTest, config: EvaluateConfig, name: str, template: PromptTemplate) -> None:
        self._tokenizer = under_test.tokenizer
        self._name = name
        self._engine = under_test.engine
        self._decoding = Decoding(
            max_new_tokens=config.max_answer_tokens,
            stop_ids=template.stop_ids(under_test.model.generation_config),
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.seed,
            stop_strings=(*template.stop_strings, *config.stop_strings),
        )

    def answer(self, batch: Sequence[Asked], limit: int) -> list[Answer]:
        """The answers to a batch, each at most `limit` tokens long."""
        if limit <= 0:
            return [self._answer(asked, [], "prompt_too_long") for asked in batch]
        decoding = replace(self._decoding, max_new_tokens=limit, seed=_seed(self._decoding.seed, batch))
        outputs = self._engine.generate([asked.prompt_ids for asked in batch], decoding).responses
        return [self._answer(asked, ids) for asked, ids in zip(batch, outputs, strict=True)]

    def _answer(self, asked: Asked, output_ids: list[int], finish: str | None = None) -> Answer:
        text = str(self._tokenizer.decode(output_ids, skip_special_tokens=True))
        starts = [place for stop in self._decoding.stop_strings if (place := text.find(stop)) >= 0]
        stopped = bool(starts) or (bool(output_ids) and output_ids[-1] in self._decoding.stop_ids)
        assert asked.item.answer is not None
        return Answer(
            question_id=asked.item.id,
            sample=asked.sample,
            benchmark=self._name,
            question=asked.item.question,
            gold=asked.item.answer,
            prompt_ids=asked.prompt_ids,
            output_ids=output_ids,
            output=text[: min(starts)] if starts else text,
            finish=finish or ("stop" if stopped else "length"),
        )


def _batches(waiting: list[Asked], config: EvaluateConfig, context: float) -> Iterator[tuple[int, list[Asked]]]:
    """Batches of prompts of like length, with the number of tokens that their answers may have.

    All samples of a question share a batch, which a resumed evaluation then makes again as it was. Prompts that leave
    too little room in the context make batches of their own, so that no answer depends on its neighbours.
    """
    waiting.sort(key=lambda asked: (len(asked.prompt_ids), asked.item.id))
    questions = max(1, config.answer_batch_size // config.samples_per_problem) * config.samples_per_problem

    def room(asked: Asked) -> int:
        return int(max(0, min(config.max_answer_tokens, context - len(asked.prompt_ids))))

    for limit, group in groupby(waiting, key=room):
        alike = list(group)
        for start in range(0, len(alike), questions):
            yield limit, alike[start : start + questions]


def _seed(seed: int, batch: Sequence[Asked]) -> int:
    """A seed of its own for each batch: equal prompts in different batches must not draw equal samples."""
    named = " ".join(f"{asked.item.id}/{asked.sample}" for asked in batch)
    return int.from_bytes(hashlib.sha256(f"{seed} {named}".encode()).digest()[:4], "little")


def _counts(answers: Sequence[Answer]) -> dict[str, int]:
    return {
        "answers": len(answers),
        "truncated": sum(answer.finish == "length" for answer in answers),
        "prompt_too_long": sum(answer.finish == "prompt_too_long" for answer in answers),
        "tokens": sum(len(answer.output_ids) for answer in answers),
    }
