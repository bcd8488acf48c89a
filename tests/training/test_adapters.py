"""LoRA targets are checked before a training; a saved adapter is whole, or refused."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import FalconConfig, FalconForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from lightreasoner.config import FinetuneConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import ConfigError, DataError, LightReasonerError, ModelError
from lightreasoner.models.adapters import load_adapter
from lightreasoner.models.loading import load_model
from lightreasoner.models.source import find_model
from lightreasoner.training import finetuning
from lightreasoner.training.adapters import attach_lora, check_targets
from lightreasoner.training.finetuning import finetune

from .conftest import adapter_of, config_for

Weights = dict[str, torch.Tensor]
NOWHERE = Path("nowhere")


def config_of(model: Path, *targets: str) -> FinetuneConfig:
    return FinetuneConfig(model=str(model), data=NOWHERE, out=NOWHERE, lora_targets=targets, device="cpu")


def check(model: Path, *targets: str, to_merge: bool = False) -> None:
    check_targets(config_of(model, *targets), targets, to_merge=to_merge)


def base_of(model: Path) -> PreTrainedModel:
    return load_model(find_model(str(model)), MachineSettings(dtype="float32", device="cpu"))


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (("q_proj", "v_porj"), "no LoRA on v_porj: .* did you mean v_proj"),
        (("v_porj", "q_proj"), "no LoRA on v_porj"),
        (("q_proj", "self_attn.k_prj"), "no LoRA on self_attn.k_prj: .* did you mean k_proj"),
        (("q_proj", "query_key_value"), "known modules: down_proj, embed_tokens, gate_proj, k_proj, lm_head"),
        (("q_proj", "mlp"), "model.layers.0.mlp is a Qwen2MLP"),
        (("q_proj", "norm"), "no linear layer or embedding"),
        (("q_proj", "roj"), "no LoRA on roj"),
        (("q_proj", "layers.7.self_attn.v_proj"), "no LoRA on layers.7.self_attn.v_proj"),
        ((r".*\.(q|v)_porj",), "no LoRA on"),
        (("*_proj",), "not a regular expression"),
        (("q_proj", r".*v_proj"), "no LoRA on"),
    ],
)
def test_every_target_must_be_a_module(targets: tuple[str, ...], words: str, random_expert: Path) -> None:
    with pytest.raises(ModelError, match=words):
        check(random_expert, *targets)


@pytest.mark.parametrize("targets", [(), ("all-linear", "q_proj")])
def test_targets_that_mean_nothing_together_are_refused(targets: tuple[str, ...], random_expert: Path) -> None:
    with pytest.raises(ConfigError, match="--lora-targets"):
        check(random_expert, *targets)


@pytest.mark.parametrize(
    ("targets", "modules"),
    [
        (("q_proj", "v_proj"), 4),
        (("self_attn.q_proj",), 2),
        (("layers.1.self_attn.v_proj", "down_proj"), 3),
        (("all-linear",), 14),
        ((r".*layers\.1\..*(q|v)_proj",), 2),
    ],
)
def test_names_paths_regular_expressions_and_all_linear_are_accepted(
    targets: tuple[str, ...], modules: int, random_expert: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(random_expert, *targets, to_merge=True)
        adapted = attach_lora(base_of(random_expert), config_of(random_expert, *targets))
    assert (
        sum("lora_B" in name and parameter.requires_grad for name, parameter in adapted.named_parameters()) == modules
    )


def test_models_with_fused_projections_name_their_own_modules(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / "gpt2")
    falcon = FalconConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    FalconForCausalLM(falcon).save_pretrained(tmp_path / "falcon")
    for name, module in (("gpt2", "c_attn"), ("falcon", "query_key_value")):
        check(tmp_path / name, module)
        with pytest.raises(ModelError, match=f"no LoRA on q_proj: .* [Kk]nown modules: .*{module}"):
            check(tmp_path / name, "q_proj", "v_proj")


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_one_of_two_tied_matrices_is_refused_before_a_merge(
    target: str, random_expert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=f"{target}: embeddings and head of this model are one matrix"):
        check(random_expert, "q_proj", target, to_merge=True)
    check(random_expert, "q_proj", target)
    assert "`lightr merge` will refuse it" in capsys.readouterr().err


def test_targets_are_checked_before_weights_are_read(
    random_expert: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("lightreasoner.models.loading.load_model")
    with pytest.raises(ModelError, match="did you mean v_proj"):
        finetune(config_for(samples, random_expert, tmp_path, lora_targets=("q_proj", "v_porj")))
    assert not (tmp_path / "finetune").exists()


@pytest.fixture
def adapter(random_expert: Path, tmp_path: Path) -> Path:
    """A saved adapter of the random expert."""
    adapted = attach_lora(base_of(random_expert), config_of(random_expert, "q_proj", "v_proj"))
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    return tmp_path / "adapter"


def half(weights: Weights) -> Weights:
    return {name: weight for name, weight in weights.items() if "lora_A" in name}


def wider(weights: Weights) -> Weights:
    return {name: torch.zeros(*weight.shape[:-1], 2 * weight.shape[-1]) for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (half, "4 weights are missing and 0 are unknown"),
        (wider, r"lora_A.weight is \[8, 64\], and \[8, 32\] is needed"),
        (lambda weights: {}, "8 weights are missing"),
        (lambda weights: {f"_orig_mod.{name}": weight for name, weight in weights.items()}, "8 are unknown"),
        (lambda weights: {**weights, "more.lora_A.weight": torch.zeros(1)}, "1 are unknown"),
        (lambda weights: {name: weight * torch.nan for name, weight in weights.items()}, "NaN or infinite"),
    ],
)
def test_an_adapter_that_is_not_whole_is_refused(
    edit: Callable[[Weights], Weights], words: str, adapter: Path, random_expert: Path
) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})
    with pytest.raises(LightReasonerError, match=words) as refused:
        load_adapter(base_of(random_expert), adapter, "the base")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("adapter_model.safetensors", b"", "cannot be read"),
        ("adapter_model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("adapter_config.json", b"{", "cannot be put on the base"),
        ("adapter_config.json", b"[]", "cannot be put on the base"),
        ("adapter_config.json", b'{"peft_type": "NO_SUCH"}', "NO_SUCH"),
    ],
)
def test_damaged_files_of_an_adapter_are_refused(
    file: str, content: bytes, words: str, adapter: Path, random_expert: Path
) -> None:
    (adapter / file).write_bytes(content)
    with pytest.raises(LightReasonerError, match=words) as refused:
        load_adapter(base_of(random_expert), adapter, "the base")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "embed_tokens"]])
def test_embeddings_that_peft_saves_beside_an_adapter_are_used(
    targets: list[str], random_expert: Path, tmp_path: Path
) -> None:
    trained = get_peft_model(base_of(random_expert), LoraConfig(task_type="CAUSAL_LM", target_modules=targets))
    embeddings = cast(Any, trained).get_input_embeddings()
    with torch.no_grad():
        embeddings.weight[5] += 1  # such as that of a token that was added
    trained.save_pretrained(str(tmp_path), save_embedding_layers=True)
    assert any("embed_tokens" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    adapted: Any = load_adapter(base_of(random_expert), tmp_path, "the base")
    assert torch.equal(adapted.get_input_embeddings().weight, embeddings.weight)


def test_two_different_matrices_for_a_tied_one_are_refused(adapter: Path, random_expert: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    embeddings = base_of(random_expert).get_input_embeddings().weight.detach()
    names = ("base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight")
    saved = {names[0]: embeddings.clone(), names[1]: embeddings + 1}
    save_file({**load_file(file), **saved}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="has other values than the matrix that the base uses"):
        load_adapter(base_of(random_expert), adapter, "the base")


def test_what_peft_says_about_an_adapter_is_one_line(
    adapter: Path, random_expert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "of_a_newer_version": 1}))
    load_adapter(base_of(random_expert), adapter, "the base")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the adapter in ")
    assert "of_a_newer_version" in line


def test_an_adapter_with_biases_is_loaded_without_warnings(
    random_expert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_bias=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(base_of(random_expert), settings).save_pretrained(str(tmp_path), save_embedding_layers=False)
        capsys.readouterr()
        warnings.simplefilter("error")
        load_adapter(base_of(random_expert), tmp_path, "the base")
    assert "warning" not in capsys.readouterr().err


def test_an_adapter_without_its_settings_is_refused(adapter: Path, random_expert: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(DataError, match=r"no adapter_config.json"):
        load_adapter(base_of(random_expert), adapter, "the base")


def test_an_adapter_that_has_no_merged_form_is_refused(random_expert: Path, tmp_path: Path) -> None:
    settings = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(base_of(random_expert), settings).save_pretrained(tmp_path, save_embedding_layers=False)
    with pytest.raises(ModelError, match="PREFIX_TUNING, which has no merged form"):
        load_adapter(base_of(random_expert), tmp_path, "the base")


def test_a_resumed_training_needs_the_whole_adapter(random_expert: Path, samples: Path, tmp_path: Path) -> None:
    from lightreasoner.runs.files import file_hash

    config = config_for(samples, random_expert, tmp_path, steps=4, save_steps=2)
    finetune(config)
    stage = tmp_path / "finetune"
    shutil.rmtree(stage / "adapter")
    (stage / "result.json").unlink()
    for checkpoint in stage.glob("checkpoint-*"):
        file, complete = checkpoint / "adapter_model.safetensors", checkpoint / "complete.json"
        save_file(half(load_file(file)), file, metadata={"format": "pt"})
        complete.write_text(json.dumps({**json.loads(complete.read_text()), file.name: file_hash(file)}))
    with pytest.raises(LightReasonerError, match="not the adapter of this training: 4 weights are missing"):
        finetune(config)


def test_the_api_shows_no_warnings_of_libraries(
    random_expert: Path, samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(config_for(samples, random_expert, tmp_path / "run", lora_targets=("q_proj", "embed_tokens")))
        adapter = tmp_path / "run" / "finetune" / "adapter"
        load_adapter(base_of(random_expert), adapter, "the base")
    said = capsys.readouterr().err
    assert len(re.findall("one matrix", said)) == 1
    assert LoraConfig.from_pretrained(str(adapter)).target_modules == {"q_proj", "embed_tokens"}


# --- Continued adapters ---


def test_a_continued_adapter_starts_where_the_first_training_ended(
    random_expert: Path, samples: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finetune(config_for(samples, random_expert, tmp_path / "first"))
    assert "without an adapter" not in caplog.text
    finetune(config_for(samples, random_expert, tmp_path / "same", adapter=tmp_path / "first", learning_rate=1e-30))
    assert f"and not where it does with {tmp_path / 'first'}" in caplog.text
    for name, weight in adapter_of(tmp_path / "first").items():
        assert torch.equal(weight, adapter_of(tmp_path / "same")[name]), "no step of this size changes a number"
    settings = [(tmp_path / name / "finetune/adapter/adapter_config.json").read_text() for name in ("first", "same")]
    assert settings[0] == settings[1]
    result = finetune(config_for(samples, random_expert, tmp_path / "on", adapter=tmp_path / "first", lora_dropout=0.0))
    first = json.loads((tmp_path / "first/finetune/log.json").read_text())
    assert result["first_loss"] < first[0]["loss"]
    assert any(
        not torch.equal(weight, adapter_of(tmp_path / "on")[name])
        for name, weight in adapter_of(tmp_path / "first").items()
    )


def test_a_continued_training_that_was_stopped_equals_one_that_was_not(
    random_expert: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune(config_for(samples, random_expert, tmp_path / "first"))
    whole = config_for(samples, random_expert, tmp_path / "whole", adapter=tmp_path / "first")
    cut = whole.model_copy(update={"out": tmp_path / "cut"})
    finetune(whole)
    with monkeypatch.context() as patched:
        patched.setattr("lightreasoner.training.finetuning._clipped_norm", _fails_at(4))
        with pytest.raises(RuntimeError, match="power cut"):
            finetune(cut)
    assert (tmp_path / "cut/finetune/checkpoint-2").exists()
    assert finetune(cut)["adapter_sha256"] == finetune(whole)["adapter_sha256"]


def _fails_at(turn: int) -> Callable[..., float]:
    turns, clip = iter(range(1, turn + 1)), finetuning._clipped_norm

    def clipped_norm(*arguments: Any) -> float:
        if next(turns) == turn:
            raise RuntimeError("power cut")
        return clip(*arguments)

    return clipped_norm


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lora_rank": 4}, "r is 8 there, and 4 in these settings"),
        ({"lora_alpha": 32}, "lora_alpha is 16.* there, and 32.* in these settings"),
        (
            {"lora_targets": ("q_proj", "k_proj")},
            r"it is on q_proj, v_proj \(4 modules\), and --lora-targets names k_proj, q_proj \(4 modules\)",
        ),
        ({"lora_targets": ("layers.1.self_attn.q_proj",)}, r"\(4 modules\), and --lora-targets names q_proj \(1 mod"),
    ],
)
def test_an_adapter_of_other_settings_is_not_continued(
    settings: dict[str, Any], words: str, first: Path, random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        finetune(config_for(samples, random_expert, tmp_path, adapter=first, **settings))
    assert not (tmp_path / "finetune").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora is True there, and False"),
        ({"peft_type": "ADALORA"}, "peft_type is ADALORA there, and LORA"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is pissa"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is {'q_proj': 2} there"),
    ],
)
def test_an_adapter_of_another_kind_is_not_continued(
    changes: dict[str, Any], words: str, first: Path, random_expert: Path, samples: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(first / "finetune/adapter", tmp_path / "other")
    content = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(content | changes))
    with pytest.raises(ConfigError, match=words):
        finetune(config_for(samples, random_expert, tmp_path / "out", adapter=other))


def test_a_damaged_adapter_is_not_continued(first: Path, random_expert: Path, samples: Path, tmp_path: Path) -> None:
    other = shutil.copytree(first / "finetune/adapter", tmp_path / "other")
    weights = other / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        finetune(config_for(samples, random_expert, tmp_path / "out", adapter=other))


def test_targets_may_be_named_otherwise(first: Path, random_expert: Path, samples: Path, tmp_path: Path) -> None:
    config = config_for(samples, random_expert, tmp_path, adapter=first, lora_targets=(r".*(q|v)_proj",))
    assert finetune(config)["steps"] == 6


@pytest.fixture(scope="module")
def first(random_expert: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("first")
    finetune(config_for(samples, random_expert, out))
    return out
