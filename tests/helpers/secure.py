"""A Redis as deploy/README.md sets it up for a fleet: a user for each role, and nothing but TLS.

The redis-server of the wheel has no TLS. Here Redis listens on a unix socket alone, and a small
proxy in front of it ends TLS, so that whoever gets through has spoken it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
import trustme

from deploy import lint
from justright.local.embedded_redis import redis_server
from tests.helpers.servers import free_port

ACL = lint.ROOT / "deploy" / "redis.acl"
ROLES = ("client", "orchestrator", "worker")
_PATIENCE = 20.0


@dataclass
class SecureRedis:
    """The Redis, and who may open it."""

    socket: Path
    port: int  #: Where TLS is spoken.
    authority: Path  #: The certificate of who signed Redis'.
    passwords: dict[str, str] = field(
        default_factory=lambda: {name: secrets.token_hex(12) for name in (*ROLES, "admin")}
    )

    def url(self, role: str, *, password: str | None = None, authority: Path | None = None) -> str:
        """What a role has in JUSTRIGHT_REDIS_URL."""
        secret = self.passwords[role] if password is None else password
        trusted = authority or self.authority
        return f"rediss://{role}:{secret}@127.0.0.1:{self.port}/0?ssl_ca_certs={trusted}"

    def admin(self) -> Any:
        """A user of the tests' own that may do everything."""
        return redis.Redis(
            unix_socket_path=str(self.socket), username="admin", password=self.passwords["admin"]
        )

    def denials(self) -> list[str]:
        """What Redis has refused since it started, or since it was asked to forget."""
        return [
            f"{entry['username']}: {entry['reason']} {entry['object']} ({entry['count']} times)"
            for entry in self.admin().acl_log()
        ]


@contextmanager
def secure_redis() -> Iterator[SecureRedis]:
    """A Redis with the users of deploy/redis.acl, behind TLS."""
    folder = Path(tempfile.mkdtemp(prefix="jr-"))  # a socket's path must be short
    authority, program = trustme.CA(), redis_server()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = SecureRedis(folder / "redis.sock", free_port(), folder / "ca.pem")
    rules = re.sub(
        r">CHANGE-(\w+)", lambda found: f">{server.passwords[found[1]]}", ACL.read_text()
    )
    rules += f"user admin on >{server.passwords['admin']} ~* &* +@all\n"
    (folder / "redis.acl").write_text(lint.for_server(program, rules))
    lines = ["port 0", f"unixsocket {server.socket}", f"dir {folder}", "appendonly yes", 'save ""']
    (folder / "redis.conf").write_text("\n".join([*lines, f"aclfile {folder / 'redis.acl'}"]))
    with open(folder / "redis.log", "ab") as log:
        process = subprocess.Popen([program, folder / "redis.conf"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                server.admin().ping()
                break
            except redis.ConnectionError:
                said = (folder / "redis.log").read_text()
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)
        with _tls(server, authority.issue_cert("127.0.0.1")):
            yield server
    finally:
        process.terminate()
        process.wait(timeout=_PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _tls(server: SecureRedis, certificate: trustme.LeafCert) -> Iterator[None]:
    """The proxy: TLS on the port, Redis' own protocol on the socket; in a thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await source.read(65536):
                target.write(piece)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(server.socket))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    loop, ready = asyncio.new_event_loop(), threading.Event()
    # What is refused in the handshake is what tests ask for; asyncio would log it.
    loop.set_exception_handler(lambda *_: None)

    async def listen() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", server.port, ssl=context)
        ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await listening.serve_forever()

    task = loop.create_task(listen())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,), daemon=True)
    thread.start()
    assert ready.wait(_PATIENCE)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(_PATIENCE)
