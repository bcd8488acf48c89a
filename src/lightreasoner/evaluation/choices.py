"""Stage 4 for benchmarks of given choices: the likelihood of each choice, as lm-evaluation-harness computes it."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.config import EvaluateConfig
from lightreasoner.data.benchmarks import BENCHMARKS, ChoiceBenchmark
from lightreasoner.evaluation.answering import ModelUnderTest
from lightreasoner.evaluation.statistics import wilson_interval
from lightreasoner.inference.memory import in_halves
from lightreasoner.inference.scoring import response_states, row_chunks
from lightreasoner.models.loading import context_length
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.progress import progress
from lightreasoner.runs.records import ChoiceProblem, ScoredChoices
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder

DELIMITER = " "  # between context and choice


def score_all(
    under_test: ModelUnderTest, config: EvaluateConfig, stage: StageFolder, items: Sequence[ChoiceProblem]
) -> None:
    """Score the choices of every item that the stage has not settled, and commit batch by batch."""
    settled = stage.settled_ids
    waiting = sorted((item for item in items if item.id not in settled), key=lambda item: len(item.context))
    if not waiting:
        return
    size = config.answer_batch_size
    label = f"{config.model} on {stage.path.parent.name}"
    with progress(label, len(items), len(settled)) as advance, stop_signals() as stop:
        for start in range(0, len(waiting), size):
            stop.check()
            batch = waiting[start : start + size]
            halved: list[int] = []
            rows = in_halves(batch, lambda part: score_choices(under_test.model, under_test.tokenizer, part), halved)
            counts = {"halved_batches": len(halved)} if halved else {}
            stage.commit([item.id for item in batch], {"choices": ScoredChoices.table(rows)}, counts)
            advance(len(batch))


def score_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[ChoiceProblem]
) -> list[ScoredChoices]:
    """Log-probability of each choice of each item, summed over its tokens.

    Context and choice are encoded as one text, and what follows the context's own tokens counts as the choice, so
    that tokens which a tokenizer would never write side by side are not scored. A text beyond the model's context
    loses its beginning, as in lm-evaluation-harness.
    """
    texts = [_split(tokenizer, item.context, choice) for item in items for choice in item.choices]
    longest = int(min(context_length(model), sys.maxsize))
    prompts = [context[max(0, len(context) + len(choice) - 1 - longest) :] for context, choice in texts]
    scores = iter(_sums(model, tokenizer, prompts, [choice for _, choice in texts]))
    return [
        ScoredChoices(item.id, item.context, item.choices, item.gold, [next(scores) for _ in item.choices])
        for item in items
    ]


@torch.inference_mode()
def _sums(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], responses: list[list[int]]
) -> list[float]:
    """Summed log-probability of each response after its prompt.

    Texts that differ in their last token only, such as the letters of a choice, share one pass.
    """
    passes: dict[tuple[tuple[int, ...], ...], int] = {}  # prompt and all but the last token → first row of its pass
    rows: list[int] = []
    first = 0
    for prompt, response in zip(prompts, responses, strict=True):
        key = tuple(prompt), tuple(response[:-1])
        if key not in passes:
            passes[key], first = first, first + len(response)
        rows += range(passes[key], passes[key] + len(response))
    states = response_states(model, [list(prompt) for prompt, _ in passes], [[*response, 0] for _, response in passes])
    vocabulary = vocabulary_of(tokenizer, logit_width(model))
    device = states.hidden.device
    row_of = torch.tensor(rows, device=device)
    column_of = vocabulary.column_of(
        torch.tensor([token for response in responses for token in response], device=device)
    )
    chosen = torch.empty(len(rows), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
    for part in row_chunks(first, len(vocabulary.token_ids), device, for_head=True):
        logprobs = vocabulary.log_softmax(states.logits(part))
        mine = (row_of >= part.start) & (row_of < part.stop)
        chosen[mine] = logprobs[row_of[mine] - part.start, column_of[mine]].to(chosen.dtype)
    return [float(part.sum()) for part in chosen.split([len(response) for response in responses])]


def summarise(name: str, stage: StageFolder) -> dict[str, Any]:
    """Accuracy by likelihood (`acc`) and by likelihood per character (`acc_norm`), the benchmark's own one first."""
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, ChoiceBenchmark)
    rows = [row for table in stage.tables("choices") for row in ScoredChoices.rows(table)]
    right = {metric: sum(row.is_right(metric) for row in rows) for metric in ("acc", "acc_norm")}
    return {
        "total": len(rows),
        "metric": benchmark.metric,
        **wilson_interval(right[benchmark.metric], len(rows)).named("accuracy"),
        **{metric: count / len(rows) for metric, count in right.items()},
        "verified": benchmark.verified,
    }


def _split(tokenizer: PreTrainedTokenizerBase, context: str, choice: str) -> tuple[list[int], list[int]]:
    context_ids = _ids(tokenizer, context)
    both = _ids(tokenizer, context + DELIMITER + choice)
    return both[: len(context_ids)], both[len(context_ids) :]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])
