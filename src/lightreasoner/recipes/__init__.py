"""Recipes: YAML files with the settings of a run. Some are bundled and have a name."""

import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightreasoner import config as cfg
from lightreasoner.config import AdviseConfig, RunConfig
from lightreasoner.config.base import Config, nearest
from lightreasoner.config.sections import SelectSettings
from lightreasoner.errors import ConfigError

C = TypeVar("C", bound=Config)

LARGEST_RECIPE = 1 << 20  # bytes; a recipe is a page of text

# How the config of one stage is read from a recipe.
STAGES: Mapping[type[Config], Callable[[RunConfig], Config]] = {
    cfg.SampleConfig: RunConfig.for_sample,
    cfg.SelectConfig: RunConfig.for_select,
    cfg.FinetuneConfig: RunConfig.for_finetune,
    cfg.MergeConfig: RunConfig.for_merge,
    cfg.EvaluateConfig: lambda run: run.for_evaluate(run.expert, run.expert_revision, "expert"),
    cfg.InspectConfig: RunConfig.for_sample,
    cfg.BaselineConfig: lambda run: run.for_baseline("rejection-sft"),  # the command names the kind
}

# Required settings of a run. For one stage, the flags may add them to a recipe that lacks them.
COMPLETING = {"expert", "amateur", "dataset"}


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    files = resources.files(__package__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def recipe_list() -> list[str]:
    """List the bundled recipes: the name of each, and what it is for."""
    names = recipe_names()
    width = max(map(len, names))
    return [f"{name:{width}}  {recipe_text(name).splitlines()[0].removeprefix('# ')}" for name in names]


def recipe_text(name: str) -> str:
    """Show a bundled recipe.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in recipe_names():
        meant = nearest(name, recipe_names(), "recipes")
        raise ConfigError(f"no recipe {name!r}. A recipe of your own is the path of a .yaml file; {meant}")
    return (resources.files(__package__) / f"{name}.yaml").read_text(encoding="utf-8")


def copy_recipe(name: str, file: Path) -> None:
    """Copy a bundled recipe to a new file to edit. An existing file is never overwritten.

    Raises:
        ConfigError: there is none of that name, or the file exists or cannot be written.
    """
    text = recipe_text(name)
    try:
        with file.open("x", encoding="utf-8") as copy:
            copy.write(text)
    except FileExistsError:
        raise ConfigError(f"{file} exists and is not overwritten; give another name") from None
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}") from None


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
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise ConfigError(f"cannot read recipe {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"recipe {path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    else:
        text = recipe_text(name_or_path)
    try:
        settings = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # The loader raises the latter ones on scalars such as 2024-13-45 or !!bool maybe.
        raise ConfigError(f"recipe {name_or_path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"recipe {name_or_path} must be a mapping of settings, such as `expert: OWNER/MODEL`")
    return settings


def has_section(kind: type[Config]) -> bool:
    """Whether a recipe holds settings for configs of this kind."""
    return issubclass(kind, RunConfig) or kind in STAGES


def resolve(kind: type[C], flags: Mapping[str, Any], recipe: str | None) -> C:
    """A checked config: defaults < recipe < flags.

    Args:
        kind: config of a run, or of one of its stages.
        flags: settings that override the recipe; sections of a run are mappings.
        recipe: a bundled name or a YAML file.

    Raises:
        ConfigError: the recipe cannot be read, has no section for this kind, or a setting is wrong.
    """
    if recipe is None:
        return kind.checked(dict(flags))
    if not has_section(kind):
        raise ConfigError("recipes have no section for this command; give its settings as flags")
    below = load_recipe(recipe)
    if issubclass(kind, RunConfig):
        if kind is AdviseConfig:
            below.pop("out", None)  # the recipe's folder is that of its run
        sections = [key for key in below.keys() & flags.keys() if isinstance(flags[key], dict)]
        merged = {key: {**below[key], **flags[key]} for key in sections if isinstance(below[key], dict)}
        return kind.checked({**below, **flags, **merged})
    below |= {key: flags[key] for key in COMPLETING & flags.keys()}
    if kind is cfg.SelectConfig and isinstance(section := below.get("select", {}), dict):
        # What β and α of `sample` stand for depends on the whole rule: see `RunConfig.rule`.
        below["select"] = {**section, **{key: flags[key] for key in SelectSettings.model_fields.keys() & flags.keys()}}
    run = RunConfig.checked(below)
    stage = STAGES[kind](run).model_dump(include=set(kind.model_fields))
    return kind.checked({**stage, **flags})


class _StrictLoader(yaml.SafeLoader):
    """The safe loader without aliases, which could expand without limit, duplicate keys, and octal numbers."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if doubled := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"given twice: {', '.join(sorted(map(str, doubled)))}")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in recipes")
        return super().compose_node(parent, index)


def _whole_number(loader: _StrictLoader, node: Any) -> Any:
    if re.fullmatch(r"[+-]?0[\d_]+", node.value):
        raise yaml.YAMLError(f"{node.value} would be an octal number; write it without the leading 0")
    _refuse_base_60(node)
    return loader.construct_yaml_int(node)


def _number(loader: _StrictLoader, node: Any) -> Any:
    _refuse_base_60(node)
    return loader.construct_yaml_float(node)


def _refuse_base_60(node: Any) -> None:
    if ":" in node.value:
        raise yaml.YAMLError(
            f"{node.value} would be a number of base 60; write it as a decimal number, or quote a text"
        )


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_StrictLoader.add_constructor("tag:yaml.org,2002:float", _number)
