"""Pruners, by the names of the command line: Optuna's, and one of our own.

The own one gives a trial up when even twice the progress that the best one made from the same step
on would not carry it there.
"""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from justright.messages import Inspection
from justright.spec import StudySpec

HOPE = 2.0  # times the leader's further progress that a trial is thought capable of
_NO_WORSE = 0.005  # share of all that training gains in which a trial is as good as the leader
_FIRST_LOOK = 0.1  # share of the horizon before which nothing is given up
_LAST_LOOK = 0.8  # ... and from which on the rest is cheap, and a completed trial tells more


def make_pruner(spec: StudySpec, inspection: Inspection) -> BasePruner:
    """The pruner of a study. Its rungs begin at the first step at which losses are taken."""
    longest: int | Any = inspection.horizon or "auto"
    first = inspection.coarse_marks[0] if inspection.horizon else 1
    match spec.pruner:
        case "auto":
            return HopelessPruner(inspection.horizon, inspection.initial_loss)
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=4)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=longest)
        case "median":
            return optuna.pruners.MedianPruner()
        case "none":
            return optuna.pruners.NopPruner()


class HopelessPruner(BasePruner):
    """Prunes a trial that cannot be expected to reach the best completed one any more.

    From the same step on, the leader's lowest loss fell by some amount until its end. A trial
    that would not get there with HOPE times that amount is given up. Closeness counts, not rank:
    neighbours of the leader run on, and who is as good already is not pruned by the leader's luck.
    What is reported is compared with what was reported; nothing is pruned that has already reported
    less than the leader has returned.
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
        reached = _lowest(trial, step)
        if leader.value is not None and reached <= leader.value:
            return False  # an objective may return more than the lowest that it reports
        then = _lowest(leader, step)
        end = min(_lowest(leader, horizon), then)
        initial = self._initial_loss
        if initial is None:
            initial = leader.intermediate_values[min(leader.intermediate_values)]
        hope = max(HOPE * (then - end), _NO_WORSE * (initial - end))
        return reached > end + hope


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
