"""Stages with the engine vLLM (a stand-in for the package), and adapters that are put on a model without merging."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lightreasoner.config import BaselineConfig, DoctorConfig, EvaluateConfig, RunConfig, SampleConfig
from lightreasoner.config.sections import EngineSettings
from lightreasoner.doctor import examine
from lightreasoner.errors import ConfigError, ModelError, RunCorrupted, RunMismatch
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference import engines, vllm_engine
from lightreasoner.models.loading import load_model
from lightreasoner.models.pairs import FoundPair
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.baselines import baseline
from lightreasoner.samples.sampling import sample
from tests.evaluation.helpers import answers, config_for

from .fake_vllm import token
from .vllm_helpers import FakeVllm

SETTINGS: dict[str, Any] = {"max_items": 5, "max_answer_tokens": 10, "engine": "vllm"}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVllm]:
    yield FakeVllm(tmp_path / "site", monkeypatch)
    vllm_engine.engine_version.cache_clear()


def test_an_evaluation_answers_with_vllm_and_never_loads_the_model(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "load_model", None)
    evaluate(config_for(tmp_path / "out", **SETTINGS))
    rows = answers(tmp_path / "out")
    assert len(rows) == 5
    for row in rows.values():
        free = [token(row.prompt_ids, place) for place in range(10)]
        assert row.output_ids == free[: len(row.output_ids)]
    (arguments,) = fake.seen("arguments")
    assert arguments["model"] == str(find_model("miniature/expert").folder)
    assert len(fake.seen("sampling")) == 5, "one batch"


def test_a_finished_evaluation_is_given_back_without_starting_vllm(fake: FakeVllm, tmp_path: Path) -> None:
    first = evaluate(config_for(tmp_path / "out", **SETTINGS))
    fake.set_faults(load="kill", always=True)
    assert evaluate(config_for(tmp_path / "out", **SETTINGS)) == first


def test_engine_and_version_decide_and_the_own_engine_is_not_named(fake: FakeVllm, tmp_path: Path) -> None:
    own = {**SETTINGS, "engine": "own"}
    evaluate(config_for(tmp_path / "own", **own))
    fingerprint, _ = read_stage(tmp_path / "own/chat/arithmetic/answers")
    assert "engine" not in json.dumps(fingerprint)
    with pytest.raises(RunMismatch, match='engine_version: null there, "9.1" now'):
        evaluate(config_for(tmp_path / "own", **SETTINGS))
    evaluate(config_for(tmp_path / "out", **SETTINGS))
    fake.set_version("9.2")
    with pytest.raises(RunMismatch, match='engine_version: "9.1" there, "9.2" now'):
        evaluate(config_for(tmp_path / "out", **SETTINGS))


def test_an_interrupted_evaluation_continues_with_another_child(fake: FakeVllm, tmp_path: Path) -> None:
    config = config_for(tmp_path / "out", **{**SETTINGS, "answer_batch_size": 2})
    evaluate(config_for(tmp_path / "whole", **SETTINGS))
    fake.set_faults(step="out of order", always=True)
    with pytest.raises(ModelError, match="out of order"):
        evaluate(config)
    fake.set_faults()
    evaluate(config)
    whole, continued = answers(tmp_path / "whole"), answers(tmp_path / "out")
    assert {key: row.output_ids for key, row in continued.items()} == {
        key: row.output_ids for key, row in whole.items()
    }


def test_choices_are_scored_here_and_vllm_is_ended_before(
    fake: FakeVllm, random_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> Any:
        living = [process for process in psutil.Process().children() if str(vllm_engine.CHILD) in process.cmdline()]
        assert not living, "both may not fit in memory"
        return load_model(*arguments)

    monkeypatch.setattr(engines, "load_model", load)
    rows = [{"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}]
    (tmp_path / "arc_challenge").mkdir()
    (tmp_path / "arc_challenge" / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {**SETTINGS, "benchmarks": ("arithmetic", "arc_challenge"), "data_dir": tmp_path}
    found = evaluate(config_for(tmp_path / "out", str(random_expert), **settings))
    assert found["likelihood/arc_challenge"]["total"] == 1
    assert len(fake.seen("arguments")) == 1
    fingerprint, _ = read_stage(tmp_path / "out/likelihood/arc_challenge/choices")
    assert "engine" not in json.dumps(fingerprint)


def test_a_baseline_answers_with_vllm(fake: FakeVllm, tmp_path: Path) -> None:
    def config(out: str, **changes: Any) -> BaselineConfig:
        settings = {"kind": "rejection-sft", "model": "miniature/expert", "dataset": "arithmetic", "max_questions": 4}
        return BaselineConfig(**{**settings, "max_new_tokens": 10, "out": tmp_path / out, "engine": "vllm", **changes})

    with pytest.raises(Exception, match="none of 4 answers is right and complete"):
        baseline(config("out"))
    assert len(fake.seen("sampling")) == 4
    written = json.loads((tmp_path / "out/sample/manifest.json").read_text())["fingerprint"]
    assert (written["engine"], written["engine_version"]) == ("vllm", "9.1")
    baseline(config("own", kind="ground-truth", engine="own"))
    written = json.loads((tmp_path / "own/sample/manifest.json").read_text())["fingerprint"]
    assert not {"engine", "engine_version"} & written.keys()


def test_contrastive_decoding_needs_the_own_engine() -> None:
    with pytest.raises(ConfigError, match="contrast_with needs both distributions at each token"):
        EvaluateConfig(model="m", out=Path("o"), contrast_with="n", engine="vllm")


def test_the_identity_names_an_engine_that_is_not_the_own_one_and_never_a_python() -> None:
    pair: dict[str, Any] = {"expert": "e", "amateur": "a", "dataset": "d", "out": Path("o")}
    for kind in (SampleConfig, RunConfig):
        own, other = kind(**pair), kind(**pair, engine="vllm", engine_python="p")
        assert not [name for name in own.identity() if "engine" in name]
        assert other.identity() == {**own.identity(), "engine": "vllm"}
        assert "--engine" in other.flags()
        assert not {"--engine", "--engine-python"} & {*own.flags()}
        assert "--engine-python" not in other.flags()


@pytest.mark.parametrize("change", [{}, {"stop_strings": ("5", "?", "A", "P")}])
def test_rollouts_come_from_vllm_and_every_number_from_here(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    def config(out: str, **changes: Any) -> SampleConfig:
        pair = {"expert": "miniature/expert", "amateur": "miniature/base", "dataset": "arithmetic", "engine": "vllm"}
        small = {"max_questions": 6, "max_new_tokens": 12, "dtype": "float32", "divergence_beta": None}
        return SampleConfig.checked({**pair, **small, "out": tmp_path / out, **change, **changes})

    def load(found: FoundPair, source: Any) -> Any:
        living = [process for process in psutil.Process().children() if str(vllm_engine.CHILD) in process.cmdline()]
        assert not living, "all three may not fit in memory"
        return load_one(found, source)

    load_one = FoundPair.load_one
    monkeypatch.setattr(FoundPair, "load_one", load)
    sample(config("together", residency="together"))
    sample(config("sequential", residency="sequential"))
    assert len(fake.seen("sampling")) == 12
    before, after = (read_stage(tmp_path / name / "sample")[1] for name in ("together", "sequential"))
    assert before.digest == after.digest
    rows = [row for table in before.tables("rollouts") for row in table.to_pylist()]
    for row in rows:
        ids = row["response_ids"]
        assert ids == [token(row["prompt_ids"], place) for place in range(len(ids))]
        assert all(value >= 0 for value in row["kl"])
    assert any(len(row["response_ids"]) < 12 for row in rows) == bool(change)
    assert before.manifest["fingerprint"]["engine_version"] == "9.1"
    assert not [path for name in ("together", "sequential") for path in (tmp_path / name).glob("sample-*")]


def test_scoring_that_failed_is_repeated_without_generating_again(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"expert": "miniature/expert", "amateur": "miniature/base", "dataset": "arithmetic", "engine": "vllm"}
    config = SampleConfig.checked({**pair, "max_questions": 4, "max_new_tokens": 8, "out": tmp_path, "batch_size": 2})

    def fail(*_: Any) -> Any:
        raise ModelError("no such device")

    with monkeypatch.context() as patched:
        patched.setattr(FoundPair, "load_one", fail)
        with pytest.raises(ModelError, match="no such device"):
            sample(config)
    fake.set_faults(load="kill", always=True)
    assert sample(config)["questions"] == 4


def test_copies_of_gguf_models_that_killed_processes_left_are_removed(
    fake: FakeVllm, random_expert: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").touch()
    source = ModelSource("a model", tmp_path, gguf_file="model.gguf")
    served = engines.ServedByVllm(source, EngineSettings(dtype="float32"), tokenizer, tmp_path)
    prefix, dead = engines.ServedByVllm._PREFIX, 2**22 + 1  # above the largest process id
    for name in (f"{prefix}{dead}", f".{prefix}{dead}.tmp", f"{prefix}1", f"{prefix}other-{dead}"):
        (tmp_path / name).mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engines, "load_model", lambda *_: AutoModelForCausalLM.from_pretrained(random_expert))
        copy = served._weights()
    assert (copy / "model.safetensors").is_file()
    left = {path.name for path in tmp_path.iterdir() if "vllm-model" in path.name}
    assert left == {f"{prefix}1", f"{prefix}other-{dead}", copy.name}, "those of living processes and other machines"
    served.close()
    assert not copy.exists()


def test_the_doctor_says_which_vllm_there_is_or_what_is_missing(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (found,) = [finding for finding in examine(DoctorConfig(engine="vllm"))["findings"] if finding["what"] == "vllm"]
    assert (found["verdict"], found["seen"].partition(" in ")[0]) == ("ok", "9.1")
    missing = examine(DoctorConfig(engine="vllm", engine_python=tmp_path / "python"))
    assert not missing["fit"]
    assert any("cannot be run" in finding["seen"] for finding in missing["findings"])


# --- Adapters ---


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, random_expert: Path) -> Path:
    """A random adapter of rank 5 on the random expert, and beside it both merged."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("adapter")
    model: Any = AutoModelForCausalLM.from_pretrained(random_expert, dtype=torch.float32)
    lora = LoraConfig(task_type="CAUSAL_LM", r=5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, lora)
    adapted.save_pretrained(folder / "adapter")
    shutil.copytree(random_expert, folder / "merged")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    return folder / "adapter"


