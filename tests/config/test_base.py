"""What a setting changes: every field says so, and identities, fingerprints and command lines follow from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from lightreasoner import config as configs
from lightreasoner.config import EvaluateConfig, FinetuneConfig, RunConfig, SampleConfig
from lightreasoner.config.base import Config, Decides, Input, Place, Role, Speed, role_of
from lightreasoner.config.sections import DEFAULT_CUE, AnswerSettings, JudgeSettings
from lightreasoner.errors import ConfigError

CLASSES = [kind for kind in vars(configs).values() if isinstance(kind, type) and issubclass(kind, Config)]
SAMPLE = SampleConfig(expert="e", amateur="a", dataset="d", out=Path("o"))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_setting_says_what_it_changes(kind: type[Config]) -> None:
    for name, field in kind.model_fields.items():
        is_section = isinstance(field.annotation, type) and issubclass(field.annotation, Config)
        marks = [mark for mark in field.metadata if isinstance(mark, Role)]
        if is_section:  # where a result is sent decides nothing, so `push` is a place as a whole
            assert marks == ([Role.PLACE] if name == "push" else []), name
        else:
            assert len(marks) == 1, name


def test_the_identity_holds_what_decides_and_nothing_else() -> None:
    assert SAMPLE.identity() == {
        "expert": "e", "expert_revision": None, "amateur": "a", "amateur_revision": None, "vocabulary": "strict",
        "dtype": "auto", "dataset": "d",
        "cue": DEFAULT_CUE, "max_new_tokens": 128, "stop_strings": [], "divergence_beta": 0.4,
        "plausibility_alpha": 0.2,
        "temperature": 0.0, "top_p": 1.0, "top_tokens": 5, "seed": 42,
    }  # fmt: skip


@pytest.mark.parametrize(
    "change", [{"batch_size": 3}, {"device": "cpu"}, {"out": Path("elsewhere")}, {"trust_remote_code": True}]
)
def test_speed_and_places_never_enter_an_identity(change: dict[str, object]) -> None:
    changed = SAMPLE.model_copy(update=change)
    assert changed.identity() == SAMPLE.identity()
    assert changed.identity(inputs=True) == SAMPLE.identity(inputs=True)


@pytest.mark.parametrize("change", [{"data_dir": Path("elsewhere")}, {"question_field": "q"}, {"max_questions": 7}])
def test_inputs_enter_on_request(change: dict[str, object]) -> None:
    changed = SAMPLE.model_copy(update=change)
    assert changed.identity() == SAMPLE.identity()
    assert changed.identity(inputs=True) != SAMPLE.identity(inputs=True)


def test_an_identity_can_be_that_of_a_part() -> None:
    config = EvaluateConfig(model="m", out=Path("o"), temperature=0.5, judge="toolkit", answer_batch_size=3)
    assert config.identity(AnswerSettings) == {
        "max_answer_tokens": 2048, "stop_strings": [], "samples_per_problem": 1, "temperature": 0.5, "top_p": 1.0,
    }  # fmt: skip
    assert config.identity(JudgeSettings)["judge"] == "toolkit"


def test_sections_of_a_run_have_identities_of_their_own() -> None:
    run = RunConfig(expert="e", amateur="a", dataset="d")
    identity = run.identity()
    assert identity["finetune"]["steps"] == 1000
    assert "save_steps" not in identity["finetune"]
    assert "out" not in identity


def test_a_copy_with_other_values_is_checked_like_the_original() -> None:
    config = SampleConfig(expert="e", amateur="a", dataset="d", out="o")
    assert config.model_copy(update={"out": "p", "seed": 3}) == SampleConfig(
        expert="e", amateur="a", dataset="d", out="p", seed=3
    )
    assert config.model_copy() == config
    for wrong, said in (({"plausibility_alpha": 5.0}, "plausibility_alpha = 5"), ({"sedd": 5}, "did you mean seed")):
        with pytest.raises(ConfigError, match=said):
            config.model_copy(update=wrong)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SampleConfig(beta=0.3), ["unknown key beta", "did you mean divergence_beta?", "give expert=…"]),
        (lambda: RunConfig(expert="e", amateur="a", dataset="d", beta=0.3), ["did you mean sample.divergence_beta?"]),
        (lambda: FinetuneConfig(model="m", data="d", out="o", lr=1), ["did you mean learning_rate"]),
        (lambda: FinetuneConfig(model="m", data="d", out="o", rank=1), ["did you mean lora_rank?"]),
        (lambda: EvaluateConfig(model=3, out="o"), ["model = 3 is a number", "quote it"]),
        (lambda: EvaluateConfig(model="m", out="o", benchmarks="gms8k"), ["did you mean gsm8k?"]),
        (lambda: EvaluateConfig(model="m", out="o", judge="toolkt"), ["judge = 'toolkt'", "did you mean toolkit?"]),
        (lambda: RunConfig(expert="e", amateur="a", dataset="d", sample={"lenght": 1}), ["unknown key sample.lenght"]),
    ],
)
def test_a_wrong_setting_from_python_gives_the_message_of_the_command_line(
    make: Callable[[], Config], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as raised:
        make()
    assert all(word in str(raised.value) for word in words), raised.value
    assert "\n" not in str(raised.value)
    assert "pydantic" not in str(raised.value)


def test_paths_and_single_values_are_accepted_where_people_write_them() -> None:
    evaluated = EvaluateConfig(model=Path("some/model"), benchmarks="gsm8k", out="o", stop_strings="STOP")
    assert (evaluated.model, evaluated.benchmarks, evaluated.stop_strings) == ("some/model", ("gsm8k",), ("STOP",))
    assert evaluated.out == Path("o")
    sampled = SampleConfig(expert=Path("e"), amateur=Path("a"), dataset=Path("d.jsonl"), out="o")
    assert (sampled.expert, sampled.amateur, sampled.dataset) == ("e", "a", "d.jsonl")
    run = RunConfig(expert="e", amateur="a", dataset="d", finetune={"lora_targets": "q_proj"}, study={"lengths": 64})
    assert (run.finetune.lora_targets, run.study.lengths) == (("q_proj",), (64,))


def test_a_new_setting_takes_part_by_its_annotation_alone() -> None:
    class Settings(Config):
        decay: Decides[Annotated[float, Field(ge=0)]] = 0.0
        source: Input[str] = "here"
        workers: Speed[int] = 1
        folder: Place[Path] = Path("a")
        unmarked: int = 5

    settings = Settings(workers=8, folder=Path("b"))
    assert settings.identity() == {"decay": 0.0, "unmarked": 5}
    assert settings.identity(inputs=True) == {"decay": 0.0, "source": "here", "unmarked": 5}
    assert role_of(Settings.model_fields["workers"]) is Role.SPEED


def test_flags_are_those_of_the_settings_that_decide_or_are_read() -> None:
    config = FinetuneConfig(
        model="m", data=Path("runs/a b"), out=Path("o"), lora_targets=("q_proj", "v_proj"), save_steps=3
    )
    flags = config.flags("data", dtype="bfloat16")
    assert flags[: flags.index("--steps")] == ["--model", "m", "--dtype", "bfloat16"]
    assert flags[flags.index("--lora-targets") :][:3] == ["--lora-targets", "q_proj", "v_proj"]
    assert not {"--save-steps", "--out", "--data", "--device", "--model-revision"} & set(flags)
    assert "--stop-strings" not in SAMPLE.flags(), "a list without values is no flag"
    stopping = SAMPLE.model_copy(update={"stop_strings": ("Q:", "A:")}).flags()
    assert stopping[stopping.index("--stop-strings") :][:3] == ["--stop-strings", "Q:", "A:"]
    every = SAMPLE.model_copy(update={"divergence_beta": None, "max_questions": None}).flags()
    assert every[every.index("--divergence-beta") + 1] == every[every.index("--max-questions") + 1] == "none"
    assert every[every.index("--temperature") + 1] == "0.0"


@pytest.mark.parametrize("value", [0, -1, "many", 2.5])
def test_a_setting_of_two_types_is_named_once_with_both(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.SampleConfig(expert="e", amateur="a", dataset="d", out="o", workers=value)
    text = str(caught.value)
    assert text.startswith(f"SampleConfig: workers = {value!r}: input should be ")
    assert text.endswith(", or known values: auto")
    assert "constrained" not in text
