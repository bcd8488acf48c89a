"""The settings of `lightr push`: a section of a run, apart from those that decide results."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lightreasoner.config.base import Config, Place

PushKind = Literal["adapter", "merged", "samples"]
# OWNER/NAME on the Hub; `data.hub` asks the client library for the finer rules.
HubName = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]


class PushSettings(Config):
    """What is sent to the Hub, and how; nothing of it changes a result."""

    what: Place[tuple[PushKind, ...]] = ("adapter",)
    """adapter: of fine-tuning. merged: the whole model. samples: rollouts and labels, as a data set. Adapter and merged
    model are models, of which a repository holds one; samples go to a data set of the same name."""
    public: Place[bool] = False
    """Make a new repository public, or accept one that is. Default: private. No repository is changed from one to the
    other."""
    license: Place[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None] = None
    """Licence identifier of the Hub, such as apache-2.0. Default: that of the base model, or of the data set of the
    problems, where it is known."""
    base_model: Place[HubName | None] = None
    """Hub id of the base model, where the run names a local copy of it."""
    tag: Place[Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")] | None] = None
    """Tag of the commit. Default: the name of the run folder, and the beginning of the hash of what is sent."""
    yes: Place[bool] = False
    """Send without asking. Size, licence and visibility are printed all the same."""

    @model_validator(mode="after")
    def _one_model_a_repository(self) -> Self:
        if not self.what:
            raise ValueError("what is empty: give one or more of adapter, merged, samples")
        if {"adapter", "merged"} <= {*self.what}:
            raise ValueError(
                "what = adapter, merged: a repository holds one model, and a folder with both is no model that loads. "
                "Push them one after the other, to two names"
            )
        return self
