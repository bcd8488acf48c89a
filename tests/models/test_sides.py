"""What the amateur is: how it is written, and which specifications are refused with which words."""

from dataclasses import replace
from pathlib import Path

import pytest

from lightreasoner.config import PairConfig
from lightreasoner.errors import ConfigError, ModelError
from lightreasoner.models.own_amateurs import find_amateur
from lightreasoner.models.sides import Side, amateur_words, layer_count
from lightreasoner.models.source import ModelSource, find_model

EXPERT = find_model("miniature/expert")  # two layers or more


def found(name: str, expert: ModelSource = EXPERT, *, other_prompt: bool = False) -> tuple[Side, ModelSource]:
    cue = {"amateur_cue": ""} if other_prompt else {}
    return find_amateur(PairConfig(expert=expert.name, amateur=name, **cue), expert)


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("miniature/base", Side(), "miniature/base"),
        ("./self", Side(), "./self"),
        ("selfish/model", Side(), "selfish/model"),
        ("self", Side("self"), "the expert itself (self)"),
        ("self:base", Side("base"), "the expert without its adapter (self:base)"),
        ("self:layers=4", Side("layers", "4"), "the expert's first 4 layers (self:layers=4)"),
        ("self:dropout=0.1", Side("dropout", "0.1"), "the expert with dropout 0.1 (self:dropout=0.1)"),
        ("self:4bit", Side("4bit"), "the expert in 4 bits (self:4bit)"),
        ("self:checkpoint=a=b", Side("checkpoint", "a=b"), "the expert's earlier state a=b (self:checkpoint=a=b)"),
    ],
)
def test_what_is_written(name: str, side: Side, words: str) -> None:
    assert Side.of(name) == side
    assert amateur_words(name) == words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("self:layer=2", r"no amateur self:layer made of the expert; did you mean layers\?"),
        ("self:noise=2", "known kinds: 4bit, base, checkpoint, dropout, layers"),
        ("self:", "write one of self:base, self:checkpoint=PATH, self:layers=K, self:4bit, self:dropout=P"),
        ("self:layers", "self:layers needs a value: write self:layers=K"),
        ("self:layers=", "self:layers needs a value"),
        ("self:base=1", "self:base takes no value: write self:base"),
        ("self:4bit=", "self:4bit takes no value"),
        ("self:layers=0", "K = 0 is no whole number from 1 on"),
        ("self:layers=-1", "K = -1 is no whole number"),
        ("self:layers=1.5", "K = 1.5 is no whole number"),
        ("self:layers=²", "K = ² is no whole number"),
        ("self:dropout=0", "P = 0 is not between 0 and 1"),
        ("self:dropout=1", "P = 1 is not between 0 and 1"),
        ("self:dropout=nan", "P = nan is not between 0 and 1"),
        ("self:dropout=a", "P = a is not between 0 and 1"),
        (
            "self",
            "with the same prompt, so both would predict the same.*Give --amateur-cue, --amateur-template or a hint",
        ),
        ("self:base", "miniature/expert has none here. Give --adapter"),
    ],
)
def test_what_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        found(name)


def test_all_layers_are_the_expert_itself() -> None:
    count = layer_count(EXPERT.config())
    assert count is not None
    for layers in (count, count + 1):
        with pytest.raises(ConfigError, match=rf"has {count} layers.*Write self:layers=K with K from 1 to {count - 1}"):
            found(f"self:layers={layers}")
    assert found(f"self:layers={count - 1}") == (Side("layers", str(count - 1)), EXPERT)


def test_another_prompt_allows_the_expert_itself() -> None:
    assert found("self", other_prompt=True) == (Side("self"), EXPERT)


def test_the_base_of_an_adapter_is_the_expert_without_it() -> None:
    assert found("self:base", replace(EXPERT, adapter=Path("a")))[1] == EXPERT


def test_a_revision_is_for_another_model() -> None:
    with pytest.raises(ConfigError, match="--amateur-revision main means nothing with --amateur self:4bit"):
        find_amateur(PairConfig(expert=EXPERT.name, amateur="self:4bit", amateur_revision="main"), EXPERT)


@pytest.mark.parametrize("name", ["self", "self:layers=1", "self:dropout=0.1", "self:4bit"])
def test_the_tokenizer_of_the_expert_is_not_aligned_with_itself(name: str) -> None:
    config = PairConfig(expert=EXPERT.name, amateur=name, vocabulary="aligned", amateur_cue="")
    with pytest.raises(ConfigError, match=f"--amateur {name} is the expert.*with the expert's tokenizer"):
        find_amateur(config, EXPERT)


def test_a_checkpoint_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match="no folder /nowhere/at/all"):
        found("self:checkpoint=/nowhere/at/all")


def test_sides_that_have_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    own = {name: Side.of(name).has_own_files for name in ("m", "self", "self:4bit", f"self:checkpoint={tmp_path}")}
    assert list(own.values()) == [True, False, False, False]
    assert Side.of("self:checkpoint=/nowhere").has_own_files
    assert not Side.of("self:4bit").shares_weights
