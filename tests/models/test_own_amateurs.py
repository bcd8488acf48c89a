"""Amateurs made of the expert: equal to a saved model that computes the same, without a second copy of the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from lightreasoner.config import EvaluateConfig, InspectConfig, PairConfig
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.answering import contrasted_pair
from lightreasoner.inference import packing, residency
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.residency import LazyPair
from lightreasoner.inference.scoring import response_states
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.own_amateurs import dropout_of, first_layers
from lightreasoner.models.pairs import Pair, find_pair, load_pair
from lightreasoner.models.quantising import can_quantise
from lightreasoner.models.source import find_model

PROMPTS = [[5, 6, 7, 8], [5, 6, 9], [11, 3, 2, 4, 9, 17]]
RESPONSES = [[9, 10, 4], [7], [20, 21, 22, 23, 24]]
KEYS = ["42 a", "42 b", "42 c"]


def pair_of(expert: Path, amateur: str, adapter: Path | None = None, **changes: Any) -> Pair:
    machine = {"dtype": "float32", "device": "cpu", "question": "?"}
    return load_pair(InspectConfig(expert=str(expert), amateur=amateur, **machine, **changes), adapter)


def logits(model: PreTrainedModel, chosen: range = range(3)) -> list[Tensor]:
    """Logits at each response token of these texts, by text."""
    responses = [RESPONSES[index] for index in chosen]
    states = response_states(model, [PROMPTS[index] for index in chosen], responses, [KEYS[index] for index in chosen])
    with torch.inference_mode():
        return list(states.head(states.hidden).split([len(response) for response in responses]))


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))


def addresses(*models: PreTrainedModel) -> set[int]:
    return {weight.data_ptr() for model in models for weight in model.parameters()}


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_matches_unpacked", lambda model: False)


def saved_adapter(expert: Path, folder: Path, seed: int, targets: list[str]) -> Path:
    """A LoRA with random weights that change the model."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(expert)
    lora = LoraConfig(r=2, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(str(folder), save_embedding_layers=False)
    return folder


@pytest.fixture
def adapter(random_expert: Path, tmp_path: Path) -> Path:
    return saved_adapter(random_expert, tmp_path / "adapter", 3, ["q_proj", "v_proj"])


# --- The first layers ---


@pytest.fixture
def cut(random_expert: Path, tmp_path: Path) -> Path:
    """The expert's first layer, saved as a model."""
    model = AutoModelForCausalLM.from_pretrained(random_expert)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    model.config.layer_types = model.config.layer_types[:1]
    model.save_pretrained(tmp_path / "cut")
    load_tokenizer(find_model(str(random_expert))).save_pretrained(tmp_path / "cut")
    return tmp_path / "cut"


@pytest.mark.parametrize("padded", [False, True])
def test_first_layers_equal_a_cut_model_on_disk(
    random_expert: Path, cut: Path, padded: bool, request: pytest.FixtureRequest
) -> None:
    if padded:
        request.getfixturevalue("unpacked")
    own, named = pair_of(random_expert, "self:layers=1"), pair_of(random_expert, str(cut))
    assert packing.packs(own.amateur) != padded
    assert_equal(logits(own.amateur), logits(named.amateur))
    assert_equal(logits(own.expert), logits(named.expert))
    assert not torch.equal(logits(own.amateur)[0], logits(own.expert)[0])
    assert addresses(own.amateur) < addresses(own.expert)
    assert not addresses(named.amateur) & addresses(named.expert)


def test_first_layers_of_an_expert_with_an_adapter_have_the_adapter(random_expert: Path, adapter: Path) -> None:
    pair, plain = pair_of(random_expert, "self:layers=1", adapter), pair_of(random_expert, "self:layers=1")
    assert not torch.equal(logits(pair.amateur)[0], logits(plain.amateur)[0])
    assert addresses(pair.amateur) < addresses(pair.expert)


def test_first_layers_are_found_in_another_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=16, vocab_size=64)).eval()
    cut = first_layers(model, 2)
    model.config.n_layer = 2
    copy = GPT2LMHeadModel(model.config).eval()
    copy.load_state_dict({name: part for name, part in model.state_dict().items() if ".h.2." not in name})
    assert_equal(logits(cut), logits(copy))


def test_contrastive_decoding_takes_an_amateur_made_of_the_model(random_expert: Path, cut: Path) -> None:
    decoding = Decoding(max_new_tokens=6, stop_ids=())
    own, named = (
        ContrastiveEngine(pair_of(random_expert, name), 0.1, None).generate(PROMPTS, decoding).responses  # type: ignore[arg-type]
        for name in ("self:layers=1", str(cut))
    )
    assert own == named
    with pytest.raises(ConfigError, match="--contrast-with self:dropout=0.1: dropout draws anew"):
        contrasted_pair(EvaluateConfig(model=str(random_expert), contrast_with="self:dropout=0.1", out=cut))
    with pytest.raises(
        ConfigError, match=r"--contrast-with self is the expert with the same prompt.*Name another model"
    ):
        contrasted_pair(EvaluateConfig(model=str(random_expert), contrast_with="self", out=cut))


