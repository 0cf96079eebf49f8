"""No secret is where others can read it: arguments, logs, answers, the journal, a study's program.

A service with every secret that there is, while it runs. What Linux shows of processes is in /proc.
"""

from __future__ import annotations

import base64
import http.client
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.settings import SECRETS
from tests.helpers.commands import EXAMPLES, SECRET, SIGNER, await_true, justright, serving
from tests.helpers.secure import ROLES, SecureRedis, secure_redis
from tests.helpers.servers import free_port, postgres, postgres_programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")

DASHBOARD_PASSWORD = "only-for-the-dashboard"
DIGITS = f"{EXAMPLES / 'digits.py'}:Digits"


@dataclass
class Service:
    """One that runs, and all that it must keep to itself."""

    folder: Path
    redis: SecureRedis
    storage: str
    database_password: str  #: "" where the storage is a journal.
    port: int = field(default_factory=free_port)  #: The dashboard's.

    @property
    def secrets(self) -> set[str]:
        of_redis = {self.redis.passwords[role] for role in ROLES}
        return {*of_redis, SECRET, DASHBOARD_PASSWORD, self.database_password} - {""}

    def env(self, role: str) -> dict[str, str]:
        """All secrets for everybody, as where one file of settings serves all machines."""
        return {
            "JUSTRIGHT_REDIS_URL": self.redis.url(role),
            "JUSTRIGHT_SECRET": SECRET,
            "JUSTRIGHT_STORAGE": self.storage,
            "JUSTRIGHT_DASHBOARD_PASSWORD": DASHBOARD_PASSWORD,
            "JUSTRIGHT_STATE": str(self.folder / role),
            "JUSTRIGHT_ARTIFACTS": str(self.folder / "artifacts"),
        }

    def found_in(self, text: str | bytes) -> list[str]:
        """The secrets that a text holds."""
        raw = text.encode() if isinstance(text, str) else text
        return [secret for secret in self.secrets if secret.encode() in raw]

    def ask(self, path: str, password: str = DASHBOARD_PASSWORD) -> tuple[int, bytes]:
        """The status and the whole answer of the dashboard, headers included."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        login = base64.b64encode(f"me:{password}".encode()).decode()
        try:
            connection.request("GET", path, headers={"Authorization": f"Basic {login}"})
            answer = connection.getresponse()
            return answer.status, str(answer.getheaders()).encode() + answer.read()
        finally:
            connection.close()

    def listens(self) -> bool:
        try:
            return self.ask("/api/meta")[0] == 200
        except OSError:
            return False


@pytest.fixture(params=["journal", "postgresql"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """Redis and storage; a test starts the rest."""
    with ExitStack() as stack:
        server = stack.enter_context(secure_redis())
        if request.param == "journal":
            yield Service(tmp_path, server, str(tmp_path / "journal.log"), "")
            return
        if postgres_programs() is None:
            pytest.skip("no PostgreSQL on this machine (Debian: apt-get install postgresql)")
        database = stack.enter_context(postgres())
        yield Service(tmp_path, server, database.url, database.password)


def family(roots: list[int]) -> dict[int, str]:
    """The command lines of processes and of all that descend from them."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(place.name)] = int(fields[1])
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    lines = {pid: Path(f"/proc/{pid}/cmdline") for pid in found}
    return {pid: path.read_text().replace("\0", " ") for pid, path in lines.items()}


