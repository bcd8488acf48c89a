"""Bundled recipes: run configs by name."""

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from lightreasoner.errors import ConfigError

LARGEST_RECIPE = 1 << 20  # bytes; a recipe is a page of text


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    return sorted(path.name.removesuffix(".yaml") for path in _bundled() if path.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """Text of a bundled recipe.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in recipe_names():
        raise ConfigError(
            f"no recipe {name!r}; there are {', '.join(recipe_names())}, or give the path of a .yaml file"
        )
    return (resources.files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """The settings of a recipe: a bundled name, or a YAML file.

    Raises:
        ConfigError: it cannot be read, is not YAML, or is not a mapping.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ConfigError(f"no recipe file {path}; check the path, or see `lightr recipes ls`")
        if path.stat().st_size > LARGEST_RECIPE:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes; a recipe has at most {LARGEST_RECIPE}")
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from None
    else:
        text = recipe_text(name_or_path)
    try:
        settings = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # The latter ones are how the loader fails on scalars such as 2024-13-45 or !!bool maybe.
        raise ConfigError(f"recipe {name_or_path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"recipe {name_or_path} must be a mapping of settings, such as `expert: OWNER/MODEL`")
    return settings


class _StrictLoader(yaml.SafeLoader):
    """The safe loader without aliases, which a bomb is made of, and without keys that replace an earlier one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if doubled := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"given twice: {', '.join(sorted(map(str, doubled)))}")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in recipes")
        return super().compose_node(parent, index)


def _bundled() -> list[Any]:
    return list(resources.files(__package__).iterdir())
