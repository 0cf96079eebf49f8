"""The searches that a replay compares: the orchestrator's own, and two plain ones.

The plain ones begin with rates spread evenly over the range. ``halving`` trains the better half of
them twice as long, again and again; ``spread`` trains the best after one epoch to the end, then the
next best, and so on. Both are policies like any other: a study runs them with the same code.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from justright.lifecycle import TrialState
from orchestrator.search.policy import Policy, Proposal, SearchContext, Suggestion
from orchestrator.search.space import search_space
from orchestrator.storage import ledger

RATES = 27  #: With which the plain searches begin.
_MANY = 10_000  # trials: what a replay may spend ends the search, not their number


class Plain(Policy):
    """Spread rates, all for one epoch; how they go on is for the subclasses to say."""

    def __init__(self, context: SearchContext) -> None:
        assert context.inspection.horizon is not None
        self._study, self._seed = context.study, context.spec.seed
        self._horizon = context.inspection.horizon
        self.restrict_range(context.lr_range)

    def restrict_range(self, lr_range: tuple[float, float]) -> None:
        low, high = lr_range
        self._space = search_space(lr_range)
        steps = [low * (high / low) ** (i / (RATES - 1)) for i in range(RATES)]
        self._rates = [*steps[:-1], high]  # without the rounding, which may leave the range

    @property
    def total(self) -> int:
        return RATES

    def suggest(self, lanes: int | None, workers: int) -> Suggestion:
        trials = self._trials()
        if len(trials) < RATES:
            new = [self._ask(rate) for rate in self._rates[len(trials) :][:lanes]]
            return Suggestion(until=1, start=tuple(new))
        if any(_state(trial) in (TrialState.QUEUED, TrialState.RUNNING) for trial in trials):
            return Suggestion()  # they are ranked when all are there
        until, behind = self._longer(trials)
        resume = tuple(trial.number for trial in behind[:lanes])
        return Suggestion(until=until if until < self._horizon else None, resume=resume)

    @abstractmethod
    def _longer(self, trials: Sequence[FrozenTrial]) -> tuple[int, list[FrozenTrial]]:
        """Which trials that rest go on next, the best first, and until which step."""

    def stop_reason(self) -> str | None:
        trials = self._trials()
        if len(trials) < RATES or any(not trial.state.is_finished() for trial in trials):
            return None
        return "trials"

    def should_stop(self, trial: FrozenTrial) -> str | None:
        return None

    def recommend(self) -> dict[str, Any] | None:
        """The rate with the lowest loss so far among those that have not diverged."""
        alive = [trial for trial in self._trials() if ledger.DIVERGED not in trial.user_attrs]
        best = min(alive, key=lambda trial: _lowest(trial, self._horizon), default=None)
        if best is None or not best.intermediate_values:
            return None
        return dict(best.params)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _ask(self, rate: float) -> Proposal:
        self._study.enqueue_trial({"lr": rate}, user_attrs={ledger.SEED: self._seed})
        trial = self._study.ask(self._space)
        return Proposal(trial._trial_id, trial.number, rate, self._seed)


class Halving(Plain):
    """Successive halving. When one has reached the horizon, the next best ones follow."""

    def _longer(self, trials: Sequence[FrozenTrial]) -> tuple[int, list[FrozenTrial]]:
        until, group = 1, list(trials)
        while until < self._horizon:
            # Who has diverged since still counts in the ranking of then: it must not change.
            there = [trial for trial in group if (trial.last_step or 0) >= until]
            group = _ranked(there, until)[: math.ceil(len(there) / 2)]
            until = min(2 * until, self._horizon)
            behind = [t for t in _resting(group) if (t.last_step or 0) < until]
            if behind:
                return until, behind
        rest = _ranked(_resting(trials), self._horizon)
        return self._horizon, sorted(rest, key=lambda trial: -(trial.last_step or 0))


class Spread(Plain):
    """The best after the first epoch to the end, then the next."""

    def _longer(self, trials: Sequence[FrozenTrial]) -> tuple[int, list[FrozenTrial]]:
        return self._horizon, _ranked(_resting(trials), 1)


def _resting(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if _state(trial) == TrialState.PAUSED]


def _ranked(trials: Sequence[FrozenTrial], until: int) -> list[FrozenTrial]:
    """The lowest loss up to a step first."""
    return sorted(trials, key=lambda trial: _lowest(trial, until))


def _lowest(trial: FrozenTrial, until: int) -> float:
    steps = trial.intermediate_values.items()
    return min((loss for step, loss in steps if step <= until), default=math.inf)


def _state(trial: FrozenTrial) -> TrialState:
    return TrialState(trial.user_attrs.get(ledger.STATE, TrialState.QUEUED))


#: The orchestrator's own searches, by what their spec says.
SPECS: dict[str, dict[str, Any]] = {
    "auto": {},
    "tpe": {"sampler": "tpe", "pruner": "none", "trials": _MANY},
    "tpe+median": {"sampler": "tpe", "pruner": "median", "trials": _MANY},
    "tpe+asha": {"sampler": "tpe", "pruner": "asha", "trials": _MANY},
    "tpe+hyperband": {"sampler": "tpe", "pruner": "hyperband", "trials": _MANY},
}

PLAIN: dict[str, type[Plain]] = {"halving": Halving, "spread": Spread}

NAMES = (*SPECS, *PLAIN)  #: All that can be replayed.
