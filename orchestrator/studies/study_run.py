"""One study at work: what it wants next, what each event changes, and its end.

Everything here can be rebuilt from the ledger; the fields are a faster copy of it. Effects on the
outside (jobs, decisions) are returned or handed out by ``drain``, never done here: the reconciler
commits first. The parts of a study have modules of their own: its record, its trials, the
inspection of its task, its search, the clock of its work, when it gives up, its answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import optuna
from optuna.storages import BaseStorage

from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState, TrialState
from justright.messages import (
    Inspection,
    Job,
    Noticed,
    Outcome,
    Refused,
    Report,
    Snapshot,
    Space,
    Started,
)
from justright.spec import StudySpec
from orchestrator.answers.answer import as_note
from orchestrator.search.choosing import choose_policy
from orchestrator.search.policy import PolicyFactory
from orchestrator.storage.notes import save_note
from orchestrator.studies.clock import WorkClock
from orchestrator.studies.current_answer import CurrentAnswer
from orchestrator.studies.effects import Effects
from orchestrator.studies.ending import Ending
from orchestrator.studies.giving_up import GivingUp
from orchestrator.studies.inspection import TaskInspection
from orchestrator.studies.jobs import JobFactory
from orchestrator.studies.plain import no_answer, plain_snapshot
from orchestrator.studies.progress import Progress
from orchestrator.studies.refusals import Refusals
from orchestrator.studies.snapshot import make_snapshot
from orchestrator.studies.study_record import StudyRecord
from orchestrator.studies.study_search import StudySearch
from orchestrator.studies.trial_book import TrialBook
from orchestrator.studies.trial_record import TrialRecord
from orchestrator.studies.trials import Trials

_CHOICE = (
    "Choose: to go on from here all the same, `justright resume {name}`; to begin again, the same "
    "command with another --name; or put the code back, and then resume."
)
_MIXED = "losses of different code are mixed: "


class StudyRun:
    """A study that is in the ledger."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        max_attempts: int,
        clock: Callable[[], float] = time.time,
        make_policy: PolicyFactory = choose_policy,
    ) -> None:
        """Take up a study where the ledger left it."""
        self._study, self._storage = study, storage
        self.record = StudyRecord(study)
        self.name = self.record.name
        self._giving_up = GivingUp()
        self._book = TrialBook(
            study, storage, self.record.spec.seed, max_attempts, self._giving_up.crashed
        )
        self.trials: Trials = self._book.trials
        self.clock = WorkClock(clock, self.record.spent, self.record.set_spent)
        self.jobs = JobFactory(self.record)
        self.search = StudySearch(study, storage, self.record, make_policy, self.trials.counts)
        self._inspection = TaskInspection(self.record, max_attempts)
        self.ending = Ending(self.record, self.clock, self._book, self.search)
        self._answers = CurrentAnswer(study, self.record, self.trials, clock)
        self.refusals = Refusals(clock)
        self._untidy = False
        self._progress = Progress()
        self._broken = False  #: Nothing that looks at its losses can be relied on.
        self._take_up()

    def _take_up(self) -> None:
        """Go on after a kill: what was noted may not have been let out."""
        record = self.record
        if record.state == StudyState.PAUSED:
            self._book.pause_all("paused")
        if record.working:
            self._book.resume_all()
        if not record.active and record.untold:
            self._untidy = True
            self._book.call_off(record.reason or "the study has ended")
        if record.working:
            self.clock.start()  # it is at work, or waits for somebody who is
        self._begin()

    @property
    def version(self) -> int:
        """Counts what clients are shown: a higher one wants a new snapshot."""
        return self.record.version + self._book.version

    # -- what it wants --------------------------------------------------------------------------

    def open_jobs(self) -> dict[str, list[TrialRecord]]:
        """Jobs that are queued or running, with their trials; a look at the task has none."""
        jobs = self.trials.open_jobs()
        if self._inspection.job:
            jobs[self._inspection.job] = []
        return jobs

    def busy_jobs(self) -> int:
        """Jobs that will keep a worker: those told to stop are about to free it."""
        jobs = self.open_jobs().values()
        return sum(
            not records or any(r.job and not r.stopping for r in records) for records in jobs
        )

    def next_job(self, lanes: int | None, workers: int, new_id: Callable[[], str]) -> Job | None:
        """The next thing to train, recorded as queued; None where there is none at present.

        ``lanes``: trials in a job, None: as many as pay. Those ``workers`` that are free share what
        is left.
        """
        if self.record.state == StudyState.PAUSED:
            return None
        if self.record.state == StudyState.INSPECTING:
            if self._inspection.job:
                return None
            self._inspection.sent(new_id())
            return self.jobs.inspect(self._inspection.job, lanes)
        plan = self._inspection.plan
        waiting = self.trials.open_jobs().get("", [])
        alike = [record for record in waiting if record.until == waiting[0].until]
        records = alike[: lanes or plan.lanes]
        records = records or self.search.next_trials(self._book, lanes, workers)
        if not records:
            return None
        job = new_id()
        for record in records:
            self._book.queue(record, job)
        return self.jobs.train(job, records, plan)

    def drain(self) -> Effects:
        """What has become due outside since the last call."""
        effects, off = self._book.drain(), self._inspection.take_called_off()
        tidy, self._untidy = self._untidy and not self.record.active, False
        return replace(
            effects,
            withdrawn=effects.withdrawn + off,
            revoked=effects.revoked + off,
            tidy=tidy,
        )

    # -- events ---------------------------------------------------------------------------------

    def apply(self, event: Inspection | Noticed | Space | Started | Report | Outcome) -> None:
        """Take up what a worker says. Repeated or superseded events change nothing."""
        match event:
            case Report():
                trained = self._book.report(event)
                if trained is not None:
                    self.refusals.served(trained.worker)
            case Started():
                self._book.start(event)
            case Outcome() if self.refusals.is_one(event.worker, event.failure):
                record = self.trials.current(event.trial, event.attempt)
                self._refused(event.worker, event.failure, [record] if record else [])
            case Outcome() if event.failure and event.failure.kind is FailureKind.CHANGED:
                self._changed(event, event.failure)
            case Outcome():
                self.record.set_metric(event.metric)
                self._book.end(event)
                if self.record.working:  # it was resumed before this one had paused
                    self._book.resume_all()
                self._after_an_end()
            case Inspection():
                self._inspected(event)
            case Noticed():
                self.record.warn(event.text)
            case Space():
                failure = self.search.restrict_range(event)
                if failure is not None:
                    self.fail(failure)

    def lose(self, record: TrialRecord) -> None:
        """A trial's job is neither queued nor leased."""
        self._book.lose(record)
        self._after_an_end()

    def inspection_failed(self, failure: Failure) -> None:
        """The look at the task failed, or went missing: have another worker look."""
        if not self._inspection.tries_again(failure):
            self.fail(failure)

    def _changed(self, event: Outcome, failure: Failure) -> None:
        """The task is not what it was: rest, until its user says what shall become of it."""
        record = self.trials.current(event.trial, event.attempt)
        if record is None:
            return
        self._book.put_out_again(record, failure.message)
        if not self.record.working:
            return
        self.pause()
        choice = f"{failure.message} {_CHOICE.format(name=self.name)}"
        self.record.set_failure(failure.model_copy(update={"message": choice}))

    def refuse_job(self, event: Refused) -> None:
        """A worker would not run one of our jobs: another one may."""
        jobs = self.open_jobs()
        if event.job not in jobs:
            return
        queued = [r for r in jobs[event.job] if r.state == TrialState.QUEUED]
        if event.again:  # somebody has it, or had it: nothing is wrong with this worker
            for record in queued:
                self._book.put_out_again(record, event.reason)
            return
        if event.job == self._inspection.job:
            self.record.forget_job()
        failure = Failure(kind=FailureKind.REFUSED, message=event.reason)
        self._refused(event.worker, failure, queued)

    def _refused(
        self, worker: str, failure: Failure | None, records: Sequence[TrialRecord]
    ) -> None:
        """A worker cannot train these: that costs them nothing."""
        assert failure is not None
        self.refusals.note(worker, failure)
        for record in records:
            self._book.put_out_again(record, failure.message)
        self.record.version += 1

    def redis_was_emptied(self) -> None:
        """Nothing that was queued, leased or decided is known there any more."""
        self.record.forget_job()
        for job, records in self.open_jobs().items():
            for record in records if job else ():
                self._book.put_out_again(record, "Redis came back without its data")
        self._book.remind()

    def prune(self) -> None:
        """Ask the policy which of the trials that have reported since the last time shall stop."""
        for record, trial in self._book.take_reported():
            reason = self.search.should_stop(trial)
            if reason is not None:
                self._book.stop(record, reason)

    def _inspected(self, event: Inspection) -> None:
        """The task was looked at: begin, or say why it cannot be trained."""
        if not self._inspection.awaits(event):
            return
        if self.refusals.is_one(event.worker, event.failure):
            self.record.forget_job()
            self._refused(event.worker, event.failure, ())
            return
        if event.failure is not None:
            self.inspection_failed(event.failure)
            return
        self.record.set_inspection(event)
        self._book.resume_all()  # looked at again in the middle of the study
        self.record.set_state(StudyState.RUNNING)
        self._begin()

    def _begin(self) -> None:
        """Search, where somebody has looked at the task."""
        inspection = self.record.inspection
        if inspection is None:
            return
        self.trials.inspected(inspection.initial_loss)
        failure = self.search.begin()
        if failure is not None:
            self.fail(failure)

    def _after_an_end(self) -> None:
        """Note what a kill would forget, and give up where the user's code fails each time."""
        self.clock.note()
        failure = self._giving_up.reason(self.trials) if self._book.troubled else None
        if failure is not None:
            self.fail(failure)

    # -- what its user asks ---------------------------------------------------------------------

    def pause(self) -> None:
        """Rest: running trials stop at their next report, with a checkpoint."""
        if not self.record.working:
            return
        self._book.pause_all("paused")
        self._inspection.call_off()
        self.clock.rest()
        self.record.set_state(StudyState.PAUSED)

    def resume(self) -> None:
        """Go on from where it was paused."""
        record = self.record
        if record.state != StudyState.PAUSED:
            return
        self.clock.start()
        changed = record.failure is not None
        if record.failure is not None:  # what its user has read, and accepts
            record.warn(_MIXED + record.failure.message.partition(": its losses")[0])
            record.set_failure(None)
        if record.inspection is None or changed:
            self._inspection.start_anew()
            self.record.set_state(StudyState.INSPECTING)
            return
        self._book.resume_all()
        self.record.set_state(StudyState.RUNNING)
        self._begin()

    def resubmit(self, submission: str, spec: StudySpec) -> None:
        """Go on under new stop rules: more trials, another timeout. Same rules: as it is."""
        record = self.record
        final = record.state == StudyState.COMPLETE and spec == record.spec
        record.set_submission(submission, spec)
        if record.state == StudyState.PAUSED:
            self.resume()
            return
        if final or (record.inspection is None and record.active):
            return
        self._giving_up.forgive(self.trials)
        self.refusals.forget()
        self._broken = False
        record.reopen()
        self.clock.start()
        if record.inspection is not None:
            record.set_state(StudyState.RUNNING)
            self._begin()
            return
        self._inspection.start_anew()
        record.set_state(StudyState.INSPECTING)

    # -- the end --------------------------------------------------------------------------------

    def finish(self, state: StudyState, reason: str) -> None:
        """End the study now: trials end with what they have, and the answer is final."""
        self._book.end_all(reason)
        self._untidy = len(self.trials) > 0
        self.record.set_untold(True)
        self._inspection.call_off()
        self.clock.rest()
        self.record.set_reason(reason)
        self.record.set_state(state)
        answer = self._answers.make(self.search.policy, self.clock.elapsed)
        self.record.set_answer(answer)
        save_note(
            self._storage, self._study._study_id, as_note(answer, self.record.spec.task.label)
        )

    def fail(self, failure: Failure) -> None:
        """End the study because its task cannot be trained."""
        self.record.set_failure(failure)
        self.finish(StudyState.FAILED, "failed")

    def break_off(self, failure: Failure) -> None:
        """As ``fail``, for a study whose own numbers keep it from ending in good order."""
        record = self.record
        self._broken = True
        record.set_failure(failure)
        record.set_reason("failed")
        self._untidy = len(self.trials) > 0
        record.set_untold(True)
        self._book.abandon(self.trials, "failed")
        self._inspection.call_off()
        self.clock.rest()
        results = [trial.result() for trial in self.trials]
        record.set_answer(no_answer(record, results, self.clock.elapsed))
        record.set_state(StudyState.FAILED)

    # -- what clients are shown -----------------------------------------------------------------

    def snapshot(self, note: str = "") -> Snapshot:
        """What clients are shown. ``note``: what it waits for, where somebody else knows that."""
        if self._broken:
            return plain_snapshot(self.record, note)
        return make_snapshot(
            self.record,
            self.trials,
            self.record.answer or self._answers.make(self.search.policy, self.clock.elapsed),
            total=self.search.total(len(self.trials)),
            horizon=self._answers.horizon,
            seconds=self.clock.elapsed,
            progress=self._progress.share(
                self.record, lambda: self._answers.done_share(self.search.policy)
            ),
            note=note,
        )
