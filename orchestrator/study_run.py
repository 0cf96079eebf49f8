"""One study at work: what is known of its trials, and what each event changes.

Everything here can be rebuilt from the ledger; the fields are a faster copy of it. Effects on the
outside (jobs, decisions) are returned or collected, never done here: the reconciler commits first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

import optuna
from optuna.storages import BaseStorage

from justright.lifecycle import FINISHED, STUDY_FINISHED, StudyState, TrialState, follow
from justright.messages import (
    Answer,
    Decision,
    Failure,
    FailureKind,
    Inspection,
    Job,
    Outcome,
    OutcomeKind,
    Report,
    Snapshot,
    Space,
    Started,
    TrialWork,
)
from justright.spec import StudySpec
from orchestrator import ledger
from orchestrator.answer import as_note, make_answer
from orchestrator.policy import OptunaPolicy, Policy
from orchestrator.trial_record import TrialRecord, from_ledger, from_proposal

log = logging.getLogger(__name__)

_HOPELESS = 3  # trials that fail in the user's code, none succeeding, until the study gives up
_REFUSED = 8  # refused submissions that are remembered
_NOTE_VERSION = "dashboard:note_ver"  # optuna-dashboard's names for a study's note
_NOTE_PART = "dashboard:note_str:"
_NOTE_SIZE = 2045  # its limit for one part


# How a trial ends when its study does.
_END_LETTERS = {TrialState.QUEUED: "j", TrialState.RUNNING: "f", TrialState.PAUSED: "i"}


class StudyRun:
    """A study that is in the ledger."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        max_attempts: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take up a study where the ledger left it."""
        self._study, self._storage = study, storage
        self._max_attempts, self._clock = max_attempts, clock
        attributes = study.user_attrs
        self.spec = StudySpec.model_validate(attributes[ledger.SPEC])
        self.name = self.spec.name
        self.state = StudyState(attributes[ledger.STATE])
        self.inspection: Inspection | None = None
        self.inspecting_job: str = attributes.get(ledger.JOB, "")
        self.inspections = 1
        self.failure: Failure | None = None
        self.reason: str | None = attributes.get(ledger.REASON)
        self.submission: str = attributes.get(ledger.SUBMISSION, "")
        self._spent: float = attributes.get(ledger.SPENT, 0.0)
        self._since: float | None = None  #: Clock at which ``_spent`` was right; None: at rest.
        self.answer: Answer | None = None
        self.decisions: dict[int, Decision] = {}  #: Made and not yet sent.
        self.refused: dict[str, str] = {}
        self.trials: dict[int, TrialRecord] = {}
        self._to_judge: set[int] = set()
        self._policy: Policy | None = None
        self._range: tuple[float, float] | None = None
        self.changed = True
        self._load(attributes)

    def _load(self, attributes: dict[str, Any]) -> None:
        if ledger.FAILURE in attributes:
            self.failure = Failure.model_validate(attributes[ledger.FAILURE])
        if ledger.RANGE in attributes:
            low, high = attributes[ledger.RANGE]
            self._range = (low, high)
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state != optuna.trial.TrialState.WAITING and "lr" in trial.params:
                record = from_ledger(trial, self.spec.seed)
                self.trials[trial.number] = record
                if record.stopping and record.state not in FINISHED:
                    self._decide(record, record.stopping)
        if ledger.INSPECTION in attributes:
            self._begin(Inspection.model_validate(attributes[ledger.INSPECTION]))
        if ledger.ANSWER in attributes and self.state in STUDY_FINISHED:
            self.answer = Answer.model_validate(attributes[ledger.ANSWER])

    # -- what the reconciler asks -----------------------------------------------------------------

    @property
    def active(self) -> bool:
        return self.state not in STUDY_FINISHED

    def open_jobs(self) -> dict[str, list[TrialRecord]]:
        """Jobs that are queued or running, with their trials that have not ended."""
        jobs: dict[str, list[TrialRecord]] = {}
        for record in self.trials.values():
            if record.state in (TrialState.QUEUED, TrialState.RUNNING):
                jobs.setdefault(record.job, []).append(record)
        if self.state == StudyState.INSPECTING and self.inspecting_job:
            jobs[self.inspecting_job] = []
        return jobs

    def busy_jobs(self) -> int:
        """Jobs that will keep a worker: those told to stop are about to free it."""
        jobs = self.open_jobs().values()
        return sum(
            not records or any(r.job and not r.stopping for r in records) for records in jobs
        )

    def next_job(self, lanes: int, new_id: Callable[[], str]) -> Job | None:
        """The next thing to train, recorded as queued; None where there is none at present."""
        if self.state == StudyState.INSPECTING:
            return None if self.inspecting_job else self._inspection_job(new_id())
        if self._policy is None or not self.active or self._scouting():
            return None
        records: list[TrialRecord] = []
        while len(records) < lanes:
            proposal = self._policy.propose()
            if proposal is None:
                break
            record = from_proposal(proposal)
            self.trials[record.number] = record
            records.append(record)
            if self._scouting():
                break
        if not records:
            return None
        return self.queue(records, new_id())

    def queue(self, records: list[TrialRecord], job: str) -> Job:
        """Record that these trials go out in a job of that id; returns the job."""
        for record in records:
            record.job, record.state = job, TrialState.QUEUED
            self._note(record, ledger.STATE, record.state)
            self._note(record, ledger.ATTEMPT, record.attempt)
            self._note(record, ledger.JOB, job)
        self.changed = True
        if self._since is None:
            self._since = self._clock()
        works = tuple(
            TrialWork(
                number=record.number,
                lr=record.lr,
                params=record.params,
                seed=record.seed,
                attempt=record.attempt,
            )
            for record in records
        )
        return self._job(job, works)

    def _job(self, job: str, works: tuple[TrialWork, ...]) -> Job:
        return Job(
            id=job,
            study=self.name,
            task=self.spec.task,
            epochs=self.spec.epochs,
            seed=self.spec.seed,
            metric=self.spec.metric,
            trials=works,
        )

    def _inspection_job(self, job: str) -> Job:
        self.inspecting_job = job
        self._set(ledger.JOB, job)
        return self._job(job, ())

    def _scouting(self) -> bool:
        """An objective tells its range when it is first called: until then, one trial only."""
        if self.inspection is None or self.inspection.kind != "objective" or self._range:
            return False
        return any(record.state not in FINISHED for record in self.trials.values())

    # -- events ---------------------------------------------------------------------------------

    def on_inspection(self, event: Inspection) -> None:
        """The task was looked at: begin, or say why it cannot be trained."""
        if self.state != StudyState.INSPECTING or event.job != self.inspecting_job:
            return
        self.changed = True
        if event.failure is None:
            self._set(ledger.INSPECTION, event.model_dump(mode="json"))
            self._set_state(StudyState.RUNNING)
            self._begin(event)
            return
        lost = event.failure.kind in (FailureKind.LOST, FailureKind.RETURNED)
        if lost and self.inspections < self._max_attempts:
            self.inspections += event.failure.kind == FailureKind.LOST
            self.inspecting_job = ""
            return
        self.fail(event.failure)

    def _begin(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self._policy = OptunaPolicy(
            self._study, self._storage, self.spec, inspection, self._range or self.spec.lr_range
        )

    def on_space(self, event: Space) -> None:
        """An objective named its range: search where that and the user's own meet."""
        if self._range is not None or self._policy is None:
            return
        low, high = self.spec.lr_range
        meet = (max(low, event.low), min(high, event.high))
        if meet[0] >= meet[1]:
            self.fail(
                Failure(
                    kind=FailureKind.USAGE,
                    message=f"the objective asks for a rate within {event.low:g}:{event.high:g}, "
                    f"the study searches {low:g}:{high:g}: nothing is in both. Change --lr.",
                )
            )
            return
        self._range = meet
        self._set(ledger.RANGE, list(meet))
        self._policy.narrow(meet)

    def on_started(self, event: Started) -> None:
        """A worker took the job and its lease (b)."""
        for number, attempt in event.trials:
            record = self._current(number, attempt)
            if record is not None and record.state == TrialState.QUEUED:
                self._move(record, "b")
                self._note(record, ledger.WORKER, event.worker)

    def on_report(self, event: Report) -> None:
        """A loss. Repeated, late or superseded reports change nothing."""
        record = self._current(event.trial, event.attempt)
        if record is None or event.step in record.seen or record.state == TrialState.PAUSED:
            return
        if record.state == TrialState.QUEUED:
            self._move(record, "b")  # its start was lost on the way; it runs all the same
        if record.learn(event.step, event.loss) and event.loss is not None:
            self._storage.set_trial_intermediate_value(record.trial_id, event.step, event.loss)
            if not record.stopping:
                self._to_judge.add(record.number)
        self.changed = True

    def judge(self) -> None:
        """Ask the policy about the trials that have reported since the last time."""
        numbers, self._to_judge = self._to_judge, set()
        if self._policy is None or self.spec.pruner == "none" or not self.active:
            return
        for number in sorted(numbers):
            record = self.trials[number]
            if record.state != TrialState.RUNNING or record.stopping:
                continue
            reason = self._policy.judge(self._storage.get_trial(record.trial_id))
            if reason is not None:
                self.stop_trial(record, reason)

    def on_outcome(self, event: Outcome) -> None:
        """The end of an attempt."""
        record = self._current(event.trial, event.attempt)
        if record is None:
            return
        if record.state == TrialState.QUEUED:
            self._move(record, "b")
        match event.kind:
            case OutcomeKind.COMPLETE:
                self._complete(record, event.value)
            case OutcomeKind.STOPPED:
                self._prune(record, "f", record.stopping or event.reason)
            case OutcomeKind.DIVERGED:
                record.diverged = event.reason or "the loss was not finite"
                self._note(record, ledger.DIVERGED, record.diverged)
                self._prune(record, "f", "diverged: " + record.diverged)
            case OutcomeKind.PAUSED:
                self._move(record, "c")
            case OutcomeKind.FAILED:
                self._attempt_failed(record, event.failure)

    def lose(self, record: TrialRecord) -> None:
        """Its job is nowhere: neither queued nor leased (g)."""
        failure = Failure(
            kind=FailureKind.LOST, message="its worker was lost: no heartbeat, or a lost job"
        )
        self._attempt_failed(record, failure)

    def lose_inspection(self) -> None:
        """The look at the task went missing: have another worker look."""
        self.inspecting_job = ""

    def _attempt_failed(self, record: TrialRecord, failure: Failure | None) -> None:
        failure = failure or Failure(kind=FailureKind.LOST, message="no reason was given")
        record.failure = failure
        if record.stopping:  # it was to stop anyway
            self._prune(record, "f" if record.state == TrialState.RUNNING else "j", record.stopping)
            return
        if failure.kind == FailureKind.LOST:
            record.lost += 1
            self._note(record, ledger.LOST, record.lost)
        lost = failure.kind in (FailureKind.LOST, FailureKind.RETURNED)
        if lost and record.lost < self._max_attempts:
            self._move(record, "g")
            record.begin_again()
            self._note(record, ledger.ATTEMPT, record.attempt)
            self._note(record, ledger.JOB, record.job)
            return
        self._note(record, ledger.FAILURE, failure.model_dump(mode="json"))
        self._move(record, "h")
        self._tell(record, optuna.trial.TrialState.FAIL, None)
        self._give_up_if_hopeless()

    def _give_up_if_hopeless(self) -> None:
        failed = [r for r in self.trials.values() if r.state == TrialState.FAILED]
        if len(failed) >= _HOPELESS and all(r.best is None for r in self.trials.values()):
            assert failed[-1].failure is not None
            self.fail(failed[-1].failure)

    # -- the end --------------------------------------------------------------------------------

    def stop_trial(self, record: TrialRecord, reason: str) -> None:
        """Have a trial stop at its next report."""
        record.stopping = reason
        self._note(record, ledger.STOPPING, reason)
        self._decide(record, reason)

    def stop_all(self, reason: str) -> list[str]:
        """End every trial with what it has; returns the jobs that nobody has begun."""
        withdrawn: list[str] = []
        for job, records in self.open_jobs().items():
            if job and all(record.state == TrialState.QUEUED for record in records):
                withdrawn.append(job)
        for record in self.trials.values():
            if record.state in _END_LETTERS:
                self._decide(record, reason)
                self._prune(record, _END_LETTERS[record.state], reason)
        return withdrawn

    def due(self) -> str | None:
        """The reason for which the study should end now, or None."""
        if self.spec.timeout is not None and self.elapsed() >= self.spec.timeout:
            return "timeout"
        if self._policy is None or any(r.state not in FINISHED for r in self.trials.values()):
            return None
        return "trials" if len(self.trials) >= self._planned() else None

    def _planned(self) -> int:
        assert self._policy is not None
        if self.spec.replicates == 1:
            return self._policy.total
        complete = sum(
            r.state == TrialState.COMPLETE and r.replicate_of is None for r in self.trials.values()
        )
        extra = self._policy.total - self.spec.trials
        finalists = extra // (self.spec.replicates - 1)
        return self.spec.trials + min(complete, finalists) * (self.spec.replicates - 1)

    def finish(self, state: StudyState, reason: str) -> None:
        """End the study: all trials have ended, the answer is final."""
        self.reason = reason
        self._rest()
        self._set(ledger.REASON, reason)
        self._set_state(state)
        self.answer = self.current_answer()
        self._set(ledger.ANSWER, self.answer.model_dump(mode="json"))
        self._save_note(as_note(self.answer, self.spec.task.label))

    def fail(self, failure: Failure) -> None:
        """End the study because its task cannot be trained."""
        self.failure = failure
        self._set(ledger.FAILURE, failure.model_dump(mode="json"))
        self.stop_all("the study failed")
        self.finish(StudyState.FAILED, "failed")

    def refuse(self, submission: str, why: str) -> None:
        """Tell a client that its submission was not taken. Kept for a while, in memory only."""
        self.refused[submission] = why
        while len(self.refused) > _REFUSED:
            del self.refused[next(iter(self.refused))]
        self.changed = True

    def resubmit(self, submission: str, spec: StudySpec) -> None:
        """Go on under new stop rules: more trials, another timeout. Same rules: as it is."""
        self.submission = submission
        self._set(ledger.SUBMISSION, submission)
        self.changed = True
        final = self.state == StudyState.COMPLETE and spec == self.spec
        self.spec = spec
        self._set(ledger.SPEC, spec.model_dump(mode="json"))
        if final or self.inspection is None:
            return
        self._begin(self.inspection)
        self.reason = self.failure = self.answer = None
        self._set_state(StudyState.RUNNING)

    # -- views ----------------------------------------------------------------------------------

    def elapsed(self) -> float:
        """Seconds at work since the first dispatch."""
        return self._spent + (self._clock() - self._since if self._since is not None else 0.0)

    def _rest(self) -> None:
        self._spent, self._since = self.elapsed(), None
        self._set(ledger.SPENT, self._spent)

    def current_answer(self) -> Answer:
        """The answer as of now."""
        inspection = self.inspection
        return make_answer(
            self.name,
            self.state,
            self.reason,
            [record.result() for record in self.trials.values()],
            horizon=self.horizon,
            initial_loss=inspection.initial_loss if inspection else None,
            seconds=self.elapsed(),
            seed=self.spec.seed,
        )

    @property
    def horizon(self) -> int | None:
        """Epochs of a full training: told by the task, else the longest that was seen."""
        told = self.inspection.epochs if self.inspection else None
        return told or max((r.step for r in self.trials.values()), default=0) or None

    def snapshot(self, note: str = "") -> Snapshot:
        """What clients are shown."""
        return Snapshot(
            study=self.name,
            submission=self.submission,
            spec=self.spec,
            state=self.state,
            task=self.spec.task.label,
            total=self._planned() if self._policy else self.spec.trials,
            horizon=self.horizon,
            trials=tuple(record.view() for record in self.trials.values()),
            answer=self.answer or self.current_answer(),
            failure=self.failure,
            note=note,
            refused=self.refused,
            seconds=self.elapsed(),
        )

    # -- writing --------------------------------------------------------------------------------

    def _current(self, number: int, attempt: int) -> TrialRecord | None:
        """The trial, if this attempt is its present one and has not ended (fencing)."""
        record = self.trials.get(number)
        if record is None or record.attempt != attempt or record.state in FINISHED:
            return None
        return record

    def _move(self, record: TrialRecord, letter: str) -> None:
        record.state = follow(record.state, letter)
        self._note(record, ledger.STATE, record.state)
        self.changed = True

    def _complete(self, record: TrialRecord, value: float | None) -> None:
        if value is not None:
            record.best = value if record.best is None else min(record.best, value)
        if record.best is None:
            failure = Failure(kind=FailureKind.TASK, message="it ended without any finite loss")
            self._attempt_failed(record, failure)
            return
        self._move(record, "e")
        self._tell(record, optuna.trial.TrialState.COMPLETE, record.best)

    def _prune(self, record: TrialRecord, letter: str, reason: str) -> None:
        record.reason = reason
        self._note(record, ledger.WHY, reason)
        self._move(record, letter)
        self._tell(record, optuna.trial.TrialState.PRUNED, None)

    def _tell(
        self, record: TrialRecord, state: optuna.trial.TrialState, value: float | None
    ) -> None:
        self._study.tell(record.number, value, state=state, skip_if_finished=True)
        self._set(ledger.SPENT, self.elapsed())  # what a killed orchestrator would forget

    def _decide(self, record: TrialRecord, reason: str) -> None:
        self.decisions[record.number] = Decision(
            attempt=record.attempt, action="stop", reason=reason
        )

    def _note(self, record: TrialRecord, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(record.trial_id, key, value)

    def _set(self, key: str, value: Any) -> None:
        self._study.set_user_attr(key, value)

    def _set_state(self, state: StudyState) -> None:
        self.state = state
        self.changed = True
        self._set(ledger.STATE, state)

    def _save_note(self, text: str) -> None:
        """As ``optuna_dashboard.save_note``, whose import takes seconds."""
        study_id = self._study._study_id
        known = self._storage.get_study_system_attrs(study_id)
        version = cast(int, known.get(_NOTE_VERSION, 0)) + 1
        parts = [text[at : at + _NOTE_SIZE] for at in range(0, len(text), _NOTE_SIZE)]
        for index, part in enumerate(parts):
            self._storage.set_study_system_attr(study_id, f"{_NOTE_PART}{index}", part)
        self._storage.set_study_system_attr(study_id, _NOTE_VERSION, version)
