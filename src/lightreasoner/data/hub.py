"""The Hub: names of repositories, offline mode, and the commit that a model's branch or tag stands for."""

import os
import re

# Seconds until the Hub counts as unreachable. Downloads retry for half a minute before they fail; a user without a
# network should know sooner.
TIMEOUT = 4.0

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def is_offline() -> bool:
    """Whether the user set HF_HUB_OFFLINE, so only cached copies may be used."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def is_repository(name: str) -> bool:
    """Whether the name has the form of a Hub id, OWNER/NAME."""
    return bool(_REPOSITORY.fullmatch(name))


def model_commit(name: str, revision: str | None) -> str:
    """Commit of a model repository that a branch or tag stands for, so that later downloads read one commit.

    Raises:
        ConnectionError: HF_HUB_OFFLINE is set.
        Exception: of a client library, each its own; the Hub does not answer within `TIMEOUT`, or refuses.
    """
    from huggingface_hub import HfApi  # imports slowly, and most commands need no Hub

    if is_offline():
        raise ConnectionError("HF_HUB_OFFLINE is set")
    return str(HfApi().model_info(name, revision=revision, timeout=TIMEOUT).sha)
