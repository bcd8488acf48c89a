"""Stage 3: the merged folder computes what base + adapter computes, or is not made."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightreasoner.config import FinetuneConfig, MergeConfig, SampleConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import DataError, MergeMismatch, ModelError, RunCorrupted, RunMismatch
from lightreasoner.models.adapters import without_warnings
from lightreasoner.models.loading import load_model
from lightreasoner.models.source import find_model
from lightreasoner.samples.sampling import sample
from lightreasoner.training import merging
from lightreasoner.training.finetuning import finetune
from lightreasoner.training.merging import merge


@pytest.fixture(scope="module")
def run(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a trained adapter."""
    out = tmp_path_factory.mktemp("run")
    pair = {"expert": str(random_expert), "amateur": str(random_amateur), "dataset": "arithmetic"}
    sample(SampleConfig(**pair, max_questions=8, max_new_tokens=8, out=out, dtype="float32"))
    tuning = {"steps": 20, "learning_rate": 1e-2, "dtype": "float32"}
    finetune(FinetuneConfig(model=str(random_expert), data=out, out=out, **tuning))
    return out


def config_for(run: Path, expert: Path, out: Path, **settings: str) -> MergeConfig:
    return MergeConfig(model=str(expert), adapter=run, out=out, device="cpu", **settings)


@torch.inference_mode()
def log_probabilities(model: torch.nn.Module) -> torch.Tensor:
    return model(torch.arange(50)[None]).logits.float().log_softmax(-1)


def test_the_merged_folder_is_base_plus_adapter(run: Path, random_expert: Path, tmp_path: Path) -> None:
    result = merge(config_for(run, random_expert, tmp_path / "merged"))
    assert result["mean_kl"] < 1e-6
    assert result["top1_agreement"] == 1.0
    base = load_model(find_model(str(random_expert)), MachineSettings(dtype="float32", device="cpu"))
    untouched = log_probabilities(base)
    expected = log_probabilities(PeftModel.from_pretrained(base, run / "finetune" / "adapter"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(log_probabilities(merged), expected, rtol=1e-4, atol=1e-4)
    assert (expected - untouched).abs().max() > 0.1, "the adapter changes nothing, so this test is void"
    assert not any("lora" in name for name in merged.state_dict())


def test_the_folder_is_complete(run: Path, random_expert: Path, tmp_path: Path) -> None:
    merge(config_for(run, random_expert, tmp_path / "merged"))
    files = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files
    assert not any(path.name.startswith(".merged") for path in tmp_path.iterdir())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in generation["eos_token_id"]
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "lightr sample --expert" in card
    assert "lightr finetune" in card
    assert "Amateur" in card


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_on_request(run: Path, random_expert: Path, tmp_path: Path, dtype: str) -> None:
    result = merge(config_for(run, random_expert, tmp_path / dtype, merge_dtype=dtype))
    assert 0 < result["mean_kl"] < 1e-2
    weights = load_file(tmp_path / dtype / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, dtype)}


def saved_adapter(model: Path, folder: Path, scale: float, **settings: Any) -> Path:
    """A PEFT adapter with random weights."""
    base = load_model(find_model(str(model)), MachineSettings(dtype="float32", device="cpu"))
    torch.manual_seed(0)
    with without_warnings():
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
        {"target_modules": ["q_proj", "v_proj"], "use_rslora": True},
        {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "bias": "all"},
    ],
)
def test_every_kind_of_adapter_that_merges_rightly_is_merged(
    settings: dict[str, Any], dtype: str, random_expert: Path, tmp_path: Path
) -> None:
    adapter = saved_adapter(random_expert, tmp_path / "adapter", 0.05, **settings)
    result = merge(config_for(adapter, random_expert, tmp_path / "merged", merge_dtype=dtype))
    assert result["mean_kl"] < result["adapter_kl"] / 20
    base = load_model(find_model(str(random_expert)), MachineSettings(dtype="float32", device="cpu"))
    with without_warnings():
        expected = log_probabilities(PeftModel.from_pretrained(base, adapter))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    kl = (expected.exp() * (expected - log_probabilities(merged))).sum(-1).mean().item()
    assert kl < {"float32": 1e-5, "float16": 1e-4, "bfloat16": 5e-3}[dtype]
    has_own_head = merged.lm_head.weight is not merged.model.embed_tokens.weight
    assert has_own_head == ("modules_to_save" in settings)
    assert merged.config.tie_word_embeddings != has_own_head


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
@pytest.mark.parametrize("scale", [1e-3, 1e-2])
def test_sixteen_bits_do_not_hide_a_wrong_merge(
    target: str, dtype: str, scale: float, random_expert: Path, tmp_path: Path
) -> None:
    """With tied weights, the merge of an adapter on one matrix changes the other."""
    adapter = saved_adapter(random_expert, tmp_path / "adapter", scale, target_modules=[target])
    with pytest.raises(MergeMismatch, match="not base \\+ adapter.*in float32.*are one matrix"):
        merge(config_for(adapter, random_expert, tmp_path / "merged", merge_dtype=dtype))
    assert not (tmp_path / "merged").exists()