def test_a_model_with_an_adapter_answers_as_both_merged(adapter: Path, random_expert: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_items": 12, "max_answer_tokens": 16}
    evaluate(config_for(tmp_path / "adapter", str(random_expert), adapter=adapter, **settings))
    evaluate(config_for(tmp_path / "merged", str(adapter.parent / "merged"), **settings))
    evaluate(config_for(tmp_path / "base", str(random_expert), **settings))
    one, other, base = (
        {key: row.output_ids for key, row in answers(tmp_path / name).items()} for name in ("adapter", "merged", "base")
    )
    assert one == other
    assert one != base


def test_vllm_serves_an_adapter_by_request(fake: FakeVllm, adapter: Path, random_expert: Path, tmp_path: Path) -> None:
    evaluate(config_for(tmp_path / "out", str(random_expert), adapter=adapter, **SETTINGS))
    (arguments,) = fake.seen("arguments")
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 8)
    assert {sampling["lora"] for sampling in fake.seen("sampling")} == {str(adapter)}


def test_vllm_serves_the_adapter_of_an_expert_that_samples(
    fake: FakeVllm, adapter: Path, random_expert: Path, tmp_path: Path
) -> None:
    pair = {"expert": str(random_expert), "amateur": str(random_expert), "dataset": "arithmetic", "engine": "vllm"}
    small = {"max_questions": 4, "max_new_tokens": 8, "divergence_beta": None, "dtype": "float32"}
    sample(SampleConfig.checked({**pair, **small, "adapter": adapter, "out": tmp_path}))
    assert {sampling["lora"] for sampling in fake.seen("sampling")} == {str(adapter)}
    (table,) = read_stage(tmp_path / "sample")[1].tables("rollouts")
    assert max(value for row in table["kl"].to_pylist() for value in row) > 0, "the scores are those of the adapter too"


def test_another_adapter_is_another_model_and_an_unusable_one_is_refused(
    adapter: Path, random_expert: Path, tmp_path: Path
) -> None:
    own = tmp_path / "adapter"
    shutil.copytree(adapter, own)
    settings: dict[str, Any] = {"max_items": 2, "max_answer_tokens": 4, "adapter": own}
    config = config_for(tmp_path / "out", str(random_expert), **settings)
    evaluate(config)
    content = json.loads((own / "adapter_config.json").read_text())
    (own / "adapter_config.json").write_text(json.dumps({**content, "lora_alpha": 99}))
    with pytest.raises(RunMismatch, match="adapter_config.json of the adapter: other content now"):
        evaluate(config)
    with pytest.raises(RunMismatch, match="adapter_model.safetensors of the adapter: not there now"):
        evaluate(config.model_copy(update={"adapter": None}))
    (tmp_path / "run/finetune").mkdir(parents=True)
    own.rename(tmp_path / "run/finetune/adapter")
    with pytest.raises(RunCorrupted):
        evaluate(config.model_copy(update={"adapter": tmp_path / "run"}))
