"""The errors of this package. The command line shows one as a line, and exits with its `exit_code`.

A message says what is wrong, with the values, why it matters, and what to do.
"""

import signal

# Ctrl-C, a scheduler's stop, and Slurm's warning before its time limit.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

INTERRUPTED = "interrupted; finished work is saved. Run the same command to continue."


class LightReasonerError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class ConfigError(LightReasonerError):
    """A setting is unknown, missing or out of range."""

    exit_code = 2


class DataError(LightReasonerError):
    """Problems or samples cannot be used."""


class NothingToLearn(DataError):
    """The samples hold no label to train on: no step is kept, or all rollouts are empty."""


class SampleFormatError(DataError):
    """A row of a sample file breaks the format."""


class ModelError(LightReasonerError):
    """A model cannot be found, loaded or paired."""


class EngineError(ModelError):
    """A generation engine in another process cannot be started, or has failed."""


class HubUnreachable(ModelError):
    """The model or data set is on the Hub, and the Hub does not answer."""


class HubRefused(LightReasonerError):
    """The Hub does not take what is sent, or not from this user."""


class VocabularyMismatch(ModelError):
    """Two models do not share a vocabulary, so their distributions cannot be compared."""


class MergeMismatch(ModelError):
    """The merged model, read back from disk, is not base + adapter."""


class RunError(LightReasonerError):
    """A run folder cannot be used."""


class RunLocked(RunError):
    """Another process uses the run folder."""


class RunMismatch(RunError):
    """The run folder was made with other settings."""


class RunCorrupted(RunError):
    """A file in the run folder is missing, or differs from what was committed."""


class DiskFull(RunError):
    """The disk has too little free space."""


class TrainingDiverged(LightReasonerError):
    """The loss is no longer a number."""


class Interrupted(LightReasonerError):
    """A signal interrupted the process; finished work is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(INTERRUPTED)
        self.exit_code = 128 + signal_number
