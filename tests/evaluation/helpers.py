"""Evaluations and toolkit files that several tests use."""

import json
from pathlib import Path
from typing import Any

from lightreasoner.config import EvaluateConfig
from lightreasoner.evaluation.choices import summarise_choices
from lightreasoner.evaluation.judging import read_judged
from lightreasoner.runs.records import Answer, JudgedAnswer, ScoredChoices
from lightreasoner.runs.stage import open_stage, read_stage


def config_for(out: Path, model: str = "miniature/expert", **settings: object) -> EvaluateConfig:
    common = {"benchmarks": ("arithmetic",), "max_items": 60, "max_answer_tokens": 64, "dtype": "float32"}
    return EvaluateConfig(model=model, out=out, **{**common, **settings})  # type: ignore[arg-type]


def answers(out: Path, key: str = "chat/arithmetic") -> dict[tuple[str, int], Answer]:
    _, stage = read_stage(out / key / "answers")
    rows = (row for table in stage.tables("answers") for row in Answer.rows(table))
    return {(row.question_id, row.sample): row for row in rows}


def verdicts(
    out: Path, key: str = "chat/arithmetic", judge: str = "math-verify"
) -> dict[tuple[str, int], JudgedAnswer]:
    _, stage = read_stage(out / key / judge)
    rows = (row for table in stage.tables("verdicts") for row in JudgedAnswer.rows(table))
    return {(row.question_id, row.sample): row for row in rows}


ITEMS = 12


def rows_of(evaluation: Path, judge: str = "toolkit") -> list[tuple[Answer, JudgedAnswer]]:
    place = evaluation / "chat" / "arithmetic"
    _, answers = read_stage(place / "answers")
    _, verdicts = read_stage(place / judge)
    judged = {(row.question_id, row.sample): row for row in read_judged(verdicts)}
    rows = (row for table in answers.tables("answers") for row in Answer.rows(table))
    return sorted(((row, judged[row.question_id, row.sample]) for row in rows), key=lambda pair: pair[0].question_id)


def line(idx: int = 0, **fields: Any) -> dict[str, Any]:
    """A problem as the toolkit writes it."""
    common = {"idx": idx, "question": f"What is {idx} + 1?", "gt_cot": "None", "gt": str(idx + 1)}
    graded = {"code": [f"It is \\boxed{{{idx + 1}}}."], "pred": [str(idx + 1)], "report": [None], "score": [True]}
    return {**common, **graded, **fields}


def write(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(fields) + "\n" for fields in lines))
    return file


def choices(out: Path, name: str = "arc_challenge") -> list[ScoredChoices]:
    """A likelihood evaluation of three items, made without a model."""
    rows = [
        ScoredChoices(f"{place:05d}-x", f"Question {place}\nAnswer:", ["no", "certainly"], place % 2, [-2.0, -3.0])
        for place in (2, 0, 1)
    ]
    with open_stage(out, f"likelihood/{name}/choices", {"model": "m", "dtype": "float32"}) as stage:
        stage.commit([row.question_id for row in rows], {"choices": ScoredChoices.table(rows)}, {})
        stage.finish({**summarise_choices(name, stage), "items_known": None})
    return rows


def as_toolkit_file(evaluation: Path, file: Path) -> Path:
    """The evaluation as the toolkit would have written it."""
    return write(
        file,
        *(
            line(
                int(answer.question_id[:5]),
                question=answer.question,
                gt=answer.gold,
                code=[answer.output],
                pred=[verdict.extracted or ""],
                score=[verdict.verdict == "correct"],
            )
            for answer, verdict in rows_of(evaluation)
        ),
    )
