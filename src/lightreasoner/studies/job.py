"""A job of a study: work with a folder of its own, which is named by what decides its content.

Studies that need the same job share its folder, and a finished job is not run again. `jobs` has the kinds.
"""

import hashlib
import json
import os
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from lightreasoner.config.base import Config, Place
from lightreasoner.errors import LightReasonerError
from lightreasoner.report.reading import times
from lightreasoner.runs.environment import now
from lightreasoner.runs.files import write_json
from lightreasoner.runs.progress import printed_messages, say

R = TypeVar("R")


class Outcome(NamedTuple):
    """The end of a job: its seconds, the error message if it failed, and the exit code of that error."""

    seconds: float
    problem: str | None = None
    exit_code: int = 0


class Job(Config):
    """Work with a folder of its own below the root of all studies."""

    kind: ClassVar[str]
    """Folder of all jobs of this kind."""
    wave: ClassVar[int]
    """Jobs read the folders of earlier waves only: 0 makes inputs, 1 samples, 2 trains, 3 reads trainings."""

    root: Place[Path]
    """Folder of all studies."""

    @abstractmethod
    def make(self) -> dict[str, Any]:
        """Do the work in `folder`, and give the results of its stages. A second call continues the first."""

    def needs(self) -> list["Job"]:
        """The jobs whose folders this one reads: by default those among its fields."""
        return [value for _, value in self if isinstance(value, Job)]

    @property
    def folder(self) -> Path:
        """Place of this job: a few words and a hash of what decides its content."""
        # Paths below the root are taken relative to it, so that the folder of all studies can be moved.
        below_root = json.dumps(f"{self.root}{os.sep}").removesuffix('"')
        content = json.dumps(self.identity(inputs=True), sort_keys=True).replace(below_root, '"./')
        digest = hashlib.sha256(content.encode()).hexdigest()
        words = "-".join(word.rpartition("/")[2] for word in self._words() if word)
        safe = "".join(letter if letter.isalnum() or letter in "-._" else "_" for letter in words)
        return self.root / self.kind / f"{safe[:60]}-{digest[:10]}"

    @property
    def done(self) -> dict[str, Any] | None:
        """Results and seconds of the stages; None while the job is not finished."""
        return _read(self.folder / "done.json")

    @property
    def finished(self) -> dict[str, Any]:
        """Results and seconds of the stages of a job that is finished."""
        assert self.done is not None, self.folder
        return self.done

    def run(self) -> Outcome:
        """Make this job, with its progress in `log.txt`; an error becomes the outcome."""
        started = time.perf_counter()
        problem, exit_code = None, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log, redirect_stderr(log), printed_messages():
            say(f"-- {now()}")
            try:
                results = self.make()
                write_json(self.folder / "done.json", {"results": results, "seconds": self._spent()})
            except LightReasonerError as error:
                problem, exit_code = " ".join(str(error).split()), error.exit_code
            except Exception as error:  # a job that fails must not stop the others
                traceback.print_exc()
                problem, exit_code = f"{type(error).__name__}, see {self.folder / 'log.txt'}", 1
        return Outcome(time.perf_counter() - started, problem, exit_code)

    def timed(self, stage: str, work: Callable[..., R], *arguments: Any) -> R:
        """Run a stage, and add its time to that of earlier attempts that were interrupted."""
        started = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            spent = self._seconds.get(stage, 0.0) + time.perf_counter() - started
            write_json(self.folder / "seconds.json", {**self._seconds, stage: round(spent, 2)})

    def _spent(self) -> dict[str, float]:
        """Seconds by stage: as timed here or as its folder says, which knows killed attempts too."""
        recorded, names = times(self.folder), {"select": "sample", "evaluate": "evaluate_after"}
        return {name: max(timed, recorded.get(names.get(name, name), 0.0)) for name, timed in self._seconds.items()}

    def to_json(self) -> dict[str, Any]:
        """This job as JSON values, for another process; `jobs.from_json` reads them."""
        return {"kind": self.kind, "job": self.model_dump(mode="json")}

    @abstractmethod
    def _words(self) -> list[str]:
        """A few words for people, for the name of the folder."""

    @property
    def _seconds(self) -> dict[str, float]:
        return _read(self.folder / "seconds.json") or {}


def _read(file: Path) -> dict[str, Any] | None:
    content: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return content
