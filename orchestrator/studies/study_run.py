"""One study at work: what it wants next, what each event changes, and its end.

Everything here can be rebuilt from the ledger; the fields are a faster copy of it. Effects on the
outside (jobs, decisions) are returned or collected, never done here: the reconciler commits first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import optuna
from optuna.storages import BaseStorage

from justright.errors import JustrightError
from justright.failures import WORTH_ANOTHER, Failure, FailureKind
from justright.lane_plan import LanePlan
from justright.lifecycle import (
    FINISHED,
    STUDY_ACTIVE,
    STUDY_FINISHED,
    StudyState,
    TrialState,
)
from justright.messages import (
    Answer,
    Decision,
    Inspection,
    InspectJob,
    Job,
    Outcome,
    Report,
    Snapshot,
    Space,
    Started,
    TidyJob,
    TrainJob,
)
from justright.spec import StudySpec
from orchestrator.answers.advice import with_words
from orchestrator.answers.answer import as_note, make_answer
from orchestrator.answers.importance import importance
from orchestrator.search.choosing import make_policy
from orchestrator.search.optuna.samplers import beside_the_rate
from orchestrator.search.policy import Policy, originals
from orchestrator.storage import ledger
from orchestrator.storage.notes import save_note
from orchestrator.studies.trial_book import TrialBook
from orchestrator.studies.trial_record import TrialRecord

T = TypeVar("T")

_ASK_EVERY = 2.0  # seconds between what a snapshot asks of the search
_HOPELESS = 3  # failed trials, most of all and none complete, until the study gives up
_REFUSED = 8  # refused submissions that are remembered
_NOT_SEARCHED = (
    "--search is for subclasses of justright.Task. An objective suggests its other parameters "
    "itself, and a program takes only the rate: leave --search out."
)
_NOTE_TIME = 2.0  # seconds at work that a kill of the orchestrator may forget


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
        self.trials = TrialBook(study, storage, self.spec.seed, max_attempts)
        self.state = StudyState(attributes[ledger.STATE])
        self.reason: str | None = attributes.get(ledger.REASON)
        self.submission: str = attributes.get(ledger.SUBMISSION, "")
        self.refused: dict[str, str] = {}
        self._withdrawn: list[str] = []
        # The name alone would lead a new study to the checkpoints of one that was deleted.
        self._place = f"{self.name}-{attributes.get(ledger.PLACE, 'x')}"
        self._untidy = False
        self._forgiven: set[int] = set()  # trials that do not speak for the next ones
        self.inspection: Inspection | None = None
        self._inspecting_job: str = attributes.get(ledger.JOB, "")
        self._inspections = 1
        self._spent: float = attributes.get(ledger.SPENT, 0.0)
        self._noted = self._spent
        self._since: float | None = None  #: Clock at which ``_spent`` was right; None: at rest.
        self._policy: Policy | None = None
        self._said: dict[str, tuple[Any, float, Any]] = {}
        self._hint: float | None = attributes.get(ledger.HINT)
        self._load(attributes)

    def _load(self, attributes: dict[str, Any]) -> None:
        self.failure: Failure | None = None
        if attributes.get(ledger.FAILURE) is not None:
            self.failure = Failure.model_validate(attributes[ledger.FAILURE])
        self._range: tuple[float, float] | None = None
        if ledger.RANGE in attributes:
            low, high = attributes[ledger.RANGE]
            self._range = (low, high)
        self.answer: Answer | None = None
        if ledger.ANSWER in attributes and not self.active:
            self.answer = Answer.model_validate(attributes[ledger.ANSWER])
        if self.state == StudyState.PAUSED:
            self._withdrawn += self.trials.pause_all("paused")
        if self.working:
            self.trials.resume_all()
        if not self.active and attributes.get(ledger.TIDIED) is False:
            # Killed before anybody was told of the end.
            self._untidy = True
            self._withdrawn += self.trials.call_off(self.reason or "the study has ended")
            self.trials.revoked += self._withdrawn
        if self.working and self.trials.open_jobs():
            self._since = self._clock()  # workers went on while nobody looked
        if ledger.INSPECTION in attributes:
            self._begin(Inspection.model_validate(attributes[ledger.INSPECTION]))

    # -- what it wants --------------------------------------------------------------------------

    @property
    def working(self) -> bool:
        """Whether something new may be trained."""
        return self.state in STUDY_ACTIVE

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state not in STUDY_FINISHED

    def open_jobs(self) -> dict[str, list[TrialRecord]]:
        """Jobs that are queued or running, with their trials; a look at the task has none."""
        jobs = self.trials.open_jobs()
        if self.state == StudyState.INSPECTING and self._inspecting_job:
            jobs[self._inspecting_job] = []
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
        if self.state == StudyState.PAUSED:
            return None
        if self.state == StudyState.INSPECTING:
            return None if self._inspecting_job else self._inspection_job(new_id(), lanes)
        waiting = self.trials.open_jobs().get("", [])
        alike = [record for record in waiting if record.until == waiting[0].until]
        records = alike[: lanes or self._plan.lanes]
        if not records and self._policy is not None:
            records = self._next_round(self._policy, lanes, workers)
        return self._training_job(records, new_id()) if records else None

    @property
    def _plan(self) -> LanePlan:
        """How its trials are trained, as far as anybody has looked."""
        return self.inspection.plan if self.inspection else LanePlan()

    def _next_round(self, policy: Policy, lanes: int | None, workers: int) -> list[TrialRecord]:
        """The trials that the policy wants trained next, all to one step."""
        if self._unknown_range:
            if not self.trials.all_finished:
                return []
            lanes = 1
        wanted = policy.next(lanes, workers)
        thawed = [self.trials.promote(number, wanted.until) for number in wanted.thaw]
        new = [self.trials.add(proposal, wanted.until) for proposal in wanted.new]
        records = [record for record in thawed if record is not None] + new
        if not records and self.trials.idle and policy.finished() is None:
            raise RuntimeError("the search has nothing to train, and does not end")
        return records

    @property
    def _unknown_range(self) -> bool:
        """An objective tells its range when it is first called: until then, one trial only."""
        return bool(self.inspection and self.inspection.kind == "objective" and self._range is None)

    def _training_job(self, records: list[TrialRecord], job: str) -> TrainJob:
        for record in records:
            self.trials.queue(record, job)
        if self._since is None:
            self._since = self._clock()
        return TrainJob(
            **self._about_us(job),
            epochs=self.spec.epochs,
            until=records[0].until,
            seed=self.spec.seed,
            metric=self.spec.metric,
            trials=tuple(record.work() for record in records),
            plan=self._plan,
        )

    def _inspection_job(self, job: str, lanes: int | None) -> InspectJob:
        self._inspecting_job = job
        self._set(ledger.JOB, job)
        return InspectJob(
            **self._about_us(job),
            epochs=self.spec.epochs,
            seed=self.spec.seed,
            search=tuple(self.spec.search),
            lanes=lanes,
            most=self.spec.trials,
        )

    def _about_us(self, job: str) -> dict[str, Any]:
        """What every job of this study says."""
        return {
            "id": job,
            "study": self.name,
            "task": self.spec.task,
            "checkpoint_prefix": self._place,
            "stall": self.spec.stall,
        }

    def tidy_job(self, job: str) -> TidyJob | None:
        """What removes the checkpoints that the study's trials have left, once for each end."""
        untidy, self._untidy = self._untidy, False
        return TidyJob(**self._about_us(job)) if untidy else None

    def note_told(self) -> None:
        """All that its end asks for has been let out."""
        self._set(ledger.TIDIED, True)

    # -- events ---------------------------------------------------------------------------------

    def apply(self, event: Inspection | Space | Started | Report | Outcome) -> None:
        """Take up what a worker says. Repeated or superseded events change nothing."""
        match event:
            case Report():
                self.trials.report(event)
            case Started():
                self.trials.start(event)
            case Outcome():
                self.trials.end(event)
                if self.working:  # it was resumed before this one had paused
                    self.trials.resume_all()
                self._after_an_end()
            case Inspection():
                self._inspected(event)
            case Space():
                self._narrow(event)

    def lose(self, record: TrialRecord) -> None:
        """A trial's job is neither queued nor leased."""
        self.trials.lose(record)
        self._after_an_end()

    def refuse_job(self, job: str, reason: str) -> None:
        """A worker would not run one of our jobs."""
        if job == self._inspecting_job and self.state == StudyState.INSPECTING:
            self._inspection_failed(Failure(kind=FailureKind.REFUSED, message=reason))
        for record in self.trials.open_jobs().get(job, []):
            self.trials.refuse(record, reason)
        self._after_an_end()

    def redis_was_emptied(self) -> None:
        """Nothing that was queued, leased or decided is known there any more."""
        self._inspecting_job = ""
        for job, records in self.open_jobs().items():
            for record in records if job else ():
                self.trials.put_out_again(record, "Redis came back without its data")
        self.trials.remind()

    def pause(self) -> None:
        """Rest: running trials stop at their next report, with a checkpoint."""
        if not self.working:
            return
        self._withdrawn += self.trials.pause_all("paused")
        self._call_off_inspection()
        self._spent, self._since = self.elapsed(), None
        self._set(ledger.SPENT, self._spent)
        self._set_state(StudyState.PAUSED)

    def _call_off_inspection(self) -> None:
        """Nobody need look at the task any more."""
        if self.state == StudyState.INSPECTING and self._inspecting_job:
            self._withdrawn.append(self._inspecting_job)
            self.trials.revoked.append(self._inspecting_job)
            self._inspecting_job = ""
            self._set(ledger.JOB, "")

    def resume(self) -> None:
        """Go on from where it was paused."""
        if self.state != StudyState.PAUSED:
            return
        if self.inspection is None:
            self._inspections = 1
            self._set_state(StudyState.INSPECTING)
            return
        self.trials.resume_all()
        self._set_state(StudyState.RUNNING)
        self._begin(self.inspection)

    def lose_inspection(self) -> None:
        """The look at the task went missing: have another worker look."""
        self._inspection_failed(
            Failure(kind=FailureKind.LOST, message="the workers that looked at the task were lost")
        )

    def judge(self) -> None:
        """Ask the policy about the trials that have reported since the last time."""
        for record, trial in self.trials.take_reported():
            if self._policy is None or self.spec.pruner == "none" or not self.working:
                continue
            reason = self._policy.judge(trial)
            if reason is not None:
                self.trials.stop(record, reason)

    def _inspected(self, event: Inspection) -> None:
        """The task was looked at: begin, or say why it cannot be trained."""
        if self.state != StudyState.INSPECTING or event.job != self._inspecting_job:
            return
        if event.failure is None:
            self._set(ledger.INSPECTION, event.model_dump(mode="json"))
            self._set_state(StudyState.RUNNING)
            self._begin(event)
            return
        self._inspection_failed(event.failure)

    def _inspection_failed(self, failure: Failure) -> None:
        # What hangs or kills its process at the first look would do so again.
        again = WORTH_ANOTHER - {FailureKind.CRASHED, FailureKind.STALLED}
        if failure.kind in again and self._inspections < self._max_attempts:
            self._inspections += failure.kind != FailureKind.RETURNED
            self._inspecting_job = ""
            return
        self.fail(failure)

    def _begin(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.trials.initial_loss = inspection.initial_loss
        self._policy = None
        if not self.active:
            return
        if self.spec.search and inspection.kind != "task":
            self.fail(Failure(kind=FailureKind.USAGE, message=_NOT_SEARCHED))
            return
        lr_range = self._range or self.spec.lr_range
        try:
            self._policy = make_policy(
                self._study, self._storage, self.spec, inspection, lr_range, self._hint
            )
        except JustrightError as error:  # a sampler that needs what is not installed here
            self.fail(Failure(kind=FailureKind.TASK, message=str(error)))

    def _narrow(self, event: Space) -> None:
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

    def _after_an_end(self) -> None:
        """Give up where the user's code fails each time; note what a kill would forget."""
        self.note_time()
        ended = [
            record
            for record in self.trials
            if record.state in FINISHED and record.number not in self._forgiven
        ]
        failed = [record for record in ended if record.state == TrialState.FAILED]
        enough = len(failed) >= _HOPELESS and 2 * len(failed) > len(ended)
        none = all(record.state != TrialState.COMPLETE for record in ended)
        if enough and none and failed[-1].failure is not None:
            self.fail(failed[-1].failure)
        elif not any(record.steps for record in self.trials):
            self._give_up_early()

    def _give_up_early(self) -> None:
        """Where no trial has got anywhere, and several ended in the same way: so will the rest."""
        if not self.trials.crashes:
            return
        _, last = self.trials.crashes[-1]
        way = (last.kind, last.message)
        same = [number for number, f in self.trials.crashes if (f.kind, f.message) == way]
        if len(same) >= _HOPELESS and len(set(same)) > 1:
            self.fail(last)

    # -- the end --------------------------------------------------------------------------------

    def due(self) -> str | None:
        """The reason for which the study should end now, or None."""
        if not self.working:
            return None
        if self.spec.timeout is not None and self.elapsed() >= self.spec.timeout:
            return "timeout"
        if self.spec.target is not None and self.trials.best <= self.spec.target:
            return "target"
        if self._policy is None or not self.trials.idle:
            return None
        return self._policy.finished()

    def recommend(self) -> dict[str, Any] | None:
        """What it would answer now: the rate as ``lr``, and what else is searched."""
        return self._policy.recommend() if self._policy is not None else None

    def note_time(self) -> None:
        """Record the time spent, now and then: a kill would forget it."""
        if self.elapsed() - self._noted >= _NOTE_TIME:
            self._noted = self.elapsed()
            self._set(ledger.SPENT, self._noted)

    def finish(self, state: StudyState, reason: str) -> None:
        """End the study now: trials end with what they have, and the answer is final."""
        self._withdrawn += self.trials.end_all(reason)
        self._untidy = len(self.trials) > 0
        self._set(ledger.TIDIED, False)
        self._call_off_inspection()
        self.reason = reason
        self._spent, self._since = self.elapsed(), None
        self._set(ledger.SPENT, self._spent)
        self._set(ledger.REASON, reason)
        self._set_state(state)
        self.answer = self._current_answer()
        self._set(ledger.ANSWER, self.answer.model_dump(mode="json"))
        note = as_note(self.answer, self.spec.task.label)
        save_note(self._storage, self._study._study_id, note)

    def fail(self, failure: Failure) -> None:
        """End the study because its task cannot be trained."""
        self.failure = failure
        self._set(ledger.FAILURE, failure.model_dump(mode="json"))
        self.finish(StudyState.FAILED, "failed")

    def refuse(self, submission: str, why: str) -> None:
        """Tell a client that its submission was not taken. Kept for a while, in memory only."""
        self.refused[submission] = why
        while len(self.refused) > _REFUSED:
            del self.refused[next(iter(self.refused))]
        self.trials.changed = True

    def resubmit(self, submission: str, spec: StudySpec) -> None:
        """Go on under new stop rules: more trials, another timeout. Same rules: as it is."""
        self.submission = submission
        self._set(ledger.SUBMISSION, submission)
        self.trials.changed = True
        final = self.state == StudyState.COMPLETE and spec == self.spec
        self.spec = spec
        self._set(ledger.SPEC, spec.model_dump(mode="json"))
        if self.state == StudyState.PAUSED:
            self.resume()
            return
        if final or (self.inspection is None and self.active):
            return
        self.reason = self.failure = self.answer = None
        # What failed before says nothing of a task that was mended since.
        self._forgiven = {record.number for record in self.trials}
        self.trials.crashes.clear()
        self._set(ledger.REASON, None)
        self._set(ledger.FAILURE, None)
        if self.inspection is not None:
            self._set_state(StudyState.RUNNING)
            self._begin(self.inspection)
            return
        self._inspecting_job, self._inspections = "", 1
        self._set(ledger.JOB, "")
        self._set_state(StudyState.INSPECTING)

    # -- views ----------------------------------------------------------------------------------

    def elapsed(self) -> float:
        """Seconds at work since the first dispatch, pauses of the service left out."""
        return self._spent + (self._clock() - self._since if self._since is not None else 0.0)

    @property
    def horizon(self) -> int | None:
        """Epochs of a full training: told by the task, else the longest that was seen."""
        told = self.inspection.epochs if self.inspection else None
        return told or max((record.step for record in self.trials), default=0) or None

    def _current_answer(self) -> Answer:
        inspection = self.inspection
        answer = make_answer(
            self.name,
            self.state,
            self.reason,
            [record.result() for record in self.trials],
            horizon=self.horizon,
            initial_loss=inspection.initial_loss if inspection else None,
            seconds=self.elapsed(),
            seed=self.spec.seed,
            target=self.spec.target,
        )
        results = [record.result() for record in self.trials]
        answer = self._with_expectations(answer)
        return with_words(
            answer.model_copy(update={"importance": self._importance()}), self.spec, results
        )

    def _importance(self) -> dict[str, float]:
        """How much each of several parameters mattered. For the final answer: it takes a second."""
        if self.inspection is None or self.active:
            return {}
        beside = beside_the_rate(self.spec, self.inspection.search_schedule)
        if not beside:
            return {}
        trials = originals(self._study.get_trials(deepcopy=False))
        rate = next((t.distributions["lr"] for t in trials if "lr" in t.distributions), None)
        if rate is None:
            return {}
        return importance(trials, {"lr": rate, **beside}, self.spec.seed)

    def _with_expectations(self, answer: Answer) -> Answer:
        """What the search knows beyond the trials that have come to their end."""
        if answer.best_lr is None:
            # No training has come to its end yet, but what has been seen speaks for a rate.
            promising = any(r.best is not None and not r.diverged for r in self.trials)
            found = (self._lately("rate", self.recommend) if promising else None) or {}
            others = {name: value for name, value in found.items() if name != "lr"}
            return answer.model_copy(update={"best_lr": found.get("lr"), "params": others})
        if self._policy is None or answer.loss is None:
            return answer
        ask = partial(self._policy.expect, answer.best_lr, answer.loss, answer.params)
        expected = self._lately("expected", ask, answer.best_lr)
        if expected is None:
            return answer
        changes: dict[str, Any] = {"plateau": expected.plateau}
        if answer.loss_interval is None:
            half = expected.deviation
            changes["loss_interval"] = (answer.loss - half, answer.loss + half)
        return answer.model_copy(update=changes)

    def _lately(self, what: str, ask: Callable[[], T], about: Any = None) -> T:
        """What the search said a moment ago: a snapshot must cost less than a decision. The last
        answer is asked anew."""
        known, since, found = self._said.get(what, (None, -math.inf, None))
        if not self.active or known != about or self._clock() - since >= _ASK_EVERY:
            found = ask()
            self._said[what] = (about, self._clock(), found)
        return cast(T, found)

    def take_decisions(self) -> dict[int, Decision]:
        """The decisions made since the last call: they are to be sent now."""
        decisions, self.trials.decisions = self.trials.decisions, {}
        return decisions

    def take_revoked(self) -> list[str]:
        """Jobs that were taken back since the last call: their workers are to hear of it now."""
        revoked, self.trials.revoked = self.trials.revoked, []
        return [job for job in revoked if job]

    def take_withdrawn(self) -> list[str]:
        """Jobs that nobody has begun and nobody shall: they are to leave the queue now."""
        withdrawn, self._withdrawn = self._withdrawn, []
        return withdrawn

    def snapshot(self, note: str = "") -> Snapshot:
        """What clients are shown."""
        diagnoses = self.trials.diagnoses()
        return Snapshot(
            study=self.name,
            submission=self.submission,
            spec=self.spec,
            state=self.state,
            task=self.spec.task.label,
            total=self._policy.total if self._policy else max(self.spec.trials, len(self.trials)),
            horizon=self.horizon,
            trials=tuple(record.view(diagnoses[record.number]) for record in self.trials),
            answer=self.answer or self._current_answer(),
            failure=self.failure,
            note=note or self._rest(),
            refused=self.refused,
            seconds=self.elapsed(),
            plan=self.inspection.plan if self.inspection else None,
        )

    def _rest(self) -> str:
        """What a paused study still waits for."""
        if self.state != StudyState.PAUSED:
            return ""
        running = sum(record.state == TrialState.RUNNING for record in self.trials)
        if running:
            return f"pausing: {running} trials train to their next report"
        return f"paused; to go on: justright resume {self.name}"

    # -- writing --------------------------------------------------------------------------------

    def _set(self, key: str, value: Any) -> None:
        self._study.set_user_attr(key, value)

    def _set_state(self, state: StudyState) -> None:
        self.state = state
        self.trials.changed = True
        self._set(ledger.STATE, state)
