"""A search that is easy to foretell: successive halving of rates that lie evenly."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

from justright.lifecycle import TrialState
from orchestrator.search.asking import Asking
from orchestrator.search.policy import Policy, SearchContext, Suggestion
from orchestrator.storage import ledger


class Halving(Policy):
    """All rates to epoch 1, the better half of them to 2, of these to 4, and so on."""

    def __init__(self, context: SearchContext) -> None:
        spec = context.spec
        assert context.inspection.horizon is not None
        self._lap = context.inspection.lap or 1
        self._asking, self._horizon = Asking(context), context.inspection.horizon // self._lap
        low, high = context.lr_range
        self._space = FloatDistribution(low, high, log=True)
        self._rates = [low * (high / low) ** ((i + 0.5) / spec.trials) for i in range(spec.trials)]

    @property
    def total(self) -> int:
        return len(self._rates)

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        trials = self._asking.asked()
        missing = self._rates[len(trials) :][: lanes or 1]
        if missing:
            new = []
            for rate in missing:
                self._asking.fix({"lr": rate}, {ledger.UNTIL: self._lap})
                new.append(self._asking.ask({"lr": self._space}))
            return Suggestion(self._lap, tuple(new))
        group, until = trials, 1
        while all(_at(trial, until * self._lap) for trial in group) and until < self._horizon:
            alive = [trial for trial in group if not trial.state.is_finished()]
            group = sorted(alive, key=lambda t: _lowest(t, until * self._lap))[
                : math.ceil(len(group) / 2)
            ]
            until = min(2 * until, self._horizon)
        ready = [
            trial.number for trial in group if _waits(trial) and not _at(trial, until * self._lap)
        ]
        return Suggestion(until * self._lap, (), tuple(ready[: lanes or 1]))

    def stop_reason(self) -> str | None:
        trials = self._asking.asked()
        return "trials" if any(trial.state.name == "COMPLETE" for trial in trials) else None

    def should_stop(self, trial: FrozenTrial) -> str | None:
        return None

    def restrict_range(self, lr_range: tuple[float, float]) -> None: ...

    def recommend(self) -> dict[str, Any] | None:
        return None


class Idle(Halving):
    """One that has nothing to train once the first rung is done, and does not end."""

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        found = super().suggest(lanes, workers)
        return Suggestion() if found.resume else found


def _at(trial: FrozenTrial, until: int) -> bool:
    return trial.state.is_finished() or (trial.last_step or 0) >= until


def _waits(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(ledger.STATE) == TrialState.PAUSED


def _lowest(trial: FrozenTrial, until: int) -> float:
    losses = trial.intermediate_values.items()
    return min((loss for step, loss in losses if step <= until), default=math.inf)
