"""Every message on the wire, with its encode and decode.

Messages are JSON, frozen, and carry a schema version. A reader ignores fields that it does not
know and refuses a version that is newer than its own; stored names are never used again for
something else. A loss that is not finite travels as null.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from justright.errors import MessageError
from justright.failures import Failure
from justright.lane_plan import LanePlan
from justright.lifecycle import StudyState, TrialState
from justright.spec import Scalar, StudySpec, TaskRef

SCHEMA_VERSION = 1

M = TypeVar("M", bound="Message")

# What is not finite would be written as null, and could not be read again.
_DATA = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

Loss = Annotated[float | None, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """What all messages share."""

    model_config: ClassVar[ConfigDict] = _DATA

    v: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)

    def encode(self) -> str:
        """The message as one line of JSON."""
        return self.model_dump_json()


# -- client to orchestrator ---------------------------------------------------------------------


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


# -- orchestrator to worker ---------------------------------------------------------------------


class TrialWork(BaseModel):
    """One trial of a job: what to train, and from where."""

    model_config = _DATA

    number: int = Field(ge=0)
    lr: float = Field(gt=0, allow_inf_nan=False)
    params: dict[str, Scalar] = Field(default_factory=dict)  #: Anything searched beside the rate.
    seed: int = Field(ge=0)
    attempt: int = Field(ge=1)


class _Job(Message):
    """What all jobs say of themselves and their study."""

    model_config = ConfigDict(**_DATA, populate_by_name=True)

    type: Literal["job"] = "job"
    id: str
    study: str
    task: TaskRef
    checkpoint_prefix: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._-]*$",
        validation_alias="place",  # its name on the wire: jobs of the first edition have it
        serialization_alias="place",
    )
    """The folder of the study's checkpoints within the artifacts; "": it keeps none."""
    stall: float | None = Field(default=None, gt=0)  #: Seconds without a sign of life to wait.

    def encode(self) -> str:
        return self.model_dump_json(by_alias=True)


class TrainJob(_Job):
    """Train these trials until a step, each from its last checkpoint if it has one."""

    epochs: int | None = Field(default=None, ge=1)  #: The horizon; None: the task's own.
    until: int | None = Field(default=None, ge=1)  #: The step to stop at; None: the horizon.
    seed: int = 0
    metric: str | None = None  #: The name under which a program prints its loss.
    trials: tuple[TrialWork, ...] = Field(min_length=1)
    plan: LanePlan = LanePlan()  #: How to train them.


class InspectJob(_Job):
    """Look at the task and describe it."""

    epochs: int | None = Field(default=None, ge=1)  #: The horizon; None: the task's own.
    seed: int = 0
    search: tuple[str, ...] = ()  #: Settings that will be searched beside the rate.
    lanes: int | None = Field(default=None, ge=1)  #: Plan for so many; None: measure.
    most: int = Field(default=1, ge=1)  #: More lanes than that would stay empty.


class TidyJob(_Job):
    """Remove the study's checkpoints: it has ended."""

    tidy: Literal[True] = True


Job = TrainJob | InspectJob | TidyJob


def _kind_of_job(fields: dict[str, Any]) -> str:
    """Which of the three jobs it is: on the wire all are of type "job"."""
    if fields.get("tidy"):
        return "tidy"
    return "inspect" if fields.get("trials", []) == [] else "train"


class Decision(Message):
    """What a trial shall do at its next report."""

    type: Literal["decision"] = "decision"
    attempt: int
    #: "leave" is a worker's own, told by its parent: give the trial back.
    action: Literal["stop", "pause", "leave"]
    reason: str


# -- worker to orchestrator ---------------------------------------------------------------------


class Hello(Message):
    """A worker has come; the orchestrator looks at the list of workers."""

    type: Literal["hello"] = "hello"
    worker: str


class Inspection(Message):
    """What a task is, as the worker that loaded it saw it."""

    type: Literal["inspection"] = "inspection"
    study: str
    job: str
    kind: Literal["task", "objective", "command"] = "task"
    epochs: int | None = None
    initial_loss: Loss = None  #: Validation loss before any training.
    search_schedule: bool = False  #: The task wants its schedule searched as well.
    details: dict[str, Scalar] = Field(default_factory=dict)
    plan: LanePlan = LanePlan()
    failure: Failure | None = None


class Space(Message):
    """The range an objective asked its learning rate from: the study shall stay in it."""

    type: Literal["space"] = "space"
    study: str
    trial: int
    low: float = Field(gt=0)
    high: float = Field(gt=0, allow_inf_nan=False)


