"""What happens to the trials of one study: every lettered transition, applied once, and noted.

Nothing is sent from here. What is to happen outside (decisions, jobs that are taken back) is
collected, and handed out by ``drain`` once the ledger has been committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from justright.failures import WORTH_ANOTHER, Failure, FailureKind
from justright.lifecycle import FINISHED, TrialState
from justright.messages import Decision, Outcome, OutcomeKind, Report, Started
from orchestrator.search.policy import Proposal
from orchestrator.storage import ledger
from orchestrator.studies.effects import Effects
from orchestrator.studies.trial_record import TrialRecord, from_ledger, from_proposal
from orchestrator.studies.trial_writer import TrialWriter
from orchestrator.studies.trials import Trials

# How a trial ends when its study does.
_END_LETTERS = {TrialState.QUEUED: "j", TrialState.RUNNING: "f", TrialState.PAUSED: "i"}

Told = optuna.trial.TrialState


class TrialBook:
    """What happens to trials, whatever is delivered twice, late or out of order."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        seed: int,
        max_attempts: int,
        on_crash: Callable[[int, Failure], None] = lambda number, failure: None,
    ) -> None:
        """Take up the trials where the ledger left them.

        ``on_crash`` hears of each attempt that ended badly, with the number of its trial.
        """
        self.trials = Trials()
        self._writer = TrialWriter(study, storage, self.trials)
        self._max_attempts, self._on_crash = max_attempts, on_crash
        self.troubled = False  #: An attempt has failed.
        self._reported: set[int] = set()  #: Trials with losses that no policy has seen yet.
        self._decisions: dict[int, Decision] = {}
        self._revoked: list[str] = []
        self._withdrawn: list[str] = []
        for trial in study.get_trials(deepcopy=False):
            if "lr" not in trial.params:
                if trial.state == Told.RUNNING:  # killed in the middle of ask
                    study.tell(trial.number, state=Told.FAIL)
                continue
            record = self.trials.add(from_ledger(trial, seed))
            self.troubled = self.troubled or record.failure is not None
        self.remind()

    @property
    def version(self) -> int:
        """Counts what clients are shown of the trials."""
        return self._writer.version

    def drain(self) -> Effects:
        """What has become due since the last call."""
        effects = Effects(
            withdrawn=tuple(self._withdrawn),
            revoked=tuple(job for job in self._revoked if job),
            decisions=self._decisions,
        )
        self._withdrawn, self._revoked, self._decisions = [], [], {}
        return effects

    # -- on its way -----------------------------------------------------------------------------

    def add(self, proposal: Proposal, until: int | None) -> TrialRecord:
        """A trial that was just asked (a), to be trained until that step."""
        record = self.trials.add(from_proposal(proposal))
        if until != record.until:
            self._writer.until(record, until)
        return record

    def queue(self, record: TrialRecord, job: str) -> None:
        """Record that it goes out in a job of that id."""
        self._writer.queue(record, job)

    def start(self, event: Started) -> None:
        """A worker took the job and its lease (b)."""
        for number, attempt in event.trials:
            record = self.trials.current(number, attempt)
            if record is not None and record.state == TrialState.QUEUED:
                record.worker = event.worker
                self._writer.move(record, "b", worker=event.worker)
                self._writer.note(record, ledger.WORKER, event.worker)

    def report(self, event: Report) -> TrialRecord | None:
        """A loss; the trial whose it is. Repeated, late or superseded reports change nothing."""
        record = self.trials.current(event.trial, event.attempt)
        if record is None or event.step in record.seen or record.state == TrialState.PAUSED:
            return None
        if record.state == TrialState.QUEUED:
            self._writer.move(record, "b")  # its start was lost on the way; it runs all the same
        new = self._writer.learn(record, event.step, event.loss, event.train_loss)
        if new and not record.stopping:
            self._reported.add(record.number)
        self._writer.version += 1
        return record

    def take_reported(self) -> Iterator[tuple[TrialRecord, FrozenTrial]]:
        """Running trials with losses since the last call, as Optuna has them, by number."""
        numbers, self._reported = self._reported, set()
        for number in sorted(numbers):
            record = self.trials[number]
            if record.state == TrialState.RUNNING and not record.stopping:
                yield record, self._writer.as_optuna_has_it(record)

    def stop(self, record: TrialRecord, reason: str) -> None:
        """Have a trial stop at its next report."""
        record.stopping = reason
        self._writer.note(record, ledger.STOPPING, reason)
        self._decide(record, reason)

    # -- its end --------------------------------------------------------------------------------

    def end(self, event: Outcome) -> None:
        """The end of an attempt."""
        record = self.trials.current(event.trial, event.attempt)
        if record is None or record.state == TrialState.PAUSED:
            return
        if record.state == TrialState.QUEUED:
            self._writer.move(record, "b")
        for step, loss in event.losses:  # those whose report a crash of Redis has swallowed
            if step not in record.steps:
                self._writer.learn(record, step, loss)
        match event.kind:
            case OutcomeKind.COMPLETE:
                self._complete(record, event.value)
            case OutcomeKind.STOPPED:
                self._prune(record, "f", record.stopping or event.reason)
            case OutcomeKind.DIVERGED:
                record.diverged = event.reason or "the loss was not finite"
                self.trials.learned(record)
                self._writer.note(record, ledger.DIVERGED, record.diverged)
                self._prune(record, "f", "diverged: " + record.diverged)
            case OutcomeKind.PAUSED if record.stopping:
                self._prune(record, "f", record.stopping)
            case OutcomeKind.PAUSED:
                self._writer.keep_train_losses(record)
                self._writer.move(record, "c")
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

    def put_out_again(self, record: TrialRecord, reason: str) -> None:
        """Take it back from wherever it is, without fault of its own (g)."""
        self._take_back(record, FailureKind.RETURNED, reason)

    def _take_back(self, record: TrialRecord, kind: FailureKind, reason: str) -> None:
        self._revoked.append(record.job)  # should its worker live on all the same
        self._fail_attempt(record, Failure(kind=kind, message=reason))

    # -- a rest ---------------------------------------------------------------------------------

    def pause_all(self, reason: str) -> None:
        """Let running trials pause at their next report; what nobody has begun comes back."""
        withdrawn = set()
        for job, records in self.trials.open_jobs().items():
            for record in records:
                if record.state == TrialState.RUNNING and not record.stopping:
                    self._decide(record, reason, "pause")
                elif record.state == TrialState.RUNNING:
                    continue  # it stops for good
                elif job:
                    withdrawn.add(job)
                    self.put_out_again(record, reason)
        self._withdrawn += sorted(withdrawn)

    def resume_all(self) -> None:
        """Send out again what has paused with its study (d)."""
        for record in self.trials.active():
            if record.state == TrialState.PAUSED and record.rests:
                self._writer.move(record, "d")
                self._writer.begin_again(record)

    def promote(self, number: int, until: int | None) -> TrialRecord | None:
        """Send a paused trial on to a further step (d); None where it is not paused."""
        record = self.trials[number]
        further = until is None or until > record.step
        if record.state != TrialState.PAUSED or not further:
            return None
        # First where to: killed in between, it is one that rests on its way there.
        self._writer.until(record, until)
        self._writer.move(record, "d")
        self._writer.begin_again(record)
        return record

    def remind(self) -> None:
        """Make all decisions again that still hold: they may have been lost on the way."""
        for record in self.trials.active():
            if record.stopping:
                self._decide(record, record.stopping)
        self._writer.version += 1

    def call_off(self, reason: str) -> None:
        """Tell all that may still be at work for a study that has ended."""
        for record in self.trials:
            self._decide(record, reason)
        jobs = sorted({record.job for record in self.trials if record.job})
        self._withdrawn += jobs
        self._revoked += jobs

    def end_all(self, reason: str) -> None:
        """End every trial with what it has."""
        self._withdrawn += [
            job
            for job, records in self.trials.open_jobs().items()
            if job and all(record.state == TrialState.QUEUED for record in records)
        ]
        for record in self.trials.active():
            if record.state in _END_LETTERS:
                self._decide(record, reason)
                waits = record.state == TrialState.PAUSED and not record.rests
                why = f"not promoted: {reason}" if waits else reason
                self._prune(record, _END_LETTERS[record.state], why)

    def abandon(self, records: Iterable[TrialRecord], reason: str) -> None:
        """End these without a look at their losses, which may be what cannot be looked at."""
        for record in records:
            if record.state in FINISHED:
                continue
            self._decide(record, reason)
            self._revoked.append(record.job)
            self._withdrawn += [record.job] if record.job else []
            record.state, record.reason = TrialState.PRUNED, reason
            self._writer.note(record, ledger.WHY, reason)
            self._writer.note(record, ledger.STATE, record.state)
            self._writer.told(record, Told.PRUNED)
        self._writer.version += 1

    def _fail_attempt(self, record: TrialRecord, failure: Failure | None) -> None:
        failure = failure or Failure(kind=FailureKind.LOST, message="no reason was given")
        returned = failure.kind is FailureKind.RETURNED
        if not returned:
            record.failure = failure
            self.troubled = True
        if record.stopping:  # it was to stop anyway
            self._prune(record, "f" if record.state == TrialState.RUNNING else "j", record.stopping)
            return
        if not returned:
            self._writer.failed(record, failure)
        # What was given back for its memory does not count, if only it has got on.
        counts = failure.counts or record.step <= record.begun_with
        if counts and failure.kind in WORTH_ANOTHER - {FailureKind.RETURNED}:
            record.lost += 1
            self._writer.note(record, ledger.LOST, record.lost)
            if failure.kind is not FailureKind.LOST:
                self._on_crash(record.number, failure)
        if failure.kind in WORTH_ANOTHER and record.lost < self._max_attempts:
            self._writer.move(record, "g", reason=failure.message)
            self._writer.begin_again(record)
            return
        self._writer.move(record, "h", reason=failure.message)
        self._writer.tell(record, Told.FAIL)

    def _complete(self, record: TrialRecord, value: float | None) -> None:
        if value is not None:  # what an objective returns counts, whatever it has reported
            record.best = value
            self.trials.valued(record)
        if record.best is None:
            failure = Failure(kind=FailureKind.TASK, message="it ended without any finite loss")
            self._fail_attempt(record, failure)
            return
        self._writer.move(record, "e")
        self._writer.tell(record, Told.COMPLETE, record.best)

    def _prune(self, record: TrialRecord, letter: str, reason: str) -> None:
        record.reason = reason
        self._writer.note(record, ledger.WHY, reason)
        self._writer.move(record, letter, reason=reason)
        self._writer.tell(record, Told.PRUNED)

    def _decide(
        self, record: TrialRecord, reason: str, action: Literal["stop", "pause"] = "stop"
    ) -> None:
        self._decisions[record.number] = Decision(
            attempt=record.attempt, action=action, reason=reason
        )
