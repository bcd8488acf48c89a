"""The process that judges, one case a line: `python -m lightreasoner.grading.worker JUDGE SECONDS PREPARE`.

A case that takes longer than SECONDS ends the process. The clock is that of `faulthandler`: a thread of its own that
needs neither signals nor Python's lock, works on every platform, and does its duty even when the parent is gone.
"""

import faulthandler
import json
import os
import signal
import sys

from lightreasoner.grading import mathematical
from lightreasoner.grading import qwen_toolkit as toolkit
from lightreasoner.grading.verdicts import Case, Judgement


def judge(case: Case, judge_name: str) -> Judgement:
    """The judgement of the named judge; whatever goes wrong in it is a verdict too."""
    try:
        if judge_name == "toolkit":
            return toolkit.judge(case.text, case.gold, case.benchmark)
        return mathematical.judge(case.text, case.gold, case.kind)
    except (Exception, RecursionError, MemoryError):  # hostile text finds bugs in parsers that nobody has seen yet
        return Judgement(None, None, "grader_error")


def main() -> None:
    """Read cases from stdin and write judgements to stdout until stdin closes."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches workers too, but their parent says when they end
        signal.signal(stop, signal.SIG_IGN)
    judge_name, seconds, prepare = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "prepare"
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # whatever a library prints must not reach the parent as a reply
    silence = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
    if prepare:
        mathematical.prepare()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        faulthandler.dump_traceback_later(seconds, exit=True, file=silence)
        judgement = judge(Case(**json.loads(line)), judge_name)
        faulthandler.cancel_dump_traceback_later()
        reply = [judgement.extracted, judgement.canonical, judgement.verdict]
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
