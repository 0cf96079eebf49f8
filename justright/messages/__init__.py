"""Every message on the wire, with its encode and decode.

Messages are JSON, frozen, and carry a schema version. A reader ignores fields that it does not
know and refuses a version that is newer than its own; stored names are never used again for
something else. A loss that is not finite travels as null.
"""

from justright.messages.base import SCHEMA_VERSION, Loss, Message
from justright.messages.commands import Cancel, Delete, Pause, Reply, Resume, Submit
from justright.messages.events import (
    Hello,
    Inspection,
    Noticed,
    Outcome,
    OutcomeKind,
    Refused,
    Report,
    Space,
    Started,
)
from justright.messages.jobs import Decision, InspectJob, Job, TidyJob, TrainJob, TrialWork
from justright.messages.views import Answer, Snapshot, TrialView, WorkerInfo
from justright.messages.wire import AnyMessage, Command, Event, decode, decode_as, decode_job

__all__ = [
    "SCHEMA_VERSION",
    "Answer",
    "AnyMessage",
    "Cancel",
    "Command",
    "Decision",
    "Delete",
    "Event",
    "Hello",
    "InspectJob",
    "Inspection",
    "Job",
    "Loss",
    "Message",
    "Noticed",
    "Outcome",
    "OutcomeKind",
    "Pause",
    "Refused",
    "Reply",
    "Report",
    "Resume",
    "Snapshot",
    "Space",
    "Started",
    "Submit",
    "TidyJob",
    "TrainJob",
    "TrialView",
    "TrialWork",
    "WorkerInfo",
    "decode",
    "decode_as",
    "decode_job",
]
