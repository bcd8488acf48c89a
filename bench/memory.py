"""Peak resident memory of this process and of commands.

On Linux, `ru_maxrss` of a child is at least the peak of the process that started it: `exec` takes it over. So this
process reads `VmHWM`, which starts anew at `exec`, and a command is started by a small process: this file as a script,

    python bench/memory.py REPORT COMMAND …

which writes the command's seconds and peak in bytes to REPORT as JSON, and ends with the command's exit code.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_resident() -> int:
    """Peak resident memory in bytes; outside Linux, a child may inherit its parent's peak."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) * 1024


def reset_peak() -> None:
    """Reset the peak to the current memory, on systems that support it."""
    if CLEAR.exists():
        CLEAR.write_text("5")


def main(report: str, *command: str) -> int:
    """Run a command without a shell; its peak is that of the largest of it and its children."""
    started = time.perf_counter()
    _, status, usage = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
    seconds = time.perf_counter() - started
    Path(report).write_text(json.dumps({"seconds": seconds, "peak": usage.ru_maxrss * UNIT}))
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
