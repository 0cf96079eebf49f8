"""The faults, each by its name. What it breaks is whole again when it returns, but for processes
that were killed or stopped: ``Fleet.revive`` sees to them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable

from tests.chaos.fleet import LEASE, Fleet, Part
from tests.chaos.neighbours import edited_task, hung_child, odd_study, refusing_worker

Fault = Callable[[Fleet, random.Random], None]


def _kill(pid: int | None, number: int) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _stop(fleet: Fleet, part: Part, seconds: float) -> None:
    fleet.stop(part)
    time.sleep(seconds)
    fleet.revive()


def kill_worker(fleet: Fleet, rng: random.Random) -> None:
    """The parent alone: its child must not go on as an orphan."""
    _kill(rng.choice(fleet.workers).pid, signal.SIGKILL)


def kill_machine(fleet: Fleet, rng: random.Random) -> None:
    """Parent and child at once, as when a machine is gone."""
    worker = rng.choice(fleet.workers)
    child = fleet.child_of(worker)
    _kill(worker.pid, signal.SIGKILL)
    _kill(child, signal.SIGKILL)


def kill_training(fleet: Fleet, rng: random.Random) -> None:
    _kill(fleet.child_of(rng.choice(fleet.workers)), signal.SIGKILL)


def drain_worker(fleet: Fleet, rng: random.Random) -> None:
    """SIGTERM to the parent, as from Kubernetes."""
    _kill(rng.choice(fleet.workers).pid, signal.SIGTERM)
    time.sleep(rng.uniform(0, 1))


def drain_group(fleet: Fleet, rng: random.Random) -> None:
    """SIGTERM to all processes of a worker, as from systemd; and, now and then, a second one."""
    worker = rng.choice(fleet.workers)
    for _ in range(rng.choice((1, 1, 2))):
        child = fleet.child_of(worker) if worker.process and worker.process.poll() is None else None
        _kill(worker.pid, signal.SIGTERM)
        _kill(child, signal.SIGTERM)
        time.sleep(1.1)


def stop_worker(fleet: Fleet, rng: random.Random) -> None:
    """SIGSTOP to a parent for longer than its lease: it wakes up with a job that is not its own."""
    _stop(fleet, rng.choice(fleet.workers), LEASE * rng.uniform(1.6, 2.5))


def kill_orchestrator(fleet: Fleet, rng: random.Random) -> None:
    for part in rng.choice((fleet.orchestrators[:1], fleet.orchestrators[1:], fleet.orchestrators)):
        _kill(part.pid, signal.SIGKILL)


def stop_orchestrator(fleet: Fleet, rng: random.Random) -> None:
    _stop(fleet, rng.choice(fleet.orchestrators), LEASE * rng.uniform(1.2, 2.0))


def restart_redis(fleet: Fleet, rng: random.Random) -> None:
    """kill -9; the append-only file may lack its last second."""
    fleet.kill_redis()
    time.sleep(rng.uniform(0, LEASE))
    fleet.start_redis()


def empty_redis(fleet: Fleet, rng: random.Random) -> None:
    """It comes back without its data."""
    fleet.kill_redis(lose=True)
    time.sleep(rng.uniform(0, 1))
    fleet.start_redis()


def cut_off(fleet: Fleet, rng: random.Random) -> None:
    """Connections break, and none can be made for a while."""
    proxy = fleet.proxies[rng.choice(("worker", "orchestrator"))]
    proxy.cut(True)
    time.sleep(LEASE * rng.uniform(0.1, 2.0))
    proxy.cut(False)


def delay(fleet: Fleet, rng: random.Random) -> None:
    proxy = fleet.proxies[rng.choice(("worker", "orchestrator"))]
    proxy.delay = rng.uniform(0.02, 0.2)
    time.sleep(LEASE * rng.uniform(0.5, 1.5))
    proxy.delay = 0.0


FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        kill_worker,
        kill_machine,
        kill_training,
        drain_worker,
        drain_group,
        stop_worker,
        kill_orchestrator,
        stop_orchestrator,
        restart_redis,
        empty_redis,
        cut_off,
        delay,
        refusing_worker,
        hung_child,
        edited_task,
        odd_study,
    )
}
