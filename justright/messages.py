"""Every message on the wire, with its encode and decode.

Messages are JSON, frozen, and carry a schema version. A reader ignores fields that it does not
know and refuses a version that is newer than its own; stored names are never used again for
something else. A loss that is not finite travels as null.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from justright.errors import MessageError
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


class FailureKind(StrEnum):
    """Why something failed; decides the exit code and whether it is tried again."""

    USAGE = "usage"  #: What was typed is wrong: no such module or attribute.
    USER = "user"  #: The user's own code raised; ``traceback`` is theirs.
    TASK = "task"  #: The task is not usable as it is: shapes, types, a missing metric.
    CRASHED = "crashed"  #: The training process ended by itself: a signal, or exit().
    STALLED = "stalled"  #: It gave no sign of life for too long.
    MEMORY = "memory"  #: It ran out of memory: the GPU's, or the limit of its worker.
    DISK = "disk"  #: It found no space left.
    LOST = "lost"  #: Its worker died, or its machine, or the line to it.
    RETURNED = "returned"  #: Given back in good order: it goes on from its checkpoint.
    REFUSED = "refused"  #: The worker may not run such a job.


#: What another try may mend. The user's own exceptions come again, so they are final.
WORTH_ANOTHER = frozenset(
    {
        FailureKind.CRASHED,
        FailureKind.STALLED,
        FailureKind.MEMORY,
        FailureKind.DISK,
        FailureKind.LOST,
        FailureKind.RETURNED,
        FailureKind.REFUSED,
    }
)


class Failure(BaseModel):
    """What went wrong, for people."""

    model_config = _DATA

    kind: FailureKind
    message: str
    traceback: str = ""  #: The user's own.
    output: str = ""  #: The last lines that the training printed.
    counts: bool = True  #: Against the trial's attempts; not where it got on all the same.


class LanePlan(BaseModel):
    """How the trials of a study are trained, as a worker has measured it."""

    model_config = _DATA

    lanes: int = Field(default=1, ge=1)  #: Trials in a job.
    stack: int = Field(default=1, ge=1)  #: Trials that are fused, at most; 1: none are.
    fuse_from: int = Field(default=2, ge=2)  #: Fewer than that are trained one by one.
    speedup: float = Field(default=1.0, gt=0)  #: Steps of all lanes per second, over one by one.
    reason: str = ""  #: Why they are trained one by one.

    @property
    def text(self) -> str:
        """For people; "" where there is nothing to say."""
        if self.stack > 1:
            return f"{self.stack} lanes, together {self.speedup:g} times as fast as one by one"
        return f"trained one by one: {self.reason}" if self.reason else ""


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


class Job(Message):
    """Train these trials until a step, each from its last checkpoint if it has one.

    Without trials: look at the task and describe it, or, to ``tidy``, remove the study's
    checkpoints.
    """

    type: Literal["job"] = "job"
    id: str
    study: str
    task: TaskRef
    epochs: int | None = Field(default=None, ge=1)  #: The horizon; None: the task's own.
    until: int | None = Field(default=None, ge=1)  #: The step to stop at; None: the horizon.
    seed: int = 0
    metric: str | None = None
    place: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """Where the study's checkpoints are, within the artifacts; "": it keeps none."""
    stall: float | None = Field(default=None, gt=0)  #: Seconds without a sign of life to wait.
    tidy: bool = False
    trials: tuple[TrialWork, ...] = ()
    plan: LanePlan = LanePlan()  #: How to train them.
    search: tuple[str, ...] = ()  #: For a look: settings that will be searched beside the rate.
    lanes: int | None = Field(default=None, ge=1)  #: For a look: plan for so many; None: measure.
    most: int = Field(default=1, ge=1)  #: For a look: more lanes than that would stay empty.


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
AnyMessage = Command | Event | Job | Decision | WorkerInfo | Snapshot

_ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(Annotated[AnyMessage, Field(discriminator="type")])


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
