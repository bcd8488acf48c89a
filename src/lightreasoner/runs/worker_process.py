"""A worker of `runs.workforce`: one command in worker mode, in a process of its own.

The owner starts `python -P -m lightreasoner.runs.worker_process COMMAND ON_DEVICE WORKERS PARENT`, and sends the name
of the worker and the settings of the command as one line of JSON. The function of the command names their class.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_type_hints

from lightreasoner.errors import LightReasonerError
from lightreasoner.runs.joining import Joined
from lightreasoner.runs.owning import work_for
from lightreasoner.runs.progress import printed_messages
from lightreasoner.runs.workers import serve
from lightreasoner.runs.workforce import Reply


def run_command(command: Callable[[Any], Any], request: dict[str, Any], *counts: int) -> Reply:
    """Run a command as a worker.

    Args:
        command: function of the command.
        request: `name` of the worker, and `config`, the settings as JSON values.
        counts: `on_device`, `workers` and `parent` of `joining.Joined`.
    """
    try:
        config = get_type_hints(command)["config"].checked(request["config"])
        with work_for(Joined(Path(config.out), request["name"], *counts)):
            command(config)
    except LightReasonerError as error:
        return {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
    return {"error": None, "message": "", "exit_code": 0}


def main() -> None:
    """Serve one owner."""
    name, *counts = sys.argv[1:]
    with printed_messages():
        command = resolve_name(f"lightreasoner.{name}")  # imports for seconds, before the owner has something to do
        serve(lambda request: run_command(command, request, *map(int, counts)))


if __name__ == "__main__":
    main()
