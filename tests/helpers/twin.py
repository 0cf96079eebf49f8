"""An orchestrator's surroundings in one process: twin broker, twin workers, a clock by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest

from justright.broker import Broker
from justright.brokers.memory import MemoryBroker
from justright.lifecycle import STUDY_FINISHED
from justright.messages import (
    Hello,
    Inspection,
    Outcome,
    OutcomeKind,
    Report,
    Snapshot,
    Started,
    Submit,
    TrainJob,
    TrialWork,
    WorkerInfo,
)
from justright.settings import Settings
from justright.spec import StudySpec, TaskRef
from orchestrator.reconcile import Reconciler
from orchestrator.search.choosing import choose_policy
from orchestrator.search.policy import PolicyFactory
from orchestrator.storage.ledger import Ledger, open_ledger

HORIZON = 9
LEASE = 10.0


def bowl(lr: float, step: int) -> float | None:
    """A loss like real ones: a bowl over log rate that deepens with the steps, a cliff at 1."""
    if lr > 1:
        return None if step > 1 else 50.0
    return 0.1 + (math.log10(lr) + 1.5) ** 2 * (1 + 3 / step) * 0.1 + 1 / step


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class TwinWorker:
    """Takes jobs and reports a made-up loss, one step of each trial with every call of ``step``."""

    broker: MemoryBroker
    name: str = "twin"
    lanes: int = 1
    loss: Callable[[float, int], float | None] = bowl
    inspection: dict[str, Any] = field(default_factory=dict)
    job: TrainJob | None = None
    steps: dict[int, int] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)  #: Steps in each trial's checkpoint.
    trained: list[tuple[int, int]] = field(default_factory=list)  #: (trial, attempt) begun

    def beat(self) -> None:
        info = WorkerInfo(
            name=self.name, pool="default", host="h", pid=1, device="cpu", lanes=self.lanes,
            job=self.job.id if self.job else None,
        )  # fmt: skip
        self.broker.beat(info, LEASE)

    def come(self) -> None:
        self.beat()
        self.broker.exchange([Hello(worker=self.name)])

    def step(self) -> None:
        """Take a job if there is none, or train one step of it."""
        self.beat()
        if self.job is None:
            self._take()
            return
        for work in self.job.trials:
            if work.number in self.steps:
                self._one_step(self.job, work)
        if not self.steps:
            self.job = None

    def _take(self) -> None:
        job = self.broker.take("default", self.name, LEASE)
        if job is None:
            return
        if not isinstance(job, TrainJob):
            told = {"epochs": HORIZON, "initial_loss": 2.0, **self.inspection}
            self.broker.exchange([Inspection(study=job.study, job=job.id, **told)])
            return
        self.job = job
        self.steps = {work.number: self.kept.get(work.number, 0) for work in job.trials}
        numbers = tuple((work.number, work.attempt) for work in job.trials)
        self.trained += numbers
        self.broker.exchange(
            [Started(study=job.study, job=job.id, worker=self.name, trials=numbers)]
        )

    def _one_step(self, job: TrainJob, work: TrialWork) -> None:
        step = self.steps[work.number] = self.steps[work.number] + 1
        loss = self.loss_of(work, step)
        base: dict[str, Any] = {
            "study": job.study,
            "trial": work.number,
            "attempt": work.attempt,
            "step": step,
        }
        until = min(job.until or HORIZON, HORIZON)
        found = self.broker.exchange([Report(loss=loss, **base)], job.study, [work.number])
        decision = found.get(work.number)
        told = decision.action if decision and decision.attempt == work.attempt else ""
        if loss is None:
            self._end(Outcome(kind=OutcomeKind.DIVERGED, reason="not finite", **base))
        elif step >= until:
            kind = OutcomeKind.COMPLETE if step >= HORIZON else OutcomeKind.PAUSED
            self._end(Outcome(kind=kind, **base))
        elif told:
            kind = OutcomeKind.PAUSED if told == "pause" else OutcomeKind.STOPPED
            self._end(Outcome(kind=kind, **base))

    def loss_of(self, work: TrialWork, step: int) -> float | None:
        return self.loss(work.lr, step)

    def _end(self, outcome: Outcome) -> None:
        self.broker.exchange([outcome])
        if outcome.kind is OutcomeKind.PAUSED:
            self.kept[outcome.trial] = outcome.step
        del self.steps[outcome.trial]


class House:
    """One orchestrator on a journal, with twin workers."""

    def __init__(
        self,
        folder: Path,
        workers: int = 1,
        lanes: int = 1,
        make_policy: PolicyFactory = choose_policy,
    ) -> None:
        self._make_policy = make_policy
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock)
        self.place = str(folder / "journal.log")
        self.settings = Settings(lease=LEASE)
        self.ledger = open_ledger(self.place)
        self.reconciler = self.make(self.broker, self.ledger)
        self.workers = [TwinWorker(self.broker, f"w{i}", lanes) for i in range(workers)]
        for worker in self.workers:
            worker.come()

    def make(self, broker: Broker, ledger: Ledger) -> Reconciler:
        return Reconciler(broker, ledger, self.settings, self.clock, self._make_policy)

    def submit(self, submission: str = "s1", **values: Any) -> StudySpec:
        task = TaskRef(target="/tasks/t.py:T")
        spec = StudySpec(**{"name": "s", "task": task, "trials": 8, **values})
        self.broker.send(Submit(id=submission, spec=spec))
        return spec

    def turn(self, workers: bool = True) -> None:
        """A second passes: the orchestrator's turn, then everybody's next step."""
        self.reconciler.turn(wait=0.0)
        for worker in self.workers if workers else ():
            worker.step()
        self.clock.now += 1.0

    def run(self, turns: int = 2000, submission: str | None = None) -> Snapshot:
        """Until the study has ended, and has taken up that submission."""
        for _ in range(turns):
            self.turn()
            snapshot = self.broker.snapshot("s")
            if snapshot is None or submission not in (None, snapshot.submission):
                continue
            if snapshot.state in STUDY_FINISHED:
                return snapshot
        raise AssertionError(f"not ended after {turns} turns: {snapshot}")

    def restart(self) -> None:
        """A new orchestrator, as after kill -9: the disk's journal, and unacknowledged input."""
        forget(self.ledger)
        self.broker.restart_receiver()
        self.ledger = open_ledger(self.place)
        self.reconciler = self.make(self.broker, self.ledger)


