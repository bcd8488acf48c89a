"""The paper's rivals as training data: whole answers, every token a label, in the very form that stage 1 writes.

A rival differs from the method in what it trains on, and in nothing else: `lightr finetune` takes these folders as it
takes samples. A label of one token with probability 1 makes its loss the usual cross-entropy.

Writes `OUT/sample/`: `rollouts-*.parquet` and `steps-*.parquet`, without divergences, which nobody computed.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lightreasoner.config import BaselineConfig, BaselineKind
from lightreasoner.data.lines import Row
from lightreasoner.data.problems import make_problem, question_of, read_dataset, text_of
from lightreasoner.errors import DataError
from lightreasoner.grading.extraction import last_boxed, stated_answer
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, Case
from lightreasoner.inference.generation import Decoding, TokenIds
from lightreasoner.inference.memory import in_halves
from lightreasoner.inference.packed_engine import engine_for
from lightreasoner.miniature.corpus import worked_solution
from lightreasoner.miniature.word_problems import word_problems
from lightreasoner.models.loading import ModelSource, context_length, dtype_name, find_model, load_model, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.runs.progress import progress, say
from lightreasoner.runs.records import BASELINE, Problem, Rollout, StepSample
from lightreasoner.runs.signals import stop_signals
from lightreasoner.runs.stage import StageFolder, open_stage

SOLUTION_FIELDS = ("solution", "answer")
TRAJECTORIES_PER_STEP = 16  # Table 10: 4 × 4
UNKNOWN_SCORES = len(Rollout.schema) - 5  # columns of a rollout that only stage 1 can fill


@dataclass(frozen=True)
class Solved:
    """A problem with its gold answer, and the solution that somebody wrote."""

    problem: Problem
    solution: str


@dataclass(frozen=True)
class Kept:
    """What a rival makes of a batch of problems.

    Attributes:
        answers: token ids to be trained on, for each problem; None where there is nothing to learn from.
        counts: what became of the batch.
    """

    answers: list[TokenIds | None]
    counts: Mapping[str, int]


Maker = Callable[[Sequence[Solved]], Kept]


def baseline(config: BaselineConfig) -> dict[str, Any]:
    """Write the training data of a rival, or what is left of it.

    Returns:
        Counts, and the settings of `lightr finetune` that come to the paper's SFT: one epoch in steps of 16 answers.

    Raises:
        LightReasonerError: see `errors`; what was committed stays.
    """
    source = find_model(config.model, config.model_revision)
    template = PromptTemplate(
        load_tokenizer(source, trust_remote_code=config.trust_remote_code), config.cue, config.chat_template
    )
    if config.dataset == "arithmetic" and config.max_questions is None:
        raise DataError("arithmetic problems are generated without end; say how many with --max-questions")
    solved = list(distinct(solved_problems(config), config.max_questions))
    fingerprint = {
        BASELINE: config.kind,
        "expert": config.model,
        "expert_revision": config.model_revision,
        "expert_sha256": source.fingerprint(),
        "dataset": config.dataset,
        "questions": len(solved),
        "problems_sha256": make_problem(
            "\n".join(f"{s.problem.id} {s.problem.answer} {s.solution}" for s in solved)
        ).id,
        "cue": config.cue,
        "template_sha256": template.fingerprint,
        "dtype": dtype_name(config.dtype, config.device),
        **config.model_dump(include={"max_new_tokens", "judge", "seed"}),
    }
    with open_stage(config.out, "sample", fingerprint, report=say) as stage:
        if stage.result is None:
            stage.finish(_fill(config, source, template, solved, stage))
        assert stage.result is not None
        return stage.result


def _fill(
    config: BaselineConfig, source: ModelSource, template: PromptTemplate, solved: list[Solved], stage: StageFolder
) -> dict[str, Any]:
    settled = stage.settled_ids
    prompts = {item.problem.id: template.encode(item.problem.question) for item in solved}
    waiting = sorted(
        (item for item in solved if item.problem.id not in settled), key=lambda item: len(prompts[item.problem.id])
    )
    with progress(config.kind, len(solved), len(settled)) as advance, stop_signals() as stop:
        make = BASELINES[config.kind](config, source, template) if waiting else None
        for start in range(0, len(waiting), config.batch_size):
            stop.check()
            batch = waiting[start : start + config.batch_size]
            assert make is not None
            kept = make(batch)
            pairs = [(item.problem, ids) for item, ids in zip(batch, kept.answers, strict=True) if ids]
            rollouts = [
                Rollout(p.id, p.question, prompts[p.id], ids, True, *[[] for _ in range(UNKNOWN_SCORES)])
                for p, ids in pairs
            ]
            labels = sum(len(ids) for _, ids in pairs)
            stage.commit(
                [item.problem.id for item in batch],
                {"rollouts": Rollout.table(rollouts), "steps": _one_hot(rollouts)},
                {"questions": len(batch), "answers_kept": len(pairs), "labels": labels, **kept.counts},
            )
            advance(len(batch), f"{stage.counts['answers_kept']} answers kept")
    counts = stage.counts
    if not counts["answers_kept"]:
        raise DataError(f"none of {counts['questions']} answers is right and complete; there is nothing to learn from")
    return {**counts, "finetune": sft_settings(counts["labels"], counts["answers_kept"])}


def sft_settings(labels: int, answers: int) -> dict[str, int]:
    """Settings of `lightr finetune` for one epoch in steps of 16 answers (Table 10), counted in labels."""
    labels_per_step = max(1, round(TRAJECTORIES_PER_STEP * labels / answers))
    return {
        "steps": max(1, labels // labels_per_step),
        "labels_per_step": labels_per_step,
        "labels_per_forward": labels,  # all labels of an answer share a forward pass
    }


# --- The rivals: each makes, of a batch of problems, the answers to be trained on ---


def own_right_answers(config: BaselineConfig, source: ModelSource, template: PromptTemplate) -> Maker:
    """Rejection-sampled SFT: one greedy answer of the model to each problem, kept if it is complete and right."""
    model = load_model(source, dtype=config.dtype, device=config.device, trust_remote_code=config.trust_remote_code)
    engine = engine_for(model, template.tokenizer)
    stop_ids = template.stop_ids(model.generation_config)
    room = context_length(model)

    def generate(batch: Sequence[Solved]) -> list[TokenIds]:
        prompts = [template.encode(item.problem.question) for item in batch]
        limit = int(min(config.max_new_tokens, room - max(map(len, prompts))))
        if limit < 1:
            raise DataError(f"a prompt of {max(map(len, prompts))} tokens leaves no room in a context of {room}")
        return engine.generate(prompts, Decoding(limit, stop_ids)).responses

    def make(batch: Sequence[Solved]) -> Kept:
        halved: list[int] = []
        outputs = in_halves(batch, generate, halved)
        texts = [str(template.tokenizer.decode(ids, skip_special_tokens=True)) for ids in outputs]
        numbers = config.dataset in ("arithmetic", "gsm8k")
        cases = [
            Case(text, item.problem.answer or "", "number" if numbers else "expression", config.dataset)
            for text, item in zip(texts, batch, strict=True)
        ]
        with GradingPool(config.judge, workers=config.grading_workers, symbolic=not numbers) as pool:
            verdicts = [judgement.verdict for judgement in pool.judge(cases)]
        complete = [bool(ids) and ids[-1] in stop_ids for ids in outputs]
        answers = [
            ids if right == "correct" and done else None
            for ids, right, done in zip(outputs, verdicts, complete, strict=True)
        ]
        counts: dict[str, int] = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
        counts |= {"truncated": complete.count(False), "tokens": sum(map(len, outputs))}
        return Kept(answers, counts | ({"halved_batches": len(halved)} if halved else {}))

    return make


def written_solutions(config: BaselineConfig, source: ModelSource, template: PromptTemplate) -> Maker:
    """Ground-truth SFT: the solution that came with each problem. Needs no model."""
    return lambda batch: Kept([template.encode_answer(item.solution) for item in batch], {})


# A rival is one function and one line here.
BASELINES: Mapping[BaselineKind, Callable[[BaselineConfig, ModelSource, PromptTemplate], Maker]] = {
    "rejection-sft": own_right_answers,
    "ground-truth": written_solutions,
}


# --- Problems with solutions ---


def solved_problems(config: BaselineConfig) -> Iterator[Solved]:
    """All problems of a data set, as often as they come; those of the generator end never."""
    if config.dataset == "arithmetic":
        for told in word_problems("train", config.seed):
            yield Solved(make_problem(told.question, str(told.answer)), worked_solution(told))
    for row in read_dataset(config.dataset, "train", config.data_dir):
        solution, gold = _solution_of(row, config.solution_field)
        yield Solved(make_problem(question_of(row, config.question_field), gold), solution)


def _solution_of(row: Row, field: str | None) -> tuple[str, str]:
    """Solution and gold answer of a row."""
    where, fields = row
    name = field or next((name for name in SOLUTION_FIELDS if name in fields), None)
    if name is None:
        raise DataError(
            f"{where}: no field {' or '.join(SOLUTION_FIELDS)} among {', '.join(fields) or 'none'}; a rival needs "
            "right answers. Name their field with --solution-field"
        )
    text = text_of(row, name).strip()
    gold = stated_answer(text) or (str(fields["answer"]) if "answer" in fields else text)
    # GSM8K writes <<48/2=24>> for a calculator, and #### before the answer where the cue asks for a box.
    text = re.sub(r"<<[^<>]*>>", "", text)
    if last_boxed(text) is None:
        text = re.sub(r"^####\s*(.+?)\s*$", r"\\boxed{\1}", text, flags=re.MULTILINE)
    return text, gold


def distinct(solved: Iterator[Solved], limit: int | None) -> Iterator[Solved]:
    """The first `limit` distinct questions, as in `data.problems.load_problems`."""
    seen: set[str] = set()
    for item in solved:
        if item.problem.id not in seen:
            seen.add(item.problem.id)
            yield item
        if len(seen) == limit:
            return


def _one_hot(rollouts: Sequence[Rollout]) -> pa.Table:
    """Every response token as a label of its own (`runs.records.StepSample`)."""
    nothing_known = (math.nan, math.nan, math.nan)
    places = [(rollout.question_id, t, token) for rollout in rollouts for t, token in enumerate(rollout.response_ids)]
    return StepSample.table(
        StepSample(question, t, [token], [1.0], [], [], *nothing_known, token, math.nan, math.nan)
        for question, t, token in places
    )
