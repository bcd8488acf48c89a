"""Base of all configs: the role of a setting, the identity of a config, messages with "did you mean".

Decides[T]   the value decides the result
Input[T]     selects what is read (a path, a revision, the first N); fingerprints hold a hash of what was read instead
Speed[T]     changes speed, memory, or what is logged and kept on the way
Place[T]     where the work is done and written
"""

import difflib
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from lightreasoner.errors import ConfigError

T = TypeVar("T")


class Role(Enum):
    """What a setting changes; see the module's docstring."""

    DECIDES, INPUT, SPEED, PLACE = range(4)


Decides = Annotated[T, Role.DECIDES]
Input = Annotated[T, Role.INPUT]
Speed = Annotated[T, Role.SPEED]
Place = Annotated[T, Role.PLACE]


class Config(BaseModel):
    """Base of all configs: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def checked(cls, values: dict[str, Any]) -> Self:
        """Validate values from files and flags.

        Raises:
            ConfigError: names each wrong key, its value, and the nearest known key for an unknown one.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(explain(cls, error)) from None

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
        return {name: value for name, value in values.items() if role_of(fields[name]) in roles}

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

    @field_validator("*")
    @classmethod
    def _path_without_nul(cls, value: Any) -> Any:
        if isinstance(value, Path) and "\0" in str(value):
            raise ValueError("a path cannot hold a NUL character")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _none_in_words(cls, value: Any, info: ValidationInfo) -> Any:
        """`--max-questions none` on a command line."""
        assert info.field_name is not None
        kinds = get_args(cls.model_fields[info.field_name].annotation)
        return None if value == "none" and type(None) in kinds and str not in kinds else value


def role_of(field: FieldInfo) -> Role:
    """The role of a field. A section, or a field without a mark, decides."""
    return next((mark for mark in field.metadata if isinstance(mark, Role)), Role.DECIDES)


def explain(config: type[BaseModel], error: ValidationError) -> str:
    """The findings of pydantic as one line for a person."""
    return "; ".join(_explain(config, problem) for problem in error.errors())


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """The known name that is meant, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"known {what}: {', '.join(names)}"


def _explain(config: type[BaseModel], problem: Any) -> str:
    """One clause of an error message, for one finding of pydantic."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}: {nearest(path[-1], _fields_at(config, path[:-1]), 'keys')}"
    if problem["type"] == "missing":
        return f"{key} is required: give --{key.replace('_', '-')} or set it in a recipe"
    if problem["type"] == "value_error":  # of several settings together
        return f"{key}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _fields_at(config: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        section = config.model_fields[part].annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        config = section
    return list(config.model_fields)
