"""More than the rate is searched: first the rate alone, then all together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from justright.lifecycle import StudyState
from justright.messages import Snapshot, TrialWork
from orchestrator.answers.importance import at_the_end, importance, varied
from orchestrator.search.lessons import as_complete
from orchestrator.search.rate_first import at_share, base_values, moved
from orchestrator.storage import ledger
from tests.helpers.twin import HORIZON, House, TwinWorker, bowl, check, told

optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.usefixtures("few_surfaces")  # tests/numerics searches with all

DETAILS = {
    "optimizer": "SGD",
    "batch_size": 64,
    "schedule": "constant",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "momentum": 0.9,
}
SEARCH = {"weight_decay": "1e-5:0.1", "schedule": "constant,cosine,step"}


class Settled(TwinWorker):
    """Its loss depends on the schedule much, on the weight decay a little."""

    def loss_of(self, work: TrialWork, step: int) -> float | None:
        loss = bowl(work.lr, step)
        if loss is None or not work.params:
            return loss
        better = {"cosine": -0.08, "step": 0.1}.get(str(work.params["schedule"]), 0.0)
        decay = 0.01 * abs(math.log10(float(work.params["weight_decay"])) + 3)
        return loss + better + decay


def house_of(folder: Path, workers: int = 1, lanes: int = 1) -> House:
    house = House(folder, 0)
    house.workers = [
        Settled(house.broker, f"w{n}", lanes, inspection={"details": DETAILS})
        for n in range(workers)
    ]
    for worker in house.workers:
        worker.come()
    return house


def stages(house: House) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    trials = [t for t in told(house) if ledger.REPLICATE_OF not in t.user_attrs]
    later = [t for t in trials if ledger.BESIDE in t.user_attrs]
    return [t for t in trials if t not in later], later


def check_stages(house: House, snapshot: Snapshot, trials: int) -> None:
    first, later = stages(house)
    assert len(first) + len(later) == trials
    base = {"schedule": "constant", "weight_decay": 1e-5}
    assert all({**t.params, **base} == t.params for t in first)
    assert all(t.user_attrs[ledger.UNTIL] is not None for t in first)
    assert all(t.number > max(o.number for o in first) for t in later)
    assert len({t.params["weight_decay"] for t in later}) == len(later)
    assert {t.params["schedule"] for t in later} == {"constant", "cosine", "step"}
    best = min(first, key=lambda t: abs(math.log10(t.params["lr"]) + 1.5)).params["lr"]
    assert all(abs(math.log10(t.params["lr"] / best)) < 1.5 for t in later)


def test_the_rate_first_then_all_together(tmp_path: Path) -> None:
    check_both_stages(tmp_path, workers=3, lanes=4)


def check_both_stages(folder: Path, workers: int, lanes: int) -> None:
    house = house_of(folder, workers, lanes)
    house.submit(search=SEARCH, trials=24)
    snapshot = house.run()
    assert snapshot.state == StudyState.COMPLETE
    check(house, snapshot, 24)
    check_stages(house, snapshot, 24)
    answer = snapshot.answer
    assert answer is not None
    assert answer.reason == "trials"
    assert answer.params["schedule"] == "cosine"
    assert answer.best_lr == pytest.approx(10**-1.5, rel=1.5)
    assert list(answer.importance) == ["lr", "schedule", "weight_decay"]
    assert sum(answer.importance.values()) == pytest.approx(1, abs=0.01)
    assert answer.plateau is not None
    assert answer.best_lr is not None
    assert answer.plateau[0] <= answer.best_lr <= answer.plateau[1]
    assert answer.loss_interval is not None
    assert answer.loss is not None
    assert answer.loss_interval[0] < answer.loss < answer.loss_interval[1]


def test_an_orchestrator_that_is_killed_comes_to_the_same_end(tmp_path: Path) -> None:
    check_killed(tmp_path, every=9, trials=12)


def check_killed(folder: Path, every: int, trials: int) -> None:
    """A search that is killed after every so many turns, and one that nobody kills."""
    (folder / "plain").mkdir()
    (folder / "killed").mkdir()
    plain, house = house_of(folder / "plain"), house_of(folder / "killed")
    plain.submit(search=SEARCH, trials=trials)
    expected = plain.run()
    house.submit(search=SEARCH, trials=trials)
    for turn in range(2000):
        house.turn()
        if turn % every == 0:
            house.restart()
        snapshot = house.broker.snapshot("s")
        if snapshot is not None and snapshot.state == StudyState.COMPLETE:
            break
    snapshot = house.run()
    check_stages(house, snapshot, trials)
    assert [t.params for t in told(house)] == [t.params for t in told(plain)]
    assert snapshot.answer is not None
    assert expected.answer is not None
    assert snapshot.answer.params == expected.answer.params
    assert snapshot.answer.importance == expected.answer.importance


def test_replicates_repeat_the_best_with_all_their_settings(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    house.submit(search=SEARCH, trials=12, replicates=3)
    snapshot = house.run()
    trials = {t.number: t for t in told(house)}
    again = [t for t in trials.values() if ledger.REPLICATE_OF in t.user_attrs]
    assert len(again) >= 2
    for trial in again:
        assert trial.params == trials[trial.user_attrs[ledger.REPLICATE_OF]].params
        assert len(trial.intermediate_values) == HORIZON
    assert snapshot.answer is not None
    assert snapshot.answer.params


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
def test_few_trials_are_enough_for_an_answer(tmp_path: Path, trials: int) -> None:
    house = house_of(tmp_path)
    house.submit(search=SEARCH, trials=trials)
    snapshot = house.run()
    assert len(told(house)) == trials
    assert snapshot.answer is not None
    assert snapshot.answer.best_lr is not None
    assert set(snapshot.answer.params) == set(SEARCH)
    assert snapshot.answer.importance == {}


def test_an_answer_before_any_training_has_ended(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    house.submit(search=SEARCH, trials=20, timeout=12.0)
    snapshot = house.run()
    assert snapshot.answer is not None
    assert snapshot.answer.reason == "timeout"
    assert snapshot.answer.loss is None
    assert snapshot.answer.best_lr is not None
    assert snapshot.answer.params == {"schedule": "constant", "weight_decay": 1e-5}


def test_a_task_that_leaves_its_schedule_to_the_study(tmp_path: Path) -> None:
    house = house_of(tmp_path)
    for worker in house.workers:
        worker.inspection["search_schedule"] = True
    house.submit(search={"weight_decay": ""}, trials=6)
    house.run()
    assert all(set(t.params) == {"lr", "schedule", "weight_decay"} for t in told(house))


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid", "qmc"])
def test_optunas_samplers_search_them_too(tmp_path: Path, sampler: str) -> None:
    house = house_of(tmp_path)
    house.submit(search=SEARCH, trials=14, sampler=sampler)
    snapshot = house.run()
    check(house, snapshot, 14)
    assert all(set(t.params) == {"lr", *SEARCH} for t in told(house))
    assert snapshot.answer is not None
    assert set(snapshot.answer.importance) == {"lr", *SEARCH}


@pytest.mark.parametrize("kind", ["objective", "command"])
def test_only_tasks_have_settings(tmp_path: Path, kind: str) -> None:
    house = house_of(tmp_path)
    for worker in house.workers:
        worker.inspection["kind"] = kind
    house.submit(search=SEARCH)
    snapshot = house.run()
    assert snapshot.state == StudyState.FAILED
    assert snapshot.failure is not None
    assert "--search is for subclasses of justright.Task" in snapshot.failure.message
    assert not snapshot.trials


# -- parts --------------------------------------------------------------------------------------

SPACE: dict[str, Any] = {
    "batch_size": CategoricalDistribution((16, 32, 128)),
    "momentum": FloatDistribution(0.5, 0.8),
    "schedule": CategoricalDistribution(("cosine", "step")),
    "weight_decay": FloatDistribution(1e-5, 1e-1, log=True),
}


def test_the_tasks_own_settings_or_the_nearest() -> None:
    assert base_values(SPACE, DETAILS) == {
        "batch_size": 32,
        "momentum": 0.8,
        "schedule": "cosine",
        "weight_decay": 1e-5,
    }
    own = {"batch_size": 128, "momentum": 0.7, "schedule": "step", "weight_decay": 0.01}
    assert base_values(SPACE, own) == own
    assert base_values(SPACE, {})["weight_decay"] == 1e-5


def test_shares_cover_what_is_searched() -> None:
    shares = [0.0, 0.3, 0.5, 0.9, 1 - 1e-12]
    assert [at_share(SPACE["batch_size"], s) for s in shares] == [16, 16, 32, 128, 128]
    assert at_share(SPACE["weight_decay"], 0.5) == pytest.approx(1e-3)
    assert at_share(SPACE["momentum"], 0.5) == pytest.approx(0.65)
    for name in ("momentum", "weight_decay"):
        values = [at_share(SPACE[name], s) for s in shares]
        assert values == sorted(values)
        assert SPACE[name].low <= values[0] <= values[-1] <= SPACE[name].high


def test_where_the_best_rate_is_expected() -> None:
    assert moved(DETAILS, {**DETAILS, "batch_size": 256}) == pytest.approx(4)
    assert moved(DETAILS, {**DETAILS, "momentum": 0.5}) == pytest.approx(5)
    assert moved(DETAILS, {**DETAILS, "weight_decay": 0.5, "schedule": "step"}) == 1
    adam = {**DETAILS, "optimizer": "AdamW"}
    assert moved(adam, {**adam, "batch_size": 256, "momentum": 0.5}) == pytest.approx(2)


def trials_of(count: int, loss: Any) -> list[FrozenTrial]:
    random = np.random.default_rng(0)
    space: dict[str, Any] = {"lr": FloatDistribution(1e-4, 1.0, log=True), **SPACE}
    found = []
    for _ in range(count):
        params = {name: at_share(one, random.random()) for name, one in space.items()}
        found.append(create_trial(params=params, distributions=space, value=loss(params)))
    return found


def test_what_mattered() -> None:
    def loss(params: dict[str, Any]) -> float:
        rate = (math.log10(params["lr"]) + 2) ** 2
        return float(rate + 0.5 * (params["momentum"] - 0.65) ** 2)

    space: dict[str, Any] = {"lr": FloatDistribution(1e-4, 1.0, log=True), **SPACE}
    found = importance(trials_of(60, loss), space, 0)
    assert set(found) == set(space)
    assert next(iter(found)) == "lr"
    assert found["lr"] > 0.5
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    assert importance(trials_of(7, loss), space, 0) == {}
    assert importance(trials_of(60, loss), {"lr": space["lr"]}, 0) == {}
    assert importance(trials_of(60, lambda _: 1.0), space, 0) == {}


def test_what_trials_are_worth_that_have_not_ended() -> None:
    space: dict[str, Any] = {"lr": FloatDistribution(1e-4, 1.0, log=True)}

    def trial(number: int, state: TrialState, **more: Any) -> FrozenTrial:
        made = create_trial(params={"lr": 0.1}, distributions=space, state=state, **more)
        made.number = number
        return made

    done = trial(0, TrialState.COMPLETE, value=1.0)
    waits = trial(1, TrialState.RUNNING, intermediate_values={1: 3.0, 2: 2.0})
    silent = trial(2, TrialState.RUNNING)
    lost = trial(
        3,
        TrialState.PRUNED,
        intermediate_values={1: 0.5},
        user_attrs={ledger.DIVERGED: "nan"},
    )
    failed = trial(4, TrialState.FAIL)
    found = {t.number: t for t in as_complete([done, waits, silent, lost, failed])}
    assert set(found) == {0, 1, 2, 3}
    assert found[0].value == 1.0
    assert found[1].value == 2.0
    assert found[1].state == TrialState.COMPLETE
    assert found[2].state == TrialState.RUNNING
    assert found[3].value is not None
    assert found[3].value > 2.0
    assert waits.state == TrialState.RUNNING  # what was given is left as it is


def test_a_frozen_trial_counts_by_how_far_it_lay_behind() -> None:
    space: dict[str, Any] = {"lr": FloatDistribution(1e-4, 1.0, log=True)}

    def trial(losses: dict[int, float], **attributes: Any) -> FrozenTrial:
        return create_trial(
            params={"lr": 0.1},
            distributions=space,
            value=min(losses.values()),
            intermediate_values=losses,
            user_attrs=attributes,
        )

    leader = trial({1: 2.0, 10: 1.0})
    frozen = trial({1: 2.5})
    assert at_the_end(frozen, leader, 3.0) == pytest.approx(2.0), "half of what there was to gain"
    assert at_the_end(frozen, leader, None) == 2.5, "the untrained loss is not known"
    assert at_the_end(trial({1: 1.5}), leader, 3.0) == pytest.approx(0.0), "it was ahead"
    assert at_the_end(leader, leader, 3.0) == 1.0
    assert at_the_end(trial({10: 1.4}), leader, 3.0) == 1.4, "as long as the leader"
    assert at_the_end(trial({1: 9.0}, diverged="too hot"), leader, 3.0) == 9.0


def test_settings_are_told_by_the_trials_that_vary_them() -> None:
    first = [({"lr": 10.0**-n, "momentum": 0.9}, 1.0) for n in range(4)]
    later = [({"lr": 0.1, "momentum": 0.5 + n / 10}, 1.0) for n in range(4)]
    assert varied([*first, *later]) == later
    assert varied(later) == later
