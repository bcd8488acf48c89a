"""Stage 1: what is written, whatever the batches, stops and failures."""

import json
import math
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from lightreasoner.config import SampleConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.errors import (
    ConfigError,
    DataError,
    ModelError,
    NothingToLearn,
    RunMismatch,
    VocabularyMismatch,
)
from lightreasoner.inference.generation import Decoding, Generation, until_stop
from lightreasoner.inference.memory import in_halves
from lightreasoner.inference.packed_engine import PackedEngine
from lightreasoner.inference.padded_engine import PaddedEngine
from lightreasoner.inference.scoring import response_states
from lightreasoner.miniature import model_path
from lightreasoner.models.loading import load_model, load_tokenizer
from lightreasoner.models.pairs import FoundPair
from lightreasoner.models.source import find_model
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples import responses, sampler
from lightreasoner.samples.folder import Rollout
from lightreasoner.samples.sampling import sample

from ..faults.harness import commits, start, wait_for
from ..kept import KeptStep, kept_steps

Kept = dict[tuple[str, int], KeptStep]


@pytest.fixture
def config(random_expert: Path, random_amateur: Path, tmp_path: Path) -> SampleConfig:
    return SampleConfig(
        expert=str(random_expert),
        amateur=str(random_amateur),
        dataset="arithmetic",
        max_questions=24,
        max_new_tokens=10,
        out=tmp_path / "run",
        batch_size=4,
        dtype="float32",
    )


def flags_of(config: SampleConfig) -> list[str]:
    return [*config.flags(), "--batch-size", str(config.batch_size), "--out", str(config.out)]


def elsewhere(config: SampleConfig, name: str, **changes: Any) -> SampleConfig:
    return config.model_copy(update={"out": config.out.with_name(name), **changes})


def rollouts_of(config: SampleConfig) -> dict[str, Rollout]:
    _, stage = read_stage(config.out / "sample")
    rows = [row for table in stage.tables("rollouts") for row in Rollout.rows(table)]
    assert len({row.question_id for row in rows}) == len(rows)
    return {row.question_id: row for row in rows}


def kept_of(config: SampleConfig) -> Kept:
    rows = kept_steps(config.out)
    kept = {(row.question_id, row.position): row for row in rows}
    assert len(kept) == len(rows)
    return kept


def assert_same(first: SampleConfig, second: SampleConfig, tolerance: float = 1e-5) -> None:
    before, after = rollouts_of(first), rollouts_of(second)
    assert before.keys() == after.keys()
    for key in before:
        assert before[key].response_ids == after[key].response_ids
        assert before[key].kl == pytest.approx(after[key].kl, abs=tolerance)
    steps_before, steps_after = kept_of(first), kept_of(second)
    assert steps_before.keys() == steps_after.keys()
    for place in steps_before:
        assert steps_before[place].token_ids == steps_after[place].token_ids
        assert steps_before[place].weights == pytest.approx(steps_after[place].weights, abs=tolerance)


def test_batches_of_one_and_of_eight_agree(config: SampleConfig) -> None:
    small, large = elsewhere(config, "small", batch_size=1), elsewhere(config, "large", batch_size=8)
    sample(small)
    sample(large)
    assert_same(small, large)


def test_rows_say_what_they_promise(config: SampleConfig) -> None:
    result = sample(config)
    rollouts, kept = rollouts_of(config), kept_of(config)
    assert result["questions"] == len(rollouts) == 24
    assert result["steps"] == sum(len(row.response_ids) for row in rollouts.values())
    assert result["kept_steps"] == len(kept) == sum(kl > 0.4 for row in rollouts.values() for kl in row.kl)
    assert 0 in {position for _, position in kept}, "the first response token belongs to the algorithm"
    for (question, position), step in kept.items():
        rollout = rollouts[question]
        assert step.taken_id == rollout.response_ids[position] == rollout.expert_top_ids[position][0]
        assert step.kl == pytest.approx(rollout.kl[position])
        assert step.taken_expert_logprob == pytest.approx(rollout.expert_logprob[position])
        assert sum(step.weights) == pytest.approx(1.0, abs=1e-6)
        assert step.token_ids == sorted(step.token_ids)
        assert rollout.expert_top_ids[position][0] in step.token_ids


