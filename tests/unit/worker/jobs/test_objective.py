"""An Optuna objective runs unchanged: every way it can end, against the broker's twin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from justright.errors import TaskError, UserCodeError
from justright.messages import Outcome, OutcomeKind, Report, Space, TrialWork
from tests.helpers.wire import STUDY, Wire
from worker.jobs.objective import run_objective
from worker.user_code.loading import Objective

WORK = TrialWork(number=4, lr=0.02, seed=0, attempt=2)


class Desk(Wire):
    """Where an objective is run."""

    def call(self, function: Callable[[Any], Any], **arguments: Any) -> Outcome:
        objective = Objective(function, arguments)
        return self.run(WORK, lambda attempt: run_objective(objective, attempt))


@pytest.fixture
def desk() -> Desk:
    return Desk(WORK.number)


def bowl(trial: Any) -> float:
    """The objective of every Optuna tutorial."""
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    loss = math.inf
    for step in range(5):
        loss = (math.log10(lr) + 2) ** 2 + 1 / (step + 1)
        trial.report(loss, step)
        if trial.should_prune():
            raise optuna.TrialPruned()
    return loss


def test_to_its_end(desk: Desk) -> None:
    outcome = desk.call(bowl)
    base = (math.log10(0.02) + 2) ** 2
    losses = tuple((step, base + 1 / (step + 1)) for step in range(5))
    assert outcome == Outcome(
        study=STUDY, trial=4, attempt=2, kind=OutcomeKind.COMPLETE, step=4, value=base + 0.2,
        losses=losses,
    )  # fmt: skip
    told = desk.told()
    assert told[0] == Space(study=STUDY, trial=4, low=1e-5, high=1e-1)
    assert told[1:] == [
        Report(study=STUDY, trial=4, attempt=2, step=step, loss=loss) for step, loss in losses
    ]


def test_the_same_function_runs_under_optuna_itself() -> None:
    """Proof that what is tested here is an Optuna objective, with the same losses."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study()
    study.enqueue_trial({"lr": WORK.lr})
    study.optimize(bowl, n_trials=1)
    desk = Desk(WORK.number)
    assert desk.call(bowl).value == study.best_value
    assert dict(desk.losses()) == study.trials[0].intermediate_values


def test_told_to_stop(desk: Desk) -> None:
    desk.stop(4, attempt=2)
    outcome = desk.call(bowl)
    assert outcome.kind is OutcomeKind.STOPPED
    assert outcome.reason == "worse than the median"
    assert outcome.step == 0
    assert [step for step, _ in desk.losses()] == [0], "it stopped at its first report"


def test_told_to_stop_between_two_reports(desk: Desk) -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        for step in range(10):
            if step == 3:
                desk.stop(4, attempt=2)
            trial.report(1.0, step)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return 1.0

    outcome = desk.call(objective)
    assert (outcome.kind, outcome.step) == (OutcomeKind.STOPPED, 3)


def test_a_decision_for_an_older_attempt_stops_nothing(desk: Desk) -> None:
    desk.stop(4, attempt=1)
    assert desk.call(bowl).kind is OutcomeKind.COMPLETE


def test_an_objective_may_prune_of_its_own_accord(desk: Desk) -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.report(2.0, 1)
        raise optuna.TrialPruned("hopeless")

    outcome = desk.call(objective)
    assert outcome.kind is OutcomeKind.STOPPED
    assert "TrialPruned" in outcome.reason


# -- divergence -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_report_that_is_not_finite_ends_it_at_once(desk: Desk, bad: float) -> None:
    """Even where the objective catches all exceptions; what it has to tidy up, it tidies up."""
    done: list[str] = []

    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        for step in range(1, 9):
            try:
                trial.report(1.0 if step < 3 else bad, step)
            except Exception:
                done.append("swallowed")
            finally:
                done.append(f"tidied {step}")
        return 1.0

    outcome = desk.call(objective)
    assert outcome.kind is OutcomeKind.DIVERGED
    assert (outcome.step, outcome.value) == (3, None)
    assert str(bad) in outcome.reason
    assert "step 3" in outcome.reason
    assert done == ["tidied 1", "tidied 2", "tidied 3"]
    assert desk.losses() == [(1, 1.0), (2, 1.0), (3, None)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, torch.tensor(math.nan)])
def test_a_value_that_is_not_finite_is_divergence(desk: Desk, bad: Any) -> None:
    def objective(trial: Any) -> Any:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        return bad

    assert desk.call(objective).kind is OutcomeKind.DIVERGED


# -- what it returns ------------------------------------------------------------------------------


def returning(value: Any) -> Callable[[Any], Any]:
    def objective(trial: Any) -> Any:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        return value

    return objective


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_whatever_optuna_takes_for_a_number_is_one(desk: Desk, value: Any) -> None:
    outcome = desk.call(returning(value))
    assert (outcome.kind, outcome.value) == (OutcomeKind.COMPLETE, float(value))


@pytest.mark.parametrize("value", [None, "low", (0.5, 0.9), torch.ones(3)])
def test_what_is_no_number_is_told(desk: Desk, value: Any) -> None:
    with pytest.raises(TaskError, match=f"returned a {type(value).__name__}, expected a number"):
        desk.call(returning(value))


def test_an_objective_that_never_asks_for_its_rate(desk: Desk) -> None:
    with pytest.raises(TaskError, match=r'never asked for its learning rate.*suggest_float\("lr"'):
        desk.call(lambda trial: 0.5)


def test_an_objective_that_raises(desk: Desk) -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        raise ZeroDivisionError("nothing to share")

    with pytest.raises(UserCodeError, match="nothing to share") as caught:
        desk.call(objective)
    assert "in objective" in caught.value.traceback
    assert "run_objective" not in caught.value.traceback


@pytest.mark.parametrize("after", [0, 2])
def test_an_objective_that_raises_because_of_nan_has_diverged(desk: Desk, after: int) -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        for step in range(1, 9):
            loss = 1.0 if step <= after else math.nan
            torch.distributions.Normal(torch.tensor(loss), 1.0)
            trial.report(loss, step)
        return 1.0

    outcome = desk.call(objective)
    assert (outcome.kind, outcome.step) == (OutcomeKind.DIVERGED, after)
    assert "Expected parameter loc" in outcome.reason
