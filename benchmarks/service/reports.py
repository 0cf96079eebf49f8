"""How many reports a second reach a durable study: through justright's orchestrator, and through
``trial.report`` on the storages that Optuna brings.

justright is timed on its own path, the whole of it: reports wait in the Redis stream, one entry
each, as workers with one trial put them there; ``Reconciler.turn`` receives, decodes, fences,
writes, commits with fsync, publishes and acknowledges, until none is left. Afterwards the journal
is opened with stock Optuna and its reports are counted.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
import redis
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from justright.brokers.connection import connect
from justright.brokers.queue import pool_queue
from justright.brokers.redis import RedisBroker
from justright.messages import (
    Event,
    Inspection,
    Job,
    Report,
    Started,
    Submit,
    TrainJob,
    WorkerInfo,
    decode_job,
)
from justright.settings import Settings
from justright.signing import Signer
from justright.spec import PrunerName, StudySpec, TaskRef
from orchestrator.reconcile import Reconciler
from orchestrator.storage.ledger import open_ledger

_LEASE = 3600.0  # seconds: the stand-ins for workers beat once
_STUDY = "reports"


@dataclass(frozen=True)
class Size:
    """How much is reported: ``steps`` by each of ``trials`` that run side by side."""

    trials: int
    steps: int

    @property
    def reports(self) -> int:
        return self.trials * self.steps


class Fleet:
    """Workers without a training: they take jobs, hold leases and report losses."""

    def __init__(self, url: str, count: int, signer: Signer) -> None:
        self._redis, self._signer = connect(url, patient=False), signer
        self._broker = RedisBroker(self._redis)
        self._idle = [self._worker(number) for number in range(count)]
        for worker in self._idle:
            self._broker.beat(worker, _LEASE)

    def _worker(self, number: int) -> WorkerInfo:
        name = f"worker{number}"
        return WorkerInfo(name=name, pool="default", host="here", pid=1, device="cpu")

    def take_jobs(self) -> list[Job]:
        """Take all that is queued, as RQ's workers do, and hold the leases of trials."""
        queue = pool_queue("default", self._redis)
        jobs: list[Job] = []
        for entry in queue.get_jobs():
            queue.remove(entry)
            jobs.append(decode_job(self._signer.open("job", entry.args[0])))
            entry.delete()
        for job, worker in zip(jobs, self._idle, strict=False):
            self._broker.claim(job.id, worker.name, _LEASE)
            held = worker.model_copy(update={"job": job.id, "study": job.study})
            self._broker.beat(held, _LEASE)
        return jobs

    def say(self, event: Event) -> None:
        """One event, as one entry of the stream."""
        self._broker.exchange([event])

    def start(self, jobs: list[Job]) -> list[tuple[int, int]]:
        """Announce these jobs; returns their trials, as (number, attempt)."""
        trials: list[tuple[int, int]] = []
        for job in jobs:
            assert isinstance(job, TrainJob)
            of_job = tuple((work.number, work.attempt) for work in job.trials)
            self.say(Started(study=job.study, job=job.id, worker="worker", trials=of_job))
            trials += of_job
        return trials

    def report(self, trials: list[tuple[int, int]], step: int) -> None:
        """Every trial reports one step, each report an entry of its own."""
        for number, attempt in trials:
            loss = _loss(number, step)
            self.say(
                Report(
                    study=_STUDY,
                    trial=number,
                    attempt=attempt,
                    step=step,
                    loss=loss,
                    train_loss=loss,
                    seconds=0.01,
                )
            )


def _loss(trial: int, step: int) -> float:
    """A curve that falls, to another level for each trial: pruners have something to compare."""
    return (1.0 + trial % 7) / (1.0 + 0.1 * step) + 0.01 * trial


def orchestrator_rate(
    url: str, folder: Path, size: Size, pruner: PrunerName, *, lockstep: bool = False
) -> float:
    """Reports per second through ``Reconciler.turn``, from the stream to the disk.

    All reports wait before the first turn, which then takes thousands at once and asks the pruner
    once for each trial. ``lockstep``: a turn for every step of the trials, so that each turn has
    one report of each; a commit with fsync and the pruner's look at every trial go with it.
    """
    redis.Redis.from_url(url).flushall()
    journal = folder / f"{pruner}-{'lockstep' if lockstep else 'backlog'}.log"
    signer = Signer(secrets.token_hex(32))
    broker, books = RedisBroker(connect(url, patient=True), signer), open_ledger(str(journal))
    seconds = 0.0
    try:
        reconciler = Reconciler(broker, books, Settings())
        fleet = Fleet(url, size.trials, signer)
        trials = begin_study(reconciler, broker, fleet, size, pruner)
        for step in range(1, size.steps + 1):
            fleet.report(trials, step)
            if lockstep:
                seconds += drain(reconciler, size.trials)
        if not lockstep:
            seconds = drain(reconciler, size.reports)
    finally:
        books.close()
    _check(journal, size)
    return size.reports / seconds


def begin_study(
    reconciler: Reconciler, broker: RedisBroker, fleet: Fleet, size: Size, pruner: PrunerName
) -> list[tuple[int, int]]:
    """Submit a study and bring it to where all its trials run, by the turns of the orchestrator."""
    spec = StudySpec(
        name=_STUDY,
        task=TaskRef(target="nobody.loads:It"),
        trials=size.trials,
        sampler="random",
        pruner=pruner,
    )
    broker.send(Submit(id="benchmark", spec=spec))
    reconciler.turn()
    (look,) = fleet.take_jobs()
    fleet.say(Inspection(study=_STUDY, job=look.id, epochs=size.steps + 1, initial_loss=10.0))
    reconciler.turn()
    trials = fleet.start(fleet.take_jobs())
    reconciler.turn()
    if len(trials) != size.trials:
        raise SystemExit(f"{len(trials)} trials were dispatched, expected {size.trials}")
    return trials


def drain(reconciler: Reconciler, reports: int) -> float:
    """Seconds until the orchestrator has taken all reports up, committed and acknowledged."""
    began = time.perf_counter()
    applied = 0
    while applied < reports:
        applied += reconciler.turn()
    return time.perf_counter() - began


def _check(journal: Path, size: Size) -> None:
    """Stock Optuna finds every report in the file."""
    storage = JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name=_STUDY, storage=storage).trials
    found = sum(len(trial.intermediate_values) for trial in trials)
    if found != size.reports:
        raise SystemExit(f"{found} reports are in the journal, expected {size.reports}")


def stock_rate(open_storage: Callable[[], BaseStorage], size: Size) -> float:
    """Reports per second of ``trial.report``, one client, the trials in turn."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=open_storage(),
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
    )
    trials = [study.ask() for _ in range(size.trials)]
    for trial in trials:
        trial.suggest_float("lr", 1e-6, 10.0, log=True)
    began = time.perf_counter()
    for step in range(1, size.steps + 1):
        for trial in trials:
            trial.report(_loss(trial.number, step), step)
    seconds = time.perf_counter() - began
    found = sum(len(trial.intermediate_values) for trial in study.trials)
    if found != size.reports:
        raise SystemExit(f"{found} reports are in the storage, expected {size.reports}")
    return size.reports / seconds
