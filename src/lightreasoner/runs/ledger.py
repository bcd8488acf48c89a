"""The lines of a ledger, and of what workers deliver to it: JSON with a hash of itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_of(entry: Mapping[str, Any]) -> str:
    """Hash of a ledger line's other fields. It finds damage that leaves valid JSON, such as another digit."""
    facts = {name: value for name, value in entry.items() if name != "check"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def commit_of(line: bytes, number: str = "shard") -> dict[str, Any] | None:
    """A ledger line as a commit; None if it is torn or damaged, and so never happened.

    Args:
        line: the line with its end.
        number: field with the number that every line has: `shard` in a ledger, `place` in a delivery.
    """
    if not line.endswith(b"\n"):
        return None
    try:
        entry: dict[str, Any] = json.loads(line)
        hashes = [facts["sha256"] for facts in entry["files"].values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = isinstance(entry.get(number), int) and all(isinstance(value, str) for value in hashes)
    sound = sound and all(name == Path(name).name for name in entry["files"])  # nothing outside the folder
    sound = sound and entry.get("check", check_of(entry)) == check_of(entry)  # older versions wrote none
    return entry if sound and "ids" in entry and "counts" in entry else None


def line_of(entry: dict[str, Any]) -> bytes:
    """A commit as a line, with its check added."""
    entry["check"] = check_of(entry)
    return json.dumps(entry).encode() + b"\n"
