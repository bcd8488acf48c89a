"""All weights that a model needs are in its files, and what its files hold has a place in the model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.constants import GGUFValueType
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from lightreasoner.config import DoctorConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.doctor import examine
from lightreasoner.errors import ModelError
from lightreasoner.models.loading import check_weights, empty_model, load_model
from lightreasoner.models.source import find_model
from lightreasoner.models.weights import refuse_wrong_weights

Weights = dict[str, torch.Tensor]
ON_CPU = MachineSettings(dtype="float32", device="cpu")
QUERY = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def model(random_expert: Path, tmp_path: Path) -> Path:
    """A tied model with two layers, to be changed."""
    shutil.copytree(random_expert, tmp_path / "model")
    return tmp_path / "model"


def edit_weights(model: Path, edit: Callable[[Weights], Weights]) -> None:
    weights = edit(load_file(model / "model.safetensors"))
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def edit_config(model: Path, **values: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **values}))


def split(model: Path) -> dict[str, str]:
    """Split the weights into two files with an index; returns the index."""
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for file in set(files.values()):
        part = {name: weight for name, weight in weights.items() if files[name] == file}
        save_file(part, model / file, metadata={"format": "pt"})
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


def assert_refused(model: Path, *words: str) -> None:
    """Refused when it is loaded, and before, from the files' headers alone."""
    for look in (load_model, check_weights):
        with pytest.raises(ModelError) as refused:
            look(find_model(str(model)), ON_CPU)
        assert [word for word in words if word not in str(refused.value)] == []
        assert "\n" not in str(refused.value)


def assert_accepted(model: Path) -> None:
    count = check_weights(find_model(str(model)), ON_CPU)
    assert count == len(load_file(model / "model.safetensors"))
    load_model(find_model(str(model)), ON_CPU)


def without(weights: Weights, part: str) -> Weights:
    return {name: weight for name, weight in weights.items() if part not in name}


@pytest.mark.parametrize("added", ["_orig_mod.", "module.", "base_model.model."])
def test_names_with_the_prefix_of_training_code_are_refused_and_explained(added: str, model: Path) -> None:
    edit_weights(model, lambda weights: {added + name: weight for name, weight in weights.items()})
    assert_refused(model, "lacks 27 of 27 weights", "random numbers", f"hold '{added}'", "remove it")


def test_the_name_of_a_compiled_layer_is_refused_and_explained(model: Path) -> None:
    edit_weights(
        model, lambda weights: {name.replace("layers.0.", "layers.0._orig_mod."): weights[name] for name in weights}
    )
    assert_refused(model, "lacks 12 of 27 weights", "torch.compile adds")


@pytest.mark.parametrize("name", [QUERY, "model.norm.weight", "model.layers.0.self_attn.k_proj.bias"])
def test_one_missing_weight_is_refused_and_named(name: str, model: Path) -> None:
    edit_weights(model, lambda weights: without(weights, name))
    assert_refused(model, f"lacks 1 of 27 weights ({name})")


def test_a_file_without_weights_is_refused(model: Path) -> None:
    edit_weights(model, lambda weights: {})
    assert_refused(model, "lacks 27 of 27 weights")


def test_a_random_head_is_refused(model: Path) -> None:
    edit_config(model, tie_word_embeddings=False)
    assert_refused(model, "(lm_head.weight)", "set tie_word_embeddings in config.json to true")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"vocab_size": 704}, ("model.embed_tokens.weight is [640, 32] in the file and [704, 32] by config.json",)),
        ({"vocab_size": 600}, ("[600, 32] by config.json",)),
        ({"intermediate_size": 128}, ("(6 weights in all)",)),
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, ("lacks 12 of 39 weights",)),
        ({"num_hidden_layers": 1, "layer_types": ["full_attention"]}, ("leaves out (layers.1)",)),
    ],
)
def test_another_config_than_the_weights_is_refused(
    settings: dict[str, object], words: tuple[str, ...], model: Path
) -> None:
    edit_config(model, **settings)
    assert_refused(model, *words)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "an adapter"),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "an adapter"),
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", "quantised weights"),
    ],
)
def test_trained_weights_without_a_place_are_refused(name: str, word: str, model: Path) -> None:
    edit_weights(model, lambda weights: {**weights, name: torch.zeros(2)})
    assert_refused(model, name, word)


@pytest.mark.parametrize(
    "name", ["mtp.layers.0.proj.weight", "visual.blocks.0.attn.qkv.weight", "v_head.summary.weight", "score.weight"]
)
def test_parts_for_other_tasks_are_left_out_and_said(
    name: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_weights(model, lambda weights: {**weights, name: torch.zeros(2)})
    assert_accepted(model)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "without a place" in line and name in line] == lines
    assert len(lines) == 1


def test_buffers_of_older_versions_are_left_out(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(model, lambda weights: {**weights, name: torch.zeros(4)})
    assert_accepted(model)
    assert capsys.readouterr().err == ""


def test_layers_of_experts_are_compared_and_layers_for_several_tokens_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=50, num_hidden_layers=2, num_local_experts=2, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert_accepted(tmp_path)
    prediction = {f"model.layers.2.{part}.weight": torch.zeros(2) for part in ("input_layernorm", "eh_proj", "enorm")}
    edit_weights(tmp_path, lambda weights: {**weights, **prediction})
    assert_accepted(tmp_path)
    assert "3 weights in its files without a place" in capsys.readouterr().err
    edit_weights(tmp_path, lambda weights: {name: weights[name] for name in weights.keys() - prediction.keys()})
    edit_config(tmp_path, num_hidden_layers=1)
    assert_refused(tmp_path, "leaves out (layers.1)")


def test_a_layer_left_out_is_found_in_files_of_other_versions_too(tmp_path: Path) -> None:
    """GPT-2's files have no prefix, and buffers that newer versions do not keep."""
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)).save_pretrained(tmp_path)
    masks = {f"h.{layer}.attn.{name}": torch.zeros(2) for layer in (0, 1) for name in ("bias", "masked_bias")}
    edit_weights(tmp_path, lambda found: {name.removeprefix("transformer."): found[name] for name in found} | masks)
    assert_accepted(tmp_path)
    edit_config(tmp_path, n_layer=1)
    assert_refused(tmp_path, "leaves out (h.1)")


