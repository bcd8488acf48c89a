"""What cards of models and data sets on the Hub share: metadata, text that cannot break the page, licences.

A card is the README.md of a repository: a block of YAML, then Markdown. Specification of the metadata: modelcard.md and
datasetcard.md of https://github.com/huggingface/hub-docs.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

TAG = "lightreasoner"  # of every card that this package writes; `data.hub` knows its own repositories by it
PAPER = "arXiv [2510.07962](https://arxiv.org/abs/2510.07962)"
HUB = "https://huggingface.co"

_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_MARKUP = re.compile(r"([\\`*_\[\]|#~$])")


@dataclass(frozen=True)
class Licence:
    """Under which licence something may be used.

    Attributes:
        of: what it is, such as `base model Qwen/Qwen2.5-Math-1.5B`.
        id: identifier of the Hub, such as apache-2.0; None where it is not known.
        name: name of a licence that has no identifier of its own (`other`).
        link: its text.
        reason: why it is not known, or who says it.
        is_there: False if it was looked for on the Hub, which has none of that name or does not show it.
    """

    of: str
    id: str | None = None
    name: str | None = None
    link: str | None = None
    reason: str = ""
    is_there: bool = True

    def metadata(self) -> dict[str, str]:
        """The fields of a card; `unknown` is an identifier of the Hub too."""
        found = {"license": self.id or "unknown"}
        if self.id == "other":
            found |= {key: value for key, value in (("license_name", self.name), ("license_link", self.link)) if value}
        return found

    def __str__(self) -> str:
        if self.id is None:
            return f"{self.of}: licence unknown ({self.reason})"
        named = f" ({self.name})" if self.name else ""
        return f"{self.of}: {self.id}{named}{f', {self.reason}' if self.reason else ''}"

    def of_card(self, metadata: Mapping[str, Any], repository: str) -> "Licence":
        """This licence as the metadata of a card give it.

        Args:
            metadata: of the card.
            repository: address of the repository, which a link to a file in it needs.
        """
        found = metadata.get("license")
        found = next(iter(found), None) if isinstance(found, list) else found
        if not isinstance(found, str) or not found or found == "unknown":
            return Licence(self.of, reason="its card names none")
        name, link = (_text(metadata.get(key)) for key in ("license_name", "license_link"))
        if link and "://" not in link:
            link = f"{repository}/blob/main/{link}"
        if not _IDENTIFIER.fullmatch(found.lower()):  # of no form that the Hub takes
            return Licence(self.of, "other", name or found, link)
        return Licence(self.of, found.lower(), name, link)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def licence_lines(licences: Sequence[Licence]) -> list[str]:
    """The section of a card about licences."""
    if not licences:
        return []
    lines = [f"- {escaped(str(one))}{_linked(one.link or '')}" for one in licences]
    advice = "What is not known here must be looked up at its source before this is used or passed on."
    return ["## Licence", "", *lines, *(["", advice] if any(one.id is None for one in licences) else []), ""]


def _linked(link: str) -> str:
    """A link to the text of a licence, if it is an address of the web."""
    return f" ([text]({link}))" if re.fullmatch(r"https?://[^\s<>()]+", link) else ""


def card(metadata: Mapping[str, Any], lines: Iterable[str]) -> str:
    """A whole card; fields that are None or empty are left out."""
    kept = {name: value for name, value in metadata.items() if value not in (None, [], "")}
    head = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120)
    return "\n".join(["---", head.rstrip("\n"), "---", *lines]).rstrip("\n") + "\n"


def escaped(text: object) -> str:
    """Text of models, files and users in one line of Markdown, without markup."""
    line = " ".join(str(text).split())
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(sign, entity)
    return _MARKUP.sub(r"\\\1", line)


def rows(header: Sequence[object], cells: Iterable[Sequence[object]]) -> list[str]:
    """A table of such texts; an empty header has no names of columns."""
    lines = [[escaped(cell) for cell in row] for row in (header, *cells)]
    return [f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(header), *lines[1:])]


def fenced(lines: Sequence[str], language: str = "") -> list[str]:
    """Lines as a block of code, within a fence that none of them can end."""
    longest = max((len(run) for run in re.findall(r"`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{language}", *lines, fence]
