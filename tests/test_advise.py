"""Advice before a run: its figures, its settings, what it does not know, and its command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightreasoner.advise import advice_lines, advise
from lightreasoner.config import AdviseConfig, DoctorConfig
from lightreasoner.config.sections import SelectSettings
from lightreasoner.doctor import examine
from lightreasoner.errors import ConfigError, LightReasonerError, ModelError, RunMismatch
from lightreasoner.report import report
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Rollout, read_samples
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.statistics import JUDGED, figures_of
from lightreasoner.studies.jobs import Mixture

from .faults.harness import completed

QUESTIONS = 12


def config_for(out: Path | None = None, **changes: Any) -> AdviseConfig:
    common = {"expert": "miniature/expert", "amateur": "miniature/base", "dataset": "arithmetic", "dtype": "float32"}
    small = {"sample": {"max_new_tokens": 32}, "evaluate": {"benchmarks": ["arithmetic"], "max_items": 10}}
    return AdviseConfig(**{**common, **small, "prompts": QUESTIONS, "out": out, **changes})


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Advice about the bundled pair, and the folder of its samples."""
    out = tmp_path_factory.mktemp("advice") / "kept"
    return advise(config_for(out), flops=1e12), out


def test_advice_has_the_figures_of_its_samples_and_the_settings_that_they_suggest(
    advised: tuple[dict[str, Any], Path],
) -> None:
    result, out = advised
    found = figures_of(read_samples(out)[1].tables("rollouts", JUDGED), None)
    assert result["prompts"] == QUESTIONS
    assert result["figures"]["mean_kl"] == round(found.mean_kl or 0, 3)
    assert result["figures"]["steps"] == found.steps
    assert sum(result["figures"]["kl_histogram"].values()) == pytest.approx(1, abs=0.02)
    labels, suggested = result["labels"], result["suggested"]
    kls = sorted(kl for row in Rollout.rows(next(read_samples(out)[1].tables("rollouts"))) for kl in row.kl)
    assert labels["kept_share"] == round(sum(kl > 0.4 for kl in kls) / len(kls), 3)
    assert labels["questions"] == 1000
    assert labels["estimated"] == round(sum(kl > 0.4 for kl in kls) / QUESTIONS * 1000)
    assert labels["passes"] == round(16_000 / labels["estimated"], 1)
    # The bundled pair keeps between a tenth and a half at the paper's β, which therefore stays.
    assert suggested["divergence_beta"] == 0.4
    assert suggested["kept_share"] == labels["kept_share"]
    assert sum(kl > suggested["beta_by_kept_share"]["0.2"] for kl in kls) == pytest.approx(0.2 * len(kls), abs=1.5)
    several = suggested["several_tokens_by_alpha"]
    assert several["0.2"] == pytest.approx(1 - labels["single_token"], abs=1e-3)
    assert several["0.2"] <= several["0.1"] <= several["0.05"]
    assert result["cost"]["seconds"]["all"] > 0


def test_another_beta_is_suggested_where_the_given_one_keeps_nearly_nothing() -> None:
    result = advise(config_for(sample={"max_new_tokens": 32, "divergence_beta": 50.0}), flops=1e12)
    assert result["labels"]["estimated"] == 0
    assert result["labels"]["passes"] is None
    assert any("is kept; loosen the rule" in text for text in result["warnings"])
    assert result["suggested"]["divergence_beta"] == result["suggested"]["beta_by_kept_share"]["0.2"] < 50
    assert any(line.startswith("suggested: β") for line in advice_lines(result))


def test_a_model_has_nothing_to_learn_from_itself() -> None:
    with pytest.raises(ConfigError, match="expert and amateur are the same model and read the same prompts"):
        advise(config_for(amateur="miniature/expert"), flops=1e12)


def test_an_architecture_that_has_no_plan_still_gets_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **others: object) -> None:
        raise ModelError("it is a mixture of experts")

    monkeypatch.setattr("lightreasoner.advise.plan", unknown)
    result = advise(config_for())
    assert result["cost"] is None
    assert "it is a mixture of experts" in result["warnings"]
    assert not any(line.startswith("cost") for line in advice_lines(result))


