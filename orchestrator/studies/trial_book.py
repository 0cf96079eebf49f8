"""The trials of one study: every lettered transition, applied once and noted in the ledger.

The records are a faster copy of what the ledger says. Effects on the outside (decisions) are
collected, never sent from here: the reconciler commits first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, cast

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from justright.lifecycle import ACTIVE, DISPATCHED, FINISHED, TrialState, transition
from justright.messages import (
    WORTH_ANOTHER,
    Decision,
    Failure,
    FailureKind,
    Outcome,
    OutcomeKind,
    Report,
    Started,
)
from orchestrator.answers.diagnosis import Course, diagnose
from orchestrator.search.policy import Proposal
from orchestrator.storage import ledger
from orchestrator.storage.notes import failure_note, save_note
from orchestrator.studies.trial_record import TrialRecord, from_ledger, from_proposal

# How a trial ends when its study does.
_END_LETTERS = {TrialState.QUEUED: "j", TrialState.RUNNING: "f", TrialState.PAUSED: "i"}


class TrialBook:
    """What happens to trials, whatever is delivered twice, late or out of order."""

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, seed: int, max_attempts: int
    ) -> None:
        """Take up the trials where the ledger left them."""
        self._study, self._storage, self._max_attempts = study, storage, max_attempts
        self._records: dict[int, TrialRecord] = {}
        self._to_judge: set[int] = set()
        self.decisions: dict[int, Decision] = {}  #: Made and not yet sent.
        self.revoked: list[str] = []  #: Jobs that were taken back; Redis is not told yet.
        self.crashes: list[tuple[int, Failure]] = []  #: Attempts that ended badly, by trial.
        self.changed = True  #: Something that clients are shown.
        self.initial_loss: float | None = None  #: Untrained, once somebody has looked.
        for trial in study.get_trials(deepcopy=False):
            if "lr" not in trial.params:
                if trial.state == optuna.trial.TrialState.RUNNING:  # killed in the middle of ask
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                continue
            self._records[trial.number] = from_ledger(trial, seed)
        self.remind()

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    @property
    def all_finished(self) -> bool:
        """Whether no trial is queued, running or paused."""
        return all(record.state in FINISHED for record in self)

    @property
    def idle(self) -> bool:
        """Whether no trial is queued or running, nor paused by its study's rest."""
        return not any(r.state in DISPATCHED or (r.state in ACTIVE and r.rests) for r in self)

    @property
    def best(self) -> float:
        """The lowest loss of any trial that has not diverged; inf without one."""
        losses = (r.best for r in self if r.best is not None and not r.diverged)
        return min(losses, default=math.inf)

    def diagnoses(self) -> dict[int, str]:
        """What is the matter with each trial, in a word."""
        leader = self._leader()
        return {r.number: diagnose(r.course, self.initial_loss, leader) for r in self}

    def _leader(self) -> Course | None:
        """The trial that has come lowest."""
        alive = [r for r in self if r.best is not None and not r.diverged]
        return min(alive, key=lambda r: r.best or 0.0).course if alive else None

    def open_jobs(self) -> dict[str, list[TrialRecord]]:
        """Jobs that are queued or running, with their trials that have not ended.

        Under "" are the trials that wait for a job.
        """
        jobs: dict[str, list[TrialRecord]] = {}
        for record in self:
            if record.state in (TrialState.QUEUED, TrialState.RUNNING):
                jobs.setdefault(record.job, []).append(record)
        return jobs

    # -- on its way -----------------------------------------------------------------------------

    def add(self, proposal: Proposal, until: int | None) -> TrialRecord:
        """A trial that was just asked (a), to be trained until that step."""
        record = self._records[proposal.number] = from_proposal(proposal)
        if until != record.until:
            record.until = until
            self._note(record, ledger.UNTIL, until)
        return record

    def queue(self, record: TrialRecord, job: str) -> None:
        """Record that it goes out in a job of that id."""
        record.job, record.state = job, TrialState.QUEUED
        self._note(record, ledger.STATE, record.state)
        self._note(record, ledger.ATTEMPT, record.attempt)
        self._note(record, ledger.JOB, job)
        self.changed = True

    def start(self, event: Started) -> None:
        """A worker took the job and its lease (b)."""
        for number, attempt in event.trials:
            record = self._current(number, attempt)
            if record is not None and record.state == TrialState.QUEUED:
                self._move(record, "b")
                self._note(record, ledger.WORKER, event.worker)

    def report(self, event: Report) -> None:
        """A loss. Repeated, late or superseded reports change nothing."""
        record = self._current(event.trial, event.attempt)
        if record is None or event.step in record.seen or record.state == TrialState.PAUSED:
            return
        if record.state == TrialState.QUEUED:
            self._move(record, "b")  # its start was lost on the way; it runs all the same
        if self._learn(record, event.step, event.loss, event.train_loss) and not record.stopping:
            self._to_judge.add(record.number)
        self.changed = True

    def _learn(
        self, record: TrialRecord, step: int, loss: float | None, train: float | None = None
    ) -> bool:
        """Whether the study has a loss that it had not."""
        new = record.learn(step, loss, train) and loss is not None
        if new:
            self._storage.set_trial_intermediate_value(record.trial_id, step, cast(float, loss))
        return new

    def take_reported(self) -> Iterator[tuple[TrialRecord, FrozenTrial]]:
        """Running trials with losses since the last call, as Optuna has them, by number."""
        numbers, self._to_judge = self._to_judge, set()
        for number in sorted(numbers):
            record = self._records[number]
            if record.state == TrialState.RUNNING and not record.stopping:
                yield record, self._storage.get_trial(record.trial_id)

    def stop(self, record: TrialRecord, reason: str) -> None:
        """Have a trial stop at its next report."""
        record.stopping = reason
        self._note(record, ledger.STOPPING, reason)
        self._decide(record, reason)

    # -- its end --------------------------------------------------------------------------------

    def end(self, event: Outcome) -> None:
        """The end of an attempt."""
        record = self._current(event.trial, event.attempt)
        if record is None or record.state == TrialState.PAUSED:
            return
        if record.state == TrialState.QUEUED:
            self._move(record, "b")
        for step, loss in event.losses:  # those whose report a crash of Redis has swallowed
            if step not in record.steps:
                self._learn(record, step, loss)
        match event.kind:
            case OutcomeKind.COMPLETE:
                self._complete(record, event.value)
            case OutcomeKind.STOPPED:
                self._prune(record, "f", record.stopping or event.reason)
            case OutcomeKind.DIVERGED:
                record.diverged = event.reason or "the loss was not finite"
                self._note(record, ledger.DIVERGED, record.diverged)
                self._prune(record, "f", "diverged: " + record.diverged)
            case OutcomeKind.PAUSED if record.stopping:
                self._prune(record, "f", record.stopping)
            case OutcomeKind.PAUSED:
                self._keep_train_losses(record)
                self._move(record, "c")
            case OutcomeKind.FAILED:
                self._fail_attempt(record, event.failure)

    def lose(self, record: TrialRecord) -> None:
        """Its job is nowhere: neither queued nor leased (g)."""
        if record.state in FINISHED:
            return
        # What nobody had begun is no fault of the trial.
        begun = record.state == TrialState.RUNNING
        kind = FailureKind.LOST if begun else FailureKind.RETURNED
        self._take_back(record, kind, "its worker was lost: no heartbeat, or a lost job")

    def refuse(self, record: TrialRecord, reason: str) -> None:
        """A worker would not run its job (g)."""
        if record.state == TrialState.QUEUED:
            self._fail_attempt(record, Failure(kind=FailureKind.REFUSED, message=reason))

    def put_out_again(self, record: TrialRecord, reason: str) -> None:
        """Take it back from wherever it is, without fault of its own (g)."""
        self._take_back(record, FailureKind.RETURNED, reason)

    def _take_back(self, record: TrialRecord, kind: FailureKind, reason: str) -> None:
        self.revoked.append(record.job)  # should its worker live on all the same
        self._fail_attempt(record, Failure(kind=kind, message=reason))

    # -- a rest ---------------------------------------------------------------------------------

    def pause_all(self, reason: str) -> list[str]:
        """Let running trials pause at their next report; returns the jobs that nobody has begun."""
        withdrawn = set()
        for job, records in self.open_jobs().items():
            for record in records:
                if record.state == TrialState.RUNNING and not record.stopping:
                    self._decide(record, reason, "pause")
                elif record.state == TrialState.RUNNING:
                    continue  # it stops for good
                elif job:
                    withdrawn.add(job)
                    self.put_out_again(record, reason)
        return sorted(withdrawn)

    def call_off(self, reason: str) -> list[str]:
        """Tell all that may still be at work for a study that has ended; returns their jobs."""
        for record in self:
            self._decide(record, reason)
        return sorted({record.job for record in self if record.job})

    def resume_all(self) -> None:
        """Send out again what has paused with its study (d)."""
        for record in self:
            if record.state == TrialState.PAUSED and record.rests:
                self._move(record, "d")
                self._begin_again(record)

    def promote(self, number: int, until: int | None) -> TrialRecord | None:
        """Send a paused trial on to a further step (d); None where it is not paused."""
        record = self._records[number]
        if record.state != TrialState.PAUSED:
            return None
        # First where to: killed in between, it is one that rests on its way there.
        record.until = until
        self._note(record, ledger.UNTIL, until)
        self._move(record, "d")
        self._begin_again(record)
        return record

    def remind(self) -> None:
        """Make all decisions again that still hold: they may have been lost on the way."""
        for record in self:
            if record.stopping and record.state not in FINISHED:
                self._decide(record, record.stopping)
        self.changed = True

    def end_all(self, reason: str) -> list[str]:
        """End every trial with what it has; returns the jobs that nobody has begun."""
        withdrawn = [
            job
            for job, records in self.open_jobs().items()
            if job and all(record.state == TrialState.QUEUED for record in records)
        ]
        for record in self:
            if record.state in _END_LETTERS:
                self._decide(record, reason)
                waits = record.state == TrialState.PAUSED and not record.rests
                why = f"not promoted: {reason}" if waits else reason
                self._prune(record, _END_LETTERS[record.state], why)
        return withdrawn

    def _fail_attempt(self, record: TrialRecord, failure: Failure | None) -> None:
        failure = failure or Failure(kind=FailureKind.LOST, message="no reason was given")
        if failure.kind is not FailureKind.RETURNED:
            record.failure = failure
        if record.stopping:  # it was to stop anyway
            self._prune(record, "f" if record.state == TrialState.RUNNING else "j", record.stopping)
            return
        if failure.kind is not FailureKind.RETURNED:
            self._note(record, ledger.FAILURE, failure.model_dump(mode="json"))
            note = failure_note(record.attempt, failure)
            save_note(self._storage, self._study._study_id, note, record.trial_id)
        # What was given back for its memory does not count, if only it has got on.
        counts = failure.counts or record.step <= record.begun_with
        if counts and failure.kind in WORTH_ANOTHER - {FailureKind.RETURNED}:
            record.lost += 1
            self._note(record, ledger.LOST, record.lost)
            if failure.kind is not FailureKind.LOST:
                self.crashes.append((record.number, failure))
        if failure.kind in WORTH_ANOTHER and record.lost < self._max_attempts:
            self._move(record, "g")
            self._begin_again(record)
            return
        self._move(record, "h")
        self._tell(record, optuna.trial.TrialState.FAIL, None)

    def _begin_again(self, record: TrialRecord) -> None:
        """The next attempt, which has no job yet."""
        record.begin_again()
        self._note(record, ledger.ATTEMPT, record.attempt)
        self._note(record, ledger.JOB, record.job)

    def _complete(self, record: TrialRecord, value: float | None) -> None:
        if value is not None:  # what an objective returns counts, whatever it has reported
            record.best = value
        if record.best is None:
            failure = Failure(kind=FailureKind.TASK, message="it ended without any finite loss")
            self._fail_attempt(record, failure)
            return
        self._move(record, "e")
        self._tell(record, optuna.trial.TrialState.COMPLETE, record.best)

    def _prune(self, record: TrialRecord, letter: str, reason: str) -> None:
        record.reason = reason
        self._note(record, ledger.WHY, reason)
        self._move(record, letter)
        self._tell(record, optuna.trial.TrialState.PRUNED, None)

    # -- writing --------------------------------------------------------------------------------

    def _current(self, number: int, attempt: int) -> TrialRecord | None:
        """The trial, if this attempt is its present one and has not ended (fencing)."""
        record = self._records.get(number)
        if record is None or record.attempt != attempt or record.state in FINISHED:
            return None
        return record

    def _move(self, record: TrialRecord, letter: str) -> None:
        record.state = transition(record.state, letter)
        self._note(record, ledger.STATE, record.state)
        self.changed = True

    def _tell(
        self, record: TrialRecord, state: optuna.trial.TrialState, value: float | None
    ) -> None:
        self._keep_train_losses(record)
        diagnosis = diagnose(record.course, self.initial_loss, self._leader())
        self._note(record, ledger.DIAGNOSIS, diagnosis)
        self._study.tell(record.number, value, state=state, skip_if_finished=True)

    def _keep_train_losses(self, record: TrialRecord) -> None:
        """For the diagnosis, should the orchestrator be killed."""
        if record.train:
            self._note(record, ledger.TRAIN, sorted(record.train.items()))

    def _decide(
        self, record: TrialRecord, reason: str, action: Literal["stop", "pause"] = "stop"
    ) -> None:
        self.decisions[record.number] = Decision(
            attempt=record.attempt, action=action, reason=reason
        )

    def _note(self, record: TrialRecord, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(record.trial_id, key, value)
