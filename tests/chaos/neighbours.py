"""Studies and workers that are a nuisance to whoever stands beside them, as faults of their own.

Each begins a study of its own, or a worker of its own, beside the study that the round is about.
That one must come to the same losses all the same, and the neighbour to the end that it deserves.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable

from justright.lifecycle import STUDY_FINISHED, StudyState, TrialState
from justright.messages import Cancel, Snapshot
from tests.chaos.fleet import ROOT, Fleet

_PATIENCE = 120.0  # seconds, for a study to begin or to end
_TASK = ROOT / "tests" / "chaos" / "task.py"
_ENDS = frozenset(STUDY_FINISHED)


def refusing_worker(fleet: Fleet, rng: random.Random) -> None:
    """A worker joins that may run no task of the fleet, or holds another secret."""
    empty = fleet.folder / "no-tasks"
    empty.mkdir(exist_ok=True)
    other = rng.choice(("tasks", "secret"))
    tasks = empty if other == "tasks" else _TASK.parent
    environment = fleet.environment(fleet.proxies["worker"].port)
    if other == "secret":
        environment["JUSTRIGHT_SECRET"] = "the secret of another project"
    command = [sys.executable, "-P", "-m", "justright", "worker", "--gpus", "none", "--threads"]
    with open(fleet.folder / "refusing.log", "ab") as log:
        process = subprocess.Popen(
            [*command, "1", "--tasks", str(tasks)],
            env=environment, cwd=fleet.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        time.sleep(rng.uniform(4.0, 8.0))
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def hung_child(fleet: Fleet, rng: random.Random) -> None:
    """A training that hangs, or broke its own process, is cancelled: its worker must be free."""
    name = _begin(fleet, "hung", f"{_TASK}:{rng.choice(('Hangs', 'Breaks'))}", trials=1)
    _wait(fleet, name, _trains)
    deadline = time.monotonic() + _PATIENCE
    while not _ended(snapshot := fleet.broker.snapshot(name)) and time.monotonic() < deadline:
        fleet.broker.send(
            Cancel(id=uuid.uuid4().hex, study=name)
        )  # again where an orchestrator had just gone
        time.sleep(1.0)
    fleet.neighbours[name] = frozenset({StudyState.CANCELLED})
    assert _ended(snapshot), f"{name} is not cancelled"


def edited_task(fleet: Fleet, rng: random.Random) -> None:
    """The file of a study is edited while it runs: old and new losses must not be mixed."""
    copy = fleet.tasks / f"edited_{uuid.uuid4().hex[:8]}.py"
    shutil.copy(_TASK, copy)
    name = _begin(fleet, "edited", f"{copy}:Tiny", trials=12)
    _wait(fleet, name, lambda snapshot: any(trial.step for trial in snapshot.trials))
    copy.write_text(copy.read_text().replace("inputs.sin()", "inputs.cos()"))
    fleet.neighbours[name] = frozenset({StudyState.PAUSED})


def odd_study(fleet: Fleet, rng: random.Random) -> None:
    """Losses at the end of what a float can hold, trained again with other seeds."""
    target = f"{_TASK}:{rng.choice(('Huge', 'Tiniest'))}"
    fleet.neighbours[_begin(fleet, "odd", target, trials=4, replicates=2)] = _ENDS


def settle(fleet: Fleet) -> list[str]:
    """Wait for the neighbours' ends; what did not end as it should, in sentences."""
    wrong = []
    for name, right in fleet.neighbours.items():
        deadline = time.monotonic() + _PATIENCE
        while (state := _state(fleet, name)) not in right and time.monotonic() < deadline:
            fleet.revive()
            time.sleep(0.2)
        if state not in right:
            wrong.append(f"{name} is {state or 'gone'}, not {' or '.join(sorted(right))}")
    fleet.neighbours.clear()
    return wrong


def _state(fleet: Fleet, name: str) -> StudyState | None:
    snapshot = fleet.broker.snapshot(name)
    return snapshot.state if snapshot else None


def _begin(fleet: Fleet, kind: str, target: str, **options: int) -> str:
    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    fleet.submit(name, target, **options)
    return name


def _wait(fleet: Fleet, name: str, reached: Callable[[Snapshot], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while (snapshot := fleet.broker.snapshot(name)) is None or not (
        reached(snapshot) or _ended(snapshot)
    ):
        assert time.monotonic() < deadline, f"{name} does not train: see {fleet.folder}"
        time.sleep(0.1)


def _trains(snapshot: Snapshot) -> bool:
    return any(trial.state == TrialState.RUNNING for trial in snapshot.trials)


def _ended(snapshot: Snapshot | None) -> bool:
    return snapshot is not None and snapshot.state in STUDY_FINISHED
