"""The whole service on a Redis with TLS and a user for each role, as deploy/redis.acl has them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from rq.registry import StartedJobRegistry

from deploy import lint
from justright.brokers.connection import connect
from justright.brokers.queue import enqueue, pool_queue
from justright.brokers.redis import RedisBroker
from justright.brokers.redis_keys import Keys
from justright.messages import InspectJob
from justright.signing import Signer
from tests.helpers.brokers import TASK
from tests.helpers.commands import EXAMPLES, SECRET, SIGNER, await_true, justright, serving
from tests.helpers.secure import ROLES, SecureRedis, secure_redis

DIGITS = f"{EXAMPLES / 'digits.py'}:Digits"
QUEUE = "rq:queue:justright-default"


@pytest.fixture
def secure() -> Iterator[SecureRedis]:
    with secure_redis() as server:
        yield server


def settings(server: SecureRedis, role: str, folder: Path) -> dict[str, str]:
    """The environment of a role; only the orchestrator knows the storage."""
    found = {
        "JUSTRIGHT_REDIS_URL": server.url(role),
        "JUSTRIGHT_STATE": str(folder / role),
        "JUSTRIGHT_ARTIFACTS": str(folder / "artifacts"),
        "JUSTRIGHT_LEASE": "2",
    }
    if role == "orchestrator":
        found["JUSTRIGHT_STORAGE"] = str(folder / "journal.log")
    return found


# -- the service --------------------------------------------------------------------------------


def test_a_service_needs_no_more_than_its_users_may(secure: SecureRedis, tmp_path: Path) -> None:
    """Studies of all kinds, commands, a worker that dies, RQ's cleaning up: nothing is refused."""
    env = {role: settings(secure, role, tmp_path) for role in ROLES}
    logs = {name: tmp_path / f"{name}.log" for name in ("orchestrator", "worker", "second")}
    work = ["worker", "--threads", "1", "--allow-commands", "--tasks", str(EXAMPLES)]
    leave_what_rq_cleans(secure)
    with ExitStack() as stack:
        orchestrator = serving("orchestrator", log=logs["orchestrator"], env=env["orchestrator"])
        stack.enter_context(orchestrator)
        first = stack.enter_context(serving(*work, log=logs["worker"], env=env["worker"]))

        def client(*arguments: str) -> str:
            done = justright(*arguments, env=env["client"], cwd=tmp_path)
            said = "".join(log.read_text() for log in logs.values() if log.is_file())
            assert done.returncode == 0, done.stdout + done.stderr + said
            return done.stdout

        brief = ("--trials", "6", "--epochs", "4", "--wait", "--json")
        answer = json.loads(client("submit", DIGITS, "--name", "digits", *brief))
        assert (answer["state"], answer["trials"]["failed"]) == ("complete", 0)
        assert json.loads(client("best", "digits", "--json")) == answer
        program = ("--", "sh", "-c", "echo val_loss: {lr}")
        assert json.loads(client("submit", "--name", "program", *brief, *program))["best_lr"]
        client("doctor")
        assert "digits" in client("status")

        # One that does not find its answer before all of this has been tried.
        endless = ("--trials", "500", "--sampler", "random", "--pruner", "none")
        client("submit", DIGITS, "--name", "long", *endless)
        broker = RedisBroker(connect(secure.url("client"), patient=False), SIGNER)
        await_true(lambda: trials(broker, "long") > 2)
        client("pause", "long")
        await_true(lambda: state(broker, "long") == "paused")
        client("resume", "long")
        before = trials(broker, "long")
        await_true(lambda: trials(broker, "long") > before)
        first.kill()
        first.wait()
        stack.enter_context(serving(*work, log=logs["second"], env=env["worker"]))
        begun = trials(broker, "long")
        await_true(lambda: trials(broker, "long") > begun)
        await_true(lambda: len(broker.workers()) == 1)
        assert json.loads(client("status", "long", "--json"))["state"] == "running"
        client("cancel", "long")
        await_true(lambda: state(broker, "long") == "cancelled")

        forge(secure)
        await_true(lambda: "job refused job=forged" in logs["second"].read_text())
        healthy(env["orchestrator"], "orchestrator")
        healthy(env["worker"], "worker")
    assert secure.denials() == []
    # What could not be there if Redis kept no log:
    with pytest.raises(redis.exceptions.NoPermissionError):
        user(secure, "client").flushall()
    assert secure.denials() == ["client: command flushall (1 times)"]


