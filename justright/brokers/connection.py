"""Connecting to Redis, and our words for what goes wrong with that."""

from __future__ import annotations

from typing import Any, Literal, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from justright.brokers.redis_keys import Keys
from justright.errors import RedisUnavailable
from justright.settings import load_settings, without_password

_PASSWORD = (
    "Redis at {shown} refused the password. Put the right one into JUSTRIGHT_REDIS_URL, as "
    "redis://:PASSWORD@HOST:PORT/0, with the user's name before the colon if it has one."
)
_NO_PASSWORD = (
    "Redis at {shown} has no password, and JUSTRIGHT_REDIS_URL gives one: leave it out there, or "
    "set `requirepass` in the configuration of Redis."
)
_RIGHTS = (
    "Redis at {shown} does not let this user do that ({error}). Each part of the service has a "
    "user of its own: see deploy/redis.acl."
)
_REPLICA = (
    "Redis at {shown} is a read-only replica. Name the primary in JUSTRIGHT_REDIS_URL (its "
    "address: redis-cli info replication)."
)
_FULL = (
    "Redis at {shown} is full: it takes no writes (maxmemory). Raise `maxmemory` in its "
    "configuration, or remove what else is in it; maxmemory-policy stays noeviction."
)
_ORPHAN = (
    "Redis at {shown} is a replica that has lost its primary ({error}). Name the primary in "
    "JUSTRIGHT_REDIS_URL."
)
_LOADING = "Redis at {shown} is still loading its data. Try again in a moment."
_CLUSTER = (
    "Redis at {shown} is a node of a cluster ({error}), which RQ does not support. Name a Redis "
    "that is no cluster in JUSTRIGHT_REDIS_URL."
)
_NO_REDIS = (
    "what answers at {shown} is no Redis ({error}). Check host and port in JUSTRIGHT_REDIS_URL."
)
_TLS = (
    "Redis at {shown} does not speak TLS there ({error}). Write redis:// instead of rediss:// in "
    "JUSTRIGHT_REDIS_URL, or name its TLS port."
)

Stream = Literal["commands", "reports"]

# Seconds between two tries, and how many a service makes: for an hour in all.
_FIRST_PAUSE, _LONGEST_PAUSE, _TRIES = 0.05, 3.0, 1200
_CONNECT_TIMEOUT = 5  # seconds
_CHECK_EVERY = 30  # seconds that a connection may rest until it is tried before its next use
# In the newer one redis-py asks for notices of maintenance, which only the vendor's own service
# gives; elsewhere that is a refusal in the log of each connection's rights.
_PROTOCOL = 2


#: What Redis, or redis-py, says when it refuses, and our words for that.
_REFUSALS = {
    "invalid username-password": _PASSWORD,
    "WRONGPASS": _PASSWORD,
    "NOAUTH": _PASSWORD,
    "called without any password": _NO_PASSWORD,
    "AuthenticationError": _PASSWORD,
    "NoPermissionError": _RIGHTS,
    "NOPERM": _RIGHTS,
    "no permissions": _RIGHTS,
    "ReadOnlyError": _REPLICA,
    "READONLY": _REPLICA,
    "read only replica": _REPLICA,
    "OutOfMemoryError": _FULL,
    "used memory > 'maxmemory'": _FULL,
    "DB index is out of range": (
        "Redis at {shown} has no such database. Its number stands at the end of "
        "JUSTRIGHT_REDIS_URL: write /0, or raise `databases` in its configuration."
    ),
    "MISCONF": (
        "Redis at {shown} takes no writes, since it cannot save to its disk ({error}). Look at its "
        "log and make room there."
    ),
    "BusyLoadingError": _LOADING,
    "is loading the dataset": _LOADING,
    "BUSY": (
        "Redis at {shown} is busy with a script of somebody else ({error}). Wait, or end it with "
        "SCRIPT KILL."
    ),
    "MasterDownError": _ORPHAN,
    "MASTERDOWN": _ORPHAN,
    "MOVED": _CLUSTER,
    "MovedError": _CLUSTER,
    "CROSSSLOT": _CLUSTER,
    "unknown command": (
        "Redis at {shown} does not know a command that justright needs ({error}). It needs Redis "
        "6.2 or newer, or Valkey, with no command renamed."
    ),
    "InvalidResponse": _NO_REDIS,
    "Protocol Error": _NO_REDIS,
    "max number of clients": (
        "Redis at {shown} has as many clients as it takes. Raise `maxclients` in its configuration."
    ),
    "WRONG_VERSION_NUMBER": _TLS,
    "wrong version number": _TLS,
    "record layer failure": _TLS,
}


def connect(url: str, *, patient: bool, writes: Stream | None = None) -> redis.Redis:
    """Open a connection. ``writes``: see that it takes what goes into this stream.

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
                redis.exceptions.BusyLoadingError,
            ],
            socket_connect_timeout=_CONNECT_TIMEOUT,
            health_check_interval=_CHECK_EVERY,
            protocol=_PROTOCOL,
        )
        if not patient:
            client.ping()
            if writes:
                _try_to_write(client, writes)
    except (redis.RedisError, ValueError, OSError) as error:
        raise unavailable(url, error) from None
    return client


def unavailable(url: str, error: Exception) -> RedisUnavailable:
    """Word a connection failure for its user, without the password."""
    shown = without_password(url)
    text = str(error)
    for sign, words in _REFUSALS.items():
        if sign in text or sign in type(error).__name__:
            return RedisUnavailable(words.format(shown=shown, error=text))
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
    tls = url.startswith("rediss:")
    other = "does not speak TLS: then write redis://" if tls else "speaks TLS: then write rediss://"
    closed = isinstance(error, redis.TimeoutError) if tls else "closed by server" in text
    hint = f" Perhaps what listens there {other}." if closed else ""
    return RedisUnavailable(
        f"no Redis answers at {shown} ({type(error).__name__}).{hint} Start one (redis-server), "
        "set JUSTRIGHT_REDIS_URL, or use `justright tune`, which brings its own."
    )


def _try_to_write(client: redis.Redis, stream: Stream) -> None:
    """Write what changes nothing: a replica, or a Redis that is full, refuses it as any other."""
    keys = Keys(load_settings().namespace)
    key = keys.commands if stream == "commands" else keys.reports
    ask = cast(Any, client)
    try:
        # An entry before the first one that a stream can have is refused for its id, by one that
        # takes writes at all.
        ask.execute_command("XADD", key, "NOMKSTREAM", "0-0", "m", "")
    except redis.exceptions.NoPermissionError:
        return  # this user writes elsewhere: what it may not do is told when it is done
    except redis.ResponseError as error:
        if "must be greater than 0-0" not in str(error):
            raise
