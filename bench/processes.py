"""Parts of `speed.py` that measure whole processes: workers, residency, and the script of a peer.

Time is wall time from start to end, Python and the loading of models included; the variants of a part run in turns.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import memory
import models

from lightreasoner.runs.stage import read_stage

LIGHTR = (sys.executable, "-m", "lightreasoner.cli")


class Run(NamedTuple):
    """Wall time, and the peak resident memory of the process or of the largest of its children."""

    seconds: float
    peak_gib: float


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=int, default=128, help="questions of a whole process")
    parser.add_argument("--job-steps", type=int, default=100, help="optimiser steps of our default job beside a peer's")
    parser.add_argument("--peer-command", help="a peer's script with its arguments; {out} is a new folder")
    parser.add_argument(
        "--our-command",
        action="append",
        help="the same job of ours, such as `sample … --out {out}`; repeat it for several commands in a row. By "
        "default sampling and fine-tuning of --pair",
    )


def measure_workers(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Two workers of one thread against one of one thread: sampling and evaluation."""
    tasks = {"sampling": sampling_of(options), "evaluation": evaluation_of(options)}
    one_thread = {"OMP_NUM_THREADS": "1"}
    return {
        task: skipped(command[0], "--workers")
        or in_turns(
            options.runs,
            {
                f"{count} workers": lambda out, command=command, count=count: [
                    [*LIGHTR, *command, "--workers", str(count), "--out", f"{out}/run"]
                ]
                for count in (1, 2)
            },
            one_thread,
        )
        for task, command in tasks.items()
    }


def measure_residency(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Expert and amateur together in memory, or one after the other: time, peak memory, and whether rows are equal."""
    command = sampling_of(options)
    digests: dict[str, set[str]] = {}

    def keep_digest(name: str, out: Path) -> None:
        digests.setdefault(name, set()).add(read_stage(out / "run" / "sample")[1].digest)

    found = skipped("sample", "--residency") or in_turns(
        options.runs,
        {
            name: lambda out, name=name: [[*LIGHTR, *command, "--residency", name, "--out", f"{out}/run"]]
            for name in ("together", "sequential")
        },
        {"OMP_NUM_THREADS": str(options.threads)},
        keep_digest,
    )
    return {"sampling": found if "skipped" in found else {**found, "same_rows": len(set.union(*digests.values())) == 1}}


def measure_peer(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """A peer's script against the same job of ours."""
    default = [
        shlex.join([*sampling_of(options), "--out", "{out}/run"]),
        shlex.join(
            [
                *("finetune", "--model", pair_of(options)[0], "--data", "{out}/run", "--out", "{out}/run"),
                *("--steps", str(options.job_steps), "--dtype", options.dtype),
            ]
        ),
    ]
    ours = [[*LIGHTR, *shlex.split(command)] for command in options.our_command or default]
    peer = [shlex.split(options.peer_command)]

    def placed(commands: Sequence[Sequence[str]]) -> Callable[[Path], list[list[str]]]:
        return lambda out: [[part.replace("{out}", str(out)) for part in command] for command in commands]

    found = in_turns(options.runs, {"peer": placed(peer), "ours": placed(ours)}, {})
    return {"job": {**found, "peer_command": options.peer_command, "our_command": options.our_command or default}}


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    print("\n| | s, first | s, second | ratio | peak GiB, first | second | n |\n|---|--:|--:|--:|--:|--:|--:|")
    for task, row in found.items():
        if "skipped" in row:
            print(f"| {task} | skipped: {row['skipped']} | | | | | |")
            continue
        (first, second), seconds, peaks = row["seconds"], row["seconds"], row["peak_gib"]
        print(
            f"| {task}: {first}, {second} | {statistics.median(seconds[first]):.1f} "
            f"| {statistics.median(seconds[second]):.1f} | {row['ratio']:.2f} | {max(peaks[first]):.2f} "
            f"| {max(peaks[second]):.2f} | {len(seconds[first])}, {len(seconds[second])} |"
        )
        if "same_rows" in row:
            print(f"\nRows are {'the same' if row['same_rows'] else 'different'}.")


def in_turns(
    runs: int,
    variants: Mapping[str, Callable[[Path], list[list[str]]]],
    environment: Mapping[str, str],
    look: Callable[[str, Path], None] = lambda name, out: None,
) -> dict[str, Any]:
    """Run two variants in turns, each time in a new folder; the ratio is of the first median to the second.

    Args:
        runs: turns of each.
        variants: the commands of a variant, one after the other, for a folder.
        environment: variables beside those of this process.
        look: called with the name and folder of each finished run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(runs):
        for name, commands in variants.items():
            with tempfile.TemporaryDirectory() as folder:
                parts = [run(command, environment) for command in commands(Path(folder))]
                look(name, Path(folder))
            seconds[name].append(sum(part.seconds for part in parts))
            peaks[name].append(max(part.peak_gib for part in parts))
    first, second = (statistics.median(values) for values in seconds.values())
    return {"seconds": seconds, "peak_gib": peaks, "ratio": first / second}


def run(command: Sequence[str], environment: Mapping[str, str]) -> Run:
    """Run one command without a shell."""
    with tempfile.TemporaryDirectory() as folder:
        report, output = Path(folder, "report.json"), Path(folder, "output")
        starter = [sys.executable, "-I", "-S", memory.__file__, str(report)]  # its own small peak is all that counts
        with output.open("wb") as stream:
            done = subprocess.run(
                [*starter, *command], stdout=stream, stderr=stream, env={**os.environ, **environment}, check=False
            )
        if done.returncode:
            end = output.read_text(errors="replace")[-2000:]
            raise SystemExit(f"{shlex.join(command)} ended with exit code {done.returncode}:\n{end}")
        found = json.loads(report.read_text())
    return Run(found["seconds"], found["peak"] / 2**30)


@cache
def skipped(command: str, flag: str) -> dict[str, str]:
    """Why a command cannot be measured with this flag; empty if it can."""
    shown = subprocess.run([*LIGHTR, command, "--help"], capture_output=True, text=True, check=True).stdout
    return {} if flag in shown else {"skipped": f"`lightr {command}` has no {flag} in this version"}


def pair_of(options: argparse.Namespace) -> tuple[str, str]:
    """Names or folders of expert and amateur; random shapes have none."""
    if options.pair.startswith("qwen"):
        raise SystemExit(f"--pair {options.pair} exists in memory only; give --pair smollm2 or miniature")
    return models.sources(options.pair)


def sampling_of(options: argparse.Namespace) -> list[str]:
    expert, amateur = pair_of(options)
    return [
        *("sample", "--expert", expert, "--amateur", amateur, *data_of(options, "--dataset")),
        *("--max-questions", str(options.questions), "--batch-size", str(options.batch), "--dtype", options.dtype),
    ]


def evaluation_of(options: argparse.Namespace) -> list[str]:
    return [
        *("evaluate", "--model", pair_of(options)[0], *data_of(options, "--benchmarks")),
        *("--max-items", str(options.questions), "--answer-batch-size", str(options.batch), "--dtype", options.dtype),
        *("--max-answer-tokens", "128"),
    ]


def data_of(options: argparse.Namespace, flag: str) -> list[str]:
    folder = ["--data-dir", str(options.data_dir)] if options.data_dir else []
    return [flag, "arithmetic" if options.pair == "miniature" else "gsm8k", *folder]
