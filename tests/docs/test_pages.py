"""Links, commands and blocks of every page, read from its Markdown."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from cyclopts import App

import lightreasoner
from lightreasoner import pipeline
from lightreasoner.cli import app
from lightreasoner.config import RunConfig
from lightreasoner.errors import ConfigError, LightReasonerError
from lightreasoner.recipes import copy_recipe, recipe_names

from .pages import (
    DOCS,
    ROOT,
    Block,
    Command,
    all_pages,
    anchors,
    blocks,
    commands,
    inline,
    links,
    name,
    names_of,
    site_pages,
    texts,
)

PAGES = pytest.mark.parametrize("page", all_pages(), ids=name)
# Pages about the past: their commands were those of their day.
PAST = {"CHANGELOG.md"}
# Options in the texts that are those of other programs.
OTHERS = {
    "--nproc-per-node": "torchrun", "--index-url": "pip", "--no-deps": "pip", "--constraint": "pip",
    "--signal": "sbatch", "--requeue": "sbatch", "--gres": "sbatch", "--strict": "zensical",
    **dict.fromkeys(("--apply_chat_template", "--limit", "--system_instruction", "--num_fewshot"), "lm_eval"),
    **dict.fromkeys(("--metadata", "--gen_kwargs", "--include_path", "--log_samples", "--model_args"), "lm_eval"),
}  # fmt: skip


@PAGES
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        aim = (page.parent / file).resolve() if file else page
        if not aim.exists() or not aim.is_relative_to(ROOT) or (anchor and anchor not in anchors(aim)):
            broken.append(target)
    assert broken == []


def test_every_picture_is_shown_on_a_page() -> None:
    pages = "".join(map(texts, all_pages()))
    assert [picture.name for picture in (DOCS / "images").iterdir() if f"images/{picture.name}" not in pages] == []


def test_the_pages_of_the_site_link_to_nothing_outside_of_it() -> None:
    leaving = [(name(page), link) for page in site_pages() for link in links(page) if leaves(page, link)]
    assert leaving == []


def leaves(page: Path, link: str) -> bool:
    file = link.partition("#")[0]
    return bool(file) and ":" not in file and not (page.parent / file).resolve().is_relative_to(DOCS)


def test_the_navigation_names_every_page_once() -> None:
    nav = list(names_of(yaml.safe_load(texts(ROOT / "mkdocs.yml"))["nav"]))
    assert sorted(nav) == [page.relative_to(DOCS).as_posix() for page in site_pages()]


@cache
def flags_of(*path: str) -> frozenset[str]:
    """The flags of a command."""
    _, apps, _ = app.parse_commands(path)
    return frozenset(flag for argument in apps[-1].assemble_argument_collection() for flag in argument.names)


@cache
def all_flags() -> frozenset[str]:
    """The flags of all commands."""
    return frozenset(flag for path in paths(app) for flag in flags_of(*path))


def paths(of: App, *above: str) -> Iterator[tuple[str, ...]]:
    for word in of:
        if word.startswith("-"):
            continue
        below = list(paths(of[word], *above, word))
        yield from below or [(*above, word)]


def known(command: Command) -> bool:
    """The command exists, and has all flags that are given to it."""
    words = [word for word in command.words if word not in ("--help", "--version", "COMMAND")]
    path, _, rest = app.parse_commands(words)
    given = {word.partition("=")[0] for word in rest if word.startswith("--") and "…" not in word}
    if rest == ["…"] and path in {above[:-1] for above in paths(app)}:
        return True  # a group of commands
    return given <= flags_of(*path) if path else not words


def test_all_flags_are_found() -> None:
    assert {"--sample.max-questions", "--divergence-beta", "--markdown", "--to"} <= all_flags()
    assert not known(Command("", ("sample", "--beta", "0.4"), whole=False))
    assert not known(Command("", ("teach",), whole=False))


def given(command: Command, folder: Path) -> None:
    """Give a command to the real parser, and check its settings; nothing else runs.

    Raises:
        Exception: the parser or a setting refuses it.
    """
    words = [word for word in command.words if word != "--dry-run"]
    for flag, value in pairwise(words):
        if flag == "--config" and value not in recipe_names() and not (folder / value).exists():
            copy_recipe("miniature", folder / value)
    if "--dry-run" in flags_of(*app.parse_commands(words)[0]):
        app([*words, "--dry-run"], exit_on_error=False, print_error=False, result_action="return_value")
    else:
        app.parse_args(words, exit_on_error=False, print_error=False)


@PAGES
def test_every_command_is_accepted_by_the_parser(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name(page) in PAST:
        pytest.skip("commands of the past")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "check", lambda *_, **__: None)  # looks for files and downloads
    refused = []
    for command in commands(page):
        try:
            if not known(command):
                refused.append(f"{command}: no such command or flag")
            elif command.whole:
                given(command, tmp_path)
        except Exception as error:
            # Without its files a command may fail behind its settings.
            if isinstance(error, ConfigError) or not isinstance(error, LightReasonerError):
                refused.append(f"{command}: {error}")
    capsys.readouterr()
    assert refused == []


@PAGES
def test_every_flag_in_a_text_is_one_of_a_command(page: Path) -> None:
    if name(page) in PAST:
        pytest.skip("flags of the past")
    found = {
        word.partition("=")[0]
        for token in inline(page)
        if token.type == "code_inline" and token.content.startswith("--")
        for word in token.content.replace("|", " ").split()
        if word.startswith("--") and "…" not in word
    }
    unknown = found - all_flags() - OTHERS.keys() - {"--help", "--version"}
    scripts = "".join(texts(script) for script in ROOT.glob("bench/*.py"))
    assert {flag for flag in unknown if f'"{flag}"' not in scripts} == set()


def every_block(*languages: str) -> list[Block]:
    return [block for page in all_pages() for block in blocks(page) if block.language in languages]


@pytest.mark.parametrize("block", every_block("yaml"), ids=str)
def test_every_yaml_block_is_valid_and_a_recipe_has_known_settings(block: Block) -> None:
    settings = yaml.safe_load(block.text)
    # A recipe, and no file of another program that has a key of the same name.
    if isinstance(settings, dict) and 2 * len(settings.keys() & RunConfig.model_fields.keys()) >= len(settings):
        pair = {"expert": "miniature/expert", "amateur": "miniature/base", "dataset": "arithmetic"}
        RunConfig.checked({**pair, **settings})


@pytest.mark.parametrize("block", every_block("json", "jsonl"), ids=str)
def test_every_json_block_is_valid(block: Block) -> None:
    for text in block.text.splitlines() if block.language == "jsonl" else [block.text]:
        json.loads(text)


@pytest.mark.parametrize("block", every_block("bash", "sh"), ids=str)
def test_every_shell_block_has_valid_syntax(block: Block) -> None:
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("block", every_block("python"), ids=str)
def test_every_python_block_uses_names_and_settings_that_exist(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse(block.text)
    imported = {row.module or "" for row in ast.walk(tree) if isinstance(row, ast.ImportFrom)}
    imported |= {alias.name for row in ast.walk(tree) if isinstance(row, ast.Import) for alias in row.names}
    for row in ast.walk(tree):
        if isinstance(row, ast.ImportFrom) and (row.module or "").startswith("lightreasoner"):
            module = import_module(row.module or "")
            assert [alias.name for alias in row.names if not hasattr(module, alias.name)] == []
    if imported <= {"lightreasoner"} and imported:  # the settings are checked when the configs are made
        for function in set(lightreasoner.__all__) - {
            kind for kind in lightreasoner.__all__ if kind.endswith("Config")
        }:
            monkeypatch.setattr(lightreasoner, function, lambda *_, **__: {}, raising=False)
        exec(compile(tree, str(block), "exec"), {})


def test_make_targets_and_scripts_in_the_pages_exist() -> None:
    makefile = texts(ROOT / "Makefile")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    used = {(str(block), word) for block in every_block("", "bash", "sh") for word in called(block)}
    assert [(place, word) for place, word in used if word.startswith("make ") and word[5:] not in targets] == []
    assert [(place, word) for place, word in used if word.endswith(".py") and not (ROOT / word).is_file()] == []


def called(block: Block) -> Iterator[str]:
    for line in block.text.splitlines():
        if made := re.match(r"make ([\w-]+)", line):
            yield f"make {made[1]}"
        if ran := re.match(r"python ((?:bench|examples|docs)/\S+\.py)", line):
            yield ran[1]


def test_extras_in_the_pages_exist() -> None:
    import tomllib

    extras = tomllib.loads(texts(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    pages = {name(page): texts(page) for page in all_pages()}
    named = {extra for text in pages.values() for extra in re.findall(r"'\.\[([\w-]+)\]'", text)}
    assert {"quant", "ray", "vllm", "track", "lm-eval"} <= named <= extras.keys()
    # There is no release: an index would know nothing of the name, or something else.
    sources = {name(file): texts(file) for of in ("src", "examples") for file in (ROOT / of).rglob("*.py")}
    assert [place for place, text in (pages | sources).items() if "lightreasoner[" in text] == []
