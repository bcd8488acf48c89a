"""The paper's baselines as training data: whole answers, every token a label, in the format of stage 1.

A baseline differs from the method in its training data alone: `lightr finetune` takes these folders like samples. A
label of one token with probability 1 makes its loss the usual cross-entropy.

Writes `OUT/sample/`, see `samples.folder`; without divergences, since no amateur is involved.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lightreasoner.config import BaselineConfig
from lightreasoner.config_sections import BATCH_SIZES, BaselineKind
from lightreasoner.data.fields import checked_text, last_turn, named, question_of, turns_of
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.golds import as_gold, checked_gold, is_prose, marked_gold
from lightreasoner.data.lines import Row, short
from lightreasoner.data.problems import make_problem, read_dataset
from lightreasoner.data.rows import gsm8k_gold
from lightreasoner.errors import DataError
from lightreasoner.grading.extraction import last_boxed, stated_answer
from lightreasoner.grading.pool import GradingPool
from lightreasoner.grading.verdicts import VERDICTS, AnswerKind, Case
from lightreasoner.inference.engines import Served, served_by
from lightreasoner.inference.generation import Decoding, TokenIds
from lightreasoner.inference.memory import ModelWork, worker_devices
from lightreasoner.models import loading
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.runs.eta import Load
from lightreasoner.runs.owning import run_shared
from lightreasoner.runs.progress import say
from lightreasoner.runs.records import Problem
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import open_stage, settle
from lightreasoner.runs.work import Commit
from lightreasoner.samples.folder import PER_STEP, PER_TOP, Baseline, Label, Ragged, Rollout, table_of

SOLUTION_FIELDS = ("solution", "answer", "response", "output", "completion", "messages", "conversations")
TRAJECTORIES_PER_STEP = 16  # Table 10: 4 × 4


@dataclass(frozen=True)
class Solved:
    """A problem with its gold answer, and a written solution."""

    problem: Problem
    solution: str


def baseline(config: BaselineConfig) -> dict[str, Any]:
    """Make a baseline's training data for `lightr finetune`: all tokens of whole answers, without a contrast.

    Returns:
        Counts, and the settings of `lightr finetune` that make the paper's SFT: one epoch in steps of 16 answers.

    Raises:
        LightReasonerError: see `errors`; what was committed stays.
    """
    source = find_model(config.model, config.model_revision)

    def devices() -> list[str]:
        return worker_devices(config, config, loading.weight_bytes([source], config))

    return run_shared(config, "samples.baselines:baseline", partial(_baseline, source), devices)


def _baseline(source: ModelSource, config: BaselineConfig, sharing: Sharing) -> dict[str, Any]:
    config = sharing.with_precision(config, "sample")
    asked_at = sharing.prompts_time(config.out, "sample")
    template = PromptTemplate(loading.load_tokenizer(source, config), config.cue, config.chat_template, at=asked_at)
    stops = template.stops(loading.load_generation_config(source), config.stop_strings)
    if config.dataset in GENERATORS and config.max_questions is None:
        raise DataError(f"{config.dataset} problems are generated without end; say how many with --max-questions")
    served = served_by(config, source, template.tokenizer, config.out)
    solved = list(distinct(solved_problems(config), config.max_questions))
    content = "\n".join(f"{item.problem.id} {item.problem.answer} {item.solution}" for item in solved)
    made = Baseline(
        expert=config.model,
        expert_revision=config.model_revision,
        expert_files=source.files(),
        cue=config.cue,
        asked=template.identity(stops),
        dataset=config.dataset,
        questions=len(solved),
        settings=config,
        problems_sha256=make_problem(content).id,
        dtype=loading.dtype_name(config, source),
        engine_version=served.identity().get("engine_version"),
    )
    record = made.model_dump(mode="json")
    with open_stage(config.out, "sample", made.fingerprint(), say, record, asked_at, sharing) as stage:
        if stage.result is not None:
            return stage.result
        work = BASELINES[config.kind](config, served, template, stops)
        with closing(served):
            settle(stage, solved, config.batch_size or BATCH_SIZES[config.engine], work, total=len(solved))
        if sharing.joins:
            return {}
        counts = stage.counts
        if not counts["answers_kept"]:
            stage.release()
            raise DataError(_why_none_is_kept(counts, config))
        return stage.finish({**counts, "finetune": sft_settings(counts["labels"], counts["answers_kept"])})


def _why_none_is_kept(counts: Mapping[str, int], config: BaselineConfig) -> str:
    """Why no answer was kept, and what helps."""
    if config.kind == "ground-truth":
        return f"all {counts['questions']} solutions are empty; there is nothing to learn from. Give other data"
    if counts["prompt_too_long"] == counts["questions"]:
        who = f"all {counts['questions']} questions are" if counts["questions"] > 1 else "the question is"
        return f"{who} longer than the model's context. Give shorter questions or another model"
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    nothing = (
        f"none of {counts['questions']} answers is right and complete ({verdicts}; {counts['truncated']} cut off at "
        "--max-new-tokens), so there is nothing to learn from"
    )
    if counts["truncated"] == counts["questions"]:
        return f"{nothing}. Raise --max-new-tokens {config.max_new_tokens}, or check the stop tokens of the model"
    return f"{nothing}. Choose a model that solves some of these problems"


def sft_settings(labels: int, answers: int) -> dict[str, int]:
    """Settings of `lightr finetune` for one epoch in steps of 16 answers (Table 10), counted in labels."""
    labels_per_step = max(1, round(TRAJECTORIES_PER_STEP * labels / answers))
    return {
        "steps": max(1, labels // labels_per_step),
        "labels_per_step": labels_per_step,
        "labels_per_forward": labels,  # all labels of an answer share a forward pass
    }


# --- The baselines: each makes the answers to train on ---


class WrittenSolutions(ModelWork[Solved, TokenIds]):
    """Ground-truth SFT: the solution that came with each problem. Needs no model."""

    def __init__(self, config: BaselineConfig, served: Served, template: PromptTemplate, stops: Stops) -> None:
        self.label = config.kind
        self._config = config
        self._served = served
        self._template = template
        self._stops = stops

    def key(self, item: Solved) -> str:
        """The question's id."""
        return item.problem.id

    def order(self, item: Solved) -> int:
        """Prompts of like length share a batch."""
        return len(self._prompt(item))

    def run(self, batch: Sequence[Solved]) -> list[TokenIds]:
        """Token ids of an answer to each problem."""
        return [self._template.encode_answer(item.solution) for item in batch]

    def choose(self, batch: Sequence[Solved], answers: list[TokenIds]) -> tuple[list[bool], dict[str, int]]:
        """Which answers to train on, and counts of the others."""
        return [True] * len(answers), {}

    def commit(self, batch: Sequence[Solved], results: list[TokenIds]) -> Commit:
        """The kept answers, with every token as a label of its own."""
        chosen, counts = self.choose(batch, results)
        kept = [
            (item, answer)
            for item, ids, good in zip(batch, results, chosen, strict=True)
            if good and (answer := self.answer(ids))
        ]
        unknown: list[Any] = [[]] * len((*PER_STEP, *PER_TOP))  # only stage 1 scores steps
        rollouts = Rollout.table(
            Rollout(item.problem.id, item.problem.question, self._prompt(item), ids, True, *unknown)
            for item, ids in kept
        )
        ids = np.array([token for _, answer in kept for token in answer], np.int64)
        one_each, unscored = np.ones_like(ids), Ragged.of_lengths(np.zeros(0), np.zeros_like(ids))
        labels = table_of(
            Label,
            {
                "question_id": [item.problem.id for item, answer in kept for _ in answer],
                "position": [position for _, answer in kept for position in range(len(answer))],
                "token_ids": Ragged.of_lengths(ids, one_each),
                "weights": Ragged.of_lengths(np.ones(len(ids)), one_each),
                "expert_logprobs": unscored,
                "amateur_logprobs": unscored,
            },
        )
        counts = {"questions": len(batch), "answers_kept": len(kept), "labels": len(labels), **counts}
        return Commit({"rollouts": rollouts, "steps": labels}, counts)

    def answer(self, ids: TokenIds) -> TokenIds:
        """The tokens to train on."""
        return ids

    def note(self, counts: Mapping[str, int]) -> str:
        """Kept answers so far."""
        return f"{counts['answers_kept']} answers kept"

    def _prompt(self, item: Solved) -> TokenIds:
        return self._template.encode(item.problem.question)


