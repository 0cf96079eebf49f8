"""What an objective asks its trial for: its learning rate, and parameters with fixed values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from justright.errors import TaskError
from justright.messages import Outcome, OutcomeKind, Space, TrialWork
from tests.helpers.wire import STUDY, Wire
from worker.jobs.objective import run_objective
from worker.user_code.loading import Objective

WORK = TrialWork(number=4, lr=0.02, seed=0, attempt=2)


@pytest.fixture
def wire() -> Wire:
    return Wire(WORK.number)


def run(wire: Wire, function: Callable[[Any], Any], **arguments: Any) -> Outcome:
    objective = Objective(function, arguments)
    return wire.run(WORK, lambda attempt: run_objective(objective, attempt))


def test_other_parameters_come_from_the_arguments(wire: Wire) -> None:
    seen: dict[str, Any] = {}

    def objective(trial: Any) -> float:
        seen["decay"] = trial.suggest_float("decay", 1e-6, 1e-2, log=True)
        seen["lr"] = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        seen["lr again"] = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        seen["dropout"] = trial.suggest_float("dropout", 0.0, 0.5)
        seen["layers"] = trial.suggest_int("layers", 1, 4)
        seen["kind"] = trial.suggest_categorical("kind", ["relu", "gelu"])
        seen["number"] = trial.number
        trial.set_user_attr("note", "kept")
        return 1.0

    given = {"decay": 1e-3, "dropout": 0, "layers": 3, "kind": "gelu"}
    assert run(wire, objective, **given).kind is OutcomeKind.COMPLETE
    assert seen == {**given, "lr": 0.02, "lr again": 0.02, "number": 4}
    assert isinstance(seen["dropout"], float)


@pytest.mark.parametrize(
    "ask",
    [
        lambda trial: trial.suggest_float("eta", 1e-5, 1e-1, log=True),
        lambda trial: trial.suggest_loguniform("eta0", 1e-5, 1e-1),
        lambda trial: trial.suggest_float("lr", 1e-5, 1e-1),
    ],
)
def test_a_rate_by_another_name(wire: Wire, ask: Callable[[Any], float]) -> None:
    """As in Optuna, asking again gives the same value."""
    asked: list[float] = []

    def objective(trial: Any) -> float:
        asked.extend([ask(trial), ask(trial)])
        return 1.0

    run(wire, objective)
    assert asked == [0.02, 0.02]


@pytest.mark.parametrize(
    "ask",
    [
        lambda trial: trial.suggest_float("dropout", 0.0, 0.5),
        lambda trial: trial.suggest_int("layers", 1, 4),
        lambda trial: trial.suggest_categorical("kind", ["relu", "gelu"]),
    ],
)
def test_a_parameter_without_a_value(wire: Wire, ask: Callable[[Any], Any]) -> None:
    with pytest.raises(TaskError, match=r"searches the learning rate only.*--set \w+="):
        run(wire, ask)


def test_another_parameter_is_not_taken_for_the_rate(wire: Wire) -> None:
    """It is asked for on a log scale as well, and before the rate."""

    def objective(trial: Any) -> float:
        trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True)
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        return 1.0

    with pytest.raises(TaskError, match="--set weight_decay="):
        run(wire, objective)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 1e-2), (0.1, 1.0)])
def test_a_rate_outside_of_its_range_is_not_trained(wire: Wire, low: float, high: float) -> None:
    trained: list[float] = []

    def objective(trial: Any) -> float:
        try:
            trained.append(trial.suggest_float("lr", low, high, log=True))
        except Exception:
            trained.append(0.0)
        return 1.0

    outcome = run(wire, objective)
    assert outcome.kind is OutcomeKind.STOPPED
    assert f"{low:g}:{high:g}" in outcome.reason
    assert trained == []
    assert wire.told() == [Space(study=STUDY, trial=4, low=low, high=high)]


def test_a_range_that_has_no_log_scale(wire: Wire) -> None:
    with pytest.raises(TaskError, match=r"'lr' from 0 to 0.1, expected 0 < low < high"):
        run(wire, lambda trial: trial.suggest_float("lr", 0.0, 0.1))
