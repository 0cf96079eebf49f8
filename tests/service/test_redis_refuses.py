"""A Redis that answers and refuses is told apart from one that is not there, and how to mend it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from justright.brokers.connection import connect, unavailable
from justright.errors import RedisUnavailable
from tests.helpers.commands import EXAMPLES, justright
from tests.helpers.servers import free_port, running_redis


def client(url: str) -> Any:
    return cast(Any, redis.Redis.from_url(url))


def replica(url: str, folder: Path) -> str:
    (folder / "primary").mkdir()
    client(url).execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
    return url


def full(url: str, folder: Path) -> str:
    client(url).config_set("maxmemory", 1)
    return url


def no_database(url: str, folder: Path) -> str:
    return url.replace("/0", "/99")


def wrong_password(url: str, folder: Path) -> str:
    client(url).config_set("requirepass", "right")
    return url.replace("redis://", "redis://:wrong@")


def no_password(url: str, folder: Path) -> str:
    client(url).config_set("requirepass", "right")
    return url


def plain(url: str, folder: Path) -> str:
    return url.replace("redis://", "rediss://")


REFUSALS: dict[Callable[[str, Path], str], str] = {
    replica: "is a read-only replica",
    full: "is full",
    no_database: "has no such database",
    wrong_password: "refused the password",
    no_password: "refused the password",
    plain: "does not speak TLS",
}


@pytest.mark.parametrize("make", REFUSALS, ids=lambda make: make.__name__)
def test_what_a_real_redis_refuses_is_said(
    tmp_path: Path, make: Callable[[str, Path], str]
) -> None:
    with running_redis(tmp_path, durable=False) as url:
        refusing = make(url, tmp_path)
        with pytest.raises(RedisUnavailable, match=REFUSALS[make]) as caught:
            connect(refusing, patient=False, writes="commands")
    assert "wrong@" not in str(caught.value)
    assert make is plain or "Start one" not in str(caught.value)


def test_trying_whether_it_takes_writes_leaves_nothing(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        for stream in ("commands", "reports"):
            connect(url, patient=False, writes=cast(Any, stream))
        assert client(url).dbsize() == 0


def test_the_commands_say_so(tmp_path: Path) -> None:
    with running_redis(tmp_path, durable=False) as url:
        full(url, tmp_path)
        env = {"JUSTRIGHT_REDIS_URL": url, "JUSTRIGHT_STATE": str(tmp_path / "state")}
        submitted = justright("submit", f"{EXAMPLES}/digits.py:Digits", env=env)
        worker = justright("worker", "--gpus", "none", env=env)
        doctor = justright("doctor", env=env)
    for done in (submitted, worker):
        assert done.returncode == 1
        assert "is full" in done.stderr
    assert "is full" in doctor.stdout


@contextmanager
def another_server() -> Iterator[str]:
    """Something that is no Redis."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                found, _ = listener.accept()
            except OSError:
                return
            found.recv(1000)
            found.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            found.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
    listener.close()


def test_what_is_no_redis(tmp_path: Path) -> None:
    with another_server() as url, pytest.raises(RedisUnavailable, match="is no Redis"):
        connect(url, patient=False)


WORDS = {
    "MISCONF Redis is configured to save RDB snapshots": "cannot save to its disk",
    "LOADING Redis is loading the dataset in memory": "still loading",
    "BUSY Redis is busy running a script.": "busy with a script",
    "MOVED 3999 127.0.0.1:6381": "node of a cluster",
    "MASTERDOWN Link with MASTER is down": "lost its primary",
    "NOPERM this user has no permissions to run the 'xadd' command": "does not let this user",
    "ERR max number of clients reached": "as many clients as it takes",
    "ERR unknown command `BLMOVE`": "does not know a command",
}


@pytest.mark.parametrize("said", WORDS)
def test_the_words_for_what_cannot_be_made_here(said: str) -> None:
    assert WORDS[said] in str(unavailable("redis://:pw@h:1/0", redis.ResponseError(said)))
    assert "pw" not in str(unavailable("redis://:pw@h:1/0", redis.ResponseError(said)))
