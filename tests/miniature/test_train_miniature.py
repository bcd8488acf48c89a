"""The bundled models: small, with one vocabulary, and reproducible with their training script."""

import json
import random
from pathlib import Path

import pytest
import torch
from train_miniature import AMATEUR_CORPUS, EXPERT_CORPUS, PLANS, batches, initial_model
from transformers import PreTrainedTokenizerFast

from lightreasoner.config_sections import MachineSettings
from lightreasoner.miniature import MODELS, model_path
from lightreasoner.miniature.word_problems import word_problems
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, share_vocabulary


@pytest.mark.parametrize("name", MODELS)
def test_each_model_is_small_and_shares_the_tokenizer_of_the_script(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = model_path(name)
    assert (folder / "model.safetensors").stat().st_size < 3 * 2**20
    source = find_model(f"miniature/{name}")
    model = load_model(source, MachineSettings(dtype="float32", device="cpu"))
    share_vocabulary(load_tokenizer(source), tokenizer, (logit_width(model), len(tokenizer)))
    assert load_tokenizer(source).chat_template == tokenizer.chat_template


def test_every_digit_is_a_separate_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("12+345=357")["input_ids"]) == list("12+345=357")


def test_the_expert_corpus_has_more_worked_solutions(tokenizer: PreTrainedTokenizerFast) -> None:
    problems = word_problems("train", seed=5)
    texts = [next(problems) for _ in range(2000)]
    shares = [
        sum("=" in corpus.solution(problem, random.Random(index)) for index, problem in enumerate(texts)) / len(texts)
        for corpus in (AMATEUR_CORPUS, EXPERT_CORPUS)
    ]
    assert shares[0] == pytest.approx(0.04, abs=0.02)
    assert shares[1] == pytest.approx(0.55, abs=0.04)


def test_the_loss_covers_only_the_solution(tokenizer: PreTrainedTokenizerFast) -> None:
    input_ids, is_response = next(batches(PLANS["expert"], tokenizer))
    for ids, mask in zip(input_ids[:8], is_response[:8], strict=True):
        solution = tokenizer.decode(ids[mask])
        assert solution.endswith("}<|im_end|>")
        assert "assistant" not in solution
        prompt = tokenizer.decode(ids[: int(mask.nonzero()[0])])
        assert prompt.endswith("<|im_start|>assistant\n")


def test_training_starts_at_the_logged_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    log = json.loads(Path(model_path("base") / "training_log.json").read_text())
    plan = PLANS["base"]
    torch.manual_seed(plan.seed)
    model = initial_model(plan, tokenizer, Path())
    input_ids, is_response = next(batches(plan, tokenizer))
    with torch.inference_mode():
        logits = model(input_ids).logits[:, :-1][is_response[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, input_ids[:, 1:][is_response[:, 1:]]).item()
    assert loss == pytest.approx(log[0]["loss"], abs=1e-3)