def test_an_amateur_with_the_experts_weights_takes_no_memory(
    random_expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PairConfig(expert=str(random_expert), amateur="self:layers=1", dtype="float32", device="cpu")
    found = find_pair(config)
    pair = LazyPair(found, *found.tokenizers())
    assert pair.memory.amateur == 0
    assert pair.memory.sequential == pair.memory.together
    monkeypatch.setattr(residency, "free_memory", lambda device: 1)
    assert pair.residency("auto", tmp_path / "none") == "together"
    assert addresses(pair.amateur) < addresses(pair.expert)
    expert = pair.expert
    assert pair.drop_expert().module is expert.get_output_embeddings()
    assert pair.expert is expert  # the amateur needs it


@pytest.mark.skipif(not can_quantise(), reason="bitsandbytes is not installed")
def test_the_expert_in_4_bits_is_a_copy(random_expert: Path, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(random_expert, hidden_size=64, intermediate_size=128)
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    load_tokenizer(find_model(str(random_expert))).save_pretrained(tmp_path / "wide")
    pair = pair_of(tmp_path / "wide", "self:4bit")
    plain = pair_of(tmp_path / "wide", str(random_expert)).expert
    assert_equal(logits(pair.expert), logits(plain))
    difference = torch.cat(logits(pair.amateur)) - torch.cat(logits(plain))
    assert 0 < float(difference.norm() / torch.cat(logits(plain)).norm()) < 0.5
    assert not addresses(pair.amateur) & addresses(pair.expert)


# --- Adapters ---


def test_the_base_of_an_adapted_expert_equals_its_folder(random_expert: Path, adapter: Path) -> None:
    own, named = pair_of(random_expert, "self:base", adapter), pair_of(random_expert, str(random_expert), adapter)
    for _ in range(2):  # switching leaves no trace
        assert_equal(logits(own.amateur), logits(named.amateur))
        assert_equal(logits(own.expert), logits(named.expert))
    assert not torch.equal(logits(own.amateur)[0], logits(own.expert)[0])
    assert addresses(own.amateur) == addresses(own.expert)


@pytest.mark.parametrize("on_expert", [True, False])
def test_an_earlier_adapter_equals_its_merged_model(
    random_expert: Path, adapter: Path, on_expert: bool, tmp_path: Path
) -> None:
    earlier = saved_adapter(random_expert, tmp_path / "earlier", 4, ["v_proj", "down_proj"])
    mine = adapter if on_expert else None
    own = pair_of(random_expert, f"self:checkpoint={earlier}", mine)
    merged = pair_of(random_expert, str(random_expert), earlier).expert
    for module in merged.modules():
        if hasattr(module, "merge"):
            module.merge()
    expected = pair_of(random_expert, str(random_expert), mine).expert
    for _ in range(2):
        for found, wanted in zip(logits(own.amateur), logits(merged), strict=True):
            assert torch.allclose(found, wanted, atol=1e-5)
        assert_equal(logits(own.expert), logits(expected))
    assert not torch.allclose(logits(own.amateur)[0], logits(own.expert)[0], atol=1e-2)
    assert addresses(own.amateur) == addresses(own.expert)


def test_a_pass_that_fails_gives_the_expert_its_adapter_back(random_expert: Path, adapter: Path) -> None:
    pair = pair_of(random_expert, "self:base", adapter)
    before = logits(pair.expert)
    with pytest.raises(IndexError):
        pair.amateur(input_ids=torch.tensor([[10**6]]))
    assert_equal(logits(pair.expert), before)


def test_an_earlier_state_may_be_a_whole_model(random_expert: Path, random_amateur: Path) -> None:
    own = pair_of(random_expert, f"self:checkpoint={random_amateur}")
    named = pair_of(random_expert, str(random_amateur))
    assert_equal(logits(own.amateur), logits(named.amateur))


# --- Dropout ---


@pytest.mark.parametrize("padded", [False, True])
def test_dropout_depends_on_no_other_text(random_expert: Path, padded: bool, request: pytest.FixtureRequest) -> None:
    if padded:
        request.getfixturevalue("unpacked")
    pair = pair_of(random_expert, "self:dropout=0.2")
    plain = pair_of(random_expert, str(random_expert)).expert
    together = logits(pair.amateur)
    for index in range(3):
        (alone,) = logits(pair.amateur, range(index, index + 1))
        assert torch.allclose(together[index], alone, atol=1e-4)
    assert_equal(logits(pair.amateur), together)
    assert not torch.allclose(together[0], logits(plain)[0], atol=1e-2)
    assert_equal(logits(pair.expert), logits(plain))
    assert addresses(pair.amateur) == addresses(pair.expert)


def test_dropout_is_the_same_packed_and_padded(random_expert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = logits(pair_of(random_expert, "self:dropout=0.2").amateur)
    monkeypatch.setattr(packing, "_matches_unpacked", lambda model: False)
    padded = logits(pair_of(random_expert, "self:dropout=0.2").amateur)
    assert all(torch.allclose(*both, atol=1e-4) for both in zip(packed, padded, strict=True))


def test_dropout_depends_on_the_key(random_expert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = pair_of(random_expert, "self:dropout=0.2").amateur
    before = logits(model)
    monkeypatch.setattr("tests.models.test_own_amateurs.KEYS", ["43 a", "42 b", "43 c"])
    after = logits(model)
    assert [torch.equal(*both) for both in zip(before, after, strict=True)] == [False, True, False]


def test_dropout_keeps_the_mean_of_what_a_layer_adds(random_expert: Path) -> None:
    """h + m ⊙ (f(h) − h) / (1 − P), by hand."""
    dropout = dropout_of(pair_of(random_expert, "self:dropout=0.25").amateur)
    assert dropout is not None
    before, after = torch.zeros(1, 400, 32), torch.ones(1, 400, 32)
    with dropout.on([("a", 150), ("b", 250)], None):
        found = dropout.applied(0, before, after)
        other = dropout.applied(1, before, after)
    assert found.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert float((found == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(found, other)
    assert torch.equal(dropout.applied(0, before, after), after)  # off outside
