"""Twenty thousand problems with ten kills in constant memory."""

import json
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
    # All prompts have one length, because batches are sorted by length and longer prompts take more memory.
    numbers = random.Random(0).sample(range(100_000, 1_000_000), QUESTIONS)
    questions = [f"A farm keeps {n // 1000} hens. {n % 1000:03} are born. How many hens are there?" for n in numbers]
    problems = tmp_path / "problems.jsonl"
    problems.write_text("".join(json.dumps({"question": question}) + "\n" for question in questions))
    arguments = (
        "sample", "--expert", "miniature/expert", "--amateur", "miniature/small", "--dataset", problems,
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
    found = [row["question"] for row in rows(out / "sample", "rollouts")]
    count(rows=QUESTIONS, rows_lost=QUESTIONS - len(set(found)), rows_doubled=len(found) - len(set(found)))
    assert sorted(found) == sorted(questions)
    assert len(rows(out / "sample", "steps")) == sum(len(row["kl"]) for row in rows(out / "sample", "rollouts"))
    count(survived=KILLS)
