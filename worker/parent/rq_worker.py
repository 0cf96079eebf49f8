"""The worker's parent: an RQ worker that hands its jobs to one long-lived child.

RQ's own worker forks for every job, which imports torch anew and cannot use CUDA. Here RQ's
bookkeeping stays in the parent and the training in a child that was started once (``child.py``).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from functools import partial
from types import FrameType
from typing import Any

from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import Worker

from justright.broker import Broker
from justright.brokers.queue import TrainingJob
from justright.errors import BegunBefore, ExpiredMessage, ForgedMessage, MessageError
from justright.failures import Failure, FailureKind
from justright.logs import event
from justright.messages import (
    Event,
    Inspection,
    InspectJob,
    Job,
    Outcome,
    OutcomeKind,
    Refused,
    Started,
    TidyJob,
    TrainJob,
    decode_job,
)
from justright.processes import end_within
from justright.signing import Signer
from worker.parent.child_process import START_PATIENCE, Child, ChildDied
from worker.parent.heartbeat import Heartbeat
from worker.parent.limits import Limits
from worker.parent.orders import Orders
from worker.parent.refusing import Refusing
from worker.parent.watchdog import Watchdog

log = logging.getLogger(__name__)

_OVERDUE = "it was told to stop, and had not when its grace was over: its process was replaced"
_LOOK = 0.2  # seconds between looks at a running child
_CLOCK_TOLERANCE = 60.0  # seconds that clocks of machines may differ
_RQ_HEARTBEAT = 15.0  # seconds between two that RQ is shown
_LAST_WORDS = 3.0  # seconds beyond its grace that a worker has to tell Redis
_HURRY = 2.0  # seconds that a second SIGTERM leaves
_SAME_SIGNAL = 1.0  # seconds within which two are taken for one, sent to us and to our group


class NoDeathPenalty(BaseDeathPenalty):
    """RQ's time limits raise inside whatever runs; a training has none."""

    def setup_death_penalty(self) -> None:
        return None

    def cancel_death_penalty(self) -> None:
        return None


