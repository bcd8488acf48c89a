"""Our sampling and fine-tuning without files and processes, as the benchmarks call them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import models
import pyarrow as pa
import torch

from lightreasoner.config import FinetuneConfig, SampleConfig
from lightreasoner.inference.generation import Decoding, Generation
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.inference.packing import packs
from lightreasoner.runs.records import Problem
from lightreasoner.samples.folder import Shard
from lightreasoner.samples.responses import Generated, Prompted, Responses
from lightreasoner.samples.sampler import Sampler
from lightreasoner.training.batches import Collator, LabelSchedule, LabelSet, flatten
from lightreasoner.training.finetuning import attach_lora, tokens_per_micro_batch
from lightreasoner.training.objective import LabelObjective

BETA, ALPHA, LABELS_PER_STEP = 0.4, 0.2, 16


class Ours:
    """Our sampling stage for a loaded pair."""

    def __init__(self, measured: models.Measured, beta: float | None = BETA) -> None:
        self.pair = measured.pair
        self.config = SampleConfig(expert="e", amateur="a", dataset="d", out=Path("unused"), divergence_beta=beta)
        self.decoding = Decoding(measured.max_new_tokens, measured.stop_ids)
        self.engine = engine_for(measured.pair.expert, keep_states=True)
        self.sampler = Sampler(self.pair, Generated(self.engine, self.decoding), self.config)

    def __call__(self, prompts: Sequence[list[int]]) -> Shard:
        return self._rows(self.sampler, prompts)

    def scored(self, prompts: Sequence[list[int]], generation: Generation) -> Shard:
        """The rows of responses that were generated before."""
        known = Responses(generation, [True] * len(prompts))
        return self._rows(Sampler(self.pair, lambda batch: known, self.config), prompts)

    def _rows(self, sampler: Sampler, prompts: Sequence[list[int]]) -> Shard:
        (shard,) = sampler.run([Prompted(Problem(str(i), ""), ids) for i, ids in enumerate(prompts)])
        return shard


def labels_of(shards: Sequence[Shard]) -> LabelSet:
    """Sampled rows as training labels, without files; each shard gets question ids of its own."""
    rollouts, labels = [], []
    for number, shard in enumerate(shards):
        for tables, table in ((rollouts, shard.rollouts), (labels, shard.labels)):
            ids = [f"{number}-{question}" for question in table["question_id"].to_pylist()]
            tables.append(table.set_column(0, "question_id", pa.array(ids, pa.string())))
    return flatten(Shard(pa.concat_tables(rollouts), pa.concat_tables(labels)), max_length=4096)


def half_precision(model: Any) -> torch.autocast:
    """Autocast as in fine-tuning, for weights that are not float32."""
    return torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32)


def with_optimizer(expert: Any) -> tuple[Any, torch.optim.Optimizer]:
    """The expert with LoRA, ready to train."""
    config = FinetuneConfig(model="e", data=Path("unused"), out=Path("unused"))
    with_lora = attach_lora(expert, config)
    with_lora.train()
    return with_lora, torch.optim.AdamW([p for p in with_lora.parameters() if p.requires_grad], config.learning_rate)


class OurTraining:
    """Optimiser steps of fine-tuning, without its logging and checkpoints."""

    def __init__(self, model: Any, vocabulary: Any, labels: LabelSet, labels_per_forward: int) -> None:
        self.collator = Collator(labels, packs(model), tokens_per_micro_batch(model.device))
        self.schedule = LabelSchedule(labels, LABELS_PER_STEP, 10**6, labels_per_forward, seed=0)
        self.objective = LabelObjective(model, vocabulary, LABELS_PER_STEP)
        self.next = 0
        self.tokens = 0

    def __call__(self, with_lora: Any, optimizer: torch.optim.Optimizer) -> float:
        batches = self.collator([self.schedule[self.next]])
        self.next += 1
        optimizer.zero_grad()
        total = 0.0
        for batch in batches:
            batch = batch.to(with_lora.device)
            with half_precision(self.objective.model):
                loss = self.objective(with_lora, batch)
            loss.backward()
            self.tokens += batch.inputs["input_ids"].numel()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_([p for p in with_lora.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        return total