def test_as_many_top_tokens_are_kept_as_asked_for(config: SampleConfig) -> None:
    three, all_of_them = elsewhere(config, "three", top_tokens=3), elsewhere(config, "all", top_tokens=100_000)
    sample(three)
    sample(all_of_them)
    for key, row in rollouts_of(all_of_them).items():
        for top in (row.expert_top_logprobs, row.amateur_top_logprobs):
            assert len(top) == len(row.response_ids)
            assert all(logprobs == sorted(logprobs, reverse=True) for logprobs in top)
            assert [sum(map(math.exp, logprobs)) for logprobs in top] == pytest.approx([1.0] * len(top), abs=1e-4)
        assert [ids[:3] for ids in row.amateur_top_ids] == rollouts_of(three)[key].amateur_top_ids


def test_no_beta_keeps_every_step(config: SampleConfig) -> None:
    result = sample(elsewhere(config, "all", divergence_beta=None))
    assert result["kept_steps"] == result["steps"]


# --- No step is kept: why, and what helps ---


def test_the_advice_of_a_refusal_can_be_followed_in_the_same_folder(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = config.model_copy(update={"divergence_beta": 50.0})
    with pytest.raises(DataError) as caught:
        sample(high)
    largest = max(max(row.kl) for row in rows_of(config.out / "sample"))
    assert "none of 234 steps exceeds β = 50, so there is nothing to learn from: " in str(caught.value)
    assert f"the largest KL divergence is {largest:.3g} nats" in str(caught.value)
    with monkeypatch.context() as patched:
        patched.setattr(PackedEngine, "generate", None)
        with pytest.raises(DataError, match="none of 234 steps exceeds"):
            sample(high)  # refused again without sampling again
    advised = float(str(caught.value).partition("for example to ")[2].partition(",")[0])
    result = sample(config.model_copy(update={"divergence_beta": advised}))
    assert result["kept_steps"] > 0
    sample(elsewhere(config, "fresh", divergence_beta=advised))
    assert_same(config, elsewhere(config, "fresh"), tolerance=0.0)


def test_too_long_questions_say_how_long_a_rollout_may_be(config: SampleConfig) -> None:
    with pytest.raises(DataError) as caught:
        sample(config.model_copy(update={"max_new_tokens": 512}))
    assert "all 24 questions are longer than the context of 512 tokens, with the rollout: " in str(caught.value)
    advised = int(re.findall(r"Lower --max-new-tokens to (\d+) or less", str(caught.value))[0])
    with pytest.raises(DataError, match=f"to {advised} or less"):
        sample(config.model_copy(update={"max_new_tokens": advised + 1, "max_questions": 24}))
    assert sample(config.model_copy(update={"max_new_tokens": min(advised, 12)}))["questions"] == 24


def test_rollouts_that_end_at_once_say_so(config: SampleConfig, tmp_path: Path) -> None:
    expert = tmp_path / "expert"
    shutil.copytree(config.expert, expert)
    (expert / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(640))}))
    ending = config.model_copy(update={"expert": str(expert), "divergence_beta": 50.0})
    with pytest.raises(DataError, match="none of 24 steps .* Every rollout ends at its first token .stop tokens: "):
        sample(ending)
    letters = tuple(map(chr, (*range(32, 127), 10, 0xFFFD)))
    empty = elsewhere(config, "empty", stop_strings=(*letters, "Ġ"), divergence_beta=None)
    with pytest.raises(
        DataError, match="all 24 rollouts are empty: the expert begins with a text that ends a response"
    ):
        sample(empty)
    assert sample(empty.model_copy(update={"stop_strings": ()}))["kept_steps"] > 0


