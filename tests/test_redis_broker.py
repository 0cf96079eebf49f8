"""The broker on Redis, with things in it that nobody of ours has put there."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import redis

from justright.broker import (
    COMMANDS,
    REPORTS,
    WORKERS,
    RedisBroker,
    connect,
    decisions_key,
    worker_key,
)
from justright.messages import Hello
from tests.brokers import LONG, SHORT, a_decision, a_job, a_report, a_worker

GARBAGE: dict[str, bytes | str] = {
    "no JSON": b"\x80\x04\x95pickle",
    "a newer release": Hello(worker="w").encode().replace('"v":1', '"v":99'),
    "no message for us": a_decision().encode(),
    "a job": a_job(0).encode(),
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("stream", [COMMANDS, REPORTS])
def test_what_cannot_be_read_is_logged_and_dropped(
    clean_redis: str, caplog: pytest.LogCaptureFixture, stream: str, what: str
) -> None:
    """It must not end the orchestrator: not acknowledged, it would end the next one as well."""
    client: Any = redis.Redis.from_url(clean_redis)
    good = Hello(worker="w").encode()
    entry = client.xadd(stream, {"0": good, "1": GARBAGE[what], "2": good})
    broker = RedisBroker(connect(clean_redis, patient=False))
    with caplog.at_level(logging.WARNING):
        assert broker.receive(wait=SHORT) == [Hello(worker="w"), Hello(worker="w")]
    [record] = caplog.records
    assert entry.decode() in record.getMessage()
    broker.acknowledge()
    assert client.xlen(stream) == 0


@pytest.mark.parametrize("what", GARBAGE)
def test_a_worker_that_cannot_be_read_is_not_shown(clean_redis: str, what: str) -> None:
    """One worker of a newer release is no reason to stop serving the others."""
    broker = RedisBroker(connect(clean_redis, patient=False))
    broker.beat(a_worker(), LONG)
    client = redis.Redis.from_url(clean_redis)
    client.sadd(WORKERS, "strange")
    client.set(worker_key("strange"), GARBAGE[what])
    assert broker.workers() == [a_worker()]


@pytest.mark.parametrize("what", ["no JSON", "a newer release", "a job"])
def test_a_decision_that_cannot_be_read_is_none(clean_redis: str, what: str) -> None:
    """The reports that were sent with the question have arrived all the same."""
    broker = RedisBroker(connect(clean_redis, patient=False))
    broker.decide("s", {0: a_decision()})
    redis.Redis.from_url(clean_redis).hset(decisions_key("s"), "1", GARBAGE[what])
    assert broker.exchange([a_report(1)], "s", [0, 1]) == {0: a_decision()}
    assert broker.receive(wait=SHORT) == [a_report(1)]


def test_a_withdrawn_job_leaves_nothing_in_redis(clean_redis: str) -> None:
    broker = RedisBroker(connect(clean_redis, patient=False))
    client = redis.Redis.from_url(clean_redis)
    broker.dispatch(a_job(0), "p")
    assert client.exists("rq:job:job-0")
    broker.withdraw("job-0", "p")
    assert client.keys("*job-0*") == []
