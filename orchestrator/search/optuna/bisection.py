"""The search of what cannot pause: a spread, then bisection around the best rate.

The loss over log rate is a bowl with a cliff on its hot side. After a spread start, each new rate
halves the wider of the two gaps beside the best rate so far; when these are finer than the noise of
a training, the gaps beside the next best follow. It is a sampler in Optuna's sense, for one number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from orchestrator.storage import ledger

RESOLUTION = 0.06  # decades; closer rates differ by less than a change of seed
_SAME = 1e-12  # decades within which two rates are one
AROUND_BEST = 0.3  # decades around the best in which to go on when all gaps are that fine


class BisectionSampler(BaseSampler):
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
            low, high = max(low, best - AROUND_BEST), min(high, best + AROUND_BEST)
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
    colder = max((x for x in tried if x < rate - _SAME), default=rate)
    hotter = min((x for x in tried if x > rate + _SAME), default=rate)
    if hotter - rate >= rate - colder:
        width, middle = hotter - rate, (hotter + rate) / 2
    else:
        width, middle = rate - colder, (colder + rate) / 2
    return middle if width >= RESOLUTION else None
