"""Expert and amateur one after the other: the same samples as together, from states on disk."""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lightreasoner.config import PairConfig, SampleConfig
from lightreasoner.errors import DataError, DiskFull, ModelError, RunMismatch
from lightreasoner.inference import residency
from lightreasoner.inference.generation import Decoding, Generation
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.inference.residency import LazyPair
from lightreasoner.inference.scoring import Head
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.pairs import FoundPair, find_pair
from lightreasoner.models.source import ModelSource
from lightreasoner.runs.stage import StageFolder, read_stage
from lightreasoner.samples import responses, sampler
from lightreasoner.samples.responses import STATES, states_of, states_table
from lightreasoner.samples.sampling import sample

MACHINE = {"device": "cpu", "dtype": "float32"}
COMMON: dict[str, Any] = {**MACHINE, "dataset": "arithmetic", "max_questions": 9, "max_new_tokens": 6, "batch_size": 3}


@pytest.fixture(scope="module")
def done(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleConfig:
    """Samples of both models together, to compare with."""
    out = tmp_path_factory.mktemp("together") / "run"
    config = SampleConfig(
        expert=str(random_expert), amateur=str(random_amateur), out=out, residency="together", **COMMON
    )
    sample(config)
    return config


@pytest.fixture
def config(done: SampleConfig, tmp_path: Path) -> SampleConfig:
    return done.model_copy(update={"out": tmp_path / "together"})


def sequential(config: SampleConfig, name: str = "sequential", **changes: Any) -> SampleConfig:
    return config.model_copy(update={"residency": "sequential", "out": config.out.with_name(name), **changes})


def assert_same_bits(first: SampleConfig, second: SampleConfig) -> None:
    """The same rows in the same shards, and no states left over."""
    before, after = (read_stage(config.out / "sample")[1] for config in (first, second))
    assert before.counts == after.counts
    assert before.digest == after.digest
    assert not (first.out / STATES).exists()
    assert not (second.out / STATES).exists()


@pytest.fixture
def foreign(random_amateur: Path, tmp_path: Path) -> str:
    """The amateur, with another token at one id."""
    folder = tmp_path / "foreign"
    shutil.copytree(random_amateur, folder)
    content = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(content.replace("<|im_end|>", "<|other|>"))
    return str(folder)


# --- The same to the bit ---


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"dtype": "bfloat16"},
        {"temperature": 0.9, "top_p": 0.8},
        {"stop_strings": ("the", "="), "divergence_beta": None},
        {"batch_size": 1, "max_questions": 5},
        {"batch_size": None},
        {"vocabulary": "shared", "divergence_beta": None},
    ],
    ids=str,
)
def test_one_after_the_other_gives_the_same_bits(config: SampleConfig, foreign: str, change: dict[str, Any]) -> None:
    if "vocabulary" in change:
        change = {**change, "amateur": foreign}
    together = config.model_copy(update=change)
    assert sample(together) == sample(sequential(together))
    assert_same_bits(together, sequential(together))


@pytest.mark.parametrize("change", [{}, {"stop_strings": ("the", "=")}, {"dtype": "bfloat16"}], ids=str)
def test_an_engine_that_keeps_no_states_gives_the_same_bits(
    config: SampleConfig, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "engine_for", lambda model, tokenizer, **more: PaddedEngine(model, tokenizer))
    together = config.model_copy(update={"divergence_beta": None, **change})
    assert sample(together) == sample(sequential(together))
    assert_same_bits(together, sequential(together))


