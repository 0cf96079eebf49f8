"""From a worker to the orchestrator."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from justright.failures import Failure
from justright.lane_plan import LanePlan
from justright.messages.base import Loss, Message
from justright.spec import Scalar


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
    warnings: tuple[str, ...] = ()  #: What its user should hear of, in sentences.
    pauses: bool = True  #: A checkpoint holds all that its trainings need to go on.
    worker: str = ""  #: Who looked.
    #: Fingerprints of the user's code and files, by path seen from the task's folder.
    sources: dict[str, str] = Field(default_factory=dict)


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
    worker: str = ""  #: Whose attempt it was.
    metric: str = ""  #: The name by which a program's losses were read.
    #: All (step, loss) of the trial, in case that a report was lost with a Redis that crashed.
    losses: tuple[tuple[int, Loss], ...] = ()


class Noticed(Message):
    """Something that a study's user should hear of, though the training goes on.

    Saying it twice is the same as once.
    """

    type: Literal["noticed"] = "noticed"
    study: str
    text: str = Field(max_length=2000)  #: In sentences: what was found, and what to do.


class Refused(Message):
    """A worker will not run a job: its signature, its age, or that it has run before."""

    type: Literal["refused"] = "refused"
    job: str
    worker: str
    reason: str
    again: bool = False  #: It was begun before, or taken back: nothing is wrong with the worker.
