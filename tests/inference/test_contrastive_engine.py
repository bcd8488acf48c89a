"""Contrastive decoding follows its definition, token by token, in any batch."""

from pathlib import Path

import pytest
import torch

from lightreasoner.config import EvaluateConfig, PairConfig
from lightreasoner.data.problems import load_problems
from lightreasoner.errors import ConfigError
from lightreasoner.evaluation.evaluate import evaluate
from lightreasoner.inference.contrastive_engine import ContrastiveEngine, _Decoder
from lightreasoner.inference.generation import Decoding
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.pairs import Pair, load_pair
from lightreasoner.models.prompts import PromptTemplate
from lightreasoner.models.source import find_model


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair(PairConfig(expert="miniature/expert", amateur="miniature/base", dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def template() -> PromptTemplate:
    return PromptTemplate(load_tokenizer(find_model("miniature/expert")))


@pytest.fixture(scope="module")
def prompts(template: PromptTemplate) -> list[list[int]]:
    return [template.encode(problem.question) for problem in load_problems("arithmetic", limit=5).problems]


@torch.inference_mode()
def naive(pair: Pair, prompt: list[int], alpha: float, stop_ids: tuple[int, ...], limit: int) -> list[int]:
    """The definition, one prefix at a time, in float64."""
    response: list[int] = []
    while len(response) < limit and not (response and response[-1] in stop_ids):
        ids = torch.tensor([prompt + response])
        p, q = (model(ids).logits[0, -1].double().softmax(0) for model in (pair.expert, pair.amateur))
        plausible = p >= alpha * p.max()
        response.append(int((p / q).where(plausible, 0.0).argmax()))
    return response


@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_the_next_token_is_the_plausible_one_with_the_highest_ratio(
    pair: Pair, template: PromptTemplate, prompts: list[list[int]], alpha: float
) -> None:
    stop_ids = template.stop_ids(pair.expert.generation_config)
    found = ContrastiveEngine(pair, alpha, template.tokenizer).generate(prompts, Decoding(20, stop_ids)).responses
    assert found == [naive(pair, prompt, alpha, stop_ids, 20) for prompt in prompts]
    assert found != PaddedEngine(pair.expert).generate(prompts, Decoding(20, stop_ids)).responses


def test_with_one_plausible_token_it_is_greedy_decoding(
    pair: Pair, template: PromptTemplate, prompts: list[list[int]]
) -> None:
    decoding = Decoding(32, template.stop_ids(pair.expert.generation_config))
    found = ContrastiveEngine(pair, 1.0, template.tokenizer).generate(prompts, decoding).responses
    assert found == PaddedEngine(pair.expert).generate(prompts, decoding).responses


def test_a_stop_string_ends_a_response(pair: Pair, template: PromptTemplate, prompts: list[list[int]]) -> None:
    engine = ContrastiveEngine(pair, 0.1, template.tokenizer)
    whole = engine.generate(prompts, Decoding(32, ())).responses
    cut = engine.generate(prompts, Decoding(32, (), stop_strings=("}",))).responses
    for longer, shorter in zip(whole, cut, strict=True):
        assert longer[: len(shorter)] == shorter
        assert template.tokenizer.decode(shorter).count("}") <= 1


def test_an_evaluation_with_contrastive_decoding(tmp_path: Path) -> None:
    common = {"model": "miniature/expert", "benchmarks": ["arithmetic"], "max_items": 60, "max_answer_tokens": 48}
    alone = evaluate(EvaluateConfig.checked({**common, "out": tmp_path / "alone"}))
    beside = EvaluateConfig.checked({**common, "out": tmp_path / "beside", "contrast_with": "miniature/base"})
    contrasted = evaluate(beside)
    assert contrasted["chat/arithmetic"]["accuracy"] > alone["chat/arithmetic"]["accuracy"]
    assert '"contrast_alpha": 0.1' in (tmp_path / "beside/chat/arithmetic/answers/manifest.json").read_text()


def test_settings_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    common = {"model": "miniature/expert", "contrast_with": "miniature/base", "out": tmp_path}
    with pytest.raises(ConfigError, match="means nothing"):
        EvaluateConfig.checked({**common, "temperature": 0.7})
    with pytest.raises(ConfigError, match="answered by likelihood"):
        evaluate(EvaluateConfig.checked({**common, "benchmarks": ["hellaswag"]}))


def test_finished_rows_leave_the_batch(
    pair: Pair, template: PromptTemplate, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = Decoding(200, template.stop_ids(pair.expert.generation_config))
    rows: list[int] = []
    logits = _Decoder.logits

    def counted(decoder: _Decoder, new_ids: torch.Tensor) -> torch.Tensor:
        rows.append(len(new_ids))
        return logits(decoder, new_ids)

    monkeypatch.setattr(_Decoder, "logits", counted)
    engine = ContrastiveEngine(pair, 0.1, template.tokenizer)
    together = engine.generate(prompts, decoding).responses
    assert rows == sorted(rows, reverse=True)
    assert rows[-1] < rows[0] == len(prompts)
    assert together == [engine.generate([prompt], decoding).responses[0] for prompt in prompts]