def test_responses_of_another_process_are_read_by_the_expert(config: SampleConfig) -> None:
    """An engine outside gives token ids alone; stored without states, they give the samples of its token ids."""
    asked: list[int] = []

    class Outside:
        def generate(self, prompts: Sequence[list[int]], decoding: Decoding) -> Generation:
            asked.append(len(prompts))
            return Generation([[5, 6, 7] for _ in prompts])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(responses, "ExpertEngine", lambda pair, tokenizer: Outside())
        every_step = {"divergence_beta": None}
        sample(sequential(config, "outside", **every_step))
        sample(sequential(config, "pair", **every_step, residency="together"))
    assert asked == [3] * 6
    assert_same_bits(sequential(config, "outside"), sequential(config, "pair"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_states_come_back_bit_by_bit(dtype: torch.dtype) -> None:
    hidden = torch.tensor([[1.5, -0.0, torch.nan], [torch.inf, 3e-5, -7.0]]).to(dtype)
    for stored in (hidden, hidden[:0]):
        found = states_of(states_table(stored))
        assert found.dtype == dtype
        assert found.shape == stored.shape
        assert torch.equal(found.view(torch.uint8), stored.contiguous().view(torch.uint8))


# --- One model at a time ---


def test_the_expert_is_gone_before_the_amateur_is_loaded(config: SampleConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[Any] = []
    alive: list[int] = []
    load = FoundPair.load_one

    def watched(self: FoundPair, source: ModelSource) -> Any:
        gc.collect()
        alive.append(sum(body() is not None for body in bodies))
        model = load(self, source)
        bodies.append(weakref.ref(model.model.layers))
        return model

    monkeypatch.setattr(FoundPair, "load_one", watched)
    sample(sequential(config))
    assert alive == [0, 0]


def test_a_head_gives_the_logits_of_its_model_without_it(random_expert: Path, random_amateur: Path) -> None:
    found = find_pair(PairConfig(expert=str(random_expert), amateur=str(random_amateur), dtype="float32", device="cpu"))
    pair = LazyPair(found, load_tokenizer(found.expert), load_tokenizer(found.amateur))
    hidden = torch.randn(3, 32)
    expected = Head.of(pair.expert)(hidden)
    body = weakref.ref(pair.expert.model.layers)
    head = pair.drop_expert()
    assert body() is None
    assert torch.equal(head(hidden), expected)
    assert pair.memory.head == head.weight.numel() * 4
    assert pair.memory.expert == sum(weight.numel() for weight in pair.expert.parameters()) * 4  # tied: counted once
    assert pair.state_bytes == 32 * 4


# --- Stops ---


class Stop(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("place", [("expert", 1), ("sampling", 2)])
@pytest.mark.parametrize("then", ["auto", "together"])
def test_a_run_that_stopped_in_either_phase_goes_on(
    config: SampleConfig, done: SampleConfig, place: tuple[str, int], then: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = sequential(config, f"{place[0]}{place[1]}{then}")
    with monkeypatch.context() as patched:
        stop_at(patched, *place)
        with pytest.raises(Stop):
            sample(cut)
    asked: list[int] = []
    generate = PackedEngine.generate
    monkeypatch.setattr(PackedEngine, "generate", lambda *given: asked.append(1) or generate(*given))
    sample(cut.model_copy(update={"residency": then}))
    assert_same_bits(done, cut)
    if then != "together":  # responses that are there are not made again
        assert len(asked) == (2 if place[0] == "expert" else 0)


def stop_at(patched: pytest.MonkeyPatch, phase: str, batches: int) -> None:
    """Stop in front of the commit of a batch."""
    commit, done = StageFolder.commit, []

    def failing(self: StageFolder, *given: Any) -> None:
        if self.path.name == (STATES if phase == "expert" else "sample"):
            if len(done) == batches:
                raise Stop
            done.append(1)
        commit(self, *given)

    patched.setattr(StageFolder, "commit", failing)


def test_a_run_that_began_together_goes_on_one_after_the_other(
    config: SampleConfig, done: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = sequential(config)
    with monkeypatch.context() as patched:
        stop_at(patched, "sampling", 1)
        with pytest.raises(Stop):
            sample(cut.model_copy(update={"residency": "together"}))
    sample(cut)
    assert_same_bits(done, cut)


def test_a_damaged_shard_of_states_is_made_again(
    config: SampleConfig, done: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = sequential(config)
    with monkeypatch.context() as patched:
        stop_at(patched, "sampling", 1)
        with pytest.raises(Stop):
            sample(cut)
    for shard in (cut.out / STATES).glob("states-*.parquet"):
        shard.write_bytes(shard.read_bytes()[:-9])
    sample(cut)
    assert_same_bits(done, cut)


def test_states_left_by_a_stop_after_the_result_are_removed(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = sequential(config)
    with monkeypatch.context() as patched:
        patched.setattr("lightreasoner.samples.sampling.remove_states", lambda run: None)
        result = sample(cut)
    assert (cut.out / STATES / "ledger.jsonl").exists()
    monkeypatch.setattr(FoundPair, "load_one", None)
    assert sample(cut) == result
    assert not (cut.out / STATES).exists()


def test_memory_that_runs_out_halves_the_batches_of_the_expert(
    config: SampleConfig, done: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = PackedEngine.generate

    def greedy_for_memory(self: PackedEngine, prompts: Sequence[list[int]], decoding: Decoding) -> Generation:
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return generate(self, prompts, decoding)

    monkeypatch.setattr(PackedEngine, "generate", greedy_for_memory)
    sample(sequential(config))
    for before, after in zip(rollouts(done), rollouts(sequential(config)), strict=True):
        assert before["response_ids"] == after["response_ids"]
        assert before["kl"] == pytest.approx(after["kl"], abs=1e-5)


def rollouts(config: SampleConfig) -> list[dict[str, Any]]:
    _, stage = read_stage(config.out / "sample")
    return [row for table in stage.tables("rollouts") for row in table.to_pylist()]


# --- Other settings ---


def test_a_refused_sample_lends_its_states_to_another_beta(
    config: SampleConfig, done: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = sequential(config, divergence_beta=90.0)
    with pytest.raises(DataError, match="exceeds β = 90"):
        sample(high)
    monkeypatch.setattr(PackedEngine, "generate", None)  # the expert need not answer again
    sample(sequential(config))
    assert_same_bits(done, sequential(config))


def test_a_refused_sample_leaves_the_folder_to_another_prompt(config: SampleConfig) -> None:
    with pytest.raises(DataError, match="exceeds β = 90"):
        sample(sequential(config, divergence_beta=90.0))
    sample(sequential(config, cue="Think."))
    sample(config.model_copy(update={"cue": "Think."}))
    assert_same_bits(config, sequential(config))


def test_states_of_other_settings_are_refused(config: SampleConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, "expert", 1)
        with pytest.raises(Stop):
            sample(sequential(config))
    with pytest.raises(RunMismatch, match="max_new_tokens: 6 there, 7 now"):
        sample(sequential(config, max_new_tokens=7))


def test_too_many_distributions_without_numbers_stop_the_second_phase(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sampler.contrast.kl_divergence
    monkeypatch.setattr(sampler.contrast, "kl_divergence", lambda p, q: original(p, q) * torch.nan)
    with pytest.raises(ModelError, match="NaN or infinite"):
        sample(sequential(config))
    monkeypatch.undo()
    sample(sequential(config, dtype="bfloat16"))  # the advice can be followed in the same folder


# --- Memory and disk ---


def free_is(monkeypatch: pytest.MonkeyPatch, free: Callable[[Any], int]) -> list[str]:
    monkeypatch.setattr(residency, "free_memory", free)
    said: list[str] = []
    monkeypatch.setattr(residency, "say", said.append)
    return said


def test_auto_loads_one_after_the_other_what_does_not_fit_together(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_pair(config)
    pair = LazyPair(found, load_tokenizer(found.expert), load_tokenizer(found.amateur))
    memory, ledger = pair.memory, config.out / STATES / "ledger.jsonl"
    assert memory.sequential < memory.together
    assert memory.sequential >= max(memory.expert, memory.amateur + memory.head)
    said = free_is(monkeypatch, lambda device: memory.together)
    assert pair.residency("auto", ledger) == "together"
    assert said == []
    said = free_is(monkeypatch, lambda device: memory.together - 1)
    assert pair.residency("auto", ledger) == "sequential"
    assert len(said) == 1
    assert "do not fit together: they need about" in said[0]
    assert "of cpu memory are free" in said[0]
    assert pair.residency("together", ledger) == "together"
    free_is(monkeypatch, lambda device: 1 << 60)
    assert pair.residency("sequential", ledger) == "sequential"


def test_a_pass_that_was_begun_goes_on_whatever_is_free(config: SampleConfig, tmp_path: Path) -> None:
    found = find_pair(config)
    pair = LazyPair(found, load_tokenizer(found.expert), load_tokenizer(found.amateur))
    (tmp_path / "ledger.jsonl").touch()
    assert pair.residency("auto", tmp_path / "ledger.jsonl") == "sequential"
    assert pair.residency("together", tmp_path / "ledger.jsonl") == "together"


def test_a_disk_too_small_for_the_states_is_refused_with_the_figures(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(config.out.parent)._replace(free=5_000)
    monkeypatch.setattr(responses.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(FoundPair, "load_one", None)  # found before a model is loaded
    with pytest.raises(DiskFull, match=r"9 responses of up to 6 tokens take up to 7 kB in .* and 5 kB are free"):
        sample(sequential(config))


def test_how_a_run_uses_memory_is_no_part_of_what_it_is(done: SampleConfig) -> None:
    fingerprint = json.loads((done.out / "sample/manifest.json").read_text())["fingerprint"]
    assert "residency" not in fingerprint
    assert sample(done.model_copy(update={"residency": "sequential"}))["kept_steps"]


def test_a_date_in_the_prompt_stays_when_the_first_phase_is_resumed(
    config: SampleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Earlier":
            return cls(2020, 2, 3, tzinfo=tz)

    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%Y-%m-%d') }} {{ messages[-1]['content'] }}")
    dated = sequential(config, chat_template=template)
    with monkeypatch.context() as patched:
        patched.setattr("lightreasoner.runs.manifest.datetime", Earlier)
        stop_at(patched, "expert", 1)
        with pytest.raises(Stop):
            sample(dated)
    sample(dated)
    assert json.loads((dated.out / "sample/manifest.json").read_text())["asked_at"].startswith("2020-02-03")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_that_of_the_larger_model(
    config: SampleConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The peak of a process of its own, against that of loading nothing and the weights of one model."""
    layers = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_key_value_heads": 8}
    for seed, name in enumerate(("expert", "amateur")):
        torch.manual_seed(seed)
        shape = Qwen2Config(vocab_size=len(tokenizer), num_hidden_layers=12, **layers)
        Qwen2ForCausalLM(shape).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    large = config.model_copy(
        update={"expert": str(tmp_path / "expert"), "amateur": str(tmp_path / "amateur"), "divergence_beta": None}
    )
    weights = (tmp_path / "expert/model.safetensors").stat().st_size
    script = (
        "import re, sys, torch; torch.set_num_threads(1)\n"
        "from lightreasoner.config import SampleConfig\n"
        "from lightreasoner.samples.sampling import sample\n"
        "config = SampleConfig.model_validate_json(sys.argv[1])\n"
        "config.out.name == 'nothing' or sample(config)\n"
        # Not `ru_maxrss`, which a child takes over from the process that started it.
        "print(1024 * int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]))\n"
    )
    peaks = {}
    for name in ("nothing", "together", "sequential"):
        run = large.model_copy(update={"out": tmp_path / name, "residency": "together"})
        if name == "sequential":
            run = sequential(run)
        command = [sys.executable, "-c", script, run.model_dump_json()]
        peaks[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(
        f"weights of one model {weights / 1e6:.0f} MB; peaks",
        {name: f"{peak / 1e6:.0f}" for name, peak in peaks.items()},
    )
    assert peaks["sequential"] <= 1.15 * (peaks["nothing"] + weights)
    assert peaks["together"] > peaks["nothing"] + 1.8 * weights
