"""Starts workers: one for each GPU of this machine, or one on the CPU."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from justright.errors import UsageError
from justright.processes import die_with_parent, memory_for_each
from justright.settings import Settings
from worker.parent.limits import GIB, Limits
from worker.user_code.permission import read_permission

if TYPE_CHECKING:
    from justright.messages import WorkerInfo
    from worker.parent.child_process import Child

log = logging.getLogger(__name__)


# A number, or as NVIDIA names GPUs and their slices: GPU-..., MIG-...
_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Found without torch: its import takes seconds that the child spends anyway.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part.strip() for part in named.split(",") if part.strip() not in ("", "-1")]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listing = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]


def choose_gpus(option: str | None) -> list[str]:
    """What ``--gpus`` means: None is every visible one; "none" and "" are the CPU.

    Raises:
        UsageError: it names something that is no GPU number.
    """
    if option is None:
        return visible_gpus()
    if option.strip().lower() in ("none", ""):
        return []
    parts = [part.strip() for part in option.split(",")]
    if not all(_GPU.fullmatch(part) for part in parts):
        raise UsageError(f"--gpus: found {option!r}, expected numbers such as 0,1 or none")
    return parts


def run_workers(
    settings: Settings,
    *,
    gpus: str | None,
    lanes: str,
    pool: str,
    allow_commands: bool,
    tasks: Sequence[str] = (),
    memory: float | None = None,
    threads: int | None = None,
) -> int:
    """Serve until told to stop; returns the exit code.

    ``memory``: GiB that the training process of one worker may hold.
    """
    chosen = choose_gpus(gpus)
    if lanes != "auto" and not (lanes.isdigit() and int(lanes) > 0):
        raise UsageError(f"--lanes: found {lanes!r}, expected auto or a positive whole number")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads: found {threads}, expected a positive whole number")
    if memory is not None and not memory > 0:
        raise UsageError(f"--memory: found {memory:g}, expected a number of GiB above 0")
    settings.signer()  # without a secret nothing is started
    limit = memory * GIB if memory is not None else memory_for_each(max(1, len(chosen)))
    rights = _rights(allow_commands, tasks)
    if len(chosen) > 1:
        return _run_fleet(chosen, [*rights, "--memory", f"{limit / GIB:.3f}"], lanes, pool)
    environment = {"CUDA_VISIBLE_DEVICES": chosen[0] if chosen else ""}
    if threads is not None:
        environment |= {"JUSTRIGHT_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    return _run_one(settings, environment, lanes, pool, rights, limit)


def _rights(allow_commands: bool, tasks: Sequence[str]) -> list[str]:
    """The options that say what a worker may run."""
    named = read_permission(tasks, allow_commands)
    log.info("this worker runs tasks under %s", str(named) or "no folder (--tasks)")
    rights = ["--allow-commands"] if allow_commands else []
    for place in (*named.folders, *named.packages):
        rights += ["--tasks", str(place)]
    return rights


def _run_fleet(gpus: list[str], options: list[str], lanes: str, pool: str) -> int:
    """One process for each GPU; ends when all have ended."""
    base = [sys.executable, "-P", "-m", "justright", "worker", "--lanes", lanes, "--pool", pool]
    base += options
    workers = [
        subprocess.Popen([*base, "--gpus", gpu], preexec_fn=lambda: die_with_parent(signal.SIGTERM))
        for gpu in gpus
    ]

    def pass_on(signum: int, _frame: object) -> None:
        for worker in workers:
            worker.send_signal(signum)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group
    return max(worker.wait() for worker in workers)


def _run_one(
    settings: Settings,
    environment: dict[str, str],
    lanes: str,
    pool: str,
    rights: list[str],
    memory: float,
) -> int:
    from worker.parent.child_process import Child

    gpu = environment["CUDA_VISIBLE_DEVICES"]
    name = f"{socket.gethostname()}-{'gpu' + gpu if gpu else 'cpu'}-{uuid.uuid4().hex[:6]}"
    # Before anything slow of our own: its import of torch is what a first trial waits for.
    own = [] if lanes == "auto" else ["--lanes", lanes]
    child = Child(environment, [*rights, "--worker", name, *own])
    from justright.messages import WorkerInfo

    info = WorkerInfo(
        name=name,
        pool=pool,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=f"cuda:{gpu}" if gpu else "cpu",
        lanes=None if lanes == "auto" else int(lanes),
    )
    try:
        return _serve(settings, info, child, memory)
    finally:
        child.kill()


def _serve(settings: Settings, info: WorkerInfo, child: Child, memory: float) -> int:
    from justright.brokers.connection import connect
    from justright.brokers.queue import pool_queue
    from justright.brokers.redis import RedisBroker
    from justright.messages import Hello
    from worker.parent.heartbeat import Heartbeat
    from worker.parent.rq_worker import WarmWorker, await_child

    url = settings.redis_url.get_secret_value()
    # A wrong address is told at once, not in minutes.
    connect(url, patient=False, writes="reports").close()
    broker = RedisBroker(connect(url, patient=True), settings.signer())
    heartbeat = Heartbeat(broker, info, settings.lease)
    heartbeat.beat()
    broker.exchange([Hello(worker=info.name)])
    heartbeat.start()
    await_child(child, heartbeat)
    queue = pool_queue(info.pool, connect(url, patient=True))
    limits = Limits(settings.lease, settings.grace, memory)
    worker = WarmWorker(queue, broker, settings.signer(), heartbeat, child, limits)
    worker.work(logging_level="WARNING")
    if not worker.told_to_leave:
        log.error("the worker ends: Redis refuses what it needs (above); start it again")
        return 1
    return 0
