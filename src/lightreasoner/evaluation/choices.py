"""Stage 4 for benchmarks of given choices: the likelihood of each choice, as lm-evaluation-harness computes it."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lightreasoner.data.benchmarks import BENCHMARKS, ChoiceBenchmark
from lightreasoner.errors import ModelError
from lightreasoner.evaluation.answering import ModelUnderTest
from lightreasoner.evaluation.statistics import wilson_interval
from lightreasoner.inference.memory import ModelWork
from lightreasoner.inference.scoring import response_states, row_chunks
from lightreasoner.models.loading import context_length
from lightreasoner.models.prompts import opening_ids
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.eta import Load
from lightreasoner.runs.records import ChoiceProblem, ScoredChoices
from lightreasoner.runs.stage import StageFolder
from lightreasoner.runs.work import Commit

DELIMITER = " "  # between context and choice


class Scoring(ModelWork[ChoiceProblem, ScoredChoices]):
    """Scores the choices of one benchmark's items."""

    def __init__(self, under_test: ModelUnderTest, label: str) -> None:
        self.label = label
        self._under_test = under_test

    def key(self, item: ChoiceProblem) -> str:
        """The item's id."""
        return item.id

    def order(self, item: ChoiceProblem) -> int:
        """Contexts of similar length share a batch."""
        return len(item.context)

    def load(self, item: ChoiceProblem) -> Load:
        """Characters of all texts: tokens are proportional to them."""
        return Load(sum(len(item.context) + len(choice) for choice in item.choices))

    def run(self, batch: Sequence[ChoiceProblem]) -> list[ScoredChoices]:
        """See `score_choices`."""
        return score_choices(self._under_test.model, self._under_test.tokenizer, batch)

    def commit(self, batch: Sequence[ChoiceProblem], results: list[ScoredChoices]) -> Commit:
        """The scored choices of a batch."""
        return Commit({"choices": ScoredChoices.table(results)}, {})


def score_choices(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: Sequence[ChoiceProblem]
) -> list[ScoredChoices]:
    """Log-probability of each choice of each item, summed over its tokens.

    Context and choice are encoded as one text, and all tokens after those of the context alone count as the choice:
    no pair of tokens is scored that the tokenizer would not produce. A text longer than the model's context length is
    cut at its beginning, as in lm-evaluation-harness.

    Raises:
        ModelError: the log-probabilities of all choices of an item are NaN or infinite.
    """
    texts = [_split(tokenizer, item.context, choice) for item in items for choice in item.choices]
    longest = int(min(context_length(model), sys.maxsize))
    prompts = [context[max(0, len(context) + len(choice) - 1 - longest) :] for context, choice in texts]
    scores = iter(_sums(model, tokenizer, prompts, [choice for _, choice in texts]))
    rows = [
        ScoredChoices(item.id, item.context, item.choices, item.gold, [next(scores) for _ in item.choices])
        for item in items
    ]
    if broken := [row for row in rows if not any(map(math.isfinite, row.logprobs))]:
        raise ModelError(
            f"the log-probabilities of all choices of {len(broken)} of {len(rows)} items are NaN or infinite, so none "
            "is the likeliest; the model does not work in this precision. Try --dtype float32"
        )
    return rows


@torch.inference_mode()
def _sums(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], responses: list[list[int]]
) -> list[float]:
    """Summed log-probability of each response after its prompt.

    Texts that differ only in their last token, such as the letters of a choice, share one pass.
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


def summarise_choices(name: str, stage: StageFolder) -> dict[str, Any]:
    """Accuracy by likelihood (`acc`) and by likelihood per character (`acc_norm`), the benchmark's own metric first."""
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
    """Token ids of the context and of the choice after it; without an EOS, which some tokenizers add to each text."""
    length = len(opening_ids(tokenizer, context))
    both = opening_ids(tokenizer, context + DELIMITER + choice)
    return both[:length], both[length:]
