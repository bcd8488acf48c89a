"""The whole job on a GPU, offline: random weights of the exact shapes, questions of GSM8K's lengths, bfloat16.

    python bench/gpu.py --json gpu.json

Three parts for each pair, each written to the file when it is complete:

- job: stages 1 and 2 like `lightr sample` and `lightr finetune`, with writing and checkpoints; models start on disk,
  outside the page cache. β is the 80 % quantile of a first small batch, so about 20 % of the steps are kept. That batch
  also warms up the device; the start of Python is not timed.
- stages: time of decoding, of scoring without and with the contrast, and of an optimiser step, with their share of the
  peak (--peak-tflops) and of a GEMM measured here. FLOPs count linear layers only, as in `speed.py`.
- naive: `naive.py` on a few questions and steps, extrapolated to the whole job and labelled so.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import models
import naive
import torch
from gemm import gemm_rate, linear_weights, timed, tokens_computed
from ours import ALPHA, LABELS_PER_STEP, Ours, OurTraining, half_precision, labels_of
from speed import naive_steps

from lightreasoner.config import FinetuneConfig, PairConfig, SampleConfig
from lightreasoner.config.sections import FinetuneSettings
from lightreasoner.inference.memory import fitting_rows
from lightreasoner.inference.scoring import response_states, tokens_per_pass
from lightreasoner.models import loading
from lightreasoner.models.pairs import load_pair
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples import sampling
from lightreasoner.samples.folder import Rollout
from lightreasoner.training import finetuning as training

KEPT = 0.2  # share of the steps (the paper's Figure 2)
BLOCKS = (1, FinetuneSettings().labels_per_forward)  # labels per forward pass: in the paper, by default
TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 320,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Size of a pair's job; anything less than the whole job is extrapolated and labelled so."""

    expert: dict[str, Any]
    amateur: dict[str, Any]
    questions: int
    steps: int
    tokens: int = 128
    first_batch: int = 16
    timed_steps: int = 20
    naive_questions: int = 10
    naive_steps: int = 20
    whole_questions: int = 1000
    whole_steps: int = 1000

    @property
    def words(self) -> int:
        return min(models.QWEN_TOKENS, self.expert["vocab_size"], self.amateur["vocab_size"])


SMALL = models.QWEN["qwen2.5-0.5b"]
PLANS = {
    "qwen-1.5b": Plan(models.QWEN["qwen2.5-math-1.5b"], SMALL, questions=1000, steps=1000),
    "qwen-7b": Plan(models.QWEN["qwen2.5-math-7b"], SMALL, 256, 100, naive_questions=3, naive_steps=5),
}
SMOKE = Plan(TINY, {**TINY, "vocab_size": 300}, 12, 4, 6, 4, 2, 1, 2, 24, 8)


