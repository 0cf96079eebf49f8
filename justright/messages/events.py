"""From a worker to the orchestrator."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from justright.failures import Failure
from justright.lane_plan import LanePlan
from justright.marks import marks
from justright.messages.base import Loss, Message
from justright.spec import Scalar

_FEW_LAPS = 4  # epochs, below which their ends alone tell a pruner too little


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
    epochs: int | None = None  #: As the user counts a full training; None: not in epochs.
    steps: int | None = None  #: Optimizer steps of a full training; None: its epochs are its steps.
    lap: int | None = None  #: Steps between two evaluations on all held-out data; None: none.
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

    @property
    def horizon(self) -> int | None:
        """The step at which a full training ends; None: nobody knows."""
        return self.epochs if self.steps is None else self.steps

    @property
    def marks(self) -> tuple[int, ...]:
        """The steps at which trials may be compared; none: nobody knows the horizon."""
        if self.horizon is None:
            return ()
        return marks(self.horizon, 1 if self.steps is None else self.lap)

    @property
    def coarse_marks(self) -> tuple[int, ...]:
        """Those of them at which trials are compared that train on until they are stopped: the ends
        of epochs, unless these are very few."""
        if self.horizon is None or self.steps is None or self.lap is None:
            return self.marks
        if self.horizon < _FEW_LAPS * self.lap:
            return self.marks
        return tuple(m for m in self.marks if m % self.lap == 0 or m == self.horizon)

    @property
    def epoch_steps(self) -> float:
        """Steps of what the user counts a training in: an epoch, or a step."""
        counted = self.steps is not None and self.epochs is not None
        return self.steps / self.epochs if counted else 1.0  # type: ignore[operator]


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
    """The losses of one trial at one of its steps."""

    type: Literal["report"] = "report"
    study: str
    trial: int = Field(ge=0)
    attempt: int = Field(ge=1)
    step: int = Field(ge=0)
    loss: Loss
    train_loss: Loss = None
    seconds: float = 0.0  #: Training time since the report before.


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
