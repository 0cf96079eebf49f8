"""The default search at work: trials pause at their rungs, go on later, and end once."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import optuna
import pytest

from justright.lifecycle import StudyState
from justright.messages import Pause, Resume, Snapshot
from orchestrator.storage import ledger
from tests.helpers.twin import HORIZON, House, bowl, check, told

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.usefixtures("few_surfaces")


def check_thawed(house: House, snapshot: Snapshot) -> None:
    """Ended by its own rule, with nothing trained twice and nothing left open."""
    check(house, snapshot, len(snapshot.trials))
    assert snapshot.state == StudyState.COMPLETE
    assert snapshot.answer is not None
    assert snapshot.answer.reason in ("converged", "trials")
    trials = told(house)
    assert len({trial.params["lr"] for trial in trials}) == len(trials)
    waiting = [
        t for t in trials if t.state.name == "PRUNED" and ledger.DIVERGED not in t.user_attrs
    ]
    assert waiting
    for trial in waiting:
        steps = set(trial.intermediate_values)
        assert steps == set(range(1, len(steps) + 1))
        assert len(steps) < HORIZON
        assert trial.user_attrs[ledger.WHY].startswith("not promoted")
    reported = sum(len(trial.intermediate_values) for trial in trials)
    diverged = sum(ledger.DIVERGED in trial.user_attrs for trial in trials)
    if len(house.workers) == 1:  # else one trains anew what another one's checkpoint holds
        assert snapshot.answer.epochs <= reported + diverged
    assert all(trial.user_attrs.get(ledger.DIAGNOSIS) is not None for trial in trials)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("lanes", [1, 4])
def test_it_ends_by_its_own_rule(tmp_path: Path, workers: int, lanes: int) -> None:
    house = House(tmp_path, workers, lanes)
    house.submit(lr=(1e-4, 10.0), trials=30)
    snapshot = house.run()
    check_thawed(house, snapshot)
    assert snapshot.answer is not None
    assert snapshot.answer.full_trainings is not None
    assert snapshot.answer.full_trainings < 13


def test_an_orchestrator_that_is_killed_again_and_again_comes_to_the_same_end(
    tmp_path: Path,
) -> None:
    check_killed(tmp_path, every=7)


def check_killed(folder: Path, every: int) -> None:
    """A search that is killed after every so many turns, and one that nobody kills."""
    (folder / "plain").mkdir()
    (folder / "killed").mkdir()
    plain, house = House(folder / "plain"), House(folder / "killed")
    plain.submit(lr=(1e-4, 10.0), trials=30)
    expected = plain.run()
    house.submit(lr=(1e-4, 10.0), trials=30)
    for turn in range(2000):
        house.turn()
        if turn % every == 0:
            house.restart()
        snapshot = house.broker.snapshot("s")
        if snapshot is not None and snapshot.state == StudyState.COMPLETE:
            break
    check_thawed(house, snapshot := house.run())
    assert snapshot.answer is not None
    assert expected.answer is not None
    assert snapshot.answer.best_lr == expected.answer.best_lr
    trained = [
        {t.params["lr"]: len(t.intermediate_values) for t in told(one)} for one in (plain, house)
    ]
    assert trained[0] == trained[1]


def test_a_user_s_rest_does_not_promote_anybody(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(lr=(1e-4, 10.0), trials=30)
    while len(house.workers[0].trained) < 6:
        house.turn()
    house.broker.send(Pause(study="s"))
    for _ in range(20):
        house.turn()
    steps = {trial.number: len(trial.intermediate_values) for trial in told(house)}
    for _ in range(20):
        house.turn()
    assert {t.number: len(t.intermediate_values) for t in told(house)} == steps
    house.broker.send(Resume(study="s"))
    check_thawed(house, house.run())


def test_replicates_follow_for_the_rates_that_came_to_their_end(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(lr=(1e-4, 10.0), trials=30, replicates=3)
    snapshot = house.run()
    assert snapshot.answer is not None
    again = [t for t in told(house) if ledger.REPLICATE_OF in t.user_attrs]
    assert again
    assert all(t.state.name == "COMPLETE" for t in again)
    assert snapshot.answer.loss_interval is not None


def test_a_loss_that_begins_at_zero_has_an_interval_as_well(tmp_path: Path) -> None:
    widths = []
    for name, shift in (("plain", 0.0), ("shifted", 2.0)):
        (tmp_path / name).mkdir()
        house = House(tmp_path / name)
        for worker in house.workers:
            worker.inspection = {"initial_loss": 2.0 - shift}
            worker.loss = partial(_lower_bowl, shift)
        house.submit(lr=(1e-4, 10.0), trials=30)
        answer = house.run().answer
        assert answer is not None
        assert answer.loss_interval is not None
        widths.append(answer.loss_interval[1] - answer.loss_interval[0])
    assert widths[0] == pytest.approx(widths[1])
    assert widths[1] > 0


def _lower_bowl(shift: float, lr: float, step: int) -> float | None:
    loss = bowl(lr, step)
    return None if loss is None else loss - shift


def test_a_target_ends_the_search_and_is_its_answer(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.submit(lr=(1e-4, 10.0), trials=30, target=1e9)
    snapshot = house.run()
    assert snapshot.answer is not None
    assert snapshot.answer.reason == "target"
    assert snapshot.answer.best_lr is not None


@pytest.mark.parametrize("budget", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_budget_is_kept_to_and_answered(tmp_path: Path, budget: float, lanes: int) -> None:
    house = House(tmp_path, 1, lanes)
    house.submit(lr=(1e-4, 10.0), trials=30, budget=budget)
    snapshot = house.run()
    answer = snapshot.answer
    assert snapshot.state == StudyState.COMPLETE
    assert answer is not None
    assert answer.best_lr is not None
    assert answer.full_trainings is not None
    assert answer.reason in ("budget", "converged")
    assert answer.full_trainings <= budget
    assert answer.full_trainings > budget / 2 or answer.reason == "converged"
    assert answer.plateau is not None
    assert answer.plateau[0] <= answer.best_lr <= answer.plateau[1]
    assert answer.uncertain is not None
    assert answer.uncertain[0] <= answer.best_lr <= answer.uncertain[1]
