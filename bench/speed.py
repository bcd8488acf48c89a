"""Speed of our stages compared with a naive implementation (`naive.py`), in one run on one machine.

    python bench/speed.py --pair smollm2 --data-dir DIR --dtype auto
    python bench/speed.py --parts decoding workers residency --dtype auto --data-dir DIR

The part `job` compares with the naive way, in turns; ratios are of medians. Other parts: `gemm.py`, `processes.py`,
`throughput.py`.
"Of GEMM" is the share of the speed of the model's own linear layers on as many rows, measured in the same run;
attention, norms, Python and the rest take the remaining time. FLOPs count linear layers only: 2 per weight and token
forward, and 2 more for the gradient of the input.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gemm
import models
import naive
import numpy as np
import processes
import throughput
import torch
from gemm import gemm_rate, linear_weights, timed
from memory import peak_resident
from ours import ALPHA, BETA, LABELS_PER_STEP, Ours, OurTraining, labels_of, with_optimizer
from throughput import time_stages

from lightreasoner.config.sections import FinetuneSettings
from lightreasoner.models.vocabulary import logit_width
from lightreasoner.samples.folder import Ragged, Shard
from lightreasoner.training.batches import LabelSet
from lightreasoner.training.finetuning import tokens_per_micro_batch


def naive_steps(labels: LabelSet, chosen: Sequence[int], width: int) -> list[naive.NaiveStep]:
    """These labels with dense targets, [width]."""
    steps = []
    for label in chosen:
        ids, weights = labels.label(label)
        dense = torch.zeros(width)
        dense[torch.from_numpy(ids)] = torch.from_numpy(weights)
        prefix = labels.prefix(label, int(labels.prefix_length[label])).tolist()
        steps.append(naive.NaiveStep(prefix, 0.0, dense))
    return steps


def measure_sampling(
    measured: models.Measured, plain: models.Measured, options: argparse.Namespace
) -> tuple[dict[str, Any], list[Any]]:
    batch, ours = options.batch, Ours(measured)
    ordered = sorted(measured.prompts, key=len)
    batches = [ordered[start : start + batch] for start in range(0, len(ordered), batch)][: options.runs]
    ours(batches[0][:2])
    plain_seconds, our_seconds, shards = [], [], []
    parts: dict[str, list[float]] = {
        name: [] for name in ("decoding", "scoring", "contrast", "decoding_of_gemm", "scoring_of_gemm")
    }
    difference, flips, compared, naive_steps_made, response_tokens = 0.0, 0, 0, 0, 0
    for prompts in batches:
        seconds, shard = timed(lambda prompts=prompts: ours(prompts))
        our_seconds.append(seconds / len(prompts))
        shards.append(shard)
        divergences, responses = (shard.rollouts[name].to_pylist() for name in ("kl", "response_ids"))
        middle = len(prompts) // 2  # the prompt of median length in its batch
        for place in range(middle, middle + options.naive_questions):
            seconds, steps = timed(
                lambda prompt=prompts[place]: naive.sample_question(
                    plain.pair.expert,
                    plain.pair.amateur,
                    prompt,
                    measured.max_new_tokens,
                    measured.stop_ids,
                    BETA,
                    ALPHA,
                )
            )
            plain_seconds.append(seconds)
            naive_steps_made += len(steps)
            prefixes = [prompts[place] + responses[place][:length] for length in range(len(responses[place]))]
            # In another precision two rollouts part where two tokens are almost equally probable.
            same = [
                (a, step.kl)
                for a, prefix, step in zip(divergences[place], prefixes, steps, strict=False)
                if prefix == step.prefix
            ]
            difference = max(difference, *(abs(a - b) for a, b in same))
            flips += sum((a > BETA) != (b > BETA) for a, b in same)
            compared += len(same)
        found, _ = time_stages(measured, ours, prompts)
        response_tokens += found["response_tokens"]
        for name, values in parts.items():
            values.append(found[name] / (1 if name.endswith("of_gemm") else len(prompts)))
    row = {
        "naive_seconds_per_question": plain_seconds,
        "our_seconds_per_question": our_seconds,
        "ratio": statistics.median(plain_seconds) / statistics.median(our_seconds),
        "questions_ours": sum(len(shard.rollouts) for shard in shards),
        "questions_naive": len(plain_seconds),
        "batch": batch,
        "response_tokens": response_tokens,
        "parts": parts,
        "largest_kl_difference": difference,
        "kept_differently": flips,
        "steps_compared": compared,
        "naive_steps": naive_steps_made,
    }
    return row, shards


def measure_training(
    measured: models.Measured, plain: models.Measured, shards: list[Shard], options: argparse.Namespace
) -> dict[str, Any]:
    pair = measured.pair
    labels = labels_of(shards)
    with_lora, optimizer = with_optimizer(pair.expert)
    of_plain = with_lora, optimizer
    if plain is not measured:
        of_plain = with_optimizer(plain.pair.expert)
    body, head = linear_weights(pair.expert)
    generator = torch.Generator().manual_seed(0)

    def naive_labels() -> list[naive.NaiveStep]:
        chosen = torch.randint(len(labels), (LABELS_PER_STEP,), generator=generator).tolist()
        return naive_steps(labels, chosen, logit_width(pair.expert))

    sizes = {"1": 1, str(options.labels_per_forward): options.labels_per_forward, "all": 10**6}
    ours = {name: OurTraining(pair.expert, pair.vocabulary, labels, size) for name, size in sizes.items()}
    for training in ours.values():
        training(with_lora, optimizer)
        training.tokens = 0
    seconds: dict[str, list[float]] = {name: [] for name in ["naive", *ours]}
    per_turn = -(-options.steps // options.runs)
    tokens = tokens_per_micro_batch(pair.expert.device)
    gemm: list[float] = []
    for _ in range(options.runs):
        gemm.append(gemm_rate(pair.expert, tokens, 0, backward=True))
        chosen = naive_labels()
        seconds["naive"].append(timed(lambda chosen=chosen: naive.train_step(*of_plain, chosen))[0])
        for name, training in ours.items():
            for _ in range(per_turn):
                seconds[name].append(timed(lambda training=training: training(with_lora, optimizer))[0])
    row: dict[str, Any] = {
        "labels": len(labels),
        "gemm_gflops": [rate / 1e9 for rate in gemm],
        "naive_seconds_per_step": seconds["naive"],
    }
    for name, training in ours.items():
        steps = len(seconds[name])
        flop = 4 * (body * training.tokens / steps + head * LABELS_PER_STEP)
        middle = statistics.median(seconds[name])
        row[f"m={name}"] = {
            "seconds_per_step": seconds[name],
            "ratio": statistics.median(seconds["naive"]) / middle,
            "tokens_per_label": training.tokens / steps / LABELS_PER_STEP,
            "of_gemm": flop / statistics.fmean(seconds[name]) / statistics.fmean(gemm),
        }
    return row


def peak_memory(task: str, arguments: list[str]) -> float:
    """Peak resident memory of one part in a separate process, GiB."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, task, arguments).result()


