"""Experiment trackers: the figures of all stages in one run of each tracker, once.

Every run folder has one run in each tracker. `RUN/trackers.json` holds its name and what was sent to it, and is written
before anything is sent: a resumed stage, or a command that finds its work done, sends only what is new, and a killed
process can lose its last entry but never doubles one. Workers send nothing; the process that holds the run folder does.

Nothing leaves this machine that its user did not ask for: TensorBoard and trackio write local files, wandb stays
offline without a login, and a trackio Space (`$TRACKIO_SPACE_ID`) that does not exist is made private.
"""

import hashlib
import json
import math
import netrc
import os
import re
import secrets
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from lightreasoner.config.base import nearest
from lightreasoner.config.sections import TrackerSettings
from lightreasoner.errors import ConfigError
from lightreasoner.runs.environment import now
from lightreasoner.runs.files import write_json
from lightreasoner.runs.progress import say, warn

STATE = "trackers.json"
PROJECT = "lightreasoner"  # or $WANDB_PROJECT, for all trackers


class Tracker(ABC):
    """One tracker's run, started by its constructor."""

    @abstractmethod
    def settings(self, stage: str, values: Mapping[str, Any]) -> None:
        """Show the settings of a stage."""

    @abstractmethod
    def log(self, figures: Mapping[str, float], step: int, row: int) -> None:
        """Add figures to their curves.

        Args:
            figures: values by name.
            step: their place on the curves.
            row: number of earlier calls, over all sessions.
        """

    def file(self, path: Path, text: str) -> None:  # noqa: B027 - some trackers have no place for files
        """Add a file, or where there is no place for files its content as text."""

    @abstractmethod
    def finish(self) -> None:
        """Write out what is waiting."""


