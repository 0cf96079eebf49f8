"""How much each of several searched parameters mattered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.lessons import as_complete
from orchestrator.search.space import Distributions

_FEWEST = 8  # trials below which nothing is said of what mattered


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
