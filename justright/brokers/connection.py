"""Connecting to Redis, and our words for what goes wrong with that."""

from __future__ import annotations

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from justright.errors import RedisUnavailable
from justright.settings import without_password

# Seconds between two tries, and how many a service makes: for an hour in all.
_FIRST_PAUSE, _LONGEST_PAUSE, _TRIES = 0.05, 3.0, 1200
_CONNECT_TIMEOUT = 5  # seconds
_CHECK_EVERY = 30  # seconds that a connection may rest until it is tried before its next use
# In the newer one redis-py asks for notices of maintenance, which only the vendor's own service
# gives; elsewhere that is a refusal in the log of each connection's rights.
_PROTOCOL = 2


def connect(url: str, *, patient: bool) -> redis.Redis:
    """Open a connection.

    ``patient`` is for services: a Redis that is away is waited for, for an hour. Without it, as
    on the command line, the first failure is an answer.

    Raises:
        RedisUnavailable: the URL has no known form, or an impatient connection found no Redis.
    """
    retry = Retry(
        ExponentialBackoff(cap=_LONGEST_PAUSE, base=_FIRST_PAUSE), _TRIES if patient else 1
    )
    try:
        client = redis.Redis.from_url(
            url,
            retry=retry,
            # Full, or a replica for now: somebody will mend it, as one that is away.
            retry_on_error=[
                redis.ConnectionError,
                redis.TimeoutError,
                redis.exceptions.OutOfMemoryError,
                redis.ReadOnlyError,
            ],
            socket_connect_timeout=_CONNECT_TIMEOUT,
            health_check_interval=_CHECK_EVERY,
            protocol=_PROTOCOL,
        )
        if not patient:
            client.ping()
    except (redis.RedisError, ValueError, OSError) as error:
        raise unavailable(url, error) from None
    return client


def unavailable(url: str, error: Exception) -> RedisUnavailable:
    """Word a connection failure for its user, without the password."""
    shown = without_password(url)
    if isinstance(error, redis.AuthenticationError) or "NOAUTH" in str(error):
        return RedisUnavailable(
            f"Redis at {shown} refused the password. Put the right one into JUSTRIGHT_REDIS_URL, "
            "as redis://:PASSWORD@HOST:PORT/0, with the user's name before the colon if it has one."
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return RedisUnavailable(
            f"Redis at {shown} does not let this user do that ({error}). Each part of the service "
            "has a user of its own: see deploy/redis.acl."
        )
    if "certificate" in str(error).lower():
        return RedisUnavailable(
            f"the certificate of Redis at {shown} is not to be trusted ({error}). Name the file of "
            "the authority that signed it in JUSTRIGHT_REDIS_URL: rediss://...?ssl_ca_certs=PATH."
        )
    if isinstance(error, ValueError):
        return RedisUnavailable(
            f"found {shown!r} as the address of Redis, expected redis://HOST:PORT/0, "
            "rediss://... or unix://PATH in JUSTRIGHT_REDIS_URL."
        )
    return RedisUnavailable(
        f"no Redis answers at {shown} ({type(error).__name__}). Start one (redis-server), set "
        "JUSTRIGHT_REDIS_URL, or use `justright tune`, which brings its own."
    )
