"""One worker hurts nobody but itself: real workers that refuse, and trainings that hang."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.lifecycle import STUDY_FINISHED, StudyState, TrialState
from justright.messages import Snapshot
from tests.helpers.commands import SIGNER, await_true, justright, serving
from tests.helpers.servers import running_redis

TASK = """
import json, os, resource, time
import torch, justright
import only_on_some_machines

_SLEEP = time.sleep

class Tiny(justright.Task):
    epochs = 3
    batch_size = 16
    fault = ""
    trained = 0

    def model(self):
        return torch.nn.Linear(4, 2)

    def train_data(self):
        return torch.ones(64, 4), torch.arange(64) % 2

    def loss(self, output, target):
        if output.requires_grad and self.fault:
            Tiny.trained += 1
            if Tiny.trained > 400:
                getattr(self, self.fault)()
                while True:
                    _SLEEP(60)
        return torch.nn.functional.cross_entropy(output, target)

    def hangs(self): ...
    def breaks_json(self): json.dumps = json.loads = lambda *_, **__: None
    def leaves_no_files(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
"""

#: A clock 26 hours ahead, in that worker's processes alone.
AHEAD = """
import time
_true = time.time
time.time = lambda: _true() + 26 * 3600
"""

GRACE = 3.0  # seconds
SLACK = 5.0  # seconds beyond the grace, where a training process starts in less than that


@contextmanager
def fleet(folder: Path) -> Iterator[dict[str, str]]:
    """Redis, an orchestrator and a healthy worker; yields the environment of its clients."""
    tasks, modules = folder / "tasks", folder / "modules"
    for place in (tasks, modules, folder / "redis"):
        place.mkdir()
    (tasks / "task.py").write_text(TASK)
    (modules / "only_on_some_machines.py").write_text("")
    with running_redis(folder / "redis") as url:
        env = {
            "JUSTRIGHT_REDIS_URL": url, "JUSTRIGHT_LEASE": "4", "JUSTRIGHT_GRACE": str(GRACE),
            "JUSTRIGHT_ARTIFACTS": str(folder / "artifacts"),
        }  # fmt: skip
        with (
            serving("orchestrator", log=folder / "orchestrator.log", env=env),
            worker(folder, "healthy", env),
        ):
            yield env


def worker(
    folder: Path, name: str, env: dict[str, str], tasks: str = "tasks"
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    healthy = {"PYTHONPATH": str(folder / "modules")} | env
    options = ("--gpus", "none", "--threads", "1", "--tasks", str(folder / tasks))
    return serving("worker", *options, log=folder / f"{name}.log", env=healthy)


def submit(env: dict[str, str], folder: Path, name: str, *options: str) -> None:
    done = justright(
        "submit", f"{folder}/tasks/task.py:Tiny", "--name", name, "--lr", "1e-3:1e-1", *options,
        env=env | {"PYTHONPATH": str(folder / "modules")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def snapshot(env: dict[str, str], name: str) -> Snapshot | None:
    return RedisBroker(connect(env["JUSTRIGHT_REDIS_URL"], patient=False), SIGNER).snapshot(name)


def ended(env: dict[str, str], name: str) -> bool:
    found = snapshot(env, name)
    return found is not None and found.state in STUDY_FINISHED


def test_no_study_is_lost_beside_workers_that_refuse(tmp_path: Path) -> None:
    """Of five kinds, each free again at once while the healthy one trains."""
    for place in ("elsewhere", "ahead"):
        (tmp_path / place).mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(AHEAD)
    (tmp_path / "no-folder").write_text("a file where the folder of checkpoints should be")
    with fleet(tmp_path) as env, ExitStack() as stack:
        both = f"{tmp_path / 'ahead'}:{tmp_path / 'modules'}"
        for name, changes in {
            "tasks": {},
            "secret": {"JUSTRIGHT_SECRET": "the secret of another project"},
            "clock": {"PYTHONPATH": both},
            "module": {"PYTHONPATH": ""},
            "room": {"JUSTRIGHT_ARTIFACTS": str(tmp_path / "no-folder")},
        }.items():
            tasks = "elsewhere" if name == "tasks" else "tasks"
            stack.enter_context(worker(tmp_path, name, env | changes, tasks))
        broker = RedisBroker(connect(env["JUSTRIGHT_REDIS_URL"], patient=False), SIGNER)
        await_true(lambda: len(broker.workers()) == 6)
        names = [f"s{number}" for number in range(3)]
        for name in names:
            submit(env, tmp_path, name, "--trials", "6")
        await_true(lambda: all(ended(env, name) for name in names))
        for name in names:
            found = snapshot(env, name)
            assert found is not None
            assert found.state == StudyState.COMPLETE, found.failure
            assert all(trial.state != TrialState.FAILED for trial in found.trials)
        refusing = " ".join(one.refusing for one in broker.workers())
        status = justright("status", env=env).stdout
        doctor = justright("doctor", env=env).stdout
    for words in ("--tasks", "JUSTRIGHT_SECRET", "expired", "only_on_some_machines"):
        assert words in refusing
        assert words in " ".join(status.split())
        assert words in " ".join(doctor.split())
    assert "takes none for now" in (tmp_path / "secret.log").read_text()


@pytest.mark.parametrize("fault", ["hangs", "breaks_json", "leaves_no_files"])
def test_a_training_that_hangs_is_cancelled_and_its_worker_is_free(
    tmp_path: Path, fault: str
) -> None:
    with fleet(tmp_path) as env:
        submit(
            env, tmp_path, "hung", "--set", f"fault={fault}", "--epochs", "1000", "--trials", "1",
            "--lanes", "1",
        )  # fmt: skip
        submitted = time.monotonic()
        await_true(lambda: _trains(env, "hung"))
        starting = time.monotonic() - submitted  # of a training process, on this machine now
        time.sleep(2.0)  # it has come to where it hangs
        submit(env, tmp_path, "next", "--trials", "2")
        done = justright("cancel", "hung", env=env)
        assert done.returncode == 0, done.stderr
        cancelled = time.monotonic()
        await_true(lambda: _begun(env, "next"))
        assert time.monotonic() - cancelled < GRACE + max(SLACK, 3 * starting)
        await_true(lambda: ended(env, "next"))
        found = snapshot(env, "next")
    assert found is not None
    assert found.state == StudyState.COMPLETE, found.failure


def _trains(env: dict[str, str], name: str) -> bool:
    found = snapshot(env, name)
    return found is not None and any(t.state == TrialState.RUNNING for t in found.trials)


def _begun(env: dict[str, str], name: str) -> bool:
    """Whether a worker is at it: it looks at the task first."""
    workers = RedisBroker(connect(env["JUSTRIGHT_REDIS_URL"], patient=False), SIGNER).workers()
    return any(one.study == name for one in workers)
