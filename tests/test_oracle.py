"""Sampling against the naive reference: same rollouts, same KL, same kept steps, same labels."""

import json
from pathlib import Path

import pytest

from lightreasoner.config import SampleConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout
from lightreasoner.samples.sampling import sample

from .kept import kept_steps
from .naive import naive_steps


def check_against_naive(config: SampleConfig) -> None:
    """KL within 1e-4, identical kept steps, labels within 1e-5, identical greedy rollouts."""
    result = sample(config)
    _, stage = read_stage(config.out / "sample")
    rollouts = {row.question_id: row for table in stage.tables("rollouts") for row in Rollout.rows(table)}
    kept = {(step.question_id, step.position): step for step in kept_steps(config.out)}
    sources = find_model(config.expert), find_model(config.amateur)
    expert, amateur = (load_model(source, MachineSettings(dtype="float32", device="cpu")) for source in sources)
    vocabulary_size = len(load_tokenizer(sources[0]))
    assert config.divergence_beta is not None
    expected_kept = set()
    for rollout in rollouts.values():
        response = rollout.response_ids
        steps = naive_steps(
            expert, amateur, rollout.prompt_ids, response, vocabulary_size,
            config.divergence_beta, config.plausibility_alpha,
        )  # fmt: skip
        # Greedy by its definition: each token is the favourite after the ones before it, up to a stop or the limit.
        assert response == [step.expert_top_id for step in steps]
        assert not set(response[:-1]) & set(result["stop_ids"])
        assert len(response) == config.max_new_tokens or response[-1] in result["stop_ids"]
        assert rollout.kl == pytest.approx([step.kl for step in steps], abs=1e-4)
        for step in steps:
            at = step.position
            for wanted, ids, logprobs in (
                (step.expert_top, rollout.expert_top_ids[at], rollout.expert_top_logprobs[at]),
                (step.amateur_top, rollout.amateur_top_ids[at], rollout.amateur_top_logprobs[at]),
            ):
                assert ids == list(wanted)
                assert logprobs == pytest.approx(list(wanted.values()), abs=1e-3)
            if step.kept:
                key = (rollout.question_id, step.position)
                expected_kept.add(key)
                found = dict(zip(kept[key].token_ids, kept[key].weights, strict=True))
                assert found.keys() == step.label.keys()
                assert found == pytest.approx(step.label, abs=1e-5)
    assert kept.keys() == expected_kept
    assert kept


def test_random_pair_with_wider_amateur_logits(random_expert: Path, random_amateur: Path, tmp_path: Path) -> None:
    config = SampleConfig(
        expert=str(random_expert),
        amateur=str(random_amateur),
        dataset="arithmetic",
        max_questions=10,
        max_new_tokens=12,
        out=tmp_path,
        batch_size=4,
        dtype="float32",
    )
    check_against_naive(config)


def test_miniature_pair(tmp_path: Path) -> None:
    config = SampleConfig(
        expert="miniature/expert",
        amateur="miniature/base",
        dataset="arithmetic",
        max_questions=20,
        max_new_tokens=48,
        out=tmp_path,
        batch_size=8,
        dtype="float32",
    )
    check_against_naive(config)


@pytest.mark.slow
def test_smollm2_on_gsm8k(smollm2_gguf: Path, smollm2_amateur: Path, data_dir: Path, tmp_path: Path) -> None:
    config = SampleConfig(
        expert=str(smollm2_gguf),
        amateur=str(smollm2_amateur),
        dataset="gsm8k",
        data_dir=data_dir,
        max_questions=20,
        max_new_tokens=8,
        out=tmp_path,
        batch_size=8,
        dtype="float32",
    )
    check_against_naive(config)
    rows = [json.loads(line) for line in (data_dir / "gsm8k" / "train.jsonl").read_text().splitlines()[:20]]
    _, stage = read_stage(tmp_path / "sample")
    asked = {row.question for table in stage.tables("rollouts") for row in Rollout.rows(table)}
    assert asked == {row["question"].strip() for row in rows}
