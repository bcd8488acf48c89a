"""Finding, loading and pairing models."""

import copy
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lightreasoner.config import PairConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import HubUnreachable, ModelError, VocabularyMismatch
from lightreasoner.models.loading import load_model, load_tokenizer, pick_device
from lightreasoner.models.pairs import load_pair
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import SharedVocabulary, logit_width, share_vocabulary

from ..conftest import save_random_model


def test_wider_logits_with_equal_tokens_are_accepted(random_expert: Path, random_amateur: Path) -> None:
    pair = load_pair(PairConfig(expert=str(random_expert), amateur=str(random_amateur), dtype="float32", device="cpu"))
    assert logit_width(pair.amateur) > logit_width(pair.expert)
    assert len(pair.vocabulary.token_ids) == logit_width(pair.expert)


def test_padding_rows_are_left_out_and_the_rest_renormalised() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 50.0]])
    found = SharedVocabulary(torch.arange(3)).log_softmax(logits)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(-1))


def test_log_probabilities_over_a_large_vocabulary_are_exact_to_rounding() -> None:
    torch.manual_seed(0)
    logits = torch.randn(8, 150_000) * 0.1  # nearly flat: every token adds to the sum
    found = SharedVocabulary(torch.arange(150_000)).log_softmax(logits)
    torch.testing.assert_close(found.double(), logits.double().log_softmax(-1), rtol=0, atol=2e-6)


def test_a_vocabulary_with_holes_maps_both_ways() -> None:
    vocabulary = SharedVocabulary(torch.tensor([0, 2, 5]))
    logits = torch.tensor([[1.0, 99.0, 2.0, 99.0, 99.0, 3.0]])
    torch.testing.assert_close(vocabulary.log_softmax(logits), torch.tensor([[1.0, 2.0, 3.0]]).log_softmax(-1))
    assert vocabulary.column_of(torch.tensor([5, 0])).tolist() == [2, 0]
    assert vocabulary.ids_of(torch.tensor([2, 0])).tolist() == [5, 0]


