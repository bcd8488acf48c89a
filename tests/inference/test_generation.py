"""Stop texts: rows end where a stop text is complete, whatever the tokenizer; and logits that are not finite."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    StopStringCriteria,
)

from lightreasoner.errors import ModelError
from lightreasoner.inference.contrastive_engine import ContrastiveEngine
from lightreasoner.inference.generation import Decoding, Generation, text_check
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.pairs import Pair
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, vocabulary_of

PROMPTS = [[5, 6, 7], [9, 10, 11, 12]]


def untied(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model with a head of its own, so that an embedding changes what follows its token only."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    return model


def of_kind(kind: str, model: PreTrainedModel, amateur: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Any:
    if kind == "contrastive":
        return ContrastiveEngine(Pair(model, amateur, vocabulary_of(tokenizer, logit_width(model))), 0.1, tokenizer)
    return {"packed": PackedEngine, "padded": PaddedEngine}[kind](model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["packed", "padded", "contrastive"])
def test_answers_of_a_model_without_finite_logits_are_refused(
    kind: str,
    value: float,
    temperature: float,
    dtype: torch.dtype,
    random_expert: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    good, bad = untied(random_expert, dtype), untied(random_expert, dtype)
    bad.model.norm.weight.data[0] = value
    decoding = Decoding(6, (), temperature=temperature)
    for broken in [of_kind(kind, bad, good, tokenizer)] + [of_kind(kind, good, bad, tokenizer)] * (kind[0] == "c"):
        found = broken.generate(PROMPTS, decoding)
        assert found.nonfinite == 2
        with pytest.raises(ModelError, match="2 of 2 answers of a batch have NaN or infinite.*Try --dtype float32"):
            found.finite_responses()
    fine = of_kind(kind, good, good, tokenizer).generate(PROMPTS, decoding)
    assert fine.finite_responses() == fine.responses


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["packed", "padded", "contrastive"])
def test_only_answers_with_a_token_from_broken_logits_count(
    kind: str, temperature: float, random_expert: Path, random_amateur: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    amateur = untied(random_amateur)

    def generated(broken: int | None, stops: tuple[int, ...] = ()) -> Generation:
        model = untied(random_expert)
        if broken is not None:
            model.get_input_embeddings().weight.data[broken] = float("nan")
        return of_kind(kind, model, amateur, tokenizer).generate(PROMPTS, Decoding(12, stops, temperature=temperature))

    first, second = generated(None).responses
    token = next(token for token in first[2:9] if token not in {*PROMPTS[0], *PROMPTS[1], *second})
    end = first.index(token) + 1
    under_way = generated(token)
    assert under_way.nonfinite == 1
    assert under_way.responses[0][:end] == first[:end]
    padding = next(other for other in range(len(tokenizer)) if other not in {*PROMPTS[0], *PROMPTS[1], *first, *second})
    assert generated(token, (padding, token)).nonfinite == 0, "what would follow a stop token is not part of the answer"
    assert generated(PROMPTS[1][2]).nonfinite >= 1, "in a prompt"


def test_single_broken_answers_are_kept_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    half = Generation([[1], [2], [3], [4]], nonfinite=2)
    assert half.finite_responses() == half.responses
    assert "2 of 4 answers of a batch have NaN or infinite logits" in capsys.readouterr().err
    with pytest.raises(ModelError, match="3 of 4 answers"):
        Generation(half.responses, nonfinite=3).finite_responses()


def words() -> PreTrainedTokenizerFast:
    """A tokenizer that joins words with spaces, which `StopStringCriteria` cannot read."""
    vocabulary = {word: index for index, word in enumerate(["?", "the", "answer", "stop", "here"])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def ends(tokenizer: PreTrainedTokenizerBase, stop: str, *texts: str) -> list[bool]:
    check = text_check((stop,), tokenizer)
    return [
        bool(check(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]), None)[0]) for text in texts
    ]


def test_the_end_of_a_stop_text_is_found_where_transformers_refuses_the_tokenizer() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        StopStringCriteria(words(), ["stop here"])
    assert ends(words(), "stop here", "the answer stop", "the answer stop here", "here stop") == [False, True, False]


def test_both_checks_agree_on_a_real_tokenizer() -> None:
    tokenizer = load_tokenizer(find_model("miniature/expert"))
    assert ends(tokenizer, "\n\nQuestion:", "It is 5.", "It is 5.\n\nQuestion:", "Question: 5") == [False, True, False]
