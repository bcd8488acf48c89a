"""The Markdown pages of this repository, read as CommonMark: links, headings, code, and the `lightr` commands in it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMANDS = ("lightr", "lightreasoner", ".venv/bin/lightr")
# Where a command ends in a line of a shell.
ENDS = {"&&", "||", "|", ";", ">", "2>", ">>", "&", "then", "done", "do"}


def site_pages() -> list[Path]:
    """The pages of the site."""
    return sorted(DOCS.rglob("*.md"))


def all_pages() -> list[Path]:
    """The pages of the site, and those that stand elsewhere in the repository."""
    return [
        *site_pages(),
        *sorted(ROOT.glob("*.md")),
        ROOT / "tests" / "README.md",
        *sorted(ROOT.glob("examples/*.md")),
    ]


def name(page: Path) -> str:
    """Path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


@cache
def tokens(page: Path) -> list[Token]:
    """A page as GitHub reads it."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def inline(page: Path) -> Iterator[Token]:
    """The pieces of all texts of a page: links, code, words."""
    for token in tokens(page):
        yield from token.children or ()


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: a second one of a name gets -1."""
    found: dict[str, int] = {}
    names = set()
    rows = tokens(page)
    for row, following in pairwise(rows):
        if row.type == "heading_open":
            text = "".join(child.content for child in following.children or () if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            names.add(slug if slug not in found else f"{slug}-{found[slug]}")
            found[slug] = found.get(slug, 0) + 1
    return names


def links(page: Path) -> Iterator[str]:
    """Targets of the links and pictures of a page."""
    for token in inline(page):
        target = token.attrGet("href") or token.attrGet("src")
        if target is not None:
            yield str(target)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page, fenced or indented."""
    for token in tokens(page):
        if token.type in ("fence", "code_block"):
            yield Block(page, (token.map or [0])[0] + 1, token.info.split(" ")[0], token.content)


@dataclass(frozen=True)
class Command:
    """A call of the command line in a page."""

    place: str
    words: tuple[str, ...]  # without the program's name
    whole: bool  # in a block and without an omission, so that it can be given as it stands

    def __str__(self) -> str:
        return f"{self.place}: lightr {shlex.join(self.words)}"


def commands(page: Path) -> Iterator[Command]:
    """The `lightr` commands of a page, in blocks and in texts."""
    for block in blocks(page):
        if block.language not in ("python", "yaml", "json", "diff", "bibtex", "toml"):
            yield from _in_block(block)
    for number, token in enumerate(inline(page)):
        first, _, rest = token.content.partition(" ")
        if token.type == "code_inline" and first in COMMANDS and rest:
            words = shlex.split(rest.replace("'", "") if rest.count("'") % 2 else rest)
            yield Command(f"{name(page)}, text {number}", tuple(words), whole=False)


def _in_block(block: Block) -> Iterator[Command]:
    variables: dict[str, str] = {}
    for line in block.text.replace("\\\n", " ").splitlines():
        if assigned := re.match(r"\s*(?:for )?(\w+)(?:=| in )(\"[^\"]*\"|\S+)", line):
            variables[assigned[1]] = assigned[2].strip('"').removesuffix(";")
        if not re.search(r"lightr|lightreasoner\.cli", line):
            continue
        text = re.sub(r"\$\{?(\w+)\}?", lambda found: variables.get(found[1], found[0]), line)
        words = shlex.split(text.replace(";", " ; "), comments=True)
        for at, word in enumerate(words):
            program = word in COMMANDS or (word == "lightreasoner.cli" and words[at - 1 : at] == ["-m"])
            if program and at + 1 < len(words):
                after = [*words[at + 1 :], ";"]
                end = next(place for place, other in enumerate(after) if other in ENDS)
                given = tuple(after[:end])
                yield Command(str(block), given, whole="…" not in given and "..." not in given)


def texts(page: Path) -> str:
    """Everything on a page."""
    return page.read_text(encoding="utf-8")


def section(page: Path, heading: str) -> str:
    """The part of a page from this heading to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", texts(page), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{name(page)} has no heading {heading!r}"
    return found[2]


def names_of(nav: list[Any]) -> Iterator[str]:
    """The pages in a navigation of mkdocs.yml."""
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from names_of(value)
            else:
                yield value
