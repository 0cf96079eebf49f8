"""All messages together, and how one is read."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from justright.errors import MessageError
from justright.messages.base import SCHEMA_VERSION, Message
from justright.messages.commands import Cancel, Delete, Pause, Reply, Resume, Submit
from justright.messages.events import (
    Hello,
    Inspection,
    Noticed,
    Outcome,
    Refused,
    Report,
    Space,
    Started,
)
from justright.messages.jobs import Decision, InspectJob, Job, TidyJob, TrainJob, kind_of_job
from justright.messages.views import Snapshot, WorkerInfo

M = TypeVar("M", bound=Message)


Command = Submit | Cancel | Pause | Resume | Delete
Event = Hello | Inspection | Noticed | Space | Started | Report | Outcome | Refused
_NotAJob = Command | Reply | Event | Decision | WorkerInfo | Snapshot
AnyMessage = _NotAJob | Job

# The type is looked up among all messages. Only a job's fields are looked at a second time, since
# that costs more than the lookup, and reports come by the thousand a second.
_AnyJob = Annotated[
    Annotated[TrainJob, Tag("train")]
    | Annotated[InspectJob, Tag("inspect")]
    | Annotated[TidyJob, Tag("tidy")],
    Discriminator(kind_of_job),
]
_BY_TYPE = Annotated[_NotAJob | _AnyJob, Field(discriminator="type")]
_ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(_BY_TYPE)


def decode(raw: str | bytes) -> AnyMessage:
    """Read one message.

    Raises:
        MessageError: not JSON, of no known type, of a newer version, or with fields out of range.
    """
    try:
        return _ADAPTER.validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MessageError(
            f"unreadable message: {_quoted(where or 'text')}: {_quoted(first['msg'])}. "
            "Expected a justright message "
            f"of version {SCHEMA_VERSION} or older; are all parts of the same release?"
        ) from None


def _quoted(text: str) -> str:
    """What a sender wrote, as one short line: it ends up in logs."""
    return " ".join(text.split())[:200]


def decode_as(kind: type[M], raw: str | bytes) -> M:
    """Read one message that must be of a certain kind.

    Raises:
        MessageError: as ``decode``, or it is of another kind.
    """
    message = decode(raw)
    if not isinstance(message, kind):
        raise MessageError(f"found a {message.type} message, expected a {kind.__name__.lower()}")
    return message


def decode_job(raw: str | bytes) -> Job:
    """As ``decode_as``, any of the three jobs."""
    message = decode(raw)
    if not isinstance(message, Job):
        raise MessageError(f"found a {message.type} message, expected a job")
    return message
