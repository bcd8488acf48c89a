"""The process that makes jobs, one a line: `python -m lightreasoner.studies.worker`."""

import json
import os
import sys

from lightreasoner.studies.jobs import Job
from lightreasoner.studies.making import make_job


def main() -> None:
    """Read jobs from stdin and write outcomes to stdout until stdin closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not reach the parent as a reply
    try:
        for line in sys.stdin:
            print(json.dumps(make_job(Job.from_json(line))), file=replies, flush=True)
    except KeyboardInterrupt:  # between two jobs
        sys.exit(130)


if __name__ == "__main__":
    main()
