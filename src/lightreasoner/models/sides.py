"""What the amateur is: another model, or the expert itself with less.

| written             | the amateur is                                                       | its weights           |
|---------------------|----------------------------------------------------------------------|-----------------------|
| `MODEL`             | another model (the paper's)                                          | its own               |
| `self`              | the expert, with another prompt                                      | the expert's          |
| `self:base`         | the expert without its adapter                                       | the expert's          |
| `self:checkpoint=P` | the expert at an earlier state: its base with an adapter, or a model | the expert's, its own |
| `self:layers=K`     | its first K layers, final norm and head                              | the expert's          |
| `self:4bit`         | its linear layers in 4 bits (NF4)                                    | a copy in 4 bits      |
| `self:dropout=P`    | the expert with dropout on, see `own_amateurs.Dropout`               | the expert's          |

Sources: a model contrasted with its own earlier layers, DoLa, arXiv 2309.03883 (a layer is chosen at each token there,
and fixed here); with itself under dropout or quantised, arXiv 2402.14874; with its own earlier checkpoints, WMSS, arXiv
2602.08222; with its reference model, G-OPD, arXiv 2602.12125. Abstracts only of the last two: not checked at their
source.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from lightreasoner.config import PairConfig
from lightreasoner.config.base import nearest
from lightreasoner.errors import ConfigError

OWN = "self"
Kind = Literal["model", "self", "base", "checkpoint", "layers", "4bit", "dropout"]
FORMS = {"base": "", "checkpoint": "PATH", "layers": "K", "4bit": "", "dropout": "P"}
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")  # names in config.json


@dataclass(frozen=True)
class Side:
    """An amateur as it is written, and what that means.

    Attributes:
        kind: see the module's docstring; `model` is another model.
        value: K, P or PATH as written; empty where there is none.
    """

    kind: Kind = "model"
    value: str = ""

    @classmethod
    def of(cls, name: str, flag: str = "--amateur") -> "Side":
        """Read what a user wrote.

        Args:
            name: such as `self:layers=4`, or the name of a model.
            flag: the setting, for messages.

        Raises:
            ConfigError: an unknown kind, or a value that is missing, superfluous or out of its range.
        """
        if name != OWN and not name.startswith(f"{OWN}:"):
            return ANOTHER_MODEL
        kind, equals, value = name.partition(":")[2].partition("=")
        if name == OWN:
            return cls("self")
        forms = ", ".join(f"self:{known}{'=' * bool(form)}{form}" for known, form in FORMS.items())
        if kind not in FORMS:
            known = nearest(kind, FORMS, "kinds") if kind else f"write one of {forms}"
            raise ConfigError(f"{flag} {name}: there is no amateur self:{kind} made of the expert; {known}")
        form = FORMS[kind]
        if bool(form) != bool(value) or (equals and not form):
            needed = f"needs a value: write self:{kind}={form}" if form else f"takes no value: write self:{kind}"
            raise ConfigError(f"{flag} {name}: self:{kind} {needed}")
        if kind == "layers" and not (value.isascii() and value.isdecimal() and int(value)):
            raise ConfigError(
                f"{flag} {name}: K = {value} is no whole number from 1 on, and an amateur needs a layer to read with; "
                "write self:layers=K with K below the number of the expert's layers"
            )
        if kind == "dropout" and not 0 < _number(value) < 1:
            raise ConfigError(
                f"{flag} {name}: P = {value} is not between 0 and 1; at 0 the amateur is the expert, and at 1 nothing "
                "of it is left. Write for example self:dropout=0.1"
            )
        return cls(cast(Kind, kind), value)

    @property
    def layers(self) -> int:
        """K of `self:layers=K`."""
        return int(self.value)

    @property
    def dropout(self) -> float:
        """P of `self:dropout=P`."""
        return float(self.value)

    @property
    def shares_weights(self) -> bool:
        """The amateur computes with the weights of the expert, which are in memory once."""
        if self.kind == "checkpoint":  # an adapter on the expert's base, or a whole model
            path = Path(self.value).expanduser()
            return (path / "adapter_config.json").is_file() or (path / "finetune").is_dir()
        return self.kind not in ("model", "4bit")

    @property
    def has_own_files(self) -> bool:
        """The amateur is read from files that are not the expert's."""
        return self.kind == "model" or (self.kind == "checkpoint" and not self.shares_weights)

    def __str__(self) -> str:
        """What the amateur is, as a noun in a sentence."""
        return {
            "model": "another model",
            "self": "the expert itself",
            "base": "the expert without its adapter",
            "checkpoint": f"the expert's earlier state {self.value}",
            "layers": f"the expert's first {self.value} layers",
            "4bit": "the expert in 4 bits",
            "dropout": f"the expert with dropout {self.value}",
        }[self.kind]


ANOTHER_MODEL = Side()


def amateur_words(name: str) -> str:
    """The amateur in words: the name of another model, or what is left of the expert."""
    try:
        side = Side.of(name)
    except ConfigError:  # of a folder that another version wrote
        return name
    return name if side.kind == "model" else f"{side} ({name})"


def check_own(side: Side, config: PairConfig, layers: int | None, has_adapter: bool, flag: str = "--amateur") -> None:
    """Check that an amateur can be made of the expert, and is not the expert itself.

    Args:
        side: the amateur.
        config: the pair's settings.
        layers: number of the expert's layers, if it is known.
        has_adapter: the expert has an adapter.
        flag: the setting, for messages.

    Raises:
        ConfigError: it cannot, or is.
    """
    expert = config.expert
    if config.vocabulary == "aligned" and not side.has_own_files:
        raise ConfigError(
            f"{flag} {config.amateur} is {side}, with the expert's tokenizer, so there is nothing for --vocabulary "
            "aligned to align. Leave --vocabulary out, or name another model"
        )
    if side.kind == "self" and not config.has_other_prompt:
        other = "Give --amateur-cue, --amateur-template or a hint" if flag == "--amateur" else "Name another model"
        raise ConfigError(
            f"{flag} self is the expert with the same prompt, so both would predict the same and nothing could be "
            f"learnt. {other}, or take less of the expert: self:layers=K, self:dropout=P, self:4bit"
        )
    if side.kind == "base" and not has_adapter:
        raise ConfigError(
            f"{flag} self:base is the expert without its adapter, and {expert} has none here. Give --adapter to a "
            "command that takes it (sample, inspect, evaluate), or another amateur such as self:layers=K"
        )
    if side.kind == "layers" and layers is not None and side.layers >= layers:
        below = f"Write self:layers=K with K from 1 to {layers - 1}" if layers > 1 else "Choose another amateur"
        raise ConfigError(
            f"{flag} self:layers={side.layers}: {expert} has {layers} layers, so the amateur would be the expert "
            f"itself. {below}"
        )


def layer_count(config: Mapping[str, Any]) -> int | None:
    """Number of layers in the content of a config.json; None where it does not say it by a usual name."""
    text = config.get("text_config") or config
    return next((text[name] for name in LAYER_COUNTS if isinstance(text.get(name), int)), None)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


assert {"model", "self", *FORMS} == set(get_args(Kind))
