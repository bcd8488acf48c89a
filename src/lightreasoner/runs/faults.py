"""Fault injection for tests, at exact points of a stage; inactive without the environment variable.

    LIGHTREASONER_FAILPOINTS="after-shard:kill"           SIGKILL at the first pass of this point
    LIGHTREASONER_FAILPOINTS="in-ledger:kill@3"           at the third pass
    LIGHTREASONER_FAILPOINTS="in-folder:hang=/a/file"     creates /a/file.reached, then waits for /a/file
    LIGHTREASONER_FAILPOINTS="in-ledger:enospc"           full disk
    LIGHTREASONER_FAILPOINTS="in-batch:memory"            out of memory

Points are in `runs` and `training/checkpoints.py` only; `docs/reliability.md` lists them.
"""

import errno
import os
import signal
import time
from collections import Counter
from functools import cache
from pathlib import Path

VARIABLE = "LIGHTREASONER_FAILPOINTS"

POINTS = (
    "before-shard", "after-shard", "in-ledger", "after-ledger", "in-batch", "after-delivery",
    "in-checkpoint", "before-checkpoint-complete", "in-folder", "before-name",
)  # fmt: skip
ACTIONS = ("kill", "enospc", "memory", "hang")

_reached: Counter[str] = Counter()


def fault_point(name: str) -> None:
    """Pass a fail point.

    Raises:
        OSError: the fault is a full disk.
        MemoryError: the fault is out-of-memory.
    """
    plan = _plan()
    if name not in plan:
        return
    action, value, turn = plan[name]
    _reached[name] += 1
    if _reached[name] != turn:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif action == "memory":
        raise MemoryError("injected by a test")
    elif action == "hang":
        Path(f"{value}.reached").touch()
        while not Path(value).exists():
            time.sleep(0.01)


@cache
def _plan() -> dict[str, tuple[str, str, int]]:
    """Action, value and turn of each point, read once."""
    plan = {}
    for part in filter(None, os.environ.get(VARIABLE, "").split(",")):
        name, _, what = part.partition(":")
        what, _, turn = what.partition("@")
        action, _, value = what.partition("=")
        if name not in POINTS or action not in ACTIONS:
            raise ValueError(f"{VARIABLE}: no fail point {part!r}; there are {', '.join(POINTS)}: {', '.join(ACTIONS)}")
        plan[name] = (action, value, int(turn or 1))
    return plan
