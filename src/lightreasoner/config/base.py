"""Base of all configs: the role of a setting, the identity of a config, messages with "did you mean".

Decides[T]   the value decides the result
DecidesIfSet[T]  so too, but the default is no part of the identity: folders made before the setting existed stay valid
Input[T]     selects what is read (a path, a revision, the first N); fingerprints hold a hash of what was read instead
InputIfSet[T]  so too, but the default is no part of what names the folder of a study's job
Speed[T]     changes speed, memory, or what is logged and kept on the way
Place[T]     where the work is done and written
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic._internal._model_construction import ModelMetaclass  # exported nowhere; SQLModel takes it from here too
from pydantic.fields import FieldInfo

from lightreasoner.errors import ConfigError

T = TypeVar("T")
# Settings that name a model or data set: a name, or a path of this machine.
NAMING = {"expert", "amateur", "model", "dataset", "contrast_with", "benchmarks", "amateurs"}


class Role(Enum):
    """What a setting changes; see the module's docstring."""

    DECIDES, INPUT, SPEED, PLACE = range(4)


IF_SET = "counts only where it differs from the default"
Decides = Annotated[T, Role.DECIDES]
DecidesIfSet = Annotated[T, Role.DECIDES, IF_SET]
Input = Annotated[T, Role.INPUT]
InputIfSet = Annotated[T, Role.INPUT, IF_SET]
Speed = Annotated[T, Role.SPEED]
Place = Annotated[T, Role.PLACE]


class _ConfigType(ModelMetaclass):
    """Calls to a config class raise `ConfigError`, in the words that the command line uses."""

    def __call__(cls, *args: Any, **values: Any) -> Any:  # noqa: N805 - of a metaclass
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: {explain(cast(type[BaseModel], cls), error, 'give {}=…')}") from None


class Config(BaseModel, metaclass=_ConfigType):
    """Base of all configs: frozen, unknown keys refused.

    A path is accepted for a text, and a single value for a list: `model=Path("m")`, `benchmarks="gsm8k"`.

    Raises:
        ConfigError: names each wrong key, its value, and the nearest known key for an unknown one.
    """

    # Validators are built when a class is first used: building all of them would slow `--help` down.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, defer_build=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in cls.model_fields.values():
            field.description = field.description and " ".join(field.description.split())  # one line, for the help

    @classmethod
    def checked(cls, values: dict[str, Any]) -> Self:
        """Validate values from files and flags.

        Raises:
            ConfigError: names each wrong key, its value, and the nearest known key for an unknown one.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(cls, error, "give --{} or set it in a recipe")) from None

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other values, which are checked as at construction.

        Raises:
            ConfigError: names each wrong key, its value, and the nearest known key for an unknown one.
        """
        if not update:
            return super().model_copy(deep=deep)
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | dict(update))

    def identity(self, *parts: type["Config"], inputs: bool = False) -> dict[str, Any]:
        """The settings that decide the result, as JSON values.

        Args:
            parts: take only the settings of these base classes; without any, all settings.
            inputs: with the `Input` settings, for callers that do not hash the content themselves.
        """
        roles = {Role.DECIDES, Role.INPUT} if inputs else {Role.DECIDES}
        names = {name for part in parts or (type(self),) for name in part.model_fields}
        values = self.model_dump(mode="json", include=names)
        for name in values:
            if isinstance(section := getattr(self, name), Config):
                values[name] = section.identity(inputs=inputs)
        fields = type(self).model_fields
        return {
            name: value
            for name, value in values.items()
            if role_of(fields[name]) in roles
            and not (IF_SET in fields[name].metadata and getattr(self, name) == fields[name].default)
        }

    def flags(self, *left_out: str, **changes: Any) -> list[str]:
        """The settings that decide the result or are read, as flags of a command line, without those left out."""
        values = {**self.identity(inputs=True), **changes}
        return [text for name, value in values.items() if name not in left_out for text in self._flag(name, value)]

    def _flag(self, name: str, value: Any) -> list[str]:
        default = type(self).model_fields[name].default
        if (value is None or value is False or value == []) and default == (() if value == [] else value):
            return []
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            return [flag]
        values = value if isinstance(value, list) else ["none" if value is None else value]
        return [flag, *map(str, values)]

    def shareable(self) -> Self:
        """These settings for other people: of every path of this machine the last part, and no place of the work."""
        changes: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if role_of(field) is Role.PLACE and not field.is_required():
                changes[name] = field.default
            elif isinstance(value, Path):
                changes[name] = Path(shareable_name(os.fspath(value), is_path=True))
            elif isinstance(value, Config):
                changes[name] = value.shareable()
            elif name in NAMING and value:
                several = isinstance(value, tuple)
                changes[name] = tuple(map(shareable_name, value)) if several else shareable_name(value)
        return self.model_copy(update=changes)

    @field_validator("*")
    @classmethod
    def _path_without_nul(cls, value: Any) -> Any:
        if isinstance(value, Path) and "\0" in str(value):
            raise ValueError("a path cannot hold a NUL character")
        return value.expanduser() if isinstance(value, Path) else value

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """What people write: a path for a text, one value for a list, and `--max-questions none`."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        kinds = get_args(annotation)
        if isinstance(value, bool) and bool not in (annotation, *kinds):
            raise ValueError("a truth value; YAML reads yes, no, on, off so. Write none, a number, or quote a text")
        if get_origin(annotation) is tuple:
            if value in ("none", ["none"], ("none",)):
                return ()
            values = [value] if isinstance(value, str | int | float | os.PathLike) else value
            return [_text(one) for one in values] if isinstance(values, list | tuple) else values
        if value == "none" and type(None) in kinds:
            return None
        return _text(value) if str in (annotation, *kinds) else value


def role_of(field: FieldInfo) -> Role:
    """The role of a field. A section, or a field without a mark, decides."""
    return next((mark for mark in field.metadata if isinstance(mark, Role)), Role.DECIDES)


def shareable_name(name: str, *, is_path: bool = False) -> str:
    """A name of a model or data set for other people: of a path of this machine its last part, which tells no folder.

    Args:
        name: a Hub id, a bundled name, a path, or an amateur such as self:checkpoint=PATH.
        is_path: it is a path, also where it looks like another name.
    """
    before, equals, place = name.rpartition("=") if name.startswith("self:") else ("", "", name)
    path = Path(place).expanduser()
    is_there = place.count("/") + place.count("\\") > 0 and "\0" not in place and os.path.lexists(path)
    if is_path or is_there or len(path.parts) > 2 or path.is_absolute() or place.startswith((".", "~")):
        place = os.path.basename(os.path.abspath(path))
    return f"{before}{equals}{place.rpartition(chr(92))[2]}"


def explain(config: type[BaseModel], error: ValidationError, advice: str = "") -> str:
    """The findings of pydantic as one line for a person, unknown keys first.

    Args:
        config: the class that was validated.
        error: what pydantic raised.
        advice: how to give a missing setting; `{}` stands for its name.
    """
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    of_keys: dict[str, list[str]] = {}
    for problem in problems:
        path = _path(config, problem["loc"])
        of_keys.setdefault(".".join(path), []).append(_explain(config, path, problem, advice))
    # A setting of several types, such as a number or a word, has a finding of each.
    return "; ".join(
        ", or ".join([first, *(text.partition(": ")[2] for text in more)]) for first, *more in of_keys.values()
    )


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The known names that may be meant, or all of them; for the end of a message."""
    names = sorted(known)
    close = meant(name, names)
    return f"did you mean {' or '.join(close)}?" if close else f"known {what}: {', '.join(names)}"


