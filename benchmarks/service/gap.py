"""How long a worker stands idle between two jobs: justright's warm one, and RQ's own that forks.

Both are real processes on a real Redis and run the same function, which notes when it had torch
in hand and when its training ended. A gap is from one job's end to the moment when the next job
could train: all jobs are on the queue before a worker starts, so it is the worker's own time.
"""

from __future__ import annotations

import itertools
import os
import secrets
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import redis
from rq import Queue

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.messages import TrainJob, TrialWork
from justright.signing import Signer
from justright.spec import TaskRef
from tests.helpers.commands import ending

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 180.0  # seconds for all jobs of one worker

# What both workers run, as a file of its own: neither has imported anything for it.
_JOB = '''
import itertools
import os
import time
from pathlib import Path

MARKS = Path(__file__).with_name("marks")


def objective(trial):
    """One step of training, timed from inside. The import is what a forked job pays for."""
    import torch

    began = time.time()
    weight = torch.ones(64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=trial.suggest_float("lr", 1e-6, 10.0, log=True))
    weight.square().mean().backward()
    optimizer.step()
    loss = float(weight.square().mean())
    mark = f"{os.getpid()} {began!r} {time.time()!r}\\n"
    with open(MARKS, "a") as file:
        file.write(mark)
    return loss


class Fixed:
    """As much of a trial as ``objective`` uses."""

    def suggest_float(self, name, low, high, log):
        return 0.01


def rq_job():
    return objective(Fixed())
'''


def warm_gaps(url: str, folder: Path, jobs: int) -> list[float]:
    """Seconds between the jobs of one ``justright worker``."""
    target = f"{_write_job(folder)}:objective"
    secret = secrets.token_hex(32)
    broker = RedisBroker(connect(url, patient=False), Signer(secret))
    for number in range(jobs):
        work = TrialWork(number=number, lr=0.01, seed=0, attempt=1)
        job = TrainJob(id=f"gap{number}", study="gap", task=TaskRef(target=target), trials=(work,))
        broker.dispatch(job, "default")
    command = [sys.executable, "-P", "-m", "justright", "worker", "--gpus", "none"]
    command += ["--tasks", str(folder)]
    environment = {"JUSTRIGHT_REDIS_URL": url, "JUSTRIGHT_SECRET": secret}
    with _running(command, folder, environment) as worker:
        _await_marks(folder, jobs, worker)
    return _gaps(folder, processes=1)


def fork_gaps(url: str, folder: Path, jobs: int, *, preload: bool = False) -> list[float]:
    """Seconds between the jobs of one ``rq worker`` as it comes.

    ``preload``: torch is imported before the forks, as RQ advises for slow imports. That is quick,
    and of no use on a GPU: CUDA cannot be used in a forked process once it was initialised.
    """
    _write_job(folder)
    name = folder.name
    queue = Queue(name, connection=redis.Redis.from_url(url))
    for _ in range(jobs):
        queue.enqueue("marked_job.rq_job")
    program = f"{'import torch; ' if preload else ''}from rq.cli import main; main()"
    command = [sys.executable, "-c", program, "worker", "--burst", "--worker-class", "rq.Worker"]
    with _running([*command, "--url", url, name], folder, {"PYTHONPATH": str(folder)}) as worker:
        _await_marks(folder, jobs, worker)
    return _gaps(folder, processes=jobs)


def in_milliseconds(gaps: list[float]) -> float:
    """The median, as it is shown."""
    return round(statistics.median(gaps) * 1000, 2)


def _write_job(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "marked_job.py"
    path.write_text(_JOB)
    return path


@contextmanager
def _running(
    command: list[str], folder: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker until the block ends; its output goes to the folder's ``log``."""
    with open(folder / "log", "wb") as log:
        process = _start(command, log, environment)
    with ending(process):
        yield process


def _start(
    command: list[str], log: IO[bytes], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )


def _await_marks(folder: Path, jobs: int, worker: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while len(_read_marks(folder)) < jobs:
        ended = worker.poll() is not None and len(_read_marks(folder)) < jobs
        if ended or time.monotonic() > deadline:
            how = "ended" if ended else f"was not done after {_PATIENCE:.0f} s"
            done = len(_read_marks(folder))
            raise SystemExit(
                f"a worker {how} with {done} of {jobs} jobs done:\n{(folder / 'log').read_text()}"
            )
        time.sleep(0.05)


def _read_marks(folder: Path) -> list[tuple[int, float, float]]:
    """(process, began, ended) of each job that is done, in the order in which they ran."""
    path = folder / "marks"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [(int(pid), float(began), float(ended)) for pid, began, ended in map(str.split, lines)]


def _gaps(folder: Path, processes: int) -> list[float]:
    """From each end to the next beginning, checked to be from as many processes as expected."""
    marks = _read_marks(folder)
    seen = len({pid for pid, _, _ in marks})
    if seen != processes:  # it was not that kind of worker
        raise SystemExit(f"the jobs ran in {seen} processes, expected {processes}")
    return [after[1] - before[2] for before, after in itertools.pairwise(marks)]