class Started(Message):
    """A worker holds the lease of a job and begins to train its trials."""

    type: Literal["started"] = "started"
    study: str
    job: str
    worker: str
    trials: tuple[tuple[int, int], ...]  #: (number, attempt)


class Report(Message):
    """The losses after one step (an epoch) of one trial."""

    type: Literal["report"] = "report"
    study: str
    trial: int = Field(ge=0)
    attempt: int = Field(ge=1)
    step: int = Field(ge=0)
    loss: Loss
    train_loss: Loss = None
    seconds: float = 0.0  #: Training time of this step.


class OutcomeKind(StrEnum):
    """How an attempt ended."""

    COMPLETE = "complete"
    STOPPED = "stopped"
    PAUSED = "paused"
    DIVERGED = "diverged"
    FAILED = "failed"


class Outcome(Message):
    """The end of one attempt of one trial."""

    type: Literal["outcome"] = "outcome"
    study: str
    trial: int = Field(ge=0)
    attempt: int = Field(ge=1)
    kind: OutcomeKind
    step: int = 0  #: Steps trained so far.
    value: Loss = None  #: An objective's return value, where it returned one.
    reason: str = ""
    failure: Failure | None = None
    #: All (step, loss) of the trial, in case that a report was lost with a Redis that crashed.
    losses: tuple[tuple[int, Loss], ...] = ()


class Refused(Message):
    """A worker will not run a job: its signature, its age, or that it has run before."""

    type: Literal["refused"] = "refused"
    job: str
    worker: str
    reason: str


# -- what clients read --------------------------------------------------------------------------


class WorkerInfo(Message):
    """One worker, as it describes itself with each heartbeat."""

    type: Literal["worker"] = "worker"
    name: str
    pool: str
    host: str
    pid: int
    device: str
    lanes: int | None = Field(default=None, ge=1)  #: None: as many as are measured to pay.
    job: str | None = None  #: None: idle.
    study: str | None = None
    since: float = 0.0


class TrialView(BaseModel):
    """One trial, as a client sees it."""

    model_config = _DATA

    number: int
    state: TrialState
    lr: float
    params: dict[str, Any] = Field(default_factory=dict)
    step: int = 0
    loss: Loss = None  #: The last reported one.
    best: Loss = None  #: The lowest reported one.
    losses: tuple[Loss, ...] = ()  #: The latest, oldest first, thinned for a sparkline.
    attempt: int = 1
    diverged: bool = False
    diagnosis: str = ""  #: underfit, healthy, overfit, unstable, diverged; "": not known.
    reason: str = ""
    failure: Failure | None = None


class Answer(BaseModel):
    """What a study returns. Printed by ``--json``; the field names are a contract."""

    model_config = _DATA

    study: str
    state: StudyState
    reason: str | None  #: converged, trials, timeout, target, cancelled; None while it runs.
    best_lr: float | None
    params: dict[str, Any]
    loss: float | None
    loss_interval: tuple[float, float] | None
    plateau: tuple[float, float] | None
    edge_of_stability: float | None
    trials: dict[str, int]
    attempts: int
    epochs: int
    full_trainings: float | None
    seconds: float
    seed: int
    importance: dict[str, float] = Field(default_factory=dict)
    """Shares of 1: how much each of several searched parameters mattered. Empty: not known."""
    shape: str = ""  #: bowl, flat, edge_low, edge_high, noisy; "": not known.
    advice: tuple[str, ...] = ()  #: What follows from it, in sentences.


class Snapshot(Message):
    """All that clients are shown of a study."""

    type: Literal["snapshot"] = "snapshot"
    study: str
    submission: str  #: The latest Submit that it reflects.
    spec: StudySpec
    state: StudyState
    task: str
    total: int  #: Trials that the study will ask for, replicates included.
    horizon: int | None
    trials: tuple[TrialView, ...] = ()
    answer: Answer | None = None
    failure: Failure | None = None
    note: str = ""  #: What the study waits for.
    plan: LanePlan | None = None  #: None: nobody has looked at the task yet.
    refused: dict[str, str] = Field(default_factory=dict)  #: Latest refused Submits, and why.
    seconds: float = 0.0


Command = Submit | Cancel | Pause | Resume
Event = Hello | Inspection | Space | Started | Report | Outcome | Refused
_NotAJob = Command | Event | Decision | WorkerInfo | Snapshot
AnyMessage = _NotAJob | Job

# The type is looked up among all messages. Only a job's fields are looked at a second time, since
# that costs more than the lookup, and reports come by the thousand a second.
_AnyJob = Annotated[
    Annotated[TrainJob, Tag("train")]
    | Annotated[InspectJob, Tag("inspect")]
    | Annotated[TidyJob, Tag("tidy")],
    Discriminator(_kind_of_job),
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