def test_rounding_that_hides_the_adapter_is_said(
    random_expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = saved_adapter(random_expert, tmp_path / "adapter", 1e-4, target_modules=["q_proj"])
    result = merge(config_for(adapter, random_expert, tmp_path / "merged", merge_dtype="bfloat16"))
    assert result["mean_kl"] > result["adapter_kl"] / 10
    assert "rounding to bfloat16 changes the model by" in capsys.readouterr().err


def test_an_adapter_that_changes_nothing_is_said(
    run: Path, random_expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(run / "finetune" / "adapter", tmp_path / "fresh")
    file = adapter / "adapter_model.safetensors"
    weights = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    assert merge(config_for(adapter, random_expert, tmp_path / "merged"))["adapter_kl"] == 0
    assert "changes nothing; its training had no effect" in capsys.readouterr().err


def test_an_adapter_in_a_pickle_is_refused_as_one(random_expert: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="needs safetensors, and there is only adapter_model.bin"):
        merge(config_for(tmp_path, random_expert, tmp_path / "merged"))


@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ({"do_sample": False, "temperature": 0.9, "eos_token_id": 5}, "temperature"),
        ({"num_return_sequences": 4, "early_stopping": "perhaps", "eos_token_id": 5}, "early_stopping, num_return_seq"),
    ],
)
def test_contradicting_generation_settings_are_dropped_and_said(
    settings: dict[str, Any],
    dropped: str,
    run: Path,
    random_expert: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base = tmp_path / "base"
    shutil.copytree(random_expert, base)
    (base / "generation_config.json").write_text(json.dumps(settings))
    merge(config_for(run / "finetune" / "adapter", base, tmp_path / "merged"))
    assert f"contradict others or are invalid ({dropped}" in capsys.readouterr().err
    merged = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert 5 in merged["eos_token_id"]
    assert merged.keys() & {"temperature", "num_return_sequences", "early_stopping"} == set()


def test_a_base_that_cannot_be_saved_is_refused_before_the_work(
    run: Path, random_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("an attribute\nthat cannot be saved")

    monkeypatch.setattr("transformers.PretrainedConfig.save_pretrained", refuse)
    monkeypatch.delattr("lightreasoner.training.merging.load_model")
    with pytest.raises(ModelError, match="cannot be saved: an attribute that cannot be saved"):
        merge(config_for(run, random_expert, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_weights_in_a_precision_without_arithmetic_need_a_merge_dtype(random_expert: Path, tmp_path: Path) -> None:
    adapter = saved_adapter(random_expert, tmp_path / "adapter", 0.05, target_modules=["q_proj"])
    base = tmp_path / "base"
    shutil.copytree(random_expert, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "dtype": "float8_e4m3fn"}))
    with pytest.raises(ModelError, match="are float8_e4m3fn, in which nothing can be merged; give --merge-dtype"):
        merge(config_for(adapter, base, tmp_path / "merged"))


def test_merging_again_changes_nothing(run: Path, random_expert: Path, tmp_path: Path) -> None:
    config = config_for(run, random_expert, tmp_path / "merged")
    first = merge(config)
    stamp = (tmp_path / "merged" / "model.safetensors").stat().st_mtime_ns
    assert merge(config) == first
    assert (tmp_path / "merged" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_folder_with_other_content_is_left_alone(run: Path, random_expert: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunMismatch, match="left alone"):
        merge(config_for(run, random_expert, tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_merge_that_differs_from_base_plus_adapter_is_not_kept(
    run: Path, random_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = merging.load_model

    def damaged(*arguments: object, **options: object) -> object:
        model = original(*arguments, **options)  # type: ignore[arg-type]
        if str(arguments[0].folder).endswith(".tmp"):  # type: ignore[attr-defined]
            with torch.no_grad():
                model.model.norm.weight.mul_(1.5)
        return model

    monkeypatch.setattr(merging, "load_model", damaged)
    with pytest.raises(MergeMismatch, match="not base \\+ adapter"):
        merge(config_for(run, random_expert, tmp_path / "merged"))
    assert not (tmp_path / "merged").exists()


def test_a_flipped_bit_in_the_adapter_is_refused(run: Path, random_expert: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    weights = copied / "finetune" / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RunCorrupted, match="not the file that fine-tuning wrote"):
        merge(config_for(copied, random_expert, tmp_path / "merged"))


def test_missing_adapter_weights_are_refused(run: Path, random_expert: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "finetune" / "adapter", tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are missing"):
        merge(config_for(tmp_path / "adapter", random_expert, tmp_path / "merged"))


def test_an_adapter_of_another_base_is_refused(run: Path, random_amateur: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="trained on"):
        merge(config_for(run, random_amateur, tmp_path / "merged"))
    with pytest.raises(DataError, match="no adapter_model.safetensors"):
        merge(config_for(tmp_path, random_amateur, tmp_path / "merged"))


def test_an_adapter_that_names_another_base_is_said(
    run: Path, random_expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = shutil.copytree(run / "finetune" / "adapter", tmp_path / "copied")
    merge(config_for(adapter, random_expert, tmp_path / "merged"))
    assert "says that it was trained on" not in capsys.readouterr().err
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = "owner/Other-7B"
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    merge(config_for(adapter, random_expert, tmp_path / "again"))
    assert "says that it was trained on owner/Other-7B" in capsys.readouterr().err


def test_the_merged_model_can_have_the_chat_template_of_the_samples(
    random_expert: Path, random_amateur: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    pair = {"expert": str(random_expert), "amateur": str(random_amateur), "dataset": "arithmetic"}
    out = tmp_path / "run"
    sample(SampleConfig(**pair, max_questions=4, max_new_tokens=8, out=out, dtype="float32", chat_template=template))
    finetune(FinetuneConfig(model=str(random_expert), data=out, out=out, steps=2, dtype="float32"))
    merge(config_for(out, random_expert, tmp_path / "plain"))
    assert "made with another chat template" in capsys.readouterr().err
    merge(config_for(out, random_expert, tmp_path / "merged", chat_template=str(template)))
    assert "made with another chat template" not in capsys.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == template.read_text()
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    stops = generation["eos_token_id"] if isinstance(generation["eos_token_id"], list) else [generation["eos_token_id"]]
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") in stops