def trials(broker: RedisBroker, study: str) -> int:
    found = broker.snapshot(study)
    return 0 if found is None else len(found.trials)


def state(broker: RedisBroker, study: str) -> str:
    found = broker.snapshot(study)
    return "" if found is None else str(found.state)


def leave_what_rq_cleans(server: SecureRedis) -> None:
    """A job whose worker is gone, one that was taken and never begun, a worker that is no more."""
    admin = server.admin()
    queue = pool_queue("default", admin)
    for name in ("abandoned", "taken"):
        enqueue(queue, InspectJob(id=name, study="s", task=TASK), SIGNER)
        queue.remove(name)
    admin.hset("rq:job:abandoned", "status", "started")
    admin.zadd(StartedJobRegistry(queue=queue).key, {"abandoned:execution": 1.0})
    admin.rpush(f"{QUEUE}:intermediate", "taken", "unknown")
    for key in ("rq:workers", "rq:workers:justright-default"):
        admin.sadd(key, "rq:worker:gone")


def forge(server: SecureRedis) -> None:
    """Queue a job that the workers refuse, so that RQ notes its failure."""
    another = Signer("another secret than ours")
    enqueue(
        pool_queue("default", server.admin()),
        InspectJob(id="forged", study="s", task=TASK),
        another,
    )


