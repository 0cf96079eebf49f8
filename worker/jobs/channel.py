"""The worker's line to the orchestrator: reports out, decisions in, beside the training.

A thread of its own does the talking, so that reporting costs the training a queue's put.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence

import redis

from justright.broker import Broker
from justright.failures import Failure, FailureKind
from justright.messages import Decision, Event, Report

log = logging.getLogger(__name__)

_DECISION_POLL = 1.0  # seconds between looks at the decisions when there is nothing to report
_REDIS_RETRY = 1.0  # seconds between tries while Redis is away


class Channel:
    """Sends events in order and keeps the latest decisions of the watched trials.

    Redis away: events wait here, the training goes on, and they are sent when it is back.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._outgoing: queue.Queue[Event] = queue.Queue()
        self._study = ""
        self._trials: tuple[int, ...] = ()
        self.reported = False  #: Whether the present job has got anywhere.
        self._decisions: dict[int, Decision] = {}
        self.leaving: Failure | None = None  #: Why all trials shall be given back now.
        thread = threading.Thread(target=self._run, name="channel", daemon=True)
        thread.start()

    def watch(self, study: str, trials: Sequence[int]) -> None:
        """From now on, fetch the decisions for these trials."""
        self.reported = False
        self._decisions = {}
        self._study, self._trials = study, tuple(trials)

    def leave(self, reason: str, kind: FailureKind) -> None:
        """Have all trials end between two batches, or at their next report."""
        # One that leaks gets on all the same, from checkpoint to checkpoint.
        self.leaving = Failure(kind=kind, message=reason, counts=not self.reported)

    def send(self, event: Event) -> None:
        """Queue one event; returns at once.

        Raises:
            ValueError: it cannot be encoded. Here, where its sender can still do something.
        """
        event.encode()
        self.reported = self.reported or isinstance(event, Report)
        self._outgoing.put(event)

    def decision(self, trial: int, attempt: int) -> Decision | None:
        """The decision for this attempt of a trial, as far as it has come."""
        found = self._decisions.get(trial)
        return found if found is not None and found.attempt == attempt else None

    def flush(self) -> None:
        """Wait until all that was sent has been delivered."""
        self._outgoing.join()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:
            # Without this thread nobody hears of the training any more: end it, and be missed.
            log.exception("the line to the orchestrator broke")
            os._exit(1)

    def _serve(self) -> None:
        while True:
            events: list[Event] = []
            try:
                events.append(self._outgoing.get(timeout=_DECISION_POLL))
                while True:
                    events.append(self._outgoing.get_nowait())
            except queue.Empty:
                pass
            if events or self._trials:
                self._exchange(events)
            for _ in events:
                self._outgoing.task_done()

    def _exchange(self, events: list[Event]) -> None:
        while True:
            study, trials = self._study, self._trials
            try:
                found = self._broker.exchange(events, study, trials)
            except (redis.RedisError, OSError) as error:
                log.warning("Redis is away (%s); the reports wait here", type(error).__name__)
                time.sleep(_REDIS_RETRY)
                continue
            if trials == self._trials and study == self._study:
                self._decisions.update(found)
            return
