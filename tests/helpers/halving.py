"""A search that is easy to foretell: successive halving of rates that lie evenly."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from justright.lifecycle import TrialState
from justright.messages import Inspection
from justright.spec import StudySpec
from orchestrator.search.asking import Asking
from orchestrator.search.policy import Policy, Round
from orchestrator.storage import ledger


class Halving(Policy):
    """All rates to epoch 1, the better half of them to 2, of these to 4, and so on."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        spec: StudySpec,
        inspection: Inspection,
        lr_range: tuple[float, float],
        *_: Any,
    ) -> None:
        assert inspection.epochs is not None
        self._asking, self._horizon = Asking(study, storage, spec), inspection.epochs
        low, high = lr_range
        self._space = FloatDistribution(low, high, log=True)
        self._rates = [low * (high / low) ** ((i + 0.5) / spec.trials) for i in range(spec.trials)]

    @property
    def total(self) -> int:
        return len(self._rates)

    def next(self, lanes: int | None, workers: int) -> Round:
        trials = self._asking.asked()
        missing = self._rates[len(trials) :][: lanes or 1]
        if missing:
            new = []
            for rate in missing:
                self._asking.fix({"lr": rate}, {ledger.UNTIL: 1})
                new.append(self._asking.ask({"lr": self._space}))
            return Round(1, tuple(new))
        group, until = trials, 1
        while all(_at(trial, until) for trial in group) and until < self._horizon:
            alive = [trial for trial in group if not trial.state.is_finished()]
            group = sorted(alive, key=lambda t: _lowest(t, until))[: math.ceil(len(group) / 2)]
            until = min(2 * until, self._horizon)
        ready = [trial.number for trial in group if _waits(trial) and not _at(trial, until)]
        return Round(until, (), tuple(ready[: lanes or 1]))

    def finished(self) -> str | None:
        trials = self._asking.asked()
        return "trials" if any(trial.state.name == "COMPLETE" for trial in trials) else None

    def judge(self, trial: FrozenTrial) -> str | None:
        return None

    def narrow(self, lr_range: tuple[float, float]) -> None: ...

    def recommend(self) -> float | None:
        return None


class Idle(Halving):
    """One that has nothing to train once the first rung is done, and does not end."""

    def next(self, lanes: int | None, workers: int) -> Round:
        found = super().next(lanes, workers)
        return Round() if found.thaw else found


def _at(trial: FrozenTrial, until: int) -> bool:
    return trial.state.is_finished() or len(trial.intermediate_values) >= until


def _waits(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(ledger.STATE) == TrialState.PAUSED


def _lowest(trial: FrozenTrial, until: int) -> float:
    losses = trial.intermediate_values.items()
    return min((loss for step, loss in losses if step <= until), default=math.inf)