def rows_of(stage: Path) -> list[Rollout]:
    tables = map(pq.read_table, sorted(stage.glob("rollouts-*.parquet")))
    return [row for table in tables for row in Rollout.rows(table)]


# --- The end of an answer ---


def test_no_step_from_a_stop_text_on_is_stored_or_kept(config: SampleConfig) -> None:
    free, cut = elsewhere(config, "free"), elsewhere(config, "cut")
    sample(free)
    tokenizer = load_tokenizer(find_model(config.expert))
    before = rollouts_of(free)
    texts = {key: str(tokenizer.decode(row.response_ids, skip_special_tokens=True)) for key, row in before.items()}
    stop = max({text[4:6] for text in texts.values()}, key=lambda part: sum(part in text for text in texts.values()))
    sample(cut.model_copy(update={"stop_strings": (stop,)}))
    ended = 0
    for key, row in rollouts_of(cut).items():
        length = len(row.response_ids)
        assert row.response_ids == before[key].response_ids[:length]
        assert row.kl == pytest.approx(before[key].kl[:length], abs=1e-5)
        found = str(tokenizer.decode(row.response_ids, skip_special_tokens=True))
        assert stop not in found
        if stop in texts[key]:
            ended += 1
            assert row.finished
            before_last = str(tokenizer.decode(row.response_ids[:-1], skip_special_tokens=True))
            assert not length or len(before_last) < texts[key].index(stop)
        else:
            assert row.response_ids == before[key].response_ids
    assert ended
    expected = {place for place in kept_of(free) if place[1] < len(rollouts_of(cut)[place[0]].response_ids)}
    assert kept_of(cut).keys() == expected


@pytest.mark.parametrize("engine", [PackedEngine, PaddedEngine])
def test_an_expert_without_a_chat_template_stops_before_the_next_question(
    engine: Any, config: SampleConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert = tmp_path / "base"
    shutil.copytree(config.expert, expert, ignore=shutil.ignore_patterns("*.jinja"))
    tokenizer = load_tokenizer(find_model(str(expert)))
    answer, next_one = "It is 5.", "\n\nQuestion: What is 2?\nAnswer: 2.</s>"
    written = [tokenizer(text)["input_ids"] for text in (answer + next_one, answer + "</s>.", answer)]

    def scripted(self: Any, prompts: Sequence[list[int]], decoding: Decoding) -> Generation:
        ids = [until_stop(written[len(prompt) % 3], decoding, tokenizer) for prompt in prompts]
        return Generation(ids, response_states(self.model, prompts, ids) if engine is PackedEngine else None)

    monkeypatch.setattr(engine, "generate", scripted)
    monkeypatch.setattr(responses, "engine_for", lambda model, *rest, **more: engine(model))
    base = config.model_copy(update={"expert": str(expert), "divergence_beta": None, "max_new_tokens": 60})
    result = sample(base)
    rows = rollouts_of(base).values()
    assert {tokenizer.decode(row.response_ids) for row in rows} == {answer}
    assert len({row.finished for row in rows}) == 2
    assert result["kept_steps"] == result["steps"] == sum(len(row.response_ids) for row in rows)


def test_a_pair_without_contrast_has_nothing_to_teach(config: SampleConfig, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(config.expert, copy)
    for same in (config.expert, str(copy)):  # whatever the rule, before any rollout
        with pytest.raises(ConfigError, match="expert and amateur are the same model and read the same prompts"):
            sample(elsewhere(config, "same", amateur=same, divergence_beta=None))
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "remark": "another file, the same weights"}))
    with pytest.raises(NothingToLearn, match=r"none of .* steps exceeds β = 0.4, .* predict the same at every step"):
        sample(elsewhere(config, "same", amateur=str(copy)))


