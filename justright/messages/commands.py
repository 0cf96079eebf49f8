"""From a client to the orchestrator."""

from __future__ import annotations

from typing import Literal

from justright.messages.base import Message
from justright.spec import StudySpec


class Submit(Message):
    """A client asks for a study, or that the one of that name go on under new stop rules.

    Applying it twice is the same as once.
    """

    type: Literal["submit"] = "submit"
    id: str  #: Comes back in the snapshot, so that the client knows that this one was applied.
    spec: StudySpec


class Cancel(Message):
    """A client asks that a study end now."""

    type: Literal["cancel"] = "cancel"
    study: str


class Pause(Message):
    """A client asks that a study rest: its trials stop at their next report, with a checkpoint."""

    type: Literal["pause"] = "pause"
    study: str


class Resume(Message):
    """A client asks that a paused study go on."""

    type: Literal["resume"] = "resume"
    study: str
