"""The worker's parent: an RQ worker that hands its jobs to one long-lived child.

RQ's own worker forks for every job, which imports torch anew and cannot use CUDA. Here RQ's
bookkeeping stays in the parent and the training in a child that was started once (``child.py``).
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import redis
from rq import Queue
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import Worker

from justright.broker import Broker
from justright.errors import JustrightError, MessageError
from justright.messages import (
    Event,
    Failure,
    FailureKind,
    Inspection,
    Job,
    Outcome,
    OutcomeKind,
    Started,
    WorkerInfo,
    decode_as,
)
from justright.processes import end_within, how_it_ended, kill_session
from justright.queue import TrainingJob
from worker.child import RECYCLE

log = logging.getLogger(__name__)

_LOOK = 0.2  # seconds between looks at a running child
_RQ_HEARTBEAT = 15.0
_GRACE = 8.0  # seconds from SIGTERM to the end, should Redis be away
_START_PATIENCE = 300.0  # seconds for a child to import torch


class ChildDied(JustrightError):
    """The training process ended in the middle of its work."""


class Child:
    """The training process and the line to it."""

    def __init__(self, environment: dict[str, str], options: list[str]) -> None:
        self._environment, self._options = environment, options
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker.child", str(theirs.fileno()), *options],
                pass_fds=[theirs.fileno()],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._line = ours
        self._pending = b""
        self._ended = False

    def fresh(self) -> Child:
        """End this process and start another one like it."""
        self.kill()
        return Child(self._environment, self._options)

    def send(self, message: dict[str, Any]) -> None:
        """Write one line to the child; a dead child is noticed by the next ``receive``."""
        try:
            self._line.sendall((json.dumps(message) + "\n").encode())
        except OSError:
            log.warning("the training process does not take its job")

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The child's next line, or None where there is none within ``seconds``.

        Raises:
            ChildDied: the process has ended; the message says how.
        """
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = max(0.0, end - time.monotonic())
            if not select.select([self._line], [], [], left)[0]:
                return None
            piece = self._line.recv(65536)
            if not piece:
                self._explain_death()
            self._pending += piece
        line, _, self._pending = self._pending.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _explain_death(self) -> None:
        try:
            code = self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.returncode
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        raise ChildDied(f"the training process ended with {how_it_ended(code)}{hint}")

    def kill(self) -> None:
        """End the process and everything it started, now. Once: its id may be another's later."""
        if self._ended:
            return
        self._ended = True
        kill_session(self.process.pid)
        self.process.wait()
        self._line.close()


class Heart(threading.Thread):
    """Beats in a thread of its own, so that nothing the main loop waits for delays it."""

    def __init__(self, broker: Broker, info: WorkerInfo, lease: float) -> None:
        super().__init__(name="heart", daemon=True)
        self._broker, self._lease = broker, lease
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.info = info

    def run(self) -> None:
        while not self._ended.wait(self._lease / 4):
            self.beat()

    def beat(self, **changes: Any) -> None:
        """Note the changes and tell Redis at once."""
        with self._lock:
            self.info = self.info.model_copy(update=changes)
            try:
                self._broker.beat(self.info, self._lease)
            except (redis.RedisError, OSError) as error:
                log.warning("Redis is away (%s); the training goes on", type(error).__name__)

    def stop(self) -> None:
        """The last beat: the worker leaves."""
        self._ended.set()
        with self._lock:
            self._broker.leave(self.info)


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

    def __init__(self, queue: Queue, broker: Broker, heart: Heart, child: Child) -> None:
        super().__init__(
            [queue],
            name=heart.info.name,
            connection=queue.connection,
            job_class=TrainingJob,
            serializer=JSONSerializer,
            log_job_description=False,
        )
        self.log_result_lifespan = False
        self._broker, self._heart, self._child = broker, heart, child

    # -- what RQ calls --------------------------------------------------------------------------

    def execute_job(self, job: RqJob, queue: Queue) -> None:
        """Run one job in the warm child, with RQ's own bookkeeping around it."""
        assert isinstance(job, TrainingJob)
        execution = self.prepare_execution(job)
        job.bind(lambda payload: self._run(payload, job, execution))
        self.perform_job(job, queue, execution)
        self.executions.pop(execution.id, None)

    def subscribe(self) -> None:
        """RQ's remote commands (kill, stop, shut down by anybody on Redis) are not served."""

    def unsubscribe(self) -> None:
        return None

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]
        end_within(_GRACE)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """A second signal: the first one is already as quick as it can be."""

    def teardown(self) -> None:
        super().teardown()  # type: ignore[no-untyped-call]
        self._heart.stop()
        self._child.kill()

    # -- the job --------------------------------------------------------------------------------

    def _run(self, payload: str, rq_job: RqJob, execution: Any) -> None:
        job = self._read(payload, rq_job)
        numbers = tuple((work.number, work.attempt) for work in job.trials)
        self._heart.beat(job=job.id, study=job.study, since=time.time())
        started = Started(study=job.study, job=job.id, worker=self.name, trials=numbers)
        self._broker.exchange([started])
        try:
            self._wait(job, rq_job, execution)
        finally:
            self._heart.beat(job=None, study=None)

    def _read(self, payload: str, rq_job: RqJob) -> Job:
        job = decode_as(Job, payload)
        if job.id != rq_job.id:
            raise MessageError(f"refused job {rq_job.id}: its content is that of another one")
        return job

    def _wait(self, job: Job, rq_job: RqJob, execution: Any) -> None:
        """Hand the job to the child and wait for it, beating RQ's drum."""
        line = {"job": job.encode()}
        self._child.send(line)
        heartbeat = time.monotonic()
        while True:
            try:
                answer = self._child.receive(_LOOK)
            except ChildDied as error:
                recycled = self._child.process.returncode == RECYCLE
                self._child = self._child.fresh()
                if not recycled:
                    self._report_end(job, FailureKind.LOST, str(error))
                    return
                self._child.send(line)
                continue
            if answer is not None and answer.get("done") == job.id:
                return
            if self._stop_requested:
                self._child.kill()
                self._report_end(job, FailureKind.RETURNED, "the worker was asked to leave")
                return
            if time.monotonic() - heartbeat > _RQ_HEARTBEAT:
                heartbeat = time.monotonic()
                self.maintain_heartbeats(rq_job, execution)

    def _report_end(self, job: Job, kind: FailureKind, message: str) -> None:
        """Say for every trial of the job what its child can no longer say."""
        failure = Failure(kind=kind, message=message)
        events: list[Event] = [
            Outcome(
                study=job.study,
                trial=work.number,
                attempt=work.attempt,
                kind=OutcomeKind.FAILED,
                failure=failure,
            )
            for work in job.trials
        ]
        if not job.trials:
            events = [Inspection(study=job.study, job=job.id, failure=failure)]
        self._broker.exchange(events)


def await_child(child: Child, heart: Heart) -> None:
    """Wait until a new child has loaded torch; its device goes into the worker's description.

    Raises:
        ChildDied: it could not; its own words are above, on stderr.
    """
    ready = child.receive(_START_PATIENCE)
    if ready is None or "ready" not in ready:
        raise ChildDied(f"the training process did not start within {_START_PATIENCE:.0f} s")
    heart.beat(device=ready["ready"]["device"])
