"""Runs an Optuna objective unchanged: a function that asks a trial for its learning rate."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from justright.errors import TaskError, UserCodeError
from justright.messages import OutcomeKind
from worker.jobs.attempt import Attempt
from worker.jobs.non_finite import non_finite
from worker.jobs.objective_trial import Diverged, Interrupted, ObjectiveTrial, OutOfRange
from worker.user_code.guard import user_code
from worker.user_code.loading import Objective

_ROUNDING = 1e-5  # share of a number by which float32 may have changed it


def run_objective(objective: Objective, attempt: Attempt) -> None:
    """Call the objective once, and say how the attempt ended. A failure raises.

    Raises:
        UserCodeError: the objective raised.
        TaskError: it asked for or returned what cannot be.
    """
    trial = ObjectiveTrial(attempt, objective.arguments)
    kind, reason, value = _outcome(objective, trial)
    attempt.end(kind, step=trial.last_step, reason=reason, value=value)


def _outcome(objective: Objective, trial: ObjectiveTrial) -> tuple[OutcomeKind, str, float | None]:
    """How a call of the objective ended: kind, reason, value."""
    try:
        value = user_code(lambda: _call(objective.function, trial))
    except Diverged as error:
        return OutcomeKind.DIVERGED, str(error), None
    except OutOfRange as error:
        return OutcomeKind.STOPPED, str(error), None
    except Interrupted as error:
        paused = error.told.action == "pause"
        return OutcomeKind.PAUSED if paused else OutcomeKind.FAILED, error.told.reason, None
    except UserCodeError as error:
        why = non_finite(error, worked=trial.lowest is not None)
        if not why:
            raise
        return OutcomeKind.DIVERGED, f"the objective raised {why}", None
    if isinstance(value, _Pruned):
        return *_pruned(value, trial), None
    value = _loss(value)
    if not trial.lr:
        raise TaskError(
            'the objective never asked for its learning rate: it needs trial.suggest_float("lr", '
            "low, high, log=True)."
        )
    if not math.isfinite(value):
        return OutcomeKind.DIVERGED, f"the objective returned {value}", None
    _compare(value, trial)
    return OutcomeKind.COMPLETE, "", value


def _pruned(value: _Pruned, trial: ObjectiveTrial) -> tuple[OutcomeKind, str]:
    told = trial.attempt.told
    if told is not None:
        return OutcomeKind.STOPPED, told.reason
    why = non_finite(value.error)
    if why:
        return OutcomeKind.DIVERGED, f"the objective raised {why}"
    return OutcomeKind.STOPPED, "the objective raised TrialPruned"


def _loss(value: Any) -> float:
    """What an objective has returned, as Optuna reads it: NumPy's numbers and tensors of one
    element are numbers as well.
    """
    try:
        if not isinstance(value, bool):
            return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError, RuntimeError):
        pass
    hint = ""
    if value is None:
        hint = " Has it a way to its end without `return loss`?"
    elif isinstance(value, (tuple, list)):
        hint = " Return the loss alone: justright minimizes one number."
    raise TaskError(
        f"the objective returned a {type(value).__name__}, expected a number: the loss.{hint}"
    )


def _compare(value: float, trial: ObjectiveTrial) -> None:
    """What is returned is the trial's loss; what is reported only says whom to stop early. So both
    should be the same quantity.
    """
    finite = [loss for loss in trial.reported.values() if math.isfinite(loss)]
    if not finite:
        return
    low, high = min(finite), max(finite)
    margin = _ROUNDING * max(abs(low), abs(high), abs(value))
    if not low - margin <= value <= high + margin:
        trial.attempt.notice(
            "the objective returns something else than it reports. What it returns counts, and "
            "trials are stopped early by what it reports: report what will be returned, or use "
            "--pruner none."
        )


@dataclass
class _Pruned:
    """The objective ended itself with Optuna's exception."""

    error: Exception


def _call(function: Callable[[Any], Any], trial: ObjectiveTrial) -> Any:
    try:
        return function(trial)
    except Exception as error:
        # The objective imported Optuna for its TrialPruned; the worker itself does not need it.
        optuna = sys.modules.get("optuna")
        if optuna is not None and isinstance(error, optuna.TrialPruned):
            return _Pruned(error)
        raise