class OwnRightAnswers(WrittenSolutions):
    """Rejection-sampled SFT: one greedy answer of the model to each problem, kept if it is complete and right."""

    def run(self, batch: Sequence[Solved]) -> list[TokenIds]:
        """The model's answers, each ended by a stop token, a stop text or the cap."""
        cap = self.group(batch[0])
        if not cap:
            return [[] for _ in batch]
        decoding = Decoding(cap, self._stops.ids, stop_strings=self._stops.strings)
        return self._served.engine.generate([self._prompt(item) for item in batch], decoding).responses

    def group(self, item: Solved) -> int:
        """Cap on the answer, in tokens; 0 if the prompt fills the context. So no answer depends on other prompts."""
        return self._cap(len(self._prompt(item)))

    def _cap(self, prompt: int) -> int:
        left = self._served.context - prompt
        return int(max(0, min(self._config.max_new_tokens, left)))

    def load(self, item: Solved) -> Load:
        """The prompt, and an answer up to the cap."""
        prompt = len(self._prompt(item))
        return Load(prompt, self._cap(prompt))

    def choose(self, batch: Sequence[Solved], answers: list[TokenIds]) -> tuple[list[bool], dict[str, int]]:
        """See `WrittenSolutions.choose`: right and complete answers."""
        dataset = self._config.dataset
        kind = _kind_of_answers(dataset)
        texts = [str(self._template.tokenizer.decode(ids, skip_special_tokens=True)) for ids in answers]
        ends = list(map(self._stops.start_in, texts))
        texts = [text[:end] for text, end in zip(texts, ends, strict=True)]
        cases = [Case(text, item.problem.answer or "", kind, dataset) for text, item in zip(texts, batch, strict=True)]
        with GradingPool(
            self._config.judge, workers=self._config.grading_workers, symbolic=kind == "expression"
        ) as pool:
            verdicts = [judgement.verdict for judgement in pool.judge(cases)]
        complete = [
            end is not None or (bool(ids) and ids[-1] in self._stops.ids)
            for ids, end in zip(answers, ends, strict=True)
        ]
        counts: dict[str, int] = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
        too_long = answers.count([])
        counts |= {"truncated": complete.count(False) - too_long, "prompt_too_long": too_long}
        counts["tokens"] = sum(map(len, answers))
        right = [verdict == "correct" and done for verdict, done in zip(verdicts, complete, strict=True)]
        return right, counts

    def answer(self, ids: TokenIds) -> TokenIds:
        """The answer without a stop text."""
        return ids[: self._stops.answer_length(ids, self._template.tokenizer)]


