"""Both brokers behind one handle, for tests that hold for either, and small messages for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rq import Queue
from rq.serializers import JSONSerializer

from justright.broker import Broker
from justright.brokers.connection import connect
from justright.brokers.memory import MemoryBroker
from justright.brokers.queue import TrainingJob, pool_queue
from justright.brokers.redis import RedisBroker
from justright.lifecycle import StudyState
from justright.messages import (
    Command,
    Decision,
    Event,
    InspectJob,
    Job,
    Report,
    Snapshot,
    WorkerInfo,
    decode_job,
)
from justright.spec import StudySpec, TaskRef
from tests.helpers.commands import SIGNER
from tests.helpers.twin import Clock

LONG = 600.0  # seconds that no test lasts
SHORT = 0.02
TASK = TaskRef(target="/tasks/t.py:T")


@dataclass
class House:
    """A broker, and what a test needs to know of what is behind it."""

    broker: Broker
    successor: Callable[[], Broker]  #: What a receiver that takes over is given.
    take: Callable[[str], Job | None]  #: What a worker takes from a pool's queue.
    wait: Callable[[], None]  #: Time goes by: more than SHORT, little of LONG.

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for what time alone brings."""
        deadline = time.monotonic() + 20
        while not true():
            assert time.monotonic() < deadline
            self.wait()

    def received(self) -> list[Command | Event]:
        return self.broker.receive(wait=SHORT)


def in_memory() -> House:
    clock = Clock()
    broker = MemoryBroker(clock)

    def successor() -> Broker:
        broker.restart_receiver()
        return broker

    def wait() -> None:
        clock.now += 2 * SHORT

    return House(broker, successor, lambda pool: broker.take(pool, "w", SHORT), wait)


def on_redis(url: str) -> House:
    def successor() -> Broker:
        return RedisBroker(connect(url, patient=False), SIGNER)

    def take(pool: str) -> Job | None:
        queue = pool_queue(pool, connect(url, patient=False))
        found: Any = Queue.dequeue_any(
            [queue], None, queue.connection, job_class=TrainingJob, serializer=JSONSerializer
        )
        if found is None:
            return None
        job = decode_job(SIGNER.open("job", found[0].args[0]))
        return job if successor().claim(job.id, "w", SHORT) else None

    return House(successor(), successor, take, lambda: time.sleep(2 * SHORT))


def a_job(number: int) -> Job:
    return InspectJob(id=f"job-{number}", study="s", task=TASK)


def a_worker(name: str = "w", job: str | None = None) -> WorkerInfo:
    return WorkerInfo(name=name, pool="p", host="h", pid=1, device="cpu", job=job)


def a_report(step: int) -> Report:
    return Report(study="s", trial=0, attempt=1, step=step, loss=None)


def a_decision(attempt: int = 1) -> Decision:
    return Decision(attempt=attempt, action="stop", reason="worse than half")


def a_snapshot(study: str, submission: str = "1") -> Snapshot:
    return Snapshot(
        study=study, submission=submission, spec=StudySpec(name=study, task=TASK),
        state=StudyState.RUNNING, task="t.py:T", total=30, horizon=None,
    )  # fmt: skip
