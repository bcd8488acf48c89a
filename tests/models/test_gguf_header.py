"""The header of GGUF files: sizes and quantisation, without the weights, and damage."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from lightreasoner.errors import ModelError
from lightreasoner.models.gguf_header import gguf_config
from lightreasoner.models.precision import hidden_size
from lightreasoner.models.shape import Shape, read_config


def written(path: Path, *, tied: bool = False, experts: int = 0) -> Path:
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
    writer.add_token_list([f"token {number}" for number in range(2000)])
    writer.add_token_scores([0.5] * 2000)
    writer.add_array("llama.a.b", [1, 2, 3])
    writer.add_tensor("token_embd.weight", np.zeros((2000, 64), np.float32))
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
