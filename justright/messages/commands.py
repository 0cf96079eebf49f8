"""From a client to the orchestrator."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from justright.messages.base import Message
from justright.spec import StudySpec


class Submit(Message):
    """A client asks for a study, or that the one of that name go on under new stop rules.

    Applying it twice is the same as once.
    """

    type: Literal["submit"] = "submit"
    id: str  #: Comes back in the snapshot, so that the client knows that this one was applied.
    spec: StudySpec
    fresh: bool = False  #: Its name was made up: a study that has it already is another one.


class Cancel(Message):
    """A client asks that a study end now."""

    type: Literal["cancel"] = "cancel"
    id: str = Field(default="", max_length=64)  #: Of the command, for its reply; "": none is read.
    study: str


class Pause(Message):
    """A client asks that a study rest: its trials stop at their next report, with a checkpoint."""

    type: Literal["pause"] = "pause"
    id: str = Field(default="", max_length=64)
    study: str


class Resume(Message):
    """A client asks that a paused study go on."""

    type: Literal["resume"] = "resume"
    id: str = Field(default="", max_length=64)
    study: str


class Delete(Message):
    """A client asks that a study that has ended be removed, with its checkpoints."""

    type: Literal["delete"] = "delete"
    id: str = Field(default="", max_length=64)
    study: str


class Reply(Message):
    """From the orchestrator, once what it did is committed: what became of a command."""

    type: Literal["reply"] = "reply"
    id: str  #: Of the command.
    done: bool  #: It was done, now or before; False: it was refused.
    reason: str = ""  #: Why it was refused, or what there is to say of it.
    typed: bool = False  #: Refused for what was typed: a name, a state that does not fit.
    taken: bool = False  #: Refused, since a study has the name that was made up for it.
