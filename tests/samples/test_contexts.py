"""Sides with contexts of their own: prompts, hints, fingerprints, and the samples that they give."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from lightreasoner.config import RunConfig, SampleConfig
from lightreasoner.errors import ConfigError, DataError
from lightreasoner.models.loading import load_tokenizer
from lightreasoner.models.source import find_model
from lightreasoner.report import write_page
from lightreasoner.runs.stage import read_stage
from lightreasoner.samples.folder import Sampled, read_samples
from lightreasoner.samples.sampling import sample

from ..faults.harness import completed
from ..kept import kept_steps

QUESTIONS = ["What is 2 + 3?", "Tom has 4 pens and buys 5. How many?", "What is 7 - 2?", "Ann eats 3 of 9 plums. Left?"]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [{"question": text, "idea": f"Think of {n}.", "number": n} for n, text in enumerate(QUESTIONS)]
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def config(random_expert: Path, random_amateur: Path, problems: Path, tmp_path: Path) -> SampleConfig:
    return SampleConfig(
        expert=str(random_expert),
        amateur=str(random_amateur),
        dataset=str(problems),
        max_new_tokens=6,
        divergence_beta=None,
        batch_size=2,
        dtype="float32",
        device="cpu",
        out=tmp_path / "run",
    )


def made(config: SampleConfig, name: str, **changes: Any) -> SampleConfig:
    """Samples with these changes, in a folder of their own."""
    values = {**config.model_dump(), "out": config.out.with_name(name), **changes}
    changed = SampleConfig(**values)
    sample(changed)
    return changed


def record(config: SampleConfig) -> Sampled:
    found = read_samples(config.out)[0]
    assert isinstance(found, Sampled)
    return found


def rows(config: SampleConfig) -> dict[str, dict[str, Any]]:
    tables = read_stage(config.out / "sample")[1].tables("rollouts")
    return {row["question_id"]: row for table in tables for row in table.to_pylist()}


def digest(config: SampleConfig) -> str:
    return read_stage(config.out / "sample")[1].digest


def assert_near(first: SampleConfig, second: SampleConfig, tolerance: float = 1e-4) -> None:
    before, after = rows(first), rows(second)
    assert before.keys() == after.keys()
    for key, row in before.items():
        assert row["response_ids"] == after[key]["response_ids"]
        assert row["kl"] == pytest.approx(after[key]["kl"], abs=tolerance)


# --- Weights ---


def test_first_layers_give_the_samples_of_a_cut_model(config: SampleConfig, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(config.expert)
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers, model.config.layer_types = 1, model.config.layer_types[:1]
    model.save_pretrained(tmp_path / "cut")
    load_tokenizer(find_model(config.expert)).save_pretrained(tmp_path / "cut")
    own, named = made(config, "own", amateur="self:layers=1"), made(config, "named", amateur=str(tmp_path / "cut"))
    assert kept_steps(own.out) == kept_steps(named.out)
    assert digest(made(config, "apart", amateur="self:layers=1", residency="sequential")) == digest(own)


def test_dropout_does_not_depend_on_the_batch_or_the_order(config: SampleConfig) -> None:
    one, four = (made(config, f"b{size}", amateur="self:dropout=0.3", batch_size=size) for size in (1, 4))
    assert_near(one, four)
    other_seed = made(config, "seed", amateur="self:dropout=0.3", seed=7)
    assert all(row["kl"] != rows(one)[key]["kl"] for key, row in rows(other_seed).items())


# --- Prompts ---


def test_the_expert_with_another_cue_is_an_amateur(config: SampleConfig) -> None:
    own = made(config, "own", amateur="self", amateur_cue="")
    plain = made(config, "plain")
    for key, row in rows(own).items():
        assert row["response_ids"] == rows(plain)[key]["response_ids"]
        assert row["prompt_ids"] == rows(plain)[key]["prompt_ids"]
        assert row["kl"][0] > 0
    context = record(own).amateur_context
    assert context is not None
    assert config.cue not in context["prompt_text"]
    assert config.cue in record(own).asked["prompt_text"]
    # The expert with the amateur's prompt predicts what the amateur predicted.
    asked = made(config, "asked", amateur="self", cue="", amateur_cue=config.cue)
    first = {key: row["amateur_top_ids"][0] for key, row in rows(own).items()}
    assert first == {key: row["expert_top_ids"][0] for key, row in rows(asked).items()}


def test_a_template_of_the_amateur(config: SampleConfig, tmp_path: Path) -> None:
    template = tmp_path / "other.jinja"
    template.write_text("{% for message in messages %}{{ message.content }} {% endfor %}")
    other = made(config, "other", amateur_template=template)
    context = record(other).amateur_context
    assert context is not None
    assert context["prompt_text"] == f"{config.cue} {{question}} "
    assert rows(other) != rows(made(config, "plain"))


def test_hints_are_read_by_one_side_and_trained_on_by_none(config: SampleConfig) -> None:
    plain = made(config, "plain")
    expert, amateur = made(config, "expert", expert_hint="idea"), made(config, "amateur", amateur_hint="number")
    for hinted in (expert, amateur):
        assert [row["prompt_ids"] for row in rows(hinted).values()] == [
            row["prompt_ids"] for row in rows(plain).values()
        ]
    assert [row["response_ids"] for row in rows(amateur).values()] == [
        row["response_ids"] for row in rows(plain).values()
    ]
    assert [row["amateur_logprob"] for row in rows(amateur).values()] != [
        row["amateur_logprob"] for row in rows(plain).values()
    ]
    example = record(expert).example
    assert example is not None
    assert "Hint: Think of 0." in example["expert"]
    assert "Hint" not in example["amateur"]
    example = record(amateur).example
    assert example is not None
    assert example["amateur"].count("\n\nHint: 0") == 1


def test_a_changed_hint_is_another_sample(config: SampleConfig, problems: Path) -> None:
    made(config, "hinted", amateur_hint="idea")
    problems.write_text(problems.read_text().replace("Think of 2.", "Think of 22."))
    with pytest.raises(Exception, match="hints"):
        made(config, "hinted", amateur_hint="idea")


def test_an_expert_pass_is_the_same_for_another_context_of_the_amateur(config: SampleConfig) -> None:
    together = made(config, "together", amateur_hint="idea", amateur_cue="Guess.")
    apart = made(config, "apart", amateur_hint="idea", amateur_cue="Guess.", residency="sequential")
    assert digest(together) == digest(apart)


# --- Fingerprints ---


def test_settings_that_are_not_used_leave_the_fingerprint_as_it_was(config: SampleConfig) -> None:
    """So samples that were made before these settings existed stay valid."""
    sample(config)
    new = {"amateur_cue", "amateur_template", "expert_hint", "amateur_hint", "expert_context", "amateur_context"}
    new |= {"amateur_adapter_files", "example"}
    assert not new & record(config).fingerprint().keys()
    recipe = {"expert": "e", "amateur": "a", "dataset": "d"}
    assert not new & RunConfig(**recipe).identity().keys()
    assert "--amateur-cue" in RunConfig(**recipe, amateur_cue="").flags()


# --- Refusals ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"amateur": "self"}, "nothing could be learnt"),
        ({"amateur": "self", "amateur_cue": SampleConfig.model_fields["cue"].default}, "read the same prompts"),
        ({"amateur": "self", "amateur_hint": "idea", "expert_hint": "idea"}, "read the same prompts"),
    ],
)
def test_equal_sides_are_refused(config: SampleConfig, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(config, "refused", **changes)
    assert not (config.out.with_name("refused") / "sample").exists()


def test_a_hint_that_a_row_lacks_is_named(config: SampleConfig, problems: Path) -> None:
    with problems.open("a") as file:
        file.write(json.dumps({"question": "What is 1 + 1?"}) + "\n")
    with pytest.raises(DataError, match=r"line 5: no field idea among question; every problem needs its hint"):
        made(config, "refused", amateur_hint="idea")
    with pytest.raises(DataError, match="arithmetic problems are generated, so they have no field idea"):
        made(config, "refused", amateur_hint="idea", dataset="arithmetic", max_questions=4)


# --- Report ---


def test_the_report_shows_both_prompts_and_the_share_of_format_tokens(config: SampleConfig) -> None:
    own = made(config, "own", amateur="self", amateur_cue="Guess & go.")
    result = read_stage(own.out / "sample")[1].result
    assert result is not None
    assert 0 <= result["format_labels"] <= 1
    assert 0 < result["format_responses"] <= 1
    page = Path(write_page(own.out)["file"]).read_text()
    section = page.partition('id="sides"')[2].partition("</section>")[0]
    assert "the expert itself (self)" in section
    assert "Guess &amp; go." in section
    assert section.count(QUESTIONS[0]) == 2


# --- Command line ---


MINIATURE = [
    "--expert",
    "miniature/expert",
    "--dataset",
    "arithmetic",
    "--max-questions",
    "4",
    "--max-new-tokens",
    "12",
]


@pytest.mark.parametrize(
    "amateur", [["self", "--amateur-cue", ""], pytest.param(["self:layers=2"], marks=pytest.mark.slow)]
)
def test_a_run_from_end_to_end(amateur: list[str], tmp_path: Path) -> None:
    small = ["--sample.max-questions", "8", "--sample.max-new-tokens", "16", "--finetune.steps", "2"]
    small += ["--evaluate.max-items", "4", "--evaluate.max-answer-tokens", "8", "--evaluate.benchmarks", "arithmetic"]
    small += ["--sample.divergence-beta", "none"]
    pair = ["--config", "miniature", "--amateur", *amateur, "--out", str(tmp_path / "run"), "--json"]
    ended = completed("run", *pair, *small)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["amateur"] == amateur[0]
    assert summary["sample"]["kept_steps"] == summary["sample"]["steps"]
    assert "the expert" in (tmp_path / "run" / "report.html").read_text()


def test_a_wrong_specification_ends_a_command_with_code_2(tmp_path: Path) -> None:
    ended = completed("sample", *MINIATURE, "--amateur", "self:layer=2", "--out", str(tmp_path / "run"))
    assert ended.returncode == 2
    assert "did you mean layers?" in ended.stderr
    assert not (tmp_path / "run").exists()
