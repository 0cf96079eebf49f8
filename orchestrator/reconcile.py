"""The reconcile loop: the only writer of the Optuna studies.

Each turn reads what has arrived, changes the ledger, commits once, and only then lets anything
out: jobs, decisions, snapshots, and last the acknowledgement of what was read. A turn that is
killed anywhere is repeated from the same input by the next orchestrator, and events that were
applied already change nothing.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from functools import partial

import optuna

from justright.broker import AT_MOST, Broker
from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState, TrialState
from justright.logs import event
from justright.messages import (
    Cancel,
    Command,
    Delete,
    Event,
    Hello,
    Job,
    Pause,
    Refused,
    Resume,
    Submit,
    WorkerInfo,
)
from justright.settings import Settings
from orchestrator.search.choosing import choose_policy
from orchestrator.search.policy import PolicyFactory
from orchestrator.storage.ledger import Ledger
from orchestrator.studies.commands import Commands, Outbox
from orchestrator.studies.effects import Effects
from orchestrator.studies.guard import Guard, reason_of
from orchestrator.studies.known import KnownStudies
from orchestrator.studies.plain import give_up, plain_snapshot
from orchestrator.studies.study_record import has_ended
from orchestrator.studies.study_run import StudyRun

log = logging.getLogger(__name__)

_PUBLISH_EVERY = 0.2  # seconds between snapshots of a study that is under way
_SHOWING_SHARE = 0.05  # of the time that making snapshots may take, at most
_WORKERS_EVERY = 0.5
_PLACES_EVERY = 1.0
_IDLE_WAIT = 0.1  # seconds a turn waits for the first event
_DAY = 24 * 3600.0  # seconds
_FAILED_KEPT = 24 * 3600.0  # seconds that clients can read why a task could not be loaded


class Reconciler:
    """Brings what is queued, leased and reported in line with what each study wants."""

    def __init__(
        self,
        broker: Broker,
        books: Ledger,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        make_policy: PolicyFactory = choose_policy,
    ) -> None:
        self._broker, self._ledger, self._clock = broker, books, clock
        self._make_policy = make_policy
        self._lease, self._attempts = settings.lease, settings.attempts
        self._guard = Guard(books.failures)
        self._outbox = Outbox()
        self._runs = KnownStudies(self._load)
        self._retention = settings.retention * _DAY
        self._commands = Commands(books, self._guard, self._runs, self._take_up)
        for name, study in books.studies().items():
            if has_ended(study):
                self._runs.has_ended(name)
            else:
                self._take_up(name, study)
        self._workers: list[WorkerInfo] = []
        self._look_at_workers = 0.0
        self._look_at_places = 0.0
        self._missing_since: dict[str, float] = {}
        self._shown: dict[str, tuple[int | None, float]] = {}  #: Version, and when the next is due.

    def turn(self, wait: float = _IDLE_WAIT) -> int:
        """One pass of the loop; returns how many messages it applied."""
        messages = self._broker.receive(wait)
        now = self._clock()
        for message in messages:
            self._apply(message)
        for run in self._active():
            self._guard(run, run.prune, None)
        self._refresh(now, backlog=len(messages) >= AT_MOST)
        for run in self._active():
            failure = self._guard(run, partial(run.refusals.by_all, self._names(run)), None)
            if failure is not None:
                self._guard(run, partial(run.fail, failure), None)
            self._end_if_due(run)
        self._dispatch()
        self._drop_untrainable()
        self._ledger.commit()
        self._let_out(now)
        if messages:
            self._broker.acknowledge()
        return len(messages)

    def _take_up(self, name: str, study: optuna.Study) -> None:
        """Go on with a study of the ledger; one that cannot be taken up has failed."""
        try:
            self._runs[name] = self._run_of(study)
        except self._guard.passes:
            raise
        except Exception as error:
            log.exception("study %s cannot be taken up", name)
            snapshot = give_up(study, reason_of(error))
            if snapshot is not None:
                self._outbox.failed.append(snapshot)

    def _load(self, name: str) -> StudyRun | None:
        """A study that has ended, as the ledger has it; None: it cannot be read."""
        study = self._ledger.study(name)
        try:
            return self._run_of(study)
        except self._guard.passes:
            raise
        except Exception:
            log.exception("study %s cannot be read; it is left as it is", name)
            return None

    def _run_of(self, study: optuna.Study) -> StudyRun:
        return StudyRun(study, self._ledger.storage, self._attempts, self._clock, self._make_policy)

    def _active(self) -> list[StudyRun]:
        return [run for run in self._runs.values() if run.record.active]

    # -- what arrives ---------------------------------------------------------------------------

    def _apply(self, message: Command | Event) -> None:
        match message:
            case Submit() | Cancel() | Pause() | Resume() | Delete():
                self._commands.obey(message, self._outbox)
            case Refused():
                event(
                    log, "job refused", level=logging.WARNING, job=message.job,
                    worker=message.worker, reason=message.reason,
                )  # fmt: skip
                for run in self._active():
                    self._guard(run, partial(run.refuse_job, message), None)
            case Hello():
                self._look_at_workers = 0.0
            case _:
                known = self._runs.in_memory(message.study)
                if known is not None and known.record.active:
                    self._guard(known, partial(known.apply, message), None)

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
                self._guard(run, run.clock.note, None)
                self._guard(run, partial(self._recover, run, now), None)

    def _redis_was_emptied(self) -> None:
        """It is new, or came back without its data: put everything there again."""
        if any(self._guard(run, run.busy_jobs, 0) for run in self._active()):
            log.warning("Redis has lost its data: running trials go back to their checkpoints")
        self._shown.clear()
        for name in self._runs.names:
            self._runs.get(name)  # what has ended is shown again as well
        for run in self._active():
            self._guard(run, run.redis_was_emptied, None)

    def _recover(self, run: StudyRun, now: float) -> None:
        """Take back jobs that are neither queued nor leased, and send their trials out again."""
        jobs = run.open_jobs()
        places = self._broker.locate([job for job in jobs if job], run.record.spec.pool)
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
                message = "the workers that looked at the task were lost"
                run.inspection_failed(Failure(kind=FailureKind.LOST, message=message))
            for record in records:
                if job:
                    event(
                        log, "trial lost", level=logging.WARNING, study=run.name,
                        trial=record.number, attempt=record.attempt, job=job,
                    )  # fmt: skip
                    run.lose(record)

    def _names(self, run: StudyRun) -> set[str]:
        """The workers that live in the study's pool."""
        return {worker.name for worker in self._workers if worker.pool == run.record.spec.pool}

    # -- what goes out ----------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Keep every worker supplied, the studies of a pool in turn."""
        for pool in {worker.pool for worker in self._workers}:
            workers = [worker for worker in self._workers if worker.pool == pool]
            runs = [run for run in self._active() if run.record.spec.pool == pool]
            busy = {run.name: self._guard(run, run.busy_jobs, 0) for run in runs}
            free = len(workers) - sum(busy.values())
            hungry = sorted(runs, key=lambda run: busy[run.name])
            while free > 0 and hungry:
                run = hungry.pop(0)
                job = self._next_job(run, workers, free)
                if job is not None:
                    self._outbox.jobs.append((job, pool))
                    free -= 1
                    hungry.append(run)

    def _next_job(self, run: StudyRun, workers: list[WorkerInfo], free: int) -> Job | None:
        # Whoever takes the job trains it in groups of its own size: one with few lanes must not
        # hold all others to them.
        told = [worker.lanes for worker in workers if worker.lanes is not None]
        asked = run.record.spec.lanes
        most = max(told) if len(told) == len(workers) else None
        lanes = most if asked == "auto" else asked
        return self._guard(run, partial(run.next_job, lanes, free, _new_id), None)

    def _drop_untrainable(self) -> None:
        """A study whose task could not even be loaded leaves nothing but the news of it."""
        for name, run in list(self._runs.items()):
            failure = run.record.failure
            ours = failure is not None and failure.kind is FailureKind.INTERNAL
            if run.record.state == StudyState.FAILED and not run.trials and not ours:
                self._outbox.failed.append(plain_snapshot(run.record))
                self._ledger.drop(name)
                del self._runs[name]
                self._shown.pop(name, None)  # the next study of that name counts anew

    def _end_if_due(self, run: StudyRun) -> None:
        reason = self._guard(run, run.ending.reason, None)
        if reason is not None:
            # What is running is told to stop and is pruned with what it has.
            self._guard(run, partial(run.finish, StudyState.COMPLETE, reason), None)
            event(log, "study ended", study=run.name, state=run.record.state, reason=reason)

    def _let_out(self, now: float) -> None:
        """Everything that rests on what was just committed."""
        outbox, self._outbox = self._outbox, Outbox()
        for name in outbox.created:
            self._broker.forget(name)
        for run in self._runs.values():
            effects, pool = self._guard(run, run.drain, Effects()), run.record.spec.pool
            for job_id in effects.withdrawn:
                self._broker.withdraw(job_id, pool)
            if effects.revoked:
                self._broker.revoke(effects.revoked)
            if effects.decisions:
                self._broker.decide(run.name, effects.decisions)
            if effects.tidy:
                self._broker.dispatch(run.jobs.tidy(_new_id()), pool)
                run.record.set_untold(False)
        for job, pool in outbox.jobs:
            self._broker.dispatch(job, pool)
        for run in list(self._runs.values()):
            self._publish(run, now)
            told = self._shown.get(run.name, (None, 0.0))[0] == run.version
            if told and not run.record.active and not run.record.untold:
                self._runs.has_ended(run.name)
                del self._shown[run.name]
        for snapshot in outbox.failed:
            self._broker.publish(snapshot, keep=_FAILED_KEPT)
        for name in outbox.removed:
            self._broker.remove(name)
            self._shown.pop(name, None)
        if outbox.replies:
            self._broker.answer(outbox.replies)

    def _publish(self, run: StudyRun, now: float) -> None:
        version, due = self._shown.get(run.name, (None, 0.0))
        if run.version == version or (run.record.active and now < due):
            return
        began = time.perf_counter()
        keep = None if run.record.active else self._retention
        pool = run.record.spec.pool
        note, names = "", self._names(run)
        if run.record.active and not names:
            note = f"waiting for a worker in pool {pool}"
        elif run.record.active and (refused := run.refusals.in_words(names)):
            note = f"refused by {refused}"
        version = run.version
        self._guard(run, lambda: self._broker.publish(run.snapshot(note), keep), None)
        # What clients are shown must not hold up what trains: of a large study they see less often.
        pause = max(_PUBLISH_EVERY, (time.perf_counter() - began) / _SHOWING_SHARE)
        self._shown[run.name] = (version, now + pause)


def _new_id() -> str:
    return uuid.uuid4().hex
