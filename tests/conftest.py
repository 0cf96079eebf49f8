from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.helpers.commands import SECRET
from tests.helpers.servers import Postgres, postgres, postgres_programs, running_redis

# Tests run beside each other: one thread each, for what they start as well.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

# What is started inherits what is ignored: nohup, and shells that run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# No test has a time limit as its claim; on a busy machine one slow example says nothing.
settings.register_profile("justright", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.register_profile("quick", deadline=None, max_examples=15)  # of ``make unit``
settings.load_profile("ci" if os.environ.get("CI") else "justright")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings or the state of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("JUSTRIGHT_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("JUSTRIGHT_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("JUSTRIGHT_SECRET", SECRET)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis, shared: a test that uses it begins with FLUSHALL (see ``clean_redis``)."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def clean_redis(redis_url: str) -> str:
    """The shared Redis, emptied."""
    import redis

    redis.Redis.from_url(redis_url).flushall()
    return redis_url


@pytest.fixture
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL. Its tests are left out, with the reason, where none is installed."""
    if postgres_programs() is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
    with postgres() as server:
        yield server