def healthy(env: dict[str, str], part: str) -> None:
    """The containers' health check of that part."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.health", part],
        cwd=lint.ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# -- what a role must not do --------------------------------------------------------------------

REFUSED = {
    "worker": [
        ["XADD", "justright:commands", "*", "m", "x"],
        ["SET", "justright:study:mine", "x"],
        ["SADD", "justright:studies", "mine"],
        ["SET", "justright:leader", "worker"],
        ["DEL", "justright:leader"],
        ["EVAL", "return redis.call('SET', 'justright:leader', 'worker')", "0"],
        ["SET", "justright:mark", "1"],
        ["RPUSH", QUEUE, "job"],
        ["LPUSH", QUEUE, "job"],
        ["XTRIM", Keys().reports, "MAXLEN", "0"],
    ],
    "client": [
        ["RPUSH", QUEUE, "job"],
        ["LPUSH", QUEUE, "job"],
        ["LRANGE", QUEUE, "0", "-1"],
        ["HSET", "rq:job:mine", "data", "x"],
        ["GET", "justright:lease:job"],
        ["SET", "justright:lease:job", "x"],
        ["XADD", Keys().reports, "*", "0", "x"],
        ["XREAD", "STREAMS", Keys().reports, "0-0"],
        ["XREAD", "STREAMS", "justright:commands", "0-0"],
        ["SET", "justright:study:mine", "x"],
        ["DEL", "justright:study:mine"],
        ["SET", "justright:leader", "client"],
        ["HGET", "justright:decisions:mine", "0"],
        ["EVAL", "return 1", "0"],
    ],
    "orchestrator": [
        ["XADD", "justright:commands", "*", "m", "x"],
        ["XADD", Keys().reports, "*", "0", "x"],
        ["SET", "justright:begun:job", "x"],
        ["BLMOVE", QUEUE, f"{QUEUE}:intermediate", "RIGHT", "LEFT", "1"],
    ],
}
FOR_NOBODY = [
    ["FLUSHALL"],
    ["KEYS", "*"],
    ["SCAN", "0"],
    ["CONFIG", "GET", "requirepass"],
    ["ACL", "LIST"],
    ["CLIENT", "LIST"],
    ["CLIENT", "KILL", "ID", "1"],
    ["MONITOR"],
    ["SCRIPT", "FLUSH"],
    ["SUBSCRIBE", "rq:pubsub:worker"],
    ["PUBLISH", "rq:pubsub:worker", "x"],
    ["GET", "somebody:else"],
    ["SHUTDOWN", "NOSAVE"],
]


def user(server: SecureRedis, role: str) -> Any:
    return connect(server.url(role), patient=False)


def test_each_role_is_refused_what_is_not_its_own(secure: SecureRedis) -> None:
    for role in ROLES:
        for command in [*REFUSED[role], *FOR_NOBODY]:
            try:
                answer = user(secure, role).execute_command(*command)
            except redis.ResponseError as error:
                # In a script it is the script's error, which names the same reason.
                told = str(error).lower()
                assert "permission" in told or "can't access" in told, (role, command, told)
            else:
                pytest.fail(f"{role} was let do {command}: {answer!r}")
    assert secure.admin().keys() == []


@pytest.mark.parametrize("command", [["status"], ["best", "mine"]])
def test_a_role_hears_why_redis_refuses_it(
    secure: SecureRedis, tmp_path: Path, command: list[str]
) -> None:
    """A client with the worker's user: one message, which names the file to look at."""
    done = justright(*command, env=settings(secure, "worker", tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    check_message(done.stderr, "deploy/redis.acl", secure.passwords["worker"])


def test_doctor_says_what_its_user_may_not_ask(secure: SecureRedis, tmp_path: Path) -> None:
    """On a worker's machine it is run with the worker's user, which may not see who leads."""
    done = justright("doctor", env=settings(secure, "worker", tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orchestrator: not known" in done.stdout


def test_the_worker_cannot_lead(secure: SecureRedis) -> None:
    broker = RedisBroker(connect(secure.url("worker"), patient=False), SIGNER)
    with pytest.raises(redis.ResponseError):
        broker.lead("me", 60.0)
    assert RedisBroker(secure.admin()).leader() is None


# -- who is not let in --------------------------------------------------------------------------


def check_message(stderr: str, said: str, password: str) -> None:
    """One line that begins with "error: ", after what the worker logs; and nothing secret."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if " INFO " not in line]
    assert [line[:7] for line in lines] == ["error: "], stderr
    assert said in lines[0]
    assert password not in stderr
    assert SECRET not in stderr


@pytest.mark.parametrize("command", ["status", "orchestrator", "worker"])
def test_a_wrong_authority_is_refused(secure: SecureRedis, tmp_path: Path, command: str) -> None:
    another = tmp_path / "another.pem"
    trustme.CA().cert_pem.write_to_path(str(another))
    role = "client" if command == "status" else command
    env = settings(secure, role, tmp_path)
    env["JUSTRIGHT_REDIS_URL"] = secure.url(role, authority=another)
    done = justright(command, env=env, cwd=EXAMPLES)
    assert (done.returncode, done.stdout) == (1, "")
    check_message(done.stderr, "ssl_ca_certs=PATH", secure.passwords[role])


@pytest.mark.parametrize("command", ["status", "orchestrator", "worker"])
def test_a_wrong_password_is_refused(secure: SecureRedis, tmp_path: Path, command: str) -> None:
    role = "client" if command == "status" else command
    env = settings(secure, role, tmp_path)
    env["JUSTRIGHT_REDIS_URL"] = secure.url(role, password="not-this-one")
    done = justright(command, env=env, cwd=EXAMPLES)
    assert (done.returncode, done.stdout) == (1, "")
    check_message(done.stderr, "refused the password", "not-this-one")


def test_without_tls_or_a_user_nobody_is_let_in(secure: SecureRedis, tmp_path: Path) -> None:
    plain = f"redis://client:{secure.passwords['client']}@127.0.0.1:{secure.port}/0"
    done = justright("status", env={"JUSTRIGHT_REDIS_URL": plain})
    assert done.returncode == 1
    check_message(done.stderr, "no Redis answers", secure.passwords["client"])
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(unix_socket_path=str(secure.socket)).ping()