class Bench:
    """One pair on disk, measured part by part."""

    def __init__(self, plan: Plan, folder: Path, device: str, peak: float) -> None:
        self._plan = plan
        self._folder = folder
        self._device = device
        self._peak = peak
        for seed, (name, shape) in enumerate({"expert": plan.expert, "amateur": plan.amateur}.items()):
            model = models.random_model(shape, torch.bfloat16, device, seed)
            models.save(model, models.word_tokenizer(plan.words), folder / name)
        self._prompts = models.random_prompts(plan.questions, plan.words)
        models.save_questions(folder / "questions.jsonl", self._prompts)
        self.beta = self._calibrated()

    def _calibrated(self) -> float:
        with models.word_tokenizers():
            sampling.sample(self._sample_config("first", self._plan.first_batch, None))
        _, stage = read_stage(self._folder / "first" / "sample")
        found = sorted(kl for table in stage.tables("rollouts") for row in Rollout.rows(table) for kl in row.kl)
        return found[int(len(found) * (1 - KEPT))]

    def _sample_config(self, out: str, questions: int, beta: float | None) -> SampleConfig:
        return SampleConfig(
            expert=str(self._folder / "expert"),
            amateur=str(self._folder / "amateur"),
            dataset=str(self._folder / "questions.jsonl"),
            cue="",
            max_questions=questions,
            max_new_tokens=self._plan.tokens,
            divergence_beta=beta,
            dtype="bfloat16",
            device=self._device,
            out=self._folder / out,
        )

    def job(self, save: Callable[[dict[str, Any]], None]) -> None:
        plan, facts = self._plan, {"beta": self.beta, "finetuning": {}}
        with models.word_tokenizers():
            row, result = self._stage(lambda: sampling.sample(self._sample_config("run", plan.questions, self.beta)))
            kept = {"steps_scored": result["steps"], "steps_kept": result["kept_steps"]}
            facts["sampling"] = {"questions": plan.questions, **kept, **row}
            save(facts)
            for block in BLOCKS:
                config = FinetuneConfig(
                    model=str(self._folder / "expert"),
                    data=self._folder / "run",
                    out=self._folder / f"m={block}",
                    steps=plan.steps,
                    labels_per_forward=block,
                    dtype="bfloat16",
                    device=self._device,
                )
                row, _ = self._stage(lambda config=config: training.finetune(config))
                facts["finetuning"][f"m={block}"] = {"steps": plan.steps, **row}
                save(facts)
        facts["whole"] = {name: whole_job(facts["sampling"], row, plan) for name, row in facts["finetuning"].items()}
        save(facts)

    def _stage(self, work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
        """Run a stage; returns its seconds, seconds of loading and peak device memory, and its result."""
        drop_from_page_cache(self._folder)
        reset_device_peak()
        with stopwatch(loading, "load_model") as spent:
            seconds, result = timed(work)
        return {"seconds": seconds, "loading_seconds": sum(spent), "device_peak_gib": device_peak()}, result

    def stages(self, save: Callable[[dict[str, Any]], None]) -> None:
        measured = self._loaded()
        pair, facts = measured.pair, {"gemm_large_tflops": large_gemm(self._device) / 1e12}
        longest = max(map(len, measured.prompts)) + self._plan.tokens
        prompts = sorted(measured.prompts, key=len)[: fitting_rows(pair.expert, longest)]
        ours = Ours(measured, self.beta)
        ours(prompts[:2])
        body, head = linear_weights(pair.expert)
        small_body, small_head = linear_weights(pair.amateur)

        def share(seconds: float, flop: float, gemm: float) -> dict[str, float]:
            return {
                "seconds": seconds,
                "tflops": flop / seconds / 1e12,
                "gemm_tflops": gemm / 1e12,
                "of_gemm": flop / seconds / gemm,
                "mfu": flop / seconds / self._peak,
                "device_peak_gib": device_peak(),
            }

        reset_device_peak()
        seconds, generation = timed(lambda: ours.engine.generate(prompts, ours.decoding))
        made, read = sum(map(len, generation.responses)), tokens_computed(prompts, pair.expert)
        texts = [prompt + response[:-1] for prompt, response in zip(prompts, generation.responses, strict=True)]
        scored, rows = tokens_computed(texts, pair.amateur), len(prompts)
        flop = 2 * body * (read + made - rows) + 2 * head * made
        facts["decoding"] = {"questions": rows, **share(seconds, flop, gemm_rate(pair.expert, rows, rows))}
        reset_device_peak()
        seconds, _ = timed(lambda: response_states(pair.amateur, prompts, generation.responses))
        gemm = gemm_rate(pair.amateur, tokens_per_pass(pair.amateur), 0)
        facts["scoring"] = {"questions": rows, **share(seconds, 2 * small_body * scored, gemm)}
        reset_device_peak()
        seconds, _ = timed(lambda: ours.sampler.score(prompts, generation))
        flop = 2 * small_body * scored + 2 * (head + small_head) * made
        facts["scoring and contrast"] = {"questions": rows, **share(seconds, flop, gemm)}
        save(facts)
        labels = labels_of([ours(prompts[:64])])
        with_lora, optimizer = self._trainable(pair)
        tokens = training.tokens_per_micro_batch(pair.expert.device)
        gemm = gemm_rate(pair.expert, min(tokens, LABELS_PER_STEP * 160), 0, backward=True)
        for block in BLOCKS:
            steps = OurTraining(pair.expert, pair.vocabulary, labels, block)
            steps(with_lora, optimizer)
            steps.tokens = 0
            reset_device_peak()
            spent = [timed(lambda steps=steps: steps(with_lora, optimizer))[0] for _ in range(self._plan.timed_steps)]
            flop = 4 * (body * steps.tokens / len(spent) + head * LABELS_PER_STEP)
            facts[f"step, m={block}"] = {"steps": len(spent), **share(statistics.fmean(spent), flop, gemm)}
            save(facts)

    def naive(self, save: Callable[[dict[str, Any]], None]) -> None:
        measured, plan = self._loaded(), self._plan
        pair = measured.pair
        reset_device_peak()
        question = [
            timed(
                lambda prompt=prompt: naive.sample_question(
                    pair.expert, pair.amateur, prompt, plan.tokens, (), self.beta, ALPHA
                )
            )[0]
            for prompt in measured.prompts[: plan.naive_questions + 1]
        ][1:]  # the first warms up
        peak = {"sampling_device_peak_gib": device_peak()}
        labels = labels_of([Ours(measured, self.beta)(measured.prompts[:16])])
        with_lora, optimizer = self._trainable(pair)
        width = pair.expert.get_output_embeddings().weight.shape[0]
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            chosen = torch.randint(len(labels), (LABELS_PER_STEP,), generator=generator).tolist()
            with half_precision(pair.expert):
                naive.train_step(with_lora, optimizer, naive_steps(labels, chosen, width))

        step()
        reset_device_peak()
        spent = [timed(step)[0] for _ in range(plan.naive_steps)]
        whole = plan.whole_questions * statistics.median(question) + plan.whole_steps * statistics.median(spent)
        save(
            {
                "seconds_per_question": question,
                "seconds_per_step": spent,
                **peak,
                "finetuning_device_peak_gib": device_peak(),
                "whole_seconds_extrapolated": whole,
            }
        )

    def _loaded(self) -> models.Measured:
        with models.word_tokenizers():
            expert, amateur = (str(self._folder / name) for name in ("expert", "amateur"))
            pair = load_pair(PairConfig(expert=expert, amateur=amateur, dtype="bfloat16", device=self._device))
        return models.Measured("", pair, self._prompts, (), self._plan.tokens)

    def _trainable(self, pair: Any) -> tuple[Any, torch.optim.Optimizer]:
        config = FinetuneConfig(model="e", data=Path("unused"), out=Path("unused"))
        with_lora = training.attach_lora(pair.expert, config).train()
        return with_lora, torch.optim.AdamW([p for p in with_lora.parameters() if p.requires_grad], lr=5e-5)


def whole_job(sampled: dict[str, Any], tuned: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Both stages, extrapolated to the whole job if necessary."""
    work = [
        (row["seconds"] - row["loading_seconds"]) * whole / done
        for row, whole, done in (
            (sampled, plan.whole_questions, plan.questions),
            (tuned, plan.whole_steps, plan.steps),
        )
    ]
    return {
        "seconds": sum(work) + sampled["loading_seconds"] + tuned["loading_seconds"],
        "seconds_without_loading": sum(work),
        "extrapolated": (plan.questions, plan.steps) != (plan.whole_questions, plan.whole_steps),
    }


@contextmanager
def stopwatch(module: Any, name: str) -> Iterator[list[float]]:
    """Seconds of each call of a module's function."""
    spent: list[float] = []
    function = getattr(module, name)

    def timed_call(*arguments: Any, **options: Any) -> Any:
        seconds, result = timed(lambda: function(*arguments, **options))
        spent.append(seconds)
        return result

    with mock.patch.object(module, name, timed_call):
        yield spent


def drop_from_page_cache(folder: Path) -> None:
    """Drop the models from the page cache, on systems that support it, so that loading reads from disk."""
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reset_device_peak() -> None:
    """Also frees unused memory of earlier parts."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def device_peak() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def large_gemm(device: str) -> float:
    """FLOP/s of one large square product, median of 10."""
    size = 8192 if device != "cpu" else 256
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    timed(lambda: a @ b)
    return 2 * size**3 / statistics.median(timed(lambda: a @ b)[0] for _ in range(10))


def show(report: dict[str, Any]) -> None:
    for name, pair in report["pairs"].items():
        print(f"\n{name}: {report['machine']['device']}, bfloat16, random weights.\n")
        if job := pair.get("job"):
            print("| | s | of it loading | device peak, GiB |\n|---|--:|--:|--:|")
            rows = {f"sampling, {job['sampling']['questions']} questions": job["sampling"]}
            rows |= {f"fine-tuning, {block}, {row['steps']} steps": row for block, row in job["finetuning"].items()}
            for label, row in rows.items():
                print(f"| {label} | {row['seconds']:.1f} | {row['loading_seconds']:.1f} | {_number(row)} |")
            for block, row in job.get("whole", {}).items():
                label = "whole job, extrapolated" if row["extrapolated"] else "whole job"
                loading = row["seconds"] - row["seconds_without_loading"]
                print(f"| {label}, {block} | {row['seconds']:.1f} | {loading:.1f} | |")
        if plain := pair.get("naive"):
            n = f"{len(plain['seconds_per_question'])} questions and {len(plain['seconds_per_step'])} steps"
            print(f"\nNaive, the whole job, extrapolated from {n}: {plain['whole_seconds_extrapolated']:.0f} s.")
        if stages := pair.get("stages"):
            print(f"\nA large GEMM: {stages['gemm_large_tflops']:.1f} TFLOP/s.")
            print(
                "\n| | s | TFLOP/s | GEMM at its shapes | of GEMM | MFU | device peak, GiB |\n"
                "|---|--:|--:|--:|--:|--:|--:|"
            )
            for label, row in stages.items():
                if isinstance(row, dict):
                    print(f"| {label} | {row['seconds']:.3f} | {row['tflops']:.1f} | {row['gemm_tflops']:.1f} "
                          f"| {row['of_gemm']:.0%} | {row['mfu']:.1%} | {_number(row)} |")  # fmt: skip


def _number(row: dict[str, Any]) -> str:
    return "–" if row["device_peak_gib"] is None else f"{row['device_peak_gib']:.1f}"


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--parts", nargs="+", choices=("job", "stages", "naive"), default=["job", "stages", "naive"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak-tflops", type=float, default=790, help="denominator of MFU; an H200's dense bfloat16")
    parser.add_argument("--work-dir", type=Path, help="folder for the models, up to 20 GB; default: temporary")
    parser.add_argument("--smoke", action="store_true", help="one tiny pair on the CPU, as a smoke test")
    parser.add_argument("--json", type=Path, help="write all figures to this file, part by part")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed(sys.argv[1:])
    device = "cpu" if options.smoke else options.device
    plans = {"tiny": SMOKE} if options.smoke else {name: PLANS[name] for name in options.pairs}
    machine = {
        "device": torch.cuda.get_device_name() if device != "cpu" else f"CPU, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "peak_tflops": options.peak_tflops,
    }
    report: dict[str, Any] = {"machine": machine, "smoke": options.smoke, "pairs": {}}

    def write() -> None:
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")

    for name, plan in plans.items():
        found = report["pairs"][name] = {"plan": vars(plan)}
        with tempfile.TemporaryDirectory(dir=options.work_dir) as folder:
            started = time.perf_counter()
            bench = Bench(plan, Path(folder), device, options.peak_tflops * 1e12)
            found["preparing_seconds"] = time.perf_counter() - started
            for part in options.parts:

                def save(facts: dict[str, Any], found: dict[str, Any] = found, part: str = part) -> None:
                    found[part] = facts
                    write()

                getattr(bench, part)(save)
    show(report)


if __name__ == "__main__":
    main()
