"""Alarms: what can be seen of an expert without a right answer, on prompts that are held back from training.

    ROUND/held-back/
      sample/        greedy rollouts, scored against the amateur; a sample folder like any other
      select/        the same with the labels that the settings select; absent if there are none
      base/sample/   the same, scored against the untouched expert; absent before the first round
      answers/       several answers to each prompt
      alarms/        `result.json`: the figures

Intrinsic signals rise and then fall in self-improvement (arXiv 2603.08660), so each is kept as a curve over the rounds.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lightreasoner.config import RoundsConfig, SampleConfig
from lightreasoner.config.sections import SELECTION, AnswerKind, AnswerSettings
from lightreasoner.data.benchmarks import Benchmark
from lightreasoner.data.own import chosen_benchmarks
from lightreasoner.errors import LightReasonerError, NothingToLearn
from lightreasoner.evaluation.answering import Answering, ModelUnderTest
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import Case
from lightreasoner.models.loading import dtype_name, load_generation_config, load_tokenizer, with_adapter
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.runs.manifest import prompts_time
from lightreasoner.runs.progress import say, warn, without_messages
from lightreasoner.runs.records import Answer
from lightreasoner.runs.stage import StageFolder, open_stage, read_stage, settle
from lightreasoner.samples.folder import Ragged, Shard, read_shards
from lightreasoner.samples.sampling import read_problems, sample
from lightreasoner.samples.selecting import select
from lightreasoner.samples.statistics import is_scattered

Floats = NDArray[np.float64]

NGRAM = 4
MANY_CUT_OFF = 0.5  # share of the answers, above which there is a warning
VERSION = 2  # raised when a figure changes its meaning


def measure(config: RoundsConfig, number: int) -> dict[str, Any]:
    """Measure the alarms of the expert after a round. What is finished is read, not made again.

    Args:
        config: the rounds.
        number: the round; 0 is the untouched expert.

    Returns:
        The figures `runs.records.ALARMS`, and under `per_prompt` majority share and answers of each prompt by its id.
        `failure` says why there is nothing to measure, such as rollouts that are all empty; it stands alone then.

    Raises:
        LightReasonerError: see `samples.sampling.sample` and `evaluation.evaluate`.
    """
    greedy = config.held_back_sample(number)
    against_base = config.held_back_sample(
        number, amateur=config.expert, amateur_revision=config.expert_revision, out=greedy.out / "base"
    )
    try:
        sample(greedy)
        if config.selects:
            select(config.held_back_select(number))
        if number:
            with without_messages():  # that the two models are nearly the same
                sample(against_base)
    except NothingToLearn as error:
        if not number:
            raise
        return {"failure": str(error)}
    kind = answer_kind(config)
    labelled = SELECTION if config.selects else "sample"
    parts = {labelled: read_stage(greedy.out / labelled)[1]}
    if number:
        parts["base"] = read_stage(against_base.out / "sample")[1]
    parts["answers"] = _answers(config, number, greedy)
    identity = {name: part.digest for name, part in parts.items()}
    beta = config.rule.threshold if config.rule.selection == "divergence" else config.sample.divergence_beta
    with open_stage(greedy.out, "alarms", {**identity, "beta": beta, "kind": kind, "version": VERSION}, say) as stage:
        if stage.result is not None:
            return stage.result
        tokenizer = load_tokenizer(find_model(config.expert, config.expert_revision), config)
        answers = _stated(config, parts["answers"], kind)
        shares = {name: majority_share(stated) for name, stated in answers.items()}
        return stage.finish(
            {
                "majority_share": float(np.mean(list(shares.values()))),
                **figures_of(list(read_shards(parts[labelled])), beta, tokenizer),
                "drift": _mean_kl(parts["base"]) if number else 0.0,
                "per_prompt": {"majority_share": shares, "answers": answers},
            }
        )


def answer_kind(config: RoundsConfig) -> AnswerKind:
    """How answers are made equal before they are counted: as those to the first benchmark of the evaluation."""
    if config.evaluate.answer_kind is not None:
        return config.evaluate.answer_kind
    try:
        first = chosen_benchmarks(config.evaluate)[0]
    except LightReasonerError:  # a file of answers that this machine lacks
        return "expression"
    return first.kind if isinstance(first, Benchmark) else "text"


def _answers(config: RoundsConfig, number: int, greedy: SampleConfig) -> StageFolder:
    """The stage with several answers to each prompt."""
    asked = config.held_back_answers(number)
    source = with_adapter(find_model(config.expert, config.expert_revision), asked.adapter)
    tokenizer = load_tokenizer(source, config)
    asked_at = prompts_time(asked.out, "answers")
    template = PromptTemplate(tokenizer, config.cue, config.chat_template, at=asked_at)
    stops = template.stops(load_generation_config(source), asked.stop_strings)
    found = read_problems(greedy)
    under_test = ModelUnderTest(asked, source, tokenizer)
    with closing(under_test.served):
        identity = {
            "model_files": source.files(),
            "adapter_files": source.adapter_files(),
            "questions_sha256": found.fingerprint,
            "asked": template.identity(stops),
            "seed": asked.seed,
            "dtype": dtype_name(asked, source),
            **asked.identity(AnswerSettings),
            **under_test.served.identity(),
        }
        with open_stage(asked.out, "answers", identity, say, asked_at=asked_at) as stage:
            if stage.result is None:
                answering = Answering(under_test, asked, "the prompts held back", template, stops)
                # Right answers, where a data set has them, stay out of the loop.
                items = [replace(problem, answer="") for problem in found.problems]
                size = answering.questions * asked.samples_per_problem
                settle(stage, answering.ask(items), size, answering, total=len(items))
                stage.finish({"items": len(items)})
    return read_stage(asked.out / "answers")[1]


def _stated(config: RoundsConfig, answers: StageFolder, kind: AnswerKind) -> dict[str, list[str | None]]:
    """What the answers to each prompt state, by its id, in a form in which equal ones are the same; None is nothing."""
    rows = [row for table in answers.tables("answers") for row in Answer.rows(table)]
    judge = config.evaluate
    cut_off = sum(row.finish == "length" for row in rows) / len(rows)
    if cut_off > MANY_CUT_OFF:
        warn(
            f"{100 * cut_off:.0f} % of the answers to the prompts held back were cut off at {judge.max_answer_tokens} "
            "tokens and mostly state nothing, so their majority says little. Raise --evaluate.max-answer-tokens"
        )
    with GradingPool(
        workers=judge.grading_workers,
        seconds=judge.grading_seconds,
        megabytes=judge.grading_megabytes,
        symbolic=kind == "expression",
    ) as pool:
        found = list(pool.judge(Case(row.output, "A" if kind == "choice" else "0", kind) for row in rows))
    by_prompt: dict[str, list[str | None]] = {}
    for row, judgement in zip(rows, found, strict=True):
        by_prompt.setdefault(row.question_id, []).append(judgement.canonical)
    return dict(sorted(by_prompt.items()))


def majority_share(keys: Sequence[str | None]) -> float:
    """The share of the commonest answer among all; None states no answer, and agrees with nothing.

    Agreement of sampled answers: self-consistency (arXiv 2203.11171), as a signal without labels in TTRL (2504.16084).
    """
    return max(Counter(key for key in keys if key is not None).values(), default=0) / len(keys)


def _mean_kl(stage: StageFolder) -> float:
    """Mean KL over all steps, nats."""
    kl = np.concatenate([Ragged.of(table["kl"]).values for table in stage.tables("rollouts", ["kl"])])
    return _mean(kl.astype(np.float64))


def figures_of(shards: Sequence[Shard], beta: float | None, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """The figures of greedy rollouts with labels of all steps.

    Args:
        shards: rollouts and labels.
        beta: β of Eq 3, above which labels count; None counts all.
        tokenizer: of the expert.

    Returns:
        The entries of `runs.records.ALARMS` that come from rollouts; 0 of nothing.
    """
    lowest = -math.inf if beta is None else float(np.float32(beta))  # as sampling compares
    columns = {
        name: np.concatenate([Ragged.of(shard.rollouts[name]).values for shard in shards]).astype(np.float64)
        for name in ("kl", "expert_entropy")
    }
    responses = [ids.tolist() for shard in shards for ids in Ragged.of(shard.rollouts["response_ids"])]
    finished = [ended for shard in shards for ended in shard.rollouts["finished"].to_pylist()]
    surprise, mass, of_format, scattered = [], 0.0, 0.0, 0.0
    is_format: dict[int, bool] = {}
    for ids, weights, logprobs, kl in _labels(shards):
        if not kl > lowest:
            continue
        surprise.append(float((weights * (np.log(weights) - logprobs)).sum()))
        mass += 1.0
        scattered += is_scattered(weights.tolist(), kl)
        for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
            if token not in is_format:
                is_format[token] = is_of_format(str(tokenizer.decode([token], skip_special_tokens=True)))
            of_format += weight * is_format[token]
    return {
        "expert_entropy": _mean(columns["expert_entropy"]),
        "above_beta": float((columns["kl"] > lowest).mean()) if len(columns["kl"]) else 0.0,
        "label_surprise": _mean(np.array(surprise)),
        "finished": float(np.mean(finished)),
        "mean_length": float(np.mean([len(ids) for ids in responses])),
        "repeated": float(np.mean([repeated_share(ids) for ids in responses])),
        "format_mass": of_format / mass if mass else 0.0,
        "junk_mass": scattered / mass if mass else 0.0,
    }


def _labels(shards: Sequence[Shard]) -> Iterator[tuple[NDArray[np.int64], Floats, Floats, float]]:
    """Token ids, weights above 0 and log π_E of each label, and the KL of its step."""
    for shard in shards:
        parts = [Ragged.of(shard.labels[name]) for name in ("token_ids", "weights", "expert_logprobs")]
        for ids, weights, logprobs, kl in zip(*parts, shard.at_labels("kl"), strict=True):
            some = weights > 0
            yield ids[some].astype(np.int64), weights[some].astype(float), logprobs[some].astype(float), float(kl)


def _mean(values: Floats) -> float:
    """Mean of the finite values; 0 of none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else 0.0


def repeated_share(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of the n-grams that occurred before in the text: seq-rep-n of arXiv 1908.04319, 1 − distinct / all."""
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def is_of_format(text: str) -> bool:
    """Whether a token's text has no letter, number or mathematical sign: blanks, line breaks, marks, control tokens."""
    return not any(unicodedata.category(char)[0] in "LN" or unicodedata.category(char) == "Sm" for char in text)
