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
from justright.messages import Noticed, Outcome, OutcomeKind, Report, Space, TrialWork
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


# -- what is reported, and what is returned ------------------------------------------------------


def reporting(*reports: tuple[Any, Any], value: Any = 1.0) -> Callable[[Any], Any]:
    def objective(trial: Any) -> Any:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        for loss, step in reports:
            trial.report(loss, step)
        return value

    return objective


def test_of_two_reports_of_a_step_the_first_counts(desk: Desk) -> None:
    outcome = desk.call(reporting((3.0, 1), (1.0, 2), (9.0, 1)))
    assert outcome.losses == ((1, 3.0), (2, 1.0))
    told = desk.told()
    assert [(one.step, one.loss) for one in told if isinstance(one, Report)] == [(1, 3.0), (2, 1.0)]
    [notice] = [one.text for one in told if isinstance(one, Noticed)]
    assert "reports a step twice" in notice


def test_numbers_of_numpy_and_torch_are_reported(desk: Desk) -> None:
    desk.call(reporting((np.float32(0.5), np.int64(1)), (torch.tensor(0.25), 2.0), value=0.25))
    assert desk.losses() == [(1, 0.5), (2, 0.25)]


@pytest.mark.parametrize(
    ("loss", "step", "why"),
    [
        (None, 1, "given a NoneType, expected a number"),
        ((0.5, 0.9), 1, "given a tuple, expected a number"),
        ("0.5", 1, "given a str, expected a number"),
        (0.5, -1, "given step -1, expected a whole number"),
        (0.5, 1.5, "given step 1.5, expected a whole number"),
        (0.5, None, "given step None, expected a whole number"),
    ],
)
def test_what_cannot_be_reported_is_told(desk: Desk, loss: Any, step: Any, why: str) -> None:
    with pytest.raises(TaskError, match=why):
        desk.call(reporting((loss, step)))


@pytest.mark.parametrize(
    ("value", "told"), [(1.0, False), (2.0, False), (1.0 - 1e-7, False), (0.5, True), (90.0, True)]
)
def test_another_quantity_than_is_reported_is_told(desk: Desk, value: float, told: bool) -> None:
    outcome = desk.call(reporting((3.0, 1), (1.0, 2), value=value))
    assert outcome.value == value, "what it returns counts"
    assert any("something else than it reports" in getattr(x, "text", "") for x in desk.told()) is (
        told
    )


@pytest.mark.parametrize(
    ("value", "why"),
    [(True, "returned a bool"), (None, "without `return loss`"), ((1, 2), "Return the loss alone")],
)
def test_what_is_no_loss_is_told_with_what_to_do(desk: Desk, value: Any, why: str) -> None:
    with pytest.raises(TaskError, match=why):
        desk.call(returning(value))


def test_pruned_of_its_own_accord_because_of_nan_is_divergence(desk: Desk) -> None:
    def objective(trial: Any) -> float:
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        loss = math.nan
        if math.isnan(loss):
            raise optuna.TrialPruned()
        return loss

    assert desk.call(objective).kind is OutcomeKind.DIVERGED


# -- the trial that it is given -------------------------------------------------------------------


def test_what_callbacks_ask_of_a_trial(desk: Desk) -> None:
    seen: dict[str, Any] = {}

    def objective(trial: Any) -> float:
        lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.set_user_attr("a", 1)
        seen.update(
            params=trial.params == {"lr": lr},
            minimizes=trial.study.direction == optuna.study.StudyDirection.MINIMIZE,
            name=trial.study.study_name,
            range=trial.distributions["lr"].high,
            attrs=trial.user_attrs,
            since=trial.datetime_start is not None,
            has=hasattr(trial, "no_such_thing"),
        )
        return 1.0

    assert desk.call(objective).kind is OutcomeKind.COMPLETE
    assert seen == {
        "params": True, "minimizes": True, "name": STUDY, "range": 1e-1, "attrs": {"a": 1},
        "since": True, "has": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda trial: trial.study.best_value, "does not serve trial.study.best_value.*leave it"),
        (lambda trial: trial.study.stop(), "Use --trials, --timeout"),
        (lambda trial: trial.storage, "A worker knows no storage"),
        (lambda trial: trial.suggest_colour("x"), "does not serve trial.suggest_colour.*report"),
    ],
)
def test_what_a_trial_does_not_serve_it_says(
    desk: Desk, ask: Callable[[Any], Any], why: str
) -> None:
    with pytest.raises(UserCodeError, match=why):
        desk.call(ask)


@pytest.mark.parametrize(
    "ask",
    [
        lambda trial: trial.suggest_categorical("lr", [1e-4, 1e-2]),
        lambda trial: 10.0 ** trial.suggest_int("exponent", -4, 0),
        lambda trial: 10.0 ** trial.suggest_uniform("log_lr", -4, 0),
    ],
)
def test_a_rate_that_is_asked_for_otherwise(desk: Desk, ask: Callable[[Any], Any]) -> None:
    with pytest.raises(TaskError, match=r'trial.suggest_float\("lr", low, high, log=True\)'):
        desk.call(ask)
