"""The orchestrator as a process: one is active, others stand by."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import uuid

import redis

from justright.broker import Broker
from justright.brokers.connection import connect, unavailable
from justright.brokers.redis import RedisBroker
from justright.errors import JustrightError, StorageBusy, StorageError, StorageLost
from justright.logs import event
from justright.processes import end_within
from justright.settings import Settings
from orchestrator.reconcile import Reconciler
from orchestrator.storage.ledger import Ledger, database_failed, open_ledger

log = logging.getLogger(__name__)

_STANDBY = 0.5
_AGAIN = 2.0  # seconds between tries to reach a database that went away
_GRACE = 8.0  # seconds from SIGTERM to the end, should Redis or the storage be away


def run_orchestrator(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        RedisUnavailable: there is no Redis at the start.
        StorageError: the study storage refused, or somebody else writes it.
    """
    url = settings.redis_url.get_secret_value()
    signer = settings.signer()
    connect(url, patient=False).close()
    broker = RedisBroker(connect(url, patient=True), signer)
    _warn(broker)
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        end_within(_GRACE)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    opened = stood_by = False
    try:
        while not stop.is_set():
            try:
                if not broker.lead(name, settings.lease):
                    _refuse_another_secret(broker)
                    stood_by = True
                    stop.wait(_STANDBY)
                    continue
                # What was read and not acknowledged is read again by a new receiver.
                books = open_ledger(settings.storage_place)
                opened = True
                receiver = RedisBroker(connect(url, patient=True), signer)
                _serve(receiver, books, settings, name, stop)
            except StorageBusy:
                if not stood_by:
                    raise
                # The one that was active has been silent, but lives: it may go on, or end.
                broker.resign(name)
                stop.wait(_AGAIN)
            except StorageLost as error:
                log.warning("%s; standing by", error)
                stood_by = True
            except redis.RedisError as error:  # full, or not ours: somebody will mend it
                log.warning("%s Trying again.", unavailable(url, error))
                stop.wait(_AGAIN)
            except StorageError as error:
                if not opened or "://" not in settings.storage_place:
                    raise  # a database that goes away comes back; a full disk needs somebody
                log.warning("%s; trying again", error)
                stop.wait(_AGAIN)
    finally:
        with contextlib.suppress(redis.RedisError):
            broker.resign(name)
    return 0


def _refuse_another_secret(broker: RedisBroker) -> None:
    """Two projects on one Redis would take each other's commands for forged.

    Raises:
        JustrightError: the active orchestrator has another secret than we.
    """
    if broker.other_secret():
        raise JustrightError(
            f"the orchestrator {broker.leader()} serves this Redis with another JUSTRIGHT_SECRET. "
            "For the same project set the same secret; for another one set JUSTRIGHT_NAMESPACE, on "
            "all its machines, to a name of its own."
        )


def _warn(broker: RedisBroker) -> None:
    """Say what of Redis' configuration may lose jobs, as ``doctor`` does."""
    with contextlib.suppress(redis.ResponseError):  # its user may not be allowed to ask
        for concern in broker.concerns():
            log.warning("%s", concern)


def _serve(
    broker: Broker, books: Ledger, settings: Settings, name: str, stop: threading.Event
) -> None:
    """Be the active one until told to stop, or until another one has taken over.

    Raises:
        StorageError: the storage failed. All that counts is in it and in Redis: go on from there.
    """
    event(log, "orchestrator active", orchestrator=name)
    leadership = _Leadership(broker, name, settings.lease)
    leadership.start()
    try:
        reconciler = Reconciler(broker, books, settings)
        while not stop.is_set():
            if leadership.lost.is_set():
                log.warning("another orchestrator has taken over; standing by")
                return
            reconciler.turn()
        reconciler.turn(wait=0.0)  # what workers that stopped with us have handed back
    except books.failures as error:
        raise database_failed(settings.storage_place, error) from None
    finally:
        leadership.end()
        books.close()


class _Leadership(threading.Thread):
    """Stays the active one, in a thread: a turn on a slow database may take longer than that."""

    def __init__(self, broker: Broker, name: str, lease: float) -> None:
        super().__init__(name="leadership", daemon=True)
        self._broker, self._name, self._lease = broker, name, lease
        self._ended = threading.Event()
        self.lost = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(self._lease / 4):
            try:
                if self._broker.lead(self._name, self._lease):
                    continue
            except redis.RedisError as error:
                log.warning("Redis is away: %s", type(error).__name__)
            self.lost.set()
            return

    def end(self) -> None:
        """Renew no more: what is resigned afterwards stays resigned."""
        self._ended.set()
        self.join(self._lease)
