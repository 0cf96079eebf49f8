"""Trials that pause at a step and are promoted: by a search that is easy to foretell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from justright.brokers.connection import connect
from justright.brokers.redis import RedisBroker
from justright.lifecycle import StudyState, TrialState
from justright.messages import Pause, Resume, Snapshot, Submit, TrainJob, TrialWork
from justright.settings import Settings
from justright.spec import StudySpec, TaskRef
from justright.task import Task
from orchestrator.reconcile import Reconciler
from orchestrator.search.asking import Asking
from orchestrator.search.policy import PolicyFactory
from orchestrator.storage import ledger
from orchestrator.storage.journal import GroupCommitJournal
from orchestrator.storage.ledger import open_ledger
from tests.helpers.commands import EXAMPLES, SIGNER, await_true, serving
from tests.helpers.halving import Halving, Idle
from tests.helpers.twin import HORIZON, LEASE, House, bowl, told
from worker.training.trainer import TaskTrainer
from worker.user_code.loading import load

optuna.logging.set_verbosity(optuna.logging.ERROR)

RATES = 8
RANGE = (2e-4, 1.0)
STEPS = [1, 1, 1, 1, 2, 2, 4, HORIZON]  # of the eight rates, the worst first


def start(
    folder: Path,
    workers: int = 1,
    lanes: int = 1,
    shared: bool = True,
    make_policy: PolicyFactory = Halving,
) -> House:
    """A house with a study of eight rates; ``shared``: checkpoints are, among the workers."""
    house = House(folder, workers, lanes, make_policy)
    for worker in house.workers if shared else ():
        worker.kept = house.workers[0].kept
    house.submit(trials=RATES, lr=RANGE)
    return house


def check_halved(house: House, found: Snapshot) -> None:
    """Each rate trained as far as it should, and ended as it should."""
    assert found.state == StudyState.COMPLETE
    # One that was killed between its beginning and its rate has none, and another took its place.
    asked = [trial for trial in told(house) if "lr" in trial.params]
    trials = sorted(asked, key=lambda t: bowl(t.params["lr"], 1) or 0.0, reverse=True)
    assert [len(trial.intermediate_values) for trial in trials] == STEPS
    for trial in trials:
        losses = {step: bowl(trial.params["lr"], step) for step in trial.intermediate_values}
        assert trial.intermediate_values == losses
    assert [trial.state.name for trial in trials] == ["PRUNED"] * 7 + ["COMPLETE"]
    assert {trial.user_attrs[ledger.WHY] for trial in trials[:7]} == {"not promoted: trials"}
    assert found.answer is not None
    assert found.answer.reason == "trials"
    assert found.answer.best_lr == trials[-1].params["lr"]


def check_frugal(house: House, found: Snapshot) -> None:
    """No epoch and no attempt was trained twice."""
    assert found.answer is not None
    assert found.answer.epochs == sum(STEPS)
    trained = [pair for worker in house.workers for pair in worker.trained]
    assert len(trained) == len(set(trained)) == 8 + 4 + 2 + 1 + 1


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_better_half_goes_on(tmp_path: Path, workers: int, lanes: int) -> None:
    house = start(tmp_path, workers, lanes)
    found = house.run()
    check_halved(house, found)
    check_frugal(house, found)


def test_where_no_checkpoint_is_they_begin_anew(tmp_path: Path) -> None:
    house = start(tmp_path, workers=3, shared=False)
    for worker in house.workers:
        worker.kept = Forgetful()
    found = house.run()
    check_halved(house, found)
    assert found.answer is not None
    assert found.answer.epochs == 8 * 1 + 4 * 2 + 2 * 4 + 8 + HORIZON


class Forgetful(dict[int, int]):
    """An artifact place that keeps nothing."""

    def get(self, key: int, default: Any = None) -> Any:
        return default


def test_the_step_is_recorded_also_where_the_search_does_not_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(asking: Asking, params: dict[str, Any], _: dict[str, Any]) -> None:
        asking._study.enqueue_trial(params)
        asking._waits = True

    monkeypatch.setattr(Asking, "fix", silent)
    house = start(tmp_path)
    found = house.run()
    check_halved(house, found)
    assert {trial.user_attrs[ledger.UNTIL] for trial in told(house)} == {1, 2, 4, HORIZON}


# -- what happens on the way -------------------------------------------------------------------


class Killed(BaseException):
    """The orchestrator dies here."""


@pytest.mark.parametrize("every", [1, 2, 5])
def test_killed_between_turns(tmp_path: Path, every: int) -> None:
    house = start(tmp_path, workers=2)
    for turn in range(300):
        house.turn()
        if turn % every == 0:
            house.restart()
    found = house.run()
    check_halved(house, found)
    check_frugal(house, found)


@pytest.mark.parametrize("nth", range(3, 236, 5))
def test_killed_between_any_two_writes_of_a_database(
    tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the journal keeps each write at once, and one write is the last."""
    house = start(tmp_path, lanes=3)
    original: Callable[..., Any] = GroupCommitJournal.append_logs
    writes = 0

    def durable(self: GroupCommitJournal, logs: list[dict[str, Any]]) -> None:
        nonlocal writes
        writes += 1
        if writes == nth:
            raise Killed
        original(self, logs)
        self.commit()

    monkeypatch.setattr(GroupCommitJournal, "append_logs", durable)
    try:
        found = house.run()
    except Killed:
        house.restart()
        found = house.run()
    assert writes > nth
    check_halved(house, found)


