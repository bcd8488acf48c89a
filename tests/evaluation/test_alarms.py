"""Alarms by hand and on tiny models, without a right answer."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from lightreasoner import contrast
from lightreasoner.config import RoundsConfig
from lightreasoner.evaluation import alarms
from lightreasoner.evaluation.alarms import figures_of, is_of_format, majority_share, measure, repeated_share
from lightreasoner.inference.scoring import response_states
from lightreasoner.models.loading import load_model, load_tokenizer, with_adapter
from lightreasoner.models.source import find_model
from lightreasoner.models.vocabulary import logit_width, vocabulary_of
from lightreasoner.runs.records import ALARMS, Answer
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Label, Rollout, Shard
from lightreasoner.samples.sampling import sample
from lightreasoner.training.finetuning import finetune


def test_the_majority_is_the_commonest_answer() -> None:
    assert majority_share(["7", "7", "8", None]) == 0.5
    assert majority_share([None, None]) == 0, "no answer agrees with nothing"
    assert majority_share(["1", "2", "3", "4"]) == 0.25


def test_repeated_ngrams_by_hand() -> None:
    assert repeated_share([1, 2, 3, 4, 5]) == 0
    assert repeated_share([1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 3)  # three 4-grams, one distinct
    assert repeated_share([1, 2, 3]) == 0, "too short for one"


@pytest.mark.parametrize(("text", "expected"), [("\n\n", True), (" **", True), ("", True), ("```", True), (":", True)])
def test_marks_and_blanks_are_format(text: str, expected: bool) -> None:
    assert is_of_format(text) is expected


@pytest.mark.parametrize("text", ["a", " 12", "+", "=", "×", "é", "数"])
def test_words_numbers_and_signs_are_content(text: str) -> None:
    assert not is_of_format(text)


def rollout(name: str, response: list[int], kl: list[float], *, finished: bool) -> Rollout:
    zeros = [0.0] * len(kl)
    tops = [[0, 1]] * len(kl)
    logs = [[-0.1, -3.0]] * len(kl)
    return Rollout(name, "?", [1], response, finished, kl, [0.5] * len(kl), zeros, zeros, zeros, tops, logs, tops, logs)


def test_figures_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    (word,), (blank,) = (tokenizer.encode(text, add_special_tokens=False)[:1] for text in ("7", "\n"))
    rows = [rollout("a", [5, 6, 7, 8, 9], [0.5, 0.1, math.nan, 0.4, 5.0], finished=True)]
    rows.append(rollout("b", [5] * 5, [0.0] * 5, finished=False))
    wide = 20
    labels = [
        Label("a", 0, [word, blank], [0.75, 0.25], [math.log(0.5), math.log(0.5)], [-1.0, -1.0]),
        Label("a", 1, [blank], [1.0], [math.log(0.1)], [-1.0]),  # at or below β
        Label("a", 3, [blank], [1.0], [math.log(0.1)], [-1.0]),
        Label("a", 4, [word] * wide, [1 / wide] * wide, [math.log(1 / wide)] * wide, [-1.0] * wide),  # scattered
    ]
    found = figures_of([Shard(Rollout.table(rows), Label.table(labels))], 0.4, tokenizer)
    assert found["above_beta"] == pytest.approx(0.2)
    surprise = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert found["label_surprise"] == pytest.approx(surprise / 2, abs=1e-6)
    assert found["expert_entropy"] == 0.5
    assert (found["finished"], found["mean_length"]) == (0.5, 5)
    assert found["repeated"] == pytest.approx(0.25)
    assert found["format_mass"] == pytest.approx(0.125)
    assert found["junk_mass"] == 0.5
    assert figures_of([Shard(Rollout.table(rows), Label.table(labels))], None, tokenizer)["above_beta"] == 0.9


def test_figures_of_no_label_are_zero(tokenizer: PreTrainedTokenizerFast) -> None:
    table = Rollout.table([rollout("a", [5], [0.0], finished=True)])
    found = figures_of([Shard(table, Label.table([]))], 0.4, tokenizer)
    assert [found[name] for name in ("label_surprise", "format_mass", "junk_mass")] == [0, 0, 0]


@pytest.fixture(scope="module")
def config(random_expert: Path, random_amateur: Path, tmp_path_factory: pytest.TempPathFactory) -> RoundsConfig:
    settings: dict[str, Any] = {
        "expert": str(random_expert),
        "amateur": str(random_amateur),
        "dataset": "arithmetic",
        "dtype": "float32",
        "out": tmp_path_factory.mktemp("rounds"),
        "sample": {"max_questions": 8, "max_new_tokens": 8, "batch_size": 8},
        "finetune": {"steps": 3, "learning_rate": 1e-2},
        "evaluate": {"benchmarks": ["arithmetic"], "grading_workers": 1},
        "rounds": {"held_back": 8, "answers": 3},
    }
    return RoundsConfig.checked(settings)


@pytest.fixture(scope="module")
def first_round(config: RoundsConfig) -> RoundsConfig:
    sample(config.sample_of(1))
    finetune(config.finetune_of(1))
    return config


def test_the_untouched_expert_has_not_moved(config: RoundsConfig) -> None:
    found = measure(config, 0)
    assert found.keys() == {*ALARMS, "per_prompt"}
    assert found["drift"] == 0
    assert len(found["per_prompt"]["majority_share"]) == 8
    shares = {name: majority_share(answers) for name, answers in found["per_prompt"]["answers"].items()}
    assert shares == found["per_prompt"]["majority_share"]
    assert found["majority_share"] == pytest.approx(np.mean(list(found["per_prompt"]["majority_share"].values())))


def test_the_drift_is_the_divergence_from_the_untouched_expert(first_round: RoundsConfig) -> None:
    found = measure(first_round, 1)
    folder = first_round.folder(1) / "held-back"
    rows = [row for table in read_stage(folder / "sample")[1].tables("rollouts") for row in Rollout.rows(table)]
    source = find_model(first_round.expert)
    vocabulary = vocabulary_of(load_tokenizer(source), logit_width(load_model(source, first_round)))
    prompts, responses = [row.prompt_ids for row in rows], [row.response_ids for row in rows]
    logs = []
    for one in (with_adapter(source, first_round.folder(1)), source):
        states = response_states(load_model(one, first_round), prompts, responses)
        logs.append(vocabulary.log_softmax(states.logits(slice(0, len(states.hidden)))))
    with torch.inference_mode():
        expected = contrast.kl_divergence(*logs).mean().item()
    assert found["drift"] == pytest.approx(expected, rel=1e-4)
    assert found["drift"] > 1e-5


def test_a_date_in_the_prompt_stays_when_it_is_measured_on_another_day(
    config: RoundsConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%Y-%m-%d') }} {{ messages[-1]['content'] }}")
    dated = config.model_copy(update={"chat_template": template, "out": tmp_path / "rounds"})
    found = []
    for day in (3, 4):

        class Clock(datetime):
            today = day

            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime(2026, 3, cls.today, 12, tzinfo=tz)

        for module in ("runs.manifest", "models.prompts"):
            monkeypatch.setattr(f"lightreasoner.{module}.datetime", Clock)
        found.append(measure(dated, 0))
        for stage in ("sample", "answers"):
            manifest = json.loads((dated.folder(0) / "held-back" / stage / "manifest.json").read_text())
            assert manifest["asked_at"].startswith("2026-03-03")
            assert "2026-03-03 " in json.dumps(manifest["fingerprint"]["asked"])
    assert found[0] == found[1]


def test_right_answers_stay_out(first_round: RoundsConfig) -> None:
    measure(first_round, 1)
    for number in (0, 1):
        measure(first_round, number)
        _, stage = read_stage(first_round.folder(number) / "held-back/answers")
        rows = [row for table in stage.tables("answers") for row in Answer.rows(table)]
        assert {row.gold for row in rows} == {""}
        assert len(rows) == 8 * 3


def test_the_answers_may_be_longer_than_the_rollouts(
    first_round: RoundsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    longer = first_round.evaluate.model_copy(update={"max_answer_tokens": first_round.sample.max_new_tokens + 8})
    config = first_round.model_copy(update={"evaluate": longer, "out": first_round.out / "longer"})
    measure(config, 0)
    _, stage = read_stage(config.folder(0) / "held-back/answers")
    lengths = [len(row.output_ids) for table in stage.tables("answers") for row in Answer.rows(table)]
    assert max(lengths) > config.sample.max_new_tokens
    assert f"were cut off at {longer.max_answer_tokens} tokens" in caplog.text, "random models seldom end"


def test_what_was_measured_is_read(first_round: RoundsConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(first_round, 1)
    monkeypatch.setattr("lightreasoner.evaluation.alarms._stated", None)
    monkeypatch.setattr("lightreasoner.evaluation.answering.served_by", lambda *_: NoModel())
    assert measure(first_round, 1) == found


class NoModel:
    def identity(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def test_another_beta_is_another_measurement(first_round: RoundsConfig) -> None:
    measure(first_round, 0)
    other = first_round.model_copy(
        update={"sample": first_round.sample.model_copy(update={"divergence_beta": 3.0}), "out": first_round.out}
    )
    with pytest.raises(Exception, match="beta: 0.4 there, 3.0 now"):
        measure(other, 0)


def test_rollouts_without_a_step_are_a_failure_after_the_first_round(
    first_round: RoundsConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: Any) -> None:
        raise alarms.NothingToLearn("all 8 rollouts are empty")

    monkeypatch.setattr(alarms, "sample", fail)
    assert measure(first_round, 1) == {"failure": "all 8 rollouts are empty"}
    with pytest.raises(alarms.NothingToLearn):
        measure(first_round, 0)
