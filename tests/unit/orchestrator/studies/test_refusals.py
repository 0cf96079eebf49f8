"""A refusal speaks of the worker: another one gets the job, and it costs the study nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState
from justright.messages import (
    Inspection,
    InspectJob,
    Outcome,
    OutcomeKind,
    Refused,
    Started,
    TidyJob,
)
from tests.helpers.twin import LEASE, House, TwinWorker, told, told_any

NO_FLAG = Failure(kind=FailureKind.REFUSED, message="start it with --tasks /there")
NO_FILE = Failure(kind=FailureKind.USAGE, message="no file /t.py on this worker", elsewhere=True)
NO_MODULE = Failure(kind=FailureKind.USER, message="No module named 'x'", elsewhere=True)
KINDS = {"signature": None, "flag": NO_FLAG, "file": NO_FILE, "module": NO_MODULE}


@dataclass
class RefusingWorker(TwinWorker):
    """Is free again at once, whatever it is given. ``says``: None where its parent refuses."""

    says: Failure | None = None
    refused: int = 0
    rests: int = 0  #: Turns for which it takes nothing, as after a refusal.

    def step(self) -> None:
        self.beat()
        self.rests -= 1
        if self.rests >= 0:
            return
        job = self.broker.take("default", self.name, LEASE)
        if job is None:
            return
        self.refused, self.rests = self.refused + 1, 2
        study = job.study
        if self.says is None:
            reason = "found a job whose signature is wrong"
            self.broker.exchange([Refused(job=job.id, worker=self.name, reason=reason)])
        elif isinstance(job, InspectJob):
            failed = Inspection(study=study, job=job.id, failure=self.says, worker=self.name)
            self.broker.exchange([failed])
        elif not isinstance(job, TidyJob):
            numbers = tuple((work.number, work.attempt) for work in job.trials)
            self.broker.exchange(
                [Started(study=study, job=job.id, worker=self.name, trials=numbers)]
            )
            for work in job.trials:
                self.broker.exchange(
                    [
                        Outcome(
                            study=study, trial=work.number, attempt=work.attempt,
                            kind=OutcomeKind.FAILED, failure=self.says, worker=self.name,
                        )
                    ]
                )  # fmt: skip


def join(house: House, says: Failure | None, name: str = "bad", first: bool = True) -> TwinWorker:
    worker = RefusingWorker(house.broker, name, says=says)
    house.workers.insert(0 if first else len(house.workers), worker)
    worker.come()
    return worker


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("says", KINDS.values(), ids=KINDS)
def test_beside_a_healthy_worker_no_study_is_lost(
    tmp_path: Path, says: Failure | None, restart: bool
) -> None:
    house = House(tmp_path)
    bad = join(house, says)
    house.submit()
    for _ in range(5):
        house.turn()
    if restart:
        house.restart()
    snapshot = house.run()
    assert snapshot.state == StudyState.COMPLETE, snapshot.failure
    assert isinstance(bad, RefusingWorker)
    assert bad.refused > 3, "it was never asked"
    assert all(trial.user_attrs.get("lost", 0) == 0 for trial in told(house)), "attempts were lost"


@pytest.mark.parametrize("says", KINDS.values(), ids=KINDS)
def test_where_none_can_serve_the_study_fails_and_says_why(
    tmp_path: Path, says: Failure | None
) -> None:
    house = House(tmp_path, workers=0)
    join(house, says)
    house.submit()
    snapshot = house.run(60)
    assert snapshot.state == StudyState.FAILED
    assert snapshot.failure is not None
    assert (says.message if says else "signature") in snapshot.failure.message
    kind = says.kind if says else FailureKind.REFUSED
    assert snapshot.failure.kind is kind


def test_it_says_what_each_of_them_said(tmp_path: Path) -> None:
    house = House(tmp_path, workers=0)
    join(house, NO_FLAG, "a")
    join(house, NO_FILE, "b")
    join(house, NO_FLAG, "c")
    house.submit()
    snapshot = house.run(60)
    assert snapshot.failure is not None
    assert f"a, c: {NO_FLAG.message}" in snapshot.failure.message
    assert f"b: {NO_FILE.message}" in snapshot.failure.message


def test_a_healthy_worker_that_comes_a_moment_later_is_in_time(tmp_path: Path) -> None:
    house = House(tmp_path, workers=0)
    join(house, None)
    house.submit()
    for _ in range(4):
        house.turn()
    waiting = house.broker.snapshot("s")
    assert waiting is not None
    assert "bad: found a job whose signature is wrong" in waiting.note
    house.workers.append(TwinWorker(house.broker, "good"))
    house.workers[-1].come()
    assert house.run().state == StudyState.COMPLETE


def test_a_worker_that_trained_for_the_study_is_believed(tmp_path: Path) -> None:
    """What it lacks at a later trial is that trial's fault, not a refusal."""
    house = House(tmp_path)
    house.submit(sampler="random", pruner="none")
    while not told_any(house) or not any(trial.intermediate_values for trial in told(house)):
        house.turn()
    worker = house.workers[0]
    assert worker.job is not None
    work = worker.job.trials[0]
    house.broker.exchange(
        [
            Outcome(
                study="s", trial=work.number, attempt=work.attempt, kind=OutcomeKind.FAILED,
                failure=NO_MODULE, worker=worker.name,
            )
        ]
    )  # fmt: skip
    house.turn(workers=False)
    assert told(house)[work.number].state.name == "FAIL"


def test_a_job_that_was_begun_before_says_nothing_of_the_worker(tmp_path: Path) -> None:
    attempts = []
    for disturbed in (False, True):
        (tmp_path / str(disturbed)).mkdir()
        house = House(tmp_path / str(disturbed))
        house.submit()
        while house.workers[0].job is None:
            house.turn()
        job = house.workers[0].job
        again = Refused(job=job.id, worker="w0", reason="it was begun before", again=True)
        house.broker.exchange([again] if disturbed else [])
        snapshot = house.run()
        assert snapshot.state == StudyState.COMPLETE
        assert snapshot.answer is not None
        attempts.append(snapshot.answer.attempts)
    assert attempts[0] == attempts[1], "its owner was disturbed"


def test_one_worker_with_few_lanes_does_not_hold_the_pool_to_them(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2, lanes=4)
    house.workers[0].lanes = 1
    for worker in house.workers:
        worker.come()
    house.submit(sampler="random", pruner="none", trials=8)
    sizes = set()
    for _ in range(40):
        house.turn()
        sizes |= {len(worker.job.trials) for worker in house.workers if worker.job}
    assert max(sizes) == 4
