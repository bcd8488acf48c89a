"""A worker of `runs.workforce`: one command in worker mode, in a process of its own.

The owner starts `python -P -m lightreasoner.runs.worker_process NAME ON_DEVICE WORKERS PARENT`, and sends the request
as one line of JSON. The function of the command names the class of its settings.
"""

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import get_type_hints

from lightreasoner.errors import LightReasonerError
from lightreasoner.runs.joining import Joined
from lightreasoner.runs.owning import work_for
from lightreasoner.runs.progress import printed_messages
from lightreasoner.runs.workers import serve
from lightreasoner.runs.workforce import Reply, Request


def run_command(request: Request, name: str, on_device: int, workers: int, parent: int | None = None) -> Reply:
    """Run a command as the worker `name`; for the arguments see `joining.Joined`."""
    try:
        command = resolve_name(f"lightreasoner.{request['command']}")
        config = get_type_hints(command)["config"].checked(request["config"])
        with work_for(Joined(Path(config.out), name, on_device, workers, parent)):
            command(config)
    except LightReasonerError as error:
        return {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    return {"error": None, "message": "", "exit_code": 0}


def main() -> None:
    """Serve one owner."""
    name, *counts = sys.argv[1:]
    with printed_messages():
        serve(lambda request: run_command(request, name, *map(int, counts)))


if __name__ == "__main__":
    main()
