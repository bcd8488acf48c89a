"""QLoRA: the base is tuned in 4 bits, and the adapter is merged into the unquantised weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM, set_seed

from lightreasoner.config import MachineSettings, MergeConfig, RunConfig, SampleConfig
from lightreasoner.errors import ModelError
from lightreasoner.models import quantising
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.quantising import check_4bit, load_in_4bit
from lightreasoner.models.source import find_model
from lightreasoner.pipeline import check
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import check_machine, finetune
from lightreasoner.training.merging import merge

from .conftest import adapter_of, config_for

CPU = MachineSettings(dtype="float32", device="cpu")
NF4_ERROR = 0.0921  # norm of the error of normal weights in blocks of 64, relative to their norm
needs_bitsandbytes = pytest.mark.skipif(not quantising.can_quantise(), reason="bitsandbytes is not installed")


def save_model(folder: Path, like: Path, hidden: int, intermediate: int) -> Path:
    """A random model with linear layers of these two widths, tied embeddings and the tokenizer of another."""
    tokenizer = load_tokenizer(find_model(str(like)))
    set_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expert(random_expert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 64 weights, and of 160 in `down_proj`."""
    return save_model(tmp_path_factory.mktemp("expert"), random_expert, 64, 160)


@torch.no_grad()
def weight_error(model: torch.nn.Module, whole: torch.nn.Module, name: str) -> float:
    """Norm of the error of a layer's weights, as they act on inputs, relative to the norm of the weights."""
    layer, expected = model.get_submodule(name), whole.get_submodule(name).weight
    found = layer(torch.eye(expected.shape[1])) - (0 if layer.bias is None else layer.bias)
    return float((found - expected.T).norm() / expected.norm())


@needs_bitsandbytes
def test_each_layer_is_within_the_error_of_nf4_or_untouched(expert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = find_model(str(expert))
    whole, model = load_model(source, CPU), load_in_4bit(source, CPU)
    said = capsys.readouterr().err
    assert "2 linear layers are not in 4 bits" in said
    assert "down_proj: 160" in said
    names = [name for name, _ in whole.named_modules() if name.endswith("_proj")]
    assert len(names) == 14
    for name in names:
        four_bits = type(model.get_submodule(name).weight).__name__ == "Params4bit"
        assert four_bits == ("down_proj" not in name)
        expected = pytest.approx(NF4_ERROR, rel=0.1) if four_bits else pytest.approx(0, abs=1e-6)
        assert weight_error(model, whole, name) == expected, name
    for name, weight in model.named_parameters():
        if "_proj.weight" not in name:
            assert torch.equal(weight, whole.get_parameter(name)), name
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        first = model(ids).logits
        assert torch.equal(model(ids).logits, first), "inference changed the weights"


@needs_bitsandbytes
def test_a_model_without_suitable_layers_is_refused(random_expert: Path, tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=600, n_embd=64, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"no linear layer whose width is .* \(it has no such layer\)"):
        load_in_4bit(find_model(str(tmp_path)), CPU)


@needs_bitsandbytes
def test_a_model_of_unsuitable_widths_alone_is_refused_before_the_run(
    random_expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    narrow = save_model(tmp_path / "narrow", random_expert, 32, 160)
    with pytest.raises(ModelError, match=r"no linear layer whose width is a multiple of 64 \(they are 32, 160 wide\)"):
        load_in_4bit(find_model(str(narrow)), CPU)
    settings = {"dtype": "float32", "dataset": "arithmetic", "evaluate": {"benchmarks": ["arithmetic"]}}
    with pytest.raises(ModelError, match="no linear layer whose width"):
        check(
            RunConfig(
                expert=str(narrow),
                amateur=str(random_amateur),
                out=tmp_path / "run",
                finetune={"load_in_4bit": True},
                **settings,
            )
        )


@pytest.mark.slow
@needs_bitsandbytes
def test_training_in_four_bits_resumes_and_is_merged_into_the_unquantised_base(
    expert: Path, random_amateur: Path, tmp_path: Path
) -> None:
    pair = {"expert": str(expert), "amateur": str(random_amateur), "dataset": "arithmetic", "dtype": "float32"}
    sample(SampleConfig(**pair, max_questions=8, max_new_tokens=8, out=tmp_path / "samples"))
    settings = {"load_in_4bit": True, "steps": 6, "learning_rate": 1e-2, "gradient_checkpointing": True}
    config = config_for(tmp_path / "samples", expert, tmp_path / "whole", **settings)
    result = finetune(config)
    assert result["last_loss"] < result["first_loss"]
    plain = finetune(config.model_copy(update={"load_in_4bit": False, "out": tmp_path / "plain"}))
    assert plain["adapter_sha256"] != result["adapter_sha256"]

    copied = shutil.copytree(tmp_path / "whole", tmp_path / "parts") / "finetune"
    for name in ("adapter", "checkpoint-6"):
        shutil.rmtree(copied / name)
    (copied / "result.json").unlink()
    finetune(config.model_copy(update={"out": tmp_path / "parts"}))
    whole, parts = adapter_of(tmp_path / "whole"), adapter_of(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)

    merged = merge(MergeConfig(model=str(expert), adapter=tmp_path / "whole", out=tmp_path / "merged"))
    assert merged["mean_kl"] < 1e-6, "base + adapter, both unquantised"
    assert merged["quantised_kl"] > merged["mean_kl"]
    assert not list((tmp_path / "merged").glob("*.bin"))


@pytest.mark.slow
@needs_bitsandbytes
def test_a_gguf_base_is_quantised(smollm2_gguf: Path) -> None:
    source = find_model(str(smollm2_gguf))
    whole, model = load_model(source, CPU), load_in_4bit(source, CPU)
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.29.mlp.down_proj"):
        assert weight_error(model, whole, name) == pytest.approx(NF4_ERROR, rel=0.15)
    assert torch.equal(model.get_output_embeddings().weight, whole.get_output_embeddings().weight)


def test_the_setting_counts_in_the_identity_only_where_it_is_set(samples: Path, tmp_path: Path) -> None:
    config = config_for(samples, tmp_path, tmp_path)
    assert "load_in_4bit" not in config.identity()
    quantised = config.model_copy(update={"load_in_4bit": True})
    assert quantised.identity()["load_in_4bit"] is True
    assert "--load-in-4bit" in quantised.flags()


def test_a_quantised_model_is_not_quantised_again(expert: Path, samples: Path, tmp_path: Path) -> None:
    base = shutil.copytree(expert, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="is quantised already"):
        quantising.check_base(find_model(str(base)), CPU)


def test_without_bitsandbytes_nothing_starts(
    random_expert: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantising, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install '\.\[quant\]' in the clone"):
        check_machine(config_for(samples, random_expert, tmp_path, load_in_4bit=True))


@needs_bitsandbytes
def test_a_device_that_bitsandbytes_cannot_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setattr("bitsandbytes.nn.Linear4bit", fails)
    with pytest.raises(ModelError, match="does not work on cpu here .*no kernel"):
        check_4bit(CPU)
