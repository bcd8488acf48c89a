"""Settings: the paper's values by default, nothing accepted that is not known, every recipe sound."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lightreasoner import pipeline
from lightreasoner.config import (
    BaselineConfig,
    EvaluateConfig,
    FinetuneConfig,
    MergeConfig,
    RunConfig,
    SampleConfig,
    SelectConfig,
)
from lightreasoner.config.base import Config, shareable_name
from lightreasoner.config.sections import (
    EngineSettings,
    EvaluateSettings,
    FinetuneSettings,
    MachineSettings,
    MergeSettings,
    ProblemSettings,
    PromptSettings,
    SampleSettings,
    SelectSettings,
)
from lightreasoner.data.problems import load_problems
from lightreasoner.errors import ConfigError
from lightreasoner.recipes import LARGEST_RECIPE, load_recipe, recipe_names, recipe_text, resolve

REQUIRED = {"expert": "the/expert", "amateur": "the/amateur", "dataset": "gsm8k"}


def message_of(config: type[Config], values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.checked(values)
    assert caught.value.exit_code == 2
    return str(caught.value)


def run_config(**sections: Any) -> RunConfig:
    return RunConfig.checked({**REQUIRED, **sections})


# --- Defaults ---


def test_sampling_defaults_are_those_of_the_paper() -> None:
    settings = SampleSettings()
    assert settings.max_questions == 1000  # section 4, GSM8K train
    assert settings.max_new_tokens == 128  # Algorithm 1
    assert settings.divergence_beta == 0.4  # Eq 3
    assert settings.plausibility_alpha == 0.2  # Eq 4
    assert settings.temperature == 0.0  # the released script decodes greedily for Qwen2.5-Math


def test_finetuning_defaults_are_those_of_table_9() -> None:
    settings = FinetuneSettings()
    assert settings.lora_rank == 8
    assert settings.lora_alpha == 16
    assert settings.lora_targets == ("q_proj", "v_proj")
    assert settings.lora_dropout == 0.05
    assert settings.learning_rate == 5e-5
    assert settings.steps == 1000
    assert settings.labels_per_step == 16  # 8 × 2
    assert settings.labels_per_forward == 8  # the paper: 1, independent samples


def test_finetuning_defaults_that_the_paper_leaves_out_are_those_of_the_released_script() -> None:
    settings = FinetuneSettings()
    assert settings.max_grad_norm == 1.0
    assert (settings.save_steps, settings.logging_steps, settings.keep_checkpoints) == (200, 10, 2)
    assert FinetuneConfig(model="m", data=Path("d"), out=Path("o")).seed == 42


def test_the_default_cue_is_that_of_equation_36() -> None:
    assert PromptSettings().cue == "Please reason step by step, and put your final answer within \\boxed{}."


def test_evaluation_answers_are_as_long_as_in_the_papers_toolkit() -> None:
    assert EvaluateSettings().max_answer_tokens == 2048
    assert EvaluateSettings().max_items is None


def test_code_from_a_model_repository_is_off_by_default() -> None:
    assert run_config().trust_remote_code is False


def test_every_setting_has_a_help_text() -> None:
    for config in (SampleConfig, FinetuneConfig, MergeConfig, EvaluateConfig):
        without = [name for name, field in config.model_fields.items() if not field.description]
        assert without == [], config


# --- Refusals ---


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"experts": "x"}, ["unknown key experts", "did you mean expert?"]),
        ({"sample": {"divergence_bta": 1}}, ["unknown key sample.divergence_bta", "did you mean divergence_beta?"]),
        ({"finetune": {"learning_rat": 1}}, ["unknown key finetune.learning_rat", "did you mean learning_rate?"]),
        ({"smaple": {}}, ["unknown key smaple", "did you mean sample?"]),
        ({"merge": {"xyzzy": 1}}, ["unknown key merge.xyzzy", "known keys: merge_dtype"]),
        ({"qqqq": 1}, ["unknown key qqqq", "known keys: amateur, "]),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(values: dict[str, Any], words: list[str]) -> None:
    message = message_of(RunConfig, {**REQUIRED, **values})
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        (RunConfig, ["expert", "amateur", "dataset"]),
        (SampleConfig, ["expert", "amateur", "dataset", "out"]),
        (FinetuneConfig, ["model", "data", "out"]),
        (MergeConfig, ["model", "adapter", "out"]),
        (EvaluateConfig, ["model", "out"]),
    ],
)
def test_every_missing_setting_is_named_with_its_flag(config: type[Config], missing: list[str]) -> None:
    clauses = message_of(config, {}).split("; ")
    assert clauses == [f"{name} is required: give --{name} or set it in a recipe" for name in missing]


def test_several_mistakes_are_told_at_once() -> None:
    message = message_of(RunConfig, {"expert": "e", "dtype": "fp8", "sede": 3})
    assert all(word in message for word in ("amateur is required", "dtype = 'fp8'", "did you mean seed?"))


OUT_OF_RANGE = [
    ("sample", "max_questions", 0),
    ("sample", "max_new_tokens", 0),
    ("sample", "plausibility_alpha", -0.01),
    ("sample", "plausibility_alpha", 1.01),
    ("sample", "temperature", -1.0),
    ("sample", "top_p", 0.0),
    ("sample", "top_p", 1.01),
    ("sample", "top_tokens", 0),
    ("sample", "batch_size", 0),
    ("sample", "divergence_beta", "much"),
    ("sample", "divergence_beta", -0.1),
    ("finetune", "steps", 0),
    ("finetune", "steps", 1.5),
    ("finetune", "labels_per_step", 0),
    ("finetune", "tokens_per_micro_batch", 0),
    ("finetune", "labels_per_forward", 0),
    ("finetune", "learning_rate", 0.0),
    ("finetune", "learning_rate", float("nan")),
    ("finetune", "lora_rank", 0),
    ("finetune", "lora_alpha", 0),
    ("finetune", "lora_dropout", 1.0),
    ("finetune", "lora_dropout", -0.1),
    ("finetune", "max_length", 0),
    ("finetune", "max_grad_norm", -1),
    ("finetune", "save_steps", 0),
    ("finetune", "keep_checkpoints", 0),
    ("finetune", "logging_steps", 0),
    ("merge", "merge_dtype", "int8"),
    ("evaluate", "max_items", 0),
    ("evaluate", "max_answer_tokens", 0),
    ("evaluate", "answer_batch_size", 0),
]


@pytest.mark.parametrize(("section", "name", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_its_key_and_value(section: str, name: str, value: Any) -> None:
    assert message_of(RunConfig, {**REQUIRED, section: {name: value}}).startswith(f"{section}.{name} = {value!r}: ")


@pytest.mark.parametrize("section", ["sample", "evaluate"])
def test_an_empty_stop_text_which_would_end_every_answer_is_refused(section: str) -> None:
    message = message_of(RunConfig, {**REQUIRED, section: {"stop_strings": ["Q:", ""]}})
    assert message.startswith(f"{section}.stop_strings = '': ")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("sample", "plausibility_alpha", 0),
        ("sample", "plausibility_alpha", 1),
        ("sample", "top_p", 1),
        ("sample", "max_questions", None),
        ("sample", "divergence_beta", None),
        ("finetune", "lora_dropout", 0),
        ("finetune", "max_grad_norm", 0),
    ],
)
def test_the_ends_of_a_range_are_allowed(section: str, name: str, value: Any) -> None:
    assert getattr(getattr(run_config(**{section: {name: value}}), section), name) == value


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(
    ("section", "name"), [("sample", "divergence_beta"), ("sample", "temperature"), ("finetune", "learning_rate")]
)
def test_a_setting_that_is_no_finite_number_is_refused(section: str, name: str, value: float) -> None:
    # With β = nan no step is ever kept, and a resumed run never matches its own fingerprint: nan ≠ nan.
    assert name in message_of(RunConfig, {**REQUIRED, section: {name: value}})


def test_an_unknown_benchmark_is_refused_before_anything_runs() -> None:
    assert "gsm9k" in message_of(RunConfig, {**REQUIRED, "evaluate": {"benchmarks": ["gsm9k"]}})


def test_a_nucleus_without_a_temperature_is_refused() -> None:
    # The help text says that top_p needs one; decoding greedily without a message would contradict it.
    assert "temperature" in message_of(RunConfig, {**REQUIRED, "sample": {"top_p": 0.5}})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"engine_python": "venv/bin/python"}, "engine_python = venv/bin/python means nothing for engine = own"),
        (
            {"select": {"contrast": "own_token", "label_temperature": 0.5}},
            "label_temperature = 0.5 means nothing for contrast = own_token",
        ),
        ({"push": {"public": True}}, "push (public) is given without push_to, so nothing would be sent"),
        ({"min_common_mass": 0.3}, "min_common_mass = 0.3 means nothing for vocabulary = strict"),
        ({"min_aligned_share": 0.3, "vocabulary": "shared"}, "min_aligned_share = 0.3 means nothing for vocabulary ="),
    ],
)
def test_a_setting_that_would_change_nothing_is_refused(values: dict[str, Any], words: str) -> None:
    assert words in message_of(RunConfig, {**REQUIRED, **values})
    harmless = {"engine": "vllm", "push_to": "me/it", "vocabulary": "aligned"}
    if "select" in values:
        harmless["select"] = {"contrast": "own_token"}
    assert RunConfig.checked({**REQUIRED, **values, **harmless})


@pytest.mark.parametrize("values", [{"contrast_alpha": 0.3}, {"contrast_with_revision": "main"}])
def test_a_setting_of_contrastive_decoding_needs_an_amateur(values: dict[str, Any]) -> None:
    required = {"model": "m", "out": "o"}
    assert "means nothing without contrast_with" in message_of(EvaluateConfig, {**required, **values})
    assert EvaluateConfig.checked({**required, **values, "contrast_with": "a"})


def test_a_dotted_key_of_a_recipe_is_explained() -> None:
    assert "write keep_share indented below select:" in message_of(RunConfig, {**REQUIRED, "select.keep_share": 0.3})
    assert "indented" not in message_of(RunConfig, {**REQUIRED, "other.keep_share": 0.3})


@pytest.mark.parametrize("value", [5, "text", [1]])
def test_a_section_that_is_no_mapping_is_refused(value: Any) -> None:
    assert message_of(RunConfig, {**REQUIRED, "sample": value}).startswith(f"sample = {value!r}: ")


def test_a_config_cannot_be_changed_after_it_was_made() -> None:
    with pytest.raises(ValueError, match="frozen"):
        run_config().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "name"), [("sample", "max_questions"), ("sample", "divergence_beta"), ("evaluate", "max_items")]
)
def test_none_can_be_written_as_a_word_where_nothing_is_meant(section: str, name: str) -> None:
    assert getattr(getattr(run_config(**{section: {name: "none"}}), section), name) is None


def test_a_model_may_be_called_none_and_an_optional_text_is_unset_by_it() -> None:
    config = RunConfig.checked({**REQUIRED, "expert": "none", "expert_revision": "none", "amateur_cue": "none"})
    assert (config.expert, config.expert_revision, config.amateur_cue) == ("none", None, None)
    assert run_config(sample={"stop_strings": "none"}).sample.stop_strings == ()


def test_a_cue_that_would_be_read_as_the_word_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="cue: the models would read this word; '' asks without an instruction"):
        RunConfig.checked({**REQUIRED, "cue": "none"})


@pytest.mark.parametrize(
    ("section", "name"), [("sample", "divergence_beta"), ("sample", "max_questions"), ("finetune", "lora_rank")]
)
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_no_number(section: str, name: str, value: bool) -> None:
    with pytest.raises(ConfigError, match=f"{section}.{name}: a truth value; YAML reads yes, no, on, off so"):
        run_config(**{section: {name: value}})


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_would_refuse_later_is_refused_at_once(seed: int) -> None:
    with pytest.raises(ConfigError, match="seed = "):
        RunConfig.checked({**REQUIRED, "seed": seed})


# --- From the whole run to its stages ---

EVERYTHING: dict[str, Any] = {
    "expert": "an/expert",
    "expert_revision": "rev-e",
    "amateur": "an/amateur",
    "amateur_revision": "rev-a",
    "vocabulary": "aligned",
    "min_aligned_share": 0.53,
    "min_common_mass": 0.54,
    "dataset": "some.jsonl",
    "data_dir": "the/data",
    "question_field": "q",
    "cue": "Think.",
    "chat_template": "template.jinja",
    "amateur_cue": "Guess.",
    "amateur_template": "other.jinja",
    "expert_hint": "idea",
    "amateur_hint": "rumour",
    "dtype": "float16",
    "device": "cuda:1",
    "trust_remote_code": True,
    "engine": "vllm",
    "engine_python": "venv/bin/python",
    "report_to": ["trackio"],
    "out": "runs/all",
    "seed": 7,
    "sample": {
        "max_questions": 11,
        "max_new_tokens": 12,
        "divergence_beta": 0.13,
        "plausibility_alpha": 0.14,
        "temperature": 0.15,
        "top_p": 0.16,
        "top_tokens": 18,
        "stop_strings": ["Human:"],
        "batch_size": 17,
        "residency": "sequential",
    },
    "select": {"expert_power": 1.9, "amateur_power": 0.9},
    "workers": 45,
    "ray": "10.0.0.5:6379",
    "finetune": {
        "steps": 21,
        "labels_per_step": 24,
        "tokens_per_micro_batch": 12,
        "labels_per_forward": 4,
        "learning_rate": 0.22,
        "lora_rank": 23,
        "lora_alpha": 24.5,
        "lora_dropout": 0.25,
        "lora_targets": ["k_proj"],
        "max_length": 26,
        "max_grad_norm": 2.7,
        "save_steps": 28,
        "keep_checkpoints": 29,
        "logging_steps": 30,
        "load_in_4bit": True,
        "objective": "entropy",
        "gradient_checkpointing": True,
        "fsdp": True,
    },
    "merge": {"merge_dtype": "bfloat16"},
    "evaluate": {
        "benchmarks": ["svamp", "own.csv"],
        "question_field": "of the benchmark",
        "answer_field": "of the benchmark",
        "answer_kind": "text",
        "prompts": "both",
        "judge": "toolkit",
        "max_items": 31,
        "skip_items": 40,
        "items_seed": 41,
        "max_answer_tokens": 32,
        "stop_strings": ["Stop!"],
        "samples_per_problem": 34,
        "temperature": 0.35,
        "top_p": 0.36,
        "answer_batch_size": 33,
        "grading_seconds": 37.5,
        "grading_megabytes": 380,
        "grading_workers": 39,
    },
    "push_to": "an/owner",
    "push": {
        "what": ["merged", "samples"],
        "public": True,
        "license": "mit",
        "base_model": "a/base",
        "tag": "first",
        "yes": True,
    },
    "rounds": {
        "limit": 2,
        "labeller": "base",
        "amateur": "previous",
        "problems": "same",
        "held_back": 64,
        "answers": 4,
        "answer_temperature": 0.5,
        "evidence": 2.0,
        "counter_evidence": 1.0,
        "most_lost": 0.2,
    },
    "study": {"amateurs": ["a/b"], "lengths": [41, 42], "sft_questions": 43, "transfer": ["arc_challenge"]},
}


def everything() -> RunConfig:
    return RunConfig.checked(EVERYTHING)


def defaults_of(config: Config) -> list[str]:
    """Fields whose value is the default: a field that is lost on the way would be among them."""
    fields = type(config).model_fields
    return [
        name for name, field in fields.items() if not field.is_required() and getattr(config, name) == field.default
    ]


def test_the_example_of_everything_sets_every_field_away_from_its_default() -> None:
    config = everything()
    assert len(defaults_of(config.select)) < len(SelectSettings.model_fields)  # not all of its fields go together
    for name in ("sample", "finetune", "merge", "evaluate", "push", "study", "rounds"):
        assert defaults_of(getattr(config, name)) == []
    assert defaults_of(config) == []


def test_the_sample_stage_carries_every_field_of_the_run() -> None:
    config = everything().for_sample()
    of_rounds = {"adapter": None, "skip_questions": 0, "labeller": "current"}
    assert set(defaults_of(config)) == {"join", *of_rounds}, "a run is started, not joined, and trains a whole model"
    assert config.model_dump() == {
        "join": False,
        **of_rounds,
        **{name: value for name, value in everything().model_dump().items() if name in SampleConfig.model_fields},
        **everything().sample.model_dump(),
    }
    assert (config.expert, config.amateur, config.out) == ("an/expert", "an/amateur", Path("runs/all"))


@pytest.mark.parametrize(
    ("select", "sampled", "rule"),
    [
        # what `select` says; β and α of the samples; rule, threshold and α of the selection
        ({"expert_power": 2}, (0.4, 0.2), ("divergence", 0.4, 0.2)),
        ({"threshold": 0.1, "plausibility_alpha": 0.05}, (0.1, 0.05), ("divergence", 0.1, 0.05)),
        ({"plausibility_alpha": 0.5}, (0.4, 0.2), ("divergence", 0.4, 0.5)),
        ({"threshold": 1, "keep_labels": 5}, (1, 0.2), ("divergence", 1, 0.2)),
        ({"threshold": 1, "keep_share": 0.5}, (None, 0.2), ("divergence", 1, 0.2)),  # a share of all steps
        ({"keep_share": 0.5}, (None, 0.2), ("divergence", None, 0.2)),
        ({"selection": "none", "amateur_power": 0}, (None, 0.2), ("none", None, 0.2)),
        ({"selection": "label_surprise", "threshold": 1}, (None, 0.2), ("label_surprise", 1, 0.2)),
        ({"weigh_by": "later", "plausibility_alpha": 0}, (0.4, 0.0), ("divergence", 0.4, 0.0)),
    ],
)
def test_a_run_with_a_selection_samples_what_its_rule_may_keep(
    select: dict[str, Any], sampled: tuple[float | None, float], rule: tuple[str, float | None, float]
) -> None:
    config = run_config(select=select)
    sampling, selecting = config.for_sample(), config.for_select()
    assert (sampling.divergence_beta, sampling.plausibility_alpha) == sampled
    assert (selecting.selection, selecting.threshold, selecting.plausibility_alpha) == rule
    assert (selecting.source, selecting.out, selecting.seed) == (config.out, config.out, config.seed)
    assert (
        selecting.model_dump().items() >= {name: value for name, value in select.items() if name != "selection"}.items()
    )
    assert config.for_finetune().data == config.out / "select"


def test_a_selection_by_hand_has_the_rule_of_a_run_with_the_same_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"

    def selected(select: dict[str, Any], **flags: Any) -> dict[str, Any]:
        sample = {"divergence_beta": 0.3, "plausibility_alpha": 0.1}
        file.write_text(yaml.safe_dump({**REQUIRED, "sample": sample, "select": select}))
        config = resolve(SelectConfig, {"source": "s", "out": "o", **flags}, str(file))
        return config.model_dump(exclude_defaults=True, exclude={"source", "out"})

    share, shared = {"keep_share": 0.2}, {"keep_share": 0.2, "plausibility_alpha": 0.1}
    assert selected(share) == selected({}, **share) == selected({"keep_share": 0.5}, **share) == shared
    own_token = {"contrast": "own_token", "threshold": 0.3, "plausibility_alpha": 0.1}
    assert selected({"contrast": "own_token"}) == own_token
    assert selected({}, selection="random", keep_labels=7)["plausibility_alpha"] == 0.1
    assert "threshold" not in selected({}, selection="random", keep_labels=7)
    assert selected(share, plausibility_alpha=0.2, seed=3) == {**share, "plausibility_alpha": 0.2, "seed": 3}
    assert selected(share, plausibility_alpha="none") == share  # that of the samples


def test_a_run_without_a_selection_is_what_it_was_before_there_were_any() -> None:
    config = run_config(select={"contrast": "amateur", "expert_power": 1})
    assert not config.selects
    assert config.for_finetune().data == config.out
    assert "select" not in config.identity(inputs=True)
    assert not {"expert_power", "amateur_power", "weigh_by"} & config.for_select().identity().keys()
    everything_kept = run_config(sample={"divergence_beta": None})
    assert (everything_kept.rule.selection, everything_kept.rule.threshold) == ("none", None)


def test_a_label_that_has_its_own_name_is_refused_with_powers() -> None:
    message = message_of(RunConfig, {**REQUIRED, "select": {"contrast": "own_distribution", "expert_power": 2}})
    assert message.startswith("select: contrast = own_distribution is expert_power = 1 and amateur_power = 0, so ")


def test_the_finetune_stage_carries_every_field_and_trains_the_expert_on_the_runs_labels() -> None:
    config = everything().for_finetune()
    assert defaults_of(config) == ["adapter"], "a run trains a fresh adapter"
    assert (config.model, config.model_revision) == ("an/expert", "rev-e")
    assert config.data == config.out / "select"
    assert config.out == Path("runs/all")
    assert (config.seed, config.dtype, config.device, config.trust_remote_code) == (7, "float16", "cuda:1", True)
    assert config.model_dump().items() >= everything().finetune.model_dump().items()


def test_the_merge_stage_carries_every_field_and_writes_beside_the_adapter() -> None:
    config = everything().for_merge()
    assert defaults_of(config) == []
    assert (config.model, config.model_revision) == ("an/expert", "rev-e")
    assert (config.adapter, config.out) == (Path("runs/all"), Path("runs/all/merged"))
    assert (config.dtype, config.device, config.trust_remote_code) == ("float16", "cuda:1", True)
    assert config.merge_dtype == "bfloat16"


def test_a_push_carries_every_field_and_decides_nothing() -> None:
    config = everything().for_push()
    assert defaults_of(config) == ["save"]
    assert (config.run, config.to) == (Path("runs/all"), "an/owner")
    assert config.model_dump().items() >= everything().push.model_dump().items()
    assert not {"push", "push_to"} & everything().identity(inputs=True).keys()
    assert "push" not in pipeline.to_yaml(everything()), "the same run with another --push-to continues"


@pytest.mark.parametrize(
    ("push", "message"),
    [
        ({"what": ["adapter", "merged"]}, "a repository holds one model"),
        ({"what": []}, "what is empty"),
        ({"what": ["model"]}, "push.what = 'model': known values: adapter, merged, samples"),
        ({"license": "Apache 2.0"}, "push.license = 'Apache 2.0'"),
        ({"tag": "a tag"}, "push.tag = 'a tag'"),
        ({"base_model": "/models/base"}, "push.base_model = '/models/base'"),
    ],
)
def test_a_push_that_cannot_be_meant_is_refused(push: dict[str, Any], message: str) -> None:
    assert message in message_of(RunConfig, {**REQUIRED, "push": push})


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("owner/name", "owner/name"),
        ("owner/name:main", "owner/name:main"),
        ("miniature/expert", "miniature/expert"),
        ("gsm8k", "gsm8k"),
        ("my.jsonl", "my.jsonl"),
        ("/home/ann/models/base", "base"),
        ("/base", "base"),
        ("~/models/base.gguf", "base.gguf"),
        ("../base", "base"),
        ("./base", "base"),
        ("data/mine/train.jsonl", "train.jsonl"),
        ("self", "self"),
        ("self:layers=4", "self:layers=4"),
        ("self:checkpoint=/home/ann/runs/first", "self:checkpoint=first"),
        (r"C:\Users\ann\base", "base"),
    ],
)
def test_a_name_for_others_tells_no_folder_of_this_machine(name: str, shared: str) -> None:
    assert shareable_name(name) == shared


def test_settings_for_others_tell_no_folder_and_keep_everything_else(tmp_path: Path) -> None:
    config = run_config(
        expert=str(tmp_path), dataset="/data/mine.jsonl", out=tmp_path / "run", chat_template="/home/ann/t.jinja",
        cue="/no_think", ray="ray://10.0.0.1:10001", evaluate={"benchmarks": ["gsm8k", "/home/ann/test.csv"]},
    )  # fmt: skip
    shared = config.shareable()
    assert (shared.expert, shared.dataset) == (tmp_path.name, "mine.jsonl")
    assert (shared.out, shared.ray) == (RunConfig.model_fields["out"].default, None)
    assert config.for_sample().shareable().out == Path("run"), "a place that is required"
    assert (shared.chat_template, shared.cue) == (Path("t.jinja"), "/no_think")
    assert shared.evaluate.benchmarks == ("gsm8k", "test.csv")
    assert shared.model_copy(update={"evaluate": config.evaluate}).sample == config.sample


def test_the_evaluate_stage_carries_every_field_for_the_model_that_it_is_given() -> None:
    config = everything().for_evaluate("other/model", "rev-o", "other")
    of_one_evaluation = {"contrast_with", "contrast_with_revision", "contrast_alpha", "adapter", "join"}
    assert set(defaults_of(config)) == of_one_evaluation, "a run is started, and evaluates one whole model"
    assert (config.model, config.model_revision) == ("other/model", "rev-o")
    assert config.out == Path("runs/all/evaluate/other")
    assert (config.cue, config.chat_template, config.data_dir) == ("Think.", Path("template.jinja"), Path("the/data"))
    assert (config.dtype, config.device, config.trust_remote_code) == ("float16", "cuda:1", True)
    assert config.model_dump().items() >= everything().evaluate.model_dump().items()


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        (SampleConfig, [SampleSettings, EngineSettings, PromptSettings, ProblemSettings]),
        (FinetuneConfig, [FinetuneSettings, MachineSettings]),
        (MergeConfig, [MergeSettings, MachineSettings]),
        (EvaluateConfig, [EvaluateSettings, EngineSettings, PromptSettings]),
        (BaselineConfig, [EngineSettings, PromptSettings, ProblemSettings]),
    ],
)
def test_a_stage_has_the_same_defaults_alone_as_in_a_run(stage: type[Config], parts: list[type[Config]]) -> None:
    for part in parts:
        for name, field in part.model_fields.items():
            assert stage.model_fields[name].default == field.default


# --- Recipes ---

PAPERS_EXPERTS = {  # Table 1
    "qwen2.5-math-1.5b": "Qwen/Qwen2.5-Math-1.5B",
    "qwen2.5-math-1.5b-instruct": "Qwen/Qwen2.5-Math-1.5B-Instruct",
    "deepseek-r1-distill-qwen-1.5b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "qwen2.5-math-7b": "Qwen/Qwen2.5-Math-7B",
    "qwen2.5-math-7b-instruct": "Qwen/Qwen2.5-Math-7B-Instruct",
}


FOR_SMALL_CARDS = {"qwen2.5-math-1.5b-16gb": "qwen2.5-math-1.5b", "qwen2.5-math-7b-24gb": "qwen2.5-math-7b"}


MINIATURES = ("miniature", "miniature-instruct", "miniature2", "miniature2-instruct")
BEYOND_MATHEMATICS = ("any-domain", "code-prediction")
REAL_PAIR = "qwen2.5-coder-1.5b-instruct"


def test_the_bundled_recipes_are_the_miniatures_the_papers_pairs_two_beyond_mathematics_and_a_real_pair() -> None:
    assert set(recipe_names()) == {*MINIATURES, *PAPERS_EXPERTS, *FOR_SMALL_CARDS, *BEYOND_MATHEMATICS, REAL_PAIR}


@pytest.mark.parametrize(("name", "of_paper"), FOR_SMALL_CARDS.items())
def test_a_recipe_for_a_smaller_card_decides_the_same(name: str, of_paper: str) -> None:
    small, whole = (RunConfig.checked(load_recipe(one)) for one in (name, of_paper))
    assert small.identity(inputs=True) == whole.identity(inputs=True)
    assert small != whole


@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.startswith("miniature")])
def test_every_value_of_a_recipe_of_the_paper_has_its_source(name: str) -> None:
    for line in recipe_text(name).splitlines():
        is_value = ": " in line and not line.startswith("#") and not line.startswith("out:")
        assert not is_value or "#" in line, line


@pytest.mark.parametrize("name", recipe_names())
def test_every_bundled_recipe_is_a_sound_run(name: str) -> None:
    settings = load_recipe(name)
    config = RunConfig.checked(settings)
    assert config.out == Path("runs") / name
    assert settings.keys() >= REQUIRED.keys()


@pytest.mark.parametrize(("name", "expert"), PAPERS_EXPERTS.items())
def test_the_papers_recipes_say_what_the_paper_says(name: str, expert: str) -> None:
    config = RunConfig.checked(load_recipe(name))
    assert (config.expert, config.amateur) == (expert, "Qwen/Qwen2.5-0.5B")
    assert config.vocabulary == ("shared" if expert.startswith("deepseek") else "strict")
    assert config.study.lengths == (32, 64, 128, 256)  # Table 7 begins at 64
    assert len(config.study.amateurs) == {"qwen2.5-math-1.5b": 2, "qwen2.5-math-7b": 3}.get(name, 0)  # Table 5
    assert config.study.sft_questions is None  # all of GSM8K train
    assert (config.dataset, config.dtype) == ("gsm8k", "bfloat16")
    assert config.sample == SampleSettings()
    assert config.finetune == FinetuneSettings(labels_per_forward=1)  # independent labels


def test_the_miniature_recipe_needs_neither_gpu_nor_network() -> None:
    config = RunConfig.checked(load_recipe("miniature"))
    assert config.expert.startswith("miniature/")
    assert config.amateur.startswith("miniature/")
    assert (config.dataset, config.evaluate.benchmarks) == ("arithmetic", ("arithmetic",))
    assert config.sample.max_questions is not None
    assert len(load_problems(config.dataset, limit=config.sample.max_questions).problems) == 1000


def test_a_recipe_can_be_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("expert: a\nsample: {max_questions: 3}\ncue: Überlege.\n", encoding="utf-8")
    assert load_recipe(str(file)) == {"expert": "a", "sample": {"max_questions": 3}, "cue": "Überlege."}


def test_a_learning_rate_without_a_decimal_point_is_a_number(tmp_path: Path) -> None:
    # YAML 1.1 reads 5e-5 as a text.
    file = tmp_path / "mine.yaml"
    file.write_text("{expert: a, amateur: b, dataset: c, finetune: {learning_rate: 5e-5}}")
    assert RunConfig.checked(load_recipe(str(file))).finetune.learning_rate == 5e-5


def test_a_recipe_name_that_is_not_bundled_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'minature'.*; did you mean miniature\?"):
        recipe_text("minature")


def test_a_recipe_name_cannot_lead_out_of_the_bundle() -> None:
    with pytest.raises(ConfigError, match="no recipe"):
        recipe_text("../recipes/miniature")


def test_a_recipe_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe file"):
        load_recipe(str(tmp_path / "absent.yaml"))


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="no recipe file"):
        load_recipe(str(tmp_path / "folder.yaml"))


@pytest.mark.parametrize(
    ("why", "content"),
    [
        ("not a mapping", b"- expert\n- amateur"),
        ("a mapping", b"just words"),
        ("a mapping", b""),
        ("keys that are no text", b"1: expert"),
        ("aliases", b"a: &x [1]\nb: *x"),
        ("aliases", b"a: &x {b: 1}\nc: {<<: *x}"),
        ("python tag", b"a: !!python/object/apply:os.system [echo]"),
        ("python name", b"a: !!python/name:os.system"),
        ("unclosed", b"a: [1"),
        ("tab", b"a:\n\tb: 1"),
        ("NUL byte", b"a: \x00"),
        ("UTF-16", "a: 1".encode("utf-16")),
        ("Latin-1", "cue: Löse".encode("latin-1")),
        ("an octal number", b"a: 0100"),
        ("a number of base 60", b"a: 1:30"),
        ("a fraction of base 60", b"a: 1:30.5"),
        ("two documents", b"a: 1\n---\nb: 2"),
        ("deep nesting", b"a: " + b"[" * 20_000),
        ("no such month", b"a: 2024-13-45"),
        ("an empty hexadecimal", b"a: 0x_"),
        ("a number of 5000 digits", b"a: " + b"1" * 5000),
        ("a tag that does not fit", b"a: !!int abc"),
        ("a truth value that does not fit", b"a: !!bool maybe"),
        ("a time that does not fit", b"a: !!timestamp abc"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(why: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_recipe(str(file))


def test_a_number_in_the_place_of_a_text_and_an_empty_section_are_explained() -> None:
    pair = {"expert": "a", "amateur": "b", "dataset": "c"}
    with pytest.raises(
        ConfigError, match="expert_revision = 1234567 is a number; quote it .* expert_revision: '1234567'"
    ):
        RunConfig.checked({**pair, "expert_revision": 1234567})
    with pytest.raises(ConfigError, match="select has no settings; leave it out, or indent its settings below select:"):
        RunConfig.checked({**pair, "select": None})


def test_an_alias_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="aliases"):
        load_recipe(str(file))


def test_a_python_tag_is_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.yaml", tmp_path / "mark"
    file.write_text(f"a: !!python/object/apply:os.mkdir ['{mark}']")
    with pytest.raises(ConfigError):
        load_recipe(str(file))
    assert not mark.exists()


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    file.write_bytes(b"#" * LARGEST_RECIPE + b"\n")
    with pytest.raises(ConfigError, match=r"huge\.yaml has 1048577 bytes"):
        load_recipe(str(file))


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret.yaml"
    file.write_text("a: 1")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)  # as root, no file is unreadable
    with pytest.raises(ConfigError, match=r"secret\.yaml"):
        load_recipe(str(file))


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    # The second would silently replace the first, and with it a whole section.
    file = tmp_path / "twice.yaml"
    file.write_text("sample: {max_questions: 3}\nexpert: a\nsample: {batch_size: 4}")
    with pytest.raises(ConfigError, match="sample"):
        load_recipe(str(file))


@pytest.mark.parametrize("name", [*recipe_names(), "everything"])
def test_a_config_written_as_yaml_is_read_as_the_same_config(name: str, tmp_path: Path) -> None:
    to_yaml = pipeline.to_yaml
    config = everything() if name == "everything" else RunConfig.checked(load_recipe(name))
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    not_pushed = {name: RunConfig.model_fields[name].default for name in ("push_to", "push")}  # by a repetition
    assert RunConfig.checked(load_recipe(str(file))) == config.model_copy(update=not_pushed)
    written = [
        name for name in RunConfig.model_fields if name not in not_pushed and (name != "select" or config.selects)
    ]
    assert list(yaml.safe_load(to_yaml(config))) == written


@pytest.mark.parametrize(
    "cue", ["", "two\nlines", "ends with space ", "café ∑ 😀", "a: b # c", "{x} %", "yes", "1e3", "None of these"]
)
def test_any_cue_survives_being_written_and_read(cue: str, tmp_path: Path) -> None:
    to_yaml = pipeline.to_yaml
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(RunConfig.checked({**REQUIRED, "cue": cue})), encoding="utf-8")
    assert RunConfig.checked(load_recipe(str(file))).cue == cue
