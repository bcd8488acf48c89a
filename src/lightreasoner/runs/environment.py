"""Versions and machine of a run."""

import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata

PACKAGES = ("lightreasoner", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")


def now() -> str:
    """The current time in UTC, ISO 8601, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Versions and machine, which a repetition of the run needs."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": str(os.cpu_count()),
    }
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
