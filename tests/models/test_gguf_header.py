"""The header of GGUF files: sizes and quantisation, without the weights, and damage."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from transformers import PreTrainedTokenizerFast

from lightreasoner.errors import ModelError
from lightreasoner.models.gguf_header import gguf_config
from lightreasoner.models.precision import hidden_size
from lightreasoner.models.shape import Shape, read_config
from lightreasoner.models.source import ModelSource, find_model
from lightreasoner.models.tokenizer_file import as_written


def written(
    path: Path,
    *,
    tied: bool = False,
    experts: int = 0,
    split: str | None = None,
    scaling: tuple[str, float] | None = None,
    factors: bool = False,
) -> Path:
    """A file with the header of a small Llama; two quantised weights, a few tokens."""
    writer = GGUFWriter(path, "llama")
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(3)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(512)
    if experts:
        writer.add_expert_count(experts)
    if scaling:
        writer.add_rope_scaling_type(RopeScalingType(scaling[0]))
        writer.add_rope_scaling_factor(scaling[1])
    if split:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(split)
    writer.add_token_list([f"token {number}" for number in range(2000)])
    writer.add_token_scores([0.5] * 2000)
    writer.add_array("llama.a.b", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.zeros((2000, 64), np.float32))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.full(8, 8, np.float32))
    if not tied:
        writer.add_tensor("output.weight", np.zeros((2000, 68), np.uint8), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.ffn_up.weight", np.zeros((96, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sizes_under_the_names_of_a_config_json(tmp_path: Path) -> None:
    config = gguf_config(written(tmp_path / "a.gguf"))
    shape = Shape.of(config, "a")
    sizes = (shape.vocabulary, shape.hidden, shape.intermediate, shape.layers, shape.heads, shape.key_value_heads)
    assert sizes == (2000, 64, 96, 3, 4, 2)
    assert not shape.tied
    assert shape.dtype == "float32"  # what is merged onto a de-quantised model
    assert config["gguf_parameters"] == 2 * 2000 * 64 + 96 * 64
    assert config["gguf_bytes"] == (tmp_path / "a.gguf").stat().st_size
    assert hidden_size(config) == 64
    assert Shape.of(read_config(str(written(tmp_path / "b.gguf", tied=True)), None), "b").tied
    with pytest.raises(ModelError, match="mixture of experts"):
        Shape.of(gguf_config(written(tmp_path / "c.gguf", experts=8)), "c")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf")
    assert not gguf_config(path)["tie_word_embeddings"]
    written(path, tied=True)
    assert gguf_config(path)["tie_word_embeddings"]


@pytest.mark.parametrize("place", [0, 4, 9, 20, 33, 60, 300, 700])
def test_damage_anywhere_in_the_header_is_a_model_error_or_harmless(tmp_path: Path, place: int) -> None:
    path = written(tmp_path / "a.gguf")
    content = bytearray(path.read_bytes())
    for byte in (0, 0xFF):
        content[place : place + 8] = bytes([byte]) * 8
        path.write_bytes(content)
        try:
            gguf_config(path)
        except ModelError as error:
            assert "no readable header of a GGUF file" in str(error)
    path.write_bytes(content[:place])
    with pytest.raises(ModelError, match="no readable header"):
        gguf_config(path)


def test_a_real_file_gives_the_sizes_of_its_model(smollm2_gguf: Path) -> None:
    shape = Shape.of(read_config(str(smollm2_gguf), None), "smollm2")
    assert (shape.hidden, shape.layers, shape.vocabulary, shape.tied) == (576, 30, 49152, True)
    assert shape.parameters == pytest.approx(134.5e6, rel=0.001)


@pytest.mark.parametrize(("split", "known"), [("qwen2", True), ("smollm", True), (None, True), ("deepseek-llm", False)])
def test_a_way_of_cutting_texts_that_transformers_does_not_know_is_said(
    split: str | None, known: bool, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr("lightreasoner.models.tokenizer_file.warn_once", warned.append)
    file = written(tmp_path / "a.gguf", split=split)
    assert as_written(tokenizer, ModelSource("a.gguf", tmp_path, gguf_file=file.name)) is tokenizer
    assert len(warned) == (not known)
    assert all("cuts texts in the way deepseek-llm, which transformers does not know" in line for line in warned)


@pytest.mark.parametrize(
    ("scaling", "factors", "refused"),
    [(None, True, "rope_freqs.weight"), (("linear", 4.0), False, "linear"), (("longrope", 0.5), False, "longrope")],
)
def test_scaled_positions_that_transformers_leaves_out_are_refused(
    scaling: tuple[str, float] | None, factors: bool, refused: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "a.gguf", scaling=scaling, factors=factors)
    with pytest.raises(ModelError, match=rf"scales the angles of rotary positions \({refused}\).* something else"):
        find_model(str(file))


@pytest.mark.parametrize("scaling", [None, ("none", 4.0), ("linear", 1.0), ("yarn", 4.0)])
def test_other_files_are_taken_with_a_warning_about_yarn(
    scaling: tuple[str, float] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr("lightreasoner.models.source.warn_once", warned.append)
    file = written(tmp_path / "a.gguf", scaling=scaling)
    assert find_model(str(file)).gguf_file == "a.gguf"
    assert len(warned) == (scaling == ("yarn", 4.0))
