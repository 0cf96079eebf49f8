"""How long the service takes to recover from each fault, with its default settings.

    python -m benchmarks.service.recovery [--fault NAME] [--json]

A study of two long trials on three workers, one of them idle. Each fault hits one trial's worker,
the active orchestrator or Redis; the figure is the time from the fault (or from its end, where it
lasts) until the study has a report that it would not have without the recovery.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.messages import Cancel, Snapshot, Submit
from justright.settings import Settings
from justright.spec import StudySpec, TaskRef
from tests.chaos.fleet import ROOT, Fleet, Part
from tests.helpers.commands import SIGNER

_PATIENCE = 180.0
_AWAY = 60.0  # seconds that everybody is cut off from Redis


class Stage:
    """A fleet with a study at work."""

    def __init__(self, folder: Path) -> None:
        lease = Settings().lease
        self.fleet = Fleet(folder, workers=3, lease=lease)
        self.name = f"recovery-{uuid.uuid4().hex[:6]}"
        self.broker = RedisBroker(connect(self.fleet.url, patient=True), SIGNER)
        target = f"{ROOT / 'tests' / 'chaos' / 'task.py'}:Tiny"
        task = TaskRef(target=target, arguments={"pause": 0.05})
        self.broker.send(
            Submit(
                id=self.name,
                spec=StudySpec(
                    name=self.name, task=task, lr=(1e-3, 1e-2), trials=2, sampler="grid",
                    pruner="none", epochs=10_000,
                ),
            )
        )  # fmt: skip
        self.until(lambda s: len(s.trials) == 2 and all(trial.step > 1 for trial in s.trials))

    def snapshot(self) -> Snapshot | None:
        return self.broker.snapshot(self.name)

    def until(self, true: Callable[[Snapshot], bool]) -> float:
        """Seconds until the study is so."""
        began = time.monotonic()
        while True:
            snapshot = self.snapshot()
            if snapshot is not None and true(snapshot):
                return time.monotonic() - began
            if time.monotonic() - began > _PATIENCE:
                raise RuntimeError(f"no recovery within {_PATIENCE:.0f} s: {self.fleet.folder}")
            time.sleep(0.02)

    def busy(self) -> Part:
        """The part that trains one of the trials."""
        pids = {info.pid for info in self.broker.workers() if info.job is not None}
        return next(part for part in self.fleet.workers if part.pid in pids)

    def leader(self) -> Part:
        name = self.broker.leader() or ""
        return next(part for part in self.fleet.orchestrators if f"-{part.pid}-" in name)

    def steps(self) -> dict[int, int]:
        """How far each trial is."""
        found = self.snapshot()
        return {trial.number: trial.step for trial in found.trials} if found else {}

    def next_attempt(self, known: dict[int, int] | None = None) -> float:
        """Until a second attempt has reported more than ``known``, or than the study has now."""
        known = self.steps() if known is None else known
        return self.until(
            lambda s: any(t.attempt > 1 and t.step > known.get(t.number, 0) for t in s.trials)
        )

    def next_reports(self) -> float:
        """Until both trials have reported more than the study has now."""
        known = self.steps()
        return self.until(
            lambda s: (
                len(s.trials) == 2
                and all(trial.step > known.get(trial.number, 0) for trial in s.trials)
            )
        )

    def close(self) -> None:
        self.broker.send(Cancel(study=self.name))
        self.fleet.close()


def worker_killed(stage: Stage) -> float:
    os.kill(stage.busy().pid, signal.SIGKILL)
    return stage.next_attempt()


def worker_stopped(stage: Stage) -> float:
    stage.fleet.stop(stage.busy())
    return stage.next_attempt()


def training_killed(stage: Stage) -> float:
    child = stage.fleet.child_of(stage.busy())
    assert child is not None
    os.kill(child, signal.SIGKILL)
    return stage.next_attempt()


def worker_drained(stage: Stage) -> float:
    os.kill(stage.busy().pid, signal.SIGTERM)
    return stage.next_attempt()


def orchestrator_killed(stage: Stage) -> float:
    os.kill(stage.leader().pid, signal.SIGKILL)
    return stage.next_reports()


def redis_restarted(stage: Stage) -> float:
    stage.fleet.kill_redis()
    time.sleep(3.0)
    stage.fleet.start_redis()
    return stage.next_reports()


def redis_emptied(stage: Stage) -> float:
    """Both trials go back to their last checkpoint."""
    known = stage.steps()
    stage.fleet.kill_redis(lose=True)
    time.sleep(3.0)
    stage.fleet.start_redis()
    return stage.next_attempt(known)


def everybody_cut_off(stage: Stage) -> float:
    """For a minute: the training goes on meanwhile, and no attempt is lost."""
    for proxy in stage.fleet.proxies.values():
        proxy.cut(True)
    time.sleep(_AWAY)
    found = stage.snapshot()
    assert found is not None
    before = sum(trial.step for trial in found.trials)
    for proxy in stage.fleet.proxies.values():
        proxy.cut(False)
    seconds = stage.next_reports()
    after = stage.snapshot()
    assert after is not None
    assert all(trial.attempt == 1 for trial in after.trials), "an attempt was lost"
    print(f"  {sum(t.step for t in after.trials) - before} reports had waited", file=sys.stderr)
    return seconds


FAULTS = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        worker_killed,
        worker_stopped,
        training_killed,
        worker_drained,
        orchestrator_killed,
        redis_restarted,
        redis_emptied,
        everybody_cut_off,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.service.recovery", description=__doc__
    )
    parser.add_argument("--fault", choices=[*FAULTS])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, float] = {}
    for name in [options.fault] if options.fault else FAULTS:
        folder = Path(tempfile.mkdtemp(prefix="justright-recovery-"))
        stage = Stage(folder)
        try:
            found[name] = round(FAULTS[name](stage), 2)
        finally:
            stage.close()
        shutil.rmtree(folder)
        if not options.json:
            print(f"{name:<22} {found[name]:6.2f} s", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