def _peak(task: str, arguments: list[str]) -> float:
    options = parsed(arguments)
    measured = prepared(options, "float32" if task.endswith("naive") else options.dtype)
    pair = measured.pair
    longest = sorted(measured.prompts, key=len)[-options.batch :]
    if task == "sampling, naive":
        naive.sample_question(
            pair.expert, pair.amateur, longest[-1], measured.max_new_tokens, measured.stop_ids, BETA, ALPHA
        )
    elif task == "sampling, ours":
        Ours(measured)(longest)
    else:
        object.__setattr__(pair, "amateur", None)  # fine-tuning needs the expert only
        labels = some_labels(longest, measured.max_new_tokens)
        with_lora, optimizer = with_optimizer(pair.expert)
        if task == "fine-tuning, ours":
            OurTraining(pair.expert, pair.vocabulary, labels, 1)(with_lora, optimizer)
        else:
            chosen = range(len(labels) - LABELS_PER_STEP, len(labels))
            naive.train_step(with_lora, optimizer, naive_steps(labels, chosen, logit_width(pair.expert)))
    return peak_resident() / 2**30


def some_labels(prompts: Sequence[list[int]], length: int) -> LabelSet:
    """Artificial labels for memory measurements, one in the middle of each text and one at its end."""
    texts = [np.array([*prompt, *prompt * (length // len(prompt) + 1)], np.int64) for prompt in prompts]
    ends = [len(prompt) + length for prompt in prompts]
    places = [place for end in ends for place in (end - length // 2, end)]
    return LabelSet(
        texts=Ragged.of_lengths(np.concatenate(texts), [len(text) for text in texts]),
        text_of=np.repeat(np.arange(len(texts)), 2),
        prefix_length=np.array(places),
        token_ids=Ragged.of_lengths(np.tile([1, 2, 3], len(places)), [3] * len(places)),
        weights=Ragged.of_lengths(np.tile(np.float32([0.5, 0.25, 0.25]), len(places)), [3] * len(places)),
        skipped=0,
    )


def prepared(options: argparse.Namespace, dtype: str) -> models.Measured:
    torch.set_num_threads(options.threads)
    count = max(options.batch * options.runs, 64)
    return models.ready(options.pair, count, options.data_dir, dtype, "cpu")


def measure_job(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Sampling and fine-tuning in our precision, against the naive way in float32."""
    tasks = ["sampling, naive", "sampling, ours", "fine-tuning, naive", "fine-tuning, ours"]
    memory = {} if options.no_memory else {task: peak_memory(task, arguments) for task in tasks}
    measured = prepared(options, options.dtype)
    dtype = str(measured.pair.expert.dtype).removeprefix("torch.")
    plain = measured if dtype == "float32" else prepared(options, "float32")
    sampling, shards = measure_sampling(measured, plain, options)
    training = measure_training(measured, plain, shards, options)
    sampled = {side: statistics.median(sampling[f"{side}_seconds_per_question"]) for side in ("naive", "our")}
    steps = {name: training[name]["seconds_per_step"] for name in ("m=1", f"m={options.labels_per_forward}")}
    whole = {"naive": 1000 * (sampled["naive"] + statistics.median(training["naive_seconds_per_step"]))}
    whole |= {name: 1000 * (sampled["our"] + statistics.median(seconds)) for name, seconds in steps.items()}
    return {
        "pair": models.sources(options.pair),
        "dtype": dtype,
        "sampling": sampling,
        "finetuning": training,
        "whole_job_seconds_extrapolated": whole,
        "peak_memory_gib": memory,
    }


# Each part is one function, and below its name a table.
PARTS: dict[str, Callable[[argparse.Namespace, list[str]], dict[str, Any]]] = {
    "job": measure_job,
    "decoding": gemm.measure_decoding,
    "throughput": throughput.measure_throughput,
    "workers": processes.measure_workers,
    "residency": processes.measure_residency,
    "peer": processes.measure_peer,
}


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["job"], help="what to measure")
    parser.add_argument(
        "--pair",
        type=models.pair_name,
        default="smollm2",
        metavar="NAME|EXPERT,AMATEUR",
        help=f"{', '.join(models.PAIRS)}, or two model folders or GGUF files",
    )
    parser.add_argument("--dtype", default="float32", help="our precision (float32, bfloat16 or auto); naive: float32")
    parser.add_argument("--data-dir", type=Path, help="folder with gsm8k/train.jsonl")
    parser.add_argument("--runs", type=int, default=3, help="turns of each implementation")
    parser.add_argument("--batch", type=int, default=64, help="questions in one turn of ours; rows in decoding")
    parser.add_argument("--naive-questions", type=int, default=1, help="questions in one turn of the naive one")
    parser.add_argument("--steps", type=int, default=21, help="our optimiser steps in all turns")
    parser.add_argument("--labels-per-forward", type=int, default=FinetuneSettings().labels_per_forward)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    gemm.add_options(parser)
    processes.add_options(parser)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args(arguments)
    if "peer" in options.parts and not options.peer_command:
        parser.error("the part peer needs --peer-command")
    return options


def main() -> None:
    arguments = sys.argv[1:]
    options = parsed(arguments)
    machine = {"cores": os.cpu_count(), "threads": options.threads, "torch": torch.__version__}
    machine |= {"python": platform.python_version()}
    report: dict[str, Any] = {"machine": machine}
    for part in options.parts:
        found = PARTS[part](options, arguments)
        report |= found if part == "job" else {part: found}
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")
    for part in options.parts:
        SHOWN[part](report if part == "job" else report[part], options)


def show_job(report: dict[str, Any], options: argparse.Namespace) -> None:
    default = f"m={options.labels_per_forward}"
    sampling, training, whole = report["sampling"], report["finetuning"], report["whole_job_seconds_extrapolated"]
    print(
        f"Expert {report['pair'][0]}, amateur {report['pair'][1]}; {report['machine']['threads']} threads, "
        f"ours {report['dtype']}, naive float32.\n"
    )
    print("| | naive | ours | ratio | n (naive, ours) |\n|---|--:|--:|--:|---|")
    print(
        f"| sampling, s a question | {statistics.median(sampling['naive_seconds_per_question']):.1f} "
        f"| {statistics.median(sampling['our_seconds_per_question']):.2f} | {sampling['ratio']:.1f} "
        f"| {sampling['questions_naive']}, {sampling['questions_ours']} |"
    )
    for name in [key for key in training if key.startswith("m=")]:
        row = training[name]
        print(
            f"| fine-tuning, {name}, s a step | {statistics.median(training['naive_seconds_per_step']):.1f} "
            f"| {statistics.median(row['seconds_per_step']):.2f} | {row['ratio']:.1f} "
            f"| {len(training['naive_seconds_per_step'])}, {len(row['seconds_per_step'])} |"
        )
    for name in ("m=1", default):
        hours = {side: whole[side] / 3600 for side in ("naive", name)}
        print(
            f"| 1000 questions and 1000 steps, {name}, h, extrapolated | {hours['naive']:.2f} | {hours[name]:.2f} "
            f"| {whole['naive'] / whole[name]:.1f} | |"
        )
    for part in ("sampling", "fine-tuning"):
        if memory := report["peak_memory_gib"]:
            plain, ours = memory[f"{part}, naive"], memory[f"{part}, ours"]
            print(f"| {part}, peak memory, GiB | {plain:.2f} | {ours:.2f} | {plain / ours:.1f} | 1, 1 |")
    print("\n| | of GEMM | tokens a label |\n|---|--:|--:|")
    print(f"| decoding ({sampling['batch']} rows) | {statistics.median(sampling['parts']['decoding_of_gemm']):.0%} | |")
    print(f"| scoring | {statistics.median(sampling['parts']['scoring_of_gemm']):.0%} | |")
    for name in [key for key in training if key.startswith("m=")]:
        print(f"| fine-tuning, {name} | {training[name]['of_gemm']:.0%} | {training[name]['tokens_per_label']:.0f} |")
    print(
        f"\nThe largest difference of a KL divergence to the naive one is {sampling['largest_kl_difference']:.1e}; "
        f"{sampling['kept_differently']} of {sampling['steps_compared']} steps are selected by only one of them. "
        f"{sampling['steps_compared']} of {sampling['naive_steps']} steps have the same prefix in both."
    )


SHOWN: dict[str, Callable[[dict[str, Any], argparse.Namespace], None]] = {
    "job": show_job,
    "decoding": gemm.show,
    "throughput": throughput.show,
    "workers": processes.show,
    "residency": processes.show,
    "peer": processes.show,
}


if __name__ == "__main__":
    main()
