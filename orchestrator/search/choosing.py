"""Which policy a study gets."""

from __future__ import annotations

import math

from orchestrator.search.freeze_thaw.policy import FreezeThawPolicy
from orchestrator.search.optuna.policy import OptunaPolicy
from orchestrator.search.policy import Policy, SearchContext
from orchestrator.search.rate_first import RateFirstPolicy
from orchestrator.search.space import beside_the_rate


def choose_policy(context: SearchContext) -> Policy:
    """Freeze and thaw for a task, then what is searched beside the rate; else Optuna's samplers.

    Objectives and programs own their loops, which cannot pause: they are only ever stopped.
    """
    spec, inspection = context.spec, context.inspection
    automatic = spec.sampler == "auto" and spec.pruner == "auto"
    initial = inspection.initial_loss
    pauses = inspection.pauses and inspection.kind == "task" and inspection.horizon is not None
    known = initial is not None and math.isfinite(initial)
    if not (automatic and pauses and known):
        return OptunaPolicy(context)
    beside = beside_the_rate(spec, inspection.search_schedule)
    return RateFirstPolicy(context) if beside else FreezeThawPolicy(context)