@pytest.mark.parametrize("after", range(3, 60, 4))
def test_a_rest_promotes_nobody_and_ends_nobody(tmp_path: Path, after: int) -> None:
    house = start(tmp_path, workers=2)
    for _ in range(after):
        house.turn()
    house.broker.send(Pause(study="s"))
    for _ in range(5):
        house.turn()
    found = house.broker.snapshot("s")
    assert found is not None
    if found.state == StudyState.COMPLETE:
        return  # it had ended before
    assert all(trial.state != TrialState.RUNNING for trial in found.trials)
    steps = [trial.step for trial in found.trials]
    house.restart()
    for _ in range(10):
        house.turn()
    found = house.broker.snapshot("s")
    assert found is not None
    assert [trial.step for trial in found.trials] == steps
    house.broker.send(Resume(study="s"))
    found = house.run()
    check_halved(house, found)
    assert found.answer is not None
    assert found.answer.epochs == sum(STEPS)


def test_a_worker_that_is_lost_with_a_promoted_trial(tmp_path: Path) -> None:
    house = start(tmp_path, workers=2)

    def promoted() -> TrainJob | None:
        job = house.workers[0].job
        return job if job is not None and job.trials[0].attempt == 2 else None

    while (job := promoted()) is None:
        house.turn()
    house.workers.pop(0)  # no heartbeat any more
    found = house.run()
    check_halved(house, found)
    again = (job.trials[0].number, 3)
    assert again in house.workers[0].trained
    assert told(house)[again[0]].user_attrs[ledger.LOST] == 1


def test_a_search_that_stalls_ends_its_study_with_a_warning(tmp_path: Path) -> None:
    found = start(tmp_path, make_policy=Idle).run()
    assert found.state == StudyState.COMPLETE
    assert any("nothing more to train" in text for text in found.warnings)
    assert all(trial.state == TrialState.PRUNED for trial in found.trials)


def test_a_target_is_met_by_a_trial_that_did_not_complete(tmp_path: Path) -> None:
    house = House(tmp_path, make_policy=Halving)
    rate = RANGE[0] * (RANGE[1] / RANGE[0]) ** (4.5 / RATES)  # one of the first rung
    target = bowl(rate, 1)
    house.submit(trials=RATES, lr=RANGE, target=target)
    found = house.run()
    assert found.answer is not None
    assert found.answer.reason == "target"
    assert found.answer.loss is not None
    assert target is not None
    assert found.answer.loss <= target
    assert found.answer.trials["complete"] == 0


# -- real parts --------------------------------------------------------------------------------


def uninterrupted(lr: float, epochs: int) -> list[float | None]:
    """The losses of a training of the example from its first epoch to its last."""
    torch.set_num_threads(1)
    task = load(TaskRef(target=f"{EXAMPLES}/digits.py:Digits"))
    assert isinstance(task, Task)
    trainer = TaskTrainer(task, torch.device("cpu"), 30, threads=1)
    trial = trainer.start(TrialWork(number=0, lr=lr, seed=0, attempt=1))
    found = [trainer.train_epoch(trial) for _ in range(epochs)]
    return [result.loss for result in found if result is not None]


def checkpoints(folder: Path) -> list[str]:
    """Their names, while others write and remove them: ``os.walk`` passes over what has gone."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith(".pt")]


@pytest.mark.parametrize("lanes", [1, 4])
def test_two_workers_go_on_from_each_others_checkpoints(
    clean_redis: str, tmp_path: Path, lanes: int
) -> None:
    """Real processes: what is promoted reports what a training in one go reports."""
    env = {"JUSTRIGHT_REDIS_URL": clean_redis, "JUSTRIGHT_ARTIFACTS": str(tmp_path / "kept")}
    work = ("worker", "--gpus", "none", "--threads", "1", "--tasks", str(EXAMPLES))
    broker = RedisBroker(connect(clean_redis, patient=True), SIGNER)
    books = open_ledger(str(tmp_path / "journal.log"))
    reconciler = Reconciler(broker, books, Settings(lease=LEASE), make_policy=Halving)
    spec = StudySpec(
        name="s", task=TaskRef(target=f"{EXAMPLES}/digits.py:Digits"), trials=6, lr=(1e-2, 1.0),
        lanes=lanes,
    )  # fmt: skip
    client = RedisBroker(connect(clean_redis, patient=True), SIGNER)
    client.send(Submit(id="1", spec=spec))

    def turn() -> bool:
        reconciler.turn()
        found = client.snapshot("s")
        return found is not None and found.state in (StudyState.COMPLETE, StudyState.FAILED)

    with (
        serving(*work, log=tmp_path / "one.log", env=env),
        serving(*work, log=tmp_path / "two.log", env=env),
    ):
        await_true(turn)
        await_true(lambda: not checkpoints(tmp_path / "kept"))  # a worker tidies up
    trials = books.studies()["s"].trials
    epoch = 19  # batches
    assert sorted((t.last_step or 0) / epoch for t in trials) == [1, 1, 1, 2, 4, 30]
    for trial in trials:
        known = sorted(trial.intermediate_values.items())
        losses = [loss for step, loss in known if step % epoch == 0]
        expected = uninterrupted(trial.params["lr"], len(losses))
        assert losses == pytest.approx(expected, rel=1e-5 if lanes > 1 else 1e-12)
    books.close()