class WarmWorker(Worker):
    """An RQ worker for justright's jobs, and only for them."""

    death_penalty_class = NoDeathPenalty
    job_class = TrainingJob

    def __init__(
        self,
        queue: Queue,
        broker: Broker,
        signer: Signer,
        heartbeat: Heartbeat,
        child: Child,
        limits: Limits,
    ) -> None:
        super().__init__(
            [queue],
            name=heartbeat.info.name,
            connection=queue.connection,
            job_class=TrainingJob,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._broker, self._signer, self._heartbeat = broker, signer, heartbeat
        self._child, self._limits = child, limits
        self._leave_by = self._asked = math.inf
        self._orders = Orders(broker)
        self._orders.start()
        self._refusing = Refusing(self.name, lambda reason: heartbeat.beat(refusing=reason))
        self._renewal: threading.Thread | None = None  # of RQ's heartbeat, under way

    # -- what RQ calls --------------------------------------------------------------------------

    def execute_job(self, job: RqJob, queue: Queue) -> None:
        """Run one job in the warm child, with RQ's own bookkeeping around it."""
        assert isinstance(job, TrainingJob)
        execution = self.prepare_execution(job)
        job.bind(lambda payload: self._run(payload, job, execution))
        try:
            self.perform_job(job, queue, execution)
        except (InvalidJobOperation, NoSuchJobError) as error:
            # Redis has lost its data, and RQ finds nothing to tidy up: no reason to end.
            log.warning("Redis knows nothing of job %s any more: %s", job.id, error)
        self.executions.pop(execution.id, None)
        self._refusing.rest(lambda: self._stop_requested)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        # Not before: whoever has read this may ask the worker to leave.
        info = self._heartbeat.info
        event(log, "worker serves", pool=info.pool, worker=info.name)

    def subscribe(self) -> None:
        """RQ's remote commands (kill, stop, shut down by anybody on Redis) are not served."""

    def unsubscribe(self) -> None:
        return None

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        # First of all: what RQ does may wait for Redis, or raise.
        self._asked = time.monotonic()
        self._leave_by = self._asked + self._limits.grace
        end_within(self._limits.grace + _LAST_WORDS)
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """RQ would tell Redis, from within the signal's handler, and wait for it."""

    @property
    def told_to_leave(self) -> bool:
        """Whether it ends because it was asked to."""
        return self._asked < math.inf

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """A second signal: hurry. What is not saved by then goes on from the last checkpoint."""
        if time.monotonic() - self._asked > _SAME_SIGNAL:  # else: ours, and that of our group
            self._leave_by = min(self._leave_by, time.monotonic() + _HURRY)

    def teardown(self) -> None:
        super().teardown()  # type: ignore[no-untyped-call]
        event(log, "worker leaves", worker=self.name)
        self._heartbeat.stop()
        self._child.kill()

    # -- the job --------------------------------------------------------------------------------

    def _run(self, payload: str, rq_job: RqJob, execution: Any) -> None:
        try:
            job = self._read(payload, rq_job)
        except MessageError as error:
            again = not self._is_ours(error)
            if again:
                event(
                    log, "job refused", level=logging.WARNING, job=rq_job.id, worker=self.name,
                    reason=str(error),
                )  # fmt: skip
            else:
                self._refusing.refused(rq_job.id, str(error))
            refused = Refused(job=rq_job.id, worker=self.name, reason=str(error), again=again)
            self._broker.exchange([refused])
            raise
        trials = job.trials if isinstance(job, TrainJob) else ()
        numbers = tuple((work.number, work.attempt) for work in trials)
        self._heartbeat.beat(job=job.id, study=job.study, since=time.time())
        event(log, "job begun", job=job.id, study=job.study, worker=self.name)
        started = Started(study=job.study, job=job.id, worker=self.name, trials=numbers)
        self._broker.exchange([started])
        self._orders.watch(job)
        try:
            self._wait(job, rq_job, execution)
        finally:
            self._orders.watch(None)
            self._heartbeat.beat(job=None, study=None)

    def _is_ours(self, error: MessageError) -> bool:
        """Whether a job that cannot be read speaks of this worker, and not of the job alone.

        One that nobody has signed, or that has truly expired, would be refused by all.
        """
        if isinstance(error, BegunBefore):
            return False
        if isinstance(error, ForgedMessage):
            return self._broker.other_secret()
        if isinstance(error, ExpiredMessage):
            seconds, _ = self.connection.time()
            return abs(time.time() - seconds) > _CLOCK_TOLERANCE
        return True

    def _read(self, payload: str, rq_job: RqJob) -> Job:
        """The job, once it is sure that it is the orchestrator's, and ours to begin.

        Raises:
            ForgedMessage: its signature is missing or wrong, or it is that of another job.
            ExpiredMessage: it has waited for too long.
            BegunBefore: somebody has begun it, or the orchestrator has taken it back.
        """
        job = decode_job(self._signer.open("job", payload))
        if job.id != rq_job.id:
            raise ForgedMessage("its content is that of another one")
        if not self._broker.claim(job.id, self.name, self._limits.lease):
            raise BegunBefore("it was begun before, or was taken back")
        return job

    def _wait(self, job: Job, rq_job: RqJob, execution: Any) -> None:
        """Hand the job to the child and see it to its end, renewing RQ's heartbeat."""
        if self._child.process.poll() is not None:  # killed while it was idle
            self._child = self._child.fresh()
        self._child.output.begin_job()
        line = {"job": job.encode()}
        self._child.send(line)
        watchdog = Watchdog(self._child, self._limits, job.stall)
        renewed = time.monotonic()
        while True:
            try:
                answer = self._child.receive(_LOOK)
            except ChildDied as error:
                output = self._child.output.tail()
                self._end_child(job, FailureKind.CRASHED, str(error), output)
                return
            if answer is not None:
                watchdog.note_sign_of_life()
            if answer is not None and answer.get("recycle") == job.id:
                self._child = self._child.fresh()
                self._child.send(line)
                watchdog.watch_another(self._child)
                continue
            if answer is not None and answer.get("done") == job.id:
                self._note_end(job, answer)
                if watchdog.outgrown:
                    self._child = self._child.fresh()
                return
            if self._heartbeat.lost == job.id:
                event(
                    log,
                    "job lost",
                    level=logging.WARNING,
                    job=job.id,
                    study=job.study,
                    worker=self.name,
                    reason="it was taken back",
                )
                self._child = self._child.fresh()
                return
            given_up = watchdog.check(self._stop_requested, self._leave_by)
            if given_up is not None:
                self._end_child(job, given_up.kind, given_up.message, given_up.output)
                return
            if self._overdue(watchdog):
                event(
                    log,
                    "training ended",
                    job=job.id,
                    study=job.study,
                    worker=self.name,
                    reason="it was told to stop, and has not within its grace",
                )
                self._end_child(job, FailureKind.RETURNED, _OVERDUE, self._child.output.tail())
                return
            if time.monotonic() - renewed > _RQ_HEARTBEAT:
                renewed = time.monotonic()
                self._renew_rq_heartbeat(rq_job, execution)

    def _note_end(self, job: Job, answer: dict[str, Any]) -> None:
        """Whether the child could run the job at all."""
        if answer.get("refused"):
            self._refusing.refused(job.id, str(answer["refused"]))
        else:
            self._refusing.accepted()

    def _overdue(self, watchdog: Watchdog) -> bool:
        """Whether the child was told to end all that it trains, and has had its grace.

        A long epoch may be finished before a pause, as long as it gives signs of life.
        """
        grace = self._limits.grace
        silent = min(self._orders.at_rest_for, watchdog.silence)
        return self._orders.stopped_for > grace or silent > grace

    def _renew_rq_heartbeat(self, rq_job: RqJob, execution: Any) -> None:
        """RQ's own heartbeat, in a thread: a Redis that is away must not hold up a drain."""
        if self._renewal is None or not self._renewal.is_alive():
            renew = partial(self.maintain_heartbeats, rq_job, execution)
            self._renewal = threading.Thread(target=renew, name="rq-heartbeat", daemon=True)
            self._renewal.start()

    def _end_child(self, job: Job, kind: FailureKind, message: str, output: str) -> None:
        self._child = self._child.fresh()
        self._report_end(job, kind, message, output)

    def _report_end(self, job: Job, kind: FailureKind, message: str, output: str) -> None:
        """Say for every trial of the job what its child can no longer say."""
        failure = Failure(kind=kind, message=message, output=output)
        events: list[Event] = []
        match job:
            case TrainJob():
                events += [
                    Outcome(
                        study=job.study,
                        trial=work.number,
                        attempt=work.attempt,
                        kind=OutcomeKind.FAILED,
                        failure=failure,
                    )
                    for work in job.trials
                ]
            case InspectJob():
                events.append(Inspection(study=job.study, job=job.id, failure=failure))
            case TidyJob():
                pass  # nobody waits for it
        self._broker.exchange(events)


def await_child(child: Child, heartbeat: Heartbeat) -> None:
    """Wait until a new child has loaded torch; its device goes into the worker's description.

    Raises:
        ChildDied: it could not; its own words are above, on stderr.
    """
    ready = child.receive(START_PATIENCE)
    if ready is None or "ready" not in ready:
        raise ChildDied(f"the training process did not start within {START_PATIENCE:.0f} s")
    heartbeat.beat(device=ready["ready"]["device"])
