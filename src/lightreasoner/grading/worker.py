"""The process that judges answers: `python -m lightreasoner.grading.worker JUDGE SECONDS PREPARE`.

An answer that takes longer than SECONDS ends the process. The clock is that of `faulthandler`: a thread in C that needs
neither signals nor Python's lock, works on every platform, and still works after the parent was killed.
"""

import faulthandler
import os
import signal
import sys
from typing import Any

from lightreasoner.grading import mathematical
from lightreasoner.grading import qwen_toolkit as toolkit
from lightreasoner.grading.verdicts import Case, Judgement
from lightreasoner.runs.workers import serve


def judge(case: Case, judge_name: str) -> Judgement:
    """The judgement of the named judge; any error in it becomes a verdict too."""
    try:
        if judge_name == "toolkit":
            return toolkit.judge(case.text, case.gold, case.benchmark)
        return mathematical.judge(case.text, case.gold, case.kind)
    except (Exception, RecursionError, MemoryError):  # hostile text triggers unknown bugs in parsers
        return Judgement(None, None, "grader_error")


def main() -> None:
    """Answer the requests of `GradingPool`."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches workers too, but the parent decides when they end
        signal.signal(stop, signal.SIG_IGN)
    judge_name, seconds, prepare = sys.argv[1], float(sys.argv[2]), sys.argv[3] == "prepare"
    silence = open(os.devnull, "w")  # noqa: SIM115 - open as long as the process lives

    def answer(case: list[Any]) -> list[str | None]:
        faulthandler.dump_traceback_later(seconds, exit=True, file=silence)
        judgement = judge(Case(*case), judge_name)
        faulthandler.cancel_dump_traceback_later()
        return [judgement.extracted, judgement.canonical, judgement.verdict]

    serve(answer, mathematical.prepare if prepare else None)


if __name__ == "__main__":
    main()
