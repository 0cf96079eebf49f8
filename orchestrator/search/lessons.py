"""What trials teach those that learn from losses alone: each one a loss, whatever became of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from orchestrator.storage import ledger

_BEYOND = 0.5  # share of the losses' range by which "worse than all" lies above the highest
_APART = 1e-9  # share of the highest loss, where all are equal


def above(losses: Sequence[float]) -> float:
    """A finite value worse than all of these, by their spread: no outlier for who learns."""
    highest = max(losses)
    return highest + _BEYOND * (highest - min(losses)) + _APART * (1 + abs(highest))


def as_complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """All trials that have a loss, as complete ones.

    Those that were stopped, or wait, count with their lowest loss so far; those that diverged with
    a finite one above all others. Those in training that have reported nothing stay as they are.
    """
    lowest = [_lowest(trial) for trial in trials]
    known = [loss for loss in lowest if math.isfinite(loss)]
    if not known:
        return [trial for trial in trials if not trial.state.is_finished()]
    worst = above(known)
    found = []
    for trial, own in zip(trials, lowest, strict=True):
        value = worst if ledger.DIVERGED in trial.user_attrs else own
        if math.isfinite(value):
            found.append(copy.copy(trial))
            found[-1].state, found[-1].value = TrialState.COMPLETE, value
        elif not trial.state.is_finished():
            found.append(trial)
    return found


def _lowest(trial: FrozenTrial) -> float:
    """The lowest loss of a trial that has not diverged; inf without one."""
    if ledger.DIVERGED in trial.user_attrs:
        return math.inf
    losses = [loss for loss in trial.intermediate_values.values() if math.isfinite(loss)]
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        losses.append(trial.value)
    return min(losses, default=math.inf)
