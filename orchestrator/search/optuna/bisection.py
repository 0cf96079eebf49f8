"""The default search: spread, then zoom in on the best rate. Optuna's interfaces, for one number.

The loss over log rate is a bowl with a cliff on its hot side. After a spread start, each new rate
halves the wider of the two gaps beside the best rate so far, as bisection would; when these are
finer than the noise of a training, the gaps beside the next best follow. A trial is given up when
even twice the progress that the best one made from the same epoch on would not carry it there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from orchestrator.storage import ledger

RESOLUTION = 0.06  # decades; closer rates differ by less than a change of seed
_NEAR = 0.3  # decades around the best in which to go on when all gaps are that fine
_HOPE = 2.0  # times the leader's further progress that a trial is thought capable of
_AS_GOOD = 0.005  # share of all that training gains in which a trial is as good as the leader
_FIRST_LOOK = 0.1  # share of the horizon before which nothing is given up
_LAST_LOOK = 0.8  # ... and from which on the rest is cheap, and a completed trial tells more


class ZoomSampler(BaseSampler):
    """Proposes the rate that halves the most promising gap. Other parameters are drawn at random.

    Rates that are still in training count as tried, so many may be proposed at once.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        assert isinstance(param_distribution, FloatDistribution)
        low, high = math.log10(param_distribution.low), math.log10(param_distribution.high)
        others = [t for t in study.get_trials(deepcopy=False) if param_name in t.params]
        tried = sorted({low, high, *(math.log10(t.params[param_name]) for t in others)})
        complete = [t for t in others if t.state == TrialState.COMPLETE and t.value is not None]
        complete.sort(key=lambda t: t.value or 0.0)
        for good in complete:
            middle = _halve(math.log10(good.params[param_name]), tried)
            if middle is not None:
                return _within(param_distribution, middle)
        decades = self._anywhere(complete, others, param_name, (low, high))
        return _within(param_distribution, decades)

    def _anywhere(
        self,
        complete: Sequence[FrozenTrial],
        others: Sequence[FrozenTrial],
        name: str,
        ends: tuple[float, float],
    ) -> float:
        """Near the best; without one, anywhere that is colder than what has diverged."""
        low, high = ends
        if complete:
            best = math.log10(complete[0].params[name])
            low, high = max(low, best - _NEAR), min(high, best + _NEAR)
        else:
            dead = [t.params[name] for t in others if ledger.DIVERGED in t.user_attrs]
            high = min([high, *(math.log10(rate) for rate in dead)])
            if high - low < RESOLUTION:  # even the coldest has diverged: it may have been chance
                low, high = ends
        return float(self._random.uniform(low, high)) if high > low else low


def _within(distribution: FloatDistribution, decades: float) -> float:
    """The rate of so many decades; at the ends its last bit may lie outside of the range."""
    return min(max(float(10**decades), distribution.low), distribution.high)


def _halve(rate: float, tried: Sequence[float]) -> float | None:
    """The middle of the wider gap beside ``rate``, the hotter one of equals; None if both are
    fine enough. All in decades."""
    colder = max((x for x in tried if x < rate - 1e-12), default=rate)
    hotter = min((x for x in tried if x > rate + 1e-12), default=rate)
    if hotter - rate >= rate - colder:
        width, middle = hotter - rate, (hotter + rate) / 2
    else:
        width, middle = rate - colder, (colder + rate) / 2
    return middle if width >= RESOLUTION else None


class HopelessPruner(BasePruner):
    """Prunes a trial that cannot be expected to reach the best completed one any more.

    From the same epoch on, the leader's lowest loss fell by some amount until its end. A trial
    that would not get there with _HOPE times that amount is given up. Closeness counts, not rank:
    neighbours of the leader run on, and who is as good already is not pruned by the leader's luck.
    """

    def __init__(self, horizon: int | None, initial_loss: float | None = None) -> None:
        """``initial_loss`` is the untrained one; None: the leader's first one stands for it."""
        self._horizon, self._initial_loss = horizon, initial_loss

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        leader = _leader(study)
        if step is None or leader is None or leader.number == trial.number:
            return False
        horizon = self._horizon or max(leader.intermediate_values, default=1)
        if not _FIRST_LOOK * horizon <= step < _LAST_LOOK * horizon:
            return False
        then = _lowest(leader, step)
        end = min(_lowest(leader, horizon), then)
        initial = self._initial_loss
        if initial is None:
            initial = leader.intermediate_values[min(leader.intermediate_values)]
        hope = max(_HOPE * (then - end), _AS_GOOD * (initial - end))
        return _lowest(trial, step) > end + hope


def _leader(study: Study) -> FrozenTrial | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min(
        (trial for trial in complete if trial.intermediate_values),
        key=lambda trial: math.inf if trial.value is None else trial.value,
        default=None,
    )


def _lowest(trial: FrozenTrial, until: int) -> float:
    """The lowest loss up to a step; inf where there is none."""
    values = [value for step, value in trial.intermediate_values.items() if step <= until]
    return min(values, default=math.inf)
