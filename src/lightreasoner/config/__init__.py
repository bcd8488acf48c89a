"""Every setting once: frozen models whose attribute docstrings are the help texts of the flags.

`RunConfig` is the whole job and the form of a recipe. The configs of the stages (`SampleConfig`, …) hold the same
settings flat, for the commands that run one stage; `RunConfig.for_sample()` and its siblings make them.

    sections.py   the settings themselves, by subject
    stages.py     those of each command that runs one stage
    run.py        those of a whole run (a recipe), of rounds, of advice and of the doctor
    push.py       those of `push`
    base.py       what a setting changes (`Decides`, `Input`, `Speed` or `Place`), identities, messages
"""

from lightreasoner.config.run import AdviseConfig, DoctorConfig, RoundsConfig, RoundsSettings, RunConfig
from lightreasoner.config.sections import MachineSettings
from lightreasoner.config.stages import (
    BaselineConfig,
    EvaluateConfig,
    FinetuneConfig,
    InspectConfig,
    MergeConfig,
    PairConfig,
    PushConfig,
    SampleConfig,
    SelectConfig,
)

__all__ = [
    "AdviseConfig",
    "BaselineConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "InspectConfig",
    "MachineSettings",
    "MergeConfig",
    "PairConfig",
    "PushConfig",
    "RoundsConfig",
    "RoundsSettings",
    "RunConfig",
    "SampleConfig",
    "SelectConfig",
]
