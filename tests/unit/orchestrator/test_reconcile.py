"""The reconcile loop against the twin broker: what studies ask for, and what workers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from justright.failures import Failure, FailureKind
from justright.lifecycle import StudyState, TrialState
from justright.messages import Cancel, Outcome, OutcomeKind, Report, Space
from tests.helpers.twin import LEASE, House, check, told, told_any

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_study_runs_to_its_answer(tmp_path: Path, workers: int, lanes: int) -> None:
    house = House(tmp_path, workers, lanes)
    house.submit(trials=15, lr=(1e-4, 100.0), sampler="tpe", pruner="median")
    snapshot = house.run()
    check(house, snapshot, 15)
    assert snapshot.state == StudyState.COMPLETE
    assert snapshot.answer is not None
    assert snapshot.answer.reason == "trials"
    assert snapshot.answer.edge_of_stability is not None
    trained = [pair for worker in house.workers for pair in worker.trained]
    assert sorted(trained) == [(number, 1) for number in range(15)]


def test_no_more_trials_are_in_flight_than_there_are_workers(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(pruner="none")
    for _ in range(30):
        house.turn()
        running = [t for t in told(house) if not t.state.is_finished()] if told_any(house) else []
        assert len(running) <= 2


def test_a_diverged_trial_is_pruned_at_once_and_teaches(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(sampler="gp", trials=12, lr=(1e-4, 100.0))
    snapshot = house.run()
    diverged = [trial for trial in snapshot.trials if trial.diverged]
    assert diverged
    for trial in diverged:
        assert trial.state == TrialState.PRUNED
        assert trial.step == 2
        assert "diverged" in trial.reason
    # GP ignores pruned trials; told what they mean, it does not go back to the hot third.
    later = [trial for trial in snapshot.trials if trial.number >= 6]
    assert sum(trial.diverged for trial in later) <= 2


def test_all_diverged_gives_no_answer(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(lr=(10.0, 100.0))
    snapshot = house.run()
    assert snapshot.state == StudyState.COMPLETE
    assert snapshot.answer is not None
    assert snapshot.answer.best_lr is None
    assert snapshot.answer.trials["diverged"] == snapshot.answer.trials["pruned"] > 1


def test_stale_repeated_and_late_messages_change_nothing(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(pruner="none")
    while not (told_any(house) and told(house) and told(house)[0].intermediate_values):
        house.turn()
    house.turn(workers=False)  # the step that was on its way
    before = dict(told(house)[0].intermediate_values)
    base: dict[str, Any] = {"study": "s", "trial": 0}
    house.broker.exchange(
        [
            Report(attempt=1, step=1, loss=0.0, **base),  # repeated, with another loss
            Report(attempt=2, step=1, loss=0.0, **base),  # of an attempt that is not
            Outcome(attempt=2, step=9, kind=OutcomeKind.COMPLETE, **base),
            Report(study="other", trial=0, attempt=1, step=1, loss=0.0),
            Report(study="s", trial=99, attempt=1, step=1, loss=0.0),
        ]
    )
    house.turn(workers=False)
    assert told(house)[0].intermediate_values == before
    assert not told(house)[0].state.is_finished()
    snapshot = house.run()
    check(house, snapshot, 8)
    values = {trial.number: trial.value for trial in told(house)}
    house.broker.exchange([Outcome(attempt=1, step=9, kind=OutcomeKind.DIVERGED, **base)])
    house.turn()
    assert {trial.number: trial.value for trial in told(house)} == values


def test_a_lost_worker_costs_an_attempt_not_a_trial(tmp_path: Path) -> None:
    house = House(tmp_path, workers=2)
    house.submit(pruner="none")
    while not house.workers[0].steps:
        house.turn()
    lost = house.workers.pop(0)  # no heartbeat any more
    number = next(iter(lost.steps))
    snapshot = house.run()
    check(house, snapshot, 8)
    assert snapshot.trials[number].attempt == 2
    assert (number, 2) in house.workers[0].trained
    assert snapshot.answer is not None
    assert snapshot.answer.attempts == 9


def test_a_trial_whose_workers_keep_dying_fails_for_good(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=1)
    worker = house.workers[0]
    for _ in range(300):
        house.turn()
        if worker.job is not None:
            worker.job = None  # killed, and back at once as another process
            house.clock.now += LEASE + 1
    snapshot = house.broker.snapshot("s")
    assert snapshot is not None
    assert snapshot.trials[0].state == TrialState.FAILED
    assert snapshot.trials[0].attempt == house.settings.attempts
    assert worker.trained == [(0, 1), (0, 2), (0, 3)]
    assert snapshot.answer is not None
    assert snapshot.answer.trials["failed"] == 1


def test_trials_that_a_worker_gives_back_do_not_use_up_attempts(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=1, sampler="tpe")
    worker = house.workers[0]
    for _ in range(5):
        while worker.job is None:
            house.turn()
        number, attempt = worker.trained[-1]
        failure = Failure(kind=FailureKind.RETURNED, message="asked to leave")
        house.broker.exchange(
            [
                Outcome(
                    study="s", trial=number, attempt=attempt, kind=OutcomeKind.FAILED,
                    failure=failure,
                )
            ]
        )  # fmt: skip
        worker.job = None
    snapshot = house.run()
    check(house, snapshot, 1)
    assert snapshot.trials[0].attempt == 6


def test_a_job_that_vanished_from_the_queue_is_sent_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=3)
    house.turn(workers=False)
    while not (told_any(house) and told(house)):
        house.workers[0].step()
        house.turn(workers=False)
    assert house.broker.queues["default"], "asked, sent out, and not taken yet"
    house.broker.queues["default"].clear()  # as a Redis restarted without its data
    snapshot = house.run()
    check(house, snapshot, 3)


def test_the_users_exception_fails_the_study_soon(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit()
    worker = house.workers[0]
    failure = Failure(kind=FailureKind.USER, message="ValueError: no", traceback="their lines")
    snapshot = None
    for _ in range(200):
        house.turn()
        if worker.job is not None:
            work = worker.job.trials[0]
            outcome = Outcome(
                study="s", trial=work.number, attempt=1, kind=OutcomeKind.FAILED, failure=failure
            )
            house.broker.exchange([outcome])
            worker.job = None
            worker.steps.clear()
        snapshot = house.broker.snapshot("s")
    assert snapshot is not None
    assert snapshot.state == StudyState.FAILED
    assert snapshot.failure == failure
    assert [trial.state for trial in snapshot.trials] == [TrialState.FAILED] * 3
    assert snapshot.trials[0].failure == failure


def test_a_task_that_cannot_be_loaded_leaves_only_the_news(tmp_path: Path) -> None:
    house = House(tmp_path)
    failure = Failure(kind=FailureKind.USER, message="boom")
    house.workers[0].inspection = {"failure": failure}
    house.submit()
    snapshot = house.run()
    assert snapshot.state == StudyState.FAILED
    assert snapshot.failure == failure
    assert not house.ledger.studies()
    house.workers[0].inspection = {}
    house.submit("s2")  # mended, under the same name
    known = house.run(submission="s2")
    check(house, known, 8)


def test_timeout_cancel_and_going_on(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=500, timeout=40.0, pruner="none")
    snapshot = house.run()
    assert snapshot.answer is not None
    assert snapshot.answer.reason == "timeout"
    assert 40 <= snapshot.answer.seconds <= 43
    count = len(told(house))
    assert all(trial.state.is_finished() for trial in told(house))

    house.submit("s2", trials=count + 4, timeout=None, pruner="none")
    known = house.run(submission="s2")
    assert known.answer is not None
    assert known.answer.reason == "trials"
    assert len(told(house)) == count + 4

    house.submit("s3", trials=count + 100, timeout=None, pruner="none")
    house.turn()
    house.turn()
    house.broker.send(Cancel(study="s"))
    house.turn()
    cancelled = house.broker.snapshot("s")
    assert cancelled is not None
    assert cancelled.state == StudyState.CANCELLED
    assert cancelled.answer is not None
    assert cancelled.answer.best_lr is not None
    assert all(trial.state.is_finished() for trial in told(house))


def test_replicates_repeat_the_best_rates_with_other_seeds(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=8, replicates=3)
    snapshot = house.run()
    extra = told(house)[8:]
    assert 2 <= len(extra) <= 6
    for trial in extra:
        original = told(house)[trial.user_attrs["replicate_of"]]
        assert trial.params == original.params
        assert trial.user_attrs["seed"] in (1, 2)
    assert snapshot.answer is not None
    assert snapshot.answer.loss_interval is not None


def test_an_objective_names_its_range(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.workers[0].inspection = {"kind": "objective", "epochs": None}
    house.submit()
    while not house.workers[0].steps:
        house.turn()
    assert len(told(house)) == 1  # nobody else starts before the range is known
    house.broker.exchange([Space(study="s", trial=0, low=1e-3, high=1e-1)])
    house.run()
    assert all(1e-3 <= trial.params["lr"] <= 1e-1 for trial in told(house))


def test_more_trials_after_replicates(tmp_path: Path) -> None:
    """Only rates that were searched are repeated, and only searched ones count as trials."""
    house = House(tmp_path)
    house.submit(trials=6, replicates=2, pruner="none")
    house.run()
    house.submit("s2", trials=10, replicates=2, pruner="none")
    house.run(submission="s2")
    originals = [t for t in told(house) if "replicate_of" not in t.user_attrs]
    assert len(originals) == 10
    numbers = {trial.number for trial in originals}
    repeated = [t for t in told(house) if "replicate_of" in t.user_attrs]
    assert {trial.user_attrs["replicate_of"] for trial in repeated} <= numbers
    pairs = [(t.user_attrs["replicate_of"], t.user_attrs["seed"]) for t in repeated]
    assert len(pairs) == len(set(pairs))


def test_a_sampler_that_is_not_installed_fails_its_study_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    house = House(tmp_path)
    house.submit(sampler="gp")
    snapshot = house.run()
    assert snapshot.state == StudyState.FAILED
    assert snapshot.failure is not None
    assert "justright[gp]" in snapshot.failure.message
    house.restart()
    house.submit("s2", sampler="random")
    for _ in range(200):
        house.turn()
    known = house.broker.snapshot("s")
    assert known is not None
    check(house, known, 8)


def test_cancelled_before_it_began_and_submitted_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(trials=3)
    house.turn(workers=False)
    house.broker.send(Cancel(study="s"))
    house.turn(workers=False)
    known = house.broker.snapshot("s")
    assert known is not None
    assert known.state == StudyState.CANCELLED
    house.submit("s2", trials=3)
    house.turn()
    check(house, house.run(), 3)


def test_a_mended_failure_is_forgotten(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(pruner="none")
    failure = Failure(kind=FailureKind.USER, message="boom")
    worker = house.workers[0]
    while (known := house.broker.snapshot("s")) is None or known.state != StudyState.FAILED:
        house.turn()
        if worker.job is not None:
            [work] = worker.job.trials
            outcome = Outcome(
                study="s", trial=work.number, attempt=1, kind=OutcomeKind.FAILED, failure=failure
            )
            house.broker.exchange([outcome])
            worker.job = None
            worker.steps.clear()
    house.submit("s2", pruner="none")
    house.turn()
    house.run()
    house.restart()
    house.turn()
    known = house.broker.snapshot("s")
    assert known is not None
    assert known.state == StudyState.COMPLETE
    assert known.failure is None
