"""Pausing, giving back, refusing, and a Redis that forgets: on the twin, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from justright.failures import Failure, FailureKind
from justright.lifecycle import FINISHED, StudyState, TrialState
from justright.messages import (
    Cancel,
    InspectJob,
    Outcome,
    OutcomeKind,
    Pause,
    Report,
    Resume,
    Snapshot,
    Started,
    TidyJob,
    TrainJob,
)
from tests.helpers.twin import HORIZON, LEASE, House, check, told

NO_STOPS: dict[str, Any] = {"pruner": "none", "sampler": "grid"}


def snapshot(house: House) -> Snapshot:
    found = house.broker.snapshot("s")
    assert found is not None
    return found


def turn_until(house: House, true: Callable[[Snapshot], bool], turns: int = 300) -> Snapshot:
    for _ in range(turns):
        house.turn()
        found = house.broker.snapshot("s")
        if found is not None and true(found):
            return found
    raise AssertionError(snapshot(house))


def running(found: Snapshot) -> list[int]:
    return [t.number for t in found.trials if t.state == TrialState.RUNNING]


def rest(house: House) -> Snapshot:
    """Pause the study, and wait until nothing is trained any more."""
    house.broker.send(Pause(study="s"))
    return turn_until(house, lambda s: s.state == StudyState.PAUSED and not running(s))


def test_a_paused_study_rests_and_goes_on(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(trials=6, **NO_STOPS)
    turn_until(house, lambda s: len(running(s)) == 2)
    found = rest(house)
    paused = [t.number for t in found.trials if t.state == TrialState.PAUSED]
    assert paused
    assert "justright resume s" in found.note
    steps = [trial.step for trial in found.trials]
    for _ in range(50):
        house.turn()
    assert [trial.step for trial in snapshot(house).trials] == steps, "nothing is trained"
    house.broker.send(Resume(study="s"))
    check(house, house.run(), trials=6)
    assert all(trial.attempt == 2 for trial in snapshot(house).trials if trial.number in paused)


def test_a_pause_survives_the_orchestrator_and_needs_no_worker(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(trials=4, **NO_STOPS)
    turn_until(house, lambda s: len(running(s)) == 2)
    house.broker.send(Pause(study="s"))
    house.turn(workers=False)
    house.broker.decisions.clear()  # as if it had been killed before it told the workers
    house.restart()
    turn_until(house, lambda s: s.state == StudyState.PAUSED and not running(s))
    house.restart()
    house.broker.send(Resume(study="s"))
    check(house, house.run(), trials=4)


def test_time_at_rest_does_not_count(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=4, timeout=1000.0, **NO_STOPS)
    turn_until(house, lambda s: bool(running(s)))
    rest(house)
    house.clock.now += 5000.0
    house.turn()
    assert snapshot(house).state == StudyState.PAUSED
    house.broker.send(Resume(study="s"))
    found = house.run()
    assert found.answer is not None
    assert found.answer.reason == "trials"


def test_submitted_again_a_paused_study_goes_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=3, **NO_STOPS)
    turn_until(house, lambda s: bool(running(s)))
    rest(house)
    house.submit("s2", trials=3, **NO_STOPS)
    check(house, house.run(submission="s2"), trials=3)


def test_paused_before_anything_was_looked_at(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=3, **NO_STOPS)
    house.reconciler.turn(wait=0.0)
    house.broker.send(Pause(study="s"))
    for _ in range(5):
        house.turn()
    assert snapshot(house).state == StudyState.PAUSED
    house.broker.send(Resume(study="s"))
    check(house, house.run(), trials=3)


# -- what is lost on the way ----------------------------------------------------------------------


def test_a_redis_that_forgot_everything_is_filled_again(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(trials=6, **NO_STOPS)
    turn_until(house, lambda s: len(running(s)) == 2)
    house.broker.lose_everything()
    for worker in house.workers:
        worker.job, worker.steps = None, {}  # their leases were taken back
        worker.come()
    found = turn_until(house, lambda s: len(running(s)) == 2)
    check(house, house.run(), trials=6)
    attempts = [trial.attempt for trial in found.trials]
    assert max(attempts) == 2
    assert all(t.user_attrs.get("lost", 0) == 0 for t in told(house)), "no fault of theirs"


def test_an_outcome_brings_the_losses_that_no_report_brought(tmp_path: Path) -> None:
    house = House(tmp_path, workers=0)
    job = a_running_job(house)
    work = job.trials[0]
    base: dict[str, Any] = {"study": "s", "trial": work.number, "attempt": work.attempt}
    house.broker.exchange([Report(step=1, loss=1.0, **base)])
    losses = tuple((step, 1.0 / step) for step in range(1, HORIZON + 1))
    outcome = Outcome(kind=OutcomeKind.COMPLETE, step=HORIZON, losses=losses, **base)
    house.broker.exchange([outcome, outcome])
    house.turn()
    trial = told(house)[0]
    assert trial.intermediate_values == dict(losses)
    assert trial.value == pytest.approx(1.0 / HORIZON)


def a_running_job(house: House) -> TrainJob:
    """The first training job, taken by a worker that the test plays itself."""
    house.submit(trials=3, **NO_STOPS)
    from tests.helpers.twin import TwinWorker

    worker = TwinWorker(house.broker, "w")
    worker.come()
    for _ in range(10):
        house.turn()
        worker.beat()
        if worker.job is None:
            worker.step()
        if worker.job is not None:
            return worker.job
    raise AssertionError("no job")


def fail(house: House, job: TrainJob, kind: FailureKind, message: str = "m") -> None:
    for work in job.trials:
        house.broker.exchange(
            [
                Started(
                    study="s", job=job.id, worker="w", trials=((work.number, work.attempt),)
                ),
                Outcome(
                    study="s", trial=work.number, attempt=work.attempt, kind=OutcomeKind.FAILED,
                    failure=Failure(kind=kind, message=message),
                ),
            ]
        )  # fmt: skip
    house.turn()


@pytest.mark.parametrize(
    ("kind", "lost"),
    [(FailureKind.RETURNED, 0), *((k, 1) for k in ("crashed", "stalled", "memory", "disk"))],
)
def test_what_may_mend_is_tried_again(tmp_path: Path, kind: str, lost: int) -> None:
    house = House(tmp_path, workers=0)
    job = a_running_job(house)
    fail(house, job, FailureKind(kind))
    trial = snapshot(house).trials[0]
    assert (trial.state, trial.attempt) == (TrialState.QUEUED, 2)
    assert told(house)[0].user_attrs.get("lost", 0) == lost
    assert ("failure" in told(house)[0].user_attrs) == bool(lost)


@pytest.mark.parametrize("kind", [FailureKind.USER, FailureKind.TASK])
def test_what_comes_again_is_final(tmp_path: Path, kind: FailureKind) -> None:
    house = House(tmp_path, workers=0)
    fail(house, a_running_job(house), kind)
    assert snapshot(house).trials[0].state == TrialState.FAILED


def test_a_study_whose_first_trials_crash_in_one_way_ends_early(tmp_path: Path) -> None:
    house = House(tmp_path, workers=0)
    house.submit(trials=30, **NO_STOPS)
    from tests.helpers.twin import TwinWorker

    workers = [TwinWorker(house.broker, f"w{i}") for i in range(3)]
    for worker in workers:
        worker.come()
    crashed = 0
    for _ in range(40):
        house.turn()
        for worker in workers:
            worker.beat()
            if worker.job is None:
                worker.step()
            if worker.job is not None:
                fail(house, worker.job, FailureKind.CRASHED, "exit code 7")
                worker.job, crashed = None, crashed + 1
        if snapshot(house).state not in (StudyState.INSPECTING, StudyState.RUNNING):
            break
    found = snapshot(house)
    assert found.state == StudyState.FAILED
    assert found.failure is not None
    assert found.failure.message == "exit code 7"
    assert crashed <= 6
    assert all(trial.state in FINISHED for trial in found.trials)


def test_nobody_is_blamed_for_a_job_that_nobody_began(tmp_path: Path) -> None:
    house = House(tmp_path, workers=1)
    house.submit(trials=3, **NO_STOPS)
    turn_until(house, lambda s: bool(running(s)))
    for _ in range(6):  # jobs vanish between the queue and a worker, again and again
        house.broker.queues.clear()
        for _ in range(int(2 * LEASE)):
            house.turn()
    check(house, house.run(), trials=3)
    assert all(t.user_attrs.get("lost", 0) == 0 for t in told(house))


# -- what must not go wrong again -----------------------------------------------------------------


def test_resumed_before_the_pause_has_settled(tmp_path: Path) -> None:
    """The trial pauses all the same, for a study that has gone on: it goes out again."""
    house = House(tmp_path, workers=2)
    house.submit(trials=4, **NO_STOPS)
    turn_until(house, lambda s: len(running(s)) == 2)
    house.broker.send(Pause(study="s"))
    house.broker.send(Resume(study="s"))
    check(house, house.run(), trials=4)


def test_a_pause_that_is_delivered_twice_is_one(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(trials=4, **NO_STOPS)
    turn_until(house, lambda s: len(running(s)) == 2)
    rest(house)
    for trial in snapshot(house).trials:
        base: dict[str, Any] = {"study": "s", "trial": trial.number, "attempt": trial.attempt}
        lost = Failure(kind=FailureKind.CRASHED, message="m")
        house.broker.exchange(
            [
                Outcome(kind=OutcomeKind.PAUSED, **base),
                Outcome(kind=OutcomeKind.FAILED, failure=lost, **base),
            ]
        )
    house.turn()
    assert snapshot(house).state == StudyState.PAUSED
    house.broker.send(Resume(study="s"))
    check(house, house.run(), trials=4)


def test_an_end_that_nobody_was_told_of_is_told_after_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(trials=4, **NO_STOPS)
    turn_until(house, lambda s: len(running(s)) == 2)
    at_work = running(snapshot(house))
    house.broker.send(Cancel(study="s"))
    house.reconciler._let_out = lambda now: None  # type: ignore[method-assign]  # killed here
    house.turn(workers=False)
    house.restart()
    house.broker.decisions.clear()
    house.turn(workers=False)
    assert set(at_work) <= set(house.broker.decisions["s"])
    tidy = [job for job in house.broker.queues.get("default", []) if isinstance(job, TidyJob)]
    assert len(tidy) == 1
    house.turn(workers=False)
    house.restart()
    house.turn(workers=False)
    assert len([job for job in house.broker.queues["default"] if isinstance(job, TidyJob)]) == 1, (
        "once is enough"
    )


def test_what_gets_nowhere_counts_whatever_its_reason(tmp_path: Path) -> None:
    """A process that is beyond its memory from its first step on is not started for ever."""
    house = House(tmp_path, workers=0)
    job = a_running_job(house)
    full = Failure(kind=FailureKind.MEMORY, message="beyond its limit", counts=False)
    for attempt in (1, 2, 3, 4):
        base: dict[str, Any] = {"study": "s", "trial": 0, "attempt": attempt}
        if attempt > 1:
            turn_until_queued(house)
        house.broker.exchange(
            [
                Started(study="s", job=job.id, worker="w", trials=((0, attempt),)),
                Report(step=1, loss=1.0, **base),
                Outcome(kind=OutcomeKind.FAILED, failure=full, **base),
            ]
        )
        house.turn()
    assert told(house)[0].user_attrs["lost"] == 3
    assert snapshot(house).trials[0].state == TrialState.FAILED


def turn_until_queued(house: House) -> None:
    for _ in range(10):
        for worker in house.broker.workers():
            house.broker.beat(worker.model_copy(update={"job": None}), LEASE)
        house.turn()
        if house.broker.queues.pop("default", None):
            return
    raise AssertionError("it does not go out again")


def test_cancelled_before_anything_was_looked_at(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=3, **NO_STOPS)
    house.reconciler.turn(wait=0.0)
    [look] = house.broker.queues["default"]
    assert isinstance(look, InspectJob)
    house.broker.send(Cancel(study="s"))
    house.reconciler.turn(wait=0.0)
    assert all(isinstance(job, TidyJob) for job in house.broker.queues["default"])


def test_a_mended_task_is_not_judged_by_what_failed_before(tmp_path: Path) -> None:
    house = House(tmp_path, workers=1)
    house.submit(trials=30, **NO_STOPS)
    from tests.helpers.twin import TwinWorker

    class Broken(TwinWorker):
        def _one_step(self, job: TrainJob, work: Any) -> None:
            failure = Failure(kind=FailureKind.USER, message="old bug")
            self._end(
                Outcome(
                    study=job.study, trial=work.number, attempt=work.attempt, step=1,
                    kind=OutcomeKind.FAILED, failure=failure,
                )
            )  # fmt: skip

    good = house.workers
    house.workers = [Broken(house.broker, "broken")]
    house.workers[0].come()
    assert house.run().state == StudyState.FAILED
    house.workers = good
    house.submit("s2", trials=8, **NO_STOPS)
    found = house.run(submission="s2")
    assert found.state == StudyState.COMPLETE
