"""Real servers for tests and benchmarks: started here, on free ports or sockets, in temporary
folders, and ended by their own process. Nothing that was running before is touched."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from justright.local.embedded_redis import redis_server

_PATIENCE = 20.0


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_redis(folder: Path, *, password: str = "", durable: bool = True) -> Iterator[str]:
    """A redis-server on a free port; yields its URL."""
    port = free_port()
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f'dir "{folder}"',
        'save ""',
        f"appendonly {'yes' if durable else 'no'}",
    ]
    if password:
        lines.append(f"requirepass {password}")
    server = subprocess.Popen(
        [redis_server(), "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None
    server.stdin.write("\n".join(lines).encode())
    server.stdin.close()
    url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{port}/0"
    try:
        client = redis.Redis.from_url(url)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=_PATIENCE)


def postgres_programs() -> tuple[str, str] | None:
    """Paths of initdb and postgres, on PATH or where Debian puts them."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = os.pathsep.join([os.environ.get("PATH", ""), *places])
    initdb, postgres = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    return (initdb, postgres) if initdb and postgres else None


class Postgres:
    """A PostgreSQL with an empty database, on a free port.

    PostgreSQL refuses to run as root: then it runs as "nobody".
    """

    def __init__(self, folder: Path) -> None:
        programs = postgres_programs()
        assert programs is not None, "no PostgreSQL here: install it (Debian: postgresql)"
        initdb, self._program = programs
        self._folder, self._port = folder, free_port()
        self._user = "nobody" if os.geteuid() == 0 else None
        self._server: subprocess.Popen[bytes] | None = None
        self.password = secrets.token_hex(8)
        place = f"justright:{self.password}@127.0.0.1:{self._port}/postgres"
        self.url = f"postgresql+psycopg://{place}"
        password_file = folder / "password"
        password_file.write_text(self.password)
        if self._user:
            entry = pwd.getpwnam(self._user)
            for path in (folder, password_file):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        subprocess.run(
            [initdb, "-D", folder / "data", "-U", "justright", "-A", "scram-sha-256", "-N",
             f"--pwfile={password_file}"],
            check=True, user=self._user, cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        self._server = subprocess.Popen(
            [self._program, "-D", self._folder / "data", "-p", str(self._port),
             "-k", str(self._folder), "-h", "127.0.0.1"],
            user=self._user, cwd=self._folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _await_postgres(self._port, self.password, self._server)

    def stop(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)  # "fast": SIGTERM waits for clients
            self._server.wait(timeout=_PATIENCE)


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that runs, and that a test may stop and start."""
    folder = Path(tempfile.mkdtemp(prefix="justright-pg-"))
    server: Postgres | None = None
    try:
        server = Postgres(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres() -> Iterator[str]:
    """A PostgreSQL that runs; yields a SQLAlchemy URL of an empty database."""
    with postgres() as server:
        yield server.url


def _await_postgres(port: int, password: str, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            psycopg.connect(
                host="127.0.0.1", port=port, user="justright", password=password, dbname="postgres"
            ).close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
