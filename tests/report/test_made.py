"""The report says how samples were made: sides, contexts, rules, powers, weights, rounds, lengths."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from lightreasoner.config import BaselineConfig, FinetuneConfig, SelectConfig
from lightreasoner.evaluation.folder import read_evaluation
from lightreasoner.report import markdown, report, write_page
from lightreasoner.report.lengths import Lengths, answer_lengths
from lightreasoner.report.made import Weights, choices_of, loss_of
from lightreasoner.samples.folder import FACTOR, Baseline, read_samples, read_shards
from lightreasoner.samples.selecting import select
from lightreasoner.training.finetuning import finetune

from ..fake_runs import fake_answer, fake_rollout, write_evaluation, write_samples


def section(run: Path, name: str) -> str:
    write_page(run)
    return (run / "report.html").read_text().partition(f'<section id="{name}"')[2].partition("</section>")[0]


def samples(run: Path, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [fake_rollout(number, "How many?", [5, 6, 7, 8], len(tokenizer), rng) for number in range(4)]
    write_samples(run, rows, tokenizer, **changes)


def test_what_each_side_is_and_reads(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    samples(
        tmp_path, tokenizer, amateur="self:layers=3", amateur_cue="Guess <b>.", amateur_template=Path("other.jinja"),
        expert_hint="solution", amateur_hint="wrong", labeller="base", adapter=Path("a"), vocabulary="shared",
        expert_revision="abc123",
    )  # fmt: skip
    sides = report(tmp_path).sides
    assert sides is not None
    assert {name: (one, other) for name, one, other in sides.rows} == {
        "model": ("an/expert", "the expert's first 3 layers (self:layers=3)"),
        "instruction (cue)": ("–", "Guess <b>."),
        "chat template": ("of the expert's tokenizer", "other.jinja"),
        "hint, a field of the problem": ("solution", "wrong"),
    }
    assert sides.vocabulary == "shared"
    page, text = section(tmp_path, "sides"), markdown(report(tmp_path))
    for word in ("(self:layers=3)", "other.jinja", "solution", "wrong", "shared"):
        assert word in page.replace("&#39;", "'")
        assert word in text
    assert "Guess &lt;b&gt;." in page
    assert "the expert without its adapter" in section(tmp_path, "labels")


def test_the_papers_rule_and_label_are_named_too(small_run: Path) -> None:
    found = report(small_run)
    assert found.choices == {
        "steps kept by": "divergence, threshold 0.4",
        "labels": "π_E^1 · π_A^-1, α 0.2",
        "sampling of rollouts": "48 tokens at most, greedy",
    }
    assert found.weights is None


def test_rule_powers_and_weights_of_a_selection(small_run: Path, tmp_path: Path) -> None:
    config = SelectConfig(
        source=small_run, out=tmp_path, selection="label_surprise", keep_labels=60, weigh_by="divergence",
        expert_power=1.25, amateur_power=0.25, label_temperature=0.5,
    )  # fmt: skip
    select(config)
    found = report(tmp_path)
    assert found.choices["steps kept by"] == "label_surprise, keep_labels 60"
    wanted = "π_E^1.25 · π_A^-0.25, α 0.2, temperature 0.5, weighed by divergence"
    assert found.choices["labels"] == wanted
    factors = np.concatenate([shard.labels[FACTOR].to_numpy() for shard in read_shards(read_samples(tmp_path)[1])])
    assert found.weights is not None
    assert (found.weights.smallest, found.weights.largest) == (factors.min(), factors.max())
    assert found.weights.effective == pytest.approx(factors.sum() ** 2 / (60 * (factors**2).sum()))
    page, text = section(tmp_path, "labels"), markdown(found)
    for part in (wanted, f"{factors.min():.3f} to {factors.max():.3f}", f"{100 * found.weights.effective:.1f} %"):
        assert part in page
        assert part in text


def test_equal_weights_are_as_effective_as_all_labels() -> None:
    assert Weights.of([None, None]) is None
    assert Weights.of([np.ones(4), np.ones(2)]) == Weights(1, 1, 1)
    assert Weights.of([np.array([2.0, 0.0])]) == Weights(0, 2, 0.5)


def test_a_baseline_names_its_kind(tmp_path: Path) -> None:
    config = BaselineConfig(kind="majority-vote", model="m", dataset="d", out=tmp_path)
    made = Baseline(
        expert="m", expert_files={}, cue="", asked={}, settings=config, problems_sha256="0" * 64, dtype="float32"
    )
    assert choices_of(made) == {
        "labels": "baseline majority-vote, temperature 1, top_p 1, samples_per_problem 8, consensus 0"
    }


def test_a_training_on_the_entropy_says_so(small_run: Path, tmp_path: Path) -> None:
    assert "loss" not in report(small_run).choices
    finetune(
        FinetuneConfig(
            model="miniature/expert", data=small_run, out=tmp_path, steps=2, objective="entropy", dtype="float32"
        )
    )
    found = report(tmp_path)
    assert found.choices == loss_of("entropy")
    assert "on the entropy of its own predictions at 32 steps" in found.verdict


def test_lengths_by_hand() -> None:
    assert Lengths.measured("rollouts", "", [], 0, 64) is None
    found = Lengths.measured("rollouts", "", [1, 10, 20, 30, 64], 1, 64)
    assert found == Lengths("rollouts", "", 5, 25.0, pytest.approx(4.6), 20.0, pytest.approx(50.4), 64, 64, 0.2, 0.2)


def test_lengths_of_answers_leave_out_those_of_other_tools(tmp_path: Path) -> None:
    rows = [
        fake_answer(0, "a", "x", [1, 2, 3], is_right=True),
        fake_answer(1, "b", "x", [1] * 64, is_right=False, finish="length"),
        fake_answer(2, "c", "x", [], is_right=False, finish="unknown"),
    ]
    write_evaluation(tmp_path, rows)
    (found,) = answer_lengths(read_evaluation(tmp_path), "after")
    assert (found.total, found.mean, found.longest, found.limit, found.cut_off) == (2, 33.5, 64, 64, 0.5)
    assert (found.of, found.side) == ("Arithmetic, chat", "after")


def test_rollout_lengths_are_those_of_the_rows(small_run: Path) -> None:
    found = report(small_run).lengths[0]
    tables = [shard.rollouts for shard in read_shards(read_samples(small_run)[1])]
    lengths = [len(ids) for table in tables for ids in table["response_ids"].to_pylist()]
    finished = [end for table in tables for end in table["finished"].to_pylist()]
    assert (found.of, found.total, found.longest, found.limit) == ("rollouts", 40, max(lengths), 48)
    assert found.mean == pytest.approx(np.mean(lengths))
    assert found.cut_off == pytest.approx(1 - np.mean(finished))


def test_rounds_show_alarms_the_kept_round_and_the_stop_rule(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from lightreasoner.runs.records import ALARMS

    samples(tmp_path, tokenizer)
    alarms = [*(dict.fromkeys(ALARMS, 0.123 * number) for number in range(3)), {"failure": "no <label> is left"}]
    rounds = {"kept": 2, "why": "round 3 is not kept", "rounds": alarms}
    (tmp_path / "rounds.json").write_text(json.dumps(rounds))
    (tmp_path / "config.yaml").write_text("rounds: {limit: 4, evidence: 2.5}\n")
    page = section(tmp_path, "rounds")
    assert page.count("<svg") == page.count('class="beta"') == len(ALARMS)
    assert "the round that is kept, 2" in page
    assert "no &lt;label&gt; is left" in page
    assert '<dt>evidence</dt><dd class="text">2.5</dd>' in page
    assert "round 3 is not kept" in page
    assert "2 (kept)" in page
