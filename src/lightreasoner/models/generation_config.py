"""The generation settings of a model: those that transformers accepts together."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from lightreasoner.errors import ModelError

REPORTING = ("modeling_utils", "generation.configuration_utils")


def generation_settings(name: str, folder: Path) -> tuple[GenerationConfig | None, list[str]]:
    """The generation settings beside the model that agree with each other, and the names of the others.

    Public models have settings that transformers itself refuses to save, such as a temperature without sampling.
    Generation here takes the stop tokens alone from them; a merged model keeps those that agree.

    Returns:
        None and no names where there is no generation_config.json.

    Raises:
        ModelError: it is no JSON object.
    """
    file = folder / "generation_config.json"
    if not file.is_file():
        return None, []
    try:
        left = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        left = None
    if not isinstance(left, dict):
        raise ModelError(f"{name}: {file} is not a JSON object, and it names the stop tokens. Download it again")
    stops = left.get("eos_token_id")
    if not all(type(token) is int and token >= 0 for token in (stops if isinstance(stops, list) else [stops or 0])):
        raise ModelError(f"{name}: eos_token_id in {file} is {stops!r}; it must be the number of a token, or several")
    return agreeing(left)


def agreeing(settings: Mapping[str, Any]) -> tuple[GenerationConfig, list[str]]:
    """The settings that transformers accepts together, in their order, and the names of the others."""
    left = dict(settings)
    kept: dict[str, Any] = {}
    agrees = True
    while agrees:  # one setting can need another that comes later
        agrees = False
        for key, value in list(left.items()):
            if _agree({**kept, key: value}):
                kept[key] = left.pop(key)
                agrees = True
    with quiet():
        return GenerationConfig(**kept), sorted(left)


def _agree(settings: dict[str, Any]) -> bool:
    with quiet():
        try:
            GenerationConfig(**settings).validate(strict=True)
        except (ValueError, TypeError, AttributeError, KeyError):
            return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' tables of weights and settings: messages of this package say the same in one line."""
    loggers = [logging.getLogger(f"transformers.{name}") for name in REPORTING]
    for logger in loggers:
        logger.addFilter(_is_error)  # a higher level would switch other reports on
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
