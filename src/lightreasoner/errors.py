"""Everything that can go wrong, as a tree.

    LightReasonerError            shown as one line by the command line, exit code 1
    ├── ConfigError               a setting that cannot be right (exit code 2)
    ├── DataError                 problems or samples that cannot be used
    │   └── SampleFormatError     a row of a sample file that breaks the format
    ├── ModelError                a model that cannot be found, loaded or paired
    │   ├── HubUnreachable        it is on the Hub, and the Hub does not answer
    │   ├── VocabularyMismatch    expert and amateur do not share their tokens
    │   └── MergeMismatch         the merged model is not base + adapter
    ├── RunError                  a run folder that cannot be used
    │   ├── RunLocked             another process works in it
    │   ├── RunMismatch           it was made with other settings
    │   ├── RunCorrupted          a file in it is not what was committed
    │   └── DiskFull              there is no room for what is to be written
    ├── TrainingDiverged          the loss is no longer a number
    └── Interrupted               asked to stop; everything committed stays (exit code 128 + signal)

A message says what is wrong with its values, why it matters, and what to do.
"""

import signal

# What asks a process to stop: Ctrl-C, a scheduler's stop, and Slurm's warning before it takes the machine away.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class LightReasonerError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class ConfigError(LightReasonerError):
    """A setting is unknown, missing or out of range."""

    exit_code = 2


class DataError(LightReasonerError):
    """Problems or samples cannot be used."""


class SampleFormatError(DataError):
    """A row of a sample file breaks the format."""


class ModelError(LightReasonerError):
    """A model cannot be found, loaded or paired."""


class HubUnreachable(ModelError):
    """The model or data set is on the Hub, and the Hub does not answer."""


class VocabularyMismatch(ModelError):
    """Two models do not share their tokens, so their distributions cannot be compared."""


class MergeMismatch(ModelError):
    """The merged model, read back from disk, is not base + adapter."""


class RunError(LightReasonerError):
    """A run folder cannot be used."""


class RunLocked(RunError):
    """Another process works in the run folder."""


class RunMismatch(RunError):
    """The run folder was made with other settings."""


class RunCorrupted(RunError):
    """A file in the run folder is not what was committed."""


class DiskFull(RunError):
    """There is no room on the disk for what is to be written."""


class TrainingDiverged(LightReasonerError):
    """The loss is no longer a number."""


class Interrupted(LightReasonerError):
    """The process was asked to stop; everything committed stays."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("stopped on request; what was committed stays, and the same command continues from there")
        self.exit_code = 128 + signal_number