def test_a_finished_stage_loads_no_model(config: SampleConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sample(config)
    stamps = {path: path.stat().st_mtime_ns for path in (config.out / "sample").iterdir()}
    monkeypatch.setattr(FoundPair, "load_one", None)
    assert sample(config) == result
    assert {path: path.stat().st_mtime_ns for path in (config.out / "sample").iterdir()} == stamps


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"divergence_beta": 0.5}, "divergence_beta: 0.4 there, 0.5 now"),
        ({"plausibility_alpha": 0.1}, "plausibility_alpha"),
        ({"max_questions": 25}, "questions: 24 there, 25 now"),
        ({"top_tokens": 4}, "top_tokens: 5 there, 4 now"),
        ({"cue": "Think."}, "the prompt: "),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"seed": 1}, "the questions of arithmetic: other content now"),
    ],
)
def test_a_folder_of_other_settings_is_refused(config: SampleConfig, change: dict[str, Any], field: str) -> None:
    sample(config)
    with pytest.raises(RunMismatch, match=field):
        sample(config.model_copy(update=change))


def test_sampling_with_a_temperature_follows_its_seed(config: SampleConfig) -> None:
    warm = {"temperature": 1.0, "top_p": 0.9, "divergence_beta": None}
    first, again, other = (elsewhere(config, name, **warm) for name in ("first", "again", "other"))
    sample(first)
    sample(again)
    assert_same(first, again)
    sample(other.model_copy(update={"temperature": 0.0, "top_p": 1.0}))
    greedy = rollouts_of(other)
    assert any(row.response_ids != greedy[key].response_ids for key, row in rollouts_of(first).items())
    # The scored distributions are the models' own, not what the decoding made of them.
    for row in rollouts_of(first).values():
        if row.response_ids[0] == greedy[row.question_id].response_ids[0]:
            assert row.kl[0] == pytest.approx(greedy[row.question_id].kl[0], abs=1e-5)


def test_killed_at_any_moment_and_resumed_equals_uninterrupted(config: SampleConfig) -> None:
    whole = elsewhere(config, "whole", max_questions=48)
    parts = elsewhere(config, "parts", max_questions=48)
    sample(whole)
    ledger = parts.out / "sample" / "ledger.jsonl"
    kills = 0
    for wanted_commits in (1, 3, 5):
        command = start("sample", *flags_of(parts))
        wait_for(lambda wanted=wanted_commits: len(commits(parts.out / "sample")) >= wanted, command)  # type: ignore[misc]
        command.send(signal.SIGKILL)
        kills += command.end().code == -signal.SIGKILL
    assert kills == 3
    assert 0 < ledger.read_bytes().count(b"\n") < 12
    sample(parts)
    assert_same(whole, parts, tolerance=0.0)


def test_ctrl_c_commits_and_says_how_to_go_on(config: SampleConfig) -> None:
    command = start("sample", *flags_of(config.model_copy(update={"max_questions": 400, "batch_size": 2})))
    ledger = config.out / "sample" / "ledger.jsonl"
    wait_for(ledger.exists, command)
    command.send(signal.SIGINT)
    ended = command.end(60)  # fails on a traceback
    assert ended.code == 130
    assert "Run the same command to continue" in ended.error
    assert ledger.read_bytes().endswith(b"\n")


