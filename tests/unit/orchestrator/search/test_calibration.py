"""The search's constants, each as what it does on cases whose figures are known.

Whoever changes one on purpose changes its row here as well, and sees what else it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from justright.failures import Failure, FailureKind
from justright.marks import marks
from justright.messages import Inspection, Outcome, OutcomeKind, TrialWork
from justright.spec import StudySpec, TaskRef
from orchestrator.search.asking import Asking
from orchestrator.search.choosing import choose_policy
from orchestrator.search.freeze_thaw.planner import Planner
from orchestrator.search.freeze_thaw.policy import FreezeThawPolicy
from orchestrator.search.optuna.policy import OptunaPolicy
from orchestrator.search.policy import SearchContext
from orchestrator.search.rate_first import RateFirstPolicy
from orchestrator.search.space import search_space
from orchestrator.storage import ledger
from tests.helpers.twin import HORIZON, House, TwinWorker

NEAR = 0.1  # share by which a figure may lie beside the one in the table

# -- the default search on the bowl of the twin workers, by seed -----------------------------------

BOWL = {
    #     rate, half of the interval, decades of the uncertain band, epochs in all
    0: (0.0631, 0.1353, 1.7, 19),
    1: (0.1, 0.1245, 1.7, 19),
    2: (0.0631, 0.1259, 1.7, 19),
}


@pytest.mark.parametrize("seed", BOWL)
def test_what_the_default_search_answers_and_costs(tmp_path: Path, seed: int) -> None:
    house = House(tmp_path, lanes=4)
    house.submit(seed=seed, trials=12)
    answer = house.run().answer
    assert answer is not None
    assert answer.loss_interval is not None
    assert answer.plateau is not None
    assert answer.uncertain is not None
    half = (answer.loss_interval[1] - answer.loss_interval[0]) / 2
    decades = np.log10(answer.uncertain[1] / answer.uncertain[0])
    expected = BOWL[seed]
    assert answer.best_lr == pytest.approx(expected[0], rel=NEAR)
    # What is safe to pick lies well within what is possible.
    assert answer.best_lr is not None
    assert answer.uncertain[0] <= answer.plateau[0] <= answer.best_lr * (1 + 1e-6)
    assert answer.best_lr * (1 - 1e-6) <= answer.plateau[1] <= answer.uncertain[1]
    assert np.log10(answer.plateau[1] / answer.plateau[0]) < decades / 2
    assert half == pytest.approx(expected[1], rel=NEAR)
    assert decades == pytest.approx(expected[2], abs=0.11)
    assert answer.epochs == pytest.approx(expected[3], rel=NEAR)


@dataclass
class FailsAt(TwinWorker):
    """One trial raises in its second epoch."""

    trial: int = 0

    def _one_step(self, job: Any, work: TrialWork) -> None:
        if work.number == self.trial and self.steps[work.number] == 1:
            failure = Failure(kind=FailureKind.USER, message="the user's own")
            self._end(
                Outcome(
                    study=job.study, trial=work.number, attempt=work.attempt,
                    kind=OutcomeKind.FAILED, failure=failure,
                )
            )  # fmt: skip
            return
        super()._one_step(job, work)


@pytest.mark.parametrize("trial", [2, 3, 6])
def test_a_rate_that_failed_is_not_trained_on(tmp_path: Path, trial: int) -> None:
    house = House(tmp_path, workers=0)
    house.workers = [FailsAt(house.broker, "w", 4, trial=trial)]
    house.workers[0].come()
    house.submit(trials=12)
    snapshot = house.run()
    assert snapshot.answer is not None
    assert snapshot.answer.trials["failed"] == 1, "it was never trained so far"
    assert snapshot.answer.reason == "converged"
    assert snapshot.warnings == ()


# -- the hint, before anything is trained ----------------------------------------------------------


def planner(hint: float | None = None) -> Planner:
    return Planner(2.0, marks(HORIZON, 1), (-6.0, 1.0), (-8.0, 3.0), 0, hint)


@pytest.mark.parametrize(("hint", "within"), [(-4.0, (0.13, 0.22)), (-1.0, (0.45, 0.58))])
def test_how_much_a_hint_weighs(hint: float, within: tuple[float, float]) -> None:
    """The share of samples whose best rate lies within half a decade of it."""
    winners = planner(hint).forecast({}).winners()
    near = float(np.mean(np.abs(winners - hint) <= 0.5))
    assert within[0] <= near <= within[1], near


# -- replicates ------------------------------------------------------------------------------------


def asking(losses: dict[float, list[float]], replicates: int) -> Asking:
    """Rates that are complete, each with the losses of its seeds so far."""
    study = optuna.create_study()
    space = search_space((1e-6, 10.0))
    for lr, first in [(lr, found[0]) for lr, found in losses.items()]:
        study.add_trial(
            create_trial(
                params={"lr": lr}, distributions=space, value=first, user_attrs={ledger.SEED: 0}
            )
        )
    for number, found in enumerate(losses.values()):
        for seed, loss in enumerate(found[1:], 1):
            attributes = {ledger.SEED: seed, ledger.REPLICATE_OF: number}
            lr = study.trials[number].params["lr"]
            study.add_trial(
                create_trial(
                    params={"lr": lr}, distributions=space, value=loss, user_attrs=attributes
                )
            )
    spec = StudySpec(name="s", task=TaskRef(target="/t.py:T"), replicates=replicates)
    look = Inspection(study="s", job="j", epochs=HORIZON)
    return Asking(SearchContext(study, study._storage, spec, look, (1e-6, 10.0)))


REPLICATES: list[tuple[dict[float, list[float]], int, dict[float, int]]] = [
    ({0.1: [1.0], 0.2: [1.1], 0.3: [1.2], 0.4: [1.3]}, 3, {0.1: 2, 0.2: 2, 0.3: 2}),
    ({0.1: [1.0]}, 3, {0.1: 2}),
    ({0.1: [1.0, 1.01, 0.99], 0.2: [5.0, 5.01, 4.99]}, 5, {0.1: 2}),  # told apart by three each
    ({0.1: [1.0, 1.01], 0.2: [5.0, 5.01]}, 3, {0.1: 1, 0.2: 1}),  # two tell nothing
    ({0.1: [1.0, 3.0, 2.0], 0.2: [2.0, 4.0, 3.0]}, 4, {0.1: 1, 0.2: 1}),  # within the noise
    ({0.1: [1.0], 0.2: [1.1]}, 1, {}),
]


@pytest.mark.parametrize(("losses", "replicates", "expected"), REPLICATES)
def test_who_gets_more_replicates(
    losses: dict[float, list[float]], replicates: int, expected: dict[float, int]
) -> None:
    one = asking(losses, replicates)
    missing = [trial.params["lr"] for trial, _ in one.missing_replicates(one.asked())]
    assert {lr: missing.count(lr) for lr in missing} == expected


# -- which policy, and the one for more than the rate ----------------------------------------------


def context(**look: Any) -> SearchContext:
    details = {"optimizer": "SGD", "batch_size": 64, "warmup": 0.0, "schedule": "constant"}
    study = optuna.create_study()
    search = look.pop("search", {})
    spec = StudySpec(name="s", task=TaskRef(target="/t.py:T"), search=search)
    told: dict[str, Any] = {"epochs": HORIZON, "initial_loss": 2.0, "details": details, **look}
    return SearchContext(
        study, study._storage, spec, Inspection(study="s", job="j", **told), (1e-6, 10.0)
    )


POLICIES: list[tuple[dict[str, Any], type]] = [
    ({}, FreezeThawPolicy),
    ({"pauses": False}, OptunaPolicy),
    ({"kind": "objective"}, OptunaPolicy),
    ({"kind": "command"}, OptunaPolicy),
    ({"epochs": None}, OptunaPolicy),
    ({"initial_loss": None}, OptunaPolicy),
    ({"search": {"warmup": "0:0.3"}}, RateFirstPolicy),
]


@pytest.mark.parametrize(("look", "kind"), POLICIES)
def test_which_policy_a_study_gets(look: dict[str, Any], kind: type) -> None:
    assert type(choose_policy(context(**look))) is kind


def test_a_warm_up_is_not_judged_before_it_is_over() -> None:
    policy = RateFirstPolicy(context(search={"warmup": "0:0.3", "schedule": "constant,onecycle"}))
    assert policy._warm({"warmup": 0.0, "schedule": "constant"}) == 0.0
    assert 0.3 < policy._warm({"warmup": 0.3, "schedule": "constant"}) < 0.6
    assert 0.3 < policy._warm({"warmup": 0.0, "schedule": "onecycle"}) < 0.6


def test_the_lowest_loss_is_recommended() -> None:
    one = context(search={"momentum": "0.5:0.9"})
    policy = RateFirstPolicy(one)
    space = policy._space
    for lr, loss in ((0.1, 0.9), (0.2, 0.3), (0.3, 0.7)):
        one.study.add_trial(
            create_trial(
                params={"lr": lr, "momentum": 0.6}, distributions=space, value=loss,
                state=TrialState.COMPLETE,
            )
        )  # fmt: skip
    found = policy.recommend()
    assert found is not None
    assert found["lr"] == 0.2
