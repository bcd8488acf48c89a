"""Selecting from a sample folder: the same as sampling with that rule, exact numbers, labels without contrast."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightreasoner import contrast
from lightreasoner.config import SampleConfig, SelectConfig
from lightreasoner.config.sections import SelectSettings
from lightreasoner.errors import ConfigError, DataError, RunMismatch
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples import selecting
from lightreasoner.samples.folder import Rollout, Selected, read_samples
from lightreasoner.samples.sampling import sample
from lightreasoner.samples.selecting import RULES, Rule, Steps, register_rule, rule_of, select
from lightreasoner.training.batches import load_labels

from ..kept import KeptStep, kept_steps


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SampleConfig:
    """Samples of every step, in several shards."""
    config = SampleConfig(
        expert="miniature/expert",
        amateur="miniature/base",
        dataset="arithmetic",
        max_questions=20,
        max_new_tokens=12,
        divergence_beta=None,
        plausibility_alpha=0.05,
        batch_size=6,
        out=tmp_path_factory.mktemp("every_step"),
        dtype="float32",
    )
    sample(config)
    return config


def steps_of(folder: Path) -> dict[tuple[str, int], KeptStep]:
    return {(row.question_id, row.position): row for row in kept_steps(folder)}


def selected(config: SampleConfig, out: Path, **settings: object) -> dict[tuple[str, int], KeptStep]:
    select(SelectConfig(source=config.out, out=out, **settings))  # type: ignore[arg-type]
    return steps_of(out)


@pytest.mark.parametrize(("beta", "alpha"), [(0.4, 0.2), (1.0, 0.05), (0.8, 1.0)])
def test_selecting_is_sampling_with_that_rule(config: SampleConfig, tmp_path: Path, beta: float, alpha: float) -> None:
    sample(config.model_copy(update={"out": tmp_path / "a", "divergence_beta": beta, "plausibility_alpha": alpha}))
    wanted = steps_of(tmp_path / "a")
    found = selected(config, tmp_path / "b", threshold=beta, plausibility_alpha=alpha)
    assert found.keys() == wanted.keys()
    assert len(found) < len(steps_of(config.out))
    for key, step in wanted.items():
        assert found[key].token_ids == step.token_ids
        assert found[key].weights == pytest.approx(step.weights, abs=1e-6)
        assert found[key].expert_logprobs == step.expert_logprobs
    assert load_labels(tmp_path / "b", 4096)[0].expert_files == load_labels(tmp_path / "a", 4096)[0].expert_files


@pytest.mark.parametrize("rule", [name for name in RULES if name != "none"])
def test_rules_can_be_compared_at_equal_numbers_of_labels(config: SampleConfig, tmp_path: Path, rule: str) -> None:
    found = selected(config, tmp_path / rule, selection=rule, keep_labels=25)
    everything = steps_of(config.out)
    assert len(found) == 25
    score = {
        "divergence": lambda step: step.kl,
        "label_surprise": lambda step: sum(
            w * (math.log(w) - e) for w, e in zip(step.weights, step.expert_logprobs, strict=True) if w
        ),
        "expert_entropy": lambda step: step.expert_entropy,
        "excess_loss": lambda step: step.taken_expert_logprob - step.taken_amateur_logprob,
    }.get(rule)
    if score is not None:
        ranked = sorted(everything, key=lambda key: score(everything[key]), reverse=True)
        lowest = min(score(step) for step in found.values())
        assert lowest == pytest.approx(score(everything[ranked[24]]), rel=1e-4)
        highest_left = max(score(step) for key, step in everything.items() if key not in found)
        assert highest_left <= lowest * (1 + 1e-4)


def test_uncertain_or_contradicted_keeps_what_either_rule_finds(config: SampleConfig, tmp_path: Path) -> None:
    found = selected(config, tmp_path, selection="uncertain_or_contradicted", keep_labels=25)
    everything = steps_of(config.out)
    keys = list(everything)
    scores = contrast.soft_or(
        *(torch.tensor([getattr(everything[key], name) for key in keys]) for name in ("expert_entropy", "kl"))
    )
    lowest = min(scores[keys.index(key)] for key in found)
    assert all(key in found for key, score in zip(keys, scores, strict=True) if score > lowest)


def test_later_is_the_end_of_each_rollout(config: SampleConfig, tmp_path: Path) -> None:
    found = selected(config, tmp_path, selection="later", threshold=0.5)
    lengths: dict[str, int] = {}
    for question, position in (everything := steps_of(config.out)):
        lengths[question] = max(lengths.get(question, 0), position + 1)
    assert found.keys() == {key for key in everything if key[1] > lengths[key[0]] / 2}


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.weighs])
def test_labels_are_weighed_by_the_score_of_a_rule(config: SampleConfig, tmp_path: Path, rule: str) -> None:
    select(SelectConfig(source=config.out, out=tmp_path / "a", selection="none"))
    select(SelectConfig(source=config.out, out=tmp_path / "b", selection="none", weigh_by=rule))
    (_, plain), (made, weighed) = (load_labels(tmp_path / name, 4096) for name in "ab")
    assert plain.factors is None
    assert weighed.factors is not None
    assert weighed.factors.mean() == pytest.approx(1, abs=1e-5)
    assert weighed.factors.min() >= 0
    assert len(set(weighed.factors.tolist())) > 5
    assert (plain.weights.values == weighed.weights.values).all()
    assert plain.sha256 != weighed.sha256
    assert isinstance(made, Selected)
    assert f"weighed by {rule}" in made.words


def test_labels_weighed_by_the_divergence_of_their_step(config: SampleConfig, tmp_path: Path) -> None:
    found = selected(config, tmp_path, threshold=0.4, weigh_by="divergence")  # their rows are read without the factors
    kls = np.array([step.kl for step in kept_steps(tmp_path)])
    factors = load_labels(tmp_path, 4096)[1].factors
    assert factors is not None
    assert len(factors) == len(found)
    np.testing.assert_allclose(factors, kls / kls.mean(), rtol=1e-5)


def test_powers_of_the_label(config: SampleConfig, tmp_path: Path) -> None:
    everything = steps_of(config.out)
    own = selected(config, tmp_path / "own", selection="none", contrast="own_distribution")
    same = selected(config, tmp_path / "same", selection="none", amateur_power=0)
    more = selected(config, tmp_path / "more", selection="none", expert_power=1.5, amateur_power=0.5)
    assert [step.weights for step in own.values()] == [step.weights for step in same.values()]
    for key, step in everything.items():
        scores = np.exp(1.5 * np.array(step.expert_logprobs) - 0.5 * np.array(step.amateur_logprobs))
        assert more[key].weights == pytest.approx(scores / scores.sum(), abs=1e-5)


def test_a_selection_in_the_folder_of_its_samples_stands_beside_them(config: SampleConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(config.out, run)
    beside = config.model_copy(update={"out": run})
    select(SelectConfig(source=run, out=run, selection="random", keep_labels=9))
    assert len(kept_steps(run / "select")) == 9
    assert steps_of(run) == steps_of(config.out)
    with pytest.raises(RunMismatch, match="keep_labels: 9 there, 8 now"):
        select(SelectConfig(source=run, out=run, selection="random", keep_labels=8))
    sample(beside)  # they are still those of `lightr sample`


def test_a_threshold_below_beta_keeps_what_sampling_kept_and_says_so(
    config: SampleConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_beta = config.model_copy(update={"out": tmp_path / "a", "divergence_beta": 0.4})
    sample(with_beta)
    assert selected(with_beta, tmp_path / "b", threshold=0.1).keys() == steps_of(tmp_path / "a").keys()
    assert "holds only steps with a KL above 0.4" in caplog.text
    made = read_samples(tmp_path / "b")[0]
    assert made.beta == 0.4


def test_labels_that_are_not_finite_are_refused(config: SampleConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the powers are too large"):
        selected(config, tmp_path, selection="none", expert_power=1e300)
    with pytest.raises(DataError, match="label_temperature = 1e-300 are not finite"):
        selected(config, tmp_path, selection="none", label_temperature=1e-300)


def test_top1_flips_are_where_the_favourites_differ(config: SampleConfig, tmp_path: Path) -> None:
    found = selected(config, tmp_path, selection="top1_flip")
    _, stage = read_stage(config.out / "sample")
    wanted = {
        (row.question_id, position)
        for table in stage.tables("rollouts")
        for row in Rollout.rows(table)
        for position, (expert, amateur) in enumerate(zip(row.expert_top_ids, row.amateur_top_ids, strict=True))
        if expert[0] != amateur[0]
    }
    assert 0 < len(found) < len(steps_of(config.out))
    assert found.keys() == wanted


def test_random_and_ties_depend_on_the_seed_alone(config: SampleConfig, tmp_path: Path) -> None:
    first = selected(config, tmp_path / "1", selection="random", keep_share=0.3)
    again = selected(config, tmp_path / "2", selection="random", keep_share=0.3)
    other = selected(config, tmp_path / "3", selection="random", keep_share=0.3, seed=1)
    assert first.keys() == again.keys() != other.keys()
    assert len(first) == len(other) == round(0.3 * len(steps_of(config.out)))


def test_labels_without_contrast(config: SampleConfig, tmp_path: Path) -> None:
    everything = steps_of(config.out)
    own_token = selected(config, tmp_path / "token", selection="none", contrast="own_token")
    own = selected(config, tmp_path / "own", selection="none", contrast="own_distribution", plausibility_alpha=0.3)
    assert own_token.keys() == own.keys() == everything.keys()
    for key, step in everything.items():
        assert (own_token[key].token_ids, own_token[key].weights) == ([step.taken_id], [1.0])
        probabilities = np.exp(step.expert_logprobs)
        inside = probabilities >= 0.3 * probabilities.max()
        wanted = probabilities[inside] / probabilities[inside].sum()
        assert own[key].weights == pytest.approx(wanted, abs=1e-5)


def test_a_lower_temperature_sharpens_the_label(config: SampleConfig, tmp_path: Path) -> None:
    sharp = selected(config, tmp_path, selection="none", label_temperature=0.5)
    for key, step in steps_of(config.out).items():
        if len(step.weights) > 1:
            squared = np.square(step.weights)
            assert sharp[key].weights == pytest.approx(squared / squared.sum(), abs=1e-4)


def test_a_stopped_selection_goes_on(config: SampleConfig, tmp_path: Path) -> None:
    whole = selected(config, tmp_path, selection="random", keep_share=0.5)
    (tmp_path / "sample" / "result.json").unlink()
    ledger = tmp_path / "sample" / "ledger.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:2]))
    assert selected(config, tmp_path, selection="random", keep_share=0.5) == whole


# --- Rules from outside of the package ---


@pytest.fixture
def no_rules_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selecting, "_registered", {})


def of_entropies(sign: float) -> Rule:
    return Rule(lambda steps: sign * (steps.of("amateur_entropy") - steps.of("expert_entropy")))


@pytest.mark.usefixtures("no_rules_left")
def test_a_registered_rule_selects_by_its_score(config: SampleConfig, tmp_path: Path) -> None:
    register_rule("unsure", of_entropies(1))
    found = selected(config, tmp_path, selection="unsure", threshold=0.5)
    everything = steps_of(config.out)
    wanted = {key for key, step in everything.items() if step.amateur_entropy - step.expert_entropy > 0.5}
    assert 0 < len(wanted) < len(everything)
    assert found.keys() == wanted
    made, labels = load_labels(tmp_path, 4096)  # without the rule: the folder says all
    assert isinstance(made, Selected)
    assert made.words.startswith("unsure, threshold 0.5; labels")
    assert len(labels.weights) == len(wanted)


@pytest.mark.usefixtures("no_rules_left")
def test_another_rule_of_the_same_name_is_refused_and_the_same_one_is_not(config: SampleConfig, tmp_path: Path) -> None:
    settings = {"source": config.out, "out": tmp_path, "selection": "unsure", "keep_labels": 9}
    register_rule("unsure", of_entropies(1))
    first = select(SelectConfig(**settings))  # type: ignore[arg-type]
    register_rule("unsure", Rule(lambda steps: steps.of("amateur_entropy") - steps.of("expert_entropy")))
    assert select(SelectConfig(**settings)) == first  # type: ignore[arg-type]
    register_rule("unsure", of_entropies(-1))
    with pytest.raises(RunMismatch, match="chosen steps: other content now"):
        select(SelectConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_rules_left")
def test_another_rule_that_weighs_is_refused(config: SampleConfig, tmp_path: Path) -> None:
    settings = {"source": config.out, "out": tmp_path, "selection": "none", "weigh_by": "unsure"}
    register_rule("unsure", of_entropies(1))
    select(SelectConfig(**settings))  # type: ignore[arg-type]
    register_rule("unsure", Rule(lambda steps: steps.of("kl")))
    with pytest.raises(RunMismatch, match="chosen steps: other content now"):
        select(SelectConfig(**settings))  # type: ignore[arg-type]


def test_a_rule_of_the_package_is_identified_by_its_name_as_before(config: SampleConfig, tmp_path: Path) -> None:
    selected(config, tmp_path, selection="later", keep_labels=9)
    made = load_labels(tmp_path, 4096)[0]
    assert isinstance(made, Selected)
    assert made.chosen_steps_sha256 is None
    assert "chosen_steps_sha256" not in made.fingerprint()


@pytest.mark.parametrize("name", ["divergence", "none", "", "two words", "a\x1b[2J"])
def test_a_name_that_could_mislead_is_no_name_of_a_rule(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        register_rule(name, of_entropies(1))
    assert name not in selecting._registered


@pytest.mark.usefixtures("no_rules_left")
@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda steps: 1.0, "the rule mine gave float for"),
        (lambda steps: torch.zeros(len(steps) + 1), r"the rule mine gave shape \["),
        (lambda steps: torch.zeros(len(steps), 2), r"the rule mine gave shape \["),
        (lambda steps: torch.full((len(steps),), math.nan), "none of the"),
    ],
)
def test_a_rule_without_scores_is_refused(
    config: SampleConfig, tmp_path: Path, score: Callable[[Steps], torch.Tensor], message: str
) -> None:
    register_rule("mine", Rule(score))
    with pytest.raises(DataError, match=message):
        selected(config, tmp_path, selection="mine", keep_labels=9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection": "divergence"}, "needs threshold"),
        ({"selection": "random"}, "needs keep_share"),
        ({"selection": "none", "keep_share": 0.5}, "random keeps some"),
        ({"selection": "top1_flip", "threshold": 1.0}, "no score"),
        ({"keep_share": 0.5, "keep_labels": 5}, "give one"),
        ({"selection": "label_surprize", "threshold": 1.0}, "no selection label_surprize: did you mean label_surprise"),
        ({"selection": "x", "threshold": 1.0}, "no selection x: known rules: divergence, excess_loss, expert_entropy"),
        ({"selection": "uncertain_or_contradicted", "threshold": 0.5}, "no score"),
        ({"selection": "none", "weigh_by": "random"}, "weigh_by = random: known rules that weigh: divergence"),
        ({"selection": "none", "weigh_by": "surprise"}, "did you mean label_surprise"),
        ({"contrast": "own_token", "expert_power": 2}, "own_token is one token, so expert_power = 2 and amateur_power"),
        ({"contrast": "own_distribution", "amateur_power": 0}, "is expert_power = 1 and amateur_power = 0, so"),
        ({"expert_power": -1}, "expert_power = -1"),
    ],
)
def test_rules_without_a_meaning_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule_of(SelectSettings.checked(settings))


def test_what_the_folder_does_not_hold_is_refused(config: SampleConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="were kept with 0.05"):
        selected(config, tmp_path / "a", threshold=0.4, plausibility_alpha=0.01)
    with pytest.raises(DataError, match="none of the"):
        selected(config, tmp_path / "b", threshold=1e9)
    selected(config, tmp_path / "c", threshold=0.4)
    with pytest.raises(DataError, match="itself a selection"):
        selected(config.model_copy(update={"out": tmp_path / "c"}), tmp_path / "d", threshold=0.5)


def test_from_the_command_line(config: SampleConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightreasoner.cli import app

    arguments = f"samples select {config.out} {tmp_path} --selection random --keep-labels 7 --seed 3 --json"
    app(arguments.split(), exit_on_error=False, result_action="return_value")
    assert json.loads(capsys.readouterr().out)["kept_steps"] == 7 == len(steps_of(tmp_path))


def test_the_highest_scores_and_never_an_infinite_one() -> None:
    scores = torch.tensor([0.5, float("nan"), 2.0, -torch.inf, 1.0, float("inf")])
    kept = contrast.select_highest(scores, 3, torch.Generator().manual_seed(0))
    assert kept.tolist() == [False, False, True, False, True, True]
    assert contrast.select_highest(scores, 9, torch.Generator().manual_seed(0)).sum() == 4
