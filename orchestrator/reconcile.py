"""The reconcile loop: the only writer of the Optuna studies.

Each turn reads what has arrived, changes the ledger, commits once, and only then lets anything
out: jobs, decisions, snapshots, and last the acknowledgement of what was read. A turn that is
killed anywhere is repeated from the same input by the next orchestrator, and events that were
applied already change nothing.
"""

from __future__ import annotations

import logging
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from justright.broker import AT_MOST, Broker
from justright.errors import StorageError, UsageError
from justright.lifecycle import StudyState, TrialState
from justright.messages import (
    Cancel,
    Command,
    Event,
    Failure,
    FailureKind,
    Hello,
    Job,
    Pause,
    Refused,
    Resume,
    Snapshot,
    Submit,
    WorkerInfo,
)
from justright.settings import Settings
from justright.spec import another_study, differences, read_rate
from orchestrator.storage import ledger
from orchestrator.storage.ledger import Ledger
from orchestrator.studies.study_run import StudyRun

log = logging.getLogger(__name__)

T = TypeVar("T")

_PUBLISH_EVERY = 0.2  # seconds between snapshots of a study that is under way
_WORKERS_EVERY = 0.5
_PLACES_EVERY = 1.0
_IDLE_WAIT = 0.1  # seconds a turn waits for the first event
_FAILED_KEPT = 24 * 3600.0  # seconds that clients can read why a task could not be loaded


@dataclass
class _Outbox:
    """What a turn lets out after its commit."""

    jobs: list[tuple[Job, str]] = field(default_factory=list)
    failed: list[Snapshot] = field(default_factory=list)
    created: list[str] = field(default_factory=list)


