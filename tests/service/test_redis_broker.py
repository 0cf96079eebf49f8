"""The broker on Redis, with things in it that nobody of ours has put there."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest
import redis

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.brokers.redis_keys import Keys
from justright.errors import UsageError
from justright.messages import Cancel, Hello
from justright.signing import VALID, Signer
from tests.helpers.brokers import LONG, SHORT, a_decision, a_job, a_report, a_worker
from tests.helpers.commands import SECRET, SIGNER

GARBAGE: dict[str, bytes | str] = {
    "no JSON": b"\x80\x04\x95pickle",
    "a newer release": Hello(worker="w").encode().replace('"v":1', '"v":99'),
    "no message for us": a_decision().encode(),
    "a job": a_job(0).encode(),
}


def signed(stream: str, content: bytes | str) -> bytes | str:
    """As an owner of the secret would put it there; bytes that are no text cannot be signed."""
    if stream == Keys().commands and isinstance(content, str):
        return SIGNER.seal("command", content)
    return content


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("stream", [Keys().commands, Keys().reports])
def test_what_cannot_be_read_is_logged_and_dropped(
    clean_redis: str, caplog: pytest.LogCaptureFixture, stream: str, what: str
) -> None:
    """It must not end the orchestrator: not acknowledged, it would end the next one as well."""
    client: Any = redis.Redis.from_url(clean_redis)
    good: Any = Cancel(study="s") if stream == Keys().commands else Hello(worker="w")
    entry = client.xadd(
        stream,
        {"0": signed(stream, good.encode()), "1": signed(stream, GARBAGE[what]),
         "2": signed(stream, good.encode())},
    )  # fmt: skip
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    with caplog.at_level(logging.WARNING):
        assert broker.receive(wait=SHORT) == [good, good]
    [record] = caplog.records
    assert entry.decode() in record.getMessage()
    broker.acknowledge()
    assert client.xlen(stream) == 0


ASKED = Cancel(study="mine").encode()
FORGED: dict[str, tuple[str, str]] = {
    "not signed": (ASKED, "without a signature"),
    "another secret": (Signer("a guess of somebody else").seal("command", ASKED), "is wrong"),
    "altered": (SIGNER.seal("command", ASKED).replace("mine", "yours"), "is wrong"),
    "another purpose": (SIGNER.seal("job", ASKED), "is wrong"),
    "too old": (
        Signer(SECRET, lambda: time.time() - VALID["command"] - 60).seal("command", ASKED),
        "expired",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_command_that_is_not_signed_by_us_is_dropped(
    clean_redis: str, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Whoever reaches Redis and has no secret gives no orders; those of others still arrive."""
    client: Any = redis.Redis.from_url(clean_redis)
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    raw, why = FORGED[what]
    broker.send(Cancel(study="before"))
    entry = client.xadd(Keys().commands, {"m": raw})
    broker.send(Cancel(study="after"))
    with caplog.at_level(logging.WARNING):
        received = broker.receive(wait=SHORT)
    assert received == [Cancel(study="before"), Cancel(study="after")]
    [record] = caplog.records
    assert entry.decode() in record.getMessage()
    assert why in record.getMessage()
    broker.acknowledge()
    assert client.xlen(Keys().commands) == 0


def test_a_command_among_the_reports_is_dropped(
    clean_redis: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Reports are not signed: they are no way around the signature of commands."""
    client: Any = redis.Redis.from_url(clean_redis)
    client.xadd(Keys().reports, {"0": Hello(worker="w").encode(), "1": ASKED})
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    with caplog.at_level(logging.WARNING):
        assert broker.receive(wait=SHORT) == [Hello(worker="w")]
    [record] = caplog.records
    assert "a cancel" in record.getMessage()


def test_without_a_secret_nothing_is_sent(clean_redis: str) -> None:
    broker = RedisBroker(connect(clean_redis, patient=False))
    with pytest.raises(UsageError, match="JUSTRIGHT_SECRET"):
        broker.send(Cancel(study="s"))
    with pytest.raises(UsageError, match="JUSTRIGHT_SECRET"):
        broker.dispatch(a_job(0), "p")
    assert redis.Redis.from_url(clean_redis).keys("*") == []


@pytest.mark.parametrize("what", GARBAGE)
def test_a_worker_that_cannot_be_read_is_not_shown(clean_redis: str, what: str) -> None:
    """One worker of a newer release is no reason to stop serving the others."""
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    broker.beat(a_worker(), LONG)
    client = redis.Redis.from_url(clean_redis)
    client.sadd(Keys().workers, "strange")
    client.set(Keys().worker("strange"), GARBAGE[what])
    assert broker.workers() == [a_worker()]


@pytest.mark.parametrize("what", ["no JSON", "a newer release", "a job"])
def test_a_decision_that_cannot_be_read_is_none(clean_redis: str, what: str) -> None:
    """The reports that were sent with the question have arrived all the same."""
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    broker.decide("s", {0: a_decision()})
    redis.Redis.from_url(clean_redis).hset(Keys().decisions("s"), "1", GARBAGE[what])
    assert broker.exchange([a_report(1)], "s", [0, 1]) == {0: a_decision()}
    assert broker.receive(wait=SHORT) == [a_report(1)]


def test_a_withdrawn_job_leaves_nothing_in_redis(clean_redis: str) -> None:
    broker = RedisBroker(connect(clean_redis, patient=False), SIGNER)
    client = redis.Redis.from_url(clean_redis)
    broker.dispatch(a_job(0), "p")
    assert client.exists("rq:job:job-0")
    broker.withdraw("job-0", "p")
    assert client.keys("*job-0*") == []
