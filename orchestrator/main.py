"""The orchestrator as a process: one is active, others stand by."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
import uuid

from justright.broker import Broker, RedisBroker, connect
from justright.errors import StorageError
from justright.processes import end_within
from justright.settings import Settings
from orchestrator.ledger import Ledger, database_failed, open_ledger
from orchestrator.reconcile import Reconciler

log = logging.getLogger(__name__)

_LEAD = 10.0  # seconds that a silent leader keeps a standby waiting
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
    connect(url, patient=False).close()
    broker = RedisBroker(connect(url, patient=True))
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        end_within(_GRACE)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    opened = False
    try:
        while not stop.is_set():
            if not broker.lead(name, _LEAD):
                stop.wait(_STANDBY)
                continue
            try:
                # What was read and not acknowledged is read again by a new receiver.
                books = open_ledger(settings.storage_place)
                opened = True
                _serve(RedisBroker(connect(url, patient=True)), books, settings, name, stop)
            except StorageError as error:
                if not opened or "://" not in settings.storage_place:
                    raise  # a database that goes away comes back; a full disk needs somebody
                log.warning("%s; trying again", error)
                stop.wait(_AGAIN)
    finally:
        broker.resign(name)
    return 0


def _serve(
    broker: Broker, books: Ledger, settings: Settings, name: str, stop: threading.Event
) -> None:
    """Be the active one until told to stop, or until another one has taken over.

    Raises:
        StorageError: the storage failed. All that counts is in it and in Redis: go on from there.
    """
    log.info("orchestrator %s is active", name)
    try:
        reconciler = Reconciler(broker, books, settings)
        renew = 0.0
        while not stop.is_set():
            now = time.monotonic()
            if now >= renew:
                if not broker.lead(name, _LEAD):
                    log.warning("another orchestrator has taken over; standing by")
                    return
                renew = now + _LEAD / 4
            reconciler.turn()
        reconciler.turn(wait=0.0)  # what workers that stopped with us have handed back
    except books.failures as error:
        raise database_failed(settings.storage_place, error) from None
    finally:
        books.close()
