"""Twenty thousand problems, ten kills, and memory that does not grow."""

import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from .harness import commits, count, rows, start, wait_for

QUESTIONS, BATCH, KILLS = 20_000, 400, 10
GROWTH = 64 << 20  # bytes


@pytest.mark.slow
def test_twenty_thousand_problems_with_ten_kills_in_flat_memory(tmp_path: Path) -> None:
    arguments = (
        "sample", "--expert", "miniature/expert", "--amateur", "miniature/small", "--dataset", "arithmetic",
        "--max-questions", QUESTIONS, "--max-new-tokens", 2, "--batch-size", BATCH, "--dtype", "float32",
        "--divergence-beta", "none", "--out",
    )  # fmt: skip
    out, chance, batches = tmp_path / "run", random.Random(20_000), QUESTIONS // BATCH
    for _ in range(KILLS):
        command = start(*arguments, out)
        wanted = len(commits(out / "sample")) + chance.randint(1, 3)
        wait_for(lambda wanted=wanted: len(commits(out / "sample")) >= wanted, command)  # type: ignore[misc]
        time.sleep(chance.random() * 0.2)
        command.send(signal.SIGKILL)
        assert command.end().code == -signal.SIGKILL
    assert len(commits(out / "sample")) < 0.8 * batches
    command = start(*arguments, out)
    process, sizes = psutil.Process(command.pid), []
    while command.code is None:
        sizes.append((len(commits(out / "sample")), process.memory_info().rss))
        time.sleep(0.05)
    assert command.end(10).code == 0
    begun = sizes[0][0]
    early = max(size for done, size in sizes if done <= begun + (batches - begun) // 4)
    late = max(size for done, size in sizes if done > begun + (batches - begun) // 2)
    print(f"resident memory: {early / 1e6:.0f} MB in the first quarter, {late / 1e6:.0f} MB in the second half")
    assert late - early < GROWTH
    questions = [row["question_id"] for row in rows(out / "sample", "rollouts")]
    count(rows=QUESTIONS, rows_lost=QUESTIONS - len(set(questions)), rows_doubled=len(questions) - len(set(questions)))
    assert len(questions) == len(set(questions)) == QUESTIONS
    assert len(rows(out / "sample", "steps")) == sum(len(row["kl"]) for row in rows(out / "sample", "rollouts"))
    count(survived=KILLS)
