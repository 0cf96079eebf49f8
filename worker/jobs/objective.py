"""Runs an Optuna objective unchanged: a function that asks a trial for its learning rate.

The trial it gets is ours. It answers ``suggest_float`` for the learning rate with the job's rate
and everything else from ``--set``; it needs no Optuna storage, so none is known to a worker.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from justright.errors import TaskError, UserCodeError
from justright.messages import (
    Decision,
    OutcomeKind,
    Space,
    TrialWork,
)
from worker.jobs.attempt import Attempt
from worker.jobs.non_finite import non_finite
from worker.user_code.guard import user_code
from worker.user_code.loading import Objective

LR_NAMES = ("lr", "learning_rate")


@dataclass
class ObjectiveTrial:
    """Stands in for ``optuna.Trial``: the part of it that an objective uses."""

    attempt: Attempt
    arguments: dict[str, Any]
    lr: float = 0.0  #: The rate that was handed out; 0 before it was asked for.
    lr_name: str = ""  #: The name under which it was asked for.
    last_step: int = 0
    lowest: float | None = None
    user_attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> TrialWork:
        return self.attempt.work

    @property
    def number(self) -> int:
        return self.work.number

    @property
    def params(self) -> dict[str, Any]:
        known = dict(self.arguments)
        return known | {"lr": self.lr} if self.lr else known

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The job's rate for the learning rate, and values from --set for all else."""
        is_lr = name in (*LR_NAMES, self.lr_name) or (
            log and not self.lr and name not in self.arguments
        )
        if not is_lr:
            return float(self._fixed(name))
        if self.lr_name not in ("", name):
            self._fixed(self.lr_name)  # it was taken for the rate, which comes only now
        self.lr_name = name
        if not 0 < low < high:
            raise TaskError(
                f"the objective asked for {name!r} from {low:g} to {high:g}, expected "
                "0 < low < high: a learning rate is searched on a log scale."
            )
        space = Space(study=self.attempt.study, trial=self.work.number, low=low, high=high)
        self.attempt.channel.send(space)
        if not low <= self.work.lr <= high:
            raise _OutOfRange(f"outside of the range that the objective asks for, {low:g}:{high:g}")
        self.lr = self.work.lr
        return self.lr

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        return int(self._fixed(name))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._fixed(name)

    def _fixed(self, name: str) -> Any:
        if name not in self.arguments:
            raise TaskError(
                f"the objective asks for {name!r}, but justright searches the learning rate only. "
                f"Give it a value with --set {name}=..."
            )
        return self.arguments[name]

    def report(self, value: float, step: int) -> None:
        """An intermediate value, as in Optuna."""
        loss = float(value)
        self.last_step = step
        if math.isfinite(loss):
            self.lowest = loss if self.lowest is None else min(loss, self.lowest)
        self.attempt.report(step, loss)
        if not math.isfinite(loss):
            raise _Diverged(f"the objective reported {loss} at step {step}")
        told = self.attempt.told
        if told is not None and told.action != "stop":
            raise _Interrupted(told)

    def should_prune(self) -> bool:
        """Whether the orchestrator has told this trial to stop.

        Told to pause or to leave, the objective ends right here: it cannot go on elsewhere from
        where it is, so its next attempt begins anew.
        """
        self.attempt.channel.flush()
        told = self.attempt.told
        if told is not None and told.action != "stop":
            raise _Interrupted(told)
        return told is not None

    def set_user_attr(self, key: str, value: Any) -> None:
        self.user_attrs[key] = value


class _Diverged(BaseException):
    """Leaves the objective at once, through any ``except Exception`` of its own."""


class _Interrupted(BaseException):
    """The trial is to end here, to begin anew another time."""

    def __init__(self, told: Decision) -> None:
        super().__init__(told.reason)
        self.told = told


class _OutOfRange(BaseException):
    """The job's rate is none of the objective's: nothing is trained."""


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
    except _Diverged as error:
        return OutcomeKind.DIVERGED, str(error), None
    except _OutOfRange as error:
        return OutcomeKind.STOPPED, str(error), None
    except _Interrupted as error:
        paused = error.told.action == "pause"
        return OutcomeKind.PAUSED if paused else OutcomeKind.FAILED, error.told.reason, None
    except UserCodeError as error:
        why = non_finite(error, worked=trial.lowest is not None)
        if not why:
            raise
        return OutcomeKind.DIVERGED, f"the objective raised {why}", None
    if value is _PRUNED:
        told = trial.attempt.told
        return (
            OutcomeKind.STOPPED,
            told.reason if told else "the objective raised TrialPruned",
            None,
        )
    try:
        value = float(value)  # as Optuna does: NumPy's numbers and one-element tensors are some
    except (TypeError, ValueError, RuntimeError):
        raise TaskError(
            f"the objective returned a {type(value).__name__}, expected a number: the loss."
        ) from None
    if not trial.lr:
        raise TaskError(
            'the objective never asked for its learning rate: it needs trial.suggest_float("lr", '
            "low, high, log=True)."
        )
    if not math.isfinite(value):
        return OutcomeKind.DIVERGED, f"the objective returned {value}", None
    return OutcomeKind.COMPLETE, "", value


_PRUNED = object()


def _call(function: Callable[[Any], Any], trial: ObjectiveTrial) -> Any:
    try:
        return function(trial)
    except Exception as error:
        # The objective imported Optuna for its TrialPruned; the worker itself does not need it.
        optuna = sys.modules.get("optuna")
        if optuna is not None and isinstance(error, optuna.TrialPruned):
            return _PRUNED
        raise
