"""Baselines as training data in the format of stage 1: the paper's, and those that use no gold answers.

A baseline differs from the method in its training data alone: `lightr finetune` takes these folders like samples.
`samples.answers` has what they share and those that use gold answers, `samples.label_free` the others.

Writes `OUT/sample/`, see `samples.folder`; without divergences, since no amateur is involved.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from lightreasoner.config import BaselineConfig
from lightreasoner.config.sections import BATCH_SIZES, LABEL_FREE, BaselineKind
from lightreasoner.data.fields import check_choices, checked_text, last_answer, named, question_of, turns_of
from lightreasoner.data.generated import GENERATORS
from lightreasoner.data.golds import as_gold, checked_gold, is_prose, marked_gold
from lightreasoner.data.lines import Row, short
from lightreasoner.data.problems import load_problems, make_problem, read_dataset
from lightreasoner.data.rows import gsm8k_gold
from lightreasoner.errors import DataError
from lightreasoner.grading.extraction import last_boxed, stated_answer
from lightreasoner.grading.verdicts import VERDICTS
from lightreasoner.inference.engines import Served, served_by
from lightreasoner.inference.memory import worker_devices
from lightreasoner.models import loading
from lightreasoner.models.prompts import PromptTemplate, Stops
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.runs.locks import one_thread
from lightreasoner.runs.owning import run_shared
from lightreasoner.runs.progress import say
from lightreasoner.runs.sharing import Sharing
from lightreasoner.runs.stage import StageFolder, settle
from lightreasoner.runs.tracking import check_trackers, track_result
from lightreasoner.samples.answers import OwnRightAnswers, Solved, WrittenSolutions, answer_kind
from lightreasoner.samples.card import open_samples
from lightreasoner.samples.folder import Baseline
from lightreasoner.samples.label_free import (
    Disagreements,
    HintedLabels,
    MajorityVote,
    RawSamples,
    disagreements,
    remove_votes,
    voted,
)

SOLUTION_FIELDS = ("solution", "answer", "response", "output", "completion", "messages", "conversations")
TRAJECTORIES_PER_STEP = 16  # Table 10: 4 × 4


@one_thread
def baseline(config: BaselineConfig) -> dict[str, Any]:
    """Make a baseline's training data for `lightr finetune`: whole answers, without a contrast.

    Returns:
        Counts, and the settings of `lightr finetune` that make the paper's SFT: one epoch in steps of 16 answers.

    Raises:
        LightReasonerError: see `errors`; what was committed stays.
    """
    answer_kind(config)  # refuses one that means nothing, before work begins
    source = find_model(config.model, config.model_revision)

    def devices() -> list[str]:
        return worker_devices(config, config, loading.weight_bytes([source], config))

    check_trackers(config.report_to)
    result = run_shared(config, "samples.baselines:baseline", partial(_baseline, source), devices)
    track_result(config, config.out, "baseline", result)
    return result


def _baseline(source: ModelSource, config: BaselineConfig, sharing: Sharing) -> dict[str, Any]:
    config = sharing.with_precision(config, "sample")
    asked_at = sharing.prompts_time(config.out, "sample")
    template = PromptTemplate(loading.load_tokenizer(source, config), config.cue, config.chat_template, at=asked_at)
    stops = template.stops(loading.load_generation_config(source), config.stop_strings)
    if config.dataset in GENERATORS and config.max_questions is None:
        raise DataError(f"{config.dataset} problems are generated without end; say how many with --max-questions")
    served = served_by(config, source, template.tokenizer, config.out)
    solved = _problems(config)
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
    with open_samples(config.out, "sample", made, say, asked_at, sharing) as stage:
        if stage.result is not None:
            if not sharing.joins:
                remove_votes(config.out)  # a stop after `finish` leaves them
            return stage.result
        work = BASELINES[config.kind](config, served, template, stops)
        size = config.batch_size or max(1, BATCH_SIZES[config.engine] // (config.samples_per_problem or 1))
        votes: StageFolder | None = None
        with closing(served):
            if isinstance(work, Disagreements):
                votes = voted(made, asked_at, work, solved, size, sharing)
                rows = disagreements(votes)
                settle(stage, rows, size, HintedLabels(config, served, template), total=len(rows))
            else:
                settle(stage, solved, size, work, total=len(solved))
        if sharing.joins:
            return {}
        counts = {**(votes.counts if votes else {}), **stage.counts}
        if not counts.get("answers_kept"):
            for each in filter(None, (stage, votes)):
                each.release()
            raise DataError(_why_none_is_kept(counts, config))
        result = stage.finish({**counts, "finetune": sft_settings(counts["labels"], counts["answers_kept"])})
        remove_votes(config.out)
        return result


def _problems(config: BaselineConfig) -> list[Solved]:
    """The problems, each once; without answers and solutions for a baseline that uses none."""
    if config.kind not in LABEL_FREE:
        return list(distinct(solved_problems(config), config.max_questions))
    found = load_problems(
        config.dataset,
        limit=config.max_questions,
        seed=config.seed,
        data_dir=config.data_dir,
        question_field=config.question_field,
    )
    return [Solved(make_problem(problem.question), "") for problem in found.problems]


def _why_none_is_kept(counts: Mapping[str, int], config: BaselineConfig) -> str:
    """Why no answer was kept, and what helps."""
    if config.kind == "ground-truth":
        return f"all {counts['questions']} solutions are empty; there is nothing to learn from. Give other data"
    if counts["prompt_too_long"] == counts["questions"]:
        who = f"all {counts['questions']} questions are" if counts["questions"] > 1 else "the question is"
        return f"{who} longer than the model's context. Give shorter questions or another model"
    if config.kind in LABEL_FREE:
        return f"{_why_no_label(counts, config)}, so there is nothing to learn from. {_advice(counts, config)}"
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return (
        f"none of {counts['questions']} answers is right and complete ({verdicts}; {counts['truncated']} cut off at "
        f"--max-new-tokens), so there is nothing to learn from. {_advice(counts, config)}"
    )


def _why_no_label(counts: Mapping[str, int], config: BaselineConfig) -> str:
    """Why samples without gold answers give no label."""
    questions = counts["questions"]
    if "samples" not in counts:
        return f"all {questions} samples are empty"
    if counts["problems_without_majority"] == questions:
        return (
            f"none of {questions} problems has a majority: {counts['samples_without_vote']} of {counts['samples']} "
            f"samples have no answer or no end ({counts['truncated']} cut off at --max-new-tokens), and --consensus is "
            f"{config.consensus:g}"
        )
    return (
        f"no sample can be corrected: of {questions} problems {counts['problems_without_majority']} have no majority, "
        f"{counts['problems_unanimous']} no complete sample against it, and {counts.get('hint_too_long', 0)} do not "
        "fit into the context with the hint"
    )


def _advice(counts: Mapping[str, int], config: BaselineConfig) -> str:
    """What helps where no answer was kept."""
    if counts["truncated"] == counts.get("samples", counts["questions"]):
        return f"Raise --max-new-tokens {config.max_new_tokens}, or check the stop tokens of the model"
    if config.kind not in LABEL_FREE:
        return "Choose a model that solves some of these problems"
    if counts.get("problems_unanimous"):
        return "Raise --temperature, or give harder problems"
    return (
        "Check that the cue asks for a marked answer, or lower --consensus" if "samples" in counts else "Check the cue"
    )


def sft_settings(labels: int, answers: int) -> dict[str, int]:
    """Settings of `lightr finetune` for one epoch in steps of 16 answers (Table 10), counted in labels."""
    labels_per_step = max(1, round(TRAJECTORIES_PER_STEP * labels / answers))
    return {
        "steps": max(1, labels // labels_per_step),
        "labels_per_step": labels_per_step,
        "labels_per_forward": labels,  # all labels of an answer share a forward pass
    }


# A baseline is one class and one line here.
BASELINES: Mapping[BaselineKind, Callable[[BaselineConfig, Served, PromptTemplate, Stops], WrittenSolutions]] = {
    "rejection-sft": OwnRightAnswers,
    "ground-truth": WrittenSolutions,
    "self-training": RawSamples,
    "sept": RawSamples,
    "majority-vote": MajorityVote,
    "u-opsd": Disagreements,  # then `HintedLabels`
    "entropy-minimisation": RawSamples,
}


# --- Problems with solutions ---


def solved_problems(config: BaselineConfig) -> Iterator[Solved]:
    """All problems of a data set, as often as they come; those of a generator end never."""
    if generator := GENERATORS.get(config.dataset):
        for generated in generator.problems("train", config.seed):
            yield Solved(make_problem(generated.question, generated.answer), generated.solution)
    for row in read_dataset(config.dataset, "train", config.data_dir):
        solution, gold = _solution_of(row, config.solution_field)
        if config.dataset == "gsm8k" and config.solution_field is None:
            gold = gsm8k_gold(row)
        gold = checked_gold(row[0], gold, answer_kind(config))
        question = question_of(row, config.question_field)
        check_choices(row, question, config.question_field)
        yield Solved(make_problem(question, gold), solution)


def _solution_of(row: Row, field: str | None) -> tuple[str, str]:
    """Solution and gold answer of a row: what the solution marks, else the field `answer`, else what it states."""
    where, fields = row
    advice = "a baseline needs right answers. Name their field with --solution-field"
    name, value = named(row, field, SOLUTION_FIELDS, advice)
    turns = turns_of(row, name, value)
    if turns is not None:
        value = last_answer(row, name, turns)
    text = as_gold(row, name, value) if isinstance(value, int | float) else checked_text(row, name, value).strip()
    marked = gold = marked_gold(row, name, text)
    # Several lines behind #### may be a section of the solution under its heading.
    if (gold is None or "\n" in gold) and name != "answer" and "answer" in fields:
        gold = as_gold(row, "answer", fields["answer"])
    gold = gold or stated_answer(text) or (None if is_prose(text) else text)
    if gold is None:
        raise DataError(
            f"{where}: {name} is {short(text)}, a solution without a marked answer, so no answer can be checked. Mark "
            "it with #### or \\boxed{}, or give it in a field answer"
        )
    # GSM8K writes <<48/2=24>> for a calculator, and #### before the answer where the cue asks for a box.
    text = re.sub(r"<<[^<>]*>>", "", text)
    before, mark, behind = text.rpartition("####")
    if mark and marked == gold and last_boxed(text) is None and behind.strip().startswith(gold):
        text = f"{before}\\boxed{{{marked}}}{behind.strip().removeprefix(marked)}"
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