def meant(name: str, known: Iterable[str]) -> list[str]:
    """The known names that may be meant, at most three.

    Dots separate the sections of a key. Besides misspellings, a part of a name (`beta` for `divergence_beta`), a longer
    name (`max_steps` for `steps`) and initials (`lr` for `learning_rate`) are understood.
    """
    last_parts = {key: key.rpartition(".")[2] for key in known}
    close = [key for key, last in last_parts.items() if _is_meant(name.rpartition(".")[2].lower(), last)]
    if not close:
        best = difflib.get_close_matches(name, [*last_parts, *last_parts.values()], n=1)
        close = [key for key, last in last_parts.items() if {key, last} & set(best)]
    return close[:3]


def _is_meant(name: str, known: str) -> bool:
    words, of_known = re.split("[_-]", name), known.split("_")
    is_part = set(words) <= set(of_known) or set(of_known) <= set(words)
    return is_part or (len(of_known) > 1 and name == "".join(word[:1] for word in of_known))


def _path(config: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The sections and the name of a setting, without places in lists and the types of a union."""
    path = [part for part in map(str, place) if not part.isdecimal()]
    section: type[BaseModel] | None = config
    for depth, name in enumerate(path, 1):
        section = _section(section, name) if section and name in section.model_fields else None
        if section is None:
            return path[:depth]
    return path


def _explain(config: type[BaseModel], path: list[str], problem: Any, advice: str) -> str:
    """One clause of an error message, for one finding of pydantic."""
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        section, _, rest = key.partition(".")
        if rest and path == [key] and section in config.model_fields and _section(config, section):
            return f"unknown key {key}: a recipe has sections, so write {rest} indented below {section}:"
        return f"unknown key {key}: {_nearest_key(path[-1], config, path[:-1])}"
    if problem["type"] == "missing":
        name = key.replace("_", "-") if "--" in advice else key
        return f"{key} is required: {advice.format(name)}"
    if problem["type"] == "value_error":  # of several settings together
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    if problem["type"] == "literal_error":
        choices = re.findall("'(.+?)'", problem["ctx"]["expected"])
        return f"{key} = {problem['input']!r}: {nearest(str(problem['input']), choices, 'values')}"
    if problem["type"] == "string_type" and isinstance(problem["input"], int | float):
        return f"{key} = {problem['input']!r} is a number; quote it where it is a text: {key}: '{problem['input']}'"
    if problem["type"] == "model_type" and problem["input"] is None:
        return f"{key} has no settings; leave it out, or indent its settings below {key}:"
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _nearest_key(name: str, config: type[BaseModel], path: list[str]) -> str:
    """Like `nearest`, for a key at a place of a config; looks into the sections there too."""
    for part in path:
        config = _section(config, part) or config
    here = list(config.model_fields)
    sections = {key: section for key in here if (section := _section(config, key))}
    below = [f"{key}.{inner}" for key, section in sections.items() for inner in section.model_fields]
    return nearest(name, here if meant(name, here) or not meant(name, below) else below, "keys")


def _section(config: type[BaseModel], name: str) -> type[BaseModel] | None:
    kind = config.model_fields[name].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
