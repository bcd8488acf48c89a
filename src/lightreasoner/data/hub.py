"""Asking the Hub one quick question before a client library asks many slow ones.

Downloads retry for half a minute before they give up. A user without a network should know within seconds.
"""

import os
import re

TIMEOUT = 5.0  # seconds until an unreachable Hub is called so

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_offline() -> bool:
    """The user set HF_HUB_OFFLINE: only cached copies may be used."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def is_repository(name: str) -> bool:
    """The name has the form of a Hub id, OWNER/NAME."""
    return bool(_REPOSITORY.fullmatch(name))
