"""What was decided about the trials of the present job, as the parent hears it.

The child hears it as well, and obeys between two steps. Code that hangs, or that has broken its own
process, does not: then the parent ends it.
"""

from __future__ import annotations

import logging
import math
import threading
import time

import redis

from justright.broker import Broker
from justright.messages import Decision, Job, TrainJob

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0  # seconds


class Orders(threading.Thread):
    """Asks Redis in a thread, so that a Redis that is away holds nothing up."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(name="orders", daemon=True)
        self._broker = broker
        self._lock = threading.Lock()
        self._job: TrainJob | None = None
        self._stop_since = self._pause_since = math.inf

    def watch(self, job: Job | None) -> None:
        """From now on, look at the trials of this job."""
        with self._lock:
            self._job = job if isinstance(job, TrainJob) else None
            self._stop_since = self._pause_since = math.inf

    @property
    def stopped_for(self) -> float:
        """Seconds since all trials of the job were told to stop; below 0: they are not."""
        return time.monotonic() - self._stop_since

    @property
    def at_rest_for(self) -> float:
        """Seconds since all of them were told to stop or to pause; below 0: they are not."""
        return time.monotonic() - self._pause_since

    def run(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            job = self._job
            if job is None:
                continue
            try:
                found = self._broker.exchange([], job.study, [w.number for w in job.trials])
            except (redis.RedisError, OSError) as error:
                log.debug("Redis is away: %s", type(error).__name__)
                continue
            with self._lock:
                if job is self._job:
                    self._note(job, found)

    def _note(self, job: TrainJob, found: dict[int, Decision]) -> None:
        told = {
            work.number: found[work.number].action
            for work in job.trials
            if work.number in found and found[work.number].attempt == work.attempt
        }
        now = time.monotonic()
        all_told = len(told) == len(job.trials)
        all_stop = all_told and set(told.values()) == {"stop"}
        self._stop_since = min(self._stop_since, now) if all_stop else math.inf
        self._pause_since = min(self._pause_since, now) if all_told else math.inf