class _TensorBoard(Tracker):
    """Event files in `RUN/tensorboard`."""

    def __init__(self, folder: Path, run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def settings(self, stage: str, values: Mapping[str, Any]) -> None:
        text = json.dumps(values, indent=2)
        self._writer.add_text(f"settings/{stage}", "\n".join(f"    {line}" for line in text.splitlines()))

    def log(self, figures: Mapping[str, float], step: int, row: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, global_step=step)
        self._writer.flush()  # a killed process keeps them

    def file(self, path: Path, text: str) -> None:
        self._writer.add_text(path.stem, text)

    def finish(self) -> None:
        self._writer.close()


class _Wandb(Tracker):
    """A run of wandb. Its own steps must rise, also over several offline sessions, so curves have an axis `step`."""

    def __init__(self, folder: Path, run: str) -> None:
        import wandb

        mode = os.environ.get("WANDB_MODE")
        if mode is None and not _has_wandb_login():
            _say_offline()
            mode = "offline"
        settings = {"project": _project(), "id": run, "name": run, "resume": "allow", "dir": str(folder)}
        quiet = wandb.Settings(console="off")  # the output of the command is not sent
        self._run = wandb.init(**settings, mode=mode, settings=quiet)
        self._run.define_metric("*", step_metric="step")
        self._artifact = wandb.Artifact

    def settings(self, stage: str, values: Mapping[str, Any]) -> None:
        self._run.config.update({stage: dict(values)}, allow_val_change=True)

    def log(self, figures: Mapping[str, float], step: int, row: int) -> None:
        self._run.log({**figures, "step": step}, step=row)

    def file(self, path: Path, text: str) -> None:
        artifact = self._artifact(f"{path.stem}-{self._run.id}", type="report")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        self._run.finish()


class _Trackio(Tracker):
    """A run of trackio, in a local database unless `$TRACKIO_SPACE_ID` or `$TRACKIO_SERVER_URL` is set."""

    def __init__(self, folder: Path, run: str) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            self._run = trackio.init(
                _project(), name=run, resume="allow", private=True, embed=False, auto_log_gpu=False, auto_log_cpu=False
            )

    def settings(self, stage: str, values: Mapping[str, Any]) -> None:
        self._run.config.update({f"{stage}.{name}": value for name, value in values.items()})

    def log(self, figures: Mapping[str, float], step: int, row: int) -> None:
        self._run.log(dict(figures), step=step)

    def file(self, path: Path, text: str) -> None:
        with redirect_stdout(sys.stderr):
            self._run.log_artifact(path, name=path.stem, type="report")

    def finish(self) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            # Unlike `Run.finish`, it leaves nothing to do, and to print, at the end of the process.
            trackio.finish()  # type: ignore[no-untyped-call]


class _OfAccelerate(Tracker):
    """A tracker that accelerate knows, such as mlflow; it starts with the first settings."""

    def __init__(self, folder: Path, run: str, kind: Any) -> None:
        where = {"logging_dir": str(folder / "runs")} if kind.requires_logging_directory else {}
        self._tracker = kind(_project(), **where)
        self._tracker.start()

    def settings(self, stage: str, values: Mapping[str, Any]) -> None:
        self._tracker.store_init_configuration({name: str(value) for name, value in values.items()})

    def log(self, figures: Mapping[str, float], step: int, row: int) -> None:
        self._tracker.log(dict(figures), step=step)

    def finish(self) -> None:
        self._tracker.finish()


OWN: dict[str, Callable[[Path, str], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "trackio": _Trackio}


@cache
def _say_offline() -> None:
    say("no login for wandb: it works offline. `wandb sync RUN/wandb/offline-run-*` sends its files later")


def _project() -> str:
    return os.environ.get("WANDB_PROJECT", PROJECT)


def _has_wandb_login() -> bool:
    """Whether there are credentials, without a question to the user or to the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    for name in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        with suppress(OSError, netrc.NetrcParseError):
            if name and netrc.netrc(os.path.expanduser(name)).authenticators(host):
                return True
    return False


def _start(name: str, folder: Path, run: str) -> Tracker:
    if name in OWN:
        return OWN[name](folder, run)
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return _OfAccelerate(folder, run, LOGGER_TYPE_TO_CLASS[name])


def check_trackers(names: Sequence[str]) -> None:
    """Find the experiment trackers of these names.

    Raises:
        ConfigError: one is unknown or not installed.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    kinds = set(LoggerType.list()) - {"all"}
    known = {*kinds, *LOGGER_TYPE_TO_CLASS}
    there = {*map(str, get_available_trackers()), *(set(LOGGER_TYPE_TO_CLASS) - kinds)}
    for name in names:
        if name not in known:
            raise ConfigError(f"--report-to {name}: {nearest(name, known, 'trackers')}")
        if name not in there:
            raise ConfigError(
                f"--report-to {name}: not installed here. Install it (`pip install {name}`) or leave it out"
            )


class Tracking:
    """Sends figures to the trackers of a run folder; opened by `tracking`.

    A tracker that fails later is left out from then on, with a warning: no stage ends for it.

    Attributes:
        names: of the trackers.
    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names = names
        self._folder = folder
        self._open: dict[str, Tracker] = {}
        self._failed: set[str] = set()

    def settings(self, stage: str, values: Mapping[str, Any]) -> None:
        """Show the settings of a stage, if they are new."""
        for name in self._unsent(f"settings/{stage}", _digest(values)):
            self._send(name, lambda tracker: tracker.settings(stage, values))

    def curve(self, key: str, figures: Mapping[str, float], step: int) -> None:
        """Add an entry to curves; an entry of a step that was sent before is left out.

        Args:
            key: names the work, so that other work under the same names starts at its first step.
            figures: values by name.
            step: of the work, rising.
        """
        for name in self.names:
            with self._state() as sent:
                before = sent.setdefault(name, {}).get(key, -1)
                sent[name][key] = max(step, before)
            if step > before:
                self._log(name, figures, step)

    def result(self, stage: str, figures: Mapping[str, Any], step: int = 0) -> None:
        """Send the numbers of a result, named STAGE/KEY, unless the same ones were sent before."""
        numbers = dict(_numbers(figures, stage))
        for name in self._unsent(stage, _digest(numbers)) if numbers else []:
            self._log(name, numbers, step)

    def file(self, path: Path, text: str) -> None:
        """Add a file; `text` is its content for trackers that have no place for files."""
        for name in self._unsent(path.name, _digest(text)):
            self._send(name, lambda tracker: tracker.file(path, text))

    def start(self) -> None:
        """Start all trackers, to find out whether they can.

        Raises:
            ConfigError: one cannot start.
        """
        for name in self.names:
            try:
                self._tracker(name)
            except Exception as error:  # each tracker raises its own types, for a missing login or network
                reason = str(error).strip().partition("\n")[0] or type(error).__name__
                raise ConfigError(f"--report-to {name}: cannot start ({reason}). Leave it out, or mend it") from error

    def finish(self) -> None:
        """Write out what is waiting."""
        for name in list(self._open):
            self._send(name, lambda tracker: tracker.finish())
        self._open.clear()

    def _log(self, name: str, figures: Mapping[str, float], step: int) -> None:
        with self._state() as sent:
            row = sent.setdefault(name, {}).get("rows", 0)
            sent[name]["rows"] = row + 1
        self._send(name, lambda tracker: tracker.log(figures, step, row))

    def _tracker(self, name: str) -> Tracker:
        if name not in self._open:
            with self._state() as sent:
                run = sent.setdefault(name, {}).setdefault("run", _run_name(self._folder))
            self._open[name] = _start(name, self._folder, run)
        return self._open[name]

    def _send(self, name: str, action: Callable[[Tracker], None]) -> None:
        if name in self._failed:
            return
        try:
            action(self._tracker(name))
        except Exception as error:  # see `start`
            self._failed.add(name)
            self._open.pop(name, None)
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            warn(f"{name} takes no more figures ({reason}). They are in {self._folder}, and the work goes on")

    def _unsent(self, key: str, digest: str) -> list[str]:
        """The trackers that this was not sent to; it counts as sent from now on."""
        found = []
        for name in self.names:
            with self._state() as sent:
                if sent.setdefault(name, {}).get(key) != digest:
                    sent[name][key] = digest
                    found.append(name)
        return found

    @contextmanager
    def _state(self) -> Iterator[dict[str, dict[str, Any]]]:
        """What was sent to each tracker; other commands may work in this folder at the same time."""
        file = self._folder / STATE
        with FileLock(file.with_name(f".{STATE}.lock")):
            try:
                sent = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                sent = {}
            before = json.dumps(sent)
            yield sent
            if json.dumps(sent) != before:
                write_json(file, sent)


def _run_name(folder: Path) -> str:
    """A name that says which folder it is, and that no other run has."""
    words = re.sub(r"[^\w.-]+", "-", "-".join(folder.absolute().parts[-2:])).strip("-.")
    return f"{words[-80:]}-{now()[:10]}-{secrets.token_hex(4)}"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _numbers(figures: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """All numbers in nested mappings, under their path."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}/{name}", float(value)


def home(out: Path, stage: str) -> tuple[Path, str]:
    """The run folder that a stage belongs to, and the name of its figures there: RUN/evaluate/merged is of RUN."""
    if stage == "evaluate" and out.absolute().parent.name == "evaluate":
        return out.absolute().parent.parent, f"evaluate/{out.name}"
    return out, stage


@contextmanager
def tracking(names: Sequence[str], folder: Path) -> Iterator[Tracking]:
    """Trackers for the figures of a run folder; they end with the context, also after an error."""
    with ExitStack() as stack:
        found = Tracking(names, folder)
        stack.callback(found.finish)
        yield found


def track_result(config: TrackerSettings, out: Path, stage: str, result: Mapping[str, Any]) -> None:
    """Send the settings and the result of a stage to its trackers; a worker's empty result is none."""
    if not config.report_to or not result:
        return
    folder, name = home(out, stage)
    with tracking(config.report_to, folder) as found:
        found.settings(name, config.model_dump(mode="json"))
        found.result(name, result)
