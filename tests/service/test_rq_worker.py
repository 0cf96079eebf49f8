"""A worker's parent and its warm child, in real processes: what stays, what goes, what is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.failures import Failure, FailureKind
from justright.messages import (
    Inspection,
    InspectJob,
    Job,
    Outcome,
    OutcomeKind,
    Started,
    TrainJob,
    TrialWork,
)
from justright.spec import TaskRef
from tests.helpers.commands import SIGNER, serving

PATIENCE = 60.0

# Each training process writes its id, so that the test knows who trained what.
TASK = """
import os
import pathlib
import time

import torch

import justright

FOLDER = pathlib.Path(__file__).parent


class Slow(justright.Task):
    epochs = 1
    sleep = 0.0

    def model(self):
        with open(FOLDER / "pids", "a") as file:
            file.write(f"{os.getpid()}\\n")
        return torch.nn.Linear(2, 2)

    def train_data(self):
        return torch.ones(4, 2), torch.zeros(4, dtype=torch.long)

    def loss(self, output, target):
        time.sleep(self.sleep)
        return super().loss(output, target) * 0 + 1.0
"""


def await_true(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of ``condition``."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain: {what}")


def runs(pid: int) -> bool:
    """Whether there is such a process (one that has ended and was not fetched does not count)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass
class Bench:
    """A worker process, and this test in the place of its orchestrator."""

    folder: Path
    broker: RedisBroker
    worker: subprocess.Popen[bytes]
    events: list[Any] = field(default_factory=list)

    def dispatch(self, job: str, trials: int = 1, **task: Any) -> None:
        works = tuple(TrialWork(number=n, lr=0.1, seed=0, attempt=1) for n in range(trials))
        if "command" not in task:
            task = {"target": f"{self.folder}/slow_task.py:Slow", "arguments": task}
        about: dict[str, Any] = {"id": job, "study": job, "task": TaskRef(**task)}
        made: Job = TrainJob(**about, trials=works) if works else InspectJob(**about)
        self.broker.dispatch(made, "default")

    def heard(self, kind: type[Any], study: str, count: int = 1) -> list[Any]:
        """The events of one kind about one study, once there are as many."""

        def look() -> list[Any]:
            self.events += self.broker.receive(0.05)
            return [e for e in self.events if isinstance(e, kind) and e.study == study]

        found: list[Any] = await_true(
            lambda: len(look()) >= count and look(), f"{kind.__name__} of {study}"
        )
        return found

    def pids(self) -> list[int]:
        """The processes that built a model, in their order."""
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def begun(self) -> int:
        """Wait until a training has begun; returns its process."""
        return int(await_true(self.pids, "a training")[-1])

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def bench(tmp_path: Path, clean_redis: str) -> Iterator[Bench]:
    (tmp_path / "slow_task.py").write_text(TASK)
    # A task that sleeps for minutes never hears that it is to leave: no test waits long for it.
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_GRACE": "1"}
    command = ["worker", "--gpus", "none", "--threads", "1", "--allow-commands"]
    command += ["--tasks", str(tmp_path)]
    with serving(*command, log=tmp_path / "log", env=env) as worker:
        yield Bench(tmp_path, RedisBroker(connect(clean_redis, patient=False), SIGNER), worker)


def failures(outcomes: list[Outcome]) -> list[tuple[int, Failure]]:
    assert all(outcome.kind is OutcomeKind.FAILED for outcome in outcomes), outcomes
    return [(outcome.trial, outcome.failure) for outcome in outcomes if outcome.failure]