@pytest.mark.slow
def test_a_pair_like_those_that_lost_is_named_by_sampling_advice_report_and_doctor(tmp_path: Path) -> None:
    """The middle of the bundled expert and instruct, which lost 39 points against instruct."""
    folder = tmp_path / "half"
    Mixture(root=tmp_path, start="miniature/expert", end="miniature/instruct", share=0.5).run()
    (made,) = (tmp_path / "mixtures").iterdir()
    made.rename(folder)
    pair = {"expert": str(folder), "amateur": "miniature/instruct", "sample": {"max_new_tokens": 48}}
    result = advise(config_for(tmp_path / "out", **pair, prompts=24), flops=1e12)
    assert (result["gain"]["sign"], result["gain"]["why_unknown"]) == ("loss", None)
    assert any(line.startswith("LightReasoner is likely to harm: -") for line in advice_lines(result))
    (text,) = (text for text in result["warnings"] if text.startswith("pairs with such figures lost accuracy: -"))
    # Advice samples every step, so the warning of its samples alone does not know that the run has the paper's β.
    run = config_for(tmp_path / "run", **pair).for_run(tmp_path / "run").for_sample()
    sampled = sample(run.model_copy(update={"max_questions": 24}))
    assert text in sampled["warnings"]
    assert text in report(tmp_path / "run").sample_warnings
    found = examine(DoctorConfig(expert=str(folder), amateur="miniature/instruct"))["findings"]
    assert any(finding["seen"].startswith("pairs with such figures lost accuracy: -") for finding in found)


def test_the_same_call_reads_the_samples_that_it_kept(
    advised: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = advised
    before = read_stage(out / "sample")[1].digest
    monkeypatch.setattr("lightreasoner.samples.sampling.settle", lambda *arguments, **others: pytest.fail("sampled"))
    assert advise(config_for(out), flops=1e12) == result
    assert read_stage(out / "sample")[1].digest == before


def test_the_gain_is_unknown_for_other_labels_and_too_few_prompts() -> None:
    other = advise(config_for(select=SelectSettings(expert_power=2.0)), flops=1e12)["gain"]
    assert other["sign"] == "unknown"
    assert "other steps or labels" in other["why_unknown"]
    few = advise(config_for(prompts=4), flops=1e12)
    assert few["gain"]["why_unknown"] == "4 prompts are too few; 8 are needed"
    assert any("unknown whether LightReasoner helps: 4 prompts are too few" in line for line in advice_lines(few))
    own = advise(config_for(amateur="self:layers=2"), flops=1e12)
    assert own["gain"]["sign"] == "unknown"
    assert "the amateur is self:layers=2, and another model in the measured pairs" in own["gain"]["why_unknown"]


def test_the_command_prints_json_and_lines_and_takes_a_recipe_without_its_folder(tmp_path: Path) -> None:
    small = ["--prompts", "8", "--sample.max-new-tokens", "16", "--flops", "1e12"]
    done = completed("advise", "--config", "miniature", *small, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["expert"], result["amateur"], result["prompts"]) == ("miniature/expert", "miniature/base", 8)
    assert not any(tmp_path.iterdir()), "the recipe's folder is that of its run"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"prompts": 0}, "prompts = 0"),
        ({"expert": "miniature/expret"}, "expret"),
        ({"select": {"selection": "divergense"}}, "divergense"),
        ({"select": {"selection": "random"}}, "needs keep_share or keep_labels"),
        ({"dataset": "nowhere.jsonl"}, "nowhere.jsonl"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sampled(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(LightReasonerError, match=says):
        advise(config_for(tmp_path / "out", **changes))
    assert not (tmp_path / "out" / "sample" / "rollouts-00000.parquet").exists()


def test_samples_of_other_settings_are_refused(advised: tuple[dict[str, Any], Path]) -> None:
    with pytest.raises(RunMismatch, match="max_new_tokens"):
        advise(config_for(advised[1], sample={"max_new_tokens": 16}), flops=1e12)
