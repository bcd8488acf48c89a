"""The real vLLM against the own engine: the same responses but for ties, in float32.

Needs the Python of an environment with vLLM in LIGHTREASONER_VLLM_PYTHON; `make vllm` makes one for the CPU.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lightreasoner.config import BaselineConfig, EvaluateConfig, SampleConfig
from lightreasoner.data.benchmarks import load_benchmark
from lightreasoner.errors import DataError, EngineError
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference.engines import Served, served_by
from lightreasoner.inference.generation import Decoding
from lightreasoner.models.loading import load_generation_config, load_model, load_tokenizer
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.baselines import baseline
from lightreasoner.samples.sampling import sample
from tests.evaluation.helpers import answers

pytestmark = pytest.mark.slow
QUESTIONS, LENGTH = 32, 64
TIE = 1e-3  # largest difference of two logits that rounding can turn over


@pytest.fixture(scope="module")
def settings(data_dir: Path) -> dict[str, Any]:
    """Settings of an evaluation with vLLM."""
    python = os.environ.get("LIGHTREASONER_VLLM_PYTHON")
    if python is None:
        pytest.skip("LIGHTREASONER_VLLM_PYTHON names no Python with vLLM; `make vllm` makes one")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return {
        "engine": "vllm",
        "engine_python": Path(python),
        "benchmarks": ("gsm8k",),
        "data_dir": data_dir,
        "max_answer_tokens": LENGTH,
        "dtype": "float32",
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def model(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 as a folder."""
    source, folder = find_model(str(smollm2_gguf)), tmp_path_factory.mktemp("smollm2")
    load_model(source).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes many answers."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("adapter")
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    base: Any = load_model(find_model(str(model)))
    get_peft_model(base, lora).save_pretrained(folder)
    return folder


def prompts_of(model: Path, data_dir: Path) -> tuple[list[list[int]], tuple[int, ...]]:
    source = find_model(str(model))
    template = PromptTemplate(load_tokenizer(source))
    items = load_benchmark("gsm8k", limit=QUESTIONS, data_dir=data_dir)
    return [template.encode(item.question) for item in items], template.stop_ids(load_generation_config(source))


