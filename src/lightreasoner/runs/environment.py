"""Versions and machine, for the record of a run."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata


def now() -> str:
    """The time in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment() -> dict[str, str]:
    """Versions and machine, to be read by whoever wants to repeat the run."""
    packages = ("lightreasoner", "torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": str(os.cpu_count()),
        **{name: metadata.version(name) for name in packages if _is_installed(name)},
    }


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