class Reconciler:
    """Brings what is queued, leased and reported in line with what each study wants."""

    def __init__(
        self,
        broker: Broker,
        books: Ledger,
        settings: Settings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._broker, self._ledger, self._clock = broker, books, clock
        self._lease, self._attempts = settings.lease, settings.attempts
        self._fatal: tuple[type[Exception], ...] = (StorageError, *books.failures)
        self._runs: dict[str, StudyRun] = {}
        for name, study in books.studies().items():
            try:
                self._runs[name] = StudyRun(study, books.storage, settings.attempts, clock)
            except self._fatal:
                raise
            except Exception:  # written by a newer release, perhaps
                log.exception("study %s cannot be read; it is left as it is", name)
        self._workers: list[WorkerInfo] = []
        self._look_at_workers = 0.0
        self._look_at_places = 0.0
        self._missing_since: dict[str, float] = {}
        self._published: dict[str, float] = {}
        self._outbox = _Outbox()

    def turn(self, wait: float = _IDLE_WAIT) -> int:
        """One pass of the loop; returns how many messages it applied."""
        messages = self._broker.receive(wait)
        now = self._clock()
        for message in messages:
            self._apply(message)
        for run in self._active():
            self._safely(run, run.judge)
        self._refresh(now, backlog=len(messages) >= AT_MOST)
        for run in self._active():
            self._end_if_due(run)
        self._dispatch()
        self._drop_untrainable()
        self._ledger.commit()
        self._let_out(now)
        if messages:
            self._broker.acknowledge()
        return len(messages)

    def _active(self) -> list[StudyRun]:
        return [run for run in self._runs.values() if run.active]

    def _safely(self, run: StudyRun, call: Callable[[], T]) -> T | None:
        """What the call returns. One study's fault ends that study, never the service."""
        try:
            return call()
        except self._fatal:
            raise
        except Exception as error:
            log.exception("study %s fails", run.name)
            message = f"justright itself failed: {type(error).__name__}: {error}"
            run.fail(Failure(kind=FailureKind.TASK, message=message))
            return None

    # -- what arrives ---------------------------------------------------------------------------

    def _apply(self, message: Command | Event) -> None:
        match message:
            case Submit():
                self._submit(message)
            case Cancel():
                run = self._runs.get(message.study)
                if run is not None and run.active:
                    self._end(run, StudyState.CANCELLED, "cancelled")
            case Pause() | Resume():
                run = self._runs.get(message.study)
                if run is not None and run.active:
                    self._safely(run, run.pause if isinstance(message, Pause) else run.resume)
            case Refused():
                log.warning("a job was refused: %s", message.reason)
                for run in self._active():
                    if message.job in run.open_jobs():
                        refuse = partial(run.refuse_job, message.job, message.reason)
                        self._safely(run, refuse)
            case Hello():
                self._look_at_workers = 0.0
            case _:
                run = self._runs.get(message.study)
                if run is not None and run.active:
                    self._safely(run, lambda: run.apply(message))

    def _submit(self, message: Submit) -> None:
        spec = message.spec
        run = self._runs.get(spec.name)
        if run is None:
            attributes: dict[str, Any] = {
                ledger.STATE: StudyState.INSPECTING,
                ledger.SUBMISSION: message.id,
                ledger.PLACE: secrets.token_hex(6),
                ledger.SPEC: spec.model_dump(mode="json"),
            }
            try:
                attributes |= self._hint(spec.like)
                study = self._ledger.create(spec.name, attributes)
            except UsageError as error:
                self._outbox.failed.append(_not_taken(message, error))
                return
            self._runs[spec.name] = StudyRun(
                study, self._ledger.storage, self._attempts, self._clock
            )
            self._outbox.created.append(spec.name)
            log.info("study %s: %s", spec.name, spec.task.label)
            return
        differing = differences(run.spec, spec)
        if differing:  # clients look as well, at a snapshot that may be old
            run.refuse(message.id, another_study(spec.name, differing))
            return
        run.resubmit(message.id, spec)

    def _hint(self, like: str | None) -> dict[str, float]:
        """What an earlier study tells a new one.

        Raises:
            UsageError: there is no such study, or it has no answer.
        """
        if like is None:
            return {}
        run = self._runs.get(like)
        rate = read_rate(like)
        if run is None and rate is not None:
            return {ledger.HINT: rate}
        answer = run.answer if run is not None else None
        if answer is None or answer.best_lr is None:
            answered = sorted(
                name for name, one in self._runs.items() if one.answer and one.answer.best_lr
            )
            found = "has no answer" if run is not None else "is not known here"
            raise UsageError(
                f"--like: the study {like} {found}. Studies with an answer: "
                f"{', '.join(answered) or 'none'}."
            )
        return {ledger.HINT: answer.best_lr}

    # -- what has gone wrong elsewhere ------------------------------------------------------------

    def _refresh(self, now: float, backlog: bool) -> None:
        """Look at workers and jobs, each as often as it needs.

        ``backlog``: there is more to read, perhaps the end of a job that would seem lost.
        """
        if now >= self._look_at_workers:
            self._look_at_workers = now + _WORKERS_EVERY
            self._workers = self._broker.workers()
        if now >= self._look_at_places and not backlog:
            if now > self._look_at_places + max(self._lease / 3, 3 * _PLACES_EVERY):
                # Nobody looked for a while: Redis was away, or we were. Hearts beat again first.
                self._missing_since.clear()
            self._look_at_places = now + _PLACES_EVERY
            if not self._broker.mark():
                self._redis_was_emptied()
            for run in self._active():
                run.note_time()
                self._recover(run, now)

    def _redis_was_emptied(self) -> None:
        """It is new, or came back without its data: put everything there again."""
        if any(job for run in self._active() for job in run.open_jobs()):
            log.warning("Redis has lost its data: running trials go back to their checkpoints")
        for run in self._runs.values():
            run.trials.changed = True
            if run.active:
                self._safely(run, run.redis_was_emptied)

    def _recover(self, run: StudyRun, now: float) -> None:
        """Take back jobs that are neither queued nor leased, and send their trials out again."""
        jobs = run.open_jobs()
        places = self._broker.locate([job for job in jobs if job], run.spec.pool)
        for job, records in jobs.items():
            if places.get(job) in ("queued", "leased"):
                self._missing_since.pop(job, None)
                continue
            # Between queue and lease a job is nowhere for a moment; a lost start is rare enough
            # to be given a whole lease. A running trial's lease has expired, but a heart that
            # was kept from Redis beats again within a third of one.
            running = any(record.state == TrialState.RUNNING for record in records)
            since = self._missing_since.setdefault(job, now)
            if job and now - since < (self._lease / 3 if running else self._lease):
                continue
            self._missing_since.pop(job, None)
            if not records:
                run.lose_inspection()
            for record in records:
                if job:
                    log.warning("study %s: trial %d was lost", run.name, record.number)
                    run.lose(record)

    # -- what goes out ----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Keep every worker supplied, the studies of a pool in turn."""
        for pool in {worker.pool for worker in self._workers}:
            workers = [worker for worker in self._workers if worker.pool == pool]
            runs = [run for run in self._active() if run.spec.pool == pool]
            free = len(workers) - sum(run.busy_jobs() for run in runs)
            hungry = sorted(runs, key=lambda run: run.busy_jobs())
            while free > 0 and hungry:
                run = hungry.pop(0)
                job = self._next_job(run, workers, free)
                if job is not None:
                    self._outbox.jobs.append((job, pool))
                    free -= 1
                    hungry.append(run)

    def _next_job(self, run: StudyRun, workers: list[WorkerInfo], free: int) -> Job | None:
        told = [worker.lanes for worker in workers if worker.lanes is not None]
        lanes = min(told, default=None) if run.spec.lanes == "auto" else run.spec.lanes
        return self._safely(run, lambda: run.next_job(lanes, free, _new_id))

    def _drop_untrainable(self) -> None:
        """A study whose task could not even be loaded leaves nothing but the news of it."""
        for name, run in list(self._runs.items()):
            if run.state == StudyState.FAILED and not run.trials:
                self._outbox.failed.append(run.snapshot())
                self._ledger.drop(name)
                del self._runs[name]

    def _end_if_due(self, run: StudyRun) -> None:
        reason = run.due()
        if reason is not None:
            self._end(run, StudyState.COMPLETE, reason)

    def _end(self, run: StudyRun, state: StudyState, reason: str) -> None:
        """End a study now: what is running is told to stop and is pruned with what it has."""
        run.finish(state, reason)
        log.info("study %s: %s (%s)", run.name, state, reason)

    def _let_out(self, now: float) -> None:
        """Everything that rests on what was just committed."""
        outbox, self._outbox = self._outbox, _Outbox()
        for name in outbox.created:
            self._broker.forget(name)
        for run in self._runs.values():
            for job_id in run.take_withdrawn():
                self._broker.withdraw(job_id, run.spec.pool)
            revoked = run.take_revoked()
            if revoked:
                self._broker.revoke(revoked)
            decisions = run.take_decisions()
            if decisions:
                self._broker.decide(run.name, decisions)
            tidy = None if run.active else run.tidy_job(_new_id())
            if tidy is not None:
                self._broker.dispatch(tidy, run.spec.pool)
                run.note_told()
        for job, pool in outbox.jobs:
            self._broker.dispatch(job, pool)
        for run in self._runs.values():
            self._publish(run, now)
        for snapshot in outbox.failed:
            self._broker.publish(snapshot, keep=_FAILED_KEPT)

    def _publish(self, run: StudyRun, now: float) -> None:
        due = now - self._published.get(run.name, 0.0) >= _PUBLISH_EVERY
        if run.trials.changed and (due or not run.active):
            run.trials.changed = False
            self._published[run.name] = now
            pools = {worker.pool for worker in self._workers}
            waits = run.active and run.spec.pool not in pools
            note = f"waiting for a worker in pool {run.spec.pool}" if waits else ""
            self._broker.publish(run.snapshot(note))


def _not_taken(message: Submit, error: UsageError) -> Snapshot:
    """What the client of a submission sees that became no study."""
    return Snapshot(
        study=message.spec.name,
        submission=message.id,
        spec=message.spec,
        state=StudyState.FAILED,
        task=message.spec.task.label,
        total=0,
        horizon=None,
        failure=Failure(kind=FailureKind.USAGE, message=str(error)),
    )


def _new_id() -> str:
    return uuid.uuid4().hex