def forget(ledger: Ledger) -> None:
    """Lose what was not committed, and the lock, as a killed process does."""
    backend: Any = ledger.storage._backend  # type: ignore[attr-defined]
    backend._waiting.clear()
    backend.close()


def told(house: House) -> list[optuna.trial.FrozenTrial]:
    return house.ledger.studies()["s"].trials


def check(house: House, snapshot: Snapshot, trials: int) -> None:
    """What must hold at the end of every study, whatever happened on its way."""
    answer = snapshot.answer
    assert answer is not None
    assert answer.best_lr is not None
    recorded = told(house)
    assert len(recorded) == trials
    assert all(trial.state.is_finished() for trial in recorded)
    assert [trial.number for trial in recorded] == list(range(trials))
    states = Counter(trial.state.name for trial in recorded)
    assert states["COMPLETE"] == answer.trials["complete"]
    assert states["PRUNED"] == answer.trials["pruned"]
    best = min(t.value for t in recorded if t.state.name == "COMPLETE" and t.value is not None)
    assert answer.loss == pytest.approx(best)
    for trial in recorded:
        if trial.state.name == "COMPLETE":
            assert trial.value == pytest.approx(min(trial.intermediate_values.values()))
            assert set(trial.intermediate_values) == set(range(1, HORIZON + 1))


def told_any(house: House) -> bool:
    return "s" in house.ledger.studies()
