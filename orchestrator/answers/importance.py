"""What each trial of a study is worth, ended or not, for those that learn from losses alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.optuna.samplers import Distributions
from orchestrator.storage import ledger

_FEWEST = 8  # trials below which nothing is said of what mattered


def as_complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """All trials that have a loss, as complete ones.

    Those that were stopped, or wait, count with their lowest loss so far; those that diverged with
    a finite one above all others. Those in training that have reported nothing stay as they are.
    """
    lowest = [_lowest(trial) for trial in trials]
    known = [loss for loss in lowest if math.isfinite(loss)]
    if not known:
        return [trial for trial in trials if not trial.state.is_finished()]
    worst = max(known) + 0.5 * (max(known) - min(known)) + 1e-9 * (1 + abs(max(known)))
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


def importance(trials: Sequence[FrozenTrial], space: Distributions, seed: int) -> dict[str, float]:
    """How much of the loss's variation each parameter explains, as shares of 1, the largest first.

    By fANOVA (Hutter et al. 2014) on all trials that have a loss: a forest tells the effects of
    settings apart from that of the rate, which most trials are spent on. Empty where the trials are
    few, or equal.
    """
    taught = [t for t in as_complete(trials) if t.state == TrialState.COMPLETE]
    taught = [t for t in taught if all(name in t.params for name in space)]
    if len(space) < 2 or len(taught) < _FEWEST or len({t.value for t in taught}) < 2:
        return {}
    lesson = optuna.create_study()
    for trial in taught:
        lesson.add_trial(
            optuna.trial.create_trial(
                params={name: trial.params[name] for name in space},
                distributions=space,
                value=trial.value,
            )
        )
    # Here, as it takes seconds, and most studies do not need it.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    evaluator = FanovaImportanceEvaluator(seed=seed)
    found = get_param_importances(lesson, evaluator=evaluator, params=list(space))
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        return {}
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return {name: round(float(value / total), 3) for name, value in ordered}
