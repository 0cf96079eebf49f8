"""What clients read: workers, trials, answers, studies."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from justright.failures import Failure
from justright.lane_plan import LanePlan
from justright.lifecycle import FINISHED, StudyState, TrialState
from justright.messages.base import DATA, Loss, Message
from justright.spec import StudySpec


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
    refusing: str = ""  #: Why it would not run its last job, and what to change; "": it did.


class TrialView(BaseModel):
    """One trial, as a client sees it."""

    model_config = DATA

    number: int
    state: TrialState
    lr: float
    params: dict[str, Any] = Field(default_factory=dict)
    step: int = 0
    loss: Loss = None  #: The last reported one.
    best: Loss = None  #: The lowest reported one.
    losses: tuple[Loss, ...] = ()  #: The latest, oldest first, thinned for a sparkline.
    seed: int = 0
    replicate_of: int | None = None  #: The trial whose rate it repeats, with another seed.
    attempt: int = 1
    diverged: bool = False
    diagnosis: str = ""  #: underfit, healthy, overfit, unstable, diverged; "": not known.
    reason: str = ""
    failure: Failure | None = None


class Answer(BaseModel):
    """What a study returns. Printed by ``--json``; the field names are a contract."""

    model_config = DATA

    study: str
    state: StudyState
    #: converged, trials, budget, timeout, target, cancelled; None while it runs.
    reason: str | None
    best_lr: float | None
    params: dict[str, Any]
    loss: float | None
    loss_interval: tuple[float, float] | None
    plateau: tuple[float, float] | None
    edge_of_stability: float | None
    trials: dict[str, int]
    attempts: int
    epochs: float  #: Passes over the data that were trained, of all trials together.
    full_trainings: float | None
    seconds: float
    seed: int
    steps: int = 0  #: The same in optimizer steps.
    horizon: int | None = None  #: Steps of a full training; None: not known.
    unit: Literal["epoch", "step"] = "epoch"  #: What its user counts a training in.
    importance: dict[str, float] = Field(default_factory=dict)
    """Shares of 1: how much each of several searched parameters mattered. Empty: not known."""
    shape: str = ""  #: bowl, flat, edge_low, edge_high, noisy; "": not known.
    advice: tuple[str, ...] = ()  #: What follows from it, in sentences.
    warnings: tuple[str, ...] = ()  #: What was found to be odd on the way, in sentences.
    metric: str = ""  #: The name by which a program's losses were read; "": it has none.
    uncertain: tuple[float, float] | None = None
    """The rates among which the best one may be; None: the search does not tell."""

    @property
    def trained(self) -> str:
        """What was trained, in the unit of its user."""
        return f"{self.steps} steps" if self.unit == "step" else f"{self.epochs:g} epochs"


class Snapshot(Message):
    """All that clients are shown of a study."""

    type: Literal["snapshot"] = "snapshot"
    study: str
    submission: str  #: The latest Submit that it reflects.
    spec: StudySpec
    state: StudyState
    task: str
    total: int  #: Trials that the study will ask for, replicates included.
    horizon: int | None  #: Steps of a full training.
    epoch_steps: float = 1.0  #: Steps of an epoch.
    counts_epochs: bool = True  #: Whether its user counts a training in epochs, not in steps.
    trials: tuple[TrialView, ...] = ()
    answer: Answer | None = None
    failure: Failure | None = None
    note: str = ""  #: What the study waits for.
    progress: float = 0.0  #: Share of the expected work that is done; 1: it has ended.
    plan: LanePlan | None = None  #: None: nobody has looked at the task yet.
    refused: dict[str, str] = Field(default_factory=dict)  #: Latest refused Submits, and why.
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()  #: What was found to be odd so far, in sentences.

    @property
    def unit(self) -> Literal["epoch", "step"]:
        """What its user counts a training in."""
        return "epoch" if self.counts_epochs else "step"

    def place(self, step: int) -> str:
        """How far a trial has come, in that unit: "0.4/3"."""
        whole = "?" if self.horizon is None else f"{self.horizon / self.epoch_steps:.6g}"
        done = step / self.epoch_steps
        return f"{done:.6g}/{whole}" if done == round(done) else f"{done:.2f}/{whole}"

    @property
    def ended(self) -> int:
        """Trials that have ended: also of a study of which not all are shown."""
        whole = len(self.trials) == max((trial.number for trial in self.trials), default=-1) + 1
        if self.answer is not None and not whole:
            return sum(self.answer.trials.get(name, 0) for name in ("complete", "pruned", "failed"))
        return sum(trial.state in FINISHED for trial in self.trials)
