"""Settings for a quick check that the Hub answers, before a client library starts a download.

Downloads retry for half a minute before they fail; a user without a network should know within seconds.
"""

import os
import re

TIMEOUT = 5.0  # seconds until the Hub counts as unreachable

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_offline() -> bool:
    """Whether the user set HF_HUB_OFFLINE, so only cached copies may be used."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def is_repository(name: str) -> bool:
    """Whether the name has the form of a Hub id, OWNER/NAME."""
    return bool(_REPOSITORY.fullmatch(name))
