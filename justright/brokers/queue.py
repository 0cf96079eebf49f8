"""RQ, narrowed to justright's one job.

RQ lets a job name any importable function, callbacks and webhooks. ``TrainingJob`` has none of
these: a worker that reads its jobs through this class can run nothing but its own training,
whatever a queue holds. Everything is JSON; pickle is never used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from justright.brokers.redis_keys import queue_name
from justright.errors import RefusedJob
from justright.messages import Job, TrainJob
from justright.settings import load_settings
from justright.signing import Signer

FUNCTION = "justright.train"
FAILURE_SECONDS = 24 * 3600  #: How long RQ remembers a job that it could not run.


class TrainingJob(RqJob):
    """An RQ job that can only be handed to the worker that bound itself to it."""

    _train: Callable[[str], None] | None = None

    def bind(self, train: Callable[[str], None]) -> None:
        """Give the job its function: the worker's own."""
        self._train = train

    @property
    def func(self) -> Callable[..., None]:
        if self.func_name != FUNCTION or self.kwargs or len(self.args or ()) != 1:
            raise RefusedJob(
                f"refused a job that calls {self.func_name!r}: this worker runs {FUNCTION} only"
            )
        if self._train is None:
            raise RefusedJob("refused a job outside of a justright worker")
        return self._train

    # RQ would import and call whatever a job names here.
    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, *args: Any, **kwargs: Any) -> None:
        return None


def pool_queue(pool: str, client: redis.Redis, namespace: str | None = None) -> Queue:
    """The queue of a pool. One queue a pool: RQ loses jobs of workers that listen to two.

    ``namespace``: None: as JUSTRIGHT_NAMESPACE says.
    """
    namespace = load_settings().namespace if namespace is None else namespace
    return Queue(
        queue_name(pool, namespace),
        connection=client,
        job_class=TrainingJob,
        serializer=JSONSerializer,
    )


def enqueue(queue: Queue, job: Job, signer: Signer) -> None:
    """Put a job on the queue under its own id, signed; RQ keeps nothing of it once it has run."""
    trials = [work.number for work in job.trials] if isinstance(job, TrainJob) else []
    queue.enqueue_call(
        func=FUNCTION,
        args=(signer.seal("job", job.encode()),),
        job_id=job.id,
        timeout=-1,
        result_ttl=0,
        failure_ttl=FAILURE_SECONDS,
        description=f"study {job.study}, trials {trials}",
    )


def withdraw(queue: Queue, job: str) -> None:
    """Take a job off the queue if no worker has taken it."""
    if queue.remove(job):
        try:
            TrainingJob.fetch(job, connection=queue.connection, serializer=JSONSerializer).delete()
        except NoSuchJobError:
            return