def test_a_head_of_its_own_is_used_and_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = load_file(model / "model.safetensors")["model.embed_tokens.weight"].flip(0).contiguous()
    edit_weights(model, lambda weights: {**weights, "lm_head.weight": head})
    loaded = load_model(find_model(str(model)), ON_CPU)
    torch.testing.assert_close(loaded.get_output_embeddings().weight.data, head)
    assert "two that differ" in capsys.readouterr().err


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(value: float, model: Path) -> None:
    def spoil(weights: Weights) -> Weights:
        weights[QUERY][3, 4] = value
        return weights

    edit_weights(model, spoil)
    with pytest.raises(ModelError, match=f"NaN or infinite numbers in 1 weight .{QUERY}"):
        load_model(find_model(str(model)), ON_CPU)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_called_one(file: str, model: Path) -> None:
    (model / file).write_bytes(POINTER)
    assert_refused(model, f"{file} is a pointer of Git LFS", "git lfs pull")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(share: float, model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: int(share * len(content))])
    assert_refused(model, "model.safetensors cannot be read", "Download it again")


def test_several_files_are_read_by_their_index(model: Path) -> None:
    split(model)
    assert check_weights(find_model(str(model)), ON_CPU) == 26
    load_model(find_model(str(model)), ON_CPU)


def test_a_missing_part_is_refused(model: Path) -> None:
    files = split(model)
    (model / files["model.norm.weight"]).unlink()
    assert_refused(model, f"names {files['model.norm.weight']}", "1 of 2 files")


def test_a_weight_that_its_part_lacks_is_refused(model: Path) -> None:
    part = model / split(model)["model.norm.weight"]
    save_file(without(load_file(part), "model.norm.weight"), part, metadata={"format": "pt"})
    assert_refused(model, "lacks 1 of 27 weights (model.norm.weight)")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"metadata": {}, "weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_that_is_none_is_refused(content: str, model: Path) -> None:
    split(model)
    (model / "model.safetensors.index.json").write_text(content)
    assert_refused(model, "is not an index of weights")


def test_parts_without_an_index_are_refused(model: Path) -> None:
    split(model)
    (model / "model.safetensors.index.json").unlink()
    assert_refused(model, "neither model.safetensors nor model.safetensors.index.json")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('{"model_type": ', "no readable config.json"),
        ("[]", "not a JSON object"),
        ('{"model_type": "no_such_type"}', "no_such_type"),
        ('{"vocab_size": 640}', "model_type"),
    ],
)
def test_a_config_that_is_none_is_refused(content: str, word: str, model: Path) -> None:
    (model / "config.json").write_text(content)
    assert_refused(model, word)


def test_sizes_that_are_none_are_refused(model: Path) -> None:
    edit_config(model, num_attention_heads=0)
    assert_refused(model, "cannot load")


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_is_no_model(with_config: bool, model: Path) -> None:
    """transformers would load the base that the adapter names, from the Hub if need be."""
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nobody/nothing"}))
    if not with_config:
        (model / "config.json").unlink()
    with pytest.raises(ModelError, match="holds an adapter .* lightr merge --model BASE --adapter"):
        find_model(str(model))


def test_doctor_finds_missing_weights_of_both_models(model: Path, random_expert: Path) -> None:
    edit_weights(model, lambda weights: without(weights, QUERY))
    found = examine(DoctorConfig(expert=str(random_expert), amateur=str(model)))
    seen = {finding["what"]: finding for finding in found["findings"]}
    assert seen["weights of the expert"]["seen"] == "26, all in place"
    assert seen["weights of the amateur"]["verdict"] == "wrong"
    assert QUERY in seen["weights of the amateur"]["seen"]
    assert not found["fit"]


@pytest.mark.slow
def test_a_gguf_file_without_a_weight_is_refused(smollm2_gguf: Path, tmp_path: Path) -> None:
    reader = GGUFReader(smollm2_gguf)
    writer = GGUFWriter(tmp_path / "model.gguf", reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        if tensor.name != "blk.3.attn_q.weight":
            writer.add_tensor(tensor.name, np.asarray(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="lacks 1 of .* weights .model.layers.3.self_attn.q_proj.weight"):
        load_model(find_model(str(tmp_path / "model.gguf")), ON_CPU)


@pytest.mark.parametrize("more", [None, 0, 64])
def test_weights_that_transformers_drops_from_a_gguf_file_are_said(
    more: int | None, random_expert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr("lightreasoner.models.weights.warn_once", warned.append)
    model = empty_model(find_model(str(random_expert)))
    count = sum(weight.numel() for weight in model.parameters())
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
    refuse_wrong_weights("a.gguf", model, dict.fromkeys(kinds, ()), None if more is None else count + more)
    assert [line.partition(" in its weights")[0] for line in warned] == (
        [f"a.gguf: 64 of the {count + 64} numbers"] if more else []
    )
