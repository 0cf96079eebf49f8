"""What an objective is given instead of an ``optuna.Trial``: the part of one that people use.

It answers for the learning rate with the job's rate, and for everything else from ``--set``. It
needs no storage of Optuna's, so none is known to a worker. What it does not serve, it says.
"""

from __future__ import annotations

import datetime
import enum
import math
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

from justright.errors import TaskError
from justright.messages import Decision, Space, TrialWork
from worker.jobs.attempt import Attempt

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
    system_attrs: dict[str, Any] = field(default_factory=dict)
    datetime_start: datetime.datetime = field(default_factory=datetime.datetime.now)
    reported: dict[int, float] = field(default_factory=dict)
    _asked: tuple[float, float] = (0.0, 0.0)

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
        self.lr_name, self._asked = name, (low, high)
        if not 0 < low < high:
            raise TaskError(
                f"the objective asked for {name!r} from {low:g} to {high:g}, expected "
                "0 < low < high: a learning rate is searched on a log scale."
            )
        space = Space(study=self.attempt.study, trial=self.work.number, low=low, high=high)
        self.attempt.channel.send(space)
        if not low <= self.work.lr <= high:
            raise OutOfRange(f"outside of the range that the objective asks for, {low:g}:{high:g}")
        self.lr = self.work.lr
        return self.lr

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high, log=True)

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        return self.suggest_float(name, low, high)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        return self.suggest_float(name, low, high, step=q)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if name not in self.arguments and (name in LR_NAMES or low < 0):
            self._ask_otherwise(name, f"whole numbers from {low} to {high}")
        return int(self._fixed(name))

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        if name not in self.arguments and name in LR_NAMES:
            self._ask_otherwise(name, f"one of {list(choices)}")
        return self._fixed(name)

    def _ask_otherwise(self, name: str, found: str) -> NoReturn:
        raise TaskError(
            f"the objective asks for {name!r} as {found}, while a learning rate is searched "
            'between all of them: ask for it with trial.suggest_float("lr", low, high, log=True). '
            f"(Is it something else, give it a value with --set {name}=...)"
        )

    def _fixed(self, name: str) -> Any:
        if name not in self.arguments:
            raise TaskError(
                f"the objective asks for {name!r}, but justright searches the learning rate only. "
                f"Give it a value with --set {name}=... If it is what the rate is made from, ask "
                'for the rate itself: trial.suggest_float("lr", low, high, log=True).'
            )
        return self.arguments[name]

    def report(self, value: float, step: int) -> None:
        """An intermediate value, as in Optuna: of two for one step the first one counts."""
        loss, step = _number(value), _whole(step)
        if step in self.reported:
            self.attempt.notice(
                "the objective reports a step twice: as in Optuna, the first of them counts. "
                "Count the steps on, over folds and repetitions."
            )
            return
        self.reported[step] = loss
        self.last_step = step
        if math.isfinite(loss):
            self.lowest = loss if self.lowest is None else min(loss, self.lowest)
        self.attempt.report(step, loss)
        if not math.isfinite(loss):
            raise Diverged(f"the objective reported {loss} at step {step}")
        told = self.attempt.told
        if told is not None and told.action != "stop":
            raise Interrupted(told)

    def should_prune(self) -> bool:
        """Whether the orchestrator has told this trial to stop.

        Told to pause or to leave, the objective ends right here: it cannot go on elsewhere from
        where it is, so its next attempt begins anew.
        """
        self.attempt.channel.flush()
        told = self.attempt.told
        if told is not None and told.action != "stop":
            raise Interrupted(told)
        return told is not None

    def set_user_attr(self, key: str, value: Any) -> None:
        self.user_attrs[key] = value

    def set_system_attr(self, key: str, value: Any) -> None:
        self.system_attrs[key] = value

    @property
    def distributions(self) -> dict[str, Any]:
        optuna = sys.modules.get("optuna")
        if optuna is None or not self.lr_name:
            return {}
        low, high = self._asked
        return {self.lr_name: optuna.distributions.FloatDistribution(low, high, log=True)}

    @property
    def relative_params(self) -> dict[str, Any]:
        return {}

    @property
    def study(self) -> ObjectiveStudy:
        return ObjectiveStudy(self.attempt.study)

    def __getattr__(self, name: str) -> Any:
        raise _not_served(f"trial.{name}", name)


class _Direction(enum.Enum):
    """As Optuna's, for who has not imported it."""

    NOT_SET = 0
    MINIMIZE = 1
    MAXIMIZE = 2


@dataclass
class ObjectiveStudy:
    """Stands in for ``trial.study``, which callbacks ask for its direction."""

    study_name: str
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def direction(self) -> Any:
        optuna = sys.modules.get("optuna")
        return optuna.study.StudyDirection.MINIMIZE if optuna else _Direction.MINIMIZE

    @property
    def directions(self) -> list[Any]:
        return [self.direction]

    def set_user_attr(self, key: str, value: Any) -> None:
        self.user_attrs[key] = value

    def _is_multi_objective(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise _not_served(f"trial.study.{name}", name)


#: What to do instead.
_INSTEAD = {
    "best_value": "Trainings run at once, on several machines: leave it out",
    "best_trial": "Trainings run at once, on several machines: leave it out",
    "best_params": "Trainings run at once, on several machines: leave it out",
    "trials": "Trainings run at once, on several machines: leave it out",
    "get_trials": "Trainings run at once, on several machines: leave it out",
    "stop": "Use --trials, --timeout or --target",
    "enqueue_trial": "Use --lr LOW:HIGH, or --like RATE",
    "storage": "A worker knows no storage: report with trial.report",
}


def _not_served(what: str, name: str) -> AttributeError:
    """An attribute that is not there, so that hasattr() tells; with what to do."""
    instead = _INSTEAD.get(
        name,
        "A trial has suggest_float, suggest_int, suggest_categorical, report, should_prune, "
        "number, params, distributions, user_attrs, datetime_start, and study with study_name and "
        "direction",
    )
    return AttributeError(f"justright does not serve {what} to an objective. {instead}.")


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)) or value is None:
        raise _not_reported(value)
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise _not_reported(value) from None
    except OverflowError:
        return math.inf


def _not_reported(value: Any) -> TaskError:
    return TaskError(
        f"trial.report was given a {type(value).__name__}, expected a number: the loss so far."
    )


def _whole(step: Any) -> int:
    try:
        whole = int(step)
    except (TypeError, ValueError, OverflowError):
        whole = -1
    if whole < 0 or whole != step:
        raise TaskError(f"trial.report was given step {step!r}, expected a whole number from 0 on.")
    return whole


class Diverged(BaseException):
    """Leaves the objective at once, through any ``except Exception`` of its own."""


class Interrupted(BaseException):
    """The trial is to end here, to begin anew another time."""

    def __init__(self, told: Decision) -> None:
        super().__init__(told.reason)
        self.told = told


class OutOfRange(BaseException):
    """The job's rate is none of the objective's: nothing is trained."""
