"""The worker's heartbeat: it tells Redis that the worker lives, and renews its job's lease."""

from __future__ import annotations

import logging
import threading
from typing import Any

import redis

from justright.broker import Broker
from justright.messages import WorkerInfo

log = logging.getLogger(__name__)

_BEATS = 4  # in the time of a lease, so that some may be lost


class Heartbeat(threading.Thread):
    """Beats in a thread of its own, so that nothing the main loop waits for delays it."""

    def __init__(self, broker: Broker, info: WorkerInfo, lease: float) -> None:
        """``lease``: seconds after which a worker without a beat is taken for dead."""
        super().__init__(name="heartbeat", daemon=True)
        self._broker, self._lease = broker, lease
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.info = info
        self.lost = ""  #: The job whose lease is ours no more.

    def run(self) -> None:
        while not self._ended.wait(self._lease / _BEATS):
            self.beat()

    def beat(self, **changes: Any) -> None:
        """Note the changes of the worker's description, and tell Redis at once."""
        with self._lock:
            if self._ended.is_set():
                return  # or it would be seen for a lease more
            self.info = self.info.model_copy(update=changes)
            try:
                if not self._broker.beat(self.info, self._lease):
                    self.lost = self.info.job or ""
            except (redis.RedisError, OSError) as error:
                what = f"{type(error).__name__}: {error}"
                log.warning("Redis is away (%s); the training goes on", what)

    def stop(self) -> None:
        """Beat no more, and tell Redis that the worker leaves."""
        self._ended.set()
        with self._lock:
            self._broker.leave(self.info)
