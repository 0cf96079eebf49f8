"""The worker's parent: an RQ worker that hands its jobs to one long-lived child.

RQ's own worker forks for every job, which imports torch anew and cannot use CUDA. Here RQ's
bookkeeping stays in the parent and the training in a child that was started once (``child.py``).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import redis
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import Worker

from justright.broker import Broker
from justright.brokers.queue import TrainingJob
from justright.errors import ForgedMessage, MessageError
from justright.failures import Failure, FailureKind
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
    WorkerInfo,
    decode_job,
)
from justright.processes import end_within
from justright.signing import Signer
from worker.parent.child_process import Child, ChildDied

log = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between looks at a running child
_RQ_HEARTBEAT = 15.0
_LAST_WORDS = 3.0  # seconds beyond its grace that a worker has to tell Redis
_HURRY = 2.0  # seconds that a second SIGTERM leaves
_SAME_SIGNAL = 1.0  # seconds within which two are taken for one, sent to us and to our group
_START_PATIENCE = 300.0  # seconds for a child to import torch


class Heart(threading.Thread):
    """Beats in a thread of its own, so that nothing the main loop waits for delays it."""

    def __init__(self, broker: Broker, info: WorkerInfo, lease: float) -> None:
        super().__init__(name="heart", daemon=True)
        self._broker, self._lease = broker, lease
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.info = info
        self.lost = ""  #: The job whose lease is ours no more.

    def run(self) -> None:
        while not self._ended.wait(self._lease / 4):
            self.beat()

    def beat(self, **changes: Any) -> None:
        """Note the changes and tell Redis at once."""
        with self._lock:
            if self._ended.is_set():
                return  # or it would be seen for a lease more
            self.info = self.info.model_copy(update=changes)
            try:
                if not self._broker.beat(self.info, self._lease):
                    self.lost = self.info.job or ""
            except (redis.RedisError, OSError) as error:
                log.warning("Redis is away (%s); the training goes on", type(error).__name__)

    def stop(self) -> None:
        """The last beat: the worker leaves."""
        self._ended.set()
        with self._lock:
            self._broker.leave(self.info)


@dataclass(frozen=True)
class Limits:
    """What a training may take."""

    lease: float  #: Seconds without a heartbeat until the orchestrator takes a job back.
    grace: float  #: Seconds to save and leave in.
    memory: float  #: Bytes of its process.
    stall: float = 3600.0  #: Seconds without a sign of life, where the study does not say.


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
        heart: Heart,
        child: Child,
        limits: Limits,
    ) -> None:
        super().__init__(
            [queue],
            name=heart.info.name,
            connection=queue.connection,
            job_class=TrainingJob,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._broker, self._signer, self._heart = broker, signer, heart
        self._child, self._limits = child, limits
        self._leave_by = self._asked = math.inf
        self._drum: threading.Thread | None = None

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
        self._heart.stop()
        self._child.kill()

    # -- the job --------------------------------------------------------------------------------

    def _run(self, payload: str, rq_job: RqJob, execution: Any) -> None:
        try:
            job = self._read(payload, rq_job)
        except MessageError as error:
            log.warning("refused job %s: %s", rq_job.id, error)
            self._broker.exchange(
                [Refused(job=rq_job.id, worker=self.name, reason=f"{self.name}: {error}")]
            )
            raise
        trials = job.trials if isinstance(job, TrainJob) else ()
        numbers = tuple((work.number, work.attempt) for work in trials)
        self._heart.beat(job=job.id, study=job.study, since=time.time())
        started = Started(study=job.study, job=job.id, worker=self.name, trials=numbers)
        self._broker.exchange([started])
        try:
            self._wait(job, rq_job, execution)
        finally:
            self._heart.beat(job=None, study=None)

    def _read(self, payload: str, rq_job: RqJob) -> Job:
        """The job, once it is sure that it is the orchestrator's, and ours to begin.

        Raises:
            ForgedMessage: its signature is missing or wrong, or it is that of another job.
            ExpiredMessage: it has waited for too long.
            MessageError: it was begun before, or the orchestrator has taken it back.
        """
        job = decode_job(self._signer.open("job", payload))
        if job.id != rq_job.id:
            raise ForgedMessage("its content is that of another one")
        if not self._broker.claim(job.id, self.name, self._limits.lease):
            raise MessageError("it was begun before, or was taken back")
        return job

    def _wait(self, job: Job, rq_job: RqJob, execution: Any) -> None:
        """Hand the job to the child and see it to its end, beating RQ's drum."""
        if self._child.process.poll() is not None:  # killed while it was idle
            self._child = self._child.fresh()
        self._child.output.begin_job()
        line = {"job": job.encode()}
        self._child.send(line)
        watch = _Watch(self._limits, job.stall)
        heartbeat = time.monotonic()
        while True:
            try:
                answer = self._child.receive(_LOOK)
            except ChildDied as error:
                output = self._child.output.tail()
                self._end_child(job, FailureKind.CRASHED, str(error), output)
                return
            if answer is not None:
                watch.alive = time.monotonic()
            if answer is not None and answer.get("recycle") == job.id:
                self._child = self._child.fresh()
                self._child.send(line)
                watch.asked = ""  # the new one has not heard it
                continue
            if answer is not None and answer.get("done") == job.id:
                if watch.full or self._child.memory() > self._limits.memory:
                    self._child = self._child.fresh()
                return
            if self._gives_up(job, watch):
                return
            if time.monotonic() - heartbeat > _RQ_HEARTBEAT:
                heartbeat = time.monotonic()
                self._beat_the_drum(rq_job, execution)

    def _beat_the_drum(self, rq_job: RqJob, execution: Any) -> None:
        """RQ's own heartbeat, in a thread: a Redis that is away must not hold up a drain."""
        if self._drum is None or not self._drum.is_alive():
            beat = partial(self.maintain_heartbeats, rq_job, execution)
            self._drum = threading.Thread(target=beat, name="drum", daemon=True)
            self._drum.start()

    def _gives_up(self, job: Job, watch: _Watch) -> bool:
        """Whether the job has ended for a reason of ours; a child that shall leave is asked to."""
        now = time.monotonic()
        if self._heart.lost == job.id:
            log.warning("job %s was taken back: its training stops", job.id)
            self._child = self._child.fresh()
            return True
        if not self._child.ready:
            watch.alive = max(watch.alive, min(now, watch.began + _START_PATIENCE))
        if now - watch.alive > watch.stall:
            message = (
                f"no sign of life for {watch.stall:g} s. It hangs, or its steps take longer: then "
                "say so with --stall SECONDS"
            )
            self._end_child(job, FailureKind.STALLED, message, self._child.stacks())
            return True
        if self._stop_requested and not watch.asked:
            self._ask_to_leave(watch, "the worker was asked to leave", self._leave_by)
        memory = 0 if watch.asked else self._child.memory()
        if memory > self._limits.memory:
            watch.full = (
                f"its process holds {memory / 2**30:.1f} GiB, its worker's limit is "
                f"{self._limits.memory / 2**30:.1f} GiB (--memory)"
            )
            self._ask_to_leave(watch, watch.full, now + self._limits.grace)
        if not watch.asked or now < min(watch.leave_by, self._leave_by):
            return False
        kind = FailureKind.MEMORY if watch.full else FailureKind.RETURNED
        self._end_child(job, kind, watch.asked, self._child.output.tail())
        return True

    def _ask_to_leave(self, watch: _Watch, reason: str, by: float) -> None:
        watch.asked, watch.leave_by = reason, by
        # Given back, it goes on from its checkpoint; one that needs this much from its first
        # step on would come back for ever, so that counts as a failure.
        self._child.send({"leave": reason, "failure": "memory" if watch.full else "returned"})

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


@dataclass
class _Watch:
    """What the parent knows of the job that its child has."""

    limits: Limits
    told: float | None  #: The job's own ``stall``.
    alive: float = field(default_factory=time.monotonic)  #: The last sign of life.
    began: float = field(default_factory=time.monotonic)
    asked: str = ""  #: Why the child was asked to give its trials back.
    leave_by: float = math.inf
    full: str = ""  #: How it has more memory than it may.

    @property
    def stall(self) -> float:
        return self.told or self.limits.stall


def await_child(child: Child, heart: Heart) -> None:
    """Wait until a new child has loaded torch; its device goes into the worker's description.

    Raises:
        ChildDied: it could not; its own words are above, on stderr.
    """
    ready = child.receive(_START_PATIENCE)
    if ready is None or "ready" not in ready:
        raise ChildDied(f"the training process did not start within {_START_PATIENCE:.0f} s")
    heart.beat(device=ready["ready"]["device"])