def test_no_secret_is_shown_while_a_service_runs(service: Service) -> None:
    folder = service.folder
    logs = {part: folder / f"{part}.log" for part in ("orchestrator", "worker", "client", "board")}
    broker = RedisBroker(connect(service.redis.url("client"), patient=False), SIGNER)
    program_saw = folder / "environment"
    outputs: list[str] = []

    def client(*arguments: str, code: int = 0, **changed: str) -> None:
        done = justright(*arguments, env=service.env("client") | changed, cwd=folder)
        outputs.append(done.stdout + done.stderr)
        assert done.returncode == code, outputs[-1]

    with ExitStack() as stack:

        def start(part: str, *arguments: str) -> int:
            role = part if part in ROLES else "client"
            serves = serving(*arguments, log=logs[part], env=service.env(role))
            return stack.enter_context(serves).pid

        roots = [start("orchestrator", "orchestrator")]
        await_true(lambda: broker.leader() is not None)
        roots.append(
            start("worker", "worker", "--threads", "1", "--allow-commands", "--tasks",
                  str(EXAMPLES)),
        )  # fmt: skip
        roots.append(start("board", "dashboard", "--port", str(service.port)))
        program = f"env > {program_saw}; echo val_loss: {{lr}}"
        client("submit", "--name", "program", "--trials", "1", "--wait", "--", "sh", "-c", program)
        roots.append(
            start(
                "client",
                "submit",
                DIGITS,
                "--name",
                "long",
                "--trials",
                "500",
                "--sampler",
                "random",
                "--lanes",
                "1",
                "--wait",
            )
        )
        await_true(lambda: trials(broker) > 2)
        await_true(service.listens)

        lines = family(roots)
        training = [pid for pid, line in lines.items() if "worker.child" in line]
        assert len(training) == 1, lines
        assert len(lines) >= 5, lines
        for line in lines.values():
            assert service.found_in(line) == []
        environment = Path(f"/proc/{training[0]}/environ").read_bytes()
        assert b"JUSTRIGHT_REDIS_URL" in environment
        for name in {*SECRETS} - {"JUSTRIGHT_REDIS_URL", "JUSTRIGHT_ARTIFACTS"}:
            assert name.encode() not in environment
        assert service.found_in(environment) == [service.redis.passwords["worker"]]

        client("status")
        client("status", "long")
        client("status", "long", "--json")
        client("best", "long", "--json")
        client("doctor")
        client("doctor", "--json")
        check_the_dashboard(service)
        wrong_password = service.redis.url("client", password="not-this-one")
        wrong_authority = service.redis.url("client", authority=folder / "none.pem")
        client("status", "unknown", code=2)
        client("status", code=1, JUSTRIGHT_REDIS_URL=wrong_password)
        client("doctor", code=1, JUSTRIGHT_REDIS_URL=wrong_authority)
        client("doctor", code=1, JUSTRIGHT_STORAGE=f"none+{service.storage}" if "://" in
               service.storage else "/not/there/journal.log")  # fmt: skip
        client("cancel", "long")
        await_true(lambda: str(getattr(broker.snapshot("long"), "state", "")) == "cancelled")

    for name in SECRETS:
        assert name not in program_saw.read_text()
    assert service.found_in(program_saw.read_text()) == []
    written = {str(path): path.read_bytes() for path in logs.values()}
    if not service.database_password:
        written["journal"] = Path(service.storage).read_bytes()
        assert b"long" in written["journal"]
    written |= {f"output {number}": text.encode() for number, text in enumerate(outputs)}
    # What is kept for the trainings: their checkpoints.
    written |= {str(p): p.read_bytes() for p in (folder / "artifacts").rglob("*") if p.is_file()}
    for place, raw in written.items():
        assert service.found_in(raw) == [], place
    assert "not-this-one" not in "".join(outputs)


def trials(broker: RedisBroker) -> int:
    found = broker.snapshot("long")
    return 0 if found is None else len(found.trials)


def check_the_dashboard(service: Service) -> None:
    """Whatever it answers, to whomever, holds no secret: neither ours nor what was asked with."""
    seen = []
    for path in ("/api/meta", "/api/studies", "/api/studies/0", "/api/studies/1", "/dashboard"):
        for password in (DASHBOARD_PASSWORD, "not-this-one"):
            status, answer = service.ask(path, password)
            seen.append(status)
            assert service.found_in(answer) == [], path
            assert b"not-this-one" not in answer
    assert seen[1::2] == [401] * 5
    assert seen[:4:2] == [200, 200]
