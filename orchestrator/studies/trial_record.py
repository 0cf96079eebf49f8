"""What the orchestrator knows of one trial: a faster copy of what the ledger says."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from justright.failures import Failure, FailureKind
from justright.lifecycle import FINISHED, TrialState
from justright.messages import TrialView, TrialWork
from orchestrator.answers.answer import Result
from orchestrator.search.loss_curve import LossCurve
from orchestrator.search.policy import Proposal
from orchestrator.storage import ledger

_OF_NOBODY = (FailureKind.LOST, FailureKind.RETURNED)  # failures of no fault of the trial
_SPARK = 40  # losses of a trial that clients are shown

_FROM_OPTUNA = {
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}


@dataclass(slots=True)
class TrialRecord:
    """What the orchestrator knows of one trial."""

    trial_id: int
    number: int
    lr: float
    seed: int
    params: dict[str, Any] = field(default_factory=dict)
    replicate_of: int | None = None
    state: TrialState = TrialState.QUEUED
    attempt: int = 1
    lost: int = 0  #: Attempts that were lost; those that a worker gave back do not count.
    job: str = ""
    worker: str = ""  #: Who has it, or had it last.
    until: int | None = None  #: The step to train to at present; None: the horizon.
    loss: float | None = None
    best: float | None = None
    losses: deque[float | None] = field(default_factory=lambda: deque(maxlen=_SPARK))
    steps: set[int] = field(default_factory=set)  #: Those that are in the study.
    by_step: dict[int, float] = field(default_factory=dict)  #: Finite losses.
    train: dict[int, float] = field(default_factory=dict)  #: Training losses.
    seen: set[int] = field(default_factory=set)  #: Those that this attempt has reported.
    begun_with: int = 0  #: Steps that the study had when this attempt began.
    trained: int = 0  #: Steps, those of lost attempts included.
    known: int = 0  #: The highest step with a report.
    stopping: str = ""
    diverged: str = ""
    reason: str = ""
    failure: Failure | None = None

    def learn(self, step: int, loss: float | None, train: float | None = None) -> bool:
        """Note a reported loss; False where the study has one for this step already.

        A later attempt trains and reports steps again: that costs, but changes no loss.
        """
        self.seen.add(step)
        before = self.known
        if step <= before:
            before = max((known for known in self.steps if known < step), default=0)
        self.trained += max(1, step - before)
        if step in self.steps:
            return False
        self.steps.add(step)
        self.known = max(self.known, step)
        self.loss = loss
        self.losses.append(loss)
        if train is not None:
            self.train[step] = train
        if loss is not None:
            self.by_step[step] = loss
            self.best = loss if self.best is None else min(self.best, loss)
        return True

    @property
    def step(self) -> int:
        """Steps trained, as far as one was told. An objective may count them from 0."""
        return max(self.known, len(self.steps))

    @property
    def rests(self) -> bool:
        """Whether it stopped short of its step, with its study; else it waits for a promotion."""
        return self.until is None or self.step < self.until

    def begin_again(self) -> None:
        """The next attempt, without a job yet."""
        self.attempt += 1
        self.begun_with = self.step
        self.job = ""
        self.seen.clear()

    def work(self) -> TrialWork:
        """What a job says of it."""
        return TrialWork(
            number=self.number,
            lr=self.lr,
            params=self.params,
            seed=self.seed,
            attempt=self.attempt,
        )

    def curve(self, initial_loss: float | None) -> LossCurve:
        """Its losses, as its diagnosis reads them. ``initial_loss`` is the untrained one."""
        return LossCurve(self.lr, self.by_step, initial_loss, self.train, bool(self.diverged))

    def view(self, diagnosis: str = "") -> TrialView:
        # That a worker was lost says nothing of a trial that went on and came to its end.
        lost = self.failure is not None and self.failure.kind in _OF_NOBODY
        went_on = lost and self.state in (TrialState.COMPLETE, TrialState.PRUNED)
        # A trial that ended before it heard that it should stop was not stopped.
        stopping = "" if self.state in FINISHED else self.stopping
        return TrialView(
            number=self.number,
            state=self.state,
            lr=self.lr,
            params=self.params,
            step=self.step,
            loss=self.loss,
            best=self.best,
            losses=tuple(self.losses),
            seed=self.seed,
            replicate_of=self.replicate_of,
            attempt=self.attempt,
            diverged=bool(self.diverged),
            diagnosis=diagnosis,
            reason=self.reason or stopping,
            failure=None if went_on else self.failure,
        )

    def result(self) -> Result:
        return Result(
            number=self.number,
            lr=self.lr,
            state=self.state,
            best=self.best,
            params=self.params,
            replicate_of=self.replicate_of,
            diverged=bool(self.diverged),
            attempt=self.attempt,
            trained=self.trained,
        )


def from_proposal(proposal: Proposal) -> TrialRecord:
    """A trial that was just asked."""
    return TrialRecord(
        trial_id=proposal.trial_id,
        number=proposal.number,
        lr=proposal.lr,
        seed=proposal.seed,
        params=proposal.params,
        replicate_of=proposal.replicate_of,
        until=proposal.until,
    )


def from_ledger(trial: FrozenTrial, default_seed: int) -> TrialRecord:
    """A trial as the ledger left it."""
    attributes = trial.user_attrs
    record = TrialRecord(
        trial_id=trial._trial_id,
        number=trial.number,
        lr=trial.params["lr"],
        seed=attributes.get(ledger.SEED, default_seed),
        params={name: value for name, value in trial.params.items() if name != "lr"},
        replicate_of=attributes.get(ledger.REPLICATE_OF),
        state=TrialState(attributes.get(ledger.STATE, TrialState.QUEUED)),
        attempt=attributes.get(ledger.ATTEMPT, 1),
        lost=attributes.get(ledger.LOST, 0),
        job=attributes.get(ledger.JOB, ""),
        until=attributes.get(ledger.UNTIL),
        stopping=attributes.get(ledger.STOPPING, ""),
        diverged=attributes.get(ledger.DIVERGED, ""),
        reason=attributes.get(ledger.WHY, ""),
    )
    if ledger.FAILURE in attributes:
        record.failure = Failure.model_validate(attributes[ledger.FAILURE])
    record.train = {int(step): loss for step, loss in attributes.get(ledger.TRAIN, ())}
    for step, loss in sorted(trial.intermediate_values.items()):
        record.learn(step, loss if math.isfinite(loss) else None)
    if trial.state.is_finished() and record.state not in FINISHED:
        record.state = _FROM_OPTUNA[trial.state]  # told, and killed before it was noted
    if record.state in FINISHED and not trial.state.is_finished():
        # Noted, and killed before it was told. Its worker says it again; of one that had paused,
        # and ended with its study, nobody does.
        told = record.stopping or record.diverged
        paused = record.state == TrialState.PRUNED and not record.rests and not told
        record.state = TrialState.PAUSED if paused else TrialState.RUNNING
    if record.state == TrialState.COMPLETE and trial.value is not None:
        record.best = trial.value
    return record
