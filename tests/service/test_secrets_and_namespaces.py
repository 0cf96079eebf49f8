"""Another secret is told at once; two projects share a Redis, each in a namespace of its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import redis

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from tests.helpers.commands import EXAMPLES, await_true, justright, serving
from tests.helpers.servers import running_redis

OTHER = "the secret of another project"


def test_a_wrong_secret_is_told_at_once(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url:
        env = {"JUSTRIGHT_REDIS_URL": url, "JUSTRIGHT_STATE": str(tmp_path / "state")}
        with serving("orchestrator", log=tmp_path / "orchestrator.log", env=env):
            broker = RedisBroker(connect(url, patient=False))
            await_true(lambda: broker.leader() is not None)
            task = f"{EXAMPLES}/digits.py:Digits"
            right = justright("submit", task, "--name", "s", env=env)
            assert right.returncode == 0, right.stderr
            await_true(lambda: broker.snapshot("s") is not None)
            wrong = env | {"JUSTRIGHT_SECRET": OTHER}
            for command in (
                ("cancel", "s"), ("pause", "s"), ("submit", task),
                ("submit", task, "--wait"), ("submit", task, "--name", "t", "--json"),
            ):  # fmt: skip
                done = justright(*command, env=wrong)
                assert done.returncode == 1, done.stdout + done.stderr
                assert "another JUSTRIGHT_SECRET" in done.stderr
                assert done.stdout == ""
                assert OTHER not in done.stderr
            doctor = justright("doctor", env=wrong)
            assert "another JUSTRIGHT_SECRET" in " ".join(doctor.stdout.split())
            # Not even where the fingerprint has not been seen: the reply says it.
            redis.Redis.from_url(url).delete("justright:secret")
            unseen = justright("cancel", "s", env=wrong)
            assert (unseen.returncode, unseen.stdout) == (1, "")
            assert "JUSTRIGHT_SECRET" in unseen.stderr
            second = justright("orchestrator", env=wrong, timeout=60)
            assert second.returncode == 1
            assert "JUSTRIGHT_NAMESPACE" in second.stderr
            cancelled = justright("cancel", "s", env=env)
            assert cancelled.returncode == 0, cancelled.stderr
            again = justright("cancel", "s", env=env)
            assert again.returncode == 2
            assert "ended already (cancelled)" in again.stderr


def test_two_projects_share_a_redis(tmp_path: Path) -> None:
    task = f"{EXAMPLES}/digits.py:Digits"
    with running_redis(tmp_path) as url, ExitStack() as stack:
        projects = []
        for name, secret in (("one", "the secret of project one"), ("two", OTHER)):
            env = {
                "JUSTRIGHT_REDIS_URL": url, "JUSTRIGHT_NAMESPACE": name, "JUSTRIGHT_SECRET": secret,
                "JUSTRIGHT_STATE": str(tmp_path / name),
            }  # fmt: skip
            projects.append(env)
            work = ("worker", "--gpus", "none", "--threads", "1", "--tasks", str(EXAMPLES))
            for label, serve in (("orchestrator", ("orchestrator",)), ("worker", work)):
                log = tmp_path / f"{label}-{name}.log"
                stack.enter_context(serving(*serve, log=log, env=env))
        options = ("--name", "same", "--epochs", "1", "--trials", "4", "--wait", "--json")
        for env in projects:
            done = justright("submit", task, *options, env=env)
            assert done.returncode == 0, done.stderr
        client = redis.Redis.from_url(url, decode_responses=True)
        keys = {str(key) for key in client.scan_iter("justright:*")}
    assert keys
    assert all(key.startswith(("justright:@one:", "justright:@two:")) for key in keys), keys
    for name in ("one", "two"):
        said = (tmp_path / f"orchestrator-{name}.log").read_text()
        assert "dropped" not in said
        assert "refused" not in said
