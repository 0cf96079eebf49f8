"""Two attempts, two pools, two studies, a backlog: what several of something do to each other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from justright.lifecycle import TrialState
from justright.messages import Outcome, OutcomeKind, Report, Submit, TrainJob
from justright.spec import StudySpec, TaskRef
from orchestrator.storage import ledger
from orchestrator.studies.trial_writer import TrialWriter
from tests.helpers.twin import HORIZON, LEASE, House, told

NO_STOPS = {"sampler": "random", "pruner": "none"}


def begun(house: House, **options: Any) -> TrainJob:
    """The first job, which a worker has begun to train."""
    house.submit(**{**NO_STOPS, **options})
    while house.workers[0].job is None:
        house.turn()
    return house.workers[0].job


def test_what_an_older_attempt_says_changes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    work = begun(house).trials[0]
    house.workers.clear()
    while told(house)[work.number].user_attrs["attempt"] == 1:  # its worker is lost
        house.turn()
    old: dict[str, Any] = {"study": "s", "trial": work.number, "attempt": work.attempt}
    house.broker.exchange([Report(step=7, loss=0.001, **old)])
    house.broker.exchange([Outcome(kind=OutcomeKind.COMPLETE, step=9, **old)])
    house.turn()
    trial = told(house)[work.number]
    assert trial.user_attrs["attempt"] > work.attempt, "no other attempt was made"
    assert 7 not in trial.intermediate_values
    assert not trial.state.is_finished()


def test_jobs_go_to_their_own_pool(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(pool="gpus", **NO_STOPS)
    for _ in range(4):
        house.turn()
    assert house.workers[0].job is None
    assert not any(house.broker.queues.values()), "a job of another pool was dispatched"


def test_of_two_studies_neither_starves(tmp_path: Path) -> None:
    """The second one is begun as soon as a worker is free, whatever the first still wants."""
    house = House(tmp_path, workers=2)
    house.submit("a", name="s", trials=50, **NO_STOPS)
    for _ in range(3):
        house.turn()
    house.submit("b", name="late", trials=50, **NO_STOPS)
    for _ in range(4 * HORIZON):
        house.turn()
    jobs = [worker.job.study if worker.job else "" for worker in house.workers]
    assert "late" in jobs
    both = [len(house.ledger.studies()[name].trials) for name in ("s", "late")]
    assert min(both) >= max(both) / 3, both


def test_while_much_is_unread_no_job_is_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a job that seems lost may be among it."""
    house = House(tmp_path)
    begun(house)
    house.workers.clear()
    house.turn()
    monkeypatch.setattr("orchestrator.reconcile.AT_MOST", 1)
    for _ in range(3 * int(LEASE)):
        house.broker.exchange([Report(study="nobody", trial=0, attempt=1, step=1, loss=1.0)])
        house.turn()
    assert told(house)[0].user_attrs["attempt"] == 1


def test_a_job_that_was_missing_for_a_moment_is_not_held_against_it(tmp_path: Path) -> None:
    """Each time it is there again, its patience begins anew."""
    house = House(tmp_path)
    begun(house)
    [run] = house.reconciler._runs.values()
    [job] = [name for name in run.open_jobs() if name]
    worker = house.workers.pop()
    for _ in range(3):
        house.clock.now += LEASE + 0.1  # its lease has just expired ...
        house.turn()
        assert job in house.reconciler._missing_since
        worker.beat()  # ... and its heart beats again
        house.clock.now += 1.1
        house.turn()
        assert job not in house.reconciler._missing_since
    assert told(house)[0].user_attrs["attempt"] == 1


def test_a_running_trial_whose_lease_has_just_expired_has_a_third_of_one_left(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    begun(house)
    house.workers.clear()
    house.clock.now += LEASE + 0.1
    house.turn()
    house.clock.now += 1.1
    house.turn()
    assert told(house)[0].user_attrs["attempt"] == 1, "it was lost at once"
    house.clock.now += LEASE / 3
    house.turn()
    house.turn()
    assert told(house)[0].user_attrs["attempt"] == 2


def test_a_promotion_says_where_to_before_it_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in between leaves a trial that rests on its way, and not one that is at its end."""
    written: list[tuple[int, str]] = []
    note = TrialWriter.note

    def noting(self: Any, record: Any, key: str, value: Any) -> None:
        if key in (ledger.UNTIL, ledger.STATE):
            written.append((record.number, f"{key}={value}"))
        note(self, record, key, value)

    monkeypatch.setattr(TrialWriter, "note", noting)
    house = House(tmp_path, lanes=4)
    house.submit(lr=(1e-4, 10.0), trials=8)
    house.run()
    promoted = 0
    for number in {trial for trial, _ in written}:
        steps = [text for trial, text in written if trial == number]
        for before, after in pairwise(steps):
            if after == f"state={TrialState.QUEUED}" and "state=" in before:
                assert before != "state=paused", steps
        promoted += sum(text.startswith("until=") for text in steps) - 1
    assert promoted > 0, "none was promoted"


def test_what_a_snapshot_says_of_refusals_and_of_the_plan(tmp_path: Path) -> None:
    house = House(tmp_path)
    begun(house)
    other = StudySpec(name="s", task=TaskRef(target="/other.py:T"))
    house.broker.send(Submit(id="no", spec=other))
    house.turn()
    snapshot = house.broker.snapshot("s")
    assert snapshot is not None
    assert "--name" in snapshot.refused["no"]
    assert snapshot.plan is not None


def test_a_job_has_trials_of_one_step_only(tmp_path: Path) -> None:
    """Those that a pause has brought back stood at different steps."""
    house = House(tmp_path, workers=2, lanes=4)
    house.submit(trials=8)
    seen: set[int | None] = set()
    for turn in range(60):
        house.turn()
        if turn % 9 == 8:
            house.reconciler._redis_was_emptied()  # all that is out comes back at once
        run = house.reconciler._runs.get("s")
        for job, records in run.trials.open_jobs().items() if run is not None else ():
            if job:  # queued, or with a worker
                assert len({record.until for record in records}) == 1
                seen.add(records[0].until)
    assert len(seen) > 1, "all stood at one step"


def test_replicates_say_nothing_of_what_mattered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def noting(trials: Any, space: Any, seed: int, initial: Any) -> dict[str, float]:
        asked.append(sum(ledger.REPLICATE_OF in trial.user_attrs for trial in trials))
        return {}

    monkeypatch.setattr("orchestrator.studies.current_answer.importance", noting)
    house = House(tmp_path, lanes=4)
    for worker in house.workers:
        worker.inspection = {"details": {"momentum": 0.9}}
    house.submit(trials=12, replicates=3, search={"momentum": "0.5:0.9"})
    house.run()
    repeated = [t for t in told(house) if ledger.REPLICATE_OF in t.user_attrs]
    assert repeated, "nothing was repeated"
    assert asked == [0]


def test_what_was_missing_before_nobody_looked_is_looked_for_anew(tmp_path: Path) -> None:
    """Redis was away, or the orchestrator: hearts beat again first."""
    house = House(tmp_path)
    begun(house)
    house.workers.clear()
    house.clock.now += LEASE + 0.1
    house.turn()
    assert house.reconciler._missing_since, "it was not missed"
    house.clock.now += 10 * LEASE
    house.turn()
    assert told(house)[0].user_attrs["attempt"] == 1