def test_memory_that_runs_out_halves_the_batch(config: SampleConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    sample(config)
    sizes: list[int] = []
    generate = PackedEngine.generate

    def greedy_for_memory(self: PackedEngine, prompts: Sequence[list[int]], decoding: Decoding) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return generate(self, prompts, decoding)

    monkeypatch.setattr(PackedEngine, "generate", greedy_for_memory)
    halved = elsewhere(config, "halved")
    sample(halved)
    assert set(sizes) == {4, 2}
    assert_same(config, halved)


def test_memory_that_runs_out_with_one_item_is_an_error() -> None:
    def never(items: Sequence[int]) -> list[int]:
        raise MemoryError("no memory")

    with pytest.raises(ModelError, match="batch of one"):
        in_halves([1, 2, 3], never, [])
    with pytest.raises(RuntimeError, match="something else"):
        in_halves([1, 2], lambda items: (_ for _ in ()).throw(RuntimeError("something else")), [])
    assert in_halves([1, 2, 3], lambda items: [item * 2 for item in items], []) == [2, 4, 6]


def test_steps_without_finite_distributions_are_dropped_and_too_many_stop_the_run(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sampler.contrast.kl_divergence

    def sometimes_nan(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        kl = original(log_p, log_q)
        kl[0] = float("nan")
        return kl

    monkeypatch.setattr(sampler.contrast, "kl_divergence", sometimes_nan)
    monkeypatch.setattr(sampler, "LARGEST_NONFINITE_SHARE", 0.5)
    result = sample(elsewhere(config, "some"))
    assert result["nonfinite_steps"] == 6  # one in each of the six batches
    monkeypatch.setattr(sampler, "LARGEST_NONFINITE_SHARE", 0.01)
    with pytest.raises(ModelError, match="NaN or infinite"):
        sample(elsewhere(config, "too-many"))


def test_questions_beyond_the_context_are_skipped_and_counted(config: SampleConfig, tmp_path: Path) -> None:
    short, long = "What is 2 + 3?", "What is " + "2 + " * 300 + "3?"
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": question}) + "\n" for question in (short, long)))
    settings = {"dataset": str(file), "divergence_beta": None}
    result = sample(elsewhere(config, "mixed", **settings))
    assert (result["questions"], result["too_long_questions"]) == (1, 1)
    assert [row.question for row in rollouts_of(elsewhere(config, "mixed")).values()] == [short]
    file.write_text(json.dumps({"question": long}))
    with pytest.raises(DataError, match=r"the question is longer than the context of 512 tokens: the shortest prompt"):
        sample(elsewhere(config, "only-long", **settings))


@pytest.mark.parametrize("kind", [PaddedEngine, PackedEngine])
def test_a_rollout_that_ends_at_once_is_done(random_expert: Path, kind: Any) -> None:
    engine = kind(load_model(find_model(str(random_expert)), MachineSettings(dtype="float32", device="cpu")))
    every_token = tuple(range(640))
    assert all(len(ids) == 1 for ids in engine.generate([[1, 2, 3], [4]], Decoding(10, every_token)).responses)
    assert all(len(ids) == 1 for ids in engine.generate([[1, 2, 3], [4]], Decoding(1, ())).responses)


def test_a_step_that_takes_a_token_of_one_model_only_is_never_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An expert of another family: its end of turn is a token that the amateur means something else by."""
    amateur = tmp_path / "amateur"
    shutil.copytree(model_path("base"), amateur)
    content = (amateur / "tokenizer.json").read_text()
    (amateur / "tokenizer.json").write_text(content.replace("<|im_end|>", "<|other|>"))
    config = SampleConfig(
        expert="miniature/expert",
        amateur=str(amateur),
        dataset="arithmetic",
        max_questions=12,
        max_new_tokens=40,
        divergence_beta=None,
        out=tmp_path / "run",
        dtype="float32",
    )
    with pytest.raises(VocabularyMismatch, match="2 of 641 ids differ.*leave these ids out with --vocabulary shared"):
        sample(config)
    assert not config.out.exists(), "the pair is checked before anything is written"
    shared = config.model_copy(update={"vocabulary": "shared"})
    assert sample(shared)["tokens_left_out"] == 2
    assert "2 token ids mean different things" in capsys.readouterr().err
    end = load_tokenizer(find_model("miniature/expert")).convert_tokens_to_ids("<|im_end|>")
    taken = {row.response_ids[position] for row in rollouts_of(shared).values() for position in range(len(row.kl))}
    assert end in taken
    steps = list(kept_of(shared).values())
    assert steps
    assert all(step.taken_id != end and end not in step.token_ids for step in steps)
