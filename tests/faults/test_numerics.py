"""Out-of-memory, NaN values, and rollouts that end at once."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightreasoner.config import PairConfig, SampleConfig
from lightreasoner.inference.generation import Decoding, Generation
from lightreasoner.models.pairs import load_pair
from lightreasoner.runs.records import Problem
from lightreasoner.samples.folder import scored_rollouts
from lightreasoner.samples.responses import Generated, Prompted
from lightreasoner.samples.sampler import Sampler

from .harness import (
    LOSS,
    OBJECTIVE,
    assert_same_rows,
    at_call,
    commits,
    contents,
    count,
    lightr,
    out_of_memory,
    refused,
    rows,
    succeed,
    times_nan,
    with_nan_gradient,
)
from .test_fingerprints import changed
from .test_kills import assert_same_adapter


def test_a_batch_that_does_not_fit_is_halved_and_counted(
    sampling: tuple[object, ...], sampled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = succeed(*sampling, out, "--json", fail="in-batch:memory@3")
    assert "out of memory with a batch of 4: done again in halves" in found.error
    assert json.loads(found.out)["halved_batches"] == 1
    assert json.loads(commits(out / "sample")[2])["counts"]["halved_batches"] == 1
    expected = {row["question_id"]: row for row in rows(sampled / "sample", "rollouts")}
    for row in rows(out / "sample", "rollouts"):
        assert row["response_ids"] == expected[row["question_id"]]["response_ids"]
        assert row["kl"] == pytest.approx(expected[row["question_id"]]["kl"], abs=1e-4)
    count(survived=1)


def test_answers_that_do_not_fit_are_halved_and_counted(
    evaluating: tuple[object, ...], evaluated: Path, tmp_path: Path
) -> None:
    found = succeed(*evaluating, tmp_path, fail="in-batch:memory@2")
    answers = "chat/arithmetic/answers"
    assert "out of memory with a batch of 4" in found.error
    assert json.loads(commits(tmp_path / answers)[1])["counts"]["halved_batches"] == 1
    assert_same_rows(tmp_path / answers, evaluated / answers, "answers", ("question_id",))
    count(survived=1)


def test_a_single_question_that_does_not_fit_is_an_error_and_others_stay(
    sampling: tuple[object, ...], tmp_path: Path
) -> None:
    one_by_one = changed(sampling, batch_size=1, max_questions=8)
    found = lightr(*one_by_one, tmp_path, fail="in-batch:memory@3")
    assert (found.code, len(commits(tmp_path / "sample"))) == (1, 2)
    assert "out of memory with a batch of one" in found.last_line
    succeed(*one_by_one, tmp_path)
    count(survived=1)


def with_nan_after(token: int, amateur: Path, folder: Path) -> Path:
    """A copy of the amateur with NaN states after this token."""
    shutil.copytree(amateur, folder)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.embed_tokens.weight"][token] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


def affected(sampled: Path) -> dict[int, int]:
    """Number of steps in the responses with each token, without tokens of prompts.

    NaN also affects earlier positions: attention gives later ones the weight 0, and 0 times NaN is NaN.
    """
    rollouts = rows(sampled / "sample", "rollouts")
    prompts = {token for row in rollouts for token in row["prompt_ids"]}
    steps: Counter[int] = Counter()
    for row in rollouts:
        response = row["response_ids"]
        steps.update(dict.fromkeys(response[:-1], len(response)))
    return {token: number for token, number in steps.items() if token not in prompts}


def test_a_few_nan_rows_are_dropped_and_counted(
    sampling: tuple[object, ...], random_amateur: Path, tmp_path: Path
) -> None:
    many, sampled = changed(sampling, max_questions=160, batch_size=160), tmp_path / "whole"
    succeed(*many, sampled)
    token, number = min(affected(sampled).items(), key=lambda item: item[1])
    amateur = with_nan_after(token, random_amateur, tmp_path / "amateur")
    found = succeed(*changed(many, amateur=amateur), tmp_path / "run", "--json")
    count(faults=1)
    assert json.loads(found.out)["nonfinite_steps"] == number
    kept = {(row["question_id"], row["position"]): row for row in rows(tmp_path / "run/sample", "steps")}
    whole = {(row["question_id"], row["position"]): row for row in rows(sampled / "sample", "steps")}
    assert kept.keys() <= whole.keys()
    assert 0 < len(whole) - len(kept) <= number
    assert all(abs(sum(row["weights"]) - 1) < 1e-5 for row in kept.values())
    count(survived=1)


def test_many_nan_rows_stop_the_run(
    sampling: tuple[object, ...], sampled: Path, random_amateur: Path, tmp_path: Path
) -> None:
    token = max(affected(sampled).items(), key=lambda item: item[1])[0]
    amateur = with_nan_after(token, random_amateur, tmp_path / "amateur")
    for _ in range(2):  # re-running does not finish the stage batch by batch
        assert "have NaN or infinite logits" in refused(*changed(sampling, amateur=amateur), tmp_path / "run")
    assert len(commits(tmp_path / "run/sample")) < 12


def test_a_sampling_expert_with_nan_logits_stops_the_run(
    sampling: tuple[object, ...], sampled: Path, random_expert: Path, tmp_path: Path
) -> None:
    token = rows(sampled / "sample", "rollouts")[0]["prompt_ids"][-1]
    expert = with_nan_after(token, random_expert, tmp_path / "expert")
    sampling_expert = changed(sampling, expert=expert, temperature=1.0)
    assert "have NaN or infinite logits" in refused(*sampling_expert, tmp_path / "run")


def test_a_micro_batch_that_does_not_fit_is_reported(tuning: tuple[object, ...], tuned: Path, tmp_path: Path) -> None:
    found = lightr(*tuning, tmp_path, patch=at_call(OBJECTIVE, 6, before=out_of_memory))
    count(faults=1)
    assert found.code == 1
    assert "out of memory with a micro-batch of" in found.last_line
    assert "--tokens-per-micro-batch" in found.last_line
    succeed(*tuning, tmp_path)
    assert_same_adapter(tmp_path, tuned)


@pytest.mark.parametrize(
    ("target", "spoilt", "said"),
    [(LOSS, times_nan, "the loss is nan"), (OBJECTIVE, with_nan_gradient, "the gradient's norm is nan")],
)
def test_a_nan_loss_or_gradient_stops_before_the_step_and_keeps_the_last_state(
    target: str,
    spoilt: Callable[[Any], Any],
    said: str,
    tuning: tuple[object, ...],
    tuned: Path,
    tmp_path: Path,
) -> None:
    found = lightr(*tuning, tmp_path, patch=at_call(target, 10, after=spoilt))  # in the tenth step
    count(faults=1)
    assert found.code == 1
    assert said in found.last_line
    assert "the step was not taken and earlier checkpoints are intact" in found.last_line
    stage = tmp_path / "finetune"
    assert sorted(path.name for path in stage.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-8"]
    assert all(
        torch.isfinite(value).all() for value in load_file(stage / "checkpoint-8/adapter_model.safetensors").values()
    )
    assert not (stage / "adapter").exists()
    succeed(*tuning, tmp_path)
    assert_same_adapter(tmp_path, tuned)


def test_rollouts_that_end_with_their_first_token_are_complete(
    sampling: tuple[object, ...], random_expert: Path, tmp_path: Path
) -> None:
    expert = tmp_path / "expert"
    shutil.copytree(random_expert, expert)
    settings = json.loads((expert / "generation_config.json").read_text())
    (expert / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": list(range(640))}))
    arguments = changed(sampling, expert=expert)
    assert json.loads(succeed(*arguments, tmp_path / "run", "--json").out)["steps"] == 48
    before = contents(tmp_path / "run")
    succeed(*arguments, tmp_path / "run")
    assert contents(tmp_path / "run") == before
    # Without any kept step, all questions are still done, and none is sampled again.
    nothing = changed(arguments, divergence_beta=50)
    for _ in range(2):
        assert "none of 48 steps exceeds β" in refused(*nothing, tmp_path / "nothing")
    assert len(commits(tmp_path / "nothing/sample")) == 12
    assert rows(tmp_path / "nothing/sample", "steps") == []


def test_an_empty_response_gives_no_labels(random_expert: Path, random_amateur: Path, tmp_path: Path) -> None:
    class EmptyEngine:
        def generate(self, prompts: list[list[int]], decoding: Decoding) -> Generation:
            return Generation([[] if len(prompt) % 2 else [7] for prompt in prompts])

    pair = load_pair(PairConfig(expert=str(random_expert), amateur=str(random_amateur), dtype="float32", device="cpu"))
    config = SampleConfig(expert="e", amateur="a", dataset="d", out=tmp_path, divergence_beta=None)
    sampler = Sampler(pair, Generated(EmptyEngine(), Decoding(10, (0,))), config)
    for lengths in ((3, 4, 5), (3, 5)):
        batch = [Prompted(Problem(str(length), "?"), [5] * length) for length in lengths]
        (shard,) = sampler.run(batch)
        found = [(rollout.response_ids.tolist(), len(rollout.labels)) for rollout in scored_rollouts(shard)]
        assert found == [([], 0) if length % 2 else ([7], 1) for length in lengths]
