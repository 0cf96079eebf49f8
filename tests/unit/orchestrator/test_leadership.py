"""A leader that cannot renew its lease knows that it leads no more."""

from __future__ import annotations

import redis

from justright.brokers.memory import MemoryBroker
from orchestrator.main import _Leadership

LEASE = 0.2
PATIENCE = 10.0  # seconds


def test_another_leader_is_noticed() -> None:
    broker = MemoryBroker()
    assert broker.lead("one", 60.0)
    leadership = _Leadership(broker, "two", LEASE)
    leadership.start()
    assert leadership.lost.wait(PATIENCE)
    leadership.end()


def test_a_redis_that_refuses_is_noticed() -> None:
    class Away(MemoryBroker):
        def lead(self, owner: str, seconds: float) -> bool:
            raise redis.ConnectionError

    leadership = _Leadership(Away(), "one", LEASE)
    leadership.start()
    assert leadership.lost.wait(PATIENCE)
    leadership.end()


def test_who_leads_goes_on() -> None:
    broker = MemoryBroker()
    leadership = _Leadership(broker, "one", LEASE)
    leadership.start()
    assert not leadership.lost.wait(5 * LEASE)
    leadership.end()
    assert broker.leader() in ("one", None)
