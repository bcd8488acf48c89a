"""Run folders with artificial rows: any text, any number of rollouts, no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from lightreasoner.config import SampleConfig
from lightreasoner.data.benchmarks import BENCHMARKS, Benchmark
from lightreasoner.evaluation.judging import summarise
from lightreasoner.runs.records import Answer, JudgedAnswer
from lightreasoner.runs.stage import open_stage
from lightreasoner.samples.folder import Label, Rollout, Sampled

BETA, ALPHA, TOP = 0.4, 0.2, 5


def fake_rollout(
    number: int, question: str, response: Sequence[int], size: int, rng: np.random.Generator
) -> tuple[Rollout, list[Label]]:
    """A rollout with plausible random statistics, and the labels of the steps above β."""
    length = len(response)
    kl = np.minimum(rng.gamma(0.35, 1.2, length), 9).astype(np.float32)
    tops = {}
    for name in ("expert", "amateur"):
        ids = np.argsort(rng.random((length, min(size, 400))), axis=1)[:, :TOP] + rng.integers(max(size - 400, 1))
        logprobs = np.sort(np.log(rng.dirichlet([0.3] * (TOP + 1), length) + 1e-6)[:, :TOP], axis=1)[:, ::-1]
        tops |= {f"{name}_top_ids": ids.tolist(), f"{name}_top_logprobs": logprobs.astype(np.float32).tolist()}
    entropies = [rng.random(length).astype(np.float32).tolist() for _ in range(2)]
    taken = [(-rng.exponential(1, length)).astype(np.float32).tolist() for _ in range(2)]
    question_id = f"q{number:05d}"
    rollout = Rollout(
        question_id, question, [1, 2, 3], list(response), number % 7 != 0, kl.tolist(), *entropies, *taken, **tops
    )
    steps = []
    for position in np.flatnonzero(kl > BETA).tolist():
        top = np.array(tops["expert_top_logprobs"][position])
        inside = np.flatnonzero(np.exp(top - top[0]) >= ALPHA)
        inside = sorted(inside.tolist(), key=lambda place: tops["expert_top_ids"][position][place])
        weights = rng.dirichlet([1.0] * len(inside))
        steps.append(
            Label(
                question_id, position, [tops["expert_top_ids"][position][place] for place in inside], weights.tolist(),
                [float(top[place]) for place in inside], (-rng.exponential(2, len(inside))).tolist(),
            )
        )  # fmt: skip
    return rollout, steps


def write_samples(
    run: Path,
    rows: Sequence[tuple[Rollout, list[Label]]],
    tokenizer: PreTrainedTokenizerFast | None,
    *,
    per_shard: int = 32,
    beta: float | None = BETA,
    **changes: Any,
) -> None:
    """Write a finished sample stage with these rows, and the tokenizer of the merged model."""
    facts: dict[str, Any] = {"expert": "an/expert", "amateur": "an/amateur", "dataset": "made up"}
    facts |= {name: changes.pop(name) for name in facts if name in changes}
    made = Sampled(
        **facts,
        **{name: {} for name in ("expert_files", "amateur_files", "asked")},
        questions_sha256="0" * 64,
        cue="",
        questions=len(rows),
        beta=beta,
        alpha=ALPHA,
        settings=SampleConfig(**facts, cue="", out=run, **changes),
        dtype="float32",
    )
    with open_stage(run, "sample", made.fingerprint(), record=made.model_dump(mode="json")) as stage:
        for start in range(0, len(rows), per_shard):
            shard = rows[start : start + per_shard]
            tables = {
                "rollouts": Rollout.table([rollout for rollout, _ in shard]),
                "steps": Label.table([step for _, steps in shard for step in steps]),
            }
            stage.commit([rollout.question_id for rollout, _ in shard], tables, {"questions": len(shard)})
        stage.finish({"questions": len(rows)})
    if tokenizer is not None:
        tokenizer.save_pretrained(run / "merged")


def fake_answer(
    number: int, question: str, output: str, ids: Sequence[int], *, is_right: bool, finish: str = "stop"
) -> tuple[Answer, JudgedAnswer]:
    """An answer to an item, and its verdict."""
    answer = Answer(f"q{number:05d}", 0, "arithmetic", question, str(number), [1], list(ids), output, finish)
    return answer, JudgedAnswer(answer.question_id, 0, output[:40], None, "correct" if is_right else "wrong")


def write_evaluation(folder: Path, rows: Sequence[tuple[Answer, JudgedAnswer]]) -> None:
    """Write a finished evaluation on the arithmetic benchmark with these answers and verdicts."""
    benchmark = BENCHMARKS["arithmetic"]
    assert isinstance(benchmark, Benchmark)
    answers, verdicts = [answer for answer, _ in rows], [verdict for _, verdict in rows]
    ids = [answer.question_id for answer in answers]
    how = {"decoding": {"max_answer_tokens": 64}}
    with open_stage(folder, "chat/arithmetic/answers", {"model": "a/model", "how": how}) as answered:
        counts = {"answers": len(rows), "prompt_too_long": 0, "tokens": sum(len(one.output_ids) for one in answers)}
        counts["truncated"] = sum(one.finish == "length" for one in answers)
        answered.commit(ids, {"answers": Answer.table(answers)}, counts)
        answered.finish({"items": len(rows)})
    with open_stage(folder, "chat/arithmetic/math-verify", {"answers": answered.digest, "how": {}}) as judged:
        names = ("correct", "wrong", "no_answer", "timeout", "grader_error")
        counted = {name: sum(one.verdict == name for one in verdicts) for name in names}
        judged.commit([f"{name}/0" for name in ids], {"verdicts": JudgedAnswer.table(verdicts)}, counted)
        judged.finish({**summarise(benchmark, answered, judged, 1), "items_known": None})
