"""How much each of several searched parameters mattered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.lessons import as_complete
from orchestrator.search.space import Distributions
from orchestrator.storage import ledger

_FEWEST = 8  # trials below which nothing is said of what mattered
_ALIKE = 4  # trials that differ in the rate alone, from which on they tell of the rate alone


def importance(
    trials: Sequence[FrozenTrial], space: Distributions, seed: int, initial: float | None = None
) -> dict[str, float]:
    """How much of the loss's variation each parameter explains, as shares of 1, the largest first.

    By fANOVA (Hutter et al. 2014) on all trials that have a loss: a forest tells the effects of
    settings apart from that of the rate, which most trials are spent on. A trial that was frozen or
    stopped counts by how far it lay behind the best one at its own last step, as a share of what
    that one had gained by then: its loss alone would say how long it was trained. What matters
    beside the rate is told by those trials that vary it. Empty where the trials are few, or equal.

    ``initial``: the untrained loss; None: it is not known.
    """
    taught = [t for t in as_complete(trials) if t.state == TrialState.COMPLETE]
    taught = [t for t in taught if all(name in t.params for name in space)]
    if len(space) < 2 or len(taught) < _FEWEST or len({t.value for t in taught}) < 2:
        return {}
    leader = min(taught, key=lambda t: (t.value or 0.0, t.number))
    told = [(t.params, at_the_end(t, leader, initial)) for t in taught]
    found = _shares(told, space, seed)
    telling = varied(told)
    if found and _FEWEST <= len(telling) < len(told):
        others = _shares(telling, space, seed)
        left, known = 1 - found["lr"], 1 - others.get("lr", 1.0)
        if known > 0:
            found |= {k: v * left / known for k, v in others.items() if k != "lr"}
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return {name: round(value, 3) for name, value in ordered}


_Told = list[tuple[dict[str, Any], float]]


def varied(told: _Told) -> _Told:
    """Less those trials that differ in the rate alone: where many do, as in a search that finds the
    rate first, the settings that they share seem to make the losses of bad rates."""

    def others(params: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
        return tuple(sorted((k, v) for k, v in params.items() if k != "lr"))

    often = Counter(others(params) for params, _ in told)
    return [one for one in told if often[others(one[0])] < _ALIKE]


def _shares(told: _Told, space: Distributions, seed: int) -> dict[str, float]:
    """By fANOVA; empty where nothing is to be told."""
    if len({value for _, value in told}) < 2:
        return {}
    lesson = optuna.create_study()
    for params, value in told:
        kept = {name: params[name] for name in space}
        lesson.add_trial(optuna.trial.create_trial(params=kept, distributions=space, value=value))
    # Here, as it takes seconds, and most studies do not need it.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    evaluator = FanovaImportanceEvaluator(seed=seed)
    found = get_param_importances(lesson, evaluator=evaluator, params=list(space))
    total = sum(found.values())
    if not math.isfinite(total) or total <= 0:
        return {}
    return {name: float(value / total) for name, value in found.items()}


def at_the_end(trial: FrozenTrial, leader: FrozenTrial, initial: float | None) -> float:
    """The loss with which a trial counts, as if it had been trained as long as the leader."""
    assert trial.value is not None
    assert leader.value is not None
    step = trial.last_step
    if ledger.DIVERGED in trial.user_attrs or step is None or step >= (leader.last_step or 0):
        return trial.value
    by_then = min((v for at, v in leader.intermediate_values.items() if at <= step), default=None)
    if by_then is None or initial is None or not initial > by_then:
        return trial.value
    behind = (trial.value - by_then) / (initial - by_then)
    return leader.value + behind * (initial - leader.value)
