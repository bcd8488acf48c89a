"""What each of our stages does in a second, and the share of the speed of the model's own linear layers."""

import argparse
import dataclasses
import statistics
from typing import Any

import models
import torch
from gemm import gemm_rate, linear_weights, timed, tokens_computed
from ours import LABELS_PER_STEP, Ours, OurTraining, labels_of, with_optimizer

from lightreasoner.inference.scoring import response_states, tokens_per_pass
from lightreasoner.samples.folder import Shard
from lightreasoner.training.finetuning import tokens_per_micro_batch


def time_stages(measured: models.Measured, ours: Ours, prompts: list[list[int]]) -> tuple[dict[str, Any], Shard]:
    """Seconds, work done and share of GEMM of the parts of sampling on one batch, and its rows."""
    expert, amateur = measured.pair.expert, measured.pair.amateur
    decoding, generation = timed(lambda: ours.engine.generate(prompts, ours.decoding))
    responses = generation.responses
    scoring, _ = timed(lambda: response_states(amateur, prompts, responses))
    both, shard = timed(lambda: ours.scored(prompts, generation))
    texts = [prompt + response[:-1] for prompt, response in zip(prompts, responses, strict=True)]
    body, head = linear_weights(expert)
    amateur_body, _ = linear_weights(amateur)
    read, new = tokens_computed(prompts, expert), sum(map(len, responses)) - len(prompts)
    # Time of the linear layers alone on as many rows, measured now, over the time of the whole.
    prefill = 2 * body * read / gemm_rate(expert, tokens_per_pass(expert), 0)
    decode = 2 * (body + head) * new / gemm_rate(expert, len(prompts), len(prompts))
    scoring_alone = 2 * amateur_body * tokens_computed(texts, amateur) / gemm_rate(amateur, tokens_per_pass(amateur), 0)
    found = {
        "decoding": decoding,
        "scoring": scoring,
        "contrast": both - scoring,
        "response_tokens": new + len(prompts),
        "scored_tokens": sum(map(len, texts)),
        "decoding_of_gemm": (prefill + decode) / decoding,
        "scoring_of_gemm": scoring_alone / scoring,
    }
    return found, shard


def measure_throughput(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """Decoding, scoring and steps of fine-tuning of a pair in our precision alone; medians over the batches."""
    torch.set_num_threads(options.threads)
    measured = models.ready(options.pair, options.batch * options.runs, options.data_dir, options.dtype, "cpu")
    measured = dataclasses.replace(measured, max_new_tokens=options.tokens)
    pair, ours = measured.pair, Ours(measured)
    ordered = sorted(measured.prompts, key=len)
    ours(ordered[:2])  # warms up
    stages: list[dict[str, Any]] = []
    shards: list[Shard] = []
    for start in range(0, options.batch * options.runs, options.batch):
        found, shard = time_stages(measured, ours, ordered[start : start + options.batch])
        stages.append(found)
        shards.append(shard)
    labels = labels_of(shards)
    with_lora, optimizer = with_optimizer(pair.expert)
    training = OurTraining(pair.expert, pair.vocabulary, labels, options.labels_per_forward)
    training(with_lora, optimizer)
    training.tokens = 0
    seconds = [timed(lambda: training(with_lora, optimizer))[0] for _ in range(options.steps)]
    body, head = linear_weights(pair.expert)
    flop = 4 * (body * training.tokens / options.steps + head * LABELS_PER_STEP)
    gemm = gemm_rate(pair.expert, tokens_per_micro_batch(pair.expert.device), 0, backward=True)
    return {
        "pair": models.sources(options.pair),
        "dtype": str(pair.expert.dtype).removeprefix("torch."),
        "rows": options.batch,
        "stages": stages,
        "labels": len(labels),
        "seconds_per_step": seconds,
        "tokens_per_label": training.tokens / options.steps / LABELS_PER_STEP,
        "finetuning_of_gemm": flop / statistics.fmean(seconds) / gemm,
    }


def show(found: dict[str, Any], options: argparse.Namespace) -> None:
    def middle(values: Any) -> float:
        return statistics.median(values)

    stages = found["stages"]
    batches = f"{len(stages)} batches of {found['rows']}"
    decoding = middle(row["response_tokens"] / row["decoding"] for row in stages)
    scoring = middle(row["scored_tokens"] / row["scoring"] for row in stages)
    labels = LABELS_PER_STEP / middle(found["seconds_per_step"])
    rows = [
        ("decoding", f"{decoding:.0f} tokens", middle(row["decoding_of_gemm"] for row in stages), batches),
        (
            "scoring by the amateur",
            f"{scoring:.0f} positions",
            middle(row["scoring_of_gemm"] for row in stages),
            batches,
        ),
        (
            f"fine-tuning, {options.labels_per_forward} labels of a rollout a pass",
            f"{labels:.1f} labels",
            found["finetuning_of_gemm"],
            f"{len(found['seconds_per_step'])} steps",
        ),
    ]
    print(f"\n{' and '.join(found['pair'])}, {found['dtype']}, {options.threads} threads\n")
    print("| stage | a second | of GEMM | n |\n|---|--:|--:|---|")
    for name, rate, share, count in rows:
        print(f"| {name} | {rate} | {share:.0%} | {count} |")