def test_two_swapped_ids_are_found(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    by_id = {index: token for token, index in vocab.items()}
    vocab[by_id[300]], vocab[by_id[301]] = 301, 300
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    swapped = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    with pytest.raises(VocabularyMismatch, match=r"2 of 640 ids differ \(id 300 is .* id 301 is"):
        share_vocabulary(tokenizer, swapped, (640, 640))


def test_a_token_that_only_one_model_knows_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<extra>"])
    with pytest.raises(VocabularyMismatch, match="id 640 is None to the expert and '<extra>' to the amateur"):
        share_vocabulary(tokenizer, larger, (700, 700))


def test_tokens_that_differ_are_left_out_on_request_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    other = copy.deepcopy(tokenizer)
    tokenizer, other = copy.deepcopy(tokenizer), other
    tokenizer.add_tokens(["<think>", "<both>"])
    other.add_tokens(["<tool>", "<both>", "<more>"])
    shared = share_vocabulary(tokenizer, other, (700, 700), "shared")
    assert shared.left_out == 2  # 640 differs, 642 is in one vocabulary only
    assert shared.token_ids.tolist() == [*range(640), 641]
    logits = torch.randn(3, 700, generator=torch.Generator().manual_seed(0))
    log_probs = shared.log_softmax(logits)
    assert log_probs.exp().sum(1).tolist() == pytest.approx([1.0] * 3)
    ids = torch.tensor([5, 640, 641])
    assert shared.holds(ids).tolist() == [True, False, True]
    assert shared.log_of(log_probs, ids).tolist() == [log_probs[0, 5], -torch.inf, log_probs[2, 640]]


def test_unrelated_vocabularies_share_too_little(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = dict(zip(vocabulary, reversed(vocabulary.values()), strict=True))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(VocabularyMismatch, match="choose an amateur"):
        share_vocabulary(tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path), (640, 640), "shared")


def test_a_token_without_a_logit_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(VocabularyMismatch, match="token id 639 has no logit"):
        share_vocabulary(tokenizer, tokenizer, (640, 600))


def test_vocabularies_are_compared_before_weights_are_read(
    random_expert: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<extra>"])
    save_random_model(tmp_path, other, seed=3)
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(VocabularyMismatch):
        load_pair(PairConfig(expert=str(random_expert), amateur=str(tmp_path), dtype="float32", device="cpu"))


def test_equal_content_is_the_same_model_wherever_it_lies(random_expert: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(random_expert, copied)
    assert find_model(str(copied)).fingerprint() == find_model(str(random_expert)).fingerprint()
    content = bytearray((copied / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copied / "model.safetensors").write_bytes(content)
    assert find_model(str(copied)).fingerprint() != find_model(str(random_expert)).fingerprint()


def test_a_change_in_a_large_file_is_seen(monkeypatch: pytest.MonkeyPatch, random_expert: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("lightreasoner.models.source.WHOLE_FILE_HASH", 1000)
    monkeypatch.setattr("lightreasoner.models.source.HASH_WINDOWS", 16)
    monkeypatch.setattr("lightreasoner.models.source.HASH_WINDOW", 512)
    copied = tmp_path / "elsewhere"
    shutil.copytree(random_expert, copied)
    before = find_model(str(copied)).fingerprint()
    assert before == find_model(str(random_expert)).fingerprint()
    content = bytearray((copied / "model.safetensors").read_bytes())
    for position in range(len(content) // 2, len(content), 97):  # as a fine-tuned second half would be
        content[position] ^= 1
    (copied / "model.safetensors").write_bytes(content)
    assert find_model(str(copied)).fingerprint() != before


def test_pickled_weights_are_refused_and_never_read(random_expert: Path, tmp_path: Path) -> None:
    shutil.copytree(random_expert, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    canary = tmp_path / "canary"
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    weights.unlink()
    with pytest.raises(ModelError, match=r"pytorch_model.bin: pickles"):
        find_model(str(tmp_path / "model"))
    assert not canary.exists()


def test_remote_code_is_refused(random_expert: Path, tmp_path: Path) -> None:
    shutil.copytree(random_expert, tmp_path / "model")
    canary = tmp_path / "canary"
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {
        "model_type": "no_such_type",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "code.py").write_text(f"open({str(canary)!r}, 'w')\n")
    with pytest.raises(ModelError):
        load_model(find_model(str(tmp_path / "model")), MachineSettings(device="cpu"))
    assert not canary.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("miniature/huge", "the bundled ones are miniature/base"),
        ("./no/such/folder", "no folder"),
        ("no-such-model", "not a Hub id"),
        ("model.gguf", "no file model.gguf"),
    ],
)
def test_a_model_that_is_not_there_is_said_to_be_missing(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        find_model(name)


def test_a_folder_without_a_model_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config.json"):
        find_model(str(tmp_path))


def test_an_unreachable_hub_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(HubUnreachable, match="nobody/nothing is no local folder, and the Hub does not answer"):
        find_model("nobody/nothing")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("device", ["nonsense", "gpu", "GPU", "CUDA", "cuda:", "cuda:x", "0", "meta", ""])
def test_an_unknown_device_is_refused_and_the_known_ones_named(device: str, random_expert: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load_model(find_model(str(random_expert)), MachineSettings(device=device))
    assert str(refused.value) == f"device {device} is not known; use auto, cpu, cuda, cuda:N or mps"


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError) as refused:
        pick_device(device)
    assert str(refused.value) == f"device {device} is not usable here: PyTorch {torch.__version__} finds cpu only"
    assert pick_device("auto") == torch.device("cpu")


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ModelError, match="cuda:7 is not usable here: PyTorch finds 2 of the kind cuda, from cuda:0"):
        pick_device("cuda:7")


@pytest.mark.slow
def test_a_gguf_model_is_an_ordinary_model_once_loaded(smollm2_gguf: Path, tmp_path: Path) -> None:
    source = find_model(str(smollm2_gguf))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    ids = torch.tensor([load_tokenizer(source)("The capital of France is").input_ids])
    with torch.inference_mode():
        before = model(ids).logits
        assert "Paris" in load_tokenizer(source).decode(before[0, -1].argmax())
        model.save_pretrained(tmp_path)
        load_tokenizer(source).save_pretrained(tmp_path)
        after = load_model(find_model(str(tmp_path)), MachineSettings(dtype="float32", device="cpu"))(ids).logits
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("lost", [("tokenizer.json",), ("tokenizer.json", "tokenizer_config.json")])
def test_a_model_without_its_tokenizer_is_refused(lost: tuple[str, ...], random_expert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_expert, tmp_path / "model")
    for name in lost:
        (folder / name).unlink()
    with pytest.raises(ModelError, match="no tokenizer in"):
        load_tokenizer(find_model(str(folder)))
