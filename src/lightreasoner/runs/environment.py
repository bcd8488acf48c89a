"""Versions and machine of a run."""

import os
import platform
import re
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

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


def version_lines() -> str:
    """What `lightr --version` prints: a line for each version, read without importing a package."""
    found = environment()
    found["python"] += f" on {found['platform']}"
    if "torch" in found and (build := _torch_build()) is not None:
        found["torch"] += f" for {build}"
    names = ("lightreasoner", "python", *PACKAGES[1:])
    return "\n".join(f"{name} {found[name]}" for name in names if name in found)


def _torch_build() -> str | None:
    """What torch was built for, such as `CUDA 12.8`; None if its files do not say."""
    file = metadata.distribution("torch").locate_file("torch/version.py")
    try:
        text = Path(str(file)).read_text(encoding="utf-8")
    except OSError:
        return None
    built = re.findall(r"^(cuda|hip|xpu)\b[^=\n]*= *['\"]([\d.]+)", text, re.MULTILINE)
    return ", ".join(f"{kind.upper()} {version}" for kind, version in built) or "the CPU"
