"""Versions and machine of a run."""

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata

PACKAGES = ("lightreasoner", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")


# What stages found out about the machine: capabilities, trials and what was chosen by them.
_noted: dict[str, str] = {}


def note(name: str, fact: str) -> None:
    """Remember a fact about this machine for the environment of the stages of this process."""
    _noted[name] = fact


def now() -> str:
    """The current time in UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Versions and machine, which a repetition of the run needs, and what was noted about it."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": str(os.cpu_count()),
    }
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found | _noted