# A baseline is one class and one line here.
BASELINES: Mapping[BaselineKind, Callable[[BaselineConfig, Served, PromptTemplate, Stops], WrittenSolutions]] = {
    "rejection-sft": OwnRightAnswers,
    "ground-truth": WrittenSolutions,
}


# --- Problems with solutions ---


def _kind_of_answers(dataset: str) -> AnswerKind:
    if dataset in GENERATORS:
        return GENERATORS[dataset].answers
    return "number" if dataset == "gsm8k" else "expression"


def solved_problems(config: BaselineConfig) -> Iterator[Solved]:
    """All problems of a data set, as often as they come; those of a generator end never."""
    if generator := GENERATORS.get(config.dataset):
        for generated in generator.problems("train", config.seed):
            yield Solved(make_problem(generated.question, generated.answer), generated.solution)
    for row in read_dataset(config.dataset, "train", config.data_dir):
        solution, gold = _solution_of(row, config.solution_field)
        if config.dataset == "gsm8k" and config.solution_field is None:
            gold = gsm8k_gold(row)
        gold = checked_gold(row[0], gold, _kind_of_answers(config.dataset))
        yield Solved(make_problem(question_of(row, config.question_field), gold), solution)


def _solution_of(row: Row, field: str | None) -> tuple[str, str]:
    """Solution and gold answer of a row: what the solution marks, else the field `answer`, else what it states."""
    where, fields = row
    advice = "a baseline needs right answers. Name their field with --solution-field"
    name, value = named(row, field, SOLUTION_FIELDS, advice)
    turns = turns_of(row, name, value)
    if turns is not None:
        value = last_turn(row, name, turns, "assistant")
    text = as_gold(row, name, value) if isinstance(value, int | float) else checked_text(row, name, value).strip()
    gold = marked_gold(row, name, text)
    if gold is None and name != "answer" and "answer" in fields:
        gold = as_gold(row, "answer", fields["answer"])
    gold = gold or stated_answer(text) or (None if is_prose(text) else text)
    if gold is None:
        raise DataError(
            f"{where}: {name} is {short(text)}, a solution without a marked answer, so no answer can be checked. Mark "
            "it with #### or \\boxed{}, or give it in a field answer"
        )
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