def of_own_engine(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings with the own engine, which takes no Python."""
    return {**settings, "engine": "own", "engine_python": None}


def served(model: Path, out: Path, settings: dict[str, Any], adapter: Path | None = None, **changes: Any) -> Served:
    source = replace(find_model(str(model)), adapter=adapter)
    config = EvaluateConfig(model=str(model), out=out, **{**settings, **changes})
    return served_by(config, source, load_tokenizer(source), out)


def ties(one: Served, prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]]) -> int:
    """Number of responses that differ; each must first differ at a step with two equally good tokens."""
    count = 0
    for prompt, own, other in zip(prompts, ours, theirs, strict=True):
        if own == other:
            continue
        place = next(place for place, pair in enumerate(zip(own, other, strict=False)) if pair[0] != pair[1])
        with torch.inference_mode():
            logits = one.model(input_ids=torch.tensor([prompt + own[:place]])).logits[0, -1]
        assert (logits[own[place]] - logits[other[place]]).abs() < TIE, (place, own[place], other[place])
        count += 1
    return count


@pytest.mark.parametrize("adapted", [False, True])
def test_vllm_gives_the_responses_of_the_own_engine_but_for_ties(
    settings: dict[str, Any], model: Path, adapter: Path, data_dir: Path, tmp_path: Path, adapted: bool
) -> None:
    prompts, stops = prompts_of(model, data_dir)
    chosen = adapter if adapted else None
    own = served(model, tmp_path, of_own_engine(settings), chosen)
    other = served(model, tmp_path, settings, chosen)
    decoding = Decoding(LENGTH, stops)
    ours = own.engine.generate(prompts, decoding).responses
    try:
        theirs = other.engine.generate(prompts, decoding).responses
        strings = Decoding(LENGTH, stops, stop_strings=(".", "\n"))
        cut = other.engine.generate(prompts[:8], strings).responses
    finally:
        other.close()
    turned = ties(own, prompts, ours, theirs)
    print(f"adapter: {adapted}, responses: {len(ours)}, differing at a tie: {turned}")
    assert turned <= QUESTIONS // 8
    if adapted:
        plain = served(model, tmp_path, of_own_engine(settings)).engine.generate(prompts[:8], decoding).responses
        assert sum(one != two for one, two in zip(plain, ours, strict=False)) > 4
    else:
        ties(own, prompts[:8], own.engine.generate(prompts[:8], strings).responses, cut)
        assert max(map(len, cut)) < LENGTH


def test_rollouts_and_divergences_are_those_of_the_own_engine(
    settings: dict[str, Any], model: Path, smollm2_amateur: Path, data_dir: Path, tmp_path: Path
) -> None:
    rows = {}
    for engine, chosen in (("own", of_own_engine(settings)), ("vllm", settings)):
        config = SampleConfig(
            expert=str(model),
            amateur=str(smollm2_amateur),
            dataset="gsm8k",
            data_dir=data_dir,
            max_questions=QUESTIONS,
            max_new_tokens=LENGTH,
            divergence_beta=None,
            out=tmp_path / engine,
            **{name: chosen[name] for name in ("engine", "engine_python", "dtype", "device")},
        )
        sample(config)
        _, stage = read_stage(tmp_path / engine / "sample")
        rows[engine] = {row["question_id"]: row for table in stage.tables("rollouts") for row in table.to_pylist()}
    assert len(rows["own"]) == len(rows["vllm"]) == QUESTIONS
    pairs = [(row, rows["vllm"][name]) for name, row in rows["own"].items()]
    same = [(row["kl"], other["kl"]) for row, other in pairs if row["response_ids"] == other["response_ids"]]
    largest = max(abs(one - two) for kls in same for one, two in zip(*kls, strict=True))
    steps = sum(len(kl) for kl, _ in same)
    print(f"{len(same)} of {QUESTIONS} rollouts are equal; KL at {steps} steps differs by {largest:.2g} nats at most")
    assert len(same) >= QUESTIONS * 7 // 8
    assert largest < 1e-4


def test_samples_are_the_same_in_every_batch_and_differ_within_one(
    settings: dict[str, Any], model: Path, data_dir: Path, tmp_path: Path
) -> None:
    prompts, stops = prompts_of(model, data_dir)
    decoding = Decoding(24, stops, temperature=1.0, top_p=0.95)
    other = served(model, tmp_path, settings)
    try:
        first, second, again = other.engine.generate([prompts[0], prompts[1], prompts[0]], decoding).responses
        assert first != again
        assert other.engine.generate([prompts[1], prompts[0]], decoding).responses == [second, first]
    finally:
        other.close()


def test_a_gguf_model_is_evaluated_and_its_copy_is_removed(
    settings: dict[str, Any], smollm2_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for engine, chosen in (("own", of_own_engine(settings)), ("vllm", settings)):
        evaluate(EvaluateConfig(model=str(smollm2_gguf), out=tmp_path / engine, max_items=8, **chosen))
    own, other = (answers(tmp_path / engine, "chat/gsm8k") for engine in ("own", "vllm"))
    assert own.keys() == other.keys()
    assert sum(own[key].output_ids == other[key].output_ids for key in own) >= 7
    assert "removed at the end" in capsys.readouterr().err
    assert not list((tmp_path / "vllm").glob(".vllm-model*"))


def test_a_baseline_keeps_the_same_answers(settings: dict[str, Any], model: Path, tmp_path: Path) -> None:
    counts = {}
    for engine in ("own", "vllm"):
        config = BaselineConfig(
            kind="rejection-sft",
            model=str(model),
            dataset="arithmetic",
            max_questions=8,
            max_new_tokens=48,
            dtype="float32",
            out=tmp_path / engine,
            engine=engine,
            engine_python=settings["engine_python"] if engine == "vllm" else None,
        )
        try:
            counts[engine] = {**baseline(config), "finetune": None}
        except DataError as error:
            counts[engine] = {"error": str(error)}
    assert counts["own"] == counts["vllm"]
    made = json.loads((tmp_path / "vllm/sample/manifest.json").read_text())["fingerprint"]
    assert made["engine_version"]


def test_a_model_that_vllm_cannot_serve_is_refused_in_one_line(settings: dict[str, Any], tmp_path: Path) -> None:
    config = EvaluateConfig(model="miniature/expert", out=tmp_path, **{**settings, "benchmarks": ("arithmetic",)})
    with pytest.raises(EngineError, match=r"^vLLM (cannot load miniature/expert|failed): \w+: .+$"):
        evaluate(config.model_copy(update={"max_items": 2}))
