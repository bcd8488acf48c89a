"""Every stage on the CPU and on the pretend device, and how often the host waits: python job.py CACHE OUT.

CACHE keeps the compiled device. Leaves the run folders of each device in OUT, and `facts.json`.
"""

import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pretend
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, MambaConfig, MistralConfig, PreTrainedConfig

from lightreasoner.config import EvaluateConfig, FinetuneConfig, MergeConfig, PairConfig, SampleConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.data.problems import load_problems
from lightreasoner.errors import Interrupted
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.generation import Decoding, Engine, Generation
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.pairs import Pair, load_pair
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.samples.sampler import Sampler
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge
from lightreasoner.training.objective import LabelObjective

EXPERT, AMATEUR = "miniature/expert", "miniature/base"
SHORT, LONG = 16, 48  # steps of decoding; what a step costs is the difference


def random_model(folder: Path, kind: type[PreTrainedConfig], **sizes: Any) -> str:
    """A random model that cannot be packed, with the miniature's tokenizer."""
    tokenizer = load_tokenizer(find_model(EXPERT))
    common = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.2}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(hidden_size=32, num_hidden_layers=2, **common, **sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run_stages(device: str, windowed: str, state_space: str, out: Path) -> None:
    """All stages on one device, packed and padded."""
    on_device: dict[str, Any] = {"device": device, "dtype": "float32"}
    problems = {"dataset": "arithmetic", "max_questions": 6, "max_new_tokens": 24, "divergence_beta": 0.05}
    answers = {"benchmarks": ["arithmetic"], "max_items": 8, "max_answer_tokens": 24, **on_device}
    tuning = {"steps": 4, "learning_rate": 1e-4, "lora_dropout": 0.0, **on_device}
    sample(SampleConfig(expert=EXPERT, amateur=AMATEUR, out=out / "packed", **problems, **on_device))
    drawn = {"temperature": 0.8, "top_p": 0.9}
    for name in ("drawn", "drawn-again"):
        sample(SampleConfig(expert=EXPERT, amateur=AMATEUR, out=out / name, **problems, **drawn, **on_device))
    sample(SampleConfig(expert=windowed, amateur=AMATEUR, out=out / "padded", **problems, **on_device))
    sample(SampleConfig(expert=state_space, amateur=AMATEUR, out=out / "state space", **problems, **on_device))
    finetune(FinetuneConfig(model=EXPERT, data=out / "packed", out=out / "packed", **tuning))
    finetune(FinetuneConfig(model=windowed, data=out / "padded", out=out / "padded", **tuning))
    layers = {"lora_targets": ("in_proj",), **tuning}
    finetune(FinetuneConfig(model=state_space, data=out / "state space", out=out / "state space", **layers))
    merge(MergeConfig(model=EXPERT, adapter=out / "packed", out=out / "merged", device=device, merge_dtype="float32"))
    evaluate(EvaluateConfig.checked({"model": str(out / "merged"), "out": out / "evaluate", **answers}))
    contrasted = {"model": EXPERT, "contrast_with": AMATEUR, "out": out / "contrasted"}
    evaluate(EvaluateConfig.checked({**contrasted, **answers}))


def stop_and_resume(samples: Path, out: Path) -> None:
    """Tuning with dropout on the device, at once and stopped after two steps."""
    settings: dict[str, Any] = {
        "model": EXPERT,
        "data": samples,
        "device": pretend.NAME,
        "dtype": "float32",
        "steps": 4,
    }
    finetune(FinetuneConfig(out=out / "at-once", **settings))
    settle, calls = LabelObjective.settle, []

    def settle_and_stop(objective: LabelObjective, figure: torch.Tensor) -> float:
        calls.append(figure)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return settle(objective, figure)

    config = FinetuneConfig(out=out / "resumed", **settings)
    try:
        with mock.patch.object(LabelObjective, "settle", settle_and_stop):
            finetune(config)
    except Interrupted:
        finetune(config)


def waits_of(work: Callable[[], Any]) -> dict[str, int]:
    """How often the host waits while it reads from the device, and while it copies to the device."""
    pretend.waits()
    work()
    found = pretend.waits()
    copies = found.pop("copy to the device", 0)
    return {"reads": sum(found.values()), "copies": copies}


def waits_a_step(short: Callable[[], Any], long: Callable[[], Any], steps: int) -> dict[str, float]:
    """Waits of the steps that `long` takes more than `short`."""
    few, many = waits_of(short), waits_of(long)
    return {name: (many[name] - few[name]) / steps for name in few}


def count_waits(samples: Path, out: Path) -> dict[str, dict[str, float]]:
    """Waits a step of each engine and of tuning, and of the scoring of one batch."""
    machine = MachineSettings(device=pretend.NAME, dtype="float32")
    pair = load_pair(PairConfig(expert=EXPERT, amateur=AMATEUR, **machine.model_dump()))
    template = PromptTemplate(load_tokenizer(find_model(EXPERT)))
    prompts = [template.encode(problem.question) for problem in load_problems("arithmetic", limit=6).problems]

    def decoding(engine: Engine, **settings: Any) -> dict[str, float]:
        short, long = (Decoding(steps, (), **settings) for steps in (SHORT, LONG))
        return waits_a_step(
            lambda: engine.generate(prompts, short), lambda: engine.generate(prompts, long), LONG - SHORT
        )

    def tuning(steps: int) -> Callable[[], Any]:
        machine = {"device": pretend.NAME, "dtype": "float32", "save_steps": 100}
        return lambda: finetune(
            FinetuneConfig(model=EXPERT, data=samples, out=out / f"{steps}", steps=steps, **machine)
        )

    return {
        "packed": decoding(PackedEngine(pair.expert, keep_states=True)),
        "packed, drawn": decoding(PackedEngine(pair.expert), temperature=0.8, top_p=0.9),
        "padded": decoding(PaddedEngine(pair.expert)),
        "padded, drawn": decoding(PaddedEngine(pair.expert), temperature=0.8, top_p=0.9),
        "contrastive": decoding(ContrastiveEngine(pair, 0.1, template.tokenizer)),
        "scoring": scoring(pair, template, prompts, out),
        "tuning": waits_a_step(tuning(2), tuning(6), 4),
    }


def scoring(pair: Pair, template: PromptTemplate, prompts: Sequence[list[int]], out: Path) -> dict[str, float]:
    """Waits of one call of `Sampler.score`."""
    config = SampleConfig(expert=EXPERT, amateur=AMATEUR, dataset="arithmetic", divergence_beta=0.05, out=out)
    sampler = Sampler.of(pair, template, template.stops(None), config)
    responses = PackedEngine(pair.expert).generate(prompts, Decoding(SHORT, ())).responses
    sampler.score(prompts, Generation(responses))  # the first call tests whether the amateur can be packed
    return dict(waits_of(lambda: sampler.score(prompts, Generation(responses))))


def refusals() -> dict[str, str]:
    """What the device says where tensors of the CPU meet its own, and where a generator of the CPU draws for it."""
    here, there = torch.ones(2, 2, device=pretend.NAME), torch.ones(2, 2)
    attempts: dict[str, Callable[[], Any]] = {
        "add": lambda: here + there,
        "in place": lambda: here.mul_(there),
        "matmul": lambda: there @ here,
        "cat": lambda: torch.cat([here, there]),
        "where": lambda: torch.where(here > 0, here, there),
        "index": lambda: here[torch.tensor([0, 1])],
        "embedding": lambda: torch.nn.functional.embedding(torch.tensor([0]), here),
        "generator": lambda: torch.rand(2, device=pretend.NAME, generator=torch.Generator()),
    }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except RuntimeError as error:
            found[name] = str(error)
        else:
            found[name] = "accepted"
    return found


def known_waits() -> dict[str, int]:
    """Waits that the device counts in operations whose waits are known."""
    values = torch.arange(6.0, device=pretend.NAME)
    operations: dict[str, Callable[[], Any]] = {
        "item": values[0].item,
        "tolist": values.tolist,
        "bool": lambda: bool(values.any()),
        "mask": lambda: values[values > 2],
        "nonzero": values.nonzero,
        "multinomial": lambda: torch.multinomial(values, 1),
        "cpu": values.cpu,
        "matmul": lambda: values @ values,
        "copy within": lambda: values.clone().add_(1),
    }
    return {name: waits_of(work)["reads"] for name, work in operations.items()}


def main(cache: Path, out: Path) -> None:
    with FileLock(cache / "build.lock"):
        library = pretend.build(cache)
    pretend.register(library)
    torch.set_num_threads(1)
    heads = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    windowed = random_model(out / "windowed", MistralConfig, sliding_window=16, **heads)
    state_space = random_model(out / "state-space", MambaConfig, state_size=8)
    for device in ("cpu", pretend.NAME):
        run_stages(device, windowed, state_space, out / device)
    stop_and_resume(out / pretend.NAME / "packed", out)
    waits = count_waits(out / pretend.NAME / "packed", out / "waits")
    facts = {"refusals": refusals(), "known_waits": known_waits(), "waits": waits}
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