def test_one_child_for_all_jobs_until_the_task_is_edited(bench: Bench) -> None:
    for job in ("j1", "j2", "j3"):
        bench.dispatch(job, trials=2)
        outcomes = bench.heard(Outcome, job, count=2)
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.COMPLETE}
        (started,) = bench.heard(Started, job)
        assert started.trials == ((0, 1), (1, 1))
    bench.dispatch("look", trials=0)
    (looked,) = bench.heard(Inspection, "look")
    assert looked.failure is None
    assert (looked.initial_loss, looked.details["device"]) == (1.0, "cpu")
    before = set(bench.pids())
    assert len(before) == 1
    assert before != {bench.worker.pid}

    path = bench.folder / "slow_task.py"
    path.write_text(TASK.replace("* 0 + 1.0", "* 0 + 2.0"))
    stamp = path.stat().st_mtime + 5
    os.utime(path, (stamp, stamp))
    bench.dispatch("look-again", trials=0)
    (looked,) = bench.heard(Inspection, "look-again")
    assert looked.initial_loss == 2.0, "the new code runs"
    assert len(set(bench.pids()) - before) == 1
    await_true(lambda: not any(map(runs, before)), "the old child to end")
    assert len(bench.heard(Started, "look-again")) == 1, "that was no second job"


def test_a_killed_child_loses_its_trials_but_not_the_worker(bench: Bench) -> None:
    bench.dispatch("j1", trials=2, sleep=600.0)
    child = bench.begun()
    os.kill(child, signal.SIGKILL)
    told = failures(bench.heard(Outcome, "j1", count=2))
    assert [(trial, failure.kind) for trial, failure in told] == [
        (0, FailureKind.CRASHED),
        (1, FailureKind.CRASHED),
    ]
    assert "SIGKILL" in told[0][1].message
    bench.dispatch("j2")
    (outcome,) = bench.heard(Outcome, "j2")
    assert outcome.kind is OutcomeKind.COMPLETE
    assert bench.pids()[-1] != child
    assert bench.worker.poll() is None
    assert [info.pid for info in bench.broker.workers()] == [bench.worker.pid]


def test_a_child_that_is_killed_while_it_looks_says_so(bench: Bench) -> None:
    bench.dispatch("look", trials=0, sleep=600.0)
    os.kill(bench.begun(), signal.SIGKILL)
    (looked,) = bench.heard(Inspection, "look")
    assert looked.failure is not None
    assert looked.failure.kind is FailureKind.CRASHED


def test_a_killed_parent_leaves_no_child(bench: Bench) -> None:
    bench.dispatch("j1", sleep=600.0)
    child = bench.begun()
    bench.worker.kill()
    bench.worker.wait()
    await_true(lambda: not runs(child), "the child to end")


PROGRAM = """
import os, sys, time
print(os.getppid(), os.getpid(), file=open(sys.argv[1], "w"), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["parent", "child"])
def test_a_program_ends_with_whoever_ran_it(bench: Bench, victim: str) -> None:
    """A program of the user's holds a GPU as well as a child of ours does."""
    command = (sys.executable, "-c", PROGRAM, f"{bench.folder}/pids", "{lr}")
    bench.dispatch("j1", command=command)
    program = bench.begun()
    os.kill(bench.worker.pid if victim == "parent" else bench.pids()[0], signal.SIGKILL)
    try:
        await_true(lambda: not runs(program), "the program to end", patience=15.0)
    finally:
        if runs(program):
            os.kill(program, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_asked_to_leave_returns_its_trials(bench: Bench, number: int) -> None:
    bench.dispatch("j1", trials=2, sleep=600.0)
    child = bench.begun()
    assert bench.broker.locate(["j1"], "default") == {"j1": "leased"}
    bench.worker.send_signal(number)
    assert bench.worker.wait(timeout=PATIENCE) == 0
    told = failures(bench.heard(Outcome, "j1", count=2))
    assert [(trial, failure.kind) for trial, failure in told] == [
        (0, FailureKind.RETURNED),
        (1, FailureKind.RETURNED),
    ]
    await_true(lambda: not runs(child), "the child to end")
    assert bench.broker.workers() == []
    assert "Traceback" not in bench.log()


def test_an_idle_worker_leaves_at_once_and_leaves_the_queue_alone(bench: Bench) -> None:
    bench.dispatch("j1")
    bench.heard(Outcome, "j1")
    child = bench.begun()
    bench.worker.terminate()
    assert bench.worker.wait(timeout=PATIENCE) == 0
    bench.dispatch("j2")
    assert not runs(child)
    assert bench.broker.workers() == []
    assert bench.broker.locate(["j2"], "default") == {"j2": "queued"}
